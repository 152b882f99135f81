"""billing.proto to domain and back."""

from datetime import date, datetime
from functools import partial
from uuid import UUID

from google.api.httpbody_pb2 import HttpBody

from linli.billing.v1 import billing_pb2 as pb
from servicekit import paging
from servicekit.database import Transaction
from servicekit.rpc import Call, outside_transaction
from servicekit.texts import text
from servicekit.times import to_day, to_timestamp
from services.billing import collection, operations, reconciling, store
from services.billing.charges import Charge, ChargeState
from services.billing.payments import Outcome, Payment, PaymentState, Refund
from services.billing.providers import Providers
from services.billing.reconciliation import Reconciliation

# A page of reconciliations ends early rather than grow beyond what a message holds.
_DIFFERENCES_MAX = 10_000

_CHARGE_STATES = {
    pb.CHARGE_STATE_DUE: ChargeState.DUE,
    pb.CHARGE_STATE_PAID: ChargeState.PAID,
    pb.CHARGE_STATE_CANCELLED: ChargeState.CANCELLED,
    pb.CHARGE_STATE_REFUNDED: ChargeState.REFUNDED,
}
_PAYMENT_STATES = {
    pb.PAYMENT_STATE_PENDING: PaymentState.PENDING,
    pb.PAYMENT_STATE_SUCCEEDED: PaymentState.SUCCEEDED,
    pb.PAYMENT_STATE_CLOSED: PaymentState.CLOSED,
    pb.PAYMENT_STATE_RETURNED: PaymentState.RETURNED,
}
_CHARGE_STATE_NUMBERS = {state: number for number, state in _CHARGE_STATES.items()}
_PAYMENT_STATE_NUMBERS = {state: number for number, state in _PAYMENT_STATES.items()}
_REFUND_STATE_NUMBERS = {
    Outcome.PENDING: pb.REFUND_STATE_PENDING,
    Outcome.SUCCEEDED: pb.REFUND_STATE_SUCCEEDED,
    Outcome.FAILED: pb.REFUND_STATE_FAILED,
}


async def get_charge(tx: Transaction, request: pb.GetChargeRequest) -> pb.Charge:
    """A charge of the caller's community."""
    charge = await store.charge(tx, UUID(request.charge_id))
    if charge is None:
        raise operations.charge_not_found()
    return _charge(tx, charge)


async def list_charges(tx: Transaction, request: pb.ListChargesRequest) -> pb.ListChargesResponse:
    """Charges, newest first."""
    origin_id = text(request.origin_id, "origin_id") if request.origin_id else None
    fetch = partial(store.list_charges, tx, _CHARGE_STATES.get(request.state), origin_id)
    charges, token = await paging.page(request, tuple[datetime, UUID], fetch, lambda charge: (charge.raised_at, charge.charge_id))
    return pb.ListChargesResponse(charges=[_charge(tx, charge) for charge in charges], next_page_token=token)


@outside_transaction
async def create_payment(call: Call, request: pb.CreatePaymentRequest) -> pb.Payment:
    """Starts paying a charge."""
    return _payment(await collection.create_payment(call, UUID(request.charge_id), request.provider))


async def get_payment(tx: Transaction, request: pb.GetPaymentRequest) -> pb.Payment:
    """A payment, for who started it and for who may read payments."""
    payment = await store.payment(tx, UUID(request.payment_id))
    if payment is None or not (payment.account_id == tx.caller.account_id or tx.caller.may("billing.payments.read")):
        raise operations.payment_not_found()
    return _payment(payment)


async def list_my_payments(tx: Transaction, request: pb.ListMyPaymentsRequest) -> pb.ListPaymentsResponse:
    """The caller's own payments."""
    return await _list_payments(tx, request, None, tx.caller.account_id)


async def list_payments(tx: Transaction, request: pb.ListPaymentsRequest) -> pb.ListPaymentsResponse:
    """All payments."""
    return await _list_payments(tx, request, _PAYMENT_STATES.get(request.state), None)


async def _list_payments(
    tx: Transaction, request: paging.ListRequest, state: PaymentState | None, account_id: UUID | None
) -> pb.ListPaymentsResponse:
    fetch = partial(store.list_payments, tx, state, account_id)
    payments, token = await paging.page(request, UUID, fetch, lambda payment: payment.payment_id)
    return pb.ListPaymentsResponse(payments=[_payment(payment) for payment in payments], next_page_token=token)


async def refund_payment(tx: Transaction, request: pb.RefundPaymentRequest) -> pb.Refund:
    """Gives money back."""
    reason = text(request.reason, "reason", lines=True)
    return _refund(await operations.request_refund(tx, UUID(request.payment_id), request.amount_fen, reason))


async def list_refunds(tx: Transaction, request: pb.ListRefundsRequest) -> pb.ListRefundsResponse:
    """The refunds of a payment."""
    payment_id = UUID(request.payment_id)
    if await store.payment(tx, payment_id) is None:
        raise operations.payment_not_found()
    return pb.ListRefundsResponse(refunds=[_refund(refund) for refund in await store.refunds_of(tx, payment_id)])


@outside_transaction
async def receive_notification(call: Call, request: pb.ReceiveNotificationRequest) -> HttpBody:
    """What a provider reports. The caller's HTTP headers arrive as metadata `http-<name>`."""
    provider = call.resource(Providers).named(request.provider)
    headers = {name.removeprefix("http-"): value for name, value in call.headers.items() if name.startswith("http-")}
    await collection.receive_notification(call, provider, headers, request.notification.data)
    content_type, body = provider.acknowledgement
    return HttpBody(content_type=content_type, data=body)


@outside_transaction
async def reconcile(call: Call, request: pb.ReconcileRequest) -> pb.Reconciliation:
    """Compares a day with the provider's file."""
    provider = call.resource(Providers).named(request.provider)
    return _reconciliation(await reconciling.reconcile(call, call.caller.community_id, provider, to_day(request.day, "day")))


async def list_reconciliations(tx: Transaction, request: pb.ListReconciliationsRequest) -> pb.ListReconciliationsResponse:
    """Reconciliations, newest day first."""
    rows, token = await paging.page(request, tuple[date, UUID], partial(store.list_reconciliations, tx), _place)
    differences, fitting = 0, 0
    for row in rows:
        differences += len(row.differences)
        if fitting and differences > _DIFFERENCES_MAX:
            break
        fitting += 1
    if fitting < len(rows):
        rows, token = rows[:fitting], paging.token(_place(rows[fitting - 1]))
    return pb.ListReconciliationsResponse(reconciliations=[_reconciliation(row) for row in rows], next_page_token=token)


def _place(reconciliation: Reconciliation) -> tuple[date, UUID]:
    return reconciliation.day, reconciliation.reconciliation_id


def _charge(tx: Transaction, charge: Charge) -> pb.Charge:
    return pb.Charge(
        charge_id=str(charge.charge_id),
        origin=charge.origin,
        origin_id=charge.origin_id,
        amount_fen=charge.amount_fen,
        text=charge.text,
        state=_CHARGE_STATE_NUMBERS[charge.state_at(tx.now)],
        payable_until=to_timestamp(charge.payable_until),
        raised_at=to_timestamp(charge.raised_at),
    )


def _payment(payment: Payment) -> pb.Payment:
    return pb.Payment(
        payment_id=str(payment.payment_id),
        charge_id=str(payment.charge_id),
        provider=payment.provider,
        state=_PAYMENT_STATE_NUMBERS[payment.state],
        amount_fen=payment.amount_fen,
        pay_url=payment.pay_url,
        created_at=to_timestamp(payment.created_at),
        paid_at=to_timestamp(payment.paid_at),
        provider_payment_id=payment.provider_payment_id or "",
        refunded_fen=payment.refunded_fen,
        text=payment.text,
    )


def _refund(refund: Refund) -> pb.Refund:
    return pb.Refund(
        refund_id=str(refund.refund_id),
        payment_id=str(refund.payment_id),
        amount_fen=refund.amount_fen,
        reason=refund.reason,
        state=_REFUND_STATE_NUMBERS[refund.state],
        created_at=to_timestamp(refund.created_at),
    )


def _reconciliation(reconciliation: Reconciliation) -> pb.Reconciliation:
    return pb.Reconciliation(
        provider=reconciliation.provider,
        day=reconciliation.day.isoformat(),
        matched=reconciliation.matched,
        differences=[
            pb.Difference(
                kind=difference.kind,
                reference=difference.reference,
                our_amount_fen=difference.our_amount_fen,
                provider_amount_fen=difference.provider_amount_fen,
            )
            for difference in reconciliation.differences
        ],
        run_at=to_timestamp(reconciliation.run_at),
    )
