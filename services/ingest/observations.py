"""What a sensor or a camera's analytics noticed, as JSON over MQTT or HTTP. Pure. `docs/devices/sensors.md` is for their makers.

What it means, and whether it is an alarm, is access's to judge: only what names no kind, or could be any record, is unusable.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from linli.device.v1.events_pb2 import ObservationMade
from servicekit.identifiers import derived_id
from services.ingest import loose
from services.ingest.devices import DEVICE_ID, Kind, KnownDevice

POSITION: Final = "position"
_KIND: Final = re.compile(r"[a-z0-9_]{2,50}", re.ASCII)


def read_observation(known: KnownDevice, said: Mapping[str, Any], received_at: datetime) -> tuple[UUID, ObservationMade]:
    """An observation, and the event's id. Raises Unusable.

    The id is made of what was said: the same record sent again is the same event, and one that differs is its own, for a device that
    began to count anew must not lose an alarm.
    """
    observation = ObservationMade(
        device_id=known.device_id,
        source_id=_camera(known, said) or known.device_id,
        kind=_kind(said),
        track_id=loose.field_text(said, "track"),
        confidence_permille=_permille(said.get("confidence")),
    )
    place = _place(said)
    if place is not None:
        observation.latitude, observation.longitude = place
    elif observation.kind == POSITION:
        raise loose.Unusable("lat")
    at = loose.time(said.get("at"), known.zone)
    if at is not None:
        observation.occurred_at.FromDatetime(at)
    if at is None or said.get("id") is not None:
        # Without either it could be any.
        observation.record_id = loose.record_id(said)
    event_id = derived_id("observation", observation.SerializeToString(deterministic=True).hex())
    observation.record_id = observation.record_id or str(event_id)
    observation.occurred_at.FromDatetime(at or received_at)
    observation.received_at.FromDatetime(received_at)
    return event_id, observation


def _camera(known: KnownDevice, said: Mapping[str, Any]) -> str:
    """The camera that saw it. Only an edge box speaks for others."""
    camera = loose.field_text(said, "camera") if known.kind == Kind.EDGE_BOX else ""
    if camera and not DEVICE_ID.fullmatch(camera):
        raise loose.Unusable("camera")
    return camera


def _kind(said: Mapping[str, Any]) -> str:
    kind = loose.field_text(said, "kind").lower()
    if not _KIND.fullmatch(kind):
        raise loose.Unusable("kind")
    return kind


def _permille(confidence: object) -> int:
    share = loose.number(confidence)
    return -1 if share is None or not 0 <= share <= 1 else round(1000 * share)


def _place(said: Mapping[str, Any]) -> tuple[float, float] | None:
    latitude, longitude = loose.number(said.get("lat")), loose.number(said.get("lon"))
    if latitude is None or longitude is None or not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    return float(latitude), float(longitude)
