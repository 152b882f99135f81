"""Money goes back: never more than came, and under one number until the provider's answer is definite."""

import asyncio

from infra.sandbox_provider.signatures import Signer
from linli.billing.v1 import billing_pb2 as pb
from linli.billing.v1.events_pb2 import PaymentRefunded
from linli.notification.v1.events_pb2 import Notified
from servicekit.errors import Conflict, ServiceError
from services.billing.providers import Providers
from services.billing.reconciliation import EntryKind
from tests.billing.world import MERCHANT, World, refusal
from tests.support import eventually


async def _paid(billing: World, amount_fen: int = 1250) -> pb.Payment:
    payment = await billing.create_payment(await billing.raise_charge(amount_fen))
    await billing.pay(payment)
    return await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)


async def _arrived_at_the_provider(billing: World) -> list[str]:
    """The references of the refunds in the provider's books of today."""
    provider = billing.call().resource(Providers).named("sandbox")
    books = await provider.reconciliation_file(billing.clock.now.astimezone(provider.zone).date())
    return [entry.reference for entry in books if entry.kind is EntryKind.REFUND]


async def test_a_charge_is_refunded_when_all_of_its_payment_went_back(billing: World) -> None:
    payment = await _paid(billing)
    part = await billing.refund(payment.payment_id, 250, "少停了一小时")
    assert (part.state, part.amount_fen, part.reason) == (pb.REFUND_STATE_PENDING, 250, "少停了一小时")
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_SUCCEEDED)
    event = await billing.running.event(PaymentRefunded)
    assert (event.message.refund_id, event.message.amount_fen, event.message.reopened_charge) == (part.refund_id, 250, True)
    assert (await billing.charge_where(payment.charge_id, lambda _charge: True)).state == pb.CHARGE_STATE_PAID
    await billing.running.event(Notified, lambda told: told.message.kind == "billing.payment_refunded" and "2.50" in told.message.text_zh)

    await billing.refund(payment.payment_id, 1000)
    await billing.charge_where(payment.charge_id, lambda charge: charge.state == pb.CHARGE_STATE_REFUNDED)
    (whole,) = await billing.payments()
    assert (whole.state, whole.refunded_fen) == (pb.PAYMENT_STATE_SUCCEEDED, 1250)
    assert (await refusal(billing.create_payment(payment.charge_id))).code == "billing.charge_refunded"


async def test_refunds_of_a_payment_never_exceed_it(billing: World) -> None:
    payment = await _paid(billing)
    for too_much in (1251, 2**63 - 1):
        error = await refusal(billing.refund(payment.payment_id, too_much))
        assert (type(error), error.code) == (Conflict, "billing.refund_exceeds_payment")
    await billing.refund(payment.payment_id, 1250)
    assert (await refusal(billing.refund(payment.payment_id, 1))).code == "billing.refund_exceeds_payment"


async def test_many_refunds_at_the_same_time_do_not_exceed_the_payment(billing: World) -> None:
    payment = await _paid(billing)
    answers = await asyncio.gather(*(billing.refund(payment.payment_id, 300) for _ in range(12)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, ServiceError)]
    assert len(refused) == 8
    assert {error.code for error in refused} == {"billing.refund_exceeds_payment"}
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_SUCCEEDED, 4)
    (booked,) = await billing.payments()
    assert booked.refunded_fen == 1200


async def test_what_was_not_paid_cannot_be_refunded(billing: World) -> None:
    payment = await billing.create_payment(await billing.raise_charge())
    assert (await refusal(billing.refund(payment.payment_id, 1))).code == "billing.payment_not_paid"


async def test_a_refund_whose_answer_was_lost_arrives_once(billing: World) -> None:
    payment = await _paid(billing)
    await billing.arm("lose_notifications", count=10)
    await billing.arm("fail_requests", operation="refund")
    await billing.arm("fail_requests", operation="refund", after=True)
    refund = await billing.refund(payment.payment_id, 1250)
    for _ in range(3):
        await billing.send_refunds(after_s=30)
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_SUCCEEDED)
    assert await _arrived_at_the_provider(billing) == [refund.refund_id.replace("-", "")]
    await billing.running.event(PaymentRefunded)
    assert len(billing.running.events(PaymentRefunded)) == 1


async def test_a_refund_that_takes_the_provider_a_while_is_pending_until_it_is_done(billing: World) -> None:
    payment = await _paid(billing)
    await billing.arm("lose_notifications", count=10)
    await billing.arm("slow_refunds", seconds=100)
    await billing.refund(payment.payment_id, 1250)
    await billing.send_refunds()
    await billing.send_refunds(after_s=60)
    assert [refund.state for refund in await billing.refunds(payment.payment_id)] == [pb.REFUND_STATE_PENDING]
    assert (await refusal(billing.refund(payment.payment_id, 1))).code == "billing.refund_exceeds_payment"
    await billing.send_refunds(after_s=60)
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_SUCCEEDED)


async def test_a_refund_that_the_provider_refuses_fails_and_can_be_asked_for_again(billing: World) -> None:
    payment = await _paid(billing)
    await billing.arm("refuse_refunds")
    refused = await billing.refund(payment.payment_id, 1250)
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_FAILED)
    assert await billing.incidents() == [("billing.refund_failed", refused.refund_id.replace("-", ""))]
    assert not billing.running.events(PaymentRefunded)
    await billing.refund(payment.payment_id, 1250)
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_SUCCEEDED)


async def test_a_refund_that_comes_to_nothing_later_fails_too(billing: World) -> None:
    payment = await _paid(billing)
    await billing.arm("abnormal_refunds")
    await billing.refund(payment.payment_id, 1250)
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_FAILED)
    (booked,) = await billing.payments()
    assert booked.refunded_fen == 0


async def test_the_providers_own_report_ends_a_refund_and_a_wrong_one_is_noted(billing: World) -> None:
    payment = await _paid(billing)
    await billing.arm("fail_requests", operation="refund", count=100, after=True)
    await billing.arm("fail_requests", operation="query_refund", count=100)
    await billing.arm("wrong_amount")
    refund = await billing.refund(payment.payment_id, 1250)

    async def refused() -> bool:
        return "billing.wrong_amount" in billing.door.answers

    await eventually(refused)
    assert await billing.incidents() == [("billing.wrong_amount", refund.refund_id.replace("-", ""))]
    reference = refund.refund_id.replace("-", "")
    body = (
        f'{{"event_type": "REFUND.SUCCESS", "resource": {{"merchant_id": "{MERCHANT}", "out_refund_no": "{reference}", "state": "SUCCESS", '
        f'"amount_fen": 1250, "success_time": "{billing.clock.now.isoformat()}"}}}}'
    ).encode()
    headers = {name.lower(): value for name, value in Signer(f"p1:{billing.keys.provider[0]}").headers(body, billing.clock.now).items()}
    await billing.door.deliver(headers, body)
    await billing.door.deliver(headers, body)
    assert [r.state for r in await billing.refunds(payment.payment_id)] == [pb.REFUND_STATE_SUCCEEDED]
    await billing.running.event(PaymentRefunded)
    assert len(billing.running.events(PaymentRefunded)) == 1
