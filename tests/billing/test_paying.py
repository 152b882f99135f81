"""Charges become payments: through the API, the provider's page and its notifications."""

import asyncio
import uuid

from linli.billing.v1 import billing_pb2 as pb
from linli.billing.v1.events_pb2 import ChargeWithdrawn, PaymentRefunded, PaymentSucceeded
from linli.notification.v1.events_pb2 import Notified
from servicekit.errors import Conflict, NotFound, Unavailable
from servicekit.identifiers import new_id
from tests.billing.world import API, World, reference, refusal
from tests.support import eventually


async def test_a_charge_is_paid_on_the_providers_page_and_its_origin_and_payer_hear_of_it(billing: World) -> None:
    charge_id = await billing.raise_charge(1250, origin_id="stay-7")
    account_id = new_id()
    payer = billing.payer(account_id)
    payment = await billing.create_payment(charge_id, payer)
    assert payment.state == pb.PAYMENT_STATE_PENDING
    assert (payment.amount_fen, payment.text, payment.provider) == (1250, "停车费", "sandbox")

    page = await billing.http.get(payment.pay_url)
    assert "¥12.50" in page.text
    (transaction_id,) = await billing.pay(payment)

    succeeded = await billing.running.event(PaymentSucceeded)
    assert succeeded.message.charge_id == charge_id
    assert (succeeded.message.origin, succeeded.message.origin_id, succeeded.message.amount_fen) == ("parking", "stay-7", 1250)
    told = await billing.running.event(Notified)
    assert told.message.account_id == str(account_id)
    assert told.message.kind == "billing.payment_succeeded"
    assert "12.50" in told.message.text_zh
    assert "12.50" in told.message.text_en
    receipt = await payer.call(f"{API}/GetPayment", pb.GetPaymentRequest(payment_id=payment.payment_id))
    assert receipt.state == pb.PAYMENT_STATE_SUCCEEDED
    assert receipt.provider_payment_id == transaction_id
    assert receipt.paid_at.ToDatetime() == billing.clock.now.replace(tzinfo=None)
    await billing.charge_where(charge_id, lambda charge: charge.state == pb.CHARGE_STATE_PAID)


async def test_paying_waits_for_a_charge_that_is_still_on_its_way(billing: World) -> None:
    charge_id = str(new_id())
    paying = asyncio.create_task(billing.create_payment(charge_id))
    await asyncio.sleep(0)
    await billing.publish_charge(charge_id=charge_id)
    assert (await paying).charge_id == charge_id


async def test_a_charge_that_never_arrives_is_not_found_after_about_two_seconds(billing: World) -> None:
    started = asyncio.get_running_loop().time()
    error = await refusal(billing.create_payment(str(new_id())))
    assert isinstance(error, NotFound)
    assert error.code == "billing.charge_not_found"
    assert 1.5 < asyncio.get_running_loop().time() - started < 5


async def test_an_unknown_provider_is_not_found(billing: World) -> None:
    charge_id = await billing.raise_charge()
    request = pb.CreatePaymentRequest(charge_id=charge_id, provider="shells")
    error = await refusal(billing.payer().call(f"{API}/CreatePayment", request))
    assert error.code == "billing.provider_unknown"


async def test_asking_again_gives_the_same_open_payment_and_each_payer_their_own(billing: World) -> None:
    charge_id = await billing.raise_charge()
    one, other = billing.payer(), billing.payer()
    first, second, third = await asyncio.gather(*(billing.create_payment(charge_id, payer) for payer in (one, one, other)))
    assert first == second
    assert third.payment_id != first.payment_id
    assert await billing.create_payment(charge_id, one) == first


async def test_an_order_that_ran_out_is_closed_and_a_new_one_made(billing: World) -> None:
    charge_id = await billing.raise_charge(minutes=120)
    payer = billing.payer()
    first = await billing.create_payment(charge_id, payer)
    billing.clock.advance(minutes=30)
    second = await billing.create_payment(charge_id, payer)
    assert second.payment_id != first.payment_id
    assert {p.payment_id: p.state for p in await billing.payments()} == {
        first.payment_id: pb.PAYMENT_STATE_CLOSED,
        second.payment_id: pb.PAYMENT_STATE_PENDING,
    }
    gone = await billing.http.post(first.pay_url, headers={"accept": "application/json"})
    assert (gone.status_code, gone.json()["code"]) == (409, "ORDER_CLOSED")


async def test_what_cannot_be_paid_says_why(billing: World) -> None:
    paid, replaced, expired = await billing.raise_charge(), await billing.raise_charge(), await billing.raise_charge(minutes=1)
    await billing.pay(await billing.create_payment(paid))
    await billing.charge_where(paid, lambda charge: charge.state == pb.CHARGE_STATE_PAID)
    await billing.raise_charge(replaces_charge_id=replaced)
    await billing.charge_where(replaced, lambda charge: charge.state == pb.CHARGE_STATE_CANCELLED)
    billing.clock.advance(seconds=59)
    await billing.create_payment(expired)
    billing.clock.advance(seconds=1)
    await billing.charge_where(expired, lambda charge: charge.state == pb.CHARGE_STATE_CANCELLED)

    errors = [await refusal(billing.create_payment(charge_id)) for charge_id in (paid, replaced, expired)]
    assert [error.code for error in errors] == ["billing.charge_paid", "billing.charge_cancelled", "billing.charge_expired"]
    assert all(isinstance(error, Conflict) and error.zh and error.en for error in errors)


async def test_a_replacement_cancels_a_charge_that_arrives_after_it(billing: World) -> None:
    late = str(new_id())
    replacement = await billing.raise_charge(replaces_charge_id=late)
    await billing.raise_charge(charge_id=late)
    assert (await billing.charge_where(late, lambda _charge: True)).state == pb.CHARGE_STATE_CANCELLED
    assert (await billing.charge_where(replacement, lambda _charge: True)).state == pb.CHARGE_STATE_DUE


async def test_charges_and_replacements_that_arrive_all_at_once_leave_only_the_last_one_due(billing: World) -> None:
    chain = [str(new_id()) for _ in range(12)]
    replaced = dict(zip(chain[1:], chain, strict=False))
    await asyncio.gather(*(billing.publish_charge(charge_id=new, replaces_charge_id=replaced.get(new, "")) for new in chain))
    for charge_id in chain:
        await billing.charge_where(charge_id, lambda _charge: True)
    request = pb.ListChargesRequest(state=pb.CHARGE_STATE_DUE)
    due = await billing.staff().call(f"{API}/ListCharges", request)
    assert [charge.charge_id for charge in due.charges] == chain[-1:]


async def test_a_charge_that_is_no_charge_is_never_due(billing: World) -> None:
    await billing.publish_charge(0)
    await billing.publish_charge(-100)
    await billing.publish_charge(charge_id="stay 7")
    good = await billing.raise_charge()
    listed = await billing.staff().call(f"{API}/ListCharges", pb.ListChargesRequest())
    assert [charge.charge_id for charge in listed.charges] == [good]


async def test_an_order_whose_answer_was_lost_is_continued_under_the_same_number(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payer = billing.payer()
    await billing.arm("fail_requests", operation="prepay", after=True)
    assert isinstance(await refusal(billing.create_payment(charge_id, payer)), Unavailable)
    (pending,) = await billing.payments()
    assert (pending.state, pending.pay_url) == (pb.PAYMENT_STATE_PENDING, "")
    await billing.arm("fail_requests", operation="prepay")
    assert (await refusal(billing.create_payment(charge_id, payer))).code == "billing.provider_unavailable"
    payment = await billing.create_payment(charge_id, payer)
    assert payment.payment_id == pending.payment_id
    await billing.pay(payment)
    await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)


async def test_a_key_repeats_the_answer_even_when_the_charge_is_paid(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payer = billing.payer()
    payment = await billing.create_payment(charge_id, payer, idempotency_key="tap-1")
    await billing.pay(payment)
    await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)
    assert await billing.create_payment(charge_id, payer, idempotency_key="tap-1") == payment


async def test_of_two_phones_that_both_pay_one_settles_and_the_other_gets_its_money_back(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payments = [await billing.create_payment(charge_id) for _ in range(2)]
    await asyncio.gather(*(billing.pay(payment) for payment in payments))
    states = sorted(p.state for p in await billing.payments_where(lambda all_: all(p.state != pb.PAYMENT_STATE_PENDING for p in all_)))
    assert states == [pb.PAYMENT_STATE_SUCCEEDED, pb.PAYMENT_STATE_RETURNED]
    refunded = await billing.running.event(PaymentRefunded)
    assert not refunded.message.reopened_charge
    (returned,) = [p for p in await billing.payments() if p.state == pb.PAYMENT_STATE_RETURNED]
    assert refunded.message.payment_id == returned.payment_id
    assert returned.refunded_fen == 1250
    assert len(billing.running.events(PaymentSucceeded)) == 1
    assert (await billing.charge_where(charge_id, lambda _charge: True)).state == pb.CHARGE_STATE_PAID


async def test_other_open_orders_are_closed_when_the_charge_is_paid(billing: World) -> None:
    charge_id = await billing.raise_charge()
    paid, idle = await billing.create_payment(charge_id), await billing.create_payment(charge_id)
    await billing.pay(paid)
    await billing.payment_where(idle.payment_id, pb.PAYMENT_STATE_CLOSED)
    assert (await billing.http.post(idle.pay_url)).status_code == 409


async def test_open_orders_are_closed_when_the_charge_is_replaced(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payment = await billing.create_payment(charge_id)
    await billing.raise_charge(replaces_charge_id=charge_id)
    await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_CLOSED)
    assert (await billing.http.post(payment.pay_url)).status_code == 409


async def test_money_for_a_charge_that_was_replaced_meanwhile_goes_back(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payment = await billing.create_payment(charge_id)
    await billing.arm("delay_notifications", seconds=0.5)
    await billing.pay(payment)
    await billing.raise_charge(replaces_charge_id=charge_id)
    await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_RETURNED)
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_SUCCEEDED)
    assert not billing.running.events(PaymentSucceeded)


async def test_a_charge_that_is_withdrawn_is_not_payable_any_more_and_money_that_comes_goes_back(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payment = await billing.create_payment(charge_id)
    await billing.arm("delay_notifications", seconds=0.5)
    await billing.pay(payment)
    await billing.running.publish(ChargeWithdrawn(charge_id=charge_id), billing.community_id)
    await billing.charge_where(charge_id, lambda charge: charge.state == pb.CHARGE_STATE_CANCELLED)
    await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_RETURNED)
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_SUCCEEDED)


async def test_only_the_payer_and_staff_see_a_payment(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payer = billing.payer()
    payment = await billing.create_payment(charge_id, payer)
    request = pb.GetPaymentRequest(payment_id=payment.payment_id)
    assert await payer.call(f"{API}/GetPayment", request) == payment
    assert await billing.staff("billing.payments.read").call(f"{API}/GetPayment", request) == payment
    assert (await refusal(billing.payer().call(f"{API}/GetPayment", request))).code == "billing.payment_not_found"
    mine = await payer.call(f"{API}/ListMyPayments", pb.ListMyPaymentsRequest())
    assert [p.payment_id for p in mine.payments] == [payment.payment_id]
    assert not (await billing.payer().call(f"{API}/ListMyPayments", pb.ListMyPaymentsRequest())).payments


async def test_lists_go_from_the_newest_to_the_oldest_without_repeating_or_skipping(billing: World) -> None:
    charges, payments, payer = [], [], billing.payer()
    for number in range(5):
        billing.clock.advance(seconds=1)
        charges.append(await billing.raise_charge(origin_id=f"stay-{number % 2}"))
        payments.append((await billing.create_payment(charges[-1], payer)).payment_id)

    async def pages(method: str, kind: type, items: str, **request: object) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            answer = await billing.staff().call(f"{API}/{method}", kind(page_size=2, page_token=token, **request))
            page = [getattr(item, f"{items[:-1]}_id") for item in getattr(answer, items)]
            assert 0 < len(page) <= 2
            found, token = found + page, answer.next_page_token
            if not token:
                return found

    assert await pages("ListCharges", pb.ListChargesRequest, "charges") == charges[::-1]
    assert await pages("ListCharges", pb.ListChargesRequest, "charges", origin_id="stay-0") == charges[::-2]
    assert await pages("ListPayments", pb.ListPaymentsRequest, "payments") == payments[::-1]


async def test_a_race_of_many_payers_and_notifications_settles_the_charge_once(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payments = [await billing.create_payment(charge_id) for _ in range(6)]
    await billing.arm("duplicate_notifications", count=6)
    await asyncio.gather(*(billing.pay(payment) for payment in payments))
    await billing.answered(*["SUCCESS"] * 12)
    found = await billing.payments_where(lambda all_: sum(p.refunded_fen for p in all_) == 5 * 1250)
    assert sorted(p.state for p in found) == [pb.PAYMENT_STATE_SUCCEEDED] + [pb.PAYMENT_STATE_RETURNED] * 5
    assert len(billing.running.events(PaymentSucceeded)) == 1

    async def five() -> bool:
        return len(billing.running.events(PaymentRefunded)) == 5

    await eventually(five)
    assert {reference(p) for p in payments} == {uuid.UUID(p.payment_id).hex for p in found}


async def test_a_charge_that_replaces_a_paid_one_is_cancelled_itself(billing: World) -> None:
    paid = await billing.raise_charge()
    await billing.pay(await billing.create_payment(paid))
    await billing.charge_where(paid, lambda charge: charge.state == pb.CHARGE_STATE_PAID)
    replacement = await billing.raise_charge(replaces_charge_id=paid)
    await billing.charge_where(replacement, lambda charge: charge.state == pb.CHARGE_STATE_CANCELLED)
    await billing.charge_where(paid, lambda charge: charge.state == pb.CHARGE_STATE_PAID)
