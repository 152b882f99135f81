"""Figure: grants of points per second through gRPC, one by one and in batches of a thousand, and where the time goes.

Against two things in the same run, on the same machine: the ledger alone, its writer called in one process without any service around it,
on the same PostgreSQL; and a bare grpc.aio that answers as many bytes as it was asked. A grant is more than a transfer: it is checked
against the rules and who lives here, kept as a grant and as an earning, counted for limits and leaderboards, and the resident is told.
"""

import itertools
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from typing import Any

import asyncpg
import grpc.aio
import httpx
import nats

import ledger
from bench.costs import METHOD, by_cost, cpu_seconds, sampled, since, spent
from bench.decision import peer
from bench.ledger import found_town, transfers_per_second
from bench.measure import closed_loop, report
from console.load.schedule import Run
from console.seed import Api
from console.up import Local
from linli.identity.v1.events_pb2 import HouseholdChanged
from linli.points.v1 import points_pb2 as pb
from servicekit import schema
from servicekit.events import envelope
from servicekit.identifiers import new_id
from servicekit.messaging import Publisher
from servicekit.rpc import CHANNEL_OPTIONS
from tests.support import eventually, free_address

CALLERS = 512
CHANNELS = 8
BATCH = 1000
# Enough that one waits while another is decided.
BATCHES_AT_ONCE = 4
HOUSEHOLDS = 1000
HOUSEHOLD_SIZE = 4
WARM_S = 2.0
ROUND_S = 5.0
ROUNDS = 3
SERVICE = "/linli.points.v1.PointsService"
TERMS = {
    "years_kept": 1,
    "grant_points_max": 1_000_000,
    "gift_daily_points_max": 50,
    "gift_monthly_points_max": 200,
    "hold_hours": 48,
}
# A point for every 100 g, without a limit, so that every deposit earns.
RULE = {
    "rule_id": "bench.recyclable",
    "source": "SOURCE_WASTE_DEPOSIT",
    "category": "CATEGORY_RECYCLABLE",
    "beneficiary": "BENEFICIARY_RESIDENT",
    "points": 1,
    "per": 100,
    "text_zh": "投放可回收物",
    "text_en": "Recyclables sorted",
}


async def sign_in(local: Local) -> str:
    """An access token of the demonstration's manager, good for ten minutes."""
    plan = local.demonstration
    assert plan is not None
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        body = {"community_id": plan.community_id, "phone": plan.manager_phone, "password": plan.manager_password}
        return str((await Api(client, local.gateway_url).call("POST", "/v1/sign-in/password", body))["access_token"])


async def move_in(local: Local, token: str) -> list[uuid.UUID]:
    """Lets identity tell of new households, publishes rules without limits, and returns the residents that points knows."""
    plan = local.demonstration
    assert plan is not None
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        book = {
            "effective_from": datetime.now(UTC).isoformat(),
            "rules": [RULE],
            "terms": TERMS,
            "changes_zh": "测试",
            "changes_en": "Bench",
        }
        await Api(client, local.gateway_url, token).call("POST", "/v1/points/rules", book)
    community_id = uuid.UUID(plan.community_id)
    password = local.secrets.password("identity-nats")
    bus = await nats.connect(local.nats.url, user="identity", password=password, inbox_prefix=b"_INBOX.identity")
    publisher = Publisher(bus, "identity")
    residents = []
    for _ in range(HOUSEHOLDS):
        members = [new_id() for _ in range(HOUSEHOLD_SIZE)]
        residents += members
        changed = HouseholdChanged(household_id=str(new_id()), building_id=str(new_id()), account_ids=[str(each) for each in members])
        event = envelope(changed, community_id, event_id=str(new_id()), occurred_at=datetime.now(UTC), version=1)
        await publisher.publish(event)
    await bus.close()
    for service in ("points", "waste"):
        connection = await asyncpg.connect(local.postgres.url(f"linli_{service}"))

        async def all_are_known(connection: Any = connection) -> bool:
            known = await connection.fetchval("SELECT count(*) FROM known_residents WHERE account_id = ANY($1::uuid[])", residents)
            return bool(known == len(residents))

        await eventually(all_are_known, deadline_s=60)
        await connection.execute("VACUUM ANALYZE")
        await connection.close()
    return residents


Work = Callable[[int], Awaitable[bool]]


class Granting:
    """What callers of points do; each call goes out on one of several connections."""

    def __init__(self, residents: Sequence[uuid.UUID], channels: Sequence[grpc.aio.Channel], token: str) -> None:
        # Refusals by their code.
        self.refusals: Counter[str] = Counter()
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._names = itertools.cycle([str(resident) for resident in residents])
        self._single: list[Any] = [channel.unary_unary(f"{SERVICE}/GrantPoints") for channel in channels]
        self._batch: list[Any] = [channel.unary_unary(f"{SERVICE}/GrantPointsInBatch") for channel in channels]

    def request(self) -> pb.GrantPointsRequest:
        """Ten points for the next resident."""
        return pb.GrantPointsRequest(grant_id=str(new_id()), account_id=next(self._names), points=10, reason="参加社区志愿服务")

    async def grant(self, caller: int) -> bool:
        """Grants once."""
        answer = await self._call(self._single[caller % len(self._single)], self.request())
        return answer is not None and pb.Grant.FromString(answer).state == pb.GRANT_STATE_GRANTED

    async def grant_batch(self, caller: int) -> bool:
        """Grants a thousand times in one call."""
        asked = pb.GrantPointsInBatchRequest(grants=[self.request() for _ in range(BATCH)])
        answer = await self._call(self._batch[caller % len(self._batch)], asked)
        if answer is None:
            return False
        outcomes = pb.GrantPointsInBatchResponse.FromString(answer).outcomes
        self.refusals.update(outcome.code for outcome in outcomes if outcome.code)
        return all(outcome.grant.state == pb.GRANT_STATE_GRANTED for outcome in outcomes)

    async def _call(self, method: Any, request: Any) -> bytes | None:
        try:
            answer: bytes = await method(request.SerializeToString(), metadata=self._metadata, timeout=20)
            return answer
        except grpc.aio.AioRpcError as error:
            self.refusals[error.code().name] += 1
            return None


@asynccontextmanager
async def channels_to(address: str) -> AsyncIterator[Sequence[grpc.aio.Channel]]:
    """Several connections."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)) for _ in range(CHANNELS)]


def _echo(channels: Sequence[grpc.aio.Channel], body: bytes) -> Work:
    calls: list[Any] = [channel.unary_unary("/bench.Echo/Echo") for channel in channels]

    async def echo(caller: int) -> bool:
        return bool(await calls[caller % len(calls)](body) == body)

    return echo


async def measure(local: Local) -> None:
    """Prints the figure."""
    token = await sign_in(local)
    residents = await move_in(local, token)
    credentials = await schema.provision(local.postgres.url(), "bench_ledger", "bench", "bench")
    await schema.migrate(credentials.owner_url, [ledger.MIGRATIONS])
    town = await found_town(credentials.service_url, new_id())
    address = free_address()
    async with (
        peer("echo", {"PEER_GRPC": address, "PEER_HTTP": address}),
        channels_to(address) as bare,
        channels_to(local.addresses.of("points")) as channels,
    ):
        granting = Granting(residents, channels, token)
        echo = _echo(bare, granting.request().SerializeToString())
        for work, workers in ((granting.grant, CALLERS), (granting.grant_batch, BATCHES_AT_ONCE), (echo, CALLERS)):
            await closed_loop(work, workers=workers, seconds=WARM_S)
        single: list[Run] = []
        batch: list[Run] = []
        echoes: list[Run] = []
        alone: list[float] = []
        for _ in range(ROUNDS):
            single.append(await closed_loop(granting.grant, workers=CALLERS, seconds=ROUND_S))
            batch.append(await closed_loop(granting.grant_batch, workers=BATCHES_AT_ONCE, seconds=ROUND_S))
            alone.append(await transfers_per_second(credentials.service_url, town, is_hot=False))
            echoes.append(await closed_loop(echo, workers=CALLERS, seconds=ROUND_S))
        ledger_rate, echo_rate = median(alone), median(run.per_second for run in echoes)
        peers = {"ledger_alone_per_second": ledger_rate, "bare_grpc_calls_per_second": echo_rate}
        _report("one by one", single, 1, peers, f"{CALLERS} callers on {CHANNELS} connections", granting.refusals)
        _report(f"batches of {BATCH}", batch, BATCH, peers, f"{BATCHES_AT_ONCE} batches at once", granting.refusals)
        await _where_the_time_goes(local, granting)


def _report(name: str, runs: Sequence[Run], size: int, peers: dict[str, float], load: str, refusals: Counter[str]) -> None:
    rate = median(run.per_second for run in runs) * size
    report(
        f"2 points, {name}",
        load=f"{load}, closed loop, {len(runs)} x {ROUND_S} s, {HOUSEHOLDS * HOUSEHOLD_SIZE} residents",
        grants_per_second=rate,
        rounds=[round(run.per_second * size) for run in runs],
        p50_ms=median(run.percentile_ms(50) for run in runs),
        p99_ms=median(run.percentile_ms(99) for run in runs),
        wrong=sum(run.failures for run in runs),
        refusals=dict(refusals),
        **peers,
        ratio_ledger=rate / peers["ledger_alone_per_second"],
        ratio_grpc=rate / peers["bare_grpc_calls_per_second"],
    )


async def _where_the_time_goes(local: Local, granting: Granting) -> None:
    """The CPU of a grant, by process; then, in a round with the service under a sampler, by part of its code."""
    for name, work, workers, size in (
        ("one by one", granting.grant, CALLERS, 1),
        (f"batches of {BATCH}", granting.grant_batch, BATCHES_AT_ONCE, BATCH),
    ):
        before = cpu_seconds(local)
        run = await closed_loop(work, workers=workers, seconds=ROUND_S)
        processes = since(before, cpu_seconds(local), len(run.latencies) * size)
        async with sampled(local, ["points"]) as files:
            await closed_loop(work, workers=workers, seconds=WARM_S)
            start, begun = spent(local, "points", files["points"]), perf_counter()
            run = await closed_loop(work, workers=workers, seconds=ROUND_S)
            wall_s, end = perf_counter() - begun, spent(local, "points", files["points"])
        grants, process_s = len(run.latencies) * size, end.process_s - start.process_s
        inside = since(start.parts_s, end.parts_s, grants)
        # gRPC reads and writes its connections in threads of its own.
        inside["gRPC"] = inside.get("gRPC", 0.0) + process_s / grants * 1e6 - sum(inside.values())
        report(
            f"2 points, {name}, where the time goes",
            method=METHOD,
            microseconds_by_process=by_cost(processes),
            microseconds_inside_points=by_cost(inside),
            points_busy=process_s / wall_s,
        )
