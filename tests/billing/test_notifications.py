"""What the provider reports: forged, wrong, duplicated, reordered, late, lost, or about money that it took twice."""

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

from infra.sandbox_provider.signatures import Signer, generate_key
from linli.billing.v1 import billing_pb2 as pb
from linli.billing.v1.events_pb2 import PaymentRefunded, PaymentSucceeded
from servicekit.errors import Invalid, Unauthenticated
from servicekit.identifiers import new_id
from tests.billing.world import MERCHANT, World, reference, refusal
from tests.support import eventually


async def _paid_without_notification(billing: World, **raised: Any) -> tuple[pb.Payment, str]:
    payment = await billing.create_payment(await billing.raise_charge(**raised))
    await billing.arm("lose_notifications")
    (transaction_id,) = await billing.pay(payment)
    return payment, transaction_id


def _notification(billing: World, payment: pb.Payment, transaction_id: str, /, **changed: Any) -> bytes:
    """What the provider would report of a payment, with something changed."""
    resource = {
        "merchant_id": MERCHANT,
        "out_trade_no": reference(payment),
        "transaction_id": transaction_id,
        "amount_fen": payment.amount_fen,
        "success_time": billing.clock.now.isoformat(),
        **changed,
    }
    return json.dumps({"event_type": "TRANSACTION.SUCCESS", "resource": resource}).encode()


def _signed(billing: World, body: bytes, at: datetime | None = None, key: str = "") -> dict[str, str]:
    signer = Signer(f"p1:{key or billing.keys.provider[0]}")
    return {name.lower(): value for name, value in signer.headers(body, at or billing.clock.now).items()}


async def test_a_notification_that_is_answered_with_success_is_committed(billing: World) -> None:
    payment, transaction_id = await _paid_without_notification(billing)
    body = _notification(billing, payment, transaction_id)
    answer = await billing.door.deliver(_signed(billing, body), body)
    assert (answer.content_type, answer.data) == ("application/json", b'{"code":"SUCCESS"}')
    (booked,) = await billing.payments()
    assert booked.state == pb.PAYMENT_STATE_SUCCEEDED


async def test_a_forged_notification_is_refused_and_settles_nothing(billing: World) -> None:
    payment, transaction_id = await _paid_without_notification(billing)
    body = _notification(billing, payment, transaction_id)
    good = _signed(billing, body)
    forgeries = {
        "another body": (good, body.replace(b"1250", b"1251")),
        "another key": (_signed(billing, body, key=generate_key()[0]), body),
        "an unknown key id": ({**good, "sandbox-serial": "p2"}, body),
        "another time": ({**good, "sandbox-timestamp": str(int(good["sandbox-timestamp"]) + 1)}, body),
        "another nonce": ({**good, "sandbox-nonce": "0"}, body),
        "no base64": ({**good, "sandbox-signature": "!"}, body),
        "no number": ({**good, "sandbox-timestamp": "soon"}, body),
        "a huge number": ({**good, "sandbox-timestamp": "9" * 40}, body),
        "no signature at all": ({}, body),
        "no body": (good, b""),
        "an old one": (_signed(billing, body, billing.clock.now - timedelta(seconds=301)), body),
        "one of tomorrow": (_signed(billing, body, billing.clock.now + timedelta(days=1)), body),
    }
    for what, (headers, forged) in forgeries.items():
        error = await refusal(billing.door.deliver(headers, forged))
        assert (type(error), error.code) == (Unauthenticated, "billing.notification_signature"), what
    (pending,) = await billing.payments()
    assert pending.state == pb.PAYMENT_STATE_PENDING


async def test_a_recorded_notification_that_is_played_again_later_is_refused(billing: World) -> None:
    payment = await billing.create_payment(await billing.raise_charge())
    await billing.pay(payment)
    await billing.answered("SUCCESS")
    billing.clock.advance(seconds=301)
    error = await refusal(billing.door.deliver(*billing.door.received[0]))
    assert error.code == "billing.notification_signature"


async def test_signed_money_that_does_not_fit_is_refused_and_noted_once(billing: World) -> None:
    payment, transaction_id = await _paid_without_notification(billing)
    stranger = new_id().hex
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"amount_fen": 1249}, "billing.wrong_amount", reference(payment)),
        ({"amount_fen": 2**62, "transaction_id": "T2"}, "billing.wrong_amount", reference(payment)),
        ({"merchant_id": "somebody-else"}, "billing.wrong_merchant", reference(payment)),
        ({"out_trade_no": stranger}, "billing.unknown_payment", stranger),
        ({"out_trade_no": "stay-7"}, "billing.unknown_payment", "stay-7"),
    ]
    for changed, code, _ in cases:
        body = _notification(billing, payment, transaction_id, **changed)
        for _ in range(2):
            error = await refusal(billing.door.deliver(_signed(billing, body), body))
            assert (type(error), error.code) == (Invalid, code)
    assert await billing.incidents() == [(code, noted) for _, code, noted in cases]
    (pending,) = await billing.payments()
    assert pending.state == pb.PAYMENT_STATE_PENDING


async def test_a_signed_notification_that_says_nothing_is_malformed(billing: World) -> None:
    payment, transaction_id = await _paid_without_notification(billing)
    bodies = [
        b"",
        b"{",
        b"[]",
        b'{"event_type": "TRANSACTION.SUCCESS"}',
        b'{"event_type": "TRANSACTION.SUCCESS", "resource": {"amount_fen": "12"}}',
        b'{"event_type": "REFUND.SUCCESS", "resource": {"merchant_id": "m", "out_refund_no": "r", "state": "WHO KNOWS", "amount_fen": 1}}',
        '{"event_type": "通知"}'.encode("gbk"),
        *(
            _notification(billing, payment, transaction_id, **changed)
            for changed in (
                {"out_trade_no": "stay 7\0"},
                {"transaction_id": "T\0"},
                {"transaction_id": "9" * 65},
                {"amount_fen": -1},
                {"amount_fen": 12.5},
                {"amount_fen": 10**30},
                {"success_time": "yesterday"},
                {"success_time": "2026-01-05T10:00:00"},
                {"success_time": "0001-01-01T00:00:00+14:00"},
            )
        ),
    ]
    for body in bodies:
        error = await refusal(billing.door.deliver(_signed(billing, body), body))
        assert (type(error), error.code) == (Invalid, "billing.notification_malformed"), body


async def test_a_transaction_that_belongs_to_another_order_is_noted_and_settles_nothing(billing: World) -> None:
    first = await billing.create_payment(await billing.raise_charge())
    (transaction_id,) = await billing.pay(first)
    await billing.payment_where(first.payment_id, pb.PAYMENT_STATE_SUCCEEDED)
    second = await billing.create_payment(await billing.raise_charge())
    body = _notification(billing, second, transaction_id)
    error = await refusal(billing.door.deliver(_signed(billing, body), body))
    assert error.code == "billing.transaction_reused"
    assert await billing.incidents() == [("billing.transaction_reused", reference(second))]


async def test_an_unknown_provider_cannot_notify(billing: World) -> None:
    error = await refusal(billing.door.deliver({}, b"{}", "shells"))
    assert error.code == "billing.provider_unknown"


async def test_what_a_wrong_notification_failed_to_say_a_query_finds_out(billing: World) -> None:
    refused = {
        "wrong_amount": "billing.wrong_amount",
        "wrong_merchant": "billing.wrong_merchant",
        "wrong_signature": "billing.notification_signature",
    }
    for kind, code in refused.items():
        payment = await billing.create_payment(await billing.raise_charge())
        await billing.arm(kind)
        await billing.pay(payment)

        async def refused_twice(code: str = code) -> bool:
            return billing.door.answers.count(code) >= 2

        await eventually(refused_twice)
        (pending,) = [p for p in await billing.payments() if p.payment_id == payment.payment_id]
        assert pending.state == pb.PAYMENT_STATE_PENDING
        await billing.recover()
        await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)


async def test_a_notification_that_comes_twice_changes_nothing_the_second_time(billing: World) -> None:
    payment = await billing.create_payment(await billing.raise_charge())
    await billing.arm("duplicate_notifications")
    await billing.pay(payment)
    await billing.answered("SUCCESS", "SUCCESS")
    assert [p.state for p in await billing.payments()] == [pb.PAYMENT_STATE_SUCCEEDED]
    await billing.running.event(PaymentSucceeded)
    assert len(billing.running.events(PaymentSucceeded)) == 1


async def test_notifications_in_the_wrong_order_settle_the_same_charges(billing: World) -> None:
    payments = [await billing.create_payment(await billing.raise_charge()) for _ in range(3)]
    await billing.arm("reorder_notifications", count=3)
    for payment in payments:
        await billing.pay(payment)
    await billing.answered(*["SUCCESS"] * 3)
    orders = [json.loads(body)["resource"]["out_trade_no"] for _, body in billing.door.received]
    assert orders == [reference(payment) for payment in payments][::-1]
    assert {p.state for p in await billing.payments()} == {pb.PAYMENT_STATE_SUCCEEDED}


async def test_a_late_notification_of_money_that_was_taken_in_time_still_pays(billing: World) -> None:
    charge_id = await billing.raise_charge(minutes=10)
    payment = await billing.create_payment(charge_id)
    billing.clock.advance(minutes=9)
    await billing.arm("lose_notifications")
    await billing.pay(payment)
    paid_at = billing.clock.now
    billing.clock.advance(minutes=5)
    assert (await billing.charge_where(charge_id, lambda _charge: True)).state == pb.CHARGE_STATE_CANCELLED
    await billing.recover()
    settled = await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)
    assert settled.paid_at.ToDatetime() == paid_at.replace(tzinfo=None)
    assert (await billing.charge_where(charge_id, lambda _charge: True)).state == pb.CHARGE_STATE_PAID


async def test_money_that_was_taken_too_late_goes_back(billing: World) -> None:
    charge_id = await billing.raise_charge(minutes=10)
    payment = await billing.create_payment(charge_id)
    await billing.arm("lose_notifications")
    (transaction_id,) = await billing.pay(payment)
    late = (billing.clock.now + timedelta(minutes=10, seconds=1)).isoformat()
    body = _notification(billing, payment, transaction_id, success_time=late)
    await billing.door.deliver(_signed(billing, body), body)
    await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_RETURNED)
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_SUCCEEDED)
    assert not billing.running.events(PaymentSucceeded)


async def test_a_lost_notification_is_recovered_by_a_query_within_seconds(billing: World) -> None:
    payment, _ = await _paid_without_notification(billing)
    billing.clock.advance(seconds=2)  # The timer itself does the rest.
    await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)
    await billing.running.event(PaymentSucceeded)
    assert not billing.door.answers


async def test_a_query_that_fails_is_asked_again_a_little_later(billing: World) -> None:
    payment, _ = await _paid_without_notification(billing)
    await billing.arm("fail_requests", operation="query")
    await billing.recover()
    await billing.recover(after_s=60)
    await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)


async def test_an_order_that_nobody_paid_is_closed_when_its_time_is_over_even_if_the_provider_never_knew_it(billing: World) -> None:
    charge_id = await billing.raise_charge(minutes=5)
    known = await billing.create_payment(charge_id)
    await billing.arm("fail_requests", operation="prepay")
    await refusal(billing.create_payment(charge_id))
    await billing.recover(after_s=60)
    assert {p.state for p in await billing.payments()} == {pb.PAYMENT_STATE_PENDING}
    await billing.recover(after_s=241)
    await billing.payments_where(lambda all_: {p.state for p in all_} == {pb.PAYMENT_STATE_CLOSED})
    assert (await billing.http.post(known.pay_url)).status_code == 409


async def test_what_the_provider_took_twice_for_one_order_goes_back_once(billing: World) -> None:
    payer = billing.payer()
    payment = await billing.create_payment(await billing.raise_charge(), payer)
    await billing.arm("charge_twice")
    await billing.arm("duplicate_notifications", count=2)
    transactions = await billing.pay(payment)
    assert len(transactions) == 2
    await billing.answered(*["SUCCESS"] * 4)
    booked = await billing.payments_where(lambda all_: sum(p.refunded_fen for p in all_) == 1250)
    assert sorted((p.state, p.refunded_fen) for p in booked) == [(pb.PAYMENT_STATE_SUCCEEDED, 0), (pb.PAYMENT_STATE_RETURNED, 1250)]
    assert {p.provider_payment_id for p in booked} == set(transactions)
    await billing.running.event(PaymentRefunded)
    await billing.recover(after_s=60)
    await billing.send_refunds(after_s=60)
    assert [len(await billing.refunds(p.payment_id)) for p in sorted(booked, key=lambda p: p.state)] == [0, 1]
    assert len(billing.running.events(PaymentSucceeded)) == len(billing.running.events(PaymentRefunded)) == 1


async def test_a_query_finds_what_was_taken_twice_when_both_notifications_are_lost(billing: World) -> None:
    payment = await billing.create_payment(await billing.raise_charge())
    await billing.arm("charge_twice")
    await billing.arm("lose_notifications", count=2)
    await billing.pay(payment)
    await billing.recover()
    booked = await billing.payments_where(lambda all_: sum(p.refunded_fen for p in all_) == 1250)
    assert sorted(p.state for p in booked) == [pb.PAYMENT_STATE_SUCCEEDED, pb.PAYMENT_STATE_RETURNED]


async def test_notification_and_query_at_the_same_time_settle_once(billing: World) -> None:
    payments = [(await _paid_without_notification(billing)) for _ in range(5)]
    bodies = [_notification(billing, payment, transaction_id) for payment, transaction_id in payments]
    await asyncio.gather(billing.recover(), *(billing.door.deliver(_signed(billing, body), body) for body in bodies * 3))
    booked = await billing.payments_where(lambda all_: all(p.state == pb.PAYMENT_STATE_SUCCEEDED for p in all_))
    assert len(booked) == 5

    async def five() -> bool:
        return len(billing.running.events(PaymentSucceeded)) == 5

    await eventually(five)
