"""Trucks, emptyings, and the plans of nights, as those who drive them see them."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from linli.identity.v1.events_pb2 import CommunityChanged
from linli.waste.v1 import events_pb2 as events
from linli.waste.v1 import waste_pb2 as pb
from servicekit.communities import find_time_zone
from servicekit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.waste import planning
from tests.community import Town
from tests.support import eventually
from tests.waste.arrange import NOON, Community, SmartBin

pytestmark = pytest.mark.asyncio(loop_scope="module")
DAY = "2026-03-02"
EVENING = NOON + timedelta(hours=8)
HOUR = timedelta(hours=1)
NAMES = ("recyclable", "kitchen", "hazardous", "other")


async def truck(community: Community, name: str = "", bins: Sequence[SmartBin] = (), **fields: Any) -> pb.Truck:
    """A truck for 其他垃圾 that goes out from 22:00 to 4:00, and starts where the bins stand."""
    request = pb.CreateTruckRequest(
        **{
            "name": name or str(new_id()),
            "category": events.CATEGORY_OTHER,
            "capacity_grams": 5_000_000,
            "depot": pb.Place(latitude=31.2, longitude=121.51),
            "shift_start_minute": 22 * 60,
            "shift_end_minute": 4 * 60,
            "fixed_round_bin_ids": [each.bin_id for each in bins],
            **fields,
        }
    )
    made: pb.Truck = await community.call("CreateTruck", request)
    return made


async def plan(community: Community, day: str = "") -> pb.CollectionPlan:
    made: pb.CollectionPlan = await community.call("PlanCollection", pb.PlanCollectionRequest(day=day))
    return made


async def planned(community: Community, day: str = DAY) -> pb.CollectionPlan:
    found: pb.CollectionPlan = await community.call("GetCollectionPlan", pb.GetCollectionPlanRequest(day=day))
    return found


async def plan_tonight(town: Town) -> None:
    """What the timer does every few minutes."""
    await planning.plan_tonight(town.running.host.running[0].call())


def stops(made: pb.CollectionPlan) -> list[str]:
    return [stop.bin_id for each in made.rounds for stop in each.stops]


def left_out(made: pb.CollectionPlan) -> set[tuple[str, str]]:
    return {(each.bin_id, each.compartment) for each in made.left_out}


async def fills_each_evening(a_bin: SmartBin, permille: int, days: int = 10) -> None:
    """So much is brought between 18:00 and 22:00 each day, and taken away at night."""
    clock, now = a_bin.community.clock, a_bin.community.clock.now
    for day in range(days, 0, -1):
        for hour, fill in ((6, permille // 2), (10, permille), (18, 0)):
            clock.now = NOON - timedelta(days=day) + hour * HOUR
            await a_bin.reports({"other": fill})
    clock.now = now


# Trucks.


async def test_a_truck_is_entered_changed_and_listed_by_name(community: Community) -> None:
    first, second = await community.bin(), await community.bin()
    made = await truck(community, "乙", [first, second])
    other = await truck(community, "甲")
    assert (made.in_use, list(made.fixed_round_bin_ids), made.depot.longitude) == (True, [first.bin_id, second.bin_id], 121.51)
    turned = await community.call(
        "UpdateTruck", pb.UpdateTruckRequest(truck_id=made.truck_id, fixed_round=pb.FixedRound(bin_ids=[second.bin_id]))
    )
    assert (turned.fixed_round_bin_ids, turned.in_use) == ([second.bin_id], True)
    rested = await community.call("UpdateTruck", pb.UpdateTruckRequest(truck_id=made.truck_id, in_use=False))
    assert (rested.fixed_round_bin_ids, rested.in_use) == ([second.bin_id], False)
    emptied = await community.call("UpdateTruck", pb.UpdateTruckRequest(truck_id=made.truck_id, fixed_round=pb.FixedRound()))
    assert not emptied.fixed_round_bin_ids
    found: list[pb.Truck] = []
    token = ""
    while token or not found:
        listed = await community.call("ListTrucks", pb.ListTrucksRequest(page_size=1, page_token=token))
        found += listed.trucks
        token = listed.next_page_token
    assert sorted(each.truck_id for each in found) == sorted([made.truck_id, other.truck_id])
    assert emptied in found


async def test_a_truck_that_cannot_be_is_refused_with_a_reason(waste: Town, community: Community) -> None:
    await truck(community, "一号车")
    with pytest.raises(Conflict, match=r"waste.truck_exists"):
        await truck(community, "一号车")
    with pytest.raises(Invalid, match=r"waste.shift_empty"):
        await truck(community, shift_start_minute=60, shift_end_minute=60)
    neighbour = await Community(waste).bin()
    with pytest.raises(NotFound, match=r"waste.bin_unknown"):
        await truck(community, bins=[neighbour])
    with pytest.raises(Denied):
        await community.call("CreateTruck", pb.CreateTruckRequest(), permissions=["waste.collections.read"])


async def test_another_communitys_trucks_and_plans_are_not_there(waste: Town, community: Community) -> None:
    mine = await truck(community)
    await plan(community)
    neighbour = Community(waste)
    with pytest.raises(NotFound, match=r"waste.truck_unknown"):
        await neighbour.call("UpdateTruck", pb.UpdateTruckRequest(truck_id=mine.truck_id, in_use=False))
    with pytest.raises(NotFound, match=r"waste.plan_unknown"):
        await planned(neighbour)
    assert not (await neighbour.call("ListTrucks", pb.ListTrucksRequest())).trucks
    assert not (await neighbour.call("ListCollectionPlans", pb.ListCollectionPlansRequest())).plans


# Emptyings.


async def test_a_recorded_emptying_empties_the_bin_and_ends_its_alarm(community: Community, smart_bin: SmartBin) -> None:
    await smart_bin.reports({"other": 950, "kitchen": 300})
    assert [alarm.compartment for alarm in await community.alarms()] == ["other"]
    community.clock.advance(hours=1)
    answered = await community.call("RecordEmptying", pb.RecordEmptyingRequest(bin_id=smart_bin.bin_id, compartments=["other"]))
    assert answered == await smart_bin.look()
    fills = {each.name: (each.fill_permille, each.HasField("emptied_at")) for each in answered.compartments}
    assert fills == {"other": (0, True), "kitchen": (300, False), "recyclable": (-1, False), "hazardous": (-1, False)}
    assert not answered.alarms


async def test_an_emptying_without_names_is_of_the_whole_bin(community: Community, smart_bin: SmartBin) -> None:
    answered = await community.call("RecordEmptying", pb.RecordEmptyingRequest(bin_id=smart_bin.bin_id))
    assert {each.name for each in answered.compartments if each.HasField("emptied_at")} == set(NAMES)


async def test_an_emptying_that_cannot_have_been_is_refused(waste: Town, community: Community, smart_bin: SmartBin) -> None:
    async def record(bin_id: str = smart_bin.bin_id, *, compartments: Sequence[str] = (), at: datetime = NOON) -> None:
        request = pb.RecordEmptyingRequest(bin_id=bin_id, compartments=compartments, emptied_at=to_timestamp(at))
        await community.call("RecordEmptying", request)

    for at in (NOON + timedelta(minutes=3), NOON - timedelta(days=61)):
        with pytest.raises(Invalid, match=r"waste.emptied_at"):
            await record(at=at)
    with pytest.raises(Invalid, match=r"waste.compartment_unknown"):
        await record(compartments=["glass"])
    with pytest.raises(NotFound, match=r"waste.bin_unknown"):
        await record((await Community(waste).bin()).bin_id)
    assert not any(each.HasField("emptied_at") for each in (await smart_bin.look()).compartments)
    # A phone that is a minute ahead means now.
    await record(at=NOON + timedelta(minutes=1))
    assert (await smart_bin.compartment("other")).emptied_at.ToDatetime(UTC) == NOON


# Plans.


async def test_a_plan_sends_trucks_to_what_is_full_and_says_what_the_fixed_round_would_cost(community: Community) -> None:
    full, empty = await community.bin(), await community.bin()
    driven = await truck(community, bins=[full, empty])
    await full.reports({"other": 1000, "kitchen": 1000})
    await empty.reports({"other": 0})
    made = await plan(community)
    assert made.day == DAY
    assert stops(made) == [full.bin_id]
    assert made.rounds[0].truck_id == driven.truck_id
    stop = made.rounds[0].stops[0]
    arrives_at = stop.arrives_at.ToDatetime(UTC)
    assert NOON + 10 * HOUR < arrives_at < NOON + 10.2 * HOUR
    assert (stop.fill_permille, stop.grams) == (made.rounds[0].load_grams // 100, made.rounds[0].load_grams)
    assert (made.planned.emptyings, made.fixed.emptyings) == (1, 2)
    assert made.planned.distance_m == made.rounds[0].distance_m == made.fixed.distance_m
    # Nobody takes kitchen waste.
    assert (full.bin_id, "kitchen") in left_out(made)
    assert made.left_out[0].fill_permille >= made.left_out[-1].fill_permille
    assert left_out(made) == {(each.bin_id, name) for each in (full, empty) for name in NAMES} - {(full.bin_id, "other")}


async def test_a_plan_is_kept_until_the_night_is_planned_again(community: Community, smart_bin: SmartBin) -> None:
    await truck(community)
    await smart_bin.reports({"other": 1000})
    first = await plan(community)
    assert await planned(community) == first
    community.clock.advance(hours=2)
    await community.call("RecordEmptying", pb.RecordEmptyingRequest(bin_id=smart_bin.bin_id))
    second = await plan(community, DAY)
    assert not second.rounds
    assert await planned(community) == second
    tomorrow = await plan(community, "2026-03-03")
    listed = (await community.call("ListCollectionPlans", pb.ListCollectionPlansRequest())).plans
    assert [each.day for each in listed] == ["2026-03-03", DAY]
    assert [each.fixed for each in listed] == [tomorrow.fixed, second.fixed]
    assert not any(each.rounds or each.left_out for each in listed)
    page = await community.call("ListCollectionPlans", pb.ListCollectionPlansRequest(page_size=1))
    page = await community.call("ListCollectionPlans", pb.ListCollectionPlansRequest(page_size=1, page_token=page.next_page_token))
    assert [each.day for each in page.plans] == [DAY]


async def test_a_bin_that_will_overflow_tomorrow_is_emptied_tonight_because_it_always_fills_then(community: Community) -> None:
    busy, quiet = await community.bin(), await community.bin()
    await fills_each_evening(busy, 900)
    await fills_each_evening(quiet, 40)
    for each in (busy, quiet):
        await each.reports({"other": 300})
    await truck(community)
    community.clock.now = EVENING
    made = await plan(community)
    assert stops(made) == [busy.bin_id]
    left = next(each for each in made.left_out if (each.bin_id, each.compartment) == (quiet.bin_id, "other"))
    assert 300 <= left.fill_permille < 450


async def test_bins_that_are_out_of_use_are_not_planned(community: Community, smart_bin: SmartBin) -> None:
    await truck(community, bins=[smart_bin])
    await smart_bin.reports({"other": 1000})
    await community.call("UpdateBin", pb.UpdateBinRequest(bin_id=smart_bin.bin_id, in_use=False))
    made = await plan(community)
    assert not made.rounds
    assert not made.left_out
    assert made.fixed == pb.RoundFigures()


async def test_a_night_that_cannot_be_planned_is_refused_with_a_reason(community: Community) -> None:
    with pytest.raises(Conflict, match=r"waste.no_truck"):
        await plan(community)
    made = await truck(community)
    for day in ("2026-02-30", "1999-01-01"):
        with pytest.raises(Invalid, match=r"request.invalid"):
            await plan(community, day)
        with pytest.raises(Invalid, match=r"request.invalid"):
            await planned(community, day)
    with pytest.raises(Conflict, match=r"waste.day_too_far"):
        await plan(community, "2026-03-04")
    with pytest.raises(Conflict, match=r"waste.no_truck"):
        await plan(community, "2026-03-01")
    await community.call("UpdateTruck", pb.UpdateTruckRequest(truck_id=made.truck_id, in_use=False))
    with pytest.raises(Conflict, match=r"waste.no_truck"):
        await plan(community)
    with pytest.raises(NotFound, match=r"waste.plan_unknown"):
        await planned(community)


async def test_a_night_under_way_is_planned_for_what_is_left_of_it(community: Community, smart_bin: SmartBin) -> None:
    await truck(community)
    await smart_bin.reports({"other": 1000})
    # 2:30 of the next day.
    community.clock.now = NOON + 14.5 * HOUR
    made = await plan(community, DAY)
    assert stops(made) == [smart_bin.bin_id]
    assert made.rounds[0].stops[0].arrives_at.ToDatetime(UTC) > community.clock.now
    community.clock.now = NOON + 16 * HOUR
    with pytest.raises(Conflict, match=r"waste.no_truck"):
        await plan(community, DAY)


async def test_a_shift_that_begins_before_noon_is_of_the_next_morning(community: Community, smart_bin: SmartBin) -> None:
    await truck(community, shift_start_minute=5 * 60, shift_end_minute=9 * 60)
    await smart_bin.reports({"other": 1000})
    made = await plan(community)
    assert made.day == DAY
    assert NOON + 17 * HOUR <= made.rounds[0].stops[0].arrives_at.ToDatetime(UTC) <= NOON + 17.2 * HOUR


async def test_days_are_those_of_the_community(waste: Town, community: Community) -> None:
    await community.publish(
        CommunityChanged(community_id=str(community.community_id), name="远方", time_zone="America/New_York"), version=1
    )

    async def is_known() -> bool:
        async with waste.running.transaction("waste", community.community_id) as tx:
            return (await find_time_zone(tx)).key == "America/New_York"

    await eventually(is_known)
    await truck(community)
    # Still Sunday there, at 23:00.
    made = await plan(community)
    assert made.day == "2026-03-01"


async def test_only_so_many_plans_are_made_at_once(community: Community, monkeypatch: pytest.MonkeyPatch) -> None:
    await truck(community)
    busy = threading.BoundedSemaphore(1)
    monkeypatch.setattr(planning, "_at_once", busy)
    busy.acquire()
    with pytest.raises(Exhausted, match=r"waste.planning_busy"):
        await plan(community)
    busy.release()
    assert (await plan(community)).day == DAY


# Each evening.


async def test_each_evening_the_night_is_planned_once(waste: Town, community: Community, smart_bin: SmartBin) -> None:
    await truck(community)
    await smart_bin.reports({"other": 1000})
    community.clock.now = EVENING - HOUR / 60
    await plan_tonight(waste)
    with pytest.raises(NotFound, match=r"waste.plan_unknown"):
        await planned(community)
    community.clock.now = EVENING
    await plan_tonight(waste)
    first = await planned(community)
    assert stops(first) == [smart_bin.bin_id]
    community.clock.advance(minutes=5)
    await plan_tonight(waste)
    assert await planned(community) == first


async def test_a_plan_of_the_afternoon_gives_way_and_one_of_the_evening_does_not(waste: Town, community: Community) -> None:
    await truck(community)
    await plan(community)
    community.clock.now = EVENING + HOUR
    await plan_tonight(waste)
    assert (await planned(community)).planned_at.ToDatetime(UTC) == EVENING + HOUR
    community.clock.now = EVENING + 2 * HOUR
    await plan(community)
    community.clock.now = EVENING + 3 * HOUR
    await plan_tonight(waste)
    assert (await planned(community)).planned_at.ToDatetime(UTC) == EVENING + 2 * HOUR


async def test_a_night_that_was_missed_in_the_evening_is_planned_after_midnight(waste: Town, community: Community) -> None:
    await truck(community)
    community.clock.now = NOON + 13 * HOUR
    await plan_tonight(waste)
    assert (await planned(community)).planned_at.ToDatetime(UTC) == community.clock.now


async def test_a_community_whose_night_cannot_be_planned_keeps_no_other_from_its_plan(waste: Town, community: Community) -> None:
    # Its shift is over at the time when plans are made.
    await truck(Community(waste), shift_start_minute=13 * 60, shift_end_minute=17 * 60)
    await truck(community)
    await truck(Community(waste), shift_start_minute=13 * 60, shift_end_minute=17 * 60)
    community.clock.now = EVENING
    await plan_tonight(waste)
    assert (await planned(community)).day == DAY
