"""How orders come to be: reported by people, told by other services, due by the calendar; looked at, and given out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Denied, Exhausted, NotFound
from servicekit.households import list_homes
from servicekit.identifiers import new_id
from servicekit.sealing import DataKeys
from servicekit.staff import roles_of
from services.workorders import (
    category_operations,
    dispatch_operations,
    list_store,
    order_operations,
    order_store,
    photo_operations,
    terms_store,
)
from services.workorders.categories import Line
from services.workorders.orders import Kind, Order, Priority, State, Viewer, Visibility, responded, usual_visibility
from services.workorders.photo_store import Photo

# What a resident has open at a time; nobody has more that is broken. Staff write down what others call about.
_OPEN_MAX: Final = 100
_STAFF: Final = ("workorders.orders.triage", "workorders.orders.read", "workorders.jobs.work")


@dataclass(frozen=True, slots=True)
class Report:
    """What somebody reports. `visibility` and `priority` None are the usual ones, an empty phone is none."""

    category_id: UUID
    title: str
    description: str
    household_id: UUID | None
    building_id: UUID | None
    place: str
    contact_phone: str
    visibility: Visibility | None
    priority: Priority | None


async def report_order(tx: Transaction, order_id: UUID, report: Report, photos: Sequence[Photo]) -> Order:
    """The caller's new order, or the one that this id has already. What is clear is given out at once; a complaint waits for triage.

    Raises NotFound for a category or household that is none of theirs, Denied for who neither lives nor works here, Conflict for a category
    out of use or photos that cannot be shown, and Exhausted for who has too much open.
    """
    there = await order_store.find_order(tx, order_id)
    if there is not None:
        return there
    who = await order_operations.viewer(tx)
    await _check_may_report(tx, who)
    line = await category_operations.find_line(tx, report.category_id)
    priority = report.priority if report.priority and tx.caller.may("workorders.orders.triage") else line.priority
    order = await _new(
        tx,
        line,
        line.category.kind,
        priority,
        order_id=order_id,
        title=report.title,
        description=report.description,
        household_id=report.household_id,
        building_id=await _building_of(tx, report),
        place=report.place,
        reporter_account_id=tx.caller.account_id,
        visibility=usual_visibility(line.category.kind, report.visibility, in_household=report.household_id is not None),
    )
    order = await order_operations.add(tx, order)
    if report.contact_phone:
        phone = tx.resource(DataKeys).seal(report.contact_phone.encode(), phone_row(order_id))
        await order_store.insert_contact(tx, order_id, phone)
    await photo_operations.attach(tx, order, photos)
    return await _give_out(tx, order)


async def _check_may_report(tx: Transaction, who: Viewer) -> None:
    if any(tx.caller.may(permission) for permission in _STAFF) or (await roles_of(tx, [who.account_id]))[who.account_id]:
        return
    if not who.is_resident:
        raise Denied("workorders.not_a_resident", "仅限本小区住户和工作人员使用", "Only who lives or works here can report something")
    if await list_store.count_open(tx, who.account_id, _OPEN_MAX) >= _OPEN_MAX:
        zh, en = "您未完成的工单过多", "You have too many open orders"
        raise Exhausted("workorders.too_many_open", zh, en, retry_after_s=3600)


async def _building_of(tx: Transaction, report: Report) -> UUID | None:
    if report.household_id is None:
        return report.building_id
    for home in (await list_homes(tx, [tx.caller.account_id])).get(tx.caller.account_id, []):
        if home.household_id == report.household_id:
            return home.building_id
    raise NotFound("workorders.household_unknown", "没有找到该住户", "There is no such household")


async def _new(
    tx: Transaction,
    line: Line,
    kind: Kind,
    priority: Priority,
    *,
    title: str,
    order_id: UUID | None = None,
    description: str = "",
    household_id: UUID | None = None,
    building_id: UUID | None = None,
    place: str = "",
    reporter_account_id: UUID | None = None,
    visibility: Visibility = Visibility.REPORTER,
    origin: str = "",
    origin_id: str = "",
    reported_at: datetime | None = None,
) -> Order:
    begun_at = min(reported_at or tx.now, tx.now)
    return Order(
        order_id=order_id or new_id(),
        community_id=tx.community_id,
        number=await order_store.next_number(tx),
        kind=kind,
        category_id=line.category.category_id,
        category=line.category.code,
        skill=line.skill,
        priority=priority,
        state=State.REPORTED,
        title=title,
        description=description,
        household_id=household_id,
        building_id=building_id,
        place=place,
        reporter_account_id=reporter_account_id,
        visibility=visibility,
        origin=origin,
        origin_id=origin_id,
        reported_at=begun_at,
        clock_from=begun_at,
        promise=line.promise(priority),
        terms_id=(await terms_store.newest_terms(tx)).terms_id,
    )


async def _give_out(tx: Transaction, order: Order) -> Order:
    """Triages an order by itself, since its reporter has said what it is, unless it is a complaint; and finds somebody for it."""
    if order.kind is not Kind.COMPLAINT:
        order = await order_operations.move(tx, order, State.TRIAGED, "triaged")
    return await dispatch_operations.begin(tx, order)


async def add_inspection(
    tx: Transaction, category_id: UUID, *, title: str, description: str, building_id: UUID | None, place: str, reported_at: datetime
) -> Order:
    """The order of an inspection that is due, given out. Raises NotFound, and Conflict for a category out of use."""
    line = await category_operations.find_line(tx, category_id)
    order = await _new(
        tx,
        line,
        Kind.INSPECTION,
        line.priority,
        title=title,
        description=description,
        building_id=building_id,
        place=place,
        reported_at=reported_at,
    )
    return await _give_out(tx, await order_operations.add(tx, order))


@dataclass(frozen=True, slots=True)
class Alarm:
    """What another service told: `origin_id` is the alarm there. `only_known` makes an order only when the category exists."""

    origin: str
    origin_id: str
    category: str
    priority: Priority | None
    title: str
    description: str
    building_id: UUID | None
    place: str
    raised_at: datetime
    only_known: bool = False


async def add_alarm(tx: Transaction, alarm: Alarm) -> Order | None:
    """The order of an alarm, given out; None when it has one, is over already, or has no category that wants one."""
    if await order_store.tell_origin(tx, alarm.origin, alarm.origin_id, is_over=False):
        return None
    if await order_store.lock_by_origin(tx, alarm.origin, alarm.origin_id) is not None:
        return None
    if alarm.only_known:
        line = await category_operations.find_line_by_code(tx, alarm.category)
    else:
        line = await category_operations.find_alarm_line(tx, alarm.category)
    if line is None:
        return None
    order = await _new(
        tx,
        line,
        Kind.ALARM,
        alarm.priority or line.priority,
        title=alarm.title,
        description=alarm.description,
        building_id=alarm.building_id,
        place=alarm.place,
        origin=alarm.origin,
        origin_id=alarm.origin_id,
        reported_at=alarm.raised_at,
    )
    return await _give_out(tx, await order_operations.add(tx, order))


async def end_alarm(tx: Transaction, origin: str, origin_id: str, note: str) -> None:
    """An alarm is over: its order is cancelled while nobody has taken it, and whoever has is told."""
    await order_store.tell_origin(tx, origin, origin_id, is_over=True)
    order = await order_store.lock_by_origin(tx, origin, origin_id)
    if order is None or not order.is_open:
        return
    if order.accepted_at is None and order.duplicate_of_order_id is None:
        await order_operations.move(tx, order, State.CANCELLED, "cancelled", note=note)
    else:
        await order_operations.amend(tx, order, "commented", note=note)


async def triage(
    tx: Transaction,
    order_id: UUID,
    *,
    category_id: UUID | None,
    priority: Priority | None,
    place: str,
    visibility: Visibility | None,
    note: str,
) -> Order:
    """Sets an open order right. A new one is given out then, unless it is a complaint: that goes to whom a person chooses.

    A new category or priority brings its own promises, counted from where the old ones were. A complaint that is answered with a note has
    had its response. Raises NotFound, and Conflict for an order that is over and a category out of use.
    """
    order = await order_operations.lock_any(tx, order_id)
    if not order.is_open:
        order_operations.check_follows(order, State.TRIAGED)
    changed = order
    if category_id is not None and category_id != order.category_id:
        line = await category_operations.find_line(tx, category_id)
        changed = replace(changed, kind=line.category.kind, category_id=category_id, category=line.category.code, skill=line.skill)
    if priority is not None:
        changed = replace(changed, priority=priority)
    if (changed.category_id, changed.priority) != (order.category_id, order.priority):
        line = await category_operations.find_line(tx, changed.category_id)
        changed = replace(changed, promise=line.promise(changed.priority))
    changed = replace(
        changed,
        place=place or order.place,
        visibility=usual_visibility(changed.kind, visibility or order.visibility, in_household=order.household_id is not None),
    )
    is_answer = changed.kind is Kind.COMPLAINT and bool(note)
    changes = {name: getattr(changed, name) for name in _TRIAGED} | (responded(changed, tx.now) if is_answer else {})
    account_id = tx.caller.account_id
    if order.state is State.REPORTED:
        triaged = await order_operations.move(tx, order, State.TRIAGED, "triaged", account_id=account_id, note=note, **changes)
    else:
        triaged = await order_operations.amend(tx, order, "triaged", account_id=account_id, note=note, **changes)
    is_offered_wrong = triaged.state is State.DISPATCHED and triaged.skill != order.skill
    if triaged.kind is Kind.COMPLAINT or not (is_offered_wrong or triaged.state in (State.TRIAGED, State.REOPENED)):
        return triaged
    return await dispatch_operations.offer(tx, triaged)


_TRIAGED: Final = ("kind", "category_id", "category", "skill", "priority", "place", "visibility", "promise")


def phone_row(order_id: UUID) -> str:
    """What a sealed phone belongs to."""
    return f"workorders.contact:{order_id}"
