"""What bins tell of themselves: how full they are, when they are emptied, and the alarms that come and go."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from linli.device.v1.events_pb2 import BinReported, DeviceOffline, DeviceOnline
from linli.waste.v1 import waste_pb2 as pb
from linli.waste.v1.events_pb2 import (
    ALARM_KIND_CLOCK,
    ALARM_KIND_FIRE,
    ALARM_KIND_FULL,
    ALARM_KIND_SILENT,
    AlarmKind,
    BinAlarmCleared,
    BinAlarmRaised,
)
from servicekit.errors import Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.support import eventually
from tests.waste.arrange import NOON, Community, SmartBin

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def kinds(community: Community) -> list[tuple[AlarmKind.ValueType, str]]:
    """What is wrong, the newest first."""
    return [(alarm.kind, alarm.compartment) for alarm in await community.alarms()]


async def rows(community: Community, sql: str) -> list[Any]:
    """What is kept for forecasts, which no method shows."""
    async with community.town.running.transaction("waste", community.community_id) as tx:
        return [tuple(row) for row in await tx.fetch(sql)]


async def test_fill_is_the_newest_that_the_bin_said_in_a_deposit_or_a_report(community: Community, smart_bin: SmartBin) -> None:
    assert (await smart_bin.compartment("kitchen")).fill_permille == -1
    await smart_bin.weighs(compartment="kitchen", fill=400)
    community.clock.advance(minutes=10)
    await smart_bin.reports({"kitchen": 430, "other": 10, "attic": 5})
    await smart_bin.weighs(compartment="kitchen", fill=410, at=NOON + timedelta(minutes=5))
    await smart_bin.weighs(compartment="kitchen", fill=-7)
    await smart_bin.weighs(compartment="hazardous", fill=2_000_000_000)
    assert [(each.name, each.fill_permille) for each in (await smart_bin.look()).compartments] == [
        ("hazardous", 1000),
        ("kitchen", 430),
        ("other", 10),
        ("recyclable", -1),
    ]
    # What came late is in the history, at its own time; what did not change is not.
    community.clock.advance(minutes=10)
    await smart_bin.reports({"kitchen": 430})
    assert await rows(community, "SELECT at, fill_permille FROM fill_levels WHERE compartment = 'kitchen' ORDER BY at") == [
        (NOON, 400),
        (NOON + timedelta(minutes=5), 410),
        (NOON + timedelta(minutes=10), 430),
    ]


async def test_a_full_compartment_raises_one_alarm_until_there_is_room_again(community: Community, smart_bin: SmartBin) -> None:
    for permille in (899, 900, 950):
        community.clock.advance(minutes=1)
        await smart_bin.reports({"kitchen": permille, "other": 100})
    raised = (await community.event(BinAlarmRaised, bin_id=smart_bin.bin_id)).message
    assert (raised.kind, raised.compartment) == (ALARM_KIND_FULL, "kitchen")
    assert raised.raised_at.ToDatetime(UTC) == NOON + timedelta(minutes=2)
    for permille in (899, 700):
        community.clock.advance(minutes=1)
        await smart_bin.reports({"kitchen": permille})
        assert await kinds(community) == [(ALARM_KIND_FULL, "kitchen")]
    community.clock.advance(minutes=1)
    await smart_bin.weighs(compartment="kitchen", fill=699)
    cleared = (await community.event(BinAlarmCleared, alarm_id=raised.alarm_id)).message
    assert cleared.cleared_at.ToDatetime(UTC) == NOON + timedelta(minutes=6)
    assert await kinds(community) == []
    (alarm,) = (await community.call("ListBinAlarms", pb.ListBinAlarmsRequest())).alarms
    assert alarm.cleared_at == cleared.cleared_at
    told = [event for event in community.town.running.events(BinAlarmRaised) if event.message.bin_id == smart_bin.bin_id]
    assert [event.version for event in told] == [1]


async def test_a_bin_burns_while_it_smells_smoke_or_is_hot(community: Community, smart_bin: SmartBin) -> None:
    await smart_bin.reports(temperature_c=69)
    assert await kinds(community) == []
    # One that is about as hot as a fire makes it does not burn anew with each report.
    for smoke, temperature_c in ((False, 70), (False, 69), (False, 60), (False, 71), (True, 20), (True, None)):
        community.clock.advance(seconds=30)
        await smart_bin.reports(smoke=smoke, temperature_c=temperature_c)
        assert await kinds(community) == [(ALARM_KIND_FIRE, "")]
    community.clock.advance(seconds=30)
    await smart_bin.weighs()
    assert await kinds(community) == [(ALARM_KIND_FIRE, "")]
    community.clock.advance(seconds=30)
    await smart_bin.reports()
    assert await kinds(community) == []
    told = [event.message for event in community.town.running.events(BinAlarmRaised) if event.message.bin_id == smart_bin.bin_id]
    assert len(told) == 1


async def test_what_a_deposit_without_a_right_date_says_of_the_fill_is_not_believed(community: Community, smart_bin: SmartBin) -> None:
    await smart_bin.reports({"kitchen": 850})
    # Sent again by a bin that has lost its clock: nobody knows when it was that empty, or that full.
    for fill in (0, 1000):
        stale = smart_bin.weighing(compartment="kitchen", fill=fill)
        stale.occurred_at.FromDatetime(datetime(1970, 1, 1, 0, fill % 7, tzinfo=UTC))
        assert (await smart_bin.sends(stale)).concern == "clock_wrong"
    assert (await smart_bin.compartment("kitchen")).fill_permille == 850
    assert await kinds(community) == []
    assert await rows(community, "SELECT * FROM emptyings") == []


async def test_a_report_that_comes_late_says_nothing(community: Community, smart_bin: SmartBin) -> None:
    await smart_bin.reports({"kitchen": 100})
    late = BinReported(device_id=smart_bin.device_id, fill_permille={"kitchen": 950}, smoke=True)
    late.occurred_at.FromDatetime(NOON - timedelta(minutes=1))
    late.received_at.FromDatetime(NOON - timedelta(minutes=1))
    await community.publish(late)
    community.clock.advance(seconds=30)
    await smart_bin.reports({"other": 10})
    assert (await smart_bin.compartment("kitchen")).fill_permille == 100
    assert [event for event in community.town.running.events(BinAlarmRaised) if event.message.bin_id == smart_bin.bin_id] == []


async def test_a_clock_that_is_wrong_by_more_than_five_minutes_raises_an_alarm_until_it_is_right(
    community: Community, smart_bin: SmartBin
) -> None:
    for ahead_s, is_wrong in ((299, False), (-301, True), (250, True), (-239, False)):
        community.clock.advance(seconds=30)
        smart_bin.ahead = timedelta(seconds=ahead_s)
        await smart_bin.reports()
        assert await kinds(community) == ([(ALARM_KIND_CLOCK, "")] if is_wrong else [])


async def test_a_bin_that_falls_silent_raises_an_alarm_until_it_is_heard_in_whatever_order_that_is_told(
    community: Community, smart_bin: SmartBin
) -> None:
    device_id = smart_bin.device_id
    await community.publish(DeviceOnline(device_id=device_id), version=2)
    await community.publish(DeviceOffline(device_id=device_id), version=3, occurred_at=NOON)
    raised = (await community.event(BinAlarmRaised, bin_id=smart_bin.bin_id)).message
    assert (raised.kind, raised.raised_at.ToDatetime(UTC)) == (ALARM_KIND_SILENT, NOON)
    await community.publish(DeviceOnline(device_id=device_id), version=4, occurred_at=NOON + timedelta(minutes=1))
    await community.event(BinAlarmCleared, alarm_id=raised.alarm_id)
    # Heard again, and only then told that it had been silent.
    await community.publish(DeviceOnline(device_id=device_id), version=6)

    async def is_noted() -> bool:
        return await rows(community, "SELECT status_version FROM bins") == [(6,)]

    await eventually(is_noted)
    await community.publish(DeviceOffline(device_id=device_id), version=5)
    await community.publish(DeviceOffline(device_id="a-camera"), version=1)
    other = await community.bin()
    await community.publish(DeviceOffline(device_id=other.device_id), version=1)
    await community.event(BinAlarmRaised, bin_id=other.bin_id)
    assert [(alarm.kind, alarm.bin_id) for alarm in await community.alarms()] == [(ALARM_KIND_SILENT, other.bin_id)]


async def test_a_bin_that_is_taken_out_of_use_needs_nobody_unless_it_burns(community: Community, smart_bin: SmartBin) -> None:
    await smart_bin.reports({"kitchen": 950})
    assert await kinds(community) == [(ALARM_KIND_FULL, "kitchen")]
    changed = await community.call("UpdateBin", pb.UpdateBinRequest(bin_id=smart_bin.bin_id, in_use=False))
    assert not changed.in_use
    assert list(changed.alarms) == []
    community.clock.advance(seconds=30)
    await smart_bin.reports({"kitchen": 990}, smoke=True)
    assert await kinds(community) == [(ALARM_KIND_FIRE, "")]


async def test_a_bin_that_was_silent_while_it_was_out_of_use_is_silent_when_it_is_taken_up_again(
    community: Community, smart_bin: SmartBin
) -> None:
    async def take(in_use: bool) -> list[AlarmKind.ValueType]:
        changed = await community.call("UpdateBin", pb.UpdateBinRequest(bin_id=smart_bin.bin_id, in_use=in_use))
        return [alarm.kind for alarm in changed.alarms]

    await community.publish(DeviceOffline(device_id=smart_bin.device_id), version=1)
    await community.event(BinAlarmRaised, bin_id=smart_bin.bin_id)
    assert await take(False) == []
    community.clock.advance(hours=1)
    assert await take(True) == [ALARM_KIND_SILENT]
    assert await take(True) == [ALARM_KIND_SILENT]
    assert await take(False) == []
    await community.publish(DeviceOnline(device_id=smart_bin.device_id), version=2)

    async def is_heard() -> bool:
        return await rows(community, "SELECT status_version FROM bins") == [(2,)]

    await eventually(is_heard)
    assert await take(True) == []


async def test_an_emptying_is_seen_when_the_fill_falls_far_and_one_that_is_recorded_is_the_same(
    community: Community, smart_bin: SmartBin
) -> None:
    await smart_bin.reports({"kitchen": 950, "other": 400, "recyclable": 250})
    community.clock.advance(minutes=1)
    await smart_bin.reports({"kitchen": 120, "other": 201, "recyclable": 0})
    community.clock.advance(minutes=2)
    request = pb.RecordEmptyingRequest(bin_id=smart_bin.bin_id, compartments=["kitchen", "other"])
    found = await community.call("RecordEmptying", request)
    assert [(each.name, each.fill_permille) for each in found.compartments if each.emptied_at.seconds] == [("kitchen", 0), ("other", 0)]
    community.clock.advance(minutes=1)
    await smart_bin.reports({"kitchen": 110, "other": 30})
    assert await rows(community, "SELECT compartment, emptied_at, source FROM emptyings ORDER BY emptied_at") == [
        ("kitchen", NOON + timedelta(minutes=1), "seen"),
        ("other", NOON + timedelta(minutes=3), "recorded"),
    ]
    assert await kinds(community) == []
    with pytest.raises(Invalid, match=r"waste\.compartment_unknown"):
        await community.call("RecordEmptying", pb.RecordEmptyingRequest(bin_id=smart_bin.bin_id, compartments=["attic"]))
    with pytest.raises(NotFound, match=r"waste\.bin_unknown"):
        await community.call("RecordEmptying", pb.RecordEmptyingRequest(bin_id=str(new_id())))


async def test_reports_that_wait_together_are_taken_in_as_one_after_the_other(community: Community) -> None:
    bins = [await community.bin() for _ in range(3)]
    for nth in range(20):
        for each in bins:
            at = to_timestamp(NOON + timedelta(seconds=30 * nth))
            await community.publish(
                BinReported(device_id=each.device_id, fill_permille={"other": 50 * nth}, occurred_at=at, received_at=at)
            )

    async def all_are_heard() -> bool:
        return [(await each.compartment("other")).fill_permille for each in bins] == [950] * 3

    await eventually(all_are_heard)
    assert await kinds(community) == [(ALARM_KIND_FULL, "other")] * 3
    counts = await rows(community, "SELECT count(*) FROM fill_levels GROUP BY bin_id")
    assert counts == [(20,)] * 3
    # One clock that is right makes one stretch.
    assert (
        await rows(community, "SELECT heard_from, heard_until FROM clock_stretches")
        == [(NOON, NOON + timedelta(minutes=9, seconds=30))] * 3
    )
