"""Cars at an exit: which stay a read ends, what is owed, and when the barrier opens by itself."""

import asyncio
from datetime import UTC, timedelta

import pytest

from linli.billing.v1.events_pb2 import ChargeRaised
from linli.device.v1.events_pb2 import OpenedOffline
from linli.parking.v1 import parking_pb2 as pb
from linli.parking.v1.events_pb2 import GateOpenRequested, VehicleExited
from servicekit.errors import Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.parking.arrange import CarPark, Community
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def gates_opened_by_themselves(park: CarPark, lane: str) -> list[GateOpenRequested]:
    """The openings of a lane that no camera waits for."""
    opened = [event.message for event in park.running.events(GateOpenRequested) if event.message.lane_id == park.lanes[lane].lane_id]
    return [event for event in opened if not event.record_id]


async def openings(park: CarPark, lane: str) -> list[pb.GateOpening]:
    request = pb.ListGateOpeningsRequest(lane_id=park.lanes[lane].lane_id, page_size=100)
    return list((await park.community.call("ListGateOpenings", request)).gate_openings)


# Paying first.


async def test_a_car_that_paid_leaves_within_its_grace_time(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=100)
    quote = await park.quote("京A12345")
    assert quote.amount_fen == 1000
    assert sum(line.amount_fen for line in quote.lines) == 1000
    raised = (await park.running.event(ChargeRaised, lambda event: event.message.charge_id == quote.charge_id)).message
    assert (raised.origin, raised.origin_id, raised.amount_fen) == ("parking", quote.session_id, 1000)
    assert raised.payable_until == quote.valid_until
    await park.pay(quote.session_id, quote.charge_id, 1000)
    park.clock.advance(minutes=15)
    assert (await park.sees("east_out", "京A12345")).opened
    session = await park.session("京A12345")
    assert (session.state, session.amount_fen, session.paid_fen) == (pb.SESSION_STATE_LEFT, 1000, 1000)
    exited = (await park.running.event(VehicleExited, lambda event: event.message.session_id == quote.session_id)).message
    assert (exited.amount_fen, exited.paid_fen, exited.left_at) == (1000, 1000, session.left_at)


async def test_the_grace_time_covers_a_rise_of_the_price_and_no_more(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=59)
    quote = await park.quote("京A12345")
    await park.pay(quote.session_id, quote.charge_id, 500)
    park.clock.advance(minutes=15)
    covered = await park.quote("京A12345")
    assert (covered.amount_fen, covered.charge_id) == (0, "")
    assert covered.leave_by.ToDatetime(UTC) == park.clock.now
    park.clock.advance(minutes=1)
    held = await park.sees("east_out", "京A12345")
    assert (held.reason, held.amount_due_fen) == ("payment_due", 500)


async def test_a_quote_that_is_still_valid_is_given_again(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=45)
    quote = await park.quote("京A12345")
    assert quote.valid_until.ToDatetime(UTC) == park.clock.now + timedelta(minutes=15)
    park.clock.advance(minutes=15)
    again = await park.quote("京A12345")
    assert (again.charge_id, again.amount_fen, again.valid_until) == (quote.charge_id, quote.amount_fen, quote.valid_until)
    assert (await park.sees("east_out", "京A12345")).amount_due_fen == 500


async def test_drivers_who_ask_at_once_are_given_one_charge(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=45)
    quotes = await asyncio.gather(*(park.quote("京A12345") for _ in range(5)))
    assert len({quote.charge_id for quote in quotes}) == 1


async def test_a_quoted_price_holds_for_as_long_as_a_payment_takes_even_across_a_rise(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=58)
    quote = await park.quote("京A12345")
    assert quote.valid_until.ToDatetime(UTC) == park.clock.now + timedelta(minutes=5)
    park.clock.advance(minutes=4)
    held = await park.sees("east_out", "京A12345")
    assert (held.reason, held.amount_due_fen) == ("payment_due", 500)
    await park.pay(quote.session_id, quote.charge_id, 500)
    assert len(await gates_opened_by_themselves(park, "east_out")) == 1
    assert (await park.session("京A12345")).amount_fen == 500


async def test_an_outdated_quote_is_replaced_together_with_its_charge(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=45)
    quote = await park.quote("京A12345")
    park.clock.advance(minutes=16)
    newer = await park.quote("京A12345")
    assert newer.amount_fen == 1000
    raised = (await park.running.event(ChargeRaised, lambda event: event.message.charge_id == newer.charge_id)).message
    assert raised.replaces_charge_id == quote.charge_id


async def test_who_owes_nothing_is_given_no_charge(park: CarPark) -> None:
    await park.permit("京A00001")
    await park.sees("east_in", "京A00001")
    await park.sees("west_in", "京A00002")
    park.clock.advance(minutes=10)
    for plate in ("京A00001", "京A00002"):
        quote = await park.quote(plate)
        assert (quote.amount_fen, quote.charge_id) == (0, "")
        assert quote.leave_by.ToDatetime(UTC) > park.clock.now


async def test_only_a_car_that_is_inside_is_quoted(park: CarPark) -> None:
    with pytest.raises(NotFound) as missing:
        await park.quote("京A12345")
    assert missing.value.code == "parking.session_not_found"
    with pytest.raises(Invalid) as invalid:
        await park.quote("HELLO")
    assert (invalid.value.code, invalid.value.fields[0].field) == ("parking.not_a_plate", "plate")
    await park.sees("east_in", "京A12345")
    await park.sees("east_out", "京A12345")
    with pytest.raises(NotFound):
        await park.quote("京A12345")


async def test_a_refund_makes_a_car_that_is_inside_owe_again(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=40)
    quote = await park.quote("京A12345")
    payment = await park.pay(quote.session_id, quote.charge_id, 500)
    await park.refund(payment, 500, reopened_charge=False)
    park.clock.advance(minutes=1)
    await park.refund(payment, 500)

    async def owes() -> bool:
        return (await park.quote("京A12345")).amount_fen == 500

    await eventually(owes)
    assert (await park.sees("east_out", "京A12345")).reason == "payment_due"


async def test_a_refund_after_the_car_has_left_does_not_bring_it_back(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=40)
    quote = await park.quote("京A12345")
    payment = await park.pay(quote.session_id, quote.charge_id, 500)
    await park.sees("east_out", "京A12345")
    park.clock.advance(minutes=1)
    await park.refund(payment, 500)

    async def gone() -> bool:
        return (await park.session("京A12345")).paid_fen == 0

    await eventually(gone)
    session = await park.session("京A12345")
    assert (session.state, session.amount_fen) == (pb.SESSION_STATE_LEFT, 500)
    assert await park.inside() == 0


# Paying at the exit.


async def held_at(park: CarPark, lane: str = "east_out", plate: str = "京A12345") -> ChargeRaised:
    """A car that owes five yuan stands at an exit."""
    await park.sees("east_in", plate)
    park.clock.advance(minutes=40)
    held = await park.sees(lane, plate)
    assert (held.reason, held.amount_due_fen) == ("payment_due", 500)
    return await park.charge((await park.session(plate)).session_id)


async def test_a_car_that_waits_at_the_exit_goes_when_it_has_paid(park: CarPark) -> None:
    charge = await held_at(park)
    assert (charge.amount_fen, charge.account_id) == (500, "")
    assert await park.inside() == 1
    park.clock.advance(seconds=40)
    await park.pay(charge.origin_id, charge.charge_id, 500)
    await park.running.event(GateOpenRequested, lambda event: event.message.lane_id == park.lanes["east_out"].lane_id)
    session = await park.session("京A12345")
    assert (session.state, session.amount_fen, session.paid_fen) == (pb.SESSION_STATE_LEFT, 500, 500)
    assert await park.inside() == 0
    (opening,) = await openings(park, "east_out")
    assert (opening.reason_code, opening.session_id, opening.opened_by) == ("paid", session.session_id, "")


async def test_a_payment_that_is_reported_twice_opens_once(park: CarPark) -> None:
    charge = await held_at(park)
    payment = await park.pay(charge.origin_id, charge.charge_id, 500)
    await park.community.publish(payment)
    park.clock.advance(seconds=1)
    await park.sees("west_in", "京A00009")
    assert len(await gates_opened_by_themselves(park, "east_out")) == 1
    assert (await park.session("京A12345")).paid_fen == 500


async def test_the_barrier_stays_shut_when_another_car_has_taken_the_place(park: CarPark) -> None:
    charge = await held_at(park)
    park.clock.advance(seconds=20)
    await park.sees("east_out", "京B00001")
    park.clock.advance(seconds=20)
    await park.pay(charge.origin_id, charge.charge_id, 500)
    assert await gates_opened_by_themselves(park, "east_out") == []
    assert (await park.session("京A12345")).state == pb.SESSION_STATE_OPEN
    # It is credited, and leaves when it comes again.
    park.clock.advance(minutes=5)
    assert (await park.sees("east_out", "京A12345")).opened
    assert (await park.session("京A12345")).state == pb.SESSION_STATE_LEFT


async def test_the_barrier_stays_shut_for_a_car_that_has_waited_too_long(park: CarPark) -> None:
    charge = await held_at(park)
    park.clock.advance(minutes=4)
    await park.pay(charge.origin_id, charge.charge_id, 500)
    assert await gates_opened_by_themselves(park, "east_out") == []
    assert (await park.session("京A12345")).state == pb.SESSION_STATE_OPEN
    assert (await park.sees("west_out", "京A12345")).opened


async def test_a_payment_for_a_car_that_a_guard_let_out_is_credited(park: CarPark) -> None:
    charge = await held_at(park)
    await park.community.call("OpenGate", pb.OpenGateRequest(lane_id=park.lanes["east_out"].lane_id, reason="赶火车", plate="京A12345"))
    session = await park.session("京A12345")
    assert (session.state, session.amount_fen, session.paid_fen) == (pb.SESSION_STATE_LEFT, 500, 0)
    park.clock.advance(seconds=10)
    await park.pay(charge.origin_id, charge.charge_id, 500)
    session = await park.session("京A12345")
    assert (session.state, session.amount_fen, session.paid_fen) == (pb.SESSION_STATE_LEFT, 500, 500)
    assert [opening.reason_code for opening in await openings(park, "east_out")] == ["by_hand"]


async def test_a_payment_whose_news_comes_after_the_car_was_held_lets_it_go(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=40)
    quote = await park.quote("京A12345")
    paid_at = park.clock.now
    park.clock.advance(seconds=50)
    held = await park.sees("east_out", "京A12345")
    assert held.reason == "payment_due"
    # The same charge: it is valid still.
    assert (await park.charge(quote.session_id)).charge_id == quote.charge_id
    park.clock.advance(seconds=5)
    await park.pay(quote.session_id, quote.charge_id, 500, paid_at)
    assert len(await gates_opened_by_themselves(park, "east_out")) == 1
    assert (await park.session("京A12345")).state == pb.SESSION_STATE_LEFT


# Which stay.


async def test_a_read_with_one_look_alike_ends_the_one_stay_it_can_be_and_is_reviewed(park: CarPark) -> None:
    await park.sees("east_in", "京A12B45")
    park.clock.advance(minutes=10)
    assert (await park.sees("east_out", "京A12845")).opened
    session = await park.session("京A12B45")
    assert session.state == pb.SESSION_STATE_LEFT
    (review,) = await park.reviews()
    assert (review.kind, review.plate_read, list(review.session_ids)) == ("confusable", "京A12845", [session.session_id])


async def test_a_read_that_is_no_plate_may_have_one_meaning(park: CarPark) -> None:
    await park.sees("east_in", "京A01234")
    park.clock.advance(minutes=10)
    assert (await park.sees("east_out", "京AO1234")).opened
    assert (await park.session("京A01234")).state == pb.SESSION_STATE_LEFT


async def test_two_cars_that_a_read_could_be_are_a_question_for_a_person(park: CarPark) -> None:
    await park.sees("east_in", "京A8B888")
    await park.sees("west_in", "京A888B8")
    park.clock.advance(minutes=10)
    assert (await park.sees("east_out", "京A88888")).reason == "unmatched"
    (review,) = await park.reviews()
    both = {session.session_id for session in await park.sessions()}
    assert (review.kind, set(review.session_ids)) == ("unmatched", both)
    right = (await park.session("京A888B8")).session_id
    request = pb.ResolveReviewRequest(review_id=review.review_id, session_id=right, note="看录像确认")
    assert (await park.community.call("ResolveReview", request)).resolved
    assert (await park.session("京A888B8")).state == pb.SESSION_STATE_LEFT
    assert (await park.session("京A8B888")).state == pb.SESSION_STATE_OPEN
    assert await park.inside() == 1


async def test_a_car_that_nobody_saw_come_is_held(park: CarPark) -> None:
    assert (await park.sees("east_out", "京A12345")).reason == "unmatched"
    park.clock.advance(seconds=10)
    assert (await park.sees("east_out", "京A12345")).reason == "unmatched"
    assert [review.kind for review in await park.reviews()] == ["unmatched"]
    assert await park.inside() == 0


async def test_a_permit_holder_whom_nobody_saw_come_leaves_and_is_reviewed(park: CarPark) -> None:
    await park.permit("京A12345")
    assert (await park.sees("east_out", "京A12345")).opened
    assert [review.kind for review in await park.reviews()] == ["unmatched"]


async def test_a_second_read_at_the_exit_is_of_the_stay_that_just_ended(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=10)
    left_at = park.clock.now
    await park.sees("east_out", "京A12345")
    park.clock.advance(seconds=20)
    assert (await park.sees("east_out", "京A12345")).opened
    assert (await park.session("京A12345")).left_at.ToDatetime(UTC) == left_at
    park.clock.advance(seconds=190)
    assert (await park.sees("east_out", "京A12345")).reason == "unmatched"


async def test_an_exit_before_the_entry_ends_nothing(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    held = await park.sees("east_out", "京A12345", occurred_at=park.clock.now - timedelta(minutes=3))
    assert held.reason == "exit_before_entry"
    assert (await park.session("京A12345")).state == pb.SESSION_STATE_OPEN


async def test_cameras_whose_clocks_differ_a_little_agree_on_a_stay_of_no_length(park: CarPark) -> None:
    entered_at = park.clock.now
    await park.sees("east_in", "京A12345")
    park.clock.advance(seconds=10)
    assert (await park.sees("east_out", "京A12345", occurred_at=entered_at - timedelta(seconds=15))).opened
    session = await park.session("京A12345")
    assert (session.state, session.left_at) == (pb.SESSION_STATE_LEFT, session.entered_at)


async def test_a_late_read_at_the_exit_ends_the_stay_when_it_happened_and_opens_nothing(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=10)
    left_at = park.clock.now
    read = park.read("east_out", "京A12345")
    park.clock.advance(seconds=12)
    assert (await park.deliver(read)).reason == "late_read"
    session = await park.session("京A12345")
    assert (session.state, session.left_at.ToDatetime(UTC)) == (pb.SESSION_STATE_LEFT, left_at)
    # If it stands there still, its next read lets it go.
    park.clock.advance(seconds=60)
    assert (await park.sees("east_out", "京A12345")).opened
    assert (await park.session("京A12345")).left_at.ToDatetime(UTC) == left_at


# Out of order.


async def test_an_entry_that_becomes_known_after_its_exit_completes_the_stay_and_opens_for_the_car_that_waits(park: CarPark) -> None:
    entry = park.read("east_in", "京A12345")
    park.clock.advance(minutes=2)
    assert (await park.sees("east_out", "京A12345")).reason == "unmatched"
    park.clock.advance(seconds=5)
    assert (await park.deliver(entry)).reason == "late_read"
    session = await park.session("京A12345")
    assert session.state == pb.SESSION_STATE_LEFT
    assert session.left_at.seconds - session.entered_at.seconds == 120
    assert await park.reviews() == []
    assert len(await gates_opened_by_themselves(park, "east_out")) == 1


async def test_an_exit_that_becomes_known_after_the_next_entry_takes_its_place(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(minutes=10)
    exit_read = park.read("east_out", "京A12345")
    park.clock.advance(seconds=50)
    await park.sees("east_in", "京A12345")
    assert [review.kind for review in await park.reviews()] == ["exit_missed"]
    await park.deliver(exit_read)
    first, second = await park.sessions()
    assert (first.state, second.state) == (pb.SESSION_STATE_LEFT, pb.SESSION_STATE_OPEN)
    assert await park.reviews() == []
    assert await park.inside() == 1


# A lane's offline rule.


def opened_offline(park: CarPark, lane: str, plate: str, record_id: str = "") -> OpenedOffline:
    return OpenedOffline(
        device_id=park.lanes[lane].camera_device_id,
        lane_id=park.lanes[lane].lane_id,
        record_id=record_id or str(new_id()),
        plate=plate,
        occurred_at=to_timestamp(park.clock.now),
        opened_at=to_timestamp(park.clock.now + timedelta(seconds=2)),
    )


async def reviewed(park: CarPark, kind: str) -> pb.Review:
    """The review of this kind; waits for it."""

    async def find() -> pb.Review | None:
        return next((review for review in await park.reviews() if review.kind == kind), None)

    found = await eventually(find, f"a review of {kind}")
    assert found is not None
    return found


@pytest.mark.parametrize("read_comes", ["never", "before", "after"])
async def test_a_car_for_which_the_offline_rule_opened_is_booked_and_reviewed(community: Community, read_comes: str) -> None:
    park = await community.lot(opens_offline=True)
    await park.sees("east_in", "京A12345")
    park.clock.advance(hours=2)
    read = park.read("east_out", "京A12345")
    if read_comes == "before":
        assert (await park.deliver(read)).reason == "payment_due"
    await community.publish(opened_offline(park, "east_out", "京A12345", read.record_id))
    review = await reviewed(park, "opened_offline")
    if read_comes == "after":
        assert (await park.deliver(read)).reason == "late_read"
    session = await park.session("京A12345")
    assert (session.state, session.amount_fen, session.paid_fen) == (pb.SESSION_STATE_LEFT, 1000, 0)
    assert list(review.session_ids) == [session.session_id]
    assert [review.kind for review in await park.reviews()] == ["opened_offline"]
    assert await park.inside() == 0


async def test_a_car_that_came_in_by_the_offline_rule_is_inside_even_when_it_is_denied(community: Community) -> None:
    park = await community.lot(capacity=1, opens_offline=True)
    await park.sees("east_in", "京A00001")
    await community.call("DenyPlate", pb.DenyPlateRequest(lot_id=park.lot_id, plate="京A00002", reason="欠费"))
    await community.publish(opened_offline(park, "west_in", "京A00002"))
    await reviewed(park, "opened_offline")
    assert await park.inside() == 2
    await community.publish(opened_offline(park, "west_in", ""))

    async def twice() -> bool:
        return [review.kind for review in await park.reviews()].count("opened_offline") == 2

    await eventually(twice)
    assert await park.inside() == 2
