"""Who may park: permits, visitors' passes, denied plates."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict, Exhausted, FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from services.parking import lot_store, pass_store, store
from services.parking.lot_operations import get_lot, lot_not_found
from services.parking.pass_store import Denial, Permit, VisitorPass

_PERMIT_LONGEST: Final = timedelta(days=5 * 366)
_VISIT_LONGEST: Final = timedelta(days=7)
_VISIT_AHEAD_MAX: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class VisitorRules:
    """What the community gives a visitor, and how many a household may expect at a time."""

    free_minutes: int
    passes_max: int


async def issue_permit(tx: Transaction, permit: Permit) -> Permit:
    """Issues a month pass.

    Raises NotFound for an unknown lot or a space that is not in it, Invalid for times in the wrong order, and Conflict when another permit
    has the space or one of the plates at any of its times.
    """
    _check_times(permit.valid_from, permit.valid_until, _PERMIT_LONGEST)
    if not await store.lock_lot(tx, permit.lot_id):
        raise lot_not_found()
    if await lot_store.lot_of_space(tx, permit.space_id) != permit.lot_id:
        raise NotFound("parking.space_not_found", "该停车场没有这个车位", "The car park has no such space")
    if await pass_store.has_overlapping_permit(tx, permit):
        raise Conflict("parking.permit_overlaps", "该车位或车牌在此期间已有月卡", "The space or a plate has a permit at that time")
    await pass_store.insert_permit(tx, permit)
    return permit


def _check_times(valid_from: datetime, valid_until: datetime, longest: timedelta) -> None:
    if not timedelta(0) < valid_until - valid_from <= longest:
        violation = FieldViolation("valid_until", "parking.validity", f"must be after valid_from, by at most {longest.days} days")
        raise Invalid("parking.validity", "有效期有误", "The validity is not possible", fields=[violation])


async def revoke_permit(tx: Transaction, permit_id: UUID) -> Permit:
    """Ends a month pass now; cars that are inside on it may still leave on it. Raises NotFound."""
    permit = await pass_store.revoke_permit(tx, permit_id)
    if permit is None:
        raise NotFound("parking.permit_not_found", "没有找到该月卡", "There is no such permit")
    return permit


async def create_visitor_pass(tx: Transaction, household_id: UUID, plate: str, valid_from: datetime, valid_until: datetime) -> VisitorPass:
    """A household invites a visitor's car. Raises Invalid for times that cannot be, Exhausted when it expects too many."""
    _check_times(valid_from, valid_until, _VISIT_LONGEST)
    if not tx.now < valid_until <= tx.now + _VISIT_AHEAD_MAX:
        violation = FieldViolation("valid_until", "parking.validity", f"must be in the next {_VISIT_AHEAD_MAX.days} days")
        raise Invalid("parking.validity", "有效期有误", "The validity is not possible", fields=[violation])
    rules = tx.resource(VisitorRules)
    if await pass_store.count_visitor_passes(tx, household_id) >= rules.passes_max:
        zh, en = "有效的访客邀请过多", "The household has too many visitors' passes"
        raise Exhausted("parking.too_many_visitor_passes", zh, en, retry_after_s=3600)
    visitor_pass = VisitorPass(new_id(), household_id, plate, valid_from, valid_until, rules.free_minutes)
    await pass_store.insert_visitor_pass(tx, visitor_pass)
    return visitor_pass


async def revoke_visitor_pass(tx: Transaction, household_id: UUID, visitor_pass_id: UUID) -> VisitorPass:
    """Takes an invitation back; a visitor who is inside keeps what it gave. Raises NotFound."""
    visitor_pass = await pass_store.revoke_visitor_pass(tx, household_id, visitor_pass_id)
    if visitor_pass is None:
        raise NotFound("parking.visitor_pass_not_found", "没有找到该访客邀请", "There is no such visitor's pass")
    return visitor_pass


async def follow_access_pass(
    tx: Transaction,
    pass_id: UUID,
    household_id: UUID | None,
    plate: str,
    validity: tuple[datetime, datetime],
    version: int,
    ended_at: datetime | None,
) -> None:
    """A pass for doors comes with a plate: it lets the car in at the same time, and ends with the pass. `plate` is not empty."""
    kept = VisitorPass(pass_id, household_id, plate, *validity, tx.resource(VisitorRules).free_minutes, ended_at)
    await pass_store.keep_access_pass(tx, kept, version)


async def deny_plate(tx: Transaction, lot_id: UUID, plate: str, reason: str) -> Denial:
    """Keeps a plate out of a lot. Raises NotFound, and Conflict when it is kept out already."""
    await get_lot(tx, lot_id)
    denial = Denial(new_id(), lot_id, plate, reason)
    if not await pass_store.insert_denial(tx, denial):
        raise Conflict("parking.already_denied", "该车牌已在禁入名单", "The plate is kept out already")
    return denial


async def remove_denial(tx: Transaction, denial_id: UUID) -> None:
    """Lets a plate in again. Raises NotFound."""
    if not await pass_store.delete_denial(tx, denial_id):
        raise NotFound("parking.denial_not_found", "没有找到该禁入记录", "There is no such denial")
