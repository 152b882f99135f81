"""What billing does: one function for each action, inside one transaction. What talks to providers in between is in `collection.py`."""

import uuid

from prometheus_client import Counter

from linli.billing.v1.events_pb2 import PaymentRefunded, PaymentSucceeded
from linli.notification.v1.events_pb2 import Notified
from servicekit import telemetry
from servicekit.database import Transaction
from servicekit.errors import Conflict, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.billing import store
from services.billing.charges import Charge, ChargeState
from services.billing.incidents import Incident
from services.billing.payments import Outcome, Payment, PaymentState, Refund, order_expiry, yuan
from services.billing.providers import RefundStatus, Taking
from services.billing.reconciliation import EntryKind

PAYMENTS = Counter(
    "linli_payments_total", "Payments that came to an end: paid, returned because nothing was owed, or closed unpaid", ["outcome"]
)
for _outcome in (PaymentState.SUCCEEDED, PaymentState.RETURNED, PaymentState.CLOSED):
    PAYMENTS.labels(_outcome)
_NOT_PAYABLE = {
    ChargeState.PAID: ("billing.charge_paid", "该费用已支付", "This charge is paid already"),
    ChargeState.REFUNDED: ("billing.charge_refunded", "该费用已退款", "This charge was paid and refunded"),
    ChargeState.CANCELLED: ("billing.charge_cancelled", "该费用已失效，请重新获取", "This charge was replaced; please ask for the new one"),
}


async def raise_charge(tx: Transaction, charge: Charge) -> None:
    """Makes a charge due, and cancels the one that it replaces. The two may arrive in either order.

    One that replaces a paid charge is cancelled itself: whoever raised it had not heard of the payment, so it asks for too much.
    """
    replaced = charge.replaces_charge_id
    await store.lock_charge_ids(tx, [charge.charge_id] if replaced is None else [charge.charge_id, replaced])
    await store.insert_charge(tx, charge)
    if replaced is None:
        return
    former = await store.lock_charge(tx, replaced)
    if former is not None and former.state is ChargeState.PAID:
        await store.cancel_charge(tx, charge.charge_id)
        return
    await store.cancel_charge(tx, replaced)
    await store.hurry_queries(tx, replaced)


async def withdraw_charge(tx: Transaction, charge_id: uuid.UUID) -> None:
    """Cancels a charge that is still due. What is paid for it all the same goes back. Raises NotFound."""
    if await store.lock_charge(tx, charge_id) is None:
        raise charge_not_found()
    await store.cancel_charge(tx, charge_id)
    await store.hurry_queries(tx, charge_id)


async def open_payment(tx: Transaction, charge_id: uuid.UUID, provider: str) -> Payment | None:
    """The caller's pending payment of a charge, made now when there is none; None while the charge is not known.

    Raises Conflict when the charge is paid, refunded, cancelled or past its time.
    """
    charge = await store.lock_charge(tx, charge_id)
    if charge is None:
        return None
    check_payable(tx, charge)
    account_id = tx.caller.account_id
    payment = await store.open_payment(tx, charge_id, provider, account_id)
    if payment is not None:
        return payment
    payment_id = new_id()
    payment = Payment(
        payment_id=payment_id,
        community_id=tx.community_id,
        charge_id=charge_id,
        provider=provider,
        account_id=account_id,
        order_id=payment_id,
        state=PaymentState.PENDING,
        amount_fen=charge.amount_fen,
        pay_url="",
        created_at=tx.now,
        expires_at=order_expiry(tx.now, charge.payable_until),
        paid_at=None,
        provider_payment_id=None,
        refunded_fen=0,
        text=charge.text,
    )
    await store.insert_payment(tx, payment)
    return payment


def check_payable(tx: Transaction, charge: Charge) -> None:
    """Raises Conflict when a charge cannot be paid now."""
    if charge.has_expired(tx.now):
        raise Conflict("billing.charge_expired", "该费用已过有效期，请重新获取", "This charge has expired; please ask for a new one")
    if charge.state is not ChargeState.DUE:
        raise Conflict(*_NOT_PAYABLE[charge.state])


async def store_pay_url(tx: Transaction, payment: Payment, pay_url: str) -> Payment:
    """Stores where a payment is paid. Raises Conflict when meanwhile it cannot be paid any more."""
    charge = await store.lock_charge(tx, payment.charge_id)
    assert charge is not None
    check_payable(tx, charge)
    if not await store.set_pay_url(tx, payment.payment_id, pay_url):
        raise Conflict("billing.payment_closed", "该支付单已关闭，请重新支付", "This payment was closed; please start a new one")
    stored = await store.payment(tx, payment.payment_id)
    assert stored is not None
    return stored


async def settle_payment(tx: Transaction, provider: str, payment_id: uuid.UUID, taking: Taking) -> None:
    """Books money that a provider took for an order; doing it again changes nothing.

    The first taking that was owed pays its charge. Any other goes back: a refund of all of it is made here and sent by the timer. Raises
    Invalid when the amount is not the order's, or the taking belongs to another order.
    """
    order = await store.payment(tx, payment_id)
    charge = None if order is None else await store.lock_charge(tx, order.charge_id)
    # Read again: the lock may have waited for another taking of the same order.
    order = await store.payment(tx, payment_id)
    assert order is not None
    assert charge is not None
    known = await store.taken_payment(tx, provider, taking.transaction_id)
    if known is not None and known.order_id != order.order_id:
        raise Invalid("billing.transaction_reused", "该交易已属于另一订单", "This transaction belongs to another order")
    if taking.amount_fen != order.amount_fen:
        raise wrong_amount(order.amount_fen, taking.amount_fen)
    if known is not None:
        return
    state = PaymentState.SUCCEEDED if charge.is_owed(taking.taken_at) else PaymentState.RETURNED
    payment = await _take(tx, order, state, taking)
    tx.count(PAYMENTS.labels(state))
    if state is PaymentState.SUCCEEDED:
        await _settle_charge(tx, charge, payment, taking)
    else:
        await _return_payment(tx, payment)


async def _take(tx: Transaction, order: Payment, state: PaymentState, taking: Taking) -> Payment:
    """The payment that the taking is: the order's own, or a new one when the provider took money for it before."""
    if order.provider_payment_id is None:
        await store.set_taken(tx, order.payment_id, state, taking.transaction_id, taking.taken_at)
        return order
    again = Payment(
        payment_id=new_id(),
        community_id=order.community_id,
        charge_id=order.charge_id,
        provider=order.provider,
        account_id=order.account_id,
        order_id=order.order_id,
        state=state,
        amount_fen=taking.amount_fen,
        pay_url="",
        created_at=tx.now,
        expires_at=order.expires_at,
        paid_at=taking.taken_at,
        provider_payment_id=taking.transaction_id,
        refunded_fen=0,
        text=order.text,
    )
    await store.insert_payment(tx, again)
    return again


async def _settle_charge(tx: Transaction, charge: Charge, payment: Payment, taking: Taking) -> None:
    await store.set_charge_state(tx, charge.charge_id, ChargeState.PAID)
    # Other payers' open orders are closed before they pay for nothing.
    await store.hurry_queries(tx, charge.charge_id)
    tx.publish(
        PaymentSucceeded(
            charge_id=str(charge.charge_id),
            payment_id=str(payment.payment_id),
            origin=charge.origin,
            origin_id=charge.origin_id,
            amount_fen=payment.amount_fen,
            paid_at=to_timestamp(taking.taken_at),
        )
    )
    amount = yuan(payment.amount_fen)
    _notify(tx, payment, "billing.payment_succeeded", f"已收到您的付款 {amount} 元", f"Your payment of CNY {amount} has arrived")


async def _return_payment(tx: Transaction, payment: Payment) -> None:
    reason = "费用已付清或已失效，自动退款"
    refund = Refund(new_id(), payment.payment_id, payment.amount_fen, reason, Outcome.PENDING, tx.now)
    if not await store.insert_refund(tx, refund):
        raise AssertionError("money that has just come in is there to go back")
    amount = yuan(payment.amount_fen)
    zh, en = f"您的付款 {amount} 元无需支付，将原路退回", f"Your payment of CNY {amount} was not owed and is on its way back"
    _notify(tx, payment, "billing.payment_returned", zh, en)


async def close_payment(tx: Transaction, payment_id: uuid.UUID) -> None:
    """Says that the provider will take nothing more for a pending payment."""
    if await store.close_payment(tx, payment_id):
        tx.count(PAYMENTS.labels(PaymentState.CLOSED))


async def request_refund(tx: Transaction, payment_id: uuid.UUID, amount_fen: int, reason: str) -> Refund:
    """Makes a refund, which the timer sends. Raises NotFound, or Conflict when the payment has not that much left to give back."""
    payment = await store.payment(tx, payment_id)
    if payment is None:
        raise payment_not_found()
    refund = Refund(new_id(), payment_id, amount_fen, reason, Outcome.PENDING, tx.now)
    if await store.insert_refund(tx, refund):
        return refund
    if payment.provider_payment_id is None:
        raise Conflict(
            "billing.payment_not_paid", "该支付单尚未付款，不能退款", "This payment has not been paid, so there is nothing to refund"
        )
    raise Conflict("billing.refund_exceeds_payment", "退款总额不能超过付款金额", "Refunds of a payment cannot exceed it")


async def finish_refund(tx: Transaction, refund_id: uuid.UUID, status: RefundStatus) -> None:
    """Books what a provider says became of a refund; doing it again changes nothing. Raises Invalid when the amount is not the refund's."""
    refund = await store.refund(tx, refund_id)
    payment = None if refund is None else await store.payment(tx, refund.payment_id)
    charge = None if payment is None else await store.lock_charge(tx, payment.charge_id)
    assert refund is not None
    assert payment is not None
    assert charge is not None
    if status.amount_fen != refund.amount_fen:
        raise wrong_amount(refund.amount_fen, status.amount_fen)
    if status.outcome is Outcome.PENDING or not await store.finish_refund(tx, refund, status.outcome, status.finished_at or tx.now):
        return
    if status.outcome is Outcome.FAILED:
        await note_incident(
            tx, tx.community_id, Incident(payment.provider, "billing.refund_failed", refund.reference, "", refund.amount_fen)
        )
        return
    tx.publish(
        PaymentRefunded(
            charge_id=str(charge.charge_id),
            payment_id=str(payment.payment_id),
            refund_id=str(refund_id),
            origin=charge.origin,
            origin_id=charge.origin_id,
            amount_fen=refund.amount_fen,
            reopened_charge=payment.state is PaymentState.SUCCEEDED,
        )
    )
    # Read again behind the lock: another refund of the payment may have ended meanwhile.
    payment = await store.payment(tx, payment.payment_id)
    assert payment is not None
    if payment.state is PaymentState.SUCCEEDED and payment.refunded_fen == payment.amount_fen:
        await store.set_charge_state(tx, charge.charge_id, ChargeState.REFUNDED)
    amount = yuan(refund.amount_fen)
    _notify(tx, payment, "billing.payment_refunded", f"已向您退款 {amount} 元", f"CNY {amount} has been refunded to you")


async def note_incident(tx: Transaction, community_id: uuid.UUID, incident: Incident) -> bool:
    """Writes down, once, what a person must look at; False when it was noted before."""
    is_new = await store.insert_incident(tx, community_id, incident)
    if is_new:
        telemetry.log.error(
            "billing_incident",
            kind=incident.kind,
            provider=incident.provider,
            reference=incident.reference,
            transaction_id=incident.transaction_id,
            our_amount_fen=incident.our_amount_fen,
            provider_amount_fen=incident.provider_amount_fen,
        )
    return is_new


def _notify(tx: Transaction, payment: Payment, kind: str, zh: str, en: str) -> None:
    link = f"/v1/payments/{payment.payment_id}"
    tx.publish(Notified(account_id=str(payment.account_id), kind=kind, text_zh=zh, text_en=en, link=link))


def wrong_amount(ours_fen: int, theirs_fen: int) -> Invalid:
    """The provider's amount is not that of our order or refund."""
    details = {"expected_fen": str(ours_fen), "reported_fen": str(theirs_fen)}
    return Invalid("billing.wrong_amount", "金额与订单不符", "The amount is not that of the order", details=details)


def unknown_reference(kind: EntryKind) -> Invalid:
    """The provider names an order or refund that is not ours."""
    return Invalid(f"billing.unknown_{kind}", "没有该订单或退款", f"There is no such {kind}")


def payment_not_found() -> NotFound:
    """No such payment, or none that the caller may see."""
    return NotFound("billing.payment_not_found", "没有找到该支付单", "There is no such payment")


def charge_not_found() -> NotFound:
    """No such charge in the caller's community."""
    return NotFound("billing.charge_not_found", "没有找到该费用", "There is no such charge")
