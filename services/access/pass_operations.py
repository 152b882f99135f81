"""Visitors' passes: invited by residents, or by staff for a work order; confirmed by the visitor's link; ended by people, time and use."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from linli.access.v1.events_pb2 import PassChanged
from linli.notification.v1.events_pb2 import Notified
from servicekit.database import Transaction
from servicekit.errors import Conflict, Exhausted, FieldViolation, Invalid, NotFound
from servicekit.households import is_household
from servicekit.identifiers import new_id
from servicekit.timers import Due, cancel_timers, set_timers
from servicekit.times import to_timestamp
from services.access import door_store, pass_store, snapshot_operations
from services.access.credential_operations import DoorCode, sign_code
from services.access.door_operations import check_zones, find_way
from services.access.entries import LEAVING
from services.access.pass_store import WorkOrder
from services.access.passes import VISIT_MARGIN, Link, Pass, PassKind, PassState, is_possible, read_link

# The timer of a pass: its time is over, and a day later nobody is inside on it any more.
TIMER: Final = "pass_ends"
_ENDS, _FORGOTTEN = "ends", "forgotten"
_SECRET_BYTES: Final = 16
# As long as what happened at doors.
_KEPT: Final = timedelta(days=180)
_FORGOTTEN_AT_ONCE: Final = 20_000
# Who comes through several doors on their way is told of once.
_ONE_VISIT: Final = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class VisitorRules:
    """How many visitors a household may expect at a time."""

    passes_max: int


@dataclass(frozen=True, slots=True)
class Invitation:
    """A new pass, and the link that is shown this once."""

    made: Pass
    link: Link


async def invite_visitor(
    tx: Transaction,
    household_id: UUID,
    kind: PassKind,
    name: str,
    plate: str,
    valid_from: datetime,
    valid_until: datetime,
    *,
    one_time: bool,
) -> Invitation:
    """A household invites a visitor, or lets a delivery in, which always enters once.

    Raises NotFound for a household that is none of ours, Invalid for times that cannot be, and Exhausted when it expects too many.
    """
    if not is_possible(kind, valid_from, valid_until, tx.now):
        text = "must be in the future and after valid_from, by at most 31 days, for a delivery by at most one hour"
        field = FieldViolation("valid_until", "access.validity", text)
        raise Invalid("access.validity", "有效期有误", "The validity is not possible", fields=[field])
    if not await is_household(tx, household_id):
        raise NotFound("access.household_unknown", "没有找到该住户", "There is no such household")
    if await pass_store.count_live(tx, household_id) >= tx.resource(VisitorRules).passes_max:
        zh, en = "有效的访客邀请过多", "The household has too many visitors' passes"
        raise Exhausted("access.too_many_passes", zh, en, retry_after_s=3600)
    once = one_time or kind is PassKind.DELIVERY
    made = Pass(
        new_id(), kind, household_id, None, name, plate, valid_from, valid_until, int(once), zone_ids=(), invited_by=tx.caller.account_id
    )
    return await _invite(tx, made)


async def invite_contractor(tx: Transaction, work_order_id: UUID, name: str, zone_ids: Iterable[UUID], plate: str) -> Invitation:
    """Lets a contractor in for a work order, within the time of its visit and half an hour around it.

    Raises NotFound for an unknown order or zone, and Conflict for an order that is closed, or whose visit is not agreed or over.
    """
    order = await pass_store.lock_work_order(tx, work_order_id)
    if order is None:
        raise NotFound("access.work_order_unknown", "没有找到该工单", "There is no such work order")
    if order.closed:
        raise Conflict("access.work_order_closed", "该工单已关闭", "The work order is closed")
    window = _window(order)
    if window is None:
        raise Conflict("access.visit_not_agreed", "该工单尚未约定上门时间", "No visit is agreed for the work order")
    if window[1] <= tx.now:
        raise Conflict("access.visit_over", "约定的上门时间已过", "The visit that was agreed is over")
    zones = tuple(dict.fromkeys(zone_ids))
    await check_zones(tx, zones)
    made = Pass(
        new_id(), PassKind.CONTRACTOR, None, work_order_id, name, plate, *window, 0, zone_ids=zones, invited_by=tx.caller.account_id
    )
    return await _invite(tx, made)


def _window(order: WorkOrder) -> tuple[datetime, datetime] | None:
    if order.visit_from is None or order.visit_until is None or order.visit_until <= order.visit_from:
        return None
    return order.visit_from - VISIT_MARGIN, order.visit_until + VISIT_MARGIN


async def _invite(tx: Transaction, made: Pass) -> Invitation:
    link = Link(tx.community_id, made.pass_id, secrets.token_bytes(_SECRET_BYTES))
    await pass_store.insert_pass(tx, made, _hash(link.secret))
    _publish(tx, made)
    return Invitation(made, link)


def _hash(secret: bytes) -> bytes:
    # The secret is random and long: nothing slower is needed.
    return hashlib.sha256(secret).digest()


# By the visitor, with the link.


@dataclass(frozen=True, slots=True)
class InvitationView:
    """A pass as its visitor sees it, with the doors on the way by name."""

    shown: Pass
    doors: list[str]


async def get_invitation(tx: Transaction, link: str) -> InvitationView:
    """What a link invites to; moves the transaction to its community. Raises NotFound, the same for every link that is none."""
    return await _view(tx, await _follow(tx, link))


async def confirm_invitation(tx: Transaction, link: str, name: str, plate: str) -> InvitationView:
    """The visitor accepts, with another name and plate when they are not empty. To accept again changes only these.

    Raises NotFound as `get_invitation` does, and Conflict for a pass that is over.
    """
    found = await _follow(tx, link)
    if found.state(tx.now) not in (PassState.INVITED, PassState.CONFIRMED):
        raise _pass_over()
    confirmed = replace(
        found, visitor_name=name or found.visitor_name, plate=plate or found.plate, confirmed_at=found.confirmed_at or tx.now
    )
    if confirmed != found:
        confirmed = await _change(tx, confirmed)
    if found.confirmed_at is None:
        _tell_inviter(tx, confirmed, "access.visitor_confirmed", "您邀请的访客已确认邀请", "Your visitor has accepted the invitation")
    return await _view(tx, confirmed)


async def create_visitor_code(tx: Transaction, link: str) -> DoorCode:
    """A dynamic code for the visitor.

    Raises NotFound as `get_invitation` does, and Conflict for a pass that is not confirmed, has not begun, is over, or opens no door.
    """
    found = await _follow(tx, link)
    match found.state(tx.now):
        case PassState.INVITED:
            raise Conflict("access.pass_not_confirmed", "请先确认邀请", "Accept the invitation first")
        case PassState.ENDED | PassState.EXPIRED:
            raise _pass_over()
    if tx.now < found.valid_from:
        raise Conflict("access.pass_not_begun", "访客邀请尚未生效", "The invitation has not begun yet")
    if not any(entry.codes for entry in (await find_way(tx, found.pass_id)).values()):
        raise Conflict("access.no_door_for_codes", "没有可用二维码打开的门", "No door opens to a code of yours")
    return sign_code(tx, found.pass_id, None)


async def _follow(tx: Transaction, text: str) -> Pass:
    """The pass of a link, locked, in the transaction's community from now on."""
    link = read_link(text)
    if link is not None:
        await tx.enter(link.community_id)
        kept = await pass_store.find_secret_hash(tx, link.pass_id)
        # Compared in one time whether there is such a pass or not.
        is_genuine = hmac.compare_digest(kept or bytes(32), _hash(link.secret))
        found = await pass_store.lock_pass(tx, link.pass_id) if is_genuine else None
        if found is not None:
            return found
    raise NotFound("access.invitation_unknown", "邀请链接无效", "This invitation is not known")


async def _view(tx: Transaction, shown: Pass) -> InvitationView:
    way = await find_way(tx, shown.pass_id, unconfirmed=True)
    return InvitationView(shown, [door.name for door in await door_store.find_doors(tx, way.keys())])


def _pass_over() -> Conflict:
    return Conflict("access.pass_over", "访客邀请已失效", "The invitation is over")


# Ending.


async def revoke_pass(tx: Transaction, household_id: UUID, pass_id: UUID) -> Pass:
    """A household takes a pass back, or leaves it ended. Raises NotFound for another household's."""
    found = await pass_store.lock_pass(tx, pass_id)
    if found is None or found.household_id != household_id:
        raise _pass_unknown()
    return await _end(tx, found)


async def end_pass(tx: Transaction, pass_id: UUID) -> Pass:
    """Staff end any pass, or leave it ended. Raises NotFound."""
    found = await pass_store.lock_pass(tx, pass_id)
    if found is None:
        raise _pass_unknown()
    return await _end(tx, found)


def _pass_unknown() -> NotFound:
    return NotFound("access.pass_unknown", "没有找到该访客通行证", "There is no such pass")


async def _end(tx: Transaction, found: Pass) -> Pass:
    return found if found.ended_at is not None else await _change(tx, replace(found, ended_at=tx.now))


async def end_passes_of_inviters(tx: Transaction, household_id: UUID, account_ids: Iterable[UUID]) -> None:
    """Ends what those who have moved away from a household had given out."""
    for found in await pass_store.lock_passes_of_inviters(tx, household_id, list(account_ids)):
        await _end(tx, found)


async def hear_work_order(tx: Transaction, order: WorkOrder, version: int) -> None:
    """Passes go with their work order's visit, and end with the order, or when its visit is not agreed any more."""
    if not await pass_store.remember_work_order(tx, order, version):
        return
    window = None if order.closed else _window(order)
    for found in await pass_store.lock_passes_of_work_order(tx, order.order_id):
        if window is None:
            await _end(tx, found)
        elif window != (found.valid_from, found.valid_until):
            await _change(tx, replace(found, valid_from=window[0], valid_until=window[1]))


async def hear_time(tx: Transaction, due: Due) -> None:
    """A pass's time is over, which is told; or nobody is inside on it any more, and terminals forget it."""
    found = await pass_store.lock_pass(tx, due.subject_id)
    if found is None:
        return
    if due.name == _FORGOTTEN:
        await snapshot_operations.refresh(tx, [found.pass_id])
    elif found.ended_at is None and found.valid_until <= tx.now:
        await _change(tx, found)


async def forget_visitors(tx: Transaction) -> None:
    """Forgets visitors of long ago, with their names and plates."""
    await pass_store.forget(tx, tx.now - _KEPT, _FORGOTTEN_AT_ONCE)


async def _change(tx: Transaction, changed: Pass) -> Pass:
    """Keeps a changed pass as its next version, and tells whoever must know."""
    kept = replace(changed, version=changed.version + 1)
    await pass_store.update_pass(tx, kept)
    _publish(tx, kept)
    if kept.confirmed_at is not None:
        await snapshot_operations.refresh(tx, [kept.pass_id])
        await cancel_timers(tx, kept.pass_id, TIMER)
        over_at = kept.ended_at or kept.valid_until
        forgotten = Due(TIMER, kept.pass_id, _FORGOTTEN, over_at + LEAVING)
        await set_timers(tx, [forgotten, *([Due(TIMER, kept.pass_id, _ENDS, over_at)] if over_at > tx.now else [])])
    return kept


def _publish(tx: Transaction, changed: Pass) -> None:
    event = PassChanged(
        pass_id=str(changed.pass_id),
        household_id=str(changed.household_id or ""),
        plate=changed.plate,
        valid_from=to_timestamp(changed.valid_from),
        valid_until=to_timestamp(changed.valid_until),
        active=changed.state(tx.now) is PassState.CONFIRMED,
    )
    tx.publish(event, version=changed.version)


# Entering.


async def count_entry(tx: Transaction, pass_id: UUID, door_id: UUID) -> None:
    """Counts that a door let a visitor in, once for each time; the inviter is told once for each visit. Unknown passes are nobody's."""
    found = await pass_store.lock_pass(tx, pass_id)
    if found is None:
        return
    entries = await pass_store.count_entry(tx, pass_id, door_id)
    is_used_up = (
        found.entries_max > 0
        and found.used_up_at is None
        and all(entries.get(door, 0) >= found.entries_max for door in await find_way(tx, pass_id))
    )
    used = replace(found, last_used_at=tx.now, used_up_at=tx.now if is_used_up else found.used_up_at)
    if is_used_up:
        await _change(tx, used)
    else:
        await pass_store.update_pass(tx, used)
    if found.last_used_at is None or tx.now - found.last_used_at > _ONE_VISIT:
        _tell_inviter(tx, found, "access.visitor_entered", "您邀请的访客已到达", "Your visitor has arrived")


def _tell_inviter(tx: Transaction, about: Pass, kind: str, zh: str, en: str) -> None:
    # Without the visitor's name: events hold nothing personal.
    link = "/v1/access/passes" if about.household_id is None else f"/v1/households/{about.household_id}/passes"
    tx.publish(Notified(account_id=str(about.invited_by), kind=kind, text_zh=zh, text_en=en, link=link))
