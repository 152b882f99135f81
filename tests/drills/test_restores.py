"""The whole platform loses its broker's disk, is restored from a backup, and goes back in time with PostgreSQL's own archive.

All of it under traffic by everybody's own protocol: cars that pay, bins, doors, people. `make drill` runs it; it starts the platform over
and over, which takes too long for `make test`. The steps and their controls are in `test_recovery.py`.
"""

import asyncio
import json
import os
import random
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import pytest
import pytest_asyncio

from console import catalog
from console.demonstration import Demonstration
from console.environment import stored_environment
from console.seed import TARIFF
from console.seed.lots import open_lot
from console.simulator.bins import Bin
from console.simulator.cameras import PushCamera
from console.up import Local, Options, local_platform
from infra.local.postgres import SUPERUSER, adopt, executable
from servicekit.clock import system_clock
from servicekit.config import load
from servicekit.database import Resources, open_database
from servicekit.rpc import Call
from services.access.doors import CredentialKind
from services.billing import reconciling
from services.billing import service as billing
from services.billing.providers import Providers
from tests.drills.books import check_ledger
from tests.drills.killing import insist
from tests.journeys.people import Phone, Town, living
from tests.journeys.test_consent import give
from tests.journeys.test_repairs import report_leak
from tests.support import UNLIMITED, eventually

ROUNDS = int(os.environ.get("LINLI_DRILL_RESTORES", "0"))
DOOR = "demo-door-1"
GRAMS = 1000
CARD = "RESTORES01"
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not ROUNDS, reason="make drill sets LINLI_DRILL_RESTORES, the rounds of traffic"),
]


@dataclass(slots=True)
class World:
    """The platform, and everybody who uses it."""

    local: Local
    town: Town
    manager: Phone
    resident: Phone
    lot: str
    entry: PushCamera
    exit: PushCamera
    bin: Bin
    door: Any
    grams: int = 0
    cars: list[str] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)
    paid: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Demonstration:
        return self.town.demonstration

    def database(self, service: str) -> str:
        """A service's database, for the superuser, who sees everybody's rows."""
        return self.local.postgres.url(f"linli_{service}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """`linli up` with people, a car park, a bin and a door."""
    folder = Path(tmp_path_factory.mktemp("platform")) / "data"
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(local_platform(Options(folder=folder, settings=UNLIMITED)))
        town = await stack.enter_async_context(living(folder))
        plan, manager = town.demonstration, await town.manager()
        lot = await open_lot(manager, "restores", capacity=1000, rules={**TARIFF, "grace_minutes": 60})
        entry, leave = [await town.new_lane(manager, lot, f"restores-{name}", entry=name == "in") for name in ("in", "out")]
        card = plan.bins[0]
        full = dict.fromkeys(card.capacity_grams, 0)
        sorting = Bin(plan.mqtt_host, plan.mqtt_port, card, plan.secrets[card.device_id], full)
        task = asyncio.create_task(sorting.run())
        stack.push_async_callback(_end, task)
        (folder.parent / "door").mkdir()
        door = await stack.enter_async_context(town.online(town.terminal(DOOR, folder.parent / "door")))
        yield World(local, town, manager, await town.visitor(plan.resident_phone), lot, entry, leave, sorting, door)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def live(world: World) -> None:
    """A round of traffic: a car that stays and one that pays and leaves, a deposit, somebody at the door, a leak in a kitchen."""
    plan, number = world.plan, len(world.cars)
    stays, leaves = (f"京R{number + each:05}" for each in range(2))
    for plate in (stays, leaves):
        await insist(f"{plate} enters", partial(_passes, world.entry, plate))
        world.cars.append(plate)
    world.paid.append(await _pay(world, leaves))
    await insist(f"{leaves} leaves", lambda: _passes(world.exit, leaves))
    card = next(each.card_number for each in plan.residents if each.phone == plan.resident_phone)
    await world.bin.send(world.bin.weigh(card, "recyclable", GRAMS))
    world.grams += GRAMS
    assert (await world.door.present(CredentialKind.CARD, card)).reason == ""
    home = next(each.household_id for each in plan.residents if each.phone == plan.resident_phone)
    world.orders.append((await report_leak(world.resident, home))["order_id"])


async def _passes(camera: PushCamera, plate: str) -> bool | None:
    return True if (await camera.push(plate, datetime.now(UTC))).opened else None


async def _pay(world: World, plate: str) -> str:
    async def quote() -> str | None:
        answer = await world.resident.request("POST", "/v1/parking/quotes", {"lot_id": world.lot, "plate": plate})
        return str(answer.json()["charge_id"]) or None if answer.is_success else None

    payment: str = (await world.town.pay(world.resident, await insist(f"{plate} is quoted", quote)))["payment_id"]
    return payment


async def fetch(url: str, sql: str, *arguments: object) -> list[Any]:
    """The first column of a question to a database."""
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(sql, *arguments)]
    finally:
        await connection.close()


def _with_database() -> list[str]:
    return [service.name for service in catalog.find(["all"]) if service.migrations]


async def published(world: World, since: datetime | None = None) -> dict[str, set[str]]:
    """The ids of what each service has published, as it knows it."""
    sql = "SELECT event_id::text FROM outbox WHERE created_at > $1"
    return {name: set(await fetch(world.database(name), sql, since or datetime(2000, 1, 1, tzinfo=UTC))) for name in _with_database()}


async def is_quiet(world: World) -> datetime:
    """Waits until everything is sent and handled and nothing new is published. Returns an instant of that quiet."""

    async def instant() -> datetime | None:
        before, at = await published(world), datetime.now(UTC)
        await asyncio.sleep(0.5)
        unsent = [
            row for name in _with_database() for row in await fetch(world.database(name), "SELECT 1 FROM outbox WHERE sent_at IS NULL")
        ]
        return at if not unsent and await published(world) == before else None

    found = await eventually(instant, "nothing happens", deadline_s=60)
    assert found is not None
    return found


async def points(world: World) -> int:
    return int((await world.resident.call("GET", "/v1/me/points"))["points"])


async def has_earned(world: World, before: int, grams: int) -> None:
    """Waits until the resident has points for exactly so much waste since there were `before`."""
    rules = (await world.resident.call("GET", "/v1/points/rules"))["rules"]
    rule = next(each for each in rules if each["rule_id"] == "waste.recyclable")
    wanted = before + grams // GRAMS * (GRAMS // int(rule["per"]) * int(rule["points"]))

    async def is_so() -> bool:
        return await points(world) == wanted

    await eventually(is_so, f"{wanted} points", deadline_s=60, every_s=0.5)


async def linli(*arguments: str) -> str:
    """Runs a command as an operator does; returns what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "console.main", *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


# The broker's disk.


async def test_a_broker_loses_its_disk_under_traffic_and_no_fact_is_lost_or_heard_twice(world: World) -> None:
    before = await points(world)
    await live(world)
    await has_earned(world, before, GRAMS)
    traffic = asyncio.gather(*(drive(world, f"京W{number:05}") for number in range(ROUNDS * 10)))
    await has_moved(world, ROUNDS * 3)
    lose_disk(world)
    await traffic
    await has_moved(world, ROUNDS * 10)

    missing: dict[str, set[str]] = {}

    async def is_complete() -> bool:
        held = await held_by_streams(world)
        missing.update({name: ids - held for name, ids in (await published(world)).items()})
        return not any(missing.values())

    try:
        await eventually(is_complete, "the streams hold every fact again", deadline_s=60, every_s=0.5)
    except AssertionError:
        assert {name: ids for name, ids in missing.items() if ids} == {}
        raise
    await live(world)
    await has_earned(world, before, GRAMS * 2)
    # Nothing was on its way from a device when the disk went, or it is counted.
    losses = [json.loads(line) for line in (await linli("outbox", "losses", "--data", str(world.local.folder))).splitlines()]
    assert {loss["stream"] for loss in losses} >= {"DEVICE_DEPOSIT", "DEVICE_PLATE"}
    payments = await world.manager.rows("/v1/payments?state=PAYMENT_STATE_SUCCEEDED", "payments")
    assert len({payment["charge_id"] for payment in payments}) == len(payments)
    await check_ledger(world.database("points"))


def lose_disk(world: World) -> None:
    """The broker's machine burns down, and another one takes its place."""
    world.local.nats.kill()
    for path in (world.local.folder / "nats" / "data").iterdir():
        shutil.rmtree(path)
    world.local.nats.restart()


async def drive(world: World, plate: str) -> None:
    """One car, in and out, however often it takes."""
    await insist(f"{plate} enters", lambda: _passes(world.entry, plate))
    await insist(f"{plate} pays", lambda: _pay_when_possible(world, plate))
    await insist(f"{plate} leaves", lambda: _passes(world.exit, plate))


async def _pay_when_possible(world: World, plate: str) -> str | None:
    try:
        return await _pay(world, plate)
    except AssertionError:
        return None


async def has_moved(world: World, left: int) -> None:
    """Waits until so many of the cars in the traffic have left, at least."""

    async def has() -> bool:
        sessions = await fetch(world.database("parking"), "SELECT plate FROM sessions WHERE plate LIKE '京W%' AND state = 'left'")
        return len(set(sessions)) == len(sessions) >= left

    await eventually(has, f"{left} cars have left", deadline_s=120, every_s=0.1)


async def held_by_streams(world: World) -> set[str]:
    """The ids of what the broker's streams hold."""
    from console.backup import _messages, _operator

    held = set()
    async with _operator(world.local.folder) as client:
        for stream in await client.jsm().streams_info():
            name = stream.config.name or ""
            if name.startswith(("LINLI_", "DEVICE_")):
                held |= {message["headers"].get("ce-id") async for message in _messages(client, name, 0)}
    return held


# A backup of one machine.


async def test_a_platform_that_is_restored_from_a_backup_agrees_with_itself_in_every_count(world: World, tmp_path: Path) -> None:
    await live(world)
    archive, folder = tmp_path / "linli.tar.gz", tmp_path / "again"
    await is_quiet(world)
    before = await counts(world.database)
    print(await linli("backup", str(archive), "--data", str(world.local.folder)), archive.stat().st_size)
    await live(world)
    print(await linli("restore", str(archive), "--data", str(folder)))
    async with local_platform(Options(folder=folder, demonstration=False, settings=UNLIMITED)) as again:
        after = await counts(lambda service: again.postgres.url(f"linli_{service}"))
        assert {name: count for name, count in after.items() if before[name] != count} == {}
        assert not [name for name in before if name not in after]


# What comes and goes by itself, or is forgotten on purpose.
PASSING = ("inbox", "outbox", "stream_marks", "sign_ins", "limits", "idempotency_keys", "schema_migrations", "digest_uses", "timers")


async def counts(url: Callable[[str], str]) -> dict[str, int]:
    """The rows of every table that holds facts."""
    found = {}
    for name in _with_database():
        tables = await fetch(url(name), "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
        for table in set(tables) - set(PASSING):
            found[f"{name}.{table}"] = (await fetch(url(name), f'SELECT count(*) FROM "{table}"'))[0]
    return found


# Back in time.


def make_archive(world: World, archive: Path) -> None:
    """A folder that PostgreSQL may write."""
    archive.parent.chmod(0o755)
    archive.mkdir()
    account = (world.local.folder / "postgres" / "data").stat()
    os.chown(archive, account.st_uid, account.st_gid)


def read_report(folder: Path) -> tuple[list[Any], str]:
    """The facts that are said to be lost, and what people read."""
    (facts,), (summary,) = folder.glob("*.jsonl"), folder.glob("*.txt")
    return [json.loads(line) for line in facts.read_text().splitlines()], summary.read_text()


@asynccontextmanager
async def archiving(world: World, archive: Path) -> AsyncIterator[Path]:
    """PostgreSQL keeps its log in an archive, on top of a base backup."""
    make_archive(world, archive)
    for statement in (
        "ALTER SYSTEM SET archive_mode = on",
        f"ALTER SYSTEM SET archive_command = 'cp %p {archive}/%f'",
    ):
        await execute(world, statement)
    world.local.postgres.restart()
    base = archive.parent / "base"
    process = await asyncio.create_subprocess_exec(
        *(str(executable("pg_basebackup")), "--pgdata", str(base), "--checkpoint=fast", "--no-password"),
        *(f"--host={world.local.postgres.host}", f"--port={world.local.postgres.port}", f"--username={SUPERUSER}"),
        env={"PGPASSWORD": world.local.postgres.password},
    )
    assert await process.wait() == 0
    yield base


async def execute(world: World, statement: str) -> None:
    connection = await asyncpg.connect(world.local.postgres.url())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def is_archived(world: World) -> None:
    """Waits until all that was written so far is in the archive."""
    last: str = (await fetch(world.local.postgres.url(), "SELECT pg_walfile_name(pg_switch_wal())"))[0]

    async def is_there() -> bool:
        archived: str | None = (await fetch(world.local.postgres.url(), "SELECT last_archived_wal FROM pg_stat_archiver"))[0]
        return archived is not None and archived >= last

    await eventually(is_there, "the log is archived", deadline_s=60)


def go_back(world: World, base: Path, archive: Path, instant: datetime) -> None:
    """Restores PostgreSQL to an instant, from the base backup and the log."""
    postgres, data = world.local.postgres, world.local.folder / "postgres" / "data"
    postgres.stop()
    shutil.rmtree(data)
    shutil.copytree(base, data)
    (data / "recovery.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write(
            f"archive_mode = off\nrestore_command = 'cp {archive}/%f %p'\n"
            f"recovery_target_time = '{instant.isoformat()}'\nrecovery_target_action = 'promote'\n"
        )
    adopt(world.local.folder / "postgres")
    postgres.restart()


@dataclass(frozen=True, slots=True)
class Lost:
    """The instant that the databases go back to, and what was after it: orders, payments, and from whom something was taken away."""

    instant: datetime
    orders: set[str]
    payments: set[str]
    account_id: str


async def live_on(world: World) -> Lost:
    """Time that will be lost: traffic, and a card and a consent that are taken away."""
    account_id = (await world.resident.call("GET", "/v1/me"))["account"]["account_id"]
    consent = await give(world.resident, "CONSENT_KIND_FACE_ON_TERMINALS")
    card = {"account_id": account_id, "card_number": CARD}
    credential = (await world.manager.call("POST", "/v1/access/cards", card))["credential_id"]
    instant, orders, payments = await is_quiet(world), set(world.orders), set(world.paid)
    await world.manager.call("POST", f"/v1/access/credentials/{credential}:revoke", {})
    await world.resident.call("POST", f"/v1/me/access/consents/{consent}:withdraw", {})
    earned = await points(world)
    for _ in range(ROUNDS):
        await live(world)
    await opens(world, "京G00001")
    await has_earned(world, earned, GRAMS * ROUNDS)
    return Lost(instant, set(world.orders) - orders, set(world.paid) - payments, account_id)


async def recover(world: World, lost: Lost, base: Path, archive: Path) -> list[Any]:
    """Stops the services, takes the databases back, and recovers. Returns the facts that are said to be lost, after a look at them."""
    services = [child for child in world.local.children.values() if child.name != "provider"]
    for child in services:
        await child.stop()
    facts = set().union(*(await published(world, lost.instant)).values())
    started = monotonic()
    go_back(world, base, archive, lost.instant)
    assert await published(world, lost.instant) == {name: set() for name in _with_database()}
    to, restored = lost.instant.replace(tzinfo=None).isoformat(), monotonic()
    print(await linli("recover", "--to", to, "--data", str(world.local.folder), "--report", str(archive.parent)))
    named, summary = read_report(archive.parent)
    assert {fact["event_id"] for fact in named} == facts
    urgent = summary.partition("MONEY")[0]
    assert ("access.consent_withdrawn" in urgent, "_revoked" in urgent, urgent.count(lost.account_id)) == (True, True, 2)
    recovered = monotonic()
    for child in services:
        child._stopping = False
        child.start()
        await child.ready(90)
    print(f"restored in {restored - started:.1f} s, recovered in {recovered - restored:.1f} s, ready in {monotonic() - recovered:.1f} s")
    return named


async def test_postgres_goes_back_in_time_and_what_is_lost_is_named_and_nothing_else_is(world: World, tmp_path: Path) -> None:
    earned = await points(world)
    async with archiving(world, tmp_path / "archive") as base:
        await live(world)
        await has_earned(world, earned, GRAMS)
        lost = await live_on(world)
        await is_archived(world)
        knew = world.door.terminal.knowledge.version
        named = await recover(world, lost, base, tmp_path / "archive")
    world.manager, world.resident = await world.town.manager(), await again(world)
    # Devices: each deposit counts once, each car is there, the barrier opens above its last counter, the terminal takes everything anew.
    await has_earned(world, earned, GRAMS * (1 + ROUNDS))
    await opens(world, "京G00002")

    async def knows_anew() -> bool:
        return bool(world.door.terminal.knowledge.version > knew)

    await eventually(knows_anew, "the terminal has taken everything anew", deadline_s=90)
    assert (await world.door.present(CredentialKind.CARD, CARD)).reason == ""
    sessions = await fetch(world.database("parking"), "SELECT plate FROM sessions WHERE plate LIKE '京R%'")
    assert sorted(sessions) == sorted(world.cars)
    # People: what they did is gone, nobody has heard of it, and the provider's books tell of the money.
    orders = set(await fetch(world.database("workorders"), "SELECT order_id::text FROM orders"))
    assert orders & set(world.orders) == set(world.orders) - lost.orders
    heard, gone = "SELECT event_id FROM inbox WHERE event_id = ANY($1)", [fact["event_id"] for fact in named]
    assert [row for name in _with_database() for row in await fetch(world.database(name), heard, gone)] == []
    paid = {fact["fact"]["payment_id"] for fact in named if fact["type"] == "linli.billing.v1.PaymentSucceeded"}
    assert paid == lost.payments
    assert {UUID(each) for each in await reconcile(world)} == {UUID(each) for each in lost.payments}
    await check_ledger(world.database("points"))


async def opens(world: World, plate: str) -> None:
    """A car comes to a barrier that is not wired to its camera, and the barrier obeys."""
    gate = world.town.gate(world.town.lane(entry=True, protocol="viid"))
    before = len(gate.opened)
    camera = world.town.viid_camera(entry=True)
    assert await camera.register() == 0
    assert await camera.report(plate, datetime.now(UTC), random.randrange(100_000)) == 0
    assert await gate.opens_beyond(before, within_s=15), gate.refused


async def again(world: World) -> Phone:
    """The resident, who signs in again: one phone is sent one code a minute."""
    assert (await world.resident.request("GET", "/v1/me")).status_code in (200, 401)

    async def signed_in() -> Phone | None:
        try:
            return await world.town.visitor(world.plan.resident_phone)
        except AssertionError:
            return None

    phone: Phone = await insist("the resident signs in again", signed_in)
    return phone


async def reconcile(world: World) -> set[str]:
    """Today with the provider, as if it were tomorrow. Returns the references of money that only the provider knows."""
    values = stored_environment(world.local.folder)
    settings = load(billing.Settings, "billing", values)
    database = await open_database("billing", values["LINLI_BILLING_DATABASE_URL"], pool_size=1, clock=system_clock)
    running: Any = SimpleNamespace(settings=settings, clock=system_clock)
    try:
        async with billing.open_providers(running) as opened:
            call = Call(datetime.now(UTC) + timedelta(days=1), None, database, Resources(opened), {})
            today = datetime.now(ZoneInfo("Asia/Shanghai")).date()
            (provider,) = call.resource(Providers).by_name.values()
            found = await reconciling.reconcile(call, UUID(world.plan.community_id), provider, today)
    finally:
        await database.close()
    return {difference.reference for difference in found.differences if difference.kind == "missing_here"}
