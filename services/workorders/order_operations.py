"""Every change of an order goes through `move` or `amend`: the row, the step, its promises, the event, and who is told.

What people do with orders is in `report_operations.py` and `work_operations.py`, how somebody is found for them in
`dispatch_operations.py`.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from prometheus_client import Counter

from linli.workorders.v1.events_pb2 import TargetMissed, WorkOrderChanged
from servicekit.database import Transaction
from servicekit.errors import Conflict, NotFound
from servicekit.households import list_homes
from servicekit.messaging import STREAM_AGE_S
from servicekit.staff import list_staff
from servicekit.states import advance
from servicekit.times import to_timestamp
from services.workorders import notices, order_store, target_operations, terms_store
from services.workorders.order_store import Step
from services.workorders.orders import CLOSED, FOLLOWS, Order, State, Target, Viewer, advanced, told_name

# What becomes of an order becomes of those that are linked to it. What their reporters did on their own stays.
_LINKED_FOLLOW: Final = {
    State.DONE: frozenset(State) - CLOSED,
    State.CONFIRMED: frozenset({State.DONE}),
    State.REOPENED: frozenset({State.DONE, State.CONFIRMED}),
    State.CANCELLED: frozenset(State) - CLOSED,
}
# News that comes later than that does not come any more, but from the dead letters.
_REMEMBERED: Final = timedelta(seconds=4 * STREAM_AGE_S)
# How long somebody may still have to call about an order that is closed, and how many phones one run forgets.
_PHONE_KEPT: Final = timedelta(days=90)
_PHONES_AT_ONCE: Final = 10_000
FIRST_RESPONSES = Counter("linli_first_responses_total", "Promises of a first response that were kept in time, or missed", ["outcome"])
_IN_TIME, _LATE = FIRST_RESPONSES.labels("in_time"), FIRST_RESPONSES.labels("late")


async def move(
    tx: Transaction, order: Order, to: State, action: str, *, account_id: UUID | None = None, note: str = "", **changes: Any
) -> Order:
    """The order, whose row is locked, in another state: written, told, and its linked orders with it.

    `changes` are further fields of the order and win over what the state brings. `account_id` is who does it, None for the clock and other
    services. Raises Conflict for a state that does not follow, and for a linked order, which goes on with its original.
    """
    check_follows(order, to)
    if order.duplicate_of_order_id is not None and to not in (State.CONFIRMED, State.CANCELLED):
        raise is_linked()
    return await _write(tx, order, replace(advanced(order, to, tx.now), **changes), action, account_id, note)


def check_follows(order: Order, to: State) -> None:
    """Raises Conflict for a state that does not follow the order's."""
    zh, en = "工单当前状态不允许此操作", "The order's state does not allow this"
    advance(order.state, to, FOLLOWS, code="workorders.transition_not_allowed", zh=zh, en=en)


async def amend(tx: Transaction, order: Order, action: str, *, account_id: UUID | None = None, note: str = "", **changes: Any) -> Order:
    """The order, whose row is locked, with these fields changed and this step taken, in the state in which it is."""
    return await _write(tx, order, replace(order, **changes), action, account_id, note)


async def _write(tx: Transaction, before: Order, after: Order, action: str, account_id: UUID | None, note: str) -> Order:
    for target in Target:
        due_at, kept_at = before.due_at(target), after.kept_at(target)
        if not (before.awaits(target) and not before.is_missed(target) and due_at and kept_at):
            continue
        if due_at < (before.clock_stopped_at or kept_at):
            # Kept late, before its timer came to fire. The promise was missed all the same.
            before = await miss(tx, before, target, 1)
            after = replace(after, told=before.told, missed=before.missed, missed_at=before.missed_at)
        elif target is Target.RESPONSE:
            tx.count(_IN_TIME)
    after = await target_operations.follow(tx, before, after)
    after = replace(after, version=before.version + 1)
    await order_store.update_order(tx, after)
    if before.closed_at != after.closed_at:
        await order_store.close_contact(tx, after.order_id, after.closed_at)
    await order_store.insert_step(tx, Step(after.order_id, after.version, action, after.state, tx.now, account_id, note))
    if changed_event(after) != changed_event(before):
        tx.publish(changed_event(after), version=after.version)
    notices.tell_step(tx, before, after, action, account_id)
    for linked in await order_store.lock_linked(tx, after.order_id):
        if before.state is not after.state and linked.state in _LINKED_FOLLOW.get(after.state, ()):
            followed = replace(advanced(linked, after.state, tx.now), cause=after.cause, resolution=after.resolution)
            await _write(tx, linked, followed, action, account_id, note)
        elif linked.is_open:
            # Its reporter hears of each step of the original, under the number that they know.
            told = replace(linked, technician_account_id=None, offered_to_account_id=None)
            notices.tell_step(tx, replace(told, state=before.state), replace(told, state=after.state), action, account_id)
    return after


async def add(tx: Transaction, order: Order, note: str = "") -> Order:
    """A new order: written and told, with its promises. Who gives it out is another step."""
    order = replace(await target_operations.promise(tx, order), version=1)
    await order_store.insert_order(tx, order)
    await order_store.insert_step(tx, Step(order.order_id, 1, "reported", order.state, order.reported_at, order.reporter_account_id, note))
    tx.publish(changed_event(order), version=1)
    return order


async def miss(tx: Transaction, order: Order, target: Target, level: int) -> Order:
    """Notes that a promise was missed, tells this step of the chain, and at the first the reporter and those of linked orders."""
    terms = await terms_store.find_terms(tx, order.terms_id)
    role = terms.escalation_roles[level - 1]
    notices.tell(tx, await list_staff(tx, role), order, "missed", notices.missed(target))
    for late in (order, *await order_store.lock_linked(tx, order.order_id)) if level == 1 else ():
        if late.is_open and late.reporter_account_id is not None:
            notices.tell(tx, [late.reporter_account_id], late, "late", notices.sorry(target))
    missed = order.missed if target in order.missed else (*order.missed, target.value)
    told = (*order.told, told_name(target, f"level_{level}"))
    order = await amend(tx, order, "missed", note=f"{target}: {role}", told=told, missed=missed, missed_at=order.missed_at or tx.now)
    if target is Target.RESPONSE and level == 1:
        tx.count(_LATE)
    due_at = to_timestamp(order.due_at(target))
    tx.publish(TargetMissed(order_id=str(order.order_id), target=target, due_at=due_at, level=level, role=role), version=order.version)
    return order


def changed_event(order: Order) -> WorkOrderChanged:
    """What other services hear of an order."""
    return WorkOrderChanged(
        order_id=str(order.order_id),
        origin=order.origin,
        origin_id=order.origin_id,
        state=order.state,
        category=order.category,
        priority=order.priority,
        technician_account_id=str(order.technician_account_id or "") if order.accepted_at else "",
        visit_from=to_timestamp(order.visit_from),
        visit_until=to_timestamp(order.visit_until),
        closed=not order.is_open,
        cause=order.cause,
    )


# Who looks.


async def viewer(tx: Transaction) -> Viewer:
    """The caller, as one who looks at orders."""
    homes = (await list_homes(tx, [tx.caller.account_id])).get(tx.caller.account_id, [])
    return Viewer(
        account_id=tx.caller.account_id,
        household_ids=frozenset(home.household_id for home in homes),
        building_ids=frozenset(home.building_id for home in homes),
        reads_all=tx.caller.may("workorders.orders.read"),
        works=tx.caller.may("workorders.jobs.work"),
        dispatches=tx.caller.may("workorders.orders.dispatch"),
    )


async def find_visible(tx: Transaction, order_id: UUID) -> Order:
    """An order that the caller may see. Raises NotFound."""
    return visible(await order_store.find_order(tx, order_id), await viewer(tx))


async def lock_visible(tx: Transaction, order_id: UUID) -> Order:
    """The same, held until the transaction ends. Raises NotFound."""
    return visible(await order_store.lock_order(tx, order_id), await viewer(tx))


async def lock_own(tx: Transaction, order_id: UUID) -> Order:
    """An order that the caller speaks for: its reporter, or somebody of the household. Raises NotFound.

    The original of a linked one is held first, since what becomes of it goes on to those that are linked.
    """
    linked = await order_store.find_order(tx, order_id)
    if linked is not None and linked.duplicate_of_order_id is not None:
        await order_store.lock_order(tx, linked.duplicate_of_order_id)
    order, who = await order_store.lock_order(tx, order_id), await viewer(tx)
    if order is None or not who.speaks_for(order):
        raise order_unknown()
    return order


async def lock_any(tx: Transaction, order_id: UUID) -> Order:
    """An order, for staff whose permission the contract has asked for. Raises NotFound."""
    order = await order_store.lock_order(tx, order_id)
    if order is None:
        raise order_unknown()
    return order


async def lock_job(tx: Transaction, order_id: UUID) -> Order:
    """An order that the caller has accepted, as its technician. Raises NotFound for who may not see it, and Conflict for who has it not."""
    order = await lock_visible(tx, order_id)
    if order.technician_account_id != tx.caller.account_id or order.accepted_at is None:
        raise Conflict("workorders.not_yours", "您不是该工单的处理人", "You do not work on this order")
    return order


def visible(order: Order | None, who: Viewer) -> Order:
    """The order, when somebody may see it. Raises NotFound."""
    if order is None or not who.may_see(order):
        raise order_unknown()
    return order


def order_unknown() -> NotFound:
    """The error for an order that does not exist, or that the caller may not know of."""
    return NotFound("workorders.order_unknown", "没有找到该工单", "There is no such work order")


def is_linked() -> Conflict:
    """The error for work on an order that goes on with another."""
    return Conflict("workorders.linked", "该工单已并入另一工单，请处理原工单", "The order goes on with another; work on that one")


async def forget_old(tx: Transaction) -> None:
    """Forgets what no late news can be about any more, and phones that nobody needs (PIPL art. 19 and 47)."""
    await order_store.forget_origins(tx, tx.now - _REMEMBERED)
    await order_store.forget_contacts(tx, tx.now - _PHONE_KEPT, _PHONES_AT_ONCE)
