"""Builders for tests of alarms and care: what cameras and sensors tell, and what became of it."""

import itertools
from datetime import datetime
from typing import Any
from uuid import UUID

from linli.access.v1 import alarms_pb2 as pb
from linli.device.v1.events_pb2 import DeviceOffline, DeviceOnline, ObservationMade
from linli.notification.v1.events_pb2 import Notified
from servicekit.times import to_timestamp
from tests.access.arrange import Community
from tests.support import eventually

_numbers = itertools.count(1)


def source() -> str:
    """A camera or sensor of a test's own."""
    return f"source-{next(_numbers)}"


def observation(source_id: str, at: datetime, kind: str = "intrusion", **changes: Any) -> ObservationMade:
    """What a source told at an instant by its own clock, and was heard at once."""
    at_message = to_timestamp(at)
    fields = {
        "device_id": source_id,
        "record_id": f"record-{next(_numbers)}",
        "source_id": source_id,
        "kind": kind,
        "confidence_permille": -1,
        "occurred_at": at_message,
        "received_at": at_message,
    }
    return ObservationMade(**{**fields, **changes})


async def watch_point(
    community: Community, source_id: str = "", zone_id: str = "", kind: Any = pb.WATCH_POINT_KIND_CAMERA
) -> pb.WatchPoint:
    """A camera, or sensor, that has a place."""
    zone_id, source_id = zone_id or await community.zone(), source_id or source()
    request = pb.CreateWatchPointRequest(source_id=source_id, name=f"监控{next(_numbers)}", kind=kind, zone_id=zone_id)
    return await community.call("CreateWatchPoint", request)  # type: ignore[no-any-return]


async def alarms(community: Community, **asked: Any) -> list[pb.Alarm]:
    """The community's alarms, newest first."""
    return list((await community.call("ListAlarms", pb.ListAlarmsRequest(**asked, page_size=100))).alarms)


async def alarm(community: Community, source_id: str, observations: int = 1, **asked: Any) -> pb.Alarm:
    """The one alarm of a source, when so many observations belong to it."""

    async def found() -> pb.Alarm | None:
        its = await alarms(community, source_id=source_id, **asked)
        assert len(its) <= 1
        return its[0] if its and its[0].observations >= observations else None

    one = await eventually(found, f"an alarm of {source_id} with {observations} observations")
    assert one is not None
    return one


async def set_rule(community: Community, kind: str, **changes: Any) -> pb.AlarmRule:
    """A rule for a kind; armed always and everywhere unless told."""
    fields = {"kind": kind, "enabled": True, "severity": 3, "window_s": 60}
    return await community.call("SetAlarmRule", pb.SetAlarmRuleRequest(**{**fields, **changes}))  # type: ignore[no-any-return]


def messages(community: Community, account_id: UUID | str, kind: str = "access.alarm_raised") -> list[Notified]:
    """What somebody was told so far."""
    told = [event.message for event in community.running.events(Notified)]
    return [each for each in told if each.account_id == str(account_id) and each.kind == kind]


async def is_told(community: Community, account_id: UUID | str, times: int = 1, kind: str = "access.alarm_raised") -> Notified:
    """What somebody was told last, when they were told so often; never more."""

    async def found() -> Notified | None:
        told = messages(community, account_id, kind)
        assert len(told) <= times
        return told[-1] if len(told) == times else None

    last = await eventually(found, f"{account_id} told {times} times")
    assert last is not None
    return last


async def pass_time(community: Community, **duration: float) -> None:
    """Moves the clock, and waits until no timer of the community is due."""
    community.clock.advance(**duration)
    until = community.clock.now

    async def is_quiet() -> bool:
        sql = "SELECT max(attempts) FROM timers WHERE community_id = $1 AND due_at <= $2"
        attempts = await community.value(sql, community.community_id, until)
        if attempts:
            community.clock.advance(seconds=1)  # It gave way to somebody, and is tried again then.
        return attempts is None

    await eventually(is_quiet, "every timer that was due")


_versions = itertools.count(1)


async def goes_silent(community: Community, device_id: str) -> None:
    """A device is not heard any more."""
    version = next(_versions)
    await community.publish(DeviceOffline(device_id=device_id), version=version, occurred_at=community.clock.now)
    await _status_known(community, device_id, version)


async def is_back(community: Community, device_id: str) -> None:
    """A device is heard again."""
    version = next(_versions)
    await community.publish(DeviceOnline(device_id=device_id), version=version, occurred_at=community.clock.now)
    await _status_known(community, device_id, version)


async def _status_known(community: Community, device_id: str, version: int) -> None:
    async def known() -> bool:
        sql = "SELECT EXISTS (SELECT FROM device_statuses WHERE device_id = $1 AND version = $2)"
        return bool(await community.value(sql, device_id, version))

    await eventually(known, f"the status of {device_id}")
