"""Our books against the provider's: every difference is found, what was missed is settled, and nobody sees another community's money."""

import asyncio
import uuid
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.sandbox_provider.signatures import Signer, generate_key
from linli.billing.v1 import billing_pb2 as pb
from linli.billing.v1.events_pb2 import PaymentSucceeded
from linli.identity.v1.events_pb2 import CommunityChanged
from servicekit.errors import Conflict, Invalid, Unavailable
from servicekit.identifiers import new_id
from services.billing.payments import Outcome
from services.billing.providers import Order, Provider, Providers
from services.billing.reconciliation import DifferenceKind, Entry, EntryKind, OurEntry, bounds, compare, days_between
from services.billing.sandbox import Sandbox
from tests.billing.world import API, World, reference, refusal, world
from tests.measured import measured
from tests.support import Servers, TestClock, eventually

# Midday of 2 March in Shanghai.
NOON = datetime(2026, 3, 2, 4, tzinfo=UTC)
DAY = "2026-03-02"


@pytest.fixture
async def billing(servers: Servers, tmp_path: Path) -> AsyncIterator[World]:
    """A community's billing at midday."""
    async with world(servers, tmp_path, TestClock(NOON)) as running:
        yield running


def _provider(billing: World) -> Provider:
    return billing.call().resource(Providers).named("sandbox")


async def _paid(billing: World, **raised: Any) -> pb.Payment:
    payment = await billing.create_payment(await billing.raise_charge(**raised))
    await billing.pay(payment)
    return await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)


def _found(result: pb.Reconciliation) -> list[tuple[str, str, int, int]]:
    return sorted((d.kind, d.reference, d.our_amount_fen, d.provider_amount_fen) for d in result.differences)


async def test_a_day_that_is_reconciled_by_several_at_once_is_reconciled_once(billing: World) -> None:
    billing.clock.advance(days=1)
    results = await asyncio.gather(*(billing.reconcile(DAY) for _ in range(4)), billing.reconcile_yesterdays())
    listed = await billing.staff().call(f"{API}/ListReconciliations", pb.ListReconciliationsRequest())
    assert [kept.day for kept in listed.reconciliations] == [DAY]
    assert results[:4] == [listed.reconciliations[0]] * 4
    await billing.reconcile(DAY)
    listed = await billing.staff().call(f"{API}/ListReconciliations", pb.ListReconciliationsRequest())
    assert [kept.day for kept in listed.reconciliations] == [DAY, DAY], "who asks again is told anew"


async def test_a_day_whose_books_agree_has_no_difference(billing: World) -> None:
    paid = measured("linli_payments_total", outcome="succeeded")
    first, _ = await _paid(billing), await _paid(billing, amount_fen=300)
    await billing.refund(first.payment_id, 250)
    await billing.refunds_where(first.payment_id, pb.REFUND_STATE_SUCCEEDED)
    await billing.create_payment(await billing.raise_charge())
    billing.clock.advance(hours=13)
    result = await billing.reconcile(DAY)
    assert (result.provider, result.day, result.matched, list(result.differences)) == ("sandbox", DAY, 3, [])
    listed = await billing.staff().call(f"{API}/ListReconciliations", pb.ListReconciliationsRequest())
    assert list(listed.reconciliations) == [result]
    assert measured("linli_payments_total", outcome="succeeded") == paid + 2


async def test_the_night_belongs_to_the_day_of_the_communitys_calendar(billing: World) -> None:
    billing.clock.now = datetime(2026, 3, 2, 15, 59, 59, tzinfo=UTC)
    await _paid(billing)
    billing.clock.advance(seconds=2)
    await _paid(billing)
    billing.clock.advance(days=1)
    assert [(await billing.reconcile(day)).matched for day in ("2026-03-01", DAY, "2026-03-03")] == [0, 1, 1]


async def test_a_day_in_another_time_zone_takes_its_lines_from_two_of_the_providers_files(billing: World) -> None:
    await billing.running.publish(CommunityChanged(community_id=str(billing.community_id), time_zone="Asia/Tokyo"), billing.community_id)
    # The second of March in Tokyo is from 15:00 to 15:00 UTC, in Shanghai from 16:00 to 16:00.
    for hour in (14, 15):
        billing.clock.now = datetime(2026, 3, 1, hour, 30, tzinfo=UTC)
        await _paid(billing)
    for hour in (14, 15):
        billing.clock.now = datetime(2026, 3, 2, hour, 30, tzinfo=UTC)
        await _paid(billing)

    async def two() -> bool:
        return (await billing.reconcile(DAY)).matched == 2

    await eventually(two)
    assert not (await billing.reconcile(DAY)).differences


async def test_money_that_we_had_missed_is_found_and_settled(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payment = await billing.create_payment(charge_id)
    await billing.arm("lose_notifications", count=2)
    await billing.arm("charge_twice")
    await billing.pay(payment)
    await billing.arm("fail_requests", operation="query", count=1000)
    billing.clock.advance(hours=13)
    result = await billing.reconcile(DAY)
    assert _found(result) == [("missing_here", reference(payment), 0, 1250)] * 2
    booked = await billing.payments_where(lambda all_: sum(p.refunded_fen for p in all_) == 1250)
    assert sorted(p.state for p in booked) == [pb.PAYMENT_STATE_SUCCEEDED, pb.PAYMENT_STATE_RETURNED]
    assert (await billing.running.event(PaymentSucceeded)).message.charge_id == charge_id
    assert await billing.incidents() == []
    again = await billing.reconcile(DAY)
    assert (again.matched, list(again.differences)) == (2, [])


async def test_a_refund_that_was_done_without_our_knowing_is_found_and_finished(billing: World) -> None:
    payment = await _paid(billing)
    await billing.arm("lose_notifications")
    await billing.arm("fail_requests", operation="refund", count=1000, after=True)
    await billing.arm("fail_requests", operation="query_refund", count=1000)
    refund = await billing.refund(payment.payment_id, 250)
    await billing.send_refunds()
    billing.clock.advance(hours=13)
    result = await billing.reconcile(DAY)
    assert _found(result) == [("state", uuid.UUID(refund.refund_id).hex, 250, 250)]
    await billing.refunds_where(payment.payment_id, pb.REFUND_STATE_SUCCEEDED)
    assert await billing.incidents() == []


async def test_what_does_not_fit_is_found_and_noted_for_a_person(billing: World) -> None:
    payments = [await _paid(billing) for _ in range(3)]
    stranger = Order(new_id().hex, 777, "?", str(billing.community_id), billing.clock.now + timedelta(minutes=5))
    await billing.arm("lose_notifications")
    await billing.http.post(await _provider(billing).prepay(stranger))
    lost, changed, kept = (uuid.UUID(p.payment_id) for p in payments)
    async with billing.running.transaction("billing", billing.community_id) as tx:
        await tx.execute("UPDATE payments SET provider_payment_id = 'T1' WHERE payment_id = $1", lost)
        await tx.execute("UPDATE payments SET amount_fen = 1200 WHERE payment_id = $1", changed)
    billing.clock.advance(hours=13)
    counted = {kind: measured("linli_reconciliation_differences_total", kind=kind) for kind in DifferenceKind}
    result = await billing.reconcile(DAY)
    await billing.reconcile(DAY)
    assert result.matched == 1
    assert kept.hex not in {d.reference for d in result.differences}
    assert _found(result) == sorted(
        [
            ("amount", changed.hex, 1200, 1250),
            ("missing_here", stranger.reference, 0, 777),
            ("missing_here", lost.hex, 0, 1250),
            ("missing_there", lost.hex, 1250, 0),
        ]
    )
    # The money of `lost` is settled as a second taking; the rest is for a person.
    assert sorted(await billing.incidents()) == [
        ("billing.reconciliation_amount", changed.hex),
        ("billing.reconciliation_missing_here", stranger.reference),
        ("billing.reconciliation_missing_there", lost.hex),
    ]
    # Found again, it is no other difference.
    more = {kind: measured("linli_reconciliation_differences_total", kind=kind) - before for kind, before in counted.items()}
    assert more == {"amount": 1, "missing_here": 1, "missing_there": 1, "state": 0}


async def test_another_communitys_money_is_nobody_elses_business(billing: World) -> None:
    payment, other = await _paid(billing), new_id()
    stranger = Order(new_id().hex, 777, "?", str(billing.community_id), billing.clock.now + timedelta(minutes=5))
    nobodys = Order(new_id().hex, 888, "?", "", billing.clock.now + timedelta(minutes=5))
    for order in (stranger, nobodys):
        await billing.http.post(await _provider(billing).prepay(order))
    billing.clock.advance(hours=13)
    ours = await billing.reconcile(DAY)
    theirs = await billing.reconcile(DAY, billing.staff(community_id=other))
    assert ours.matched == 1
    assert {d.reference for d in ours.differences} == {stranger.reference, nobodys.reference}
    assert (theirs.matched, _found(theirs)) == (0, [("missing_here", nobodys.reference, 0, 888)])
    assert payment.payment_id


async def test_a_day_that_has_not_ended_and_a_day_that_is_none_are_refused(billing: World) -> None:
    error = await refusal(billing.reconcile(DAY))
    assert (type(error), error.code) == (Conflict, "billing.day_not_ended")
    for day in ("2026-02-30", "0001-01-01", "9999-12-31"):
        error = await refusal(billing.reconcile(day))
        assert (type(error), error.code) == (Invalid, "request.invalid")
    error = await refusal(billing.reconcile("2199-12-31"))
    assert error.code == "billing.day_not_ended"


async def test_the_timer_reconciles_each_day_once_after_it_has_ended_there(billing: World) -> None:
    await billing.running.publish(CommunityChanged(community_id=str(billing.community_id), time_zone="Asia/Shanghai"), billing.community_id)
    await _paid(billing)

    async def days() -> list[str]:
        answer = await billing.staff().call(f"{API}/ListReconciliations", pb.ListReconciliationsRequest())
        return [f"{r.day} {r.matched}" for r in answer.reconciliations]

    await billing.reconcile_yesterdays()
    assert await days() == []
    billing.clock.now = datetime(2026, 3, 2, 18, 59, tzinfo=UTC)  # 02:59 in Shanghai
    await billing.reconcile_yesterdays()
    assert await days() == []
    billing.clock.advance(minutes=1)
    await billing.arm("fail_requests", operation="bill")
    await billing.reconcile_yesterdays()
    assert await days() == []

    async def known() -> bool:
        await billing.reconcile_yesterdays()
        return await days() == [f"{DAY} 1"]

    await eventually(known)
    await billing.reconcile_yesterdays()
    assert await days() == [f"{DAY} 1"]
    billing.clock.advance(days=3)
    await billing.reconcile_yesterdays()
    assert await days() == ["2026-03-05 0", "2026-03-04 0", "2026-03-03 0", f"{DAY} 1"]


@pytest.mark.parametrize(
    "file",
    [
        "",
        "kind,merchant_id,reference,transaction_id,amount_fen,state,time,attach\n",
        "kind,merchant_id,reference,transaction_id,amount_fen,state,time,attach\ntotal,1\n",
        "kind,merchant_id,reference,transaction_id,amount_fen,state,time,attach\npayment,m,r,t,1,SUCCESS,2026-03-02T12:00:00+08:00\ntotal,1\n",
        "kind,merchant_id,reference,transaction_id,amount_fen,state,time,attach\npayment,m,r,t,x,SUCCESS,2026-03-02T12:00:00+08:00,\ntotal,1\n",
        "kind,merchant_id,reference,transaction_id,amount_fen,state,time,attach\npayment,m,r,\0,1,SUCCESS,2026-03-02T12:00:00+08:00,\ntotal,1\n",
    ],
)
@pytest.mark.parametrize("is_signed", [True, False])
async def test_a_file_that_is_cut_short_or_not_the_providers_is_no_file(file: str, is_signed: bool) -> None:
    private, public = generate_key()
    body = file.encode()

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body, headers=Signer(f"p1:{private}").headers(body if is_signed else b"other", NOON))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        provider = Sandbox(
            client,
            "http://provider",
            merchant_id="m",
            merchant_key=("m1", b64decode(generate_key()[0])),
            provider_keys={"p1": b64decode(public)},
            notify_url="http://here",
            clock=lambda: NOON,
        )
        assert isinstance(await refusal(provider.reconciliation_file(NOON.date())), Unavailable)


_AMOUNTS = st.integers(min_value=1, max_value=10**11)
_ENTRIES = st.lists(st.tuples(st.sampled_from(EntryKind), _AMOUNTS), max_size=12)
_MUTATIONS = st.lists(st.sampled_from(["keep", "drop", "amount", "state", "reference", "transaction", "twice"]), min_size=12, max_size=12)


@given(_ENTRIES, _MUTATIONS, st.lists(_AMOUNTS, max_size=3), st.randoms(use_true_random=False))
def test_every_change_of_the_providers_file_is_found(
    entries: list[tuple[EntryKind, int]], mutations: list[str], strangers: list[int], order: Random
) -> None:
    ours = [OurEntry(kind, f"r{n}", f"t{n}", amount, Outcome.SUCCEEDED, True) for n, (kind, amount) in enumerate(entries)]
    theirs: list[Entry] = []
    expected: Counter[tuple[str, str]] = Counter()
    matched = 0
    for entry, mutation in zip(ours, mutations, strict=False):
        line = Entry(entry.kind, entry.reference, entry.transaction_id, entry.amount_fen, Outcome.SUCCEEDED, NOON, "")
        here, there = ("missing_here", entry.reference), ("missing_there", entry.reference)
        match mutation:
            case "drop":
                expected[there] += 1
                continue
            case "amount":
                line = replace(line, amount_fen=line.amount_fen + 1)
                expected["amount", entry.reference] += 1
            case "state":
                line = replace(line, outcome=Outcome.FAILED)
                expected["state", entry.reference] += 1
            case "reference":
                line = replace(line, reference=f"x{entry.reference}")
                expected.update([there, ("missing_here", line.reference)])
            case "transaction" if entry.kind is EntryKind.PAYMENT:
                line = replace(line, transaction_id=f"x{line.transaction_id}")
                expected.update([there, here])
            case "twice":
                theirs.append(line)
                matched += 1
                expected[here] += 1
            case _:
                matched += 1
        theirs.append(line)
    for number, amount in enumerate(strangers):
        theirs.append(Entry(EntryKind.PAYMENT, f"s{number}", f"s{number}", amount, Outcome.SUCCEEDED, NOON, ""))
        expected["missing_here", f"s{number}"] += 1
    order.shuffle(theirs)
    count, findings = compare(ours, theirs)
    assert Counter((str(f.difference.kind), f.difference.reference) for f in findings) == expected
    assert count == matched


def test_what_another_day_holds_is_not_missing_today() -> None:
    yesterday = OurEntry(EntryKind.PAYMENT, "r", "t1", 5, Outcome.SUCCEEDED, expected=False)
    today = Entry(EntryKind.PAYMENT, "r", "t2", 5, Outcome.SUCCEEDED, NOON, "")
    _, findings = compare([yesterday], [today])
    assert [f.difference.kind for f in findings] == [DifferenceKind.MISSING_HERE]


def test_lines_that_moved_no_money_and_that_we_do_not_know_are_nothing() -> None:
    line = Entry(EntryKind.PAYMENT, "r", "t", 5, Outcome.FAILED, NOON, "")
    assert compare([OurEntry(EntryKind.PAYMENT, "r", "", 5, Outcome.PENDING, False)], [line]) == (0, [])


@given(st.dates(min_value=date(2000, 1, 1), max_value=date(2100, 1, 1)), st.sampled_from(["Asia/Shanghai", "Asia/Urumqi"]))
def test_a_days_bounds_lie_in_days_that_cover_it(day: date, zone_name: str) -> None:
    start, end = bounds(day, ZoneInfo(zone_name))
    assert end - start == timedelta(days=1)
    days = days_between(start, end, ZoneInfo("Asia/Shanghai"))
    assert days[0] <= day <= days[-1]
    assert len(days) <= 2
