"""Promises while nobody keeps them: warnings, the chain, each step once, whatever restarts; and clocks that stand still."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from linli.workorders.v1 import workorders_pb2 as pb
from linli.workorders.v1.events_pb2 import TargetMissed
from servicekit.times import to_timestamp
from tests.measured import measured
from tests.workorders.arrange import MONDAY_10, Community, Person, passes, promising

pytestmark = pytest.mark.asyncio(loop_scope="module")
WEEKDAYS = [pb.WorkingHours(weekday=weekday, from_minute=540, until_minute=1080) for weekday in range(1, 6)]


def responses() -> tuple[float, float]:
    """First responses that were in time, and those that were late."""
    return measured("linli_first_responses_total", outcome="in_time"), measured("linli_first_responses_total", outcome="late")


async def test_what_nobody_answers_is_warned_of_twice_and_goes_up_the_chain_step_by_step(community: Community) -> None:
    foreman, manager = await community.staff("foreman"), await community.staff("property_manager")
    committee = await community.staff("residents_committee_member")
    await community.terms()
    reporter, plumber = await community.resident(), await community.technician()
    order = await reporter.report(await community.category(**promising(response_minutes=15)))
    due_at = MONDAY_10 + timedelta(minutes=15)
    assert order.response_due_at == to_timestamp(due_at)

    await passes(community, order, until=MONDAY_10 + timedelta(minutes=8), warned=1)
    await foreman.is_told("warned")
    await plumber.is_told("warned")
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=12), warned=2)
    assert community.missed(order) == []

    await passes(community, order, until=due_at, warned=2, missed=1)
    await foreman.is_told("missed")
    await reporter.is_told("late")
    seen = await reporter.see(order)
    assert (list(seen.missed), seen.HasField("response_due_at")) == (["response"], False)
    told = (await community.event(TargetMissed, order_id=order.order_id)).message
    assert (told.target, told.due_at, told.level, told.role) == ("response", to_timestamp(due_at), 1, "foreman")

    await passes(community, order, until=MONDAY_10 + timedelta(minutes=23), warned=2, missed=2)
    await manager.is_told("missed")
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=30), warned=2, missed=3)
    await committee.is_told("missed")
    await community.event(TargetMissed, order_id=order.order_id, level=3)
    assert [level for _, level, _ in community.missed(order)] == [1, 2, 3]
    assert (await foreman.notices()).count("missed") == (await manager.notices()).count("missed") == 1
    assert (await reporter.notices()).count("late") == 1


async def test_what_is_answered_in_time_escalates_nowhere(community: Community) -> None:
    await community.terms()
    reporter, plumber = await community.resident(), await community.technician()
    in_time, late = responses()
    order = await reporter.report(await community.category(**promising(response_minutes=15)))
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=14), warned=2)
    accepted = await plumber.accept(order)
    assert responses() == (in_time + 1, late)
    assert not accepted.HasField("response_due_at")
    witness = await reporter.report(await community.category(**promising(response_minutes=15)))
    await passes(community, witness, until=MONDAY_10 + timedelta(hours=1), missed=3)
    assert await community.actions(order) == ["reported", "triaged", "offered", "warned", "warned", "accepted"]
    assert community.missed(order) == []
    # The witness's chain has three steps, and is one miss.
    assert responses() == (in_time + 1, late + 1)


async def test_who_comes_late_before_the_timer_fires_has_missed_the_promise_all_the_same(community: Community) -> None:
    await community.terms()
    reporter, plumber = await community.resident(), await community.technician()
    order = await reporter.report(await community.category(**promising(response_minutes=15)))
    # Timers are looked at twice a second, and this is faster most of the time; the outcome is the same either way.
    before = responses()
    community.clock.now = MONDAY_10 + timedelta(minutes=16)
    accepted = await plumber.accept(order)
    assert responses() == (before[0], before[1] + 1)
    assert accepted.missed == ["response"]
    await community.event(TargetMissed, order_id=order.order_id)
    assert [level for _, level, _ in community.missed(order)] == [1]
    assert (await community.actions(order)).count("missed") == 1


async def on_site(community: Community, **category: Any) -> tuple[Person, pb.Order]:
    """An order on which somebody works, and who."""
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.accept(await reporter.report(await community.category(**category)))
    arrived: pb.Order = await plumber.call("ArriveOnSite", pb.ArriveOnSiteRequest(order_id=order.order_id))
    return plumber, arrived


def by_priority(**minutes: int) -> list[pb.Targets]:
    """What is promised for usual orders, and twice as long for those of low priority."""
    twice = {name: 2 * each for name, each in minutes.items()}
    return [
        pb.Targets(priority=pb.PRIORITY_NORMAL, round_the_clock=True, **minutes),
        pb.Targets(priority=pb.PRIORITY_LOW, round_the_clock=True, **twice),
    ]


async def pause(plumber: Person, order: pb.Order, waits_for: Any) -> pb.Order:
    request = pb.PauseOrderRequest(order_id=order.order_id, waits_for=waits_for, reason="没人在家")
    paused: pb.Order = await plumber.call("PauseOrder", request)
    return paused


async def test_waiting_for_the_resident_stops_the_clock_and_gives_the_time_back(community: Community) -> None:
    plumber, order = await on_site(community, **promising(done_minutes=60))
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=40), warned=1)
    paused = await pause(plumber, order, pb.WAITS_FOR_RESIDENT)
    assert not paused.HasField("done_due_at")
    community.clock.advance(days=1)
    resumed = await plumber.call("ResumeOrder", pb.ResumeOrderRequest(order_id=order.order_id))
    assert resumed.done_due_at == to_timestamp(community.clock.now + timedelta(minutes=20))
    resumed_at = community.clock.now
    await passes(community, order, until=resumed_at + timedelta(minutes=8), warned=2)
    await passes(community, order, until=resumed_at + timedelta(minutes=20), warned=2, missed=1)
    await community.event(TargetMissed, order_id=order.order_id)
    assert [target for target, _, _ in community.missed(order)] == ["done"]


async def test_waiting_for_a_part_does_not(community: Community) -> None:
    plumber, order = await on_site(community, **promising(done_minutes=60))
    paused = await pause(plumber, order, pb.WAITS_FOR_PART)
    assert paused.done_due_at == to_timestamp(MONDAY_10 + timedelta(minutes=60))
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=48), warned=2)
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=60), warned=2, missed=1)


async def test_a_miss_is_told_though_the_work_was_paused_before_its_timer_fired(community: Community) -> None:
    await community.terms(escalation_roles=["foreman"])
    plumber, order = await on_site(community, **promising(done_minutes=60))
    # Timers are looked at twice a second, and this is faster most of the time; the outcome is the same either way.
    community.clock.now = MONDAY_10 + timedelta(minutes=61)
    await pause(plumber, order, pb.WAITS_FOR_RESIDENT)
    await community.event(TargetMissed, order_id=order.order_id)
    community.clock.advance(days=1)
    await plumber.call("ResumeOrder", pb.ResumeOrderRequest(order_id=order.order_id))
    assert community.missed(order) == [("done", 1, "foreman")]


async def test_who_waited_for_the_resident_comes_in_time_when_the_resident_is_back(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.accept(await reporter.report(await community.category(**promising(on_site_minutes=60, done_minutes=90))))
    community.clock.advance(minutes=20)
    await pause(plumber, order, pb.WAITS_FOR_RESIDENT)
    community.clock.advance(minutes=100)
    arrived = await plumber.call("ArriveOnSite", pb.ArriveOnSiteRequest(order_id=order.order_id))
    assert (list(arrived.missed), arrived.done_due_at) == ([], to_timestamp(community.clock.now + timedelta(minutes=70)))


async def test_a_new_priority_keeps_the_time_that_was_given_back(community: Community) -> None:
    targets = by_priority(done_minutes=60)
    plumber, order = await on_site(community, targets=targets)
    community.clock.advance(minutes=10)
    await pause(plumber, order, pb.WAITS_FOR_RESIDENT)
    community.clock.advance(days=1)
    low = pb.TriageOrderRequest(order_id=order.order_id, priority=pb.PRIORITY_LOW)
    assert not (await community.call("TriageOrder", low)).HasField("done_due_at")
    resumed = await plumber.call("ResumeOrder", pb.ResumeOrderRequest(order_id=order.order_id))
    assert resumed.done_due_at == to_timestamp(community.clock.now + timedelta(minutes=110))
    usual = pb.TriageOrderRequest(order_id=order.order_id, priority=pb.PRIORITY_NORMAL)
    assert (await community.call("TriageOrder", usual)).done_due_at == to_timestamp(community.clock.now + timedelta(minutes=50))


async def test_no_step_of_the_chain_is_told_twice_though_triage_promises_anew(community: Community) -> None:
    await community.terms(escalation_roles=["foreman", "property_manager"])
    targets = by_priority(response_minutes=10)
    reporter = await community.resident()
    order = await reporter.report(await community.category(targets=targets))
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=10), warned=0, missed=1)
    triage = pb.TriageOrderRequest(order_id=order.order_id, priority=pb.PRIORITY_LOW)
    await community.call("TriageOrder", triage)
    witness = await reporter.report(await community.category(targets=targets))
    await passes(community, witness, until=MONDAY_10 + timedelta(minutes=29), missed=2)
    assert (await community.actions(order)).count("missed") == 1
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=30), warned=0, missed=2)
    await community.event(TargetMissed, order_id=order.order_id, level=2)
    assert [level for _, level, _ in community.missed(order)] == [1, 2]


async def test_what_is_opened_again_is_promised_anew_from_then_on_whatever_was_missed_before(community: Community) -> None:
    await community.terms(escalation_roles=["foreman"])
    targets = by_priority(response_minutes=10)
    reporter, plumber = await community.resident(), await community.technician()
    order = await reporter.report(await community.category(targets=targets))
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=10), missed=1)
    await plumber.finish(order)
    community.clock.advance(days=1)
    opened_at = community.clock.now
    reopened = await reporter.call("ReopenOrder", pb.ReopenOrderRequest(order_id=order.order_id, reason="还在漏"))
    assert reopened.response_due_at == to_timestamp(opened_at + timedelta(minutes=10))
    community.clock.advance(minutes=5)
    triaged = await community.call("TriageOrder", pb.TriageOrderRequest(order_id=order.order_id, priority=pb.PRIORITY_LOW))
    assert triaged.response_due_at == to_timestamp(opened_at + timedelta(minutes=20))
    community.clock.now = opened_at + timedelta(minutes=21)
    await plumber.accept(order)
    assert (await community.actions(order)).count("missed") == 2
    assert list((await reporter.see(order)).missed) == ["response"]


async def test_each_promise_has_its_own_end_counted_from_the_report(community: Community) -> None:
    await community.terms(escalation_roles=["foreman"])
    reporter, plumber = await community.resident(), await community.technician()
    promise = promising(response_minutes=10, on_site_minutes=30, done_minutes=60)
    order = await reporter.report(await community.category(**promise))
    assert (order.on_site_due_at, order.done_due_at) == tuple(to_timestamp(MONDAY_10 + timedelta(minutes=m)) for m in (30, 60))
    await plumber.accept(order)
    for minutes, warned, missed in ((15, 1, 0), (24, 2, 0), (31, 3, 1)):
        await passes(community, order, until=MONDAY_10 + timedelta(minutes=minutes), warned=warned, missed=missed)
    arrived = await plumber.call("ArriveOnSite", pb.ArriveOnSiteRequest(order_id=order.order_id))
    assert (list(arrived.missed), arrived.HasField("done_due_at")) == (["on_site"], True)
    done = await plumber.finish(arrived)
    assert list(done.missed) == ["on_site"]
    witness = await reporter.report(await community.category(**promising(response_minutes=10)))
    await passes(community, witness, until=community.clock.now + timedelta(minutes=61), missed=1)
    assert (await community.actions(order)).count("missed") == 1


async def test_usual_orders_wait_for_the_morning_and_urgent_ones_do_not(community: Community) -> None:
    await community.terms(working_hours=WEEKDAYS)
    community.clock.now = MONDAY_10 + timedelta(hours=10)  # eight in the evening
    manager, category = community.manager, await community.category()
    usual = await manager.report(category, household_id="")
    urgent = await manager.report(category, household_id="", priority=pb.PRIORITY_URGENT)
    assert usual.response_due_at == to_timestamp(MONDAY_10 + timedelta(hours=23, minutes=15))
    assert urgent.response_due_at == to_timestamp(community.clock.now + timedelta(minutes=15))


async def test_on_a_holiday_nobody_is_waited_for(community: Community) -> None:
    await community.terms(working_hours=WEEKDAYS, follows_holidays=True)
    # The first of October 2026, a Thursday; people work again on the eighth, and on Saturday the tenth in exchange.
    community.clock.now = datetime.fromisoformat("2026-10-01T10:00+08:00")
    order = await community.manager.report(await community.category(), household_id="")
    assert order.response_due_at == to_timestamp(datetime.fromisoformat("2026-10-08T09:15+08:00"))
    community.clock.now = datetime.fromisoformat("2026-10-10T10:00+08:00")
    order = await community.manager.report(await community.category(), household_id="")
    assert order.response_due_at == to_timestamp(datetime.fromisoformat("2026-10-10T10:15+08:00"))


async def test_open_orders_keep_the_promises_and_the_chain_of_their_report(community: Community) -> None:
    await community.terms(escalation_roles=["foreman"])
    reporter, category = await community.resident(), await community.category(**promising(response_minutes=15))
    order = await reporter.report(category)
    await community.call("UpdateCategory", pb.UpdateCategoryRequest(category_id=category, **promising(response_minutes=5)))
    await community.terms(escalation_roles=["property_manager", "foreman"])
    newer = await reporter.report(category)
    assert newer.response_due_at == to_timestamp(MONDAY_10 + timedelta(minutes=5))
    await passes(community, newer, until=MONDAY_10 + timedelta(minutes=9), missed=2)
    await passes(community, order, until=MONDAY_10 + timedelta(minutes=15), warned=1, missed=1)
    await community.event(TargetMissed, order_id=order.order_id)
    assert community.missed(order) == [("response", 1, "foreman")]
    assert (await community.event(TargetMissed, order_id=newer.order_id, level=1)).message.role == "property_manager"
