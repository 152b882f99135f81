"""What becomes of orders after somebody has taken them: the visit, the work, its end; and what their reporters say to it."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict, Denied, Exhausted, FieldViolation, Invalid
from services.workorders import dispatch_operations, order_operations, order_store, quote_operations, quote_store, terms_store
from services.workorders.orders import WORKED_ON, Order, State, WaitsFor

# Nobody waits at home for longer.
_VISIT_MAX: Final = timedelta(hours=12)
# Where talk about an order ends: each remark is a step of it.
_STEPS_MAX: Final = 1000


async def plan_visit(tx: Transaction, order_id: UUID, visit_from: datetime, visit_until: datetime) -> Order:
    """Notes when the caller comes. Raises NotFound, Conflict for who does not work on it, and Invalid for a time that is past or none."""
    order = await _worked_on(tx, order_id)
    if not visit_from < visit_until <= visit_from + _VISIT_MAX or visit_until <= tx.now:
        field = FieldViolation("visit_until", "workorders.visit_time", "must be in the future, and at most 12 hours after visit_from")
        raise Invalid("workorders.visit_time", "上门时间无效", "This is no time for a visit", fields=[field])
    return await order_operations.amend(
        tx, order, "planned", account_id=tx.caller.account_id, visit_from=visit_from, visit_until=visit_until
    )


async def _worked_on(tx: Transaction, order_id: UUID) -> Order:
    order = await order_operations.lock_job(tx, order_id)
    if order.state not in WORKED_ON:
        order_operations.check_follows(order, State.ON_SITE)
    return order


async def arrive(tx: Transaction, order_id: UUID) -> Order:
    """The caller is there. Raises NotFound, and Conflict; also before what was to be paid first is paid."""
    order = await order_operations.lock_job(tx, order_id)
    _check_paid(order)
    return await order_operations.move(tx, order, State.ON_SITE, "arrived", account_id=tx.caller.account_id)


async def pause(tx: Transaction, order_id: UUID, waits_for: WaitsFor, reason: str) -> Order:
    """The work cannot go on. Raises NotFound, and Conflict."""
    order = await order_operations.lock_job(tx, order_id)
    return await order_operations.move(
        tx, order, State.WAITING, "paused", account_id=tx.caller.account_id, note=reason, waits_for=waits_for
    )


async def resume(tx: Transaction, order_id: UUID) -> Order:
    """The work goes on where it was. Raises NotFound, and Conflict; also before what was to be paid first is paid."""
    order = await order_operations.lock_job(tx, order_id)
    _check_paid(order)
    return await go_on(tx, order, tx.caller.account_id)


async def go_on(tx: Transaction, order: Order, account_id: UUID | None) -> Order:
    """The order, whose row is locked, back in the state in which it was paused. Raises Conflict when it does not wait."""
    return await order_operations.move(tx, order, order.paused_in or order.state, "resumed", account_id=account_id)


def _check_paid(order: Order) -> None:
    if order.waits_for is WaitsFor.PAYMENT and order.charge_id is not None and not order.is_paid:
        raise Conflict("workorders.unpaid", "须先付款才能继续", "It has to be paid first")


async def complete(tx: Transaction, order_id: UUID, cause: str, resolution: str) -> Order:
    """The work is done; what was agreed is charged. Raises NotFound, and Conflict; also while a quote waits for its answer."""
    order = await order_operations.lock_job(tx, order_id)
    order_operations.check_follows(order, State.DONE)
    changes = await quote_operations.completion_changes(tx, order)
    changes |= {"cause": cause, "resolution": resolution}
    return await order_operations.move(tx, order, State.DONE, "done", account_id=tx.caller.account_id, note=resolution, **changes)


async def confirm(tx: Transaction, order_id: UUID) -> Order:
    """The reporter, or somebody of the household, says that it is done. Raises NotFound, and Conflict."""
    order = await order_operations.lock_own(tx, order_id)
    return await order_operations.move(tx, order, State.CONFIRMED, "confirmed", account_id=tx.caller.account_id)


async def reopen(tx: Transaction, order: Order, reason: str) -> Order:
    """The caller says of an order, whose row is locked, that it is not done: somebody is found anew. A linked one reopens its original.

    Raises Conflict for an order that is not done, or was done too long ago.
    """
    order_operations.check_follows(order, State.REOPENED)
    terms = await terms_store.find_terms(tx, order.terms_id)
    if order.done_at is None or tx.now > terms.reopens_until(order.done_at):
        zh, en = (
            f"完成超过 {terms.reopen_days} 天，请重新报单",
            f"It was done more than {terms.reopen_days} days ago; please report it anew",
        )
        raise Conflict("workorders.reopen_too_late", zh, en)
    original = order
    if order.duplicate_of_order_id is not None:
        original = await order_operations.lock_any(tx, order.duplicate_of_order_id)
    if original.state in (State.DONE, State.CONFIRMED):
        reopened = await order_operations.move(
            tx, original, State.REOPENED, "reopened", account_id=tx.caller.account_id, note=reason, team_id=None
        )
        original = await dispatch_operations.begin(tx, reopened)
    if original.order_id == order.order_id:
        return original
    return await order_operations.lock_any(tx, order.order_id)


async def reopen_own(tx: Transaction, order_id: UUID, reason: str) -> Order:
    """The same for an order of the caller's. Raises NotFound too."""
    return await reopen(tx, await order_operations.lock_own(tx, order_id), reason)


async def cancel(tx: Transaction, order_id: UUID, reason: str) -> Order:
    """The reporter, or staff, takes an order back. Raises NotFound, Denied for others who may see it, and Conflict when it is done.

    Staff end with it what is linked to it. A reporter speaks for their own report alone, and the others go on by themselves.
    """
    order, who = await order_operations.lock_visible(tx, order_id), await order_operations.viewer(tx)
    is_staff = who.dispatches or tx.caller.may("workorders.orders.triage")
    if not (who.speaks_for(order) or is_staff):
        raise Denied("workorders.not_yours", "您不能取消该工单", "You may not take this order back")
    for linked in [] if is_staff else await order_store.lock_linked(tx, order_id):
        if linked.is_open:
            await dispatch_operations.unlink(tx, linked)
    order = await order_operations.move(tx, order, State.CANCELLED, "cancelled", account_id=tx.caller.account_id, note=reason)
    quote_operations.withdraw_charge(tx, order)
    return order


async def comment(tx: Transaction, order_id: UUID, remark: str) -> Order:
    """Writes something that everybody who may see the order reads. Raises NotFound, and Exhausted when there is too much of it."""
    order = await order_operations.lock_visible(tx, order_id)
    if order.version >= _STEPS_MAX:
        raise Exhausted("workorders.too_many_comments", "该工单留言过多", "There are too many comments on this order", retry_after_s=86_400)
    return await order_operations.amend(tx, order, "commented", account_id=tx.caller.account_id, note=remark)


# What billing tells.


async def note_payment(tx: Transaction, order_id: UUID, charge_id: UUID, amount_fen: int) -> None:
    """A charge of an order is paid; work that waited for that goes on by itself.

    It may be a former one, paid while a newer quote was agreed to: billing has cancelled the charge that was to replace it.
    """
    order = await order_store.lock_order(tx, order_id)
    if order is None or order.is_paid or not (order.charge_id == charge_id or await quote_store.is_charged(tx, order_id, charge_id)):
        return
    order = await order_operations.amend(tx, order, "paid", is_paid=True, charge_id=charge_id, amount_fen=amount_fen)
    if order.state is State.WAITING and order.waits_for is WaitsFor.PAYMENT:
        await go_on(tx, order, None)


async def note_refund(tx: Transaction, order_id: UUID, charge_id: UUID, amount_fen: int, *, is_owed_again: bool) -> None:
    """Money of an order's charge went back to its payer."""
    order = await order_store.lock_order(tx, order_id)
    if order is not None and order.charge_id == charge_id:
        is_paid = order.is_paid and not is_owed_again
        await order_operations.amend(tx, order, "refunded", note=f"{amount_fen // 100}.{amount_fen % 100:02} CNY", is_paid=is_paid)
