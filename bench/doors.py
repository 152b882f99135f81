"""Figures of doors: how long after a card is shown the terminal hears the signed command, and how long one takes that decides alone.

Both over MQTT on this machine. Against a bare chain under the same load in the same run, in alternating rounds: a NATS of its own, one
JetStream publish with its ack, one committed transaction, another publish, out again. Nothing is checked, decided, signed or remembered.
"""

import asyncio
import base64
import itertools
import json
import os
import secrets
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from zoneinfo import ZoneInfo

import asyncpg
import httpx
import nats

from bench.costs import by_cost, cpu_seconds, since
from bench.measure import report
from bench.mqtt import Listener
from bench.points import sign_in
from bench.terminals import set_up
from console.load.schedule import Run, open_loop
from console.seed import Api
from console.simulator.terminals import Terminal
from console.up import Local
from infra.local.nats import start_nats
from linli.device.v1.commands_pb2 import DeviceCommand
from linli.identity.v1.events_pb2 import HouseholdChanged
from servicekit.events import envelope
from servicekit.identifiers import new_id
from servicekit.messaging import Publisher
from servicekit.signing import Signer
from services.access import snapshots
from services.access.deciding import Place
from services.access.digests import MatchingKeys, card_digest
from services.access.doors import AntiPassback, CredentialKind, Direction
from services.access.entries import Entry, Times
from services.access.snapshots import Change, Settings
from tests.support import eventually

TERMINALS = 50
# Each has a card and goes through one door only.
RESIDENTS = 250
HOUSEHOLD_SIZE = 2
PER_SECOND = 200
ROUND_S = 8.0
ROUNDS = 3
ANSWER_S = 5.0
KNOWN = 5_000
ALONE = 2_000
# Of a record of the journal.
_RECORD_BYTES = 260
_AT_ONCE = 8


@dataclass(slots=True)
class Hall:
    """Terminals that are signed in, what is shown to them, and who waits for which answer."""

    devices: Mapping[str, Listener]
    names: Sequence[str]
    # Digests, as terminals tell them.
    cards: Sequence[str]
    awaited: dict[str, "asyncio.Future[bytes]"] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def hear(self, payload: bytes) -> None:
        """An answer, or one that nobody waits for any more."""
        awaited = self.awaited.pop(json.loads(payload).get("presentation", ""), None)
        if awaited is not None and not awaited.done():
            awaited.set_result(payload)

    async def show(self, _number: int) -> bool:
        """Shows the next card at its door. Returns whether the answer came."""
        return await self._show() is not None

    async def opens(self, _number: int) -> bool:
        """Shows the next card at its door. Returns whether the command to open it came; the terminal says what it did with it."""
        answer = await self._show()
        if answer is None or "command" not in (said := json.loads(answer)):
            return False
        command = DeviceCommand.FromString(base64.b64decode(said["command"]))
        obeyed = {"command_id": command.command_id, "outcome": "opened", "at": datetime.now(UTC).isoformat()}
        device_id = command.device_id
        self.devices[device_id].publish(f"devices/{device_id}/acknowledgements", json.dumps(obeyed).encode())
        return True

    async def _show(self) -> bytes | None:
        nth = next(self.numbers)
        device_id, card = self.names[nth % len(self.names)], self.cards[nth % len(self.cards)]
        presentation_id = uuid.uuid4().hex
        said = {"id": presentation_id, "kind": "card", "value": card, "at": datetime.now(UTC).isoformat()}
        # The bare chain sends back what it got.
        said["presentation"] = presentation_id
        answer = self.awaited[presentation_id] = asyncio.get_running_loop().create_future()
        self.devices[device_id].tell(f"devices/{device_id}/presented", json.dumps(said).encode())
        try:
            async with asyncio.timeout(ANSWER_S):
                payload: bytes = await answer
                return payload
        except TimeoutError:
            self.awaited.pop(presentation_id, None)
            return None


@asynccontextmanager
async def _hall(host: str, port: int | None, secrets: Mapping[str, str], cards: Sequence[str]) -> AsyncIterator[Hall]:
    assert port is not None
    devices = {device_id: await Listener.connect(host, port, device_id, secret) for device_id, secret in secrets.items()}
    hall = Hall(devices, [*devices], cards)
    for device_id, device in devices.items():
        device.hear = hall.hear
        await device.subscribe(f"devices/{device_id}/commands")
    try:
        yield hall
    finally:
        for device in devices.values():
            device.close()


@asynccontextmanager
async def _bare(local: Local, secrets: Mapping[str, str], cards: Sequence[str]) -> AsyncIterator[Hall]:
    """The same terminals at a chain that does the least."""
    postgres = await asyncpg.connect(local.postgres.url())
    await postgres.execute("CREATE TABLE IF NOT EXISTS bench_decisions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, plate text)")
    await postgres.close()
    server = start_nats(local.folder / "bench-nats", mqtt_port=0)
    peer = None
    try:
        environment = {"PEER_NATS": server.url, "PEER_DATABASE_URL": local.postgres.url()}
        arguments = ("-m", "console.child", "bench.peers", "door")
        peer = await asyncio.create_subprocess_exec(sys.executable, *arguments, env={**os.environ, **environment})
        async with _hall(server.host, server.mqtt_port, secrets, cards) as hall:
            await eventually(lambda: hall.show(0), "the bare chain", deadline_s=20)
            yield hall
    finally:
        if peer is not None:
            peer.terminate()
            await peer.wait()
        server.stop()


async def _move_in(local: Local) -> list[str]:
    """Lets identity tell of new households, and gives each resident a card. Returns the cards' digests."""
    plan = local.demonstration
    assert plan is not None
    community_id = uuid.UUID(plan.community_id)
    bus = await nats.connect(
        local.nats.url, user="identity", password=local.secrets.password("identity-nats"), inbox_prefix=b"_INBOX.identity"
    )
    publisher = Publisher(bus, "identity")
    residents: list[uuid.UUID] = []
    for _ in range(RESIDENTS // HOUSEHOLD_SIZE):
        members = [new_id() for _ in range(HOUSEHOLD_SIZE)]
        residents += members
        changed = HouseholdChanged(household_id=str(new_id()), building_id=str(new_id()), account_ids=[str(each) for each in members])
        await publisher.publish(envelope(changed, community_id, event_id=str(new_id()), occurred_at=datetime.now(UTC), version=1))
    await bus.close()
    key = MatchingKeys(local.children["access"].environment["LINLI_ACCESS_MATCHING_KEY"]).of(community_id)
    numbers = [f"BE7D{nth:08}" for nth in range(RESIDENTS)]
    turn = asyncio.Semaphore(_AT_ONCE)
    token = await sign_in(local)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        manager = Api(client, local.gateway_url, token)

        async def issue(number: str, account_id: uuid.UUID) -> None:
            async with turn:
                body = {"card_number": number, "account_id": str(account_id)}
                await manager.call_when_known("POST", "/v1/access/cards", body, key=f"bench-{number}")

        await asyncio.gather(*map(issue, numbers, residents))
    return [card_digest(key, number).hex() for number in numbers]


async def measure(local: Local) -> None:
    """Prints the figures."""
    terminals = await set_up(local, "bench-door", TERMINALS)
    cards = await _move_in(local)
    async with (
        _hall(local.nats.host, local.nats.mqtt_port, terminals, cards) as ours,
        _bare(local, terminals, cards) as theirs,
    ):
        await eventually(lambda: ours.opens(0), "a door", deadline_s=60)
        await open_loop(ours.opens, per_second=PER_SECOND, seconds=2)
        await open_loop(theirs.show, per_second=PER_SECOND, seconds=2)
        runs: list[Run] = []
        bare_runs: list[Run] = []
        costs: list[dict[str, float]] = []
        for _ in range(ROUNDS):
            before = cpu_seconds(local)
            runs.append(await open_loop(ours.opens, per_second=PER_SECOND, seconds=ROUND_S))
            costs.append(since(before, cpu_seconds(local), len(runs[-1].latencies)))
            bare_runs.append(await open_loop(theirs.show, per_second=PER_SECOND, seconds=ROUND_S))
    p50, bare_p50 = median(run.percentile_ms(50) for run in runs), median(run.percentile_ms(50) for run in bare_runs)
    report(
        "1 door",
        load=f"{PER_SECOND} cards/s open loop, {ROUNDS} x {ROUND_S} s, {TERMINALS} terminals",
        p50_ms=p50,
        p99_ms=median(run.percentile_ms(99) for run in runs),
        rounds_p99_ms=[run.percentile_ms(99) for run in runs],
        wrong=sum(run.failures for run in runs),
        bare_p50_ms=bare_p50,
        bare_p99_ms=median(run.percentile_ms(99) for run in bare_runs),
        bare_wrong=sum(run.failures for run in bare_runs),
        ratio_p50=p50 / bare_p50,
        microseconds_by_process=by_cost({process: median(cost[process] for cost in costs) for process in costs[0]}),
        aim="p99 <= 150 ms",
    )
    _alone()


def _alone() -> None:
    """A terminal without a network: the decision, its record on the disk, the door."""
    signer = Signer(base64.b64encode(secrets.token_bytes(32)).decode())
    community_id, key = new_id(), secrets.token_bytes(32)
    place = Place(community_id, new_id(), Direction.IN, frozenset({CredentialKind.CARD}), AntiPassback.OFF, ZoneInfo("Asia/Shanghai"))
    numbers = [f"BE7E{nth:08}" for nth in range(KNOWN)]
    entries = [
        Entry(
            subject_id=new_id(),
            is_pass=False,
            cards=frozenset({card_digest(key, number)}),
            pins=frozenset(),
            face=False,
            template_id=None,
            codes=True,
            phone=True,
            times=(Times(),),
            entries_max=0,
        )
        for number in numbers
    ]
    change = Change(
        device_id="bench-alone",
        community_id=community_id,
        from_version=0,
        to_version=1,
        settings=Settings(place, "Asia/Shanghai", 30, key),
        entries=[snapshots.entry_text(entry) for entry in entries],
    )
    with tempfile.TemporaryDirectory(prefix="linli-bench-") as folder:
        terminal = Terminal(Path(folder) / "terminal", "bench-alone", base64.b64encode(signer.public_key).decode())
        began = perf_counter()
        for part in snapshots.parts_of(change, lambda content: signer.sign(snapshots.PURPOSE, content), signer.key_id):
            terminal.take_snapshot(part)
        taken_s = perf_counter() - began
        alone, bare, opened = [], [], 0
        with (Path(folder) / "bare").open("ab") as file:
            for nth in range(ALONE):
                began = perf_counter()
                opened += terminal.decide_alone(terminal.show(CredentialKind.CARD, numbers[nth * 7 % KNOWN])).opens
                alone.append(perf_counter() - began)
                began = perf_counter()
                file.write(bytes(_RECORD_BYTES))
                file.flush()
                os.fdatasync(file.fileno())
                bare.append(perf_counter() - began)
    run, bare_run = Run(alone, sum(alone), ALONE - opened), Run(bare, sum(bare), 0)
    report(
        "1 door, alone",
        load=f"{ALONE} cards one after the other, {KNOWN} entries",
        p50_ms=run.percentile_ms(50),
        p99_ms=run.percentile_ms(99),
        wrong=run.failures,
        snapshot_taken_s=taken_s,
        bare_p50_ms=bare_run.percentile_ms(50),
        bare_p99_ms=bare_run.percentile_ms(99),
        bare_is="as many bytes written to the same disk",
        ratio_p50=run.percentile_ms(50) / bare_run.percentile_ms(50),
        aim="p99 <= 5 ms",
    )
