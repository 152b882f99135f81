"""The SQL of collection: trucks, what a plan needs to know of compartments, and the plans. Fill is in thousandths, weights are grams."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from servicekit.communities import zone_of
from servicekit.database import Transaction
from servicekit.listing import Listing
from services.waste.bins import Category, Compartment, Place
from services.waste.forecast import Reading
from services.waste.rounds import Figures, ForecastFill, Plan, Round

# Trucks.


@dataclass(frozen=True, slots=True)
class Truck:
    """A truck of the register. Its shift is in minutes after the local midnight; an end before the start is on the next day."""

    truck_id: UUID
    name: str
    category: Category
    capacity_grams: int
    depot: Place
    shift_start_minute: int
    shift_end_minute: int
    fixed_round: Sequence[UUID]
    in_use: bool


_INSERT_TRUCK = """
INSERT INTO trucks
    (truck_id, community_id, name, category, capacity_grams, depot_latitude, depot_longitude, shift_start_minute, shift_end_minute,
     fixed_round)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (community_id, name) DO NOTHING
"""


async def insert_truck(tx: Transaction, truck: Truck) -> bool:
    """Adds a truck; False when one has its name."""
    row = (truck.truck_id, tx.community_id, truck.name, truck.category, truck.capacity_grams, truck.depot.latitude, truck.depot.longitude)
    return await tx.execute(_INSERT_TRUCK, *row, truck.shift_start_minute, truck.shift_end_minute, truck.fixed_round) == 1


_UPDATE_TRUCK = """
UPDATE trucks SET in_use = coalesce($2, in_use), fixed_round = coalesce($3::uuid[], fixed_round) WHERE truck_id = $1
RETURNING
    truck_id, name, category, capacity_grams, depot_latitude, depot_longitude, shift_start_minute, shift_end_minute, fixed_round, in_use
"""
_TRUCK: Final = """
SELECT truck_id, name, category, capacity_grams, depot_latitude, depot_longitude, shift_start_minute, shift_end_minute, fixed_round, in_use
FROM trucks
"""
_TRUCKS = Listing(select=_TRUCK, where="community_id = {}", key=("name",))
_TRUCKS_IN_USE = _TRUCK + "WHERE community_id = $1 AND in_use ORDER BY truck_id"


async def update_truck(tx: Transaction, truck_id: UUID, in_use: bool | None, fixed_round: Sequence[UUID] | None) -> Truck | None:
    """Changes what is given; None when there is no such truck."""
    row = await tx.fetchrow(_UPDATE_TRUCK, truck_id, in_use, fixed_round)
    return None if row is None else _truck(row)


async def list_trucks(tx: Transaction, after: str | None, limit: int) -> list[Truck]:
    """The community's trucks by name."""
    return [_truck(row) for row in await _TRUCKS.fetch(tx, [tx.community_id], after, limit)]


async def trucks_in_use(tx: Transaction) -> list[Truck]:
    """The community's trucks that are in use."""
    return [_truck(row) for row in await tx.fetch(_TRUCKS_IN_USE, tx.community_id)]


def _truck(row: Any) -> Truck:
    truck_id, name, category, capacity_grams, latitude, longitude, start, end, fixed_round, in_use = row
    return Truck(truck_id, name, Category(category), capacity_grams, Place(latitude, longitude), start, end, fixed_round, in_use)


_BINS_KNOWN = "SELECT bin_id FROM bins WHERE community_id = $1 AND bin_id = ANY($2::uuid[])"


async def bins_known(tx: Transaction, bin_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the bins that the community has."""
    return {row["bin_id"] for row in await tx.fetch(_BINS_KNOWN, tx.community_id, bin_ids)}


# What a plan needs to know.


@dataclass(frozen=True, slots=True)
class Standing:
    """A compartment of a bin that is in use: where it stands, and when its bin was last heard."""

    bin_id: UUID
    place: Place
    last_heard_at: datetime | None
    compartment: Compartment


_COMPARTMENTS = """
SELECT bin_id, latitude, longitude, last_heard_at, compartments.name, category, capacity_grams, fill_permille, fill_at, emptied_at
FROM compartments JOIN bins USING (bin_id) WHERE bins.community_id = $1 AND in_use ORDER BY bin_id, compartments.name
"""


async def list_compartments(tx: Transaction) -> list[Standing]:
    """The compartments of the community's bins that are in use."""
    standing = []
    for row in await tx.fetch(_COMPARTMENTS, tx.community_id):
        bin_id, latitude, longitude, last_heard_at, name, category, *rest = row
        standing.append(Standing(bin_id, Place(latitude, longitude), last_heard_at, Compartment(name, Category(category), *rest)))
    return standing


# One for each hour, its last: a forecast tells no more, and their number has a limit whatever a bin sends.
_READINGS = """
SELECT bin_id, compartment, array_agg(at ORDER BY at) AS at, array_agg(fill_permille ORDER BY at) AS fill_permille
FROM (
    SELECT DISTINCT ON (bin_id, compartment, date_bin('1 hour', at, 'epoch')) bin_id, compartment, at, fill_permille
    FROM fill_levels WHERE bin_id = ANY($1::uuid[]) AND at >= $2
    ORDER BY bin_id, compartment, date_bin('1 hour', at, 'epoch'), at DESC
) AS hourly
GROUP BY bin_id, compartment
"""


async def list_readings(tx: Transaction, bin_ids: Collection[UUID], since: datetime) -> dict[tuple[UUID, str], list[Reading]]:
    """How full each compartment of these bins was at the end of each hour in which it changed, oldest first, by its bin and its name."""
    rows = await tx.fetch(_READINGS, bin_ids, since)
    return {(row["bin_id"], row["compartment"]): list(map(Reading, row["at"], row["fill_permille"])) for row in rows}


# Plans.


@dataclass(frozen=True, slots=True)
class PlannedNight:
    """A night's plan. In lists it has its figures only."""

    day: date
    planned_at: datetime
    plan: Plan


_UPSERT_PLAN = """
INSERT INTO collection_plans AS plan
    (community_id, day, planned_at, planned_distance_m, planned_emptyings, planned_overflow_minutes,
     fixed_distance_m, fixed_emptyings, fixed_overflow_minutes, rounds, left_out)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (community_id, day) DO UPDATE SET
    planned_at = excluded.planned_at, planned_distance_m = excluded.planned_distance_m, planned_emptyings = excluded.planned_emptyings,
    planned_overflow_minutes = excluded.planned_overflow_minutes, fixed_distance_m = excluded.fixed_distance_m,
    fixed_emptyings = excluded.fixed_emptyings, fixed_overflow_minutes = excluded.fixed_overflow_minutes,
    rounds = excluded.rounds, left_out = excluded.left_out
WHERE $12::timestamptz IS NULL OR plan.planned_at < $12
"""


async def upsert_plan(tx: Transaction, night: PlannedNight, older_than: datetime | None) -> bool:
    """Writes a night's plan in place of one that is older than that, or of any; False when there is one that is not."""
    plan = night.plan
    figures = [value for f in (plan.planned, plan.fixed) for value in (f.distance_m, f.emptyings, f.overflow_minutes)]
    documents = (msgspec.json.encode(each).decode() for each in (plan.rounds, plan.left_out))
    return await tx.execute(_UPSERT_PLAN, tx.community_id, night.day, night.planned_at, *figures, *documents, older_than) == 1


_FIND_PLAN = """
SELECT day, planned_at, planned_distance_m, planned_emptyings, planned_overflow_minutes, fixed_distance_m, fixed_emptyings,
    fixed_overflow_minutes, rounds, left_out
FROM collection_plans WHERE community_id = $1 AND day = $2
"""
_PLANS = Listing(
    select="""
SELECT day, planned_at, planned_distance_m, planned_emptyings, planned_overflow_minutes, fixed_distance_m, fixed_emptyings,
    fixed_overflow_minutes
FROM collection_plans
""",
    where="community_id = {}",
    key=("day",),
    descending=True,
)


async def find_plan(tx: Transaction, day: date) -> PlannedNight | None:
    """The plan of a night, if there is one."""
    row = await tx.fetchrow(_FIND_PLAN, tx.community_id, day)
    if row is None:
        return None
    *figures, rounds, left_out = row
    return _night(figures, msgspec.json.decode(rounds, type=list[Round]), msgspec.json.decode(left_out, type=list[ForecastFill]))


async def list_plans(tx: Transaction, after: date | None, limit: int) -> list[PlannedNight]:
    """The figures of the nights that were planned, newest first."""
    return [_night(row, (), ()) for row in await _PLANS.fetch(tx, [tx.community_id], after, limit)]


def _night(figures: Any, rounds: Sequence[Round], left_out: Sequence[ForecastFill]) -> PlannedNight:
    day, planned_at, *values = figures
    return PlannedNight(day, planned_at, Plan(rounds, Figures(*values[:3]), Figures(*values[3:]), left_out))


_COMMUNITIES = """
SELECT DISTINCT ON (community_id) community_id, time_zone FROM trucks LEFT JOIN known_communities USING (community_id) WHERE in_use
"""


async def communities_with_trucks(tx: Transaction) -> dict[UUID, ZoneInfo]:
    """The time zone of each community that has trucks in use."""
    return {row["community_id"]: zone_of(row["time_zone"]) for row in await tx.fetch(_COMMUNITIES)}
