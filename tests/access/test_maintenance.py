"""Where cameras and sensors are, and work there that explains what they see."""

from datetime import timedelta

import pytest

from linli.access.v1 import alarms_pb2 as pb
from servicekit.errors import Conflict, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.access.alarming import alarm, alarms, goes_silent, is_back, observation, pass_time, source, watch_point
from tests.access.arrange import Community
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def plan(community: Community, zone_id: str, hours: float = 1, **changes: object) -> pb.Maintenance:
    """A maintenance from now on."""
    request = pb.PlanMaintenanceRequest(zone_id=zone_id, reason="粉刷墙面", **changes)  # type: ignore[arg-type]
    request.ends_at.CopyFrom(to_timestamp(community.clock.now + timedelta(hours=hours)))  # type: ignore[arg-type]
    return await community.call("PlanMaintenance", request)  # type: ignore[no-any-return]


async def planned(community: Community) -> list[pb.Maintenance]:
    return list((await community.call("ListMaintenances", pb.ListMaintenancesRequest())).maintenances)


async def suppressed(community: Community, number: int) -> None:
    async def counted() -> bool:
        return sum(each.suppressed for each in await planned(community)) == number

    await eventually(counted, f"{number} observations that maintenance explains")


async def test_what_is_seen_during_maintenance_is_counted_and_raises_nothing_except_fire_and_calls_for_help(community: Community) -> None:
    point, other = await watch_point(community), await watch_point(community)
    await plan(community, point.zone_id)
    seen = [observation(point.source_id, community.clock.now + timedelta(minutes=minute)) for minute in range(20)]
    for each in [*seen, *seen[:5]]:
        await community.publish(each)
    await suppressed(community, 20)
    assert not await alarms(community)
    for kind in ("smoke", "sos"):
        await community.publish(observation(point.source_id, community.clock.now, kind))
    await community.publish(observation(other.source_id, community.clock.now))

    async def three() -> bool:
        return {each.kind for each in await alarms(community)} == {"smoke", "sos", "intrusion"}

    await eventually(three)
    await suppressed(community, 20)


async def test_maintenance_of_one_camera_leaves_the_others_armed_and_ends_when_it_ends(community: Community) -> None:
    zone_id = await community.zone()
    one, other = await watch_point(community, zone_id=zone_id), await watch_point(community, zone_id=zone_id)
    await plan(community, zone_id, source_id=one.source_id)
    await community.publish(observation(one.source_id, community.clock.now))
    await community.publish(observation(other.source_id, community.clock.now))
    await alarm(community, other.source_id)
    await suppressed(community, 1)
    after = community.clock.now + timedelta(hours=1)
    await community.publish(observation(one.source_id, after))
    assert (await alarm(community, one.source_id)).raised_at == to_timestamp(after)


async def test_maintenance_is_ended_early_and_only_once(community: Community) -> None:
    point = await watch_point(community)
    maintenance = await plan(community, point.zone_id)
    community.clock.advance(minutes=10)
    request = pb.EndMaintenanceRequest(maintenance_id=maintenance.maintenance_id)
    ended = await community.call("EndMaintenance", request)
    assert ended.ends_at == to_timestamp(community.clock.now)
    with pytest.raises(Conflict, match=r"access\.maintenance_over"):
        await community.call("EndMaintenance", request)
    await community.publish(observation(point.source_id, community.clock.now))
    await alarm(community, point.source_id)


async def test_a_terminal_that_is_still_silent_when_the_work_is_done_is_an_alarm_then(community: Community) -> None:
    """Somebody may have forgotten to plug it in again."""
    left_off, back, elsewhere = await community.door(), await community.door(), await community.door()
    await goes_silent(community, elsewhere.entrance)
    for gate in (left_off, back):
        await plan(community, gate.zone_id)
        await goes_silent(community, gate.entrance)
    await suppressed(community, 2)
    await is_back(community, back.entrance)
    await plan(community, elsewhere.zone_id)
    assert [each.source_id for each in await alarms(community)] == [elsewhere.entrance]
    await pass_time(community, hours=1)
    assert {each.source_id for each in await alarms(community)} == {left_off.entrance, elsewhere.entrance}
    found = await alarm(community, left_off.entrance)
    assert (found.kind, found.place, found.door_id) == ("terminal_silent", left_off.name, left_off.door_id)
    await is_back(community, left_off.entrance)
    assert (await alarm(community, left_off.entrance)).cause == "back_again"


async def test_work_that_is_ended_early_no_longer_hides_a_silent_terminal(community: Community) -> None:
    gate = await community.door()
    maintenance = await plan(community, gate.zone_id, hours=24)
    await goes_silent(community, gate.entrance)
    await suppressed(community, 1)
    await community.call("EndMaintenance", pb.EndMaintenanceRequest(maintenance_id=maintenance.maintenance_id))
    await alarm(community, gate.entrance)


async def test_what_has_not_begun_never_will(community: Community) -> None:
    point = await watch_point(community)
    tomorrow = to_timestamp(community.clock.now + timedelta(days=1))
    maintenance = await plan(community, point.zone_id, hours=48, starts_at=tomorrow)
    ended = await community.call("EndMaintenance", pb.EndMaintenanceRequest(maintenance_id=maintenance.maintenance_id))
    assert ended.starts_at == ended.ends_at == tomorrow
    assert [each.maintenance_id for each in await planned(community)] == [maintenance.maintenance_id]


async def test_maintenance_has_a_time_and_a_place(community: Community) -> None:
    zone_id = await community.zone()
    for hours in (-1, 0, 14 * 24 + 1):
        with pytest.raises(Invalid, match=r"access\.maintenance_time"):
            await plan(community, zone_id, hours)
    with pytest.raises(NotFound, match=r"access\.zone_unknown"):
        await plan(community, str(new_id()))
    with pytest.raises(NotFound, match=r"access\.maintenance_unknown"):
        await community.call("EndMaintenance", pb.EndMaintenanceRequest(maintenance_id=str(new_id())))
    stranger = Community(community.town, new_id())
    with pytest.raises(NotFound, match=r"access\.zone_unknown"):
        await plan(stranger, zone_id)


async def test_a_camera_that_moves_tells_of_its_new_place_and_one_out_of_use_tells_nothing(community: Community) -> None:
    point, unused = await watch_point(community), await watch_point(community)
    yard = await community.zone()
    request = pb.UpdateWatchPointRequest(watch_point_id=point.watch_point_id, name="后院", zone_id=yard)
    moved = await community.call("UpdateWatchPoint", request)
    assert (moved.name, moved.zone_id, moved.in_use, moved.source_id) == ("后院", yard, True, point.source_id)
    unused = await community.call("UpdateWatchPoint", pb.UpdateWatchPointRequest(watch_point_id=unused.watch_point_id, in_use=False))
    assert not unused.in_use
    await community.publish(observation(unused.source_id, community.clock.now))
    await community.publish(observation(point.source_id, community.clock.now))
    found = await alarm(community, point.source_id)
    assert (found.place, found.zone_id) == ("后院", yard)
    assert len(await alarms(community)) == 1


async def test_watch_points_are_listed_by_name_and_a_source_has_one_place(community: Community) -> None:
    zone_id, taken = await community.zone(), source()
    names = sorted([(await watch_point(community, zone_id=zone_id)).name for _ in range(3)])
    await watch_point(community, taken)
    with pytest.raises(Conflict, match=r"access\.watch_point_exists"):
        await watch_point(community, taken)
    with pytest.raises(NotFound, match=r"access\.zone_unknown"):
        await watch_point(community, zone_id=str(new_id()))
    with pytest.raises(NotFound, match=r"access\.watch_point_unknown"):
        await community.call("UpdateWatchPoint", pb.UpdateWatchPointRequest(watch_point_id=str(new_id()), name="x"))
    listed, token = list[str](), ""
    while not listed or token:
        request = pb.ListWatchPointsRequest(zone_id=zone_id, page_size=2, page_token=token)
        answer = await community.call("ListWatchPoints", request)
        listed, token = [*listed, *(each.name for each in answer.watch_points)], answer.next_page_token
    assert listed == names
    assert len((await community.call("ListWatchPoints", pb.ListWatchPointsRequest())).watch_points) == 4
