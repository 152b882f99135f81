"""Inspections that come by a calendar rule: each time becomes an order."""

from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from servicekit import communities
from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.timers import Due, cancel_timers, set_timers
from services.workorders import category_operations, inspection_store, report_operations
from services.workorders.inspection_store import Inspection
from services.workorders.recurrence import RecurrenceError, next_after

# The kind and name of the timer at which an inspection is due.
INSPECTION: Final = "inspection"


async def create_inspection(tx: Transaction, inspection: Inspection) -> Inspection:
    """Plans an inspection from now on.

    Raises NotFound and Conflict for its category, and Invalid for a start that is no time, and a rule that is none or never comes.
    """
    await category_operations.find_line(tx, inspection.category_id)
    try:
        starts_at = datetime.fromisoformat(inspection.starts_at)
        if not 2000 <= starts_at.year < 2200:
            raise ValueError
    except ValueError:
        field = FieldViolation("starts_at", "workorders.starts_at", "must be a date and time between the years 2000 and 2199")
        raise Invalid("workorders.starts_at", "开始时间无效", "There is no such date and time", fields=[field]) from None
    try:
        next_at = next_after(starts_at, inspection.recurrence, await communities.find_time_zone(tx), tx.now)
    except RecurrenceError as error:
        raise _recurrence_invalid(str(error)) from None
    if next_at is None:
        raise _recurrence_invalid("never comes from now on")
    inspection = replace(inspection, next_at=next_at)
    await inspection_store.insert_inspection(tx, inspection)
    await set_timers(tx, [_timer(inspection.inspection_id, next_at)])
    return inspection


def _timer(inspection_id: UUID, due_at: datetime) -> Due:
    return Due(INSPECTION, inspection_id, INSPECTION, due_at)


def _recurrence_invalid(why: str) -> Invalid:
    field = FieldViolation("recurrence", "workorders.recurrence", why)
    return Invalid("workorders.recurrence", "重复规则无效（RFC 5545）", "The rule cannot be followed (RFC 5545)", fields=[field])


async def begin_inspection(tx: Transaction, due: Due) -> None:
    """An inspection is due: its order is made, and the next time set.

    What was due several times while nobody was there to see makes one order, not one for each. While its category is out of use it makes
    none, and goes on coming.
    """
    inspection = await inspection_store.lock_inspection(tx, due.subject_id)
    if inspection is None or inspection.ended_at is not None:
        return
    zone = await communities.find_time_zone(tx)
    next_at = next_after(datetime.fromisoformat(inspection.starts_at), inspection.recurrence, zone, tx.now)
    await inspection_store.set_next(tx, replace(inspection, next_at=next_at))
    if next_at is not None:
        await set_timers(tx, [_timer(inspection.inspection_id, next_at)])
    try:
        await report_operations.add_inspection(
            tx,
            inspection.category_id,
            title=inspection.name,
            description="\n".join(f"- {each}" for each in inspection.checklist),
            building_id=inspection.building_id,
            place=inspection.place,
            reported_at=due.due_at,
        )
    except Conflict:
        return


async def end_inspection(tx: Transaction, inspection_id: UUID) -> Inspection:
    """Ends an inspection, or leaves it ended; its orders go on. Raises NotFound."""
    inspection = await inspection_store.lock_inspection(tx, inspection_id)
    if inspection is None:
        raise NotFound("workorders.inspection_unknown", "没有找到该巡检计划", "There is no such inspection")
    if inspection.ended_at is None:
        inspection = replace(inspection, next_at=None, ended_at=tx.now)
        await inspection_store.set_next(tx, inspection)
        await cancel_timers(tx, inspection_id)
    return inspection
