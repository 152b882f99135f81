"""What access does when it hears what devices observed, who is silent, and what became of work orders.

Devices may say anything: what is no time, no id and no text is made into one that can be kept, or left out.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from linli.device.v1.events_pb2 import DeviceOffline, DeviceOnline, ObjectObserved, ObservationMade
from linli.workorders.v1.events_pb2 import WorkOrderChanged
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.identifiers import derived_id, parse_id
from servicekit.times import to_datetime_or
from services.access import alarm_operations, alarm_store, care_operations, watch_store
from services.access.alarm_operations import Order
from services.access.alarm_rules import INTRUSION
from services.access.alarms import Observation
from services.access.areas import Position, is_position
from services.access.care import ACTIVITY, POSITION, Sign

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,300}")
_TRACK_LENGTH_MAX: Final = 64
# Whom a camera reports of itself.
_PERSONS: Final = frozenset({"person", "face"})
_DONE: Final = frozenset({"done", "confirmed"})
_ORIGIN: Final = "access"


async def judge_on_observation_made(tx: Transaction, events: Sequence[Received[ObservationMade]]) -> None:
    """Care first: what the sensors at somebody's home tell of activity and place is for nothing else."""
    cared = await care_operations.hear(tx, [_sign(event) for event in events])
    private = ACTIVITY | {POSITION}
    seen = [_observation(event) for event in events]
    seen = [each for each in seen if not (each.kind in private and (each.community_id, each.source_id) in cared)]
    await alarm_operations.observe(tx, await _placed(tx, seen))


def _sign(event: Received[ObservationMade]) -> Sign:
    said = event.message
    has_position = said.HasField("latitude") and said.HasField("longitude") and is_position(said.latitude, said.longitude)
    return Sign(
        community_id=event.community_id,
        source_id=_source(said),
        device_id=said.device_id,
        kind=said.kind,
        at=_occurred_at(said.occurred_at, said.received_at, event.occurred_at),
        position=Position(said.latitude, said.longitude) if has_position else None,
    )


def _observation(event: Received[ObservationMade]) -> Observation:
    said = event.message
    return Observation(
        observation_id=derived_id("observation", str(event.community_id), said.device_id, said.record_id),
        community_id=event.community_id,
        kind=said.kind,
        source_id=_source(said),
        occurred_at=_occurred_at(said.occurred_at, said.received_at, event.occurred_at),
        track_id=_track(said.track_id),
        confidence_permille=said.confidence_permille,
        image_keys=_keys(said.image_keys),
    )


def _source(said: ObservationMade) -> str:
    return said.source_id if _ID.fullmatch(said.source_id) else said.device_id


async def _placed(tx: Transaction, seen: Sequence[Observation]) -> list[Observation]:
    """With the places that are known; a camera that is out of use has seen nothing."""
    points = await watch_store.find_watch_points(tx, {(each.community_id, each.source_id) for each in seen})
    found = [(each, points.get((each.community_id, each.source_id))) for each in seen]
    return [each if point is None else each.placed(point.name, point.zone_id) for each, point in found if point is None or point.in_use]


async def judge_persons_on_object_observed(tx: Transaction, events: Sequence[Received[ObjectObserved]]) -> None:
    """A person before a camera that has a place may be an intruder."""
    persons = [event for event in events if event.message.kind in _PERSONS]
    points = await watch_store.find_watch_points(tx, {(event.community_id, event.message.device_id) for event in persons})
    seen = [
        Observation(
            observation_id=derived_id("object", str(event.community_id), event.message.device_id, event.message.record_id),
            community_id=event.community_id,
            kind=INTRUSION,
            source_id=event.message.device_id,
            occurred_at=_occurred_at(event.message.occurred_at, event.message.received_at, event.occurred_at),
            image_keys=_keys(event.message.image_keys),
            is_judged=False,
        )
        for event in persons
        if (event.community_id, event.message.device_id) in points
    ]
    await alarm_operations.observe(tx, await _placed(tx, seen))


def _occurred_at(said: Timestamp, received: Timestamp, published_at: datetime) -> datetime:
    """A clock that is none, or goes ahead, is not believed."""
    received_at = to_datetime_or(received, published_at)
    return min(to_datetime_or(said, received_at), received_at)


def _track(track_id: str) -> str:
    """A track that cannot be kept goes by its digest."""
    if len(track_id) <= _TRACK_LENGTH_MAX and "\0" not in track_id:
        return track_id
    return hashlib.blake2b(track_id.encode(), digest_size=16).hexdigest()


def _keys(image_keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(key for key in image_keys if _KEY.fullmatch(key))


async def note_silence_on_device_offline(tx: Transaction, event: Received[DeviceOffline]) -> None:
    """A terminal that is silent is an alarm; sensors that are silent say nothing of a person."""
    device_id = event.message.device_id
    if await alarm_store.remember_status(tx, device_id, event.occurred_at, event.version):
        await care_operations.note_silence(tx, device_id)
        await alarm_operations.note_silence(tx, device_id, str(event.version))


async def note_return_on_device_online(tx: Transaction, event: Received[DeviceOnline]) -> None:
    """What is heard again is no alarm any more."""
    device_id = event.message.device_id
    if await alarm_store.remember_status(tx, device_id, None, event.version):
        await care_operations.note_return(tx, device_id)
        await alarm_operations.note_return(tx, device_id)


async def follow_order_on_work_order_changed(tx: Transaction, event: Received[WorkOrderChanged]) -> None:
    """An alarm follows the order that it became."""
    order = event.message
    alarm_id = parse_id(order.origin_id) if order.origin == _ORIGIN else None
    if alarm_id is not None:
        is_done = order.closed and order.state in _DONE
        technician: UUID | None = parse_id(order.technician_account_id)
        await alarm_operations.follow_order(tx, alarm_id, Order(order.order_id, event.version, technician, is_done, order.cause))
