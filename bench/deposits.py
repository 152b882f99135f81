"""Figure: deposits per second from fifty bins over MQTT to points on the ledger, how long one takes, and where the time goes.

Against the same bins publishing the same bytes into a stream of which nobody knows, through the same NATS in the same run.

A balance is seen without asking for it: the resident is told, and what tells them leaves after the commit that changed the balance. So what
is reported is an upper bound. How much later it is, is measured on one deposit in a second, whose balance is read every millisecond.
"""

import asyncio
import itertools
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from time import perf_counter
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import grpc.aio
import httpx
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StorageType, StreamConfig

from bench.costs import METHOD, by_cost, cpu_seconds, sampled, since, spent
from bench.measure import report
from bench.mqtt import Device
from bench.points import move_in, sign_in
from console.load.schedule import Run, open_loop
from console.seed import Api
from console.up import Local
from infra.local.accounts import OPERATOR
from linli.waste.v1.waste_pb2 import RegisterCardRequest
from services.points.holders import Holder, issued_id

BINS = 50
DEPOSITS = 10_000
ROUNDS = 3
# Of each bin, that the broker has not acknowledged.
IN_FLIGHT = 64
PER_SECOND = 200
OPEN_S = 20.0
GRAMS = 300
SERVICES = ("ingest", "waste", "points")
ZONE = ZoneInfo("Asia/Shanghai")
_DRAIN_S = 120.0
_TELL_S = 10.0
_STREAM = "BENCH"


@dataclass(slots=True)
class Town:
    """Bins that are signed in, residents with cards, and what shows how far their deposits have come."""

    community_id: uuid.UUID
    bins: Mapping[str, Device]
    residents: Sequence[uuid.UUID]
    points: "asyncpg.Connection[asyncpg.Record]"
    bus: Client
    # How many deposits each resident has made.
    made: Counter[uuid.UUID] = field(default_factory=Counter)
    told: dict[str, "asyncio.Future[float]"] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def next_deposit(self) -> tuple[str, uuid.UUID, bytes]:
        """The next bin, the next resident, and what the bin says."""
        number = next(self.numbers)
        device_id, nth = f"bench-bin-{number % BINS}", number % len(self.residents)
        record = {
            "id": uuid.uuid4().hex,
            "card": card_number(nth),
            "compartment": "recyclable",
            "grams": GRAMS,
            "fill": number // BINS % 850 / 1000,
            "at": datetime.now(ZONE).isoformat(),
        }
        return device_id, self.residents[nth], json.dumps(record).encode()

    def put_in(self) -> tuple[uuid.UUID, "asyncio.Future[None]"]:
        """One deposit. The future is done when the broker has stored it."""
        device_id, resident, record = self.next_deposit()
        self.made[resident] += 1
        return resident, self.bins[device_id].publish(f"devices/{device_id}/deposit", record)

    async def booked(self) -> int:
        """How many transfers have given points in this community: each touches the account of what was issued."""
        return await self.version(issued_id(self.community_id))

    async def version(self, account_id: uuid.UUID) -> int:
        """How many entries an account has."""
        async with self.looking:
            return int(await self.points.fetchval("SELECT version FROM ledger_accounts WHERE account_id = $1", account_id) or 0)

    async def wrong_balances(self) -> int:
        """How many residents do not have exactly what their deposits gave."""
        expected = {Holder(self.community_id, resident).points_id: made * (GRAMS // 100) for resident, made in self.made.items()}
        rows = await self.points.fetch("SELECT account_id, balance FROM ledger_accounts WHERE account_id = ANY($1::uuid[])", [*expected])
        return len(expected.items() - {(row["account_id"], row["balance"]) for row in rows})

    async def hear(self, message: Msg) -> None:
        """A resident is told."""
        told = self.told.pop(message.subject.rpartition(".")[2], None)
        if told is not None and not told.done():
            told.set_result(perf_counter())


def card_number(nth: int) -> str:
    """The card of the n-th resident."""
    return f"BE7C{nth:08}"


@asynccontextmanager
async def town_with_bins(local: Local) -> AsyncIterator[Town]:
    """Registers residents, cards and bins, and signs the bins in."""
    plan = local.demonstration
    assert plan is not None
    token = await sign_in(local)
    residents = await move_in(local, token)
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        manager = Api(client, local.gateway_url, token)
        secrets = {f"bench-bin-{number}": await _set_up(manager, f"bench-bin-{number}") for number in range(BINS)}
    await _hand_out_cards(local, token, residents)
    port = local.nats.mqtt_port
    assert port is not None
    signed_in = await asyncio.gather(*(Device.connect(local.nats.host, port, *each) for each in secrets.items()))
    bins = dict(zip(secrets, signed_in, strict=True))
    bus = await nats.connect(local.nats.url, user=OPERATOR, password=local.secrets.password(f"{OPERATOR}-nats"))
    points = await asyncpg.connect(local.postgres.url("linli_points"))
    town = Town(uuid.UUID(plan.community_id), bins, residents, points, bus)
    await bus.subscribe(f"linli.notification.Notified.{plan.community_id}.>", cb=town.hear)
    # What a bin reports tells how wrong its clock is.
    for device_id, device in bins.items():
        status = {"fill": {"recyclable": 0.0}, "smoke": False, "temperature_c": 20, "at": datetime.now(ZONE).isoformat()}
        await device.publish(f"devices/{device_id}/status", json.dumps(status).encode())
    try:
        yield town
    finally:
        for device in signed_in:
            device.close()
        await bus.close()
        await points.close()


async def _set_up(manager: Api, device_id: str) -> str:
    made = await manager.call("POST", "/v1/devices", {"device_id": device_id, "name": device_id, "kind": "DEVICE_KIND_BIN"})
    compartment = {"name": "recyclable", "category": "CATEGORY_RECYCLABLE", "capacity_grams": 1_000_000}
    place = {"latitude": 39.98, "longitude": 116.31}
    await manager.call("POST", "/v1/waste/bins", {"name": device_id, "device_id": device_id, "place": place, "compartments": [compartment]})
    return str(made["secret"])


async def _hand_out_cards(local: Local, token: str, residents: Sequence[uuid.UUID]) -> None:
    async with grpc.aio.insecure_channel(local.addresses.of("waste")) as channel:
        register: Any = channel.unary_unary("/linli.waste.v1.WasteService/RegisterCard")
        metadata = (("authorization", f"Bearer {token}"),)
        cards = [RegisterCardRequest(card_number=card_number(nth), account_id=str(each)) for nth, each in enumerate(residents)]
        for first in range(0, len(cards), 64):
            await asyncio.gather(*(register(card.SerializeToString(), metadata=metadata) for card in cards[first : first + 64]))


async def measure(local: Local) -> None:
    """Prints the figure."""
    async with town_with_bins(local) as town:
        await town.bus.jetstream().add_stream(StreamConfig(name=_STREAM, subjects=["devices.*.bench"], storage=StorageType.FILE))
        await _flood(town, DEPOSITS // 4)
        rounds: list[Flood] = []
        peers: list[float] = []
        costs: list[dict[str, float]] = []
        for _ in range(ROUNDS):
            before = cpu_seconds(local)
            rounds.append(await _flood(town, DEPOSITS))
            costs.append(since(before, cpu_seconds(local), DEPOSITS))
            peers.append(await _flood_stream(town))
        rate, peer_rate = median(each.per_second for each in rounds), median(peers)
        wrong = await town.wrong_balances()
        report(
            "3 deposits",
            load=f"{BINS} bins, {IN_FLIGHT} in flight of each, {ROUNDS} x {DEPOSITS} deposits of {len(town.residents)} residents",
            deposits_per_second=rate,
            rounds=[round(each.per_second) for each in rounds],
            wrong_balances=wrong,
            seconds_until={stage: round(median(each.until_s[stage] for each in rounds), 2) for stage in rounds[0].until_s},
            bare_mqtt_per_second=peer_rate,
            bare_is="the same bins and bytes into a stream of the same NATS, without us",
            ratio=rate / peer_rate,
        )
        await _latency(town)
        await _where_the_time_goes(local, town, {process: median(cost[process] for cost in costs) for process in costs[0]})


@dataclass(frozen=True, slots=True)
class Flood:
    """One round: deposits per second until the last balance, and when the last one had come how far."""

    per_second: float
    until_s: Mapping[str, float]


async def _flood(town: Town, deposits: int) -> Flood:
    """As fast as they are taken, until all points are there."""
    streams = {"passed on by ingest": "DEVICE_DEPOSIT", "counted by waste": "LINLI_WASTE"}
    goals = {name: await _stored(town, stream) + deposits for name, stream in streams.items()}
    goal = await town.booked() + deposits
    until_s: dict[str, float] = {}
    began = perf_counter()

    async def one_bin() -> None:
        window = asyncio.Semaphore(IN_FLIGHT)
        for _ in range(deposits // BINS):
            await window.acquire()
            town.put_in()[1].add_done_callback(lambda _done: window.release())
        for _ in range(IN_FLIGHT):
            await window.acquire()

    async def all_bins() -> None:
        await asyncio.gather(*(one_bin() for _ in range(BINS)))
        until_s["acknowledged by NATS"] = perf_counter() - began

    publishing = asyncio.create_task(all_bins())
    async with asyncio.timeout(_DRAIN_S):
        # A look at each of the three costs next to nothing, and is coarse against the seconds that a round takes.
        while await town.booked() < goal:
            for name, stream in streams.items():
                if name not in until_s and await _stored(town, stream) >= goals[name]:
                    until_s[name] = perf_counter() - began
            await asyncio.sleep(0.02)
    seconds = perf_counter() - began
    await publishing
    for name in streams:
        until_s.setdefault(name, seconds)
    return Flood(deposits / seconds, {**until_s, "booked by points": seconds})


async def _stored(town: Town, stream: str) -> int:
    return int((await town.bus.jetstream().stream_info(stream)).state.last_seq)


async def _flood_stream(town: Town) -> float:
    """The same bytes from the same bins, until NATS has acknowledged all."""
    began = perf_counter()

    async def one_bin(device_id: str, device: Device) -> None:
        window = asyncio.Semaphore(IN_FLIGHT)
        for _ in range(DEPOSITS // BINS):
            await window.acquire()
            _, _, record = town.next_deposit()
            device.publish(f"devices/{device_id}/bench", record).add_done_callback(lambda _done: window.release())
        for _ in range(IN_FLIGHT):
            await window.acquire()

    await asyncio.gather(*(one_bin(*each) for each in town.bins.items()))
    seconds = perf_counter() - began
    assert (await town.bus.jetstream().stream_info(_STREAM)).state.messages == DEPOSITS
    await town.bus.jetstream().purge_stream(_STREAM)
    return DEPOSITS / seconds


async def _latency(town: Town) -> None:
    """From publishing to the balance, at a load that a city has."""
    late_s: list[float] = []

    async def deposit(number: int) -> bool:
        resident, stored = town.put_in()
        told = town.told[str(resident)] = asyncio.get_running_loop().create_future()
        looking = [asyncio.create_task(_balance_changes(town, resident))] if number % PER_SECOND == PER_SECOND // 2 else []
        try:
            async with asyncio.timeout(_TELL_S):
                await stored
                told_at = await told
                late_s.extend([told_at - await look for look in looking])
        except TimeoutError:
            for look in looking:
                look.cancel()
            return False
        return True

    async def store(_number: int) -> bool:
        device_id, _, record = town.next_deposit()
        await town.bins[device_id].publish(f"devices/{device_id}/bench", record)
        return True

    await open_loop(deposit, per_second=PER_SECOND, seconds=2)
    late_s.clear()
    runs: list[Run] = []
    bare: list[Run] = []
    for _ in range(ROUNDS):
        runs.append(await open_loop(deposit, per_second=PER_SECOND, seconds=OPEN_S))
        bare.append(await open_loop(store, per_second=PER_SECOND, seconds=OPEN_S / 4))
    report(
        "3 deposits, from publishing to the balance",
        load=f"{PER_SECOND}/s open loop, {ROUNDS} x {OPEN_S} s",
        p50_ms=median(run.percentile_ms(50) for run in runs),
        p99_ms=median(run.percentile_ms(99) for run in runs),
        wrong=sum(run.failures for run in runs),
        seen_by="the resident's notification, which leaves after the commit",
        seen_late_by_ms=median(late_s) * 1000 if late_s else None,
        bare_p50_ms=median(run.percentile_ms(50) for run in bare),
        bare_p99_ms=median(run.percentile_ms(99) for run in bare),
        bare_is="until NATS acknowledges that it is stored",
    )


async def _balance_changes(town: Town, resident: uuid.UUID) -> float:
    """When the balance had changed, read every millisecond."""
    account_id = Holder(town.community_id, resident).points_id
    before = await town.version(account_id)
    while True:
        if await town.version(account_id) != before:
            return perf_counter()
        await asyncio.sleep(0.001)


async def _where_the_time_goes(local: Local, town: Town, processes: Mapping[str, float]) -> None:
    """The CPU of a deposit, by process; then, in a round with the services under a sampler, by part of their code."""
    async with sampled(local, SERVICES) as files:
        await _flood(town, DEPOSITS // 4)
        starts = {name: spent(local, name, file) for name, file in files.items()}
        flood = await _flood(town, DEPOSITS)
        ends = {name: spent(local, name, file) for name, file in files.items()}
    report(
        "3 deposits, where the time goes",
        method=METHOD,
        microseconds_by_process=by_cost(processes),
        microseconds_inside={name: by_cost(since(starts[name].parts_s, ends[name].parts_s, DEPOSITS)) for name in SERVICES},
        deposits_per_second_sampled=flood.per_second,
    )
