"""Care for people who asked for it: who may begin it, when somebody worries, and what is left when it ends."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from linli.access.v1 import access_pb2, alarms_pb2
from linli.access.v1 import care_pb2 as pb
from linli.access.v1.events_pb2 import SEVERITY_CRITICAL, SEVERITY_WARNING
from servicekit.errors import Conflict, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.access.alarming import alarms, goes_silent, is_back, is_told, messages, observation, pass_time, set_rule, source, watch_point
from tests.access.arrange import Community, Home
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIVITY_CONSENT, LOCATION_CONSENT = access_pb2.CONSENT_KIND_CARE_ACTIVITY, access_pb2.CONSENT_KIND_CARE_LOCATION
GARDEN = [pb.Point(latitude=x, longitude=y) for x, y in ((31.23, 121.47), (31.23, 121.4721), (31.232, 121.4721), (31.232, 121.47))]
INSIDE, OUTSIDE = (31.231, 121.471), (31.231, 121.475)
# By day something happens each hour; nights are quiet.
HOURS = range(7, 23)


async def start(
    community: Community, caller: UUID, sources: Sequence[str], person: UUID | None = None, *guardians: UUID, **changes: Any
) -> pb.CarePlan:
    request = pb.StartCareRequest(
        kind=changes.pop("kind", pb.CARE_KIND_ACTIVITY),
        account_id=str(person or ""),
        guardian_account_ids=map(str, guardians),
        source_ids=sources,
        **changes,
    )
    return await community.call_as(caller, "StartCare", request)  # type: ignore[no-any-return]


async def plans(community: Community, account_id: UUID) -> list[pb.CarePlan]:
    return list((await community.call_as(account_id, "ListMyCarePlans", pb.ListMyCarePlansRequest())).care_plans)


async def cared_for(community: Community) -> tuple[Home, UUID, UUID, str, pb.CarePlan]:
    """A home in which a daughter cares for her mother, with one sensor."""
    home, sensor = await community.home(2), source()
    mother, daughter = home.people
    await community.consent(mother, ACTIVITY_CONSENT)
    return home, mother, daughter, sensor, await start(community, daughter, [sensor], mother)


async def notice(community: Community, sensor: str, *instants: datetime, kind: str = "motion") -> None:
    """Something is noticed; returns when it is known."""
    for at in instants:
        await community.publish(observation(sensor, at, kind, received_at=to_timestamp(max(at, community.clock.now))))
    last = max(instants)

    async def known() -> bool:
        sql = "SELECT bool_and(last_activity_at >= $2) FROM care_plans JOIN care_sources USING (care_plan_id) WHERE source_id = $1"
        return bool(await community.value(sql, sensor, last))

    await eventually(known, "the last activity")


async def live(community: Community, sensor: str, days: int) -> None:
    """Days of a life with a rhythm, from nine in the morning on; the clock ends on the last of them, at ten in the evening."""
    midnight = community.clock.now - timedelta(hours=9)
    times = [midnight + timedelta(days=day, hours=hour) for day in range(days) for hour in HOURS]
    await notice(community, sensor, *(at for at in times if at > community.clock.now))
    # Only now, so that no timer looks before all of it is known.
    community.clock.now = times[-1]


async def open_alarm(community: Community, account_id: UUID) -> alarms_pb2.Alarm:
    """The alarm of a person's only plan."""

    async def found() -> str:
        return (await plans(community, account_id))[0].alarm_id

    alarm_id = await eventually(found, "an alarm about the person")
    return await community.call("GetAlarm", alarms_pb2.GetAlarmRequest(alarm_id=alarm_id))  # type: ignore[no-any-return]


async def all_is_well(community: Community, account_id: UUID) -> None:
    async def well() -> bool:
        return not (await plans(community, account_id))[0].alarm_id

    await eventually(well, "no open alarm")


async def test_care_needs_the_persons_consent_and_a_household_in_common(community: Community) -> None:
    home, stranger = await community.home(2), await community.home()
    mother, daughter = home.people
    with pytest.raises(Conflict, match=r"access\.care_consent"):
        await start(community, daughter, ["s1"], mother)
    await community.consent(mother, LOCATION_CONSENT)
    with pytest.raises(Conflict, match=r"access\.care_consent"):
        await start(community, daughter, ["s1"], mother)
    await community.consent(mother, ACTIVITY_CONSENT)
    with pytest.raises(NotFound, match=r"access\.person_unknown"):
        await start(community, stranger.people[0], ["s1"], mother)
    plan = await start(community, daughter, ["s1"], mother)
    assert (plan.account_id, list(plan.guardian_account_ids), list(plan.source_ids)) == (str(mother), [str(daughter)], ["s1"])
    assert not plan.HasField("worry_at")
    await community.told(mother, "access.care_started")
    with pytest.raises(Conflict, match=r"access\.care_exists"):
        await start(community, mother, ["s2"], None, daughter)


async def test_a_guardian_may_consent_for_somebody_who_cannot(community: Community) -> None:
    home = await community.home(2)
    child, parent = home.people
    text = access_pb2.PublishConsentTextRequest(kind=LOCATION_CONSENT, text_zh="本人同意按本说明处理我的个人信息，并知悉可随时撤回。")
    version = (await community.call("PublishConsentText", text)).version
    request = access_pb2.GiveConsentRequest(kind=LOCATION_CONSENT, text_version=version, account_id=str(child))
    await community.call_as(parent, "GiveConsent", request)
    plan = await start(community, parent, [source()], child, kind=pb.CARE_KIND_SAFE_AREA, safe_area=GARDEN)
    assert len(plan.safe_area) == 4


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"guardians": []}, r"access\.care_guardian"),
        ({"guardians": ["self"]}, r"access\.care_guardian"),
        ({"safe_area": GARDEN}, r"access\.care_area"),
        ({"kind": pb.CARE_KIND_SAFE_AREA}, r"access\.care_area"),
        ({"kind": pb.CARE_KIND_SAFE_AREA, "safe_area": GARDEN[:2]}, r"access\.care_area"),
        ({"kind": pb.CARE_KIND_SAFE_AREA, "safe_area": [GARDEN[0]] * 3}, r"access\.care_area"),
        ({"kind": pb.CARE_KIND_SAFE_AREA, "safe_area": [*GARDEN, pb.Point(latitude=91)]}, r"request\.invalid"),
        ({"kind": pb.CARE_KIND_SAFE_AREA, "safe_area": [*GARDEN, pb.Point(latitude=float("nan"))]}, r"request\.invalid"),
        ({"sources": ["a b"]}, r"request\.invalid"),
        ({"sources": []}, r"request\.invalid"),
    ],
)
async def test_care_that_cannot_be_is_refused(community: Community, changes: dict[str, Any], code: str) -> None:
    person = (await community.home()).people[0]
    await community.consent(person, ACTIVITY_CONSENT, LOCATION_CONSENT)
    guardians = [person if each == "self" else each for each in changes.pop("guardians", [new_id()])]
    with pytest.raises(Invalid, match=code):
        await start(community, person, changes.pop("sources", [source()]), None, *guardians, **changes)


async def test_nobody_watches_others_under_the_name_of_care(community: Community) -> None:
    _, _, _, sensor, _ = await cared_for(community)
    neighbour, camera, gate = (await community.home()).people[0], await watch_point(community), await community.door()
    await community.consent(neighbour, ACTIVITY_CONSENT)
    with pytest.raises(Conflict, match=r"access\.care_source_taken"):
        await start(community, neighbour, [sensor], None, new_id())
    for unfit in (camera.source_id, gate.entrance):
        with pytest.raises(Invalid, match=r"access\.care_source"):
            await start(community, neighbour, [source(), unfit], None, new_id())


async def test_only_the_person_and_their_guardians_see_the_plan(community: Community) -> None:
    home, mother, daughter, _, plan = await cared_for(community)
    home.people.append(new_id())
    await community.tell(home)
    for other in (home.people[2], community.account_id):
        assert not await plans(community, other)
        for method, request in (
            ("StopCare", pb.StopCareRequest(care_plan_id=plan.care_plan_id)),
            ("ReportWellbeing", pb.ReportWellbeingRequest(care_plan_id=plan.care_plan_id)),
        ):
            with pytest.raises(NotFound, match=r"access\.care_plan_unknown"):
                await community.call_as(other, method, request)
    for own in (mother, daughter):
        assert [each.care_plan_id for each in await plans(community, own)] == [plan.care_plan_id]


async def test_a_quiet_that_is_longer_than_usual_worries_the_guardians_first_and_then_the_guard(community: Community) -> None:
    guard = await community.employ("property_staff")
    _, mother, daughter, sensor, _ = await cared_for(community)
    point = await watch_point(community, sensor, kind=alarms_pb2.WATCH_POINT_KIND_SENSOR)
    await live(community, sensor, 9)
    [plan] = await plans(community, daughter)
    worry_at = plan.worry_at.ToDatetime(tzinfo=community.clock.now.tzinfo)
    assert timedelta(hours=9) < worry_at - community.clock.now < timedelta(hours=15)  # she sleeps from ten to seven
    await pass_time(community, seconds=(worry_at - community.clock.now).total_seconds() - 1)
    assert not messages(community, daughter)
    await pass_time(community, seconds=1)
    found = await open_alarm(community, mother)
    assert (found.kind, found.severity, found.place) == ("still_person", SEVERITY_CRITICAL, point.name)
    assert (await is_told(community, daughter)).link == "/v1/me/care-plans"
    assert not messages(community, guard)
    await pass_time(community, minutes=10)
    assert point.name not in str(await is_told(community, guard))
    await pass_time(community, hours=3)
    assert len(await alarms(community)) == 1
    assert len(messages(community, daughter)) == len(messages(community, guard)) == 1


async def test_who_looked_after_the_person_ends_the_alarm_and_the_worry_begins_anew(community: Community) -> None:
    guard = await community.employ("property_staff")
    _, _, daughter, sensor, plan = await cared_for(community)
    await live(community, sensor, 9)
    await pass_time(community, hours=15)
    found = await open_alarm(community, daughter)
    report = pb.ReportWellbeingRequest(care_plan_id=plan.care_plan_id)
    after = await community.call_as(daughter, "ReportWellbeing", report)
    assert not after.alarm_id
    assert after.worry_at.ToDatetime(tzinfo=community.clock.now.tzinfo) >= community.clock.now + timedelta(hours=2)
    closed = await community.call("GetAlarm", alarms_pb2.GetAlarmRequest(alarm_id=found.alarm_id))
    assert (closed.cause, closed.closed_by_account_id) == ("person_well", str(daughter))
    await pass_time(community, minutes=30)
    assert not messages(community, guard)
    await pass_time(community, days=2)
    assert (await open_alarm(community, daughter)).alarm_id != found.alarm_id


async def test_an_alarm_that_the_guard_has_closed_is_not_the_last_when_nothing_moves_after(community: Community) -> None:
    _, _, daughter, sensor, _ = await cared_for(community)
    await live(community, sensor, 9)
    await pass_time(community, hours=15)
    found = await open_alarm(community, daughter)
    await pass_time(community, hours=3)
    await community.call("CloseAlarm", alarms_pb2.CloseAlarmRequest(alarm_id=found.alarm_id, cause="person_well"))
    await pass_time(community, hours=1, minutes=30)
    assert not (await plans(community, daughter))[0].alarm_id
    await pass_time(community, days=1)
    await pass_time(community, days=1)
    assert (await open_alarm(community, daughter)).alarm_id != found.alarm_id


async def test_nobody_worries_while_the_rhythm_is_being_learned(community: Community) -> None:
    _, _, daughter, sensor, _ = await cared_for(community)
    await live(community, sensor, 3)
    await pass_time(community, days=3)
    assert not messages(community, daughter)
    [plan] = await plans(community, daughter)
    assert not plan.HasField("worry_at")
    await pass_time(community, days=2)
    assert (await open_alarm(community, daughter)).kind == "still_person"


async def test_a_silent_sensor_is_not_taken_for_a_still_person(community: Community) -> None:
    guard = await community.employ("property_staff")
    _, _, daughter, sensor, _ = await cared_for(community)
    await live(community, sensor, 9)
    await goes_silent(community, sensor)
    await pass_time(community, hours=15)
    found = await open_alarm(community, daughter)
    assert (found.kind, found.severity) == ("sensor_silent", SEVERITY_WARNING)
    await is_told(community, daughter)
    await pass_time(community, days=1)
    assert not messages(community, guard)
    await is_back(community, sensor)
    await all_is_well(community, daughter)
    await pass_time(community, hours=2)  # nobody knows what she did meanwhile, and she has not moved since
    assert (await open_alarm(community, daughter)).kind == "still_person"


async def test_sensors_that_never_say_anything_are_told_of_after_a_day(community: Community) -> None:
    _, _, daughter, _, _ = await cared_for(community)
    await pass_time(community, hours=24)
    assert (await open_alarm(community, daughter)).kind == "sensor_silent"


async def test_what_a_sensor_tells_late_withdraws_the_worry_unless_it_is_too_old(community: Community) -> None:
    _, _, daughter, sensor, _ = await cared_for(community)
    await live(community, sensor, 9)
    evening = community.clock.now
    await pass_time(community, hours=15)
    found = await open_alarm(community, daughter)
    await notice(community, sensor, evening + timedelta(minutes=30))
    assert (await open_alarm(community, daughter)).alarm_id == found.alarm_id
    await notice(community, sensor, community.clock.now - timedelta(minutes=20))
    await all_is_well(community, daughter)
    closed = await community.call("GetAlarm", alarms_pb2.GetAlarmRequest(alarm_id=found.alarm_id))
    assert (closed.cause, closed.false_alarm) == ("active_again", False)
    await is_told(community, daughter, kind="access.alarm_closed")
    await pass_time(community, days=1)
    assert (await open_alarm(community, daughter)).alarm_id != found.alarm_id


async def test_a_clock_that_goes_ahead_does_not_keep_anybody_from_worrying(community: Community) -> None:
    _, _, daughter, sensor, _ = await cared_for(community)
    now = to_timestamp(community.clock.now + timedelta(minutes=1))
    community.clock.advance(minutes=1)
    ahead = observation(sensor, community.clock.now + timedelta(days=300), "contact", received_at=now)
    await community.publish(ahead)

    async def noticed() -> bool:
        return (await plans(community, daughter))[0].last_activity_at == now

    await eventually(noticed)


async def test_what_is_noticed_at_somebodys_home_is_for_nothing_else(community: Community) -> None:
    await set_rule(community, "motion")
    _, _, _, sensor, _ = await cared_for(community)
    yard = source()
    community.clock.advance(minutes=5)
    await notice(community, sensor, community.clock.now)
    await community.publish(observation(yard, community.clock.now, "motion"))

    async def only_the_yard() -> bool:
        return [each.source_id for each in await alarms(community)] == [yard]

    await eventually(only_the_yard)


async def test_when_care_stops_what_was_learned_is_deleted_and_nobody_worries_any_more(community: Community) -> None:
    _, mother, daughter, sensor, plan = await cared_for(community)
    await watch_point(community, sensor, kind=alarms_pb2.WATCH_POINT_KIND_SENSOR)
    await live(community, sensor, 9)
    await pass_time(community, hours=15)
    found = await open_alarm(community, daughter)
    stopped = await community.call_as(mother, "StopCare", pb.StopCareRequest(care_plan_id=plan.care_plan_id))
    assert stopped.stopped_at == to_timestamp(community.clock.now)
    assert await community.call_as(daughter, "StopCare", pb.StopCareRequest(care_plan_id=plan.care_plan_id)) == stopped
    assert not stopped.source_ids
    assert not stopped.HasField("last_activity_at")
    closed = await community.call("GetAlarm", alarms_pb2.GetAlarmRequest(alarm_id=found.alarm_id))
    assert closed.cause == "care_stopped"
    for table in ("care_days", "care_sources"):
        assert await community.value(f"SELECT count(*) FROM {table}") == 0
    assert await community.value("SELECT count(*) FROM timers WHERE subject_id = $1", UUID(plan.care_plan_id)) == 0
    named = "care_plan_id IS NOT NULL OR concat(track_id, source_id, place) <> ''"
    assert await community.value(f"SELECT count(*) FROM alarms WHERE {named}") == 0
    with pytest.raises(Conflict, match=r"access\.care_over"):
        await community.call_as(daughter, "ReportWellbeing", pb.ReportWellbeingRequest(care_plan_id=plan.care_plan_id))
    await start(community, daughter, [sensor], mother)


async def test_care_ends_with_the_consent(community: Community) -> None:
    home = await community.home(2)
    person, guardian = home.people
    activity, location = await community.consent(person, ACTIVITY_CONSENT, LOCATION_CONSENT)
    await start(community, person, [source()], None, guardian)
    await start(community, person, [source()], None, guardian, kind=pb.CARE_KIND_SAFE_AREA, safe_area=GARDEN)
    await community.call_as(person, "WithdrawConsent", access_pb2.WithdrawConsentRequest(consent_id=location.consent_id))
    stopped = {each.kind: each.HasField("stopped_at") for each in await plans(community, guardian)}
    assert stopped == {pb.CARE_KIND_ACTIVITY: False, pb.CARE_KIND_SAFE_AREA: True}
    assert await community.value("SELECT safe_area FROM care_plans WHERE kind = 'safe_area'") == []
    await community.told(guardian, "access.care_stopped")
    await community.call_as(person, "WithdrawConsent", access_pb2.WithdrawConsentRequest(consent_id=activity.consent_id))
    assert all(each.HasField("stopped_at") for each in await plans(community, guardian))


async def test_a_child_that_leaves_the_safe_area_is_an_alarm_until_it_is_back(community: Community) -> None:
    guard = await community.employ("property_staff")
    home, watch = await community.home(2), source()
    child, parent = home.people
    await community.consent(child, LOCATION_CONSENT)
    await start(community, parent, [watch], child, kind=pb.CARE_KIND_SAFE_AREA, safe_area=GARDEN)

    async def goes(*places: tuple[float, float]) -> None:
        for latitude, longitude in places:
            community.clock.advance(seconds=20)
            await community.publish(observation(watch, community.clock.now, "position", latitude=latitude, longitude=longitude))

        async def known() -> bool:
            return (await plans(community, parent))[0].last_activity_at == to_timestamp(community.clock.now)

        await eventually(known)

    await goes(INSIDE, OUTSIDE, INSIDE, OUTSIDE)
    assert not (await plans(community, parent))[0].alarm_id
    await goes(OUTSIDE)
    found = await open_alarm(community, parent)
    assert (found.kind, found.place, found.zone_id) == ("left_safe_area", "", "")
    assert str(OUTSIDE[0]) not in str(found)
    await is_told(community, parent)
    await goes(OUTSIDE, OUTSIDE)
    await pass_time(community, minutes=10)
    await is_told(community, guard)
    await goes(INSIDE)
    await all_is_well(community, parent)
    closed = await community.call("GetAlarm", alarms_pb2.GetAlarmRequest(alarm_id=found.alarm_id))
    assert closed.cause == "back_inside"
    await is_told(community, parent, kind="access.alarm_closed")
    assert len(messages(community, parent)) == 1


async def test_places_that_are_none_are_nowhere(community: Community) -> None:
    home, watch = await community.home(2), source()
    child, parent = home.people
    await community.consent(child, LOCATION_CONSENT)
    await start(community, parent, [watch], child, kind=pb.CARE_KIND_SAFE_AREA, safe_area=GARDEN)
    for latitude, longitude in ((float("nan"), 121.5), (200.0, 121.5), (31.2, float("inf")), (31.2, -500.0)):
        community.clock.advance(seconds=20)
        await community.publish(observation(watch, community.clock.now, "position", latitude=latitude, longitude=longitude))
    await community.publish(observation(watch, community.clock.now, "position", latitude=31.2))
    community.clock.advance(seconds=20)
    await community.publish(observation(watch, community.clock.now, "position", latitude=INSIDE[0], longitude=INSIDE[1]))

    async def known() -> bool:
        return (await plans(community, parent))[0].last_activity_at == to_timestamp(community.clock.now)

    await eventually(known)
    assert not messages(community, parent)
    assert await community.value("SELECT count(*) FROM dead_letters") == 0


async def test_a_terminal_that_falls_silent_is_an_alarm_until_it_is_heard_again(community: Community) -> None:
    gate = await community.door()
    await goes_silent(community, gate.entrance)

    async def state() -> list[tuple[str, str, str]]:
        return [(each.kind, each.place, each.cause) for each in await alarms(community, source_id=gate.entrance)]

    assert await state() == [("terminal_silent", gate.name, "")]
    await is_back(community, gate.entrance)
    assert await state() == [("terminal_silent", gate.name, "back_again")]
    await goes_silent(community, source())
    assert len(await alarms(community)) == 1
