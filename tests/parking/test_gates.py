"""Gates: what a command says and who signed it, what became of it, and what guards do by hand."""

import base64
from datetime import UTC, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from linli.device.v1.commands_pb2 import DeviceCommand
from linli.device.v1.events_pb2 import GateAcknowledged
from linli.parking.v1 import parking_pb2 as pb
from linli.parking.v1.events_pb2 import GateOpenRequested, LaneConfigured
from servicekit.errors import Conflict, Denied, Invalid, NotFound
from servicekit.identifiers import new_id
from tests.parking.arrange import GATE_KEY, CarPark
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
PUBLIC_KEY = Ed25519PrivateKey.from_private_bytes(base64.b64decode(GATE_KEY)).public_key()


def command_of(requested: GateOpenRequested) -> DeviceCommand:
    """The command, if parking has signed it."""
    PUBLIC_KEY.verify(requested.command.signature, requested.command.command)
    return DeviceCommand.FromString(requested.command.command)


async def openings(park: CarPark, lane: str = "") -> list[pb.GateOpening]:
    """Newest first."""
    request = pb.ListGateOpeningsRequest(lane_id=park.lanes[lane].lane_id if lane else "")
    return list((await park.community.call("ListGateOpenings", request)).gate_openings)


def guards_opening(park: CarPark, lane: str, plate: str = "", reason: str = "搬家车辆") -> pb.OpenGateRequest:
    return pb.OpenGateRequest(lane_id=park.lanes[lane].lane_id, reason=reason, plate=plate)


async def test_a_command_is_signed_for_one_gate_once_and_for_ten_seconds(park: CarPark) -> None:
    commands = []
    for plate in ("京A00001", "京A00002"):
        requested = (await park.sees("east_in", plate)).event.message
        assert requested.gate_device_id == park.lanes["east_in"].gate_device_id
        commands.append(command_of(requested))
        park.clock.advance(seconds=40)
    first, second = commands
    assert (first.action, first.device_id) == ("open", park.lanes["east_in"].gate_device_id)
    assert second.counter > first.counter > 0
    assert first.nonce != second.nonce
    assert len(first.nonce) == 16
    assert first.command_id != second.command_id
    assert second.expires_at.ToDatetime(UTC) - (park.clock.now - timedelta(seconds=40)) == timedelta(seconds=10)


async def test_lanes_that_share_a_gate_share_its_counter(park: CarPark) -> None:
    shared = pb.CreateLaneRequest(
        lot_id=park.lot_id,
        name="east back",
        direction=pb.DIRECTION_EXIT,
        camera_device_id=f"back-{park.lot_id}",
        gate_device_id=park.lanes["east_in"].gate_device_id,
        offline_rule=pb.OFFLINE_RULE_STAY_SHUT,
    )
    park.lanes["east back"] = await park.community.call("CreateLane", shared)
    entered = command_of((await park.sees("east_in", "京A00001")).event.message)
    park.clock.advance(minutes=1)
    left = command_of((await park.sees("east back", "京A00001")).event.message)
    assert entered.device_id == left.device_id
    assert entered.counter < left.counter


async def test_commands_count_on_above_those_that_a_restored_database_has_forgotten(park: CarPark) -> None:
    obeyed = command_of((await park.sees("east_in", "京A00001")).event.message)
    async with park.community.running.transaction("parking", park.community.community_id) as tx:
        await tx.execute("UPDATE gates SET commands = 0")
    park.clock.advance(seconds=40)
    assert command_of((await park.sees("east_in", "京A00002")).event.message).counter > obeyed.counter


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (GateAcknowledged.OUTCOME_OPENED, "opened"),
        (GateAcknowledged.OUTCOME_EXPIRED, "expired"),
        (GateAcknowledged.OUTCOME_REFUSED, "refused"),
        (GateAcknowledged.OUTCOME_FAILED, "failed"),
    ],
)
async def test_a_gates_own_answer_is_kept_with_the_opening(park: CarPark, outcome: GateAcknowledged.Outcome.ValueType, text: str) -> None:
    command = command_of((await park.sees("east_in", "京A12345")).event.message)
    # Another gate's word counts for nothing.
    for device, said in (("another", GateAcknowledged.OUTCOME_FAILED), (command.device_id, outcome)):
        await park.community.publish(GateAcknowledged(device_id=device, command_id=command.command_id, outcome=said))

    async def answered() -> bool:
        return [opening.outcome for opening in await openings(park)] == [text]

    await eventually(answered)


async def test_an_acknowledgement_that_makes_no_sense_changes_nothing(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    for command_id in ("", "no uuid", str(new_id())):
        await park.community.publish(GateAcknowledged(device_id="gate", command_id=command_id, outcome=GateAcknowledged.OUTCOME_OPENED))
    park.clock.advance(seconds=10)
    await park.sees("west_in", "京A00002")
    assert [opening.outcome for opening in await openings(park)] == ["", ""]


# By hand.


async def test_a_guard_opens_with_a_reason_and_it_is_on_record(park: CarPark) -> None:
    opened = await park.community.call("OpenGate", guards_opening(park, "east_in"))
    requested = await park.running.event(GateOpenRequested, lambda event: event.message.lane_id == park.lanes["east_in"].lane_id)
    assert command_of(requested.message).command_id == opened.command_id
    assert (requested.message.camera_device_id, requested.message.record_id) == ("", "")
    (recorded,) = await openings(park, "east_in")
    assert (recorded.command_id, recorded.reason_code, recorded.reason) == (opened.command_id, "by_hand", "搬家车辆")
    assert recorded.opened_by == str(park.community.account_id)
    assert await park.sessions() == []
    assert await openings(park, "west_in") == []


async def test_a_guard_who_names_the_plate_begins_and_ends_its_stay(park: CarPark) -> None:
    await park.community.call("DenyPlate", pb.DenyPlateRequest(lot_id=park.lot_id, plate="京A12345", reason="欠费"))
    assert (await park.sees("east_in", "京A12345")).reason == "denied"
    entered = await park.community.call("OpenGate", guards_opening(park, "east_in", "京a 12345"))
    session = await park.session("京A12345")
    assert (entered.session_id, session.state) == (session.session_id, pb.SESSION_STATE_OPEN)
    park.clock.advance(hours=2)
    assert (await park.sees("east_out", "京A12345")).reason == "payment_due"
    left = await park.community.call("OpenGate", guards_opening(park, "east_out", "京A12345"))
    session = await park.session("京A12345")
    assert (left.session_id, session.state, session.amount_fen) == (session.session_id, pb.SESSION_STATE_LEFT, 1000)
    assert await park.inside() == 0


async def test_a_person_takes_no_character_for_another(park: CarPark) -> None:
    await park.sees("east_in", "京A12B45")
    park.clock.advance(minutes=1)
    opened = await park.community.call("OpenGate", guards_opening(park, "east_out", "京A12845"))
    assert opened.session_id == ""
    assert (await park.session("京A12B45")).state == pb.SESSION_STATE_OPEN


async def test_a_guard_needs_the_permission_a_lane_and_a_reason(park: CarPark) -> None:
    request = guards_opening(park, "east_in")
    with pytest.raises(Denied):
        await park.community.call("OpenGate", request, "parking.sessions.read")
    for wrong in (
        guards_opening(park, "east_in", reason="x\0y"),
        guards_opening(park, "east_in", reason="  "),
        guards_opening(park, "east_in", "?"),
    ):
        with pytest.raises(Invalid):
            await park.community.call("OpenGate", wrong)
    request.lane_id = str(new_id())
    with pytest.raises(NotFound):
        await park.community.call("OpenGate", request)
    assert await openings(park) == []


# Reviews.


async def test_an_unread_plate_at_the_exit_is_given_its_stay_by_a_person(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(hours=2)
    left_at = park.clock.now
    assert (await park.sees("east_out", "_无_")).reason == "unread_plate"
    session = await park.session("京A12345")
    (review,) = await park.reviews()
    request = pb.ResolveReviewRequest(review_id=review.review_id, session_id=session.session_id, note="看录像确认")
    resolved = await park.community.call("ResolveReview", request)
    assert resolved.resolved
    session = await park.session("京A12345")
    assert (session.state, session.left_at.ToDatetime(UTC), session.amount_fen) == (pb.SESSION_STATE_LEFT, left_at, 1000)
    assert await park.reviews() == []
    assert [r.review_id for r in await park.reviews(include_resolved=True)] == [review.review_id]
    with pytest.raises(Conflict) as error:
        await park.community.call("ResolveReview", request)
    assert error.value.code == "parking.review_resolved"
    # What comes later does not undo it.
    park.clock.advance(minutes=10)
    await park.sees("east_in", "京A12345")
    assert [s.state for s in await park.sessions("京A12345")] == [pb.SESSION_STATE_LEFT, pb.SESSION_STATE_OPEN]


async def test_a_stay_that_was_taken_by_mistake_goes_on_when_a_person_says_so(park: CarPark) -> None:
    await park.sees("east_in", "京A12B45")
    park.clock.advance(minutes=10)
    assert (await park.sees("east_out", "京A12845")).opened
    (review,) = await park.reviews()
    await park.community.call("ResolveReview", pb.ResolveReviewRequest(review_id=review.review_id, note="不是这辆车"))
    assert (await park.session("京A12B45")).state == pb.SESSION_STATE_OPEN
    assert await park.inside() == 1
    park.clock.advance(minutes=10)
    assert (await park.sees("west_out", "京A12B45")).opened


async def test_a_passage_can_be_moved_from_one_stay_to_another(park: CarPark) -> None:
    await park.sees("east_in", "京A12B45")
    await park.sees("west_in", "沪C99999")
    park.clock.advance(minutes=10)
    await park.sees("east_out", "京A12845")
    (review,) = await park.reviews()
    right = await park.session("沪C99999")
    request = pb.ResolveReviewRequest(review_id=review.review_id, session_id=right.session_id, note="套牌")
    await park.community.call("ResolveReview", request)
    assert (await park.session("京A12B45")).state == pb.SESSION_STATE_OPEN
    assert (await park.session("沪C99999")).state == pb.SESSION_STATE_LEFT
    assert await park.inside() == 1


async def test_a_passage_cannot_end_a_stay_that_was_over_or_never_was(park: CarPark) -> None:
    await park.sees("east_in", "京A00001")
    await park.sees("east_out", "京A00001")
    park.clock.advance(minutes=10)
    await park.sees("east_out", "京A00002")
    (review,) = await park.reviews()
    over = await park.session("京A00001")
    with pytest.raises(Conflict) as error:
        await park.community.call(
            "ResolveReview", pb.ResolveReviewRequest(review_id=review.review_id, session_id=over.session_id, note="误" * 2)
        )
    assert error.value.code == "parking.session_not_inside"
    with pytest.raises(NotFound):
        await park.community.call(
            "ResolveReview", pb.ResolveReviewRequest(review_id=review.review_id, session_id=str(new_id()), note="误" * 2)
        )
    with pytest.raises(NotFound):
        await park.community.call("ResolveReview", pb.ResolveReviewRequest(review_id=str(new_id()), note="误" * 2))
    assert (await park.reviews())[0].review_id == review.review_id
    assert (await park.session("京A00001")).left_at == over.left_at


async def test_a_missed_exit_is_closed_with_a_note_and_ends_no_stay(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(hours=1)
    await park.sees("east_in", "京A12345")
    (review,) = await park.reviews()
    request = pb.ResolveReviewRequest(review_id=review.review_id, session_id=review.session_ids[0], note="已核实")
    with pytest.raises(Conflict):
        await park.community.call("ResolveReview", request)
    request.session_id = ""
    assert (await park.community.call("ResolveReview", request)).resolved


async def test_lanes_tell_those_who_deliver_decisions_what_to_do_when_one_is_late(park: CarPark) -> None:
    lane = park.lanes["east_in"]
    configured = await park.running.event(LaneConfigured, lambda event: event.message.lane_id == lane.lane_id)
    assert (configured.version, configured.message.opens_offline, configured.message.decision_limit_ms) == (1, False, 2000)
    request = pb.UpdateLaneRequest(lane_id=lane.lane_id, offline_rule=pb.OFFLINE_RULE_OPEN, decision_limit_ms=1500)
    assert (await park.community.call("UpdateLane", request)).offline_rule == pb.OFFLINE_RULE_OPEN
    changed = await park.running.event(LaneConfigured, lambda event: event.message.lane_id == lane.lane_id and event.version == 2)
    assert (changed.message.opens_offline, changed.message.decision_limit_ms) == (True, 1500)
    assert (changed.message.camera_device_id, changed.message.gate_device_id) == (lane.camera_device_id, lane.gate_device_id)
    request.lane_id = str(new_id())
    with pytest.raises(NotFound):
        await park.community.call("UpdateLane", request)
