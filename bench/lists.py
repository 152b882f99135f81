"""Figure: the lists of technicians, managers and residents with a million orders in one community, and the figures of their year.

Through the gateway, against the very statement that chooses the page, on a bare connection without walls, under the same load in the same
run, in alternating rounds. A page is more than that statement: its photos, the phones that are shown, who looks, gRPC and JSON.
"""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, Final, cast

import asyncpg
import httpx

from bench.http import Pool
from bench.measure import Run, open_loop, report
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
ROUND_S = 10.0
ROUNDS = 3
FIGURES = 5

ADD_TEAMS: Final = "INSERT INTO teams (team_id, community_id, name) SELECT uuidv7(), $1, 'bench ' || n FROM generate_series(1, $2::int) AS n"
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
    SELECT *, md5('bench household ' || nth_household)::uuid AS household_id,
        md5('bench building ' || nth_household % $7::int)::uuid AS building_id,
        md5('bench resident ' || nth_household)::uuid AS reporter_id,
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
    on_site_minutes, done_minutes, round_the_clock, response_due_at, on_site_due_at, done_due_at, missed, missed_at, reopened, stars,
    rating_text, cause, resolution, amount_fen, is_paid, origin, origin_id, version
)
SELECT uuidv7(reported_at - now()), $1, number, kind, category_id, code, CASE WHEN is_for_all THEN 'plumbing' ELSE skill END,
    CASE WHEN at_priority < 0.02 THEN 1 WHEN at_priority < 0.22 THEN 2 WHEN at_priority < 0.8 THEN 3 ELSE 4 END, stated.state,
    CASE WHEN stated.state = 'waiting' THEN 'part' END, CASE WHEN stated.state = 'waiting' THEN 'on_site' END,
    '厨房水管漏水', '水槽下方的水管接头处一直滴水，已经用盆接着，请尽快来看一下。', household_id, building_id, '2 单元 502 室 厨房', reporter_id,
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
    reported_at + interval '15 minutes', reported_at + interval '1 hour', reported_at + interval '1 day',
    CASE WHEN is_missed THEN '{response}' ELSE '{}' END::text[], CASE WHEN is_missed THEN reported_at + interval '15 minutes' END, 0,
    CASE WHEN is_rated AND was_done THEN 1 + number % 5 ELSE 0 END, '', '', CASE WHEN was_done THEN '更换接头垫圈，试水正常。' ELSE '' END, 0,
    false, '', '', 4
FROM stated
JOIN categories ON category_id = ($2::uuid[])[nth_category]
JOIN technicians ON technicians.account_id = technician_id AND technicians.community_id = $1
ORDER BY number
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
    """A community with its orders, and who looks at them."""

    community_id: uuid.UUID
    technician_id: uuid.UUID
    technicians: Sequence[uuid.UUID]
    team_id: uuid.UUID
    category_id: uuid.UUID
    building_id: uuid.UUID
    reporter_id: uuid.UUID
