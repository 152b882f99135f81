"""Trucks, and what their crews emptied. Plans are made in `planning.py`."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from services.waste import bin_operations, collection_store
from services.waste.bins import Bin, Category, Place
from services.waste.collection_store import PlannedNight, Truck

# A crew's phone may be ahead of us by as much, and nobody writes down later than this what was emptied: forecasts look no further back.
_AHEAD_MAX: Final = timedelta(minutes=2)
_AGO_MAX: Final = timedelta(days=60)


async def create_truck(
    tx: Transaction,
    *,
    name: str,
    category: Category,
    capacity_grams: int,
    depot: Place,
    shift_start_minute: int,
    shift_end_minute: int,
    fixed_round: Sequence[UUID],
) -> Truck:
    """Enters a truck. Raises Invalid for a shift without time, NotFound for a bin of its round, and Conflict when one has its name."""
    if shift_start_minute == shift_end_minute:
        field = FieldViolation("shift_end_minute", "waste.shift_empty", "must differ from the start")
        raise Invalid("waste.shift_empty", "班次的开始和结束时间不能相同", "A shift must not end when it begins", fields=[field])
    await _check_round(tx, fixed_round)
    truck = Truck(new_id(), name, category, capacity_grams, depot, shift_start_minute, shift_end_minute, fixed_round, in_use=True)
    if not await collection_store.insert_truck(tx, truck):
        raise Conflict("waste.truck_exists", "已有同名收运车", "There is a truck of this name")
    return truck


async def update_truck(tx: Transaction, truck_id: UUID, *, in_use: bool | None, fixed_round: Sequence[UUID] | None) -> Truck:
    """Changes what is given. Raises NotFound for the truck, or a bin of its round."""
    await _check_round(tx, fixed_round or ())
    truck = await collection_store.update_truck(tx, truck_id, in_use, fixed_round)
    if truck is None:
        raise NotFound("waste.truck_unknown", "没有找到该收运车", "There is no such truck")
    return truck


async def _check_round(tx: Transaction, bin_ids: Sequence[UUID]) -> None:
    if bin_ids and len(await collection_store.bins_known(tx, bin_ids)) < len(bin_ids):
        raise bin_operations.bin_unknown()


async def record_emptying(tx: Transaction, bin_id: UUID, compartments: Sequence[str], emptied_at: datetime | None) -> Bin:
    """Notes that compartments were emptied, all when none is named, now when no time is given.

    Raises NotFound, and Invalid for a compartment that the bin does not have, or a time that is to come or more than 60 days past.
    """
    at = emptied_at or tx.now
    if not tx.now - _AGO_MAX <= at <= tx.now + _AHEAD_MAX:
        field = FieldViolation("emptied_at", "waste.emptied_at", "must lie within the last 60 days")
        raise Invalid("waste.emptied_at", "清运时间须在最近 60 天内", "The time must lie within the last 60 days", fields=[field])
    return await bin_operations.empty_compartments(tx, bin_id, compartments, min(at, tx.now))


async def get_plan(tx: Transaction, day: date) -> PlannedNight:
    """The plan of a night. Raises NotFound."""
    night = await collection_store.find_plan(tx, day)
    if night is None:
        raise NotFound("waste.plan_unknown", "该晚没有收运计划", "There is no plan of that night")
    return night
