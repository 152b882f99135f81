"""Figure: the lists of technicians, managers and residents with a million orders in one community, and the figures of their year.

Through the gateway, against the very statement that chooses the page, on a bare connection without walls, under the same load in the same
run, in alternating rounds. A page is more than that statement: its photos, the phones that are shown, who looks, gRPC and JSON.
"""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from statistics import median
from time import perf_counter
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import asyncpg
import httpx

from bench.costs import by_cost, cpu_seconds, since
from bench.measure import report
from console.environment import newest_code
from console.load.http import Pool
from console.load.schedule import Run, open_loop
from console.seed import Api
from console.up import Local
from servicekit.database import Transaction
from servicekit.paging import PAGE_SIZE, token
from servicekit.sealing import data_keys
from services.workorders import figures_store, list_store
from services.workorders.report_operations import phone_row

ORDERS = 1_000_000
YEARS = 5
# The newest, of which half are open; of the older ones hardly any is.
RECENT = 5_000
TECHNICIANS = 40
TEAMS = 5
BUILDINGS = 60
HOUSEHOLDS = 6_000
PER_SECOND = 40
ROUND_S = 5.0
ROUNDS = 3
FIGURES = 5

ADD_TEAMS: Final = (
    "INSERT INTO teams (team_id, community_id, name) SELECT uuidv7(), $1, 'bench ' || n FROM generate_series(1, $2::int) AS n"
)
ADD_TECHNICIANS: Final = """
INSERT INTO technicians (account_id, community_id, name, team_id, skills, building_ids, shifts, in_use)
SELECT uuidv7(), $1, 'bench ' || number, ($3::uuid[])[1 + number % cardinality($3::uuid[])], '{plumbing,electrics,doors}', '{}', '[]', true
FROM generate_series(1, $2::int) AS number
"""
# The newest is the last number, a moment ago. What is random is the same in each run.
ADD_ORDERS: Final = """
WITH drawn AS MATERIALIZED (
    SELECT number, random() AS at_state, random() AS at_priority, 1 + floor(random() * cardinality($2::uuid[]))::int AS nth_category,
        1 + floor(random() * cardinality($3::uuid[]))::int AS nth_technician, floor(random() * $5)::int AS nth_household,
        random() < 0.08 AS is_missed, random() < 0.3 AS is_rated,
        now() - (interval '1 year' * $6 * ($4 - number) / $4::float) AS reported_at
    FROM generate_series(1, $4::int) AS number
), placed AS (
    SELECT *, CASE nth_household WHEN 0 THEN $9 ELSE md5('bench household ' || nth_household)::uuid END AS household_id,
        CASE nth_household % $7::int WHEN 0 THEN $10 ELSE md5('bench building ' || nth_household % $7)::uuid END AS building_id,
        CASE nth_household WHEN 0 THEN $11 ELSE md5('bench resident ' || nth_household)::uuid END AS reporter_id,
        ($3::uuid[])[nth_technician] AS technician_id,
        CASE
            WHEN number > $4 - $8 AND at_state < 0.5 THEN
                (ARRAY['reported', 'triaged', 'dispatched', 'dispatched', 'accepted', 'accepted', 'on_site', 'waiting', 'reopened'])
                    [1 + floor(at_state * 18)::int]
            WHEN at_state > 0.9998 THEN 'waiting' WHEN at_state > 0.96 THEN 'cancelled' WHEN at_state > 0.955 THEN 'done'
            ELSE 'confirmed'
        END AS state
    FROM drawn
), stated AS (
    SELECT *, state IN ('accepted', 'on_site', 'waiting', 'done', 'confirmed') AS was_accepted, state IN ('done', 'confirmed') AS was_done,
        state = 'dispatched' AND at_priority < 0.2 AS is_for_all
    FROM placed
)
INSERT INTO orders (
    order_id, community_id, number, kind, category_id, category, skill, priority, state, waits_for, paused_in, title, description,
    household_id, building_id, place, reporter_account_id, visibility, team_id, technician_account_id, offered_to_account_id, offer_until,
    is_open_to_all, dispatch_reason, reported_at, responded_at, response_s, accepted_at, on_site_at, done_at, closed_at, response_minutes,
    on_site_minutes, done_minutes, round_the_clock, response_due_at, on_site_due_at, done_due_at, clock_from, told, missed,
    missed_at, reopened, stars,
    rating_text, cause, resolution, amount_fen, is_paid, origin, origin_id, version
)
SELECT uuidv7(reported_at - now()), $1, number, kind, category_id, code, CASE WHEN is_for_all THEN 'plumbing' ELSE skill END,
    CASE WHEN at_priority < 0.02 THEN 1 WHEN at_priority < 0.22 THEN 2 WHEN at_priority < 0.8 THEN 3 ELSE 4 END, stated.state,
    CASE WHEN stated.state = 'waiting' THEN 'part' END, CASE WHEN stated.state = 'waiting' THEN 'on_site' END,
    '厨房水管漏水', '水槽下方的水管接头处一直滴水，已经用盆接着，请尽快来看一下。', household_id, building_id, '2 单元 502 室 厨房',
    reporter_id,
    CASE WHEN kind = 'complaint' THEN 'reporter' WHEN number % 5 = 0 THEN 'neighbours' ELSE 'household' END,
    CASE WHEN was_accepted THEN team_id END,
    CASE WHEN was_accepted THEN technician_id END,
    CASE WHEN stated.state = 'dispatched' AND NOT is_for_all THEN technician_id END,
    CASE WHEN stated.state = 'dispatched' AND NOT is_for_all THEN now() + interval '5 minutes' END,
    is_for_all, CASE WHEN was_accepted THEN '{"way": "offered", "skill": "plumbing", "on_shift": true, "open_jobs": 3}' ELSE '' END,
    reported_at, CASE WHEN was_accepted THEN reported_at + interval '7 minutes' END,
    CASE WHEN was_accepted THEN 60 + number % 1000 END, CASE WHEN was_accepted THEN reported_at + interval '7 minutes' END,
    CASE WHEN was_accepted THEN reported_at + interval '30 minutes' END,
    CASE WHEN was_done THEN reported_at + interval '1 minute' * (40 + number % 3000) END,
    CASE WHEN stated.state IN ('confirmed', 'cancelled') THEN reported_at + interval '3 days' END, 15, 60, 1440, false,
    reported_at + interval '15 minutes', reported_at + interval '1 hour', reported_at + interval '1 day', reported_at, '{}',
    CASE WHEN is_missed THEN '{response}' ELSE '{}' END::text[], CASE WHEN is_missed THEN reported_at + interval '15 minutes' END, 0,
    CASE WHEN is_rated AND was_done THEN 1 + number % 5 ELSE 0 END, '', '', CASE WHEN was_done THEN '更换接头垫圈，试水正常。' ELSE '' END,
    0, false, '', '', 4
FROM stated
JOIN categories ON category_id = ($2::uuid[])[nth_category]
JOIN technicians ON technicians.account_id = technician_id AND technicians.community_id = $1
ORDER BY number
"""

INDEXES: Final = """
SELECT indexname, indexdef FROM pg_indexes
WHERE tablename = 'orders' AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexname::regclass)
"""
# One in four has a photo; the phone of who opens the door is kept with every order, and the newest are shown.
ADD_PHOTOS: Final = """
INSERT INTO photos (photo_id, community_id, uploaded_by, bytes, created_at, order_id, attached_at)
SELECT uuidv7(), community_id, reporter_account_id, 300000, reported_at, order_id, reported_at FROM orders WHERE number % 4 = 0
"""
LISTED: Final = "SELECT order_id FROM orders WHERE is_open OR number > $1 - 10000"
ADD_CONTACTS: Final = """
INSERT INTO order_contacts (order_id, community_id, key_id, phone) SELECT order_id, $1, $2, phone FROM unnest($3::uuid[], $4::bytea[]) AS
sealed (order_id, phone)
"""


RESIDENT_HOME: Final = """
SELECT account_id, household_id, building_id FROM known_residents JOIN known_households USING (household_id) WHERE account_id = $1
"""
ZONE: Final = ZoneInfo("Asia/Shanghai")


@dataclass(slots=True)
class BareTransaction:
    """What a list's statement runs in without a service: one connection, one statement at a time."""

    connection: "asyncpg.Connection[asyncpg.Record]"
    community_id: uuid.UUID
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """All rows."""
        async with self.turn:
            return await self.connection.fetch(sql, *arguments)


Bare = Callable[[Transaction], Awaitable[Sequence[object]]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A list as it is asked for through the gateway, and its statement."""

    name: str
    path: str
    bare: Bare


@dataclass(frozen=True, slots=True)
class Town:
    """A community with its orders, and what its people ask for."""

    community_id: uuid.UUID
    technician_id: uuid.UUID
    team_id: uuid.UUID
    category_id: uuid.UUID
    reporter_id: uuid.UUID
    building_id: uuid.UUID

    def managers(self) -> list[Asked]:
        """What a manager looks at."""
        asked: list[tuple[str, str, dict[str, object]]] = [
            ("all", "", {}),
            ("open", "open_only=true", {"open_only": True}),
            ("reported", "state=ORDER_STATE_REPORTED", {"state": "reported"}),
            ("complaints that are open", "kind=ORDER_KIND_COMPLAINT&open_only=true", {"open_only": True, "kind": "complaint"}),
            ("of a category", f"category_id={self.category_id}", {"category_id": self.category_id}),
            ("emergencies", "priority=PRIORITY_EMERGENCY", {"priority": 1}),
            ("of a team, open", f"team_id={self.team_id}&open_only=true", {"open_only": True, "team_id": self.team_id}),
            ("of a technician", f"technician_account_id={self.technician_id}", {"technician_account_id": self.technician_id}),
            ("of a building", f"building_id={self.building_id}", {"building_id": self.building_id}),
            (
                "of a building and a category, confirmed",
                f"building_id={self.building_id}&category_id={self.category_id}&state=ORDER_STATE_CONFIRMED",
                {"state": "confirmed", "category_id": self.category_id, "building_id": self.building_id},
            ),
            ("late", "missed_only=true", {"missed_only": True}),
            ("late and open", "missed_only=true&open_only=true", {"open_only": True, "missed_only": True}),
        ]
        first = [Asked(name, f"/v1/work-orders?{path}", self._all(None, by)) for name, path, by in asked]
        middle = ORDERS // 2
        return [*first, Asked("from the middle on", f"/v1/work-orders?page_token={token(middle)}", self._all(middle, {}))]

    def _all(self, after: int | None, by: dict[str, object]) -> Bare:
        return lambda tx: list_store.ALL.fetch(tx, [self.community_id], after, PAGE_SIZE + 1, **by)

    def technicians(self) -> list[Asked]:
        """What a technician looks at."""
        skills = ["plumbing", "electrics", ""]
        return [
            Asked("their jobs", "/v1/me/jobs", lambda tx: list_store.JOBS.fetch(tx, [self.technician_id, self.community_id], None, 21)),
            Asked("jobs to take", "/v1/jobs:open", lambda tx: list_store.TO_TAKE.fetch(tx, [self.community_id, skills], None, 21)),
        ]

    def residents(self) -> list[Asked]:
        """What a resident looks at."""
        return [
            Asked("their own", "/v1/me/work-orders", lambda tx: list_store.OWN.fetch(tx, [self.reporter_id, self.community_id], None, 21)),
            Asked(
                "their neighbours'",
                "/v1/work-orders:public",
                lambda tx: list_store.PUBLIC.fetch(tx, [self.community_id, [self.building_id]], None, 21),
            ),
        ]


async def _found(superuser: "asyncpg.Connection[asyncpg.Record]", local: Local) -> Town:
    """Puts the orders straight into the database."""
    plan = local.demonstration
    assert plan is not None
    community_id, technician_id = uuid.UUID(plan.community_id), uuid.UUID(plan.technicians[0].account_id)
    await superuser.execute("SELECT setseed(0.5)")
    await superuser.execute(ADD_TEAMS, community_id, TEAMS)
    team_ids = await superuser.fetchval("SELECT array_agg(team_id) FROM teams WHERE name LIKE 'bench%'")
    await superuser.execute(ADD_TECHNICIANS, community_id, TECHNICIANS - 1, team_ids)
    technician_ids = await superuser.fetchval("SELECT array_agg(account_id) FROM technicians WHERE name LIKE 'bench%'")
    category_ids = await superuser.fetchval("SELECT array_agg(category_id ORDER BY code) FROM categories WHERE parent_id IS NOT NULL")
    home = await superuser.fetchrow(RESIDENT_HOME, uuid.UUID(plan.residents[0].account_id))
    assert home is not None
    counts = (ORDERS, HOUSEHOLDS, YEARS, BUILDINGS, RECENT)
    people = [technician_id, *technician_ids]
    # Built afterwards, they cost half.
    indexes = await superuser.fetch(INDEXES)
    await superuser.execute("".join(f"DROP INDEX {index['indexname']};" for index in indexes))
    await superuser.execute(
        ADD_ORDERS, community_id, category_ids, people, *counts, home["household_id"], home["building_id"], home["account_id"]
    )
    for index in indexes:
        await superuser.execute(index["indexdef"])
    await superuser.execute(ADD_PHOTOS)
    keys = data_keys(local.children["workorders"].environment["LINLI_WORKORDERS_DATA_KEYS"])
    shown = [row["order_id"] for row in await superuser.fetch(LISTED, ORDERS)]
    phones = [keys.seal(b"13800000000", phone_row(order_id)).data for order_id in shown]
    await superuser.execute(ADD_CONTACTS, community_id, keys.key_id, shown, phones)
    await superuser.execute("VACUUM ANALYZE")
    await superuser.execute("CHECKPOINT")
    return Town(community_id, technician_id, team_ids[0], category_ids[0], home["account_id"], home["building_id"])


async def measure(local: Local) -> None:
    """Prints the figures."""
    plan = local.demonstration
    assert plan is not None
    superuser = await asyncpg.connect(local.postgres.url("linli_workorders"))
    began = perf_counter()
    town = await _found(superuser, local)
    report("4 lists, made", orders=ORDERS, seconds=perf_counter() - began)
    tx = cast(Transaction, BareTransaction(superuser, town.community_id))
    manager = await _head(local, plan.manager_phone)
    async with Pool(local.gateway_url) as pool:
        await _lists(local, "managers'", town.managers(), pool, manager, tx)
        await _lists(local, "technicians'", town.technicians(), pool, await _head(local, plan.technicians[0].phone), tx)
        await _lists(local, "residents'", town.residents(), pool, await _head_by_code(local, plan.residents[0].phone), tx)
        await _figures(pool, manager, tx)
    await superuser.close()


async def _head(local: Local, phone: str) -> bytes:
    """What follows the first line of a staff member's requests."""
    plan = local.demonstration
    assert plan is not None
    body = {"community_id": plan.community_id, "phone": phone, "password": plan.manager_password}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        tokens = await Api(client, local.gateway_url).call("POST", "/v1/sign-in/password", body)
    return _authorized(tokens)


async def _head_by_code(local: Local, phone: str) -> bytes:
    """The same for a resident."""
    plan = local.demonstration
    assert plan is not None
    body = {"community_id": plan.community_id, "phone": phone}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        api = Api(client, local.gateway_url)
        await api.call("POST", "/v1/sign-in/codes", body)
        tokens = await api.call("POST", "/v1/sign-in/code", {**body, "code": newest_code(local.folder, phone)})
    return _authorized(tokens)


def _authorized(tokens: Any) -> bytes:
    return f" HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {tokens['access_token']}\r\n".encode()


async def _lists(local: Local, whose: str, asked: Sequence[Asked], pool: Pool, head: bytes, tx: Transaction) -> None:
    """Each list in turn, through the gateway and bare."""
    times: dict[str, list[float]] = defaultdict(list)
    bare_times: dict[str, list[float]] = defaultdict(list)

    async def listed(number: int) -> bool:
        each, began = asked[number % len(asked)], perf_counter()
        status, body = await pool.request(b"GET " + each.path.encode() + head)
        times[each.name].append(perf_counter() - began)
        return status == httpx.codes.OK and b"order_id" in body

    async def bare(number: int) -> bool:
        each, began = asked[number % len(asked)], perf_counter()
        rows = await each.bare(tx)
        bare_times[each.name].append(perf_counter() - began)
        return bool(rows)

    await open_loop(listed, per_second=PER_SECOND, seconds=1)
    await open_loop(bare, per_second=PER_SECOND, seconds=1)
    times.clear()
    bare_times.clear()
    runs: list[Run] = []
    bare_runs: list[Run] = []
    costs: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        before = cpu_seconds(local)
        runs.append(await open_loop(listed, per_second=PER_SECOND, seconds=ROUND_S))
        costs.append(since(before, cpu_seconds(local), len(runs[-1].latencies)))
        bare_runs.append(await open_loop(bare, per_second=PER_SECOND, seconds=ROUND_S))
    p50, p99 = (median(run.percentile_ms(percent) for run in runs) for percent in (50, 99))
    bare_p50, bare_p99 = (median(run.percentile_ms(percent) for run in bare_runs) for percent in (50, 99))
    report(
        f"4 lists, {whose}",
        load=f"{ORDERS} orders, pages of {PAGE_SIZE}, {PER_SECOND}/s open loop, {ROUNDS} x {ROUND_S} s",
        p50_ms=p50,
        p99_ms=p99,
        wrong=sum(run.failures for run in (*runs, *bare_runs)),
        bare_p50_ms=bare_p50,
        bare_p99_ms=bare_p99,
        ratio_p50=p50 / bare_p50,
        ratio_p99=p99 / bare_p99,
        each_p50_ms={name: [_median_ms(seconds), _median_ms(bare_times[name])] for name, seconds in times.items()},
        each_is="through the gateway, and bare",
        microseconds_by_process=by_cost({process: median(cost[process] for cost in costs) for process in costs[0]}),
    )


def _median_ms(seconds: Sequence[float]) -> float:
    return round(median(seconds) * 1000, 3)


async def _figures(pool: Pool, head: bytes, tx: Transaction) -> None:
    """The figures of the last 366 days, one after the other."""
    today = tx.now.astimezone(ZONE).date()
    first = today - timedelta(days=365)
    start, end = (datetime.combine(day, time(), ZONE).astimezone(UTC) for day in (first, today + timedelta(days=1)))
    for by, bare in (("CATEGORY", figures_store.by_category), ("TEAM", figures_store.by_team)):
        path = f"/v1/work-order-figures?from_day={first}&until_day={today}&by=FIGURES_BY_{by}".encode()
        own, bare_own = [], []
        for _ in range(FIGURES):
            began = perf_counter()
            status, _body = await pool.request(b"GET " + path + head)
            own.append(perf_counter() - began)
            assert status == httpx.codes.OK
            began = perf_counter()
            groups = await bare(tx, start, end)
            bare_own.append(perf_counter() - began)
        report(
            f"4 figures by {by.lower()}",
            load=f"{ORDERS} orders, {sum(group.reported for group in groups)} of them in 366 days, {FIGURES} times",
            p50_ms=_median_ms(own),
            bare_p50_ms=_median_ms(bare_own),
            ratio_p50=median(own) / median(bare_own),
        )
