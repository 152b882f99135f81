"""billing.proto to domain and back."""

from datetime import date
from uuid import UUID

from google.api.httpbody_pb2 import HttpBody

from linli.billing.v1 import billing_pb2 as pb
from servicekit import paging
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid
from servicekit.rpc import Call, outside_transaction
from servicekit.times import to_timestamp
from services.billing import collection, operations, reconciling, store
from services.billing.charges import Charge, ChargeState
from services.billing.payments import Outcome, Payment, PaymentState, Refund
from services.billing.providers import Providers
from services.billing.reconciliation import Reconciliation

# A page of reconciliations ends early rather than grow beyond what a message holds.
_DIFFERENCES_MAX = 10_000
# The days that a calendar day may be; arithmetic on the edges of the calendar overflows.
_FIRST_YEAR, _LAST_YEAR = 2000, 2199

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
    size = paging.page_size(request.page_size)
    after = paging.cursor(request.page_token, UUID)
    state, origin_id = _CHARGE_STATES.get(request.state), _text(request.origin_id, "origin_id")
    rows = await store.list_charges(tx, state, origin_id, after, size + 1)
    page, token = paging.page(rows, size, lambda charge: charge.charge_id)
    return pb.ListChargesResponse(charges=[_charge(tx, charge) for charge in page], next_page_token=token)


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
    return await _list_payments(tx, None, tx.caller.account_id, request.page_size, request.page_token)


async def list_payments(tx: Transaction, request: pb.ListPaymentsRequest) -> pb.ListPaymentsResponse:
    """All payments."""
    return await _list_payments(tx, _PAYMENT_STATES.get(request.state), None, request.page_size, request.page_token)


async def _list_payments(
    tx: Transaction, state: PaymentState | None, account_id: UUID | None, page_size: int, page_token: str
) -> pb.ListPaymentsResponse:
    size = paging.page_size(page_size)
    rows = await store.list_payments(tx, state, account_id, paging.cursor(page_token, UUID), size + 1)
    page, token = paging.page(rows, size, lambda payment: payment.payment_id)
    return pb.ListPaymentsResponse(payments=[_payment(payment) for payment in page], next_page_token=token)


async def refund_payment(tx: Transaction, request: pb.RefundPaymentRequest) -> pb.Refund:
    """Gives money back."""
    reason = _text(request.reason, "reason")
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
    return _reconciliation(await reconciling.reconcile(call, call.caller.community_id, provider, _day(request.day)))


async def list_reconciliations(tx: Transaction, request: pb.ListReconciliationsRequest) -> pb.ListReconciliationsResponse:
    """Reconciliations, newest day first."""
    size = paging.page_size(request.page_size)
    rows = await store.list_reconciliations(tx, paging.cursor(request.page_token, UUID), size + 1)
    differences, fitting = 0, 0
    for row in rows[:size]:
        differences += len(row.differences)
        if fitting and differences > _DIFFERENCES_MAX:
            break
        fitting += 1
    page, token = paging.page(rows, fitting, lambda reconciliation: reconciliation.reconciliation_id)
    return pb.ListReconciliationsResponse(reconciliations=[_reconciliation(row) for row in page], next_page_token=token)


def _text(text: str, field: str) -> str:
    # PostgreSQL holds no NUL.
    if "\0" in text:
        violation = FieldViolation(field, "string.nul", "must hold no NUL")
        raise Invalid("request.invalid", "请求内容不符合要求", "The request does not meet the contract", fields=[violation])
    return text


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
        if _FIRST_YEAR <= day.year <= _LAST_YEAR:
            return day
    except ValueError:
        pass
    violation = FieldViolation("day", "date", "must be a calendar day between the years 2000 and 2199")
    raise Invalid("request.invalid", "日期无效", "The day is not valid", fields=[violation])


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
