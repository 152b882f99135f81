"""What timers do: warn before a promise is due, escalate when it was missed, confirm what nobody has complained of."""

from servicekit.database import Transaction
from servicekit.staff import list_staff
from servicekit.timers import Due
from services.workorders import notices, order_operations, order_store, terms_store
from services.workorders.orders import State, Target, told_name
from services.workorders.targets import level_of


async def judge_promise(tx: Transaction, due: Due) -> None:
    """A promise that nobody has kept yet: warns whoever has it and the first of the chain, or tells the next of those who answer for it.

    A timer that was due while the service was down fires late, and once. A warning of what is missed by then is no use to anybody. While
    the clock stands still only what was due before is told.
    """
    target, level = Target(due.kind), level_of(due.name)
    order = await order_store.lock_order(tx, due.subject_id)
    if order is None or not order.awaits(target) or told_name(target, due.name) in order.told:
        return
    now = order.clock_stopped_at or tx.now
    if due.due_at > now:
        return
    if level:
        await order_operations.miss(tx, order, target, level)
        return
    due_at = order.due_at(target)
    assert due_at is not None
    if now >= due_at:
        return
    percent = due.name.removeprefix("warn_")
    terms = await terms_store.find_terms(tx, order.terms_id)
    worker = order.offered_to_account_id or order.technician_account_id
    warned = [*([worker] if worker else []), *await list_staff(tx, terms.escalation_roles[0])]
    notices.tell(tx, warned, order, "warned", notices.warning(target, percent))
    told = (*order.told, told_name(target, due.name))
    await order_operations.amend(tx, order, "warned", note=f"{target}: {percent} %", told=told)


async def confirm_by_itself(tx: Transaction, due: Due) -> None:
    """An order that was done long enough ago is taken for confirmed."""
    order = await order_store.lock_order(tx, due.subject_id)
    if order is not None and order.state is State.DONE:
        await order_operations.move(tx, order, State.CONFIRMED, "confirmed")
