"""Collecting money: what billing does with a payment provider, between transactions. What happens inside of them is in `operations.py`.

Every step is written down before the provider is asked, and asked again under the same number until its answer is definite, so a crash
between any two steps is continued by the next attempt.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from servicekit import telemetry
from servicekit.database import PLATFORM
from servicekit.errors import Invalid, ServiceError
from servicekit.identifiers import parse_id
from servicekit.rpc import Call
from services.billing import operations, store
from services.billing.incidents import Incident
from services.billing.payments import DueRefund, Outcome, Payment
from services.billing.providers import (
    Order,
    OrderStatus,
    Provider,
    Providers,
    RefundOrder,
    RefundStatus,
    Refusal,
    Refused,
    Taking,
    refused,
    unavailable,
)
from services.billing.reconciliation import EntryKind

T = TypeVar("T")
# A charge that was raised a moment ago may still be on its way: these are the waits between looks, about two seconds in all.
_ARRIVAL_WAITS_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.6)
_ATTEMPTS = 3
# What one turn of a timer takes, and how much of it talks to providers at a time.
_BATCH = 50
_AT_ONCE = 8
_NOBODY = uuid.UUID(int=0)


async def create_payment(call: Call, charge_id: uuid.UUID, provider_name: str) -> Payment:
    """Orders a charge at a provider for the caller and returns the payment with its pay_url; asked again, the same while it is good.

    Raises NotFound for a charge that is not known after about two seconds, Conflict when it cannot be paid, Unavailable when the provider's
    answer is not known; then asking again continues the same order.
    """
    provider = call.resource(Providers).named(provider_name)
    for _ in range(_ATTEMPTS):
        payment = await _open_payment(call, charge_id, provider_name)
        if payment.expires_at <= call.now:
            await settle_or_close(call, payment)
            continue
        if payment.pay_url:
            return payment
        order = Order(payment.reference, payment.amount_fen, payment.text, str(payment.community_id), payment.expires_at)
        try:
            pay_url = await provider.prepay(order)
        except Refused as refusal:
            await _after_refusal(call, payment, refusal)
            continue
        async with call.transaction() as tx:
            return await operations.store_pay_url(tx, payment, pay_url)
    raise unavailable(provider_name)


async def _open_payment(call: Call, charge_id: uuid.UUID, provider: str) -> Payment:
    for wait_s in (*_ARRIVAL_WAITS_S, None):
        async with call.transaction() as tx:
            payment = await operations.open_payment(tx, charge_id, provider)
        if payment is not None:
            return payment
        if wait_s is not None:
            await asyncio.sleep(wait_s)
    raise operations.charge_not_found()


async def _after_refusal(call: Call, payment: Payment, refusal: Refused) -> None:
    """Takes note of why the provider refuses an order; raises Conflict when ordering again would not help."""
    if refusal.refusal in (Refusal.PAID, Refusal.CLOSED):
        await settle_or_close(call, payment)
        return
    async with call.transaction() as tx:
        await operations.close_payment(tx, payment.payment_id)
    raise refused(payment.provider, refusal)


async def receive_notification(call: Call, provider: Provider, headers: Mapping[str, str], body: bytes) -> None:
    """Books what a provider reports; returns when it is committed.

    Raises Unauthenticated for a signature that is wrong or too old, Invalid for a merchant, order or amount that is not ours; what was
    signed and does not fit is also noted for a person.
    """
    notification = provider.parse_notification(headers, body, call.now)
    event = notification.event
    if notification.merchant_id != provider.merchant_id:
        wrong = Incident(provider.name, "billing.wrong_merchant", event.reference, provider_amount_fen=event.amount_fen)
        await _note(call, _NOBODY, wrong)
        raise Invalid("billing.wrong_merchant", "商户号不符", "The notification is for another merchant")
    if isinstance(event, Taking):
        await settle(call, provider.name, event)
    else:
        await finish_refund(call, provider.name, event)


async def settle(call: Call, provider: str, taking: Taking) -> None:
    """The one way by which taken money is booked, whoever reports it. Raises Invalid, after noting it, for money that does not fit."""
    incident = Incident(provider, "", taking.reference, taking.transaction_id, 0, taking.amount_fen)
    payment_id, community_id = await _locate(call, EntryKind.PAYMENT, incident)
    try:
        async with call.transaction(community_id) as tx:
            await operations.settle_payment(tx, provider, payment_id, taking)
    except Invalid as error:
        await _note_error(call, community_id, incident, error)
        raise


async def finish_refund(call: Call, provider: str, status: RefundStatus) -> None:
    """The one way by which a refund ends. Raises Invalid, after noting it, for a refund or an amount that is not ours."""
    incident = Incident(provider, "", status.reference, "", 0, status.amount_fen)
    refund_id, community_id = await _locate(call, EntryKind.REFUND, incident)
    try:
        async with call.transaction(community_id) as tx:
            await operations.finish_refund(tx, refund_id, status)
    except Invalid as error:
        await _note_error(call, community_id, incident, error)
        raise


async def _locate(call: Call, kind: EntryKind, incident: Incident) -> tuple[uuid.UUID, uuid.UUID]:
    """The id that a reference stands for, and its community."""
    identifier = parse_id(incident.reference)
    if identifier is not None:
        async with call.transaction(PLATFORM) as tx:
            community_id = await store.community_of(tx, kind, incident.provider, identifier)
        if community_id is not None:
            return identifier, community_id
    error = operations.unknown_reference(kind)
    await _note_error(call, _NOBODY, incident, error)
    raise error


async def _note_error(call: Call, community_id: uuid.UUID, incident: Incident, error: Invalid) -> None:
    ours_fen = int(error.details.get("expected_fen", "0"))
    kind = error.code
    await _note(
        call,
        community_id,
        Incident(incident.provider, kind, incident.reference, incident.transaction_id, ours_fen, incident.provider_amount_fen),
    )


async def _note(call: Call, community_id: uuid.UUID, incident: Incident) -> None:
    # The transaction that failed is rolled back; what it failed on is kept by another.
    async with call.transaction(PLATFORM) as tx:
        await operations.note_incident(tx, community_id, incident)


async def recover_payments(call: Call) -> None:
    """Asks the providers about pending payments whose time has come, so that a lost notification costs seconds and not the payment."""

    async def claim() -> Sequence[Payment]:
        async with call.transaction(PLATFORM) as tx:
            return await store.claim_payments(tx, _BATCH)

    await _work_off(claim, lambda payment: settle_or_close(call, payment), "payment_not_recovered")


async def settle_or_close(call: Call, payment: Payment) -> None:
    """Asks the provider about a pending payment: books what it took, closes what nobody may pay any more, leaves the rest."""
    provider = call.resource(Providers).named(payment.provider)
    for _ in range(_ATTEMPTS):
        status = await _order_status(provider, payment.reference)
        for taking in status.takings:
            await settle(call, provider.name, taking)
        if status.takings:
            return
        if not status.closed:
            async with call.transaction(payment.community_id) as tx:
                charge = await store.charge(tx, payment.charge_id)
                if charge is not None and charge.is_owed(tx.now) and tx.now < payment.expires_at:
                    return
            try:
                await provider.close(payment.reference)
            except Refused as refusal:
                if refusal.refusal is not Refusal.UNKNOWN:
                    continue  # Paid in this very moment.
        async with call.transaction(payment.community_id) as tx:
            await operations.close_payment(tx, payment.payment_id)
        return
    raise unavailable(provider.name)


async def _order_status(provider: Provider, reference: str) -> OrderStatus:
    try:
        return await provider.query(reference)
    except Refused as refusal:
        if refusal.refusal is Refusal.UNKNOWN:
            return OrderStatus(takings=(), closed=False)
        raise unavailable(provider.name) from refusal


async def send_refunds(call: Call) -> None:
    """Asks the providers to make the refunds whose time has come, or what became of them, under the same numbers until the end is known."""

    async def claim() -> Sequence[DueRefund]:
        async with call.transaction(PLATFORM) as tx:
            return await store.claim_refunds(tx, _BATCH)

    await _work_off(claim, lambda due: _send_refund(call, due), "refund_not_sent")


async def _send_refund(call: Call, due: DueRefund) -> None:
    refund, payment = due.refund, due.payment
    provider = call.resource(Providers).named(payment.provider)
    assert payment.provider_payment_id is not None
    order = RefundOrder(
        refund.reference, payment.reference, payment.provider_payment_id, refund.amount_fen, payment.amount_fen, refund.reason
    )
    try:
        status = await _refund_status(provider, order, is_repeated=due.attempts > 0)
    except Refused as refusal:
        telemetry.log.error("refund_refused", provider=provider.name, reference=refund.reference, code=refusal.code)
        status = RefundStatus(refund.reference, Outcome.FAILED, refund.amount_fen, None)
    await finish_refund(call, provider.name, status)


async def _refund_status(provider: Provider, order: RefundOrder, *, is_repeated: bool) -> RefundStatus:
    if is_repeated:
        try:
            return await provider.query_refund(order.reference)
        except Refused as refusal:
            if refusal.refusal is not Refusal.UNKNOWN:
                raise unavailable(provider.name) from refusal
    return await provider.refund(order)


async def _work_off(claim: Callable[[], Awaitable[Sequence[T]]], work: Callable[[T], Awaitable[None]], complaint: str) -> None:
    """Does all claimed work, some of it at a time; what fails is logged and claimed again later."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def attempt(item: T) -> None:
        async with gate:
            try:
                await work(item)
            except ServiceError as error:
                telemetry.log.warning(complaint, error=telemetry.describe(error))
            except Exception as error:
                telemetry.log.error(complaint, exc_info=error)

    while claimed := await claim():
        await asyncio.gather(*map(attempt, claimed))
        if len(claimed) < _BATCH:
            return
