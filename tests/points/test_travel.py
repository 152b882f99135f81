"""Walks and rides: which are plausible, and that none counts twice."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from linli.points.v1 import points_pb2 as pb
from servicekit.errors import Conflict, Invalid
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.points import travel, travel_operations
from services.points.earning import Reason
from services.points.rulebook import Source
from services.points.travel import Trip
from tests.community import Town
from tests.points.arrange import Community

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOW = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
# Half an hour, 2.5 km, 3,500 steps: 5 km/h, 117 steps a minute, 71 cm a step.
WALK = Trip(UUID(int=1), Source.WALKING, NOW - timedelta(minutes=30), NOW, 2_500, 3_500, "phone")
# Half an hour, 7 km: 14 km/h.
RIDE = replace(WALK, source=Source.CYCLING, distance_m=7_000, steps=0)


@pytest.mark.parametrize(
    ("trip", "expected"),
    [
        (WALK, Reason.NONE),
        (RIDE, Reason.NONE),
        (replace(WALK, distance_m=4_500, steps=6_000), Reason.NONE),  # 9 km/h, 200 steps a minute
        (replace(WALK, distance_m=4_501, steps=6_000), Reason.TRIP_SPEED),
        (replace(WALK, distance_m=4_000, steps=6_001), Reason.TRIP_STEPS),
        (replace(WALK, steps=0), Reason.TRIP_STEPS),
        (replace(WALK, steps=1_900), Reason.TRIP_STEPS),  # 1.32 m a step
        (replace(WALK, distance_m=1_000), Reason.TRIP_STEPS),  # 29 cm a step: shaken
        (replace(RIDE, distance_m=17_501), Reason.TRIP_SPEED),  # a car
        (replace(RIDE, distance_m=2_499), Reason.TRIP_SPEED),
        (replace(RIDE, distance_m=2_500, steps=3_500), Reason.TRIP_STEPS),  # a walk
        (replace(RIDE, steps=600), Reason.NONE),
        (replace(WALK, started_at=NOW - timedelta(seconds=59), distance_m=80, steps=110), Reason.TRIP_SHORT),
        (replace(WALK, started_at=NOW, ended_at=NOW - timedelta(hours=1)), Reason.TRIP_SHORT),
        (replace(WALK, started_at=NOW - timedelta(hours=13), distance_m=25_000, steps=35_000), Reason.TRIP_LONG),
        (replace(WALK, ended_at=NOW + timedelta(minutes=3)), Reason.IN_FUTURE),
        (replace(WALK, started_at=NOW - timedelta(days=8), ended_at=NOW - timedelta(days=7, minutes=1)), Reason.TOO_OLD),
    ],
)
async def test_a_trip_counts_only_when_somebody_can_have_made_it(trip: Trip, expected: Reason) -> None:
    assert travel.judge(trip, NOW) is expected


def reported(community: Community, minutes_ago: int, *, minutes: int = 30, **more: Any) -> pb.Trip:
    """A walk at 5 km/h that began so long ago."""
    started = community.town.clock.now - timedelta(minutes=minutes_ago)
    values: dict[str, Any] = {
        "trip_id": str(new_id()),
        "source": pb.SOURCE_WALKING,
        "started_at": to_timestamp(started),
        "ended_at": to_timestamp(started + timedelta(minutes=minutes)),
        "distance_m": minutes * 83,
        "steps": minutes * 117,
        "device": "phone",
    }
    return pb.Trip(**{**values, **more})


async def publish_rules_of_this_morning(community: Community) -> None:
    """Rules that have been in force for eight hours."""
    await community.publish_rules()
    community.town.clock.advance(hours=8)


async def report(community: Community, account_id: UUID, *trips: pb.Trip) -> list[tuple[int, str]]:
    """What each trip earned, and why no more."""
    answer = await community.call("ReportTravel", pb.ReportTravelRequest(trips=trips), account_id=account_id)
    assert [earning.source_id for earning in answer.earnings] == [trip.trip_id for trip in trips]
    return [(earning.points, earning.reason) for earning in answer.earnings]


async def test_walks_and_rides_earn_and_a_phone_that_reports_again_hears_the_same(community: Community) -> None:
    anna = await community.resident()
    await publish_rules_of_this_morning(community)
    walk = reported(community, 60)
    ride = reported(community, 120, source=pb.SOURCE_CYCLING, distance_m=7_999, steps=0)
    for _ in range(2):
        assert await report(community, anna, walk, ride) == [(2, ""), (7, "")]
    changed = reported(community, 60, trip_id=walk.trip_id, distance_m=2_600)
    assert await report(community, anna, changed) == [(0, "points.differs")]
    assert (await community.points_of(anna)).points == 9
    assert [(entry.rule_id, entry.source_id) for entry in await community.entries(anna)] == [("ride", ride.trip_id), ("walk", walk.trip_id)]


async def test_two_devices_of_one_resident_count_a_walk_once_but_neighbours_each_their_own(community: Community) -> None:
    anna, ben = await community.resident(), await community.resident()
    await publish_rules_of_this_morning(community)
    walk = reported(community, 60)
    watch = reported(community, 50, device="watch")
    after = reported(community, 30)
    assert await report(community, anna, walk, watch, after) == [(2, ""), (0, "points.trip_overlaps"), (2, "")]
    assert await report(community, anna, reported(community, 31, minutes=2)) == [(0, "points.trip_overlaps")]
    # Phones choose the ids of trips, so that of one may be another's.
    assert await report(community, ben, walk) == [(2, "")]


async def test_of_reports_that_come_at_once_from_two_devices_one_counts(community: Community) -> None:
    anna = await community.resident()
    await publish_rules_of_this_morning(community)
    trips = [reported(community, 60, device=f"device{number}") for number in range(8)]
    answers = await asyncio.gather(*(report(community, anna, trip) for trip in trips))
    assert sorted(answer[0] for answer in answers) == [(0, "points.trip_overlaps")] * 7 + [(2, "")]


async def test_what_is_not_plausible_earns_nothing_and_keeps_nothing_else_from_counting(community: Community) -> None:
    anna = await community.resident()
    await publish_rules_of_this_morning(community)
    by_car = reported(community, 60, distance_m=20_000)
    assert await report(community, anna, by_car, reported(community, 60)) == [(0, "points.trip_speed"), (2, "")]
    answer = await community.call("ReportTravel", pb.ReportTravelRequest(trips=[by_car]), account_id=anna)
    assert (answer.earnings[0].transfer_id, answer.earnings[0].text_zh) == ("", "速度与出行方式不符")


async def test_the_days_cap_of_the_rule_holds_over_all_walks_of_a_day(community: Community) -> None:
    anna = await community.resident()
    await publish_rules_of_this_morning(community)
    walks = [reported(community, 400 - 120 * number, minutes=100) for number in range(3)]
    assert await report(community, anna, *walks) == [(8, ""), (2, "points.daily_limit"), (0, "points.daily_limit")]


async def test_a_guest_earns_nothing_by_walking(community: Community) -> None:
    await publish_rules_of_this_morning(community)
    with pytest.raises(Conflict, match=r"points\.not_a_resident"):
        await report(community, new_id(), reported(community, 60))


async def test_a_walk_of_another_age_is_refused_as_a_bad_request(community: Community) -> None:
    anna = await community.resident()
    with pytest.raises(Invalid, match=r"request\.invalid"):
        await report(community, anna, reported(community, 60, started_at=to_timestamp(datetime(1900, 1, 1, tzinfo=UTC))))


async def test_old_trips_are_forgotten_and_what_they_earned_stays(community: Community, points: Town) -> None:
    anna = await community.resident()
    await publish_rules_of_this_morning(community)
    walk = reported(community, 60)
    await report(community, anna, walk)
    points.clock.advance(days=9)
    async with points.running.transaction("points", community.community_id) as tx:
        await travel_operations.forget_trips(tx)
    assert await report(community, anna, walk) == [(0, "points.too_old")]
    assert (await community.points_of(anna)).points == 2
