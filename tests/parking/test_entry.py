"""Cars at an entrance: who comes in, as what, and what is answered."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from linli.device.v1.events_pb2 import PlateRead
from linli.identity.v1.events_pb2 import VehicleRegistered, VehicleRemoved
from linli.notification.v1.events_pb2 import Notified
from linli.parking.v1 import parking_pb2 as pb
from linli.parking.v1.events_pb2 import VehicleEntered
from servicekit.errors import Conflict, Exhausted, Invalid, NotFound
from servicekit.events import Received
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.parking.arrange import FIVE_AN_HOUR, CarPark, Community
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
RESIDENT_PERMISSIONS = ["parking.visitor_passes.write", "parking.visitor_passes.read", "parking.household_sessions.read"]


async def test_a_visitors_car_comes_in_and_is_inside(park: CarPark) -> None:
    assert (await park.sees("east_in", "京A12345")).opened
    session = await park.session("京A12345")
    assert (session.admission, session.state) == ("temporary", pb.SESSION_STATE_OPEN)
    assert session.entered_at.ToDatetime(UTC) == park.clock.now
    assert await park.inside() == 1
    entered = await park.running.event(VehicleEntered, lambda event: event.message.session_id == session.session_id)
    assert (entered.message.plate, entered.message.lot_id, entered.message.admission) == ("京A12345", park.lot_id, "temporary")


async def test_a_second_read_of_the_same_passage_is_answered_again_and_changes_nothing(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(seconds=20)
    assert (await park.sees("east_in", "京 A·12345")).opened
    park.clock.advance(minutes=3)
    assert (await park.sees("east_in", "京A12345")).opened
    assert len(await park.sessions()) == 1
    assert await park.reviews() == []


async def test_a_record_that_is_sent_again_is_answered_again_and_changes_nothing(park: CarPark) -> None:
    read = park.read("east_in", "京A12345")
    assert (await park.deliver(read)).opened
    park.clock.advance(seconds=3)
    assert (await park.deliver(read)).opened
    park.clock.advance(seconds=60)
    again = await park.deliver(read)
    assert (again.opened, again.reason) == (False, "late_read")
    assert len(await park.sessions()) == 1
    assert await park.inside() == 1


async def test_an_entry_without_an_exit_closes_the_old_session_as_missed(park: CarPark) -> None:
    await park.sees("east_in", "京A12345")
    park.clock.advance(hours=5)
    assert (await park.sees("west_in", "京A12345")).opened
    missed, present = await park.sessions()
    assert (missed.state, present.state) == (pb.SESSION_STATE_EXIT_MISSED, pb.SESSION_STATE_OPEN)
    assert not missed.HasField("left_at")
    (review,) = await park.reviews()
    assert (review.kind, list(review.session_ids)) == ("exit_missed", [missed.session_id])
    assert await park.inside() == 1


async def test_of_several_cars_on_one_space_the_second_inside_pays_as_a_visitor(park: CarPark) -> None:
    await park.permit("京A00001", "京A00002")
    await park.sees("east_in", "京A00001")
    await park.sees("west_in", "京A00002")
    assert (await park.session("京A00001")).admission == "permit"
    assert (await park.session("京A00002")).admission == "temporary"
    park.clock.advance(hours=2)
    assert (await park.sees("east_out", "京A00001")).opened
    held = await park.sees("west_out", "京A00002")
    assert (held.reason, held.amount_due_fen) == ("payment_due", 1000)
    # There is room on the space again, for whoever comes next.
    assert (await park.sees("east_in", "京A00001")).opened
    assert (await park.sessions("京A00001"))[-1].admission == "permit"


async def test_a_permit_counts_in_its_time_and_until_it_is_revoked(park: CarPark) -> None:
    permit = await park.permit("京A00001")
    revoked = await park.community.call("RevokePermit", pb.RevokePermitRequest(permit_id=permit.permit_id))
    assert revoked.revoked
    park.clock.advance(seconds=1)
    await park.sees("east_in", "京A00001")
    assert (await park.session("京A00001")).admission == "temporary"


async def test_a_permit_is_refused_when_its_space_or_a_plate_has_one_at_that_time(park: CarPark) -> None:
    permit = await park.permit("京A00001", "京A00002")
    with pytest.raises(Conflict) as error:
        await park.permit("京B00001", "京A00002")
    assert error.value.code == "parking.permit_overlaps"
    again = pb.IssuePermitRequest(
        lot_id=park.lot_id,
        household_id=permit.household_id,
        space_id=permit.space_id,
        plates=["京C00001"],
        valid_from=permit.valid_until,
        valid_until=to_timestamp(permit.valid_until.ToDatetime(UTC) + timedelta(days=30)),
    )
    assert (await park.community.call("IssuePermit", again)).plates == ["京C00001"]
    again.valid_from.FromDatetime(permit.valid_from.ToDatetime())
    with pytest.raises(Conflict):
        await park.community.call("IssuePermit", again)
    again.plates[:] = ["京C00001", "京c·00001"]
    with pytest.raises(Invalid) as invalid:
        await park.community.call("IssuePermit", again)
    assert invalid.value.code == "parking.duplicate_plate"
    again.plates[:] = ["京C00001", "hello"]
    with pytest.raises(Invalid) as invalid:
        await park.community.call("IssuePermit", again)
    assert invalid.value.fields[0].field == "plates[1]"
    listed = await park.community.call("ListPermits", pb.ListPermitsRequest(lot_id=park.lot_id, plate="京A00002"))
    assert [p.permit_id for p in listed.permits] == [permit.permit_id]


async def test_a_residents_car_is_known_and_its_people_are_told(park: CarPark) -> None:
    household, people = new_id(), [new_id(), new_id()]
    await register(park.community, "京A12345", household, people)
    assert (await park.sees("east_in", "京A12345")).opened
    session = await park.session("京A12345")
    assert session.admission == "resident"
    park.clock.advance(minutes=10)
    await park.sees("east_out", "京A12345")
    for kind in ("parking.vehicle_entered", "parking.vehicle_exited"):
        for account in people:
            await park.running.event(Notified, told(account, kind))
    notified = (await park.running.event(Notified, told(people[0], "parking.vehicle_entered"))).message
    assert "京A12345" not in notified.text_zh + notified.text_en
    listed = await park.community.call(
        "ListHouseholdSessions",
        pb.ListHouseholdSessionsRequest(household_id=str(household)),
        household={household: RESIDENT_PERMISSIONS},
    )
    assert [s.session_id for s in listed.sessions] == [session.session_id]


def told(account: UUID, kind: str) -> Callable[[Received[Notified]], bool]:
    return lambda event: (event.message.account_id, event.message.kind) == (str(account), kind)


async def register(
    community: Community, plate: str, household: UUID, people: list[UUID], vehicle: UUID | None = None, version: int = 1
) -> UUID:
    """A household registers a vehicle; returns when parking knows."""
    vehicle = vehicle or new_id()
    accounts = [str(account) for account in people]
    event = VehicleRegistered(vehicle_id=str(vehicle), household_id=str(household), plate=plate, account_ids=accounts)
    await community.publish(event, version=version)
    await vehicle_is(community, vehicle, version)
    return vehicle


async def vehicle_is(community: Community, vehicle: UUID, version: int) -> None:
    async def known() -> bool:
        async with community.town.running.transaction("parking", community.community_id) as tx:
            return bool(await tx.fetchval("SELECT version = $2 FROM vehicles WHERE vehicle_id = $1", vehicle, version))

    await eventually(known, "the vehicle")


async def test_a_vehicle_that_was_removed_is_nobodys_even_when_older_news_comes_later(park: CarPark) -> None:
    vehicle = await register(park.community, "京A12345", new_id(), [new_id()])
    await park.community.publish(VehicleRemoved(vehicle_id=str(vehicle), plate="京A12345"), version=3)
    await vehicle_is(park.community, vehicle, 3)
    older = VehicleRegistered(vehicle_id=str(vehicle), household_id=str(new_id()), plate="京A12345")
    await park.community.publish(older, version=2)
    await register(park.community, "京A99999", new_id(), [])
    await park.sees("east_in", "京A12345")
    assert (await park.session("京A12345")).admission == "temporary"


async def invite(park: CarPark, household: UUID, plate: str, hours: float = 24) -> pb.VisitorPass:
    request = pb.CreateVisitorPassRequest(
        household_id=str(household),
        plate=plate,
        valid_from=to_timestamp(park.clock.now),
        valid_until=to_timestamp(park.clock.now + timedelta(hours=hours)),
    )
    return await park.community.call("CreateVisitorPass", request, household={household: RESIDENT_PERMISSIONS})  # type: ignore[no-any-return]


async def test_an_invited_visitor_has_two_hours_off(park: CarPark) -> None:
    household = new_id()
    invited = await invite(park, household, "京A12345")
    assert (invited.free_minutes, invited.plate) == (120, "京A12345")
    await park.sees("east_in", "京A12345")
    assert (await park.session("京A12345")).admission == "visitor_pass"
    park.clock.advance(hours=3)
    held = await park.sees("east_out", "京A12345")
    assert (held.reason, held.amount_due_fen) == ("payment_due", 500)


async def test_an_invitation_that_was_taken_back_invites_nobody(park: CarPark) -> None:
    household = new_id()
    invited = await invite(park, household, "京A12345")
    request = pb.RevokeVisitorPassRequest(household_id=str(household), visitor_pass_id=invited.visitor_pass_id)
    assert (await park.community.call("RevokeVisitorPass", request, household={household: RESIDENT_PERMISSIONS})).revoked
    listed = await park.community.call(
        "ListVisitorPasses", pb.ListVisitorPassesRequest(household_id=str(household)), household={household: RESIDENT_PERMISSIONS}
    )
    assert [p.revoked for p in listed.visitor_passes] == [True]
    await park.sees("east_in", "京A12345")
    assert (await park.session("京A12345")).admission == "temporary"
    other = new_id()
    request.household_id = str(other)
    with pytest.raises(NotFound):
        await park.community.call("RevokeVisitorPass", request, household={other: RESIDENT_PERMISSIONS})


async def test_a_household_expects_only_so_many_visitors_and_not_for_ever(park: CarPark) -> None:
    household = new_id()
    for hours in (-1, 24 * 8):
        with pytest.raises(Invalid) as error:
            await invite(park, household, "京A12345", hours=hours)
        assert error.value.code == "parking.validity"
    for number in range(20):
        await invite(park, household, f"京A1{number:04}")
    with pytest.raises(Exhausted):
        await invite(park, household, "京A12345")
    await invite(park, new_id(), "京A12345")


async def test_a_denied_plate_stays_out_until_the_denial_is_removed(park: CarPark) -> None:
    request = pb.DenyPlateRequest(lot_id=park.lot_id, plate="京A12345", reason="欠费")
    denial = await park.community.call("DenyPlate", request)
    with pytest.raises(Conflict):
        await park.community.call("DenyPlate", request)
    assert (await park.sees("east_in", "京A12345")).reason == "denied"
    assert await park.sessions() == []
    await park.community.call("RemoveDenial", pb.RemoveDenialRequest(denial_id=denial.denial_id))
    with pytest.raises(NotFound):
        await park.community.call("RemoveDenial", pb.RemoveDenialRequest(denial_id=denial.denial_id))
    park.clock.advance(seconds=10)
    assert (await park.sees("east_in", "京A12345")).opened


async def test_a_full_lot_turns_cars_away_until_one_leaves(community: Community) -> None:
    park = await community.lot(capacity=1)
    await park.sees("east_in", "京A00001")
    assert (await park.sees("west_in", "京A00002")).reason == "lot_full"
    park.clock.advance(minutes=5)
    await park.sees("east_out", "京A00001")
    assert (await park.sees("west_in", "京A00002")).opened
    assert await park.inside() == 1
    assert len(await park.sessions("京A00002")) == 1


async def test_a_full_lot_keeps_the_spaces_of_permit_holders_where_it_is_so_configured(community: Community) -> None:
    park = await community.lot(capacity=1, full_lot_admits_permits=True)
    await park.permit("京A00002")
    await park.sees("east_in", "京A00001")
    assert (await park.sees("west_in", "京A00002")).opened
    assert (await park.sees("west_in", "京A00003")).reason == "lot_full"


async def test_a_lot_for_pass_holders_admits_no_strangers(community: Community) -> None:
    park = await community.lot(admits_temporary=False)
    await register(community, "京A00002", new_id(), [])
    assert (await park.sees("east_in", "京A00001")).reason == "no_pass"
    assert (await park.sees("east_in", "京A00002")).opened


async def test_the_police_come_and_go_free_whatever_stands_against_it(community: Community) -> None:
    park = await community.lot(capacity=1)
    await park.sees("east_in", "京A00001")
    assert (await park.sees("west_in", "京A0001警")).opened
    park.clock.advance(days=3)
    assert (await park.sees("west_out", "京A0001警")).opened
    session = await park.session("京A0001警")
    assert (session.admission, session.amount_fen) == ("on_duty", 0)


@pytest.mark.parametrize("plate", ["", "_无_", "无牌车", "HELLO", "京A1234", "?" * 50, "京A\0002345"])
async def test_what_is_no_plate_is_held_and_reviewed_once(park: CarPark, plate: str) -> None:
    assert (await park.sees("east_in", plate)).reason == "unread_plate"
    park.clock.advance(seconds=5)
    assert (await park.sees("east_in", plate)).reason == "unread_plate"
    assert [review.kind for review in await park.reviews()] == ["unread_plate"]
    assert await park.sessions() == []


async def test_a_text_far_too_long_to_be_a_plate_is_held(park: CarPark) -> None:
    assert (await park.sees("east_in", "京" * 5000)).reason == "unread_plate"


async def test_a_camera_that_watches_no_lane_is_not_answered(park: CarPark) -> None:
    stranger = PlateRead(device_id="nobody", record_id="r1", plate="京A12345")
    stranger.occurred_at.FromDatetime(park.clock.now)
    stranger.received_at.FromDatetime(park.clock.now)
    await park.community.publish(stranger)
    assert (await park.sees("east_in", "京A12345")).opened
    assert len(await park.sessions()) == 1


async def test_a_camera_may_watch_several_lanes(park: CarPark) -> None:
    for number in (1, 2):
        request = pb.CreateLaneRequest(
            lot_id=park.lot_id,
            name=f"gantry {number}",
            direction=pb.DIRECTION_ENTRY if number == 1 else pb.DIRECTION_EXIT,
            camera_device_id=f"gantry-{park.lot_id}",
            lane_number=number,
            gate_device_id=f"gantry-gate-{park.lot_id}-{number}",
            offline_rule=pb.OFFLINE_RULE_STAY_SHUT,
        )
        park.lanes[f"gantry {number}"] = await park.community.call("CreateLane", request)
    assert (await park.sees("gantry 1", "京A12345", lane_number=1)).opened
    park.clock.advance(minutes=1)
    assert (await park.sees("gantry 1", "京A12345", lane_number=2)).opened
    assert (await park.session("京A12345")).state == pb.SESSION_STATE_LEFT


# Times that cannot be.


async def test_a_late_read_is_booked_and_opens_nothing_and_the_next_one_opens(park: CarPark) -> None:
    entered_at = park.clock.now
    read = park.read("east_in", "京A12345")
    park.clock.advance(seconds=11)
    assert (await park.deliver(read)).reason == "late_read"
    assert (await park.session("京A12345")).entered_at.ToDatetime(UTC) == entered_at
    # The car stands there still.
    park.clock.advance(seconds=90)
    assert (await park.sees("east_in", "京A12345")).opened
    assert (await park.session("京A12345")).entered_at.ToDatetime(UTC) == entered_at


async def test_what_a_camera_sends_after_an_outage_is_booked_when_it_happened(park: CarPark) -> None:
    arrived = park.clock.now
    park.clock.advance(hours=3)
    assert (await park.sees("east_in", "京A12345", occurred_at=arrived)).reason == "late_read"
    held = await park.sees("east_out", "京A12345")
    assert (held.reason, held.amount_due_fen) == ("payment_due", 1500)


@pytest.mark.parametrize(
    ("off_by", "opened"), [(timedelta(seconds=4), True), (timedelta(days=1), True), (-timedelta(days=365), False)], ids=str
)
async def test_a_read_from_the_future_or_a_year_ago_happened_when_it_came(park: CarPark, off_by: timedelta, opened: bool) -> None:
    answer = await park.sees("east_in", "京A12345", occurred_at=park.clock.now + off_by)
    assert answer.opened is opened
    entered_at = (await park.session("京A12345")).entered_at.ToDatetime(UTC)
    assert abs(entered_at - park.clock.now) <= timedelta(seconds=5)


@pytest.mark.parametrize(("seconds", "opened"), [(0, False), (-(10**11), False), (10**11, True)])
async def test_a_camera_that_has_lost_the_date_is_answered(park: CarPark, seconds: int, opened: bool) -> None:
    read = park.read("east_in", "京A12345")
    read.occurred_at.seconds = seconds
    assert (await park.deliver(read)).opened is opened
    assert (await park.session("京A12345")).entered_at.ToDatetime(UTC) == park.clock.now


async def test_a_read_that_was_overtaken_at_its_lane_opens_nothing(park: CarPark) -> None:
    first = park.read("east_in", "京A00001")
    park.clock.advance(seconds=4)
    assert (await park.sees("east_in", "京A00002")).opened
    assert (await park.deliver(first)).reason == "late_read"
    assert await park.inside() == 2


# At once.


async def test_two_lanes_admit_one_temporary_car_to_the_last_place(community: Community) -> None:
    park = await community.lot(capacity=1)
    answers = await asyncio.gather(*(park.sees(lane, f"京A0000{number}") for number, lane in enumerate(["east_in", "west_in"] * 2, 1)))
    assert sum(answer.opened for answer in answers) == 1
    assert {answer.reason for answer in answers} == {"", "lot_full"}
    assert await park.inside() == 1
    assert len(await park.sessions()) == 1


async def test_a_plate_read_at_two_entrances_at_once_is_inside_once(park: CarPark) -> None:
    at = park.clock.now
    reads = [park.read("east_in", "京A12345", occurred_at=at), park.read("west_in", "京A12345", occurred_at=at + timedelta(milliseconds=1))]
    await asyncio.gather(*(park.deliver(read) for read in reads))
    assert len(await park.sessions(state=pb.SESSION_STATE_OPEN)) == 1
    assert await park.inside() == 1


async def test_the_tariff_in_force_when_a_car_came_in_prices_its_stay(park: CarPark) -> None:
    dearer = {
        **FIVE_AN_HOUR,
        "bands": [{"name": "全天", "rates": [{"rate_unit": "hour", "increment_duration": 1, "increment_amount": 900}]}],
    }
    holiday = {**dearer, "free": None, "effective_until": "2026-03-02T14:00:00+08:00"}
    await park.publish_tariff(dearer, datetime(2026, 3, 2, 2, 0, tzinfo=UTC))
    await park.publish_tariff(holiday, datetime(2026, 3, 2, 4, 0, tzinfo=UTC))
    await park.sees("east_in", "京A00001")
    park.clock.advance(hours=2)
    await park.sees("east_in", "京A00002")
    park.clock.advance(hours=2)
    await park.sees("east_in", "京A00003")
    park.clock.advance(hours=2)
    await park.sees("east_in", "京A00004")
    park.clock.advance(minutes=20)
    due = [(await park.quote(f"京A0000{number}")).amount_fen for number in (1, 2, 3, 4)]
    assert due == [7 * 500, 5 * 900, 3 * 900, 0]
