"""From what devices observe to an alarm that somebody closes, through the running service."""

import asyncio
import random
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from linli.access.v1 import alarms_pb2 as pb
from linli.access.v1.events_pb2 import SEVERITY_CRITICAL, SEVERITY_WARNING, AlarmClosed, AlarmRaised
from linli.device.v1.events_pb2 import ObjectObserved
from linli.workorders.v1.events_pb2 import WorkOrderChanged
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, Invalid, NotFound
from servicekit.identifiers import derived_id, new_id
from servicekit.times import to_timestamp
from services.access import alarm_operations
from services.access.alarms import Observation
from tests.access.alarming import alarm, alarms, is_told, messages, observation, pass_time, set_rule, source, watch_point
from tests.access.arrange import Community
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def raised(community: Community, kind: str = "intrusion", **changes: object) -> pb.Alarm:
    """An alarm of one observation, made now."""
    one = observation(source(), community.clock.now, kind, **changes)
    await community.publish(one)
    return await alarm(community, one.source_id)


async def get(community: Community, alarm_id: str) -> pb.Alarm:
    return await community.call("GetAlarm", pb.GetAlarmRequest(alarm_id=alarm_id))  # type: ignore[no-any-return]


async def close(community: Community, alarm_id: str, cause: str = "resident_locked_out", **changes: object) -> pb.Alarm:
    return await community.call("CloseAlarm", pb.CloseAlarmRequest(alarm_id=alarm_id, cause=cause, **changes))  # type: ignore[arg-type, no-any-return]


async def test_many_frames_of_one_intruder_in_any_order_and_twice_are_one_alarm_counted_exactly(community: Community) -> None:
    point, guard = await watch_point(community), await community.employ("property_staff")
    at = community.clock.now - timedelta(minutes=30)
    frames = [observation(point.source_id, at + timedelta(seconds=second), track_id="7") for second in range(300)]
    told = [*frames, *frames[::3]]
    random.shuffle(told)
    await asyncio.gather(*(community.publish(frame) for frame in told))

    async def counted() -> bool:
        return await community.value("SELECT count(*) FROM counted_observations") == 300  # type: ignore[no-any-return]

    await eventually(counted, "every frame")
    [found] = [each for each in await alarms(community, source_id=point.source_id) if each.cause != "merged"]
    assert found.observations == 300
    assert (found.raised_at, found.last_observed_at) == (to_timestamp(at), to_timestamp(at + timedelta(seconds=299)))
    assert (found.place, found.zone_id, found.severity) == (point.name, point.zone_id, SEVERITY_CRITICAL)
    event = await community.running.event(AlarmRaised, lambda each: each.message.alarm_id == found.alarm_id)
    assert event.message.work_order_category == "security.intrusion"
    assert (event.message.text_zh, event.message.text_en) == (f"有人闯入：{point.name}", f"Intrusion: {point.name}")
    assert (await community.told(guard, "access.alarm_raised")).link.startswith("/v1/alarms/")


async def test_ten_thousand_frames_make_no_second_alarm(community: Community) -> None:
    camera, start = source(), community.clock.now - timedelta(hours=3)
    frames = [
        Observation(derived_id(camera, str(n)), community.community_id, "intrusion", camera, start + timedelta(seconds=n))
        for n in range(10_000)
    ]
    for batch in range(0, 10_000, 1000):
        async with community.running.transaction("access", PLATFORM) as tx:
            await alarm_operations.observe(tx, frames[batch : batch + 1000])
    async with community.running.transaction("access", PLATFORM) as tx:
        assert await alarm_operations.observe(tx, frames[:100]) == [None] * 100
    assert (await alarm(community, camera)).observations == 10_000


async def test_four_processes_that_hear_the_same_frames_at_once_raise_one_alarm_each_community(community: Community) -> None:
    other, camera, start = Community(community.town, new_id()), source(), community.clock.now - timedelta(hours=1)
    frames = [
        Observation(derived_id(camera, str(n), str(each)), each, "intrusion", camera, start + timedelta(seconds=n))
        for n in range(60)
        for each in (community.community_id, other.community_id)
    ]

    async def hear() -> None:
        for batch in range(0, 120, 30):
            async with community.running.transaction("access", PLATFORM) as tx:
                await alarm_operations.observe(tx, random.sample(frames[batch : batch + 30], 30))

    await asyncio.gather(*(hear() for _ in range(4)))
    for each in (community, other):
        assert (await alarm(each, camera)).observations == 60


async def test_a_late_frame_joins_two_alarms_and_one_of_them_is_over(community: Community) -> None:
    camera, at = source(), community.clock.now - timedelta(minutes=60)
    await set_rule(community, "intrusion", window_s=60)
    for second in (0, 100):
        await community.publish(observation(camera, at + timedelta(seconds=second)))

    async def two() -> bool:
        return len(await alarms(community, source_id=camera)) == 2

    await eventually(two)
    await community.publish(observation(camera, at + timedelta(seconds=50)))
    event = await community.running.event(AlarmClosed, lambda each: each.community_id == community.community_id)
    states = {each.alarm_id: each for each in await alarms(community, source_id=camera)}
    merged = states.pop(event.message.alarm_id)
    assert (merged.cause, merged.false_alarm) == ("merged", False)
    [(_, whole)] = states.items()
    assert (whole.observations, whole.state) == (3, pb.ALARM_STATE_RAISED)


async def test_whoever_acknowledges_is_named_and_nobody_else_can(community: Community) -> None:
    alarm_id, guard = (await raised(community)).alarm_id, new_id()
    request = pb.AcknowledgeAlarmRequest(alarm_id=alarm_id)
    taken = await community.call("AcknowledgeAlarm", request, account_id=guard)
    assert (taken.state, taken.acknowledged_by_account_id) == (pb.ALARM_STATE_ACKNOWLEDGED, str(guard))
    assert taken.acknowledged_at == to_timestamp(community.clock.now)
    with pytest.raises(Conflict, match=r"access\.alarm_state") as refused:
        await community.call("AcknowledgeAlarm", request)
    assert refused.value.details == {"state": "acknowledged", "asked": "acknowledged"}


async def test_an_alarm_that_nobody_takes_climbs_the_chain_each_step_once(community: Community) -> None:
    guard, foreman, manager, committee = [
        await community.employ(role) for role in ("property_staff", "foreman", "property_manager", "residents_committee_member")
    ]
    found = await raised(community)
    await is_told(community, guard)
    await pass_time(community, seconds=299)
    assert not messages(community, foreman)
    await pass_time(community, seconds=1)
    await is_told(community, foreman)
    await is_told(community, manager)
    assert not messages(community, committee)
    await pass_time(community, hours=5)  # as if nobody had looked at the clock for so long
    await is_told(community, committee)
    await pass_time(community, hours=5)
    assert (await get(community, found.alarm_id)).escalations == 2
    assert [len(messages(community, each)) for each in (guard, foreman, manager, committee)] == [1, 1, 1, 1]


async def test_an_alarm_that_somebody_takes_climbs_no_further_and_one_that_finds_nobody_climbs_at_once(community: Community) -> None:
    foreman = await community.employ("foreman")
    found = await raised(community)
    await is_told(community, foreman)  # there is no guard
    manager = await community.employ("residents_committee_member")
    await community.call("AcknowledgeAlarm", pb.AcknowledgeAlarmRequest(alarm_id=found.alarm_id))
    await pass_time(community, hours=1)
    assert not messages(community, manager)
    assert (await get(community, found.alarm_id)).escalations == 1


async def test_an_alarm_is_closed_with_a_cause_once(community: Community) -> None:
    found = await raised(community)
    with pytest.raises(Invalid, match=r"access\.alarm_cause"):
        await close(community, found.alarm_id, "")
    closed = await close(community, found.alarm_id, note="住户忘带卡\n已放行")
    assert (closed.state, closed.cause, closed.false_alarm) == (pb.ALARM_STATE_CLOSED, "resident_locked_out", False)
    assert closed.closed_by_account_id == str(community.account_id)
    event = await community.running.event(AlarmClosed, lambda each: each.message.alarm_id == found.alarm_id)
    assert not event.message.false_alarm
    with pytest.raises(Conflict, match=r"access\.alarm_state"):
        await close(community, found.alarm_id)
    with pytest.raises(Conflict, match=r"access\.alarm_state"):
        await community.call("AcknowledgeAlarm", pb.AcknowledgeAlarmRequest(alarm_id=found.alarm_id))


async def test_a_false_alarm_is_not_raised_again_at_once_and_a_real_one_is(community: Community) -> None:
    false, real = await raised(community), await raised(community)
    await close(community, false.alarm_id, "", false_alarm=True)
    await close(community, real.alarm_id)
    later = community.clock.now + timedelta(seconds=250)
    for found in (false, real):
        await community.publish(observation(found.source_id, later))
    community.clock.advance(seconds=250)

    async def again() -> bool:
        return len(await alarms(community, source_id=real.source_id)) == 2

    await eventually(again)
    assert (await alarm(community, false.source_id, 2)).observations == 2
    await community.publish(observation(false.source_id, later + timedelta(seconds=300)))

    async def anew() -> bool:
        return len(await alarms(community, source_id=false.source_id)) == 2

    await eventually(anew)


async def test_another_community_sees_nothing_of_it(access: object, community: Community) -> None:
    found, stranger = await raised(community), Community(community.town, new_id())
    for method, request in (
        ("GetAlarm", pb.GetAlarmRequest(alarm_id=found.alarm_id)),
        ("AcknowledgeAlarm", pb.AcknowledgeAlarmRequest(alarm_id=found.alarm_id)),
        ("CloseAlarm", pb.CloseAlarmRequest(alarm_id=found.alarm_id, cause="x")),
    ):
        with pytest.raises(NotFound, match=r"access\.alarm_unknown"):
            await stranger.call(method, request)
    assert not await alarms(stranger)


async def test_the_alarm_follows_its_work_order(community: Community) -> None:
    found, technician, order_id = await raised(community), new_id(), new_id()

    async def changed(state: str, version: int, cause: str = "", technician_id: UUID | None = technician) -> None:
        order = WorkOrderChanged(order_id=str(order_id), origin="access", origin_id=found.alarm_id, state=state, cause=cause)
        order.closed, order.technician_account_id = state in ("done", "cancelled"), str(technician_id or "")
        await community.publish(order, version=version)

    async def is_in(state: object) -> bool:
        return bool((await get(community, found.alarm_id)).state == state)

    await changed("reported", 1, technician_id=None)

    async def linked() -> bool:
        return (await get(community, found.alarm_id)).work_order_id == str(order_id)

    await eventually(linked)
    assert await is_in(pb.ALARM_STATE_RAISED)
    await changed("accepted", 2)
    await eventually(lambda: is_in(pb.ALARM_STATE_ACKNOWLEDGED))
    assert (await get(community, found.alarm_id)).acknowledged_by_account_id == str(technician)
    await changed("done", 4, "drunk_visitor")
    await changed("done", 3, "false_alarm")  # overtaken
    await eventually(lambda: is_in(pb.ALARM_STATE_CLOSED))
    closed = await get(community, found.alarm_id)
    assert (closed.cause, closed.false_alarm, closed.closed_by_account_id) == ("drunk_visitor", False, str(technician))


async def test_a_work_order_that_found_nothing_makes_the_alarm_a_false_one_and_a_cancelled_one_leaves_it_open(community: Community) -> None:
    nothing, left = await raised(community), await raised(community)
    for found, state, cause in ((nothing, "done", "false_alarm"), (left, "cancelled", "")):
        order = WorkOrderChanged(order_id=str(new_id()), origin="access", origin_id=found.alarm_id, state=state, cause=cause, closed=True)
        await community.publish(order, version=5)

    async def followed() -> bool:
        both = [await get(community, each.alarm_id) for each in (nothing, left)]
        return all(each.work_order_id for each in both)

    await eventually(followed)
    assert (await get(community, nothing.alarm_id)).false_alarm
    assert (await get(community, left.alarm_id)).state == pb.ALARM_STATE_RAISED


async def test_pictures_have_addresses_only_in_the_answer_for_one_alarm(community: Community) -> None:
    own, foreign = f"{community.community_id}/2026-03-02/a.jpg", f"{new_id()}/2026-03-02/b.jpg"
    found = await raised(community, image_keys=[own, foreign, "with\0nul", "with space"])
    assert not found.picture_urls
    [url] = (await get(community, found.alarm_id)).picture_urls
    assert url.startswith("/v1/blobs/")
    assert Path(own).name not in url


async def test_lists_show_only_what_is_asked_for_page_by_page(community: Community) -> None:
    sos = await raised(community, "sos")
    held = await raised(community, "door_held")
    for _ in range(3):
        await raised(community, "tailgating")
    await close(community, held.alarm_id)
    assert [each.alarm_id for each in await alarms(community, kind="sos")] == [sos.alarm_id]
    assert [each.alarm_id for each in await alarms(community, state=pb.ALARM_STATE_CLOSED)] == [held.alarm_id]
    assert {each.kind for each in await alarms(community, severity_min=SEVERITY_WARNING)} == {"sos", "door_held"}
    assert len(await alarms(community, state=pb.ALARM_STATE_RAISED, kind="tailgating", severity_min=1)) == 3
    pages, token = list[list[str]](), ""
    while not pages or token:
        answer = await community.call("ListAlarms", pb.ListAlarmsRequest(page_size=2, page_token=token))
        pages, token = [*pages, [each.alarm_id for each in answer.alarms]], answer.next_page_token
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [each for page in pages for each in page] == [each.alarm_id for each in await alarms(community)]


async def test_a_person_before_a_camera_is_an_intruder_where_and_when_the_rule_is_armed(community: Community) -> None:
    roof, yard = await watch_point(community), await watch_point(community)
    by_night = {"weekdays": range(1, 8), "from_minute": 22 * 60, "until_minute": 6 * 60}
    await set_rule(community, "intrusion", zone_id=roof.zone_id, windows=[by_night])
    night, day = community.clock.now - timedelta(hours=8), community.clock.now
    for point in (roof, yard):
        for kind, at in (("person", night), ("face", night), ("person", day), ("non_motor_vehicle", night)):
            seen = ObjectObserved(
                device_id=point.source_id, record_id=f"{kind} {at}", kind=kind, occurred_at=to_timestamp(at), received_at=to_timestamp(day)
            )
            await community.publish(seen)
    assert (await alarm(community, roof.source_id, 2)).observations == 2
    assert not await alarms(community, source_id=yard.source_id)


async def test_what_devices_should_not_say_harms_nobody(community: Community) -> None:
    good = observation(source(), community.clock.now)
    ahead = observation(source(), community.clock.now + timedelta(days=400), received_at=to_timestamp(community.clock.now))
    strange = [
        observation(source(), community.clock.now, kind="no\0such"),
        observation(source(), community.clock.now, kind=""),
        observation(source(), community.clock.now, kind="motion"),
        observation("a b", community.clock.now, device_id="d" * 500, kind="x" * 500),
    ]
    odd = observation(source(), community.clock.now, track_id="\0" + "t" * 500, record_id="\0" * 50, confidence_permille=5000)
    await asyncio.gather(*(community.publish(each, event_id=str(new_id())) for each in [*strange, odd, ahead, good]))
    for each in (good, odd, ahead):
        found = await alarm(community, each.source_id)
        assert found.raised_at == to_timestamp(community.clock.now)
    assert len(await alarms(community)) == 3
    assert await community.value("SELECT count(*) FROM dead_letters") == 0


async def test_rules_that_are_in_force_are_listed_and_those_that_cannot_be_are_refused(community: Community) -> None:
    zone_id = await community.zone()
    await set_rule(community, "intrusion", window_s=30)
    await set_rule(community, "intrusion", zone_id=zone_id, severity=1)
    await set_rule(community, "intrusion", zone_id=zone_id, severity=2, work_order_category="security.roof")
    rules = (await community.call("ListAlarmRules", pb.ListAlarmRulesRequest())).rules
    own = [(rule.zone_id, rule.severity, rule.window_s, rule.work_order_category) for rule in rules if rule.customised]
    assert own == [("", 3, 30, ""), (zone_id, 2, 60, "security.roof")]
    assert {"smoke", "still_person", "passback"} <= {rule.kind for rule in rules if not rule.customised}
    with pytest.raises(NotFound, match=r"access\.zone_unknown"):
        await set_rule(community, "intrusion", zone_id=str(new_id()))
    for disarming in ({"enabled": False}, {"confidence_min_permille": 1}):
        with pytest.raises(Invalid, match=r"access\.alarm_rule_armed"):
            await set_rule(community, "smoke", **disarming)


async def test_a_community_has_as_many_rules_as_can_be_read_at_once(community: Community) -> None:
    rules = """INSERT INTO alarm_rules SELECT gen_random_uuid(), $1, 'kind_' || n, NULL, true, 1, 60, 0, '[]', '', 0, $1, now()
        FROM generate_series(1, 500) AS n"""
    async with community.running.transaction("access", community.community_id) as tx:
        await tx.execute(rules, community.community_id)
    with pytest.raises(Conflict, match=r"access\.alarm_rules_many"):
        await set_rule(community, "intrusion")
    assert (await set_rule(community, "kind_1", severity=3)).customised


async def test_a_device_that_names_another_community_raises_its_alarm_in_its_own(community: Community) -> None:
    other = Community(community.town, new_id())
    point = await watch_point(community)
    one = observation(point.source_id, community.clock.now)
    await other.publish(one)
    found = await alarm(other, point.source_id)
    assert (found.place, found.zone_id) == ("", "")
    assert not await alarms(community)
