"""What phones and cameras do while processes are exchanged, and the books that must agree with it afterwards.

Nobody here asks twice: what fails has failed.
"""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import nats
from nats.errors import TimeoutError as NatsTimeout
from nats.js.client import JetStreamContext

from console import catalog
from console.load.http import Pool
from console.load.kinds import KINDS, Work
from console.load.schedule import Run, open_loop
from console.load.site import Site, find
from console.seed import Api
from console.seed.lots import open_lane, open_lot
from console.simulator.cameras import plate_alarm
from infra.local.accounts import OPERATOR
from linli.parking.v1.events_pb2 import GateOpenRequested
from tests.drills.replicas import Cluster
from tests.support import eventually

LOTS, LANES = 20, 100
ANSWER_S = 10.0
# Of the requests of phones, one in so many reports something; the others read.
ORDERS_OF = 100
SECONDS_MAX = 3600.0
_SETTLE_S = 60.0
_COMMITTED = "SELECT event_id::text FROM outbox WHERE type = $1"


@dataclass(slots=True)
class Traffic:
    """Phones at the gateway, cameras at ingest, and what became of each request."""

    cluster: Cluster
    phones: Pool
    cameras: Pool
    head: bytes
    reads: Sequence[str]
    category_id: str
    secrets: dict[str, str]
    failures: Counter[str] = field(default_factory=Counter)
    # Cars whose decision came after the camera's two seconds, which only a machine that is too small makes.
    late: int = 0
    ordered: list[str] = field(default_factory=list)
    plates: list[str] = field(default_factory=list)

    async def ask(self, number: int) -> bool:
        """One request of a phone."""
        if number % ORDERS_OF == 0:
            title = f"drill {len(self.ordered)}"
            self.ordered.append(title)
            body = json.dumps({"category_id": self.category_id, "title": title}).encode()
            return await self._done("POST /v1/work-orders", self.phones, b"POST /v1/work-orders HTTP/1.1\r\n" + self.head, body)
        path = self.reads[number % len(self.reads)]
        return await self._done(f"GET {path.partition('?')[0]}", self.phones, f"GET {path} HTTP/1.1\r\n".encode() + self.head)

    async def push(self, number: int) -> bool:
        """One car at one camera, which waits for the decision."""
        camera = f"roll-cam-{number % LANES}"
        plate = f"京{'ABCDEFGH'[number % 8]}{len(self.plates):05}"
        self.plates.append(plate)
        credentials = base64.b64encode(f"{camera}:{self.secrets[camera]}".encode())
        head = b"POST /devices/plate HTTP/1.1\r\nHost: drill\r\nContent-Type: application/json\r\nAuthorization: Basic " + credentials
        body = json.dumps(plate_alarm(camera, plate, datetime.now(UTC))).encode()
        return await self._done("POST /devices/plate", self.cameras, head + b"\r\n", body, wanted=b'"ok"')

    async def _done(self, what: str, pool: Pool, head: bytes, body: bytes = b"", wanted: bytes = b"") -> bool:
        try:
            async with asyncio.timeout(ANSWER_S):
                status, answer = await pool.request(head, body)
        except (OSError, EOFError, ValueError) as error:
            self.failures[f"{what}: {type(error).__name__}"] += 1
            return False
        if status == 200 and wanted in answer:
            return True
        if b'"late' in answer:
            self.late += 1
            return False
        self.failures[f"{what}: {status} {answer[:160].decode(errors='replace')}"] += 1
        return False

    async def flow(self, requests_per_second: float, pushes_per_second: float, until: asyncio.Event) -> tuple[Run, Run]:
        """Phones and cameras on their schedules until `until` is set."""
        return await asyncio.gather(
            open_loop(self.ask, per_second=requests_per_second, seconds=SECONDS_MAX, until=until),
            open_loop(self.push, per_second=pushes_per_second, seconds=SECONDS_MAX, until=until),
        )

    async def flow_for(self, requests_per_second: float, pushes_per_second: float, seconds: float) -> tuple[Run, Run]:
        """The same for a number of seconds."""
        until = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, until.set)
        return await self.flow(requests_per_second, pushes_per_second, until)


async def begin(cluster: Cluster, phones: Pool, cameras: Pool) -> Traffic:
    """Opens lots with a hundred lanes, and signs in."""
    plan = cluster.local.demonstration
    assert plan is not None
    who = {"community_id": plan.community_id, "phone": plan.manager_phone, "password": plan.manager_password}
    url = f"http://{cluster.http['gateway']}"
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        token = (await Api(client, url).call("POST", "/v1/sign-in/password", who))["access_token"]
        manager = Api(client, url, token)
        lots = [await open_lot(manager, f"roll {number}", capacity=100_000) for number in range(LOTS)]
        secrets = {}
        for number in range(LANES):
            camera = f"roll-cam-{number}"
            secrets[camera] = await open_lane(manager, lots[number % LOTS], camera, entry=True)
        categories = (await manager.call("GET", "/v1/work-order-categories"))["categories"]
    reads = [
        "/v1/community",
        f"/v1/parking/lots/{plan.lot_id}",
        "/v1/waste/bins?page_size=5",
        "/v1/points/items?page_size=5",
        "/v1/charges?page_size=5",
        "/v1/work-orders?page_size=5",
        "/v1/access/doors?page_size=5",
    ]
    head = f"Host: drill\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}\r\n".encode()
    category = next(each for each in categories if each["code"] == "power.light")
    return Traffic(cluster, phones, cameras, head, reads, category["category_id"], secrets)


@dataclass(slots=True)
class Devices:
    """Door terminals and bins on MQTT, and what became of what they said."""

    show: Work
    bring: Work
    # Passages on which the terminal had to decide alone, because nothing came within its second: on a machine that is too small.
    alone: int = 0
    brought: int = 0

    async def flow(self, passages_per_second: float, deposits_per_second: float, until: asyncio.Event) -> None:
        """Cards and waste on their schedules until `until` is set. Raises AssertionError for a deposit that nobody took."""

        async def pass_door(number: int) -> bool:
            self.alone += bool(await self.show(number))
            return True

        async def bring_waste(number: int) -> bool:
            reason = await self.bring(number)
            assert not reason, reason
            self.brought += 1
            return True

        await asyncio.gather(
            open_loop(pass_door, per_second=passages_per_second, seconds=SECONDS_MAX, until=until),
            open_loop(bring_waste, per_second=deposits_per_second, seconds=SECONDS_MAX, until=until),
        )


@asynccontextmanager
async def devices(cluster: Cluster, passages_per_second: float, deposits_per_second: float) -> AsyncIterator[Devices]:
    """Devices as `linli load` has them, for as long as the block."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=20))
        phones, cameras = [await stack.enter_async_context(Pool(cluster.http[service])) for service in ("gateway", "ingest")]
        site = Site(find(cluster.local.folder, {}), client, phones, cameras, cluster.local.folder / "drill")
        await site.sign_in()
        show = await stack.enter_async_context(KINDS["doors"](site, passages_per_second))
        bring = await stack.enter_async_context(KINDS["deposits"](site, deposits_per_second))
        yield Devices(show, bring)


async def check_deposits(cluster: Cluster, brought: int) -> None:
    """Each is there, once."""

    async def is_there() -> bool:
        counted = await _rows(
            cluster, "waste", "SELECT count(*), count(DISTINCT record_id) FROM deposits WHERE device_id LIKE 'load-bin-%'"
        )
        return tuple(counted[0]) == (brought, brought)

    await eventually(is_there, f"{brought} deposits are counted", deadline_s=_SETTLE_S)


async def check_books(traffic: Traffic) -> None:
    """Every car was let in once and every order is there once; every event was stored once and heard by all who are to hear it."""
    cluster = traffic.cluster
    await _check_parking(cluster, traffic.plates)
    orders = await _rows(cluster, "workorders", "SELECT title FROM orders WHERE title LIKE 'drill %'")
    assert sorted(row[0] for row in orders) == sorted(traffic.ordered)
    bus = await nats.connect(
        cluster.local.nats.url, user=OPERATOR, password=cluster.local.secrets.password(f"{OPERATOR}-nats"), inbox_prefix=b"_INBOX.drill"
    )
    try:
        await eventually(lambda: _everything_is_heard(bus), "every event is heard", deadline_s=_SETTLE_S)
        await _check_stream(cluster, bus.jetstream())
    finally:
        await bus.close()
    for service in catalog.find(["all"]):
        if service.migrations:
            assert await _rows(cluster, service.name, "SELECT consumer, error FROM dead_letters") == [], service.name
            assert await _rows(cluster, service.name, "SELECT event_id FROM outbox WHERE sent_at IS NULL") == [], service.name


async def _rows(cluster: Cluster, service: str, sql: str, *arguments: object) -> "list[asyncpg.Record]":
    connection = await asyncpg.connect(cluster.local.postgres.url(f"linli_{service}"))
    try:
        return await connection.fetch(sql, *arguments)
    finally:
        await connection.close()


async def _check_parking(cluster: Cluster, plates: Sequence[str]) -> None:
    sessions = await _rows(cluster, "parking", "SELECT plate FROM sessions JOIN lots USING (lot_id) WHERE lots.name LIKE 'roll %'")
    assert sorted(row[0] for row in sessions) == sorted(plates)
    reads = await _rows(cluster, "parking", "SELECT plate, opened FROM reads WHERE camera_device_id LIKE 'roll-cam-%'")
    assert sorted((row["plate"], row["opened"]) for row in reads) == sorted((plate, True) for plate in plates)
    opened = await _rows(cluster, "parking", "SELECT read_id FROM gate_openings WHERE gate_device_id LIKE 'roll-cam-%'")
    assert len({row[0] for row in opened}) == len(opened) == len(plates)


async def _everything_is_heard(bus: Any) -> bool:
    """Whether no durable consumer has anything before it; others belong to processes that have gone."""
    for stream in await bus.jsm().streams_info():
        if (name := stream.config.name or "").startswith("$"):
            continue
        consumers = await bus.jsm().consumers_info(name)
        if any(each.config.durable_name and (each.num_pending or each.num_ack_pending) for each in consumers):
            return False
    return True


async def _check_stream(cluster: Cluster, stream: JetStreamContext) -> None:
    """The decisions that parking has committed are those in the stream, each once."""
    name = GateOpenRequested.DESCRIPTOR.full_name
    committed = [row[0] for row in await _rows(cluster, "parking", _COMMITTED, name)]
    stored: list[str] = []
    subscription = await stream.subscribe("linli.parking.GateOpenRequested.>", ordered_consumer=True)
    with suppress(NatsTimeout):
        while len(stored) <= len(committed):
            message = await subscription.next_msg(timeout=1.0)
            stored.append((message.headers or {})["ce-id"])
    await subscription.unsubscribe()
    assert sorted(stored) == sorted(committed)
