"""What the records of GA/T 1400 say: motor vehicles, and what is only kept. Pure.

Personal data (PIPL arts. 6, 19 and 28): of a person, a face or a cyclist only what an observation needs is kept, namely that a camera saw
one, when and where in the picture. The lists below name every field that passes; names, identity numbers, ethnicity, appearance and face
feature vectors are not on them, so neither is what a vendor adds tomorrow.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Final

from services.ingest import loose

OBJECTS_MAX = 500
_OBJECT_ID_LENGTH: Final = 48
_NOTIFICATION_ID_LENGTH: Final = 33
# SubImage types that show a face, in whatever record they come.
_FACE_PICTURE: Final = "11"
# Where the time is written in a basic object's id, after 20 digits of device and 2 of type.
_TIME_IN_ID: Final = slice(22, 36)


@dataclass(frozen=True, slots=True)
class RecordKind:
    """One kind of record: where it stands in a body, and what of it is kept."""

    # As `ObjectObserved.kind` calls it; "plate" for motor vehicles.
    name: str
    list_name: str
    object_name: str
    id_field: str
    id_length: int
    time_fields: Sequence[str]
    kept_fields: Sequence[str] = ()


_EVERY: Final = ("InfoKind", "SourceID", "DeviceID", "TollgateID", "LaneNo", "LeftTopX", "LeftTopY", "RightBtmX", "RightBtmY")
MOTOR_VEHICLE: Final = RecordKind(
    "plate", "MotorVehicleListObject", "MotorVehicleObject", "MotorVehicleID", _OBJECT_ID_LENGTH, ("PassTime", "AppearTime", "MarkTime")
)
FACE: Final = RecordKind(
    "face", "FaceListObject", "FaceObject", "FaceID", _OBJECT_ID_LENGTH, ("FaceAppearTime", "LocationMarkTime", "ShotTime"), _EVERY
)
PERSON: Final = RecordKind(
    "person", "PersonListObject", "PersonObject", "PersonID", _OBJECT_ID_LENGTH, ("PersonAppearTime", "LocationMarkTime"), _EVERY
)
NON_MOTOR_VEHICLE: Final = RecordKind(
    "non_motor_vehicle",
    "NonMotorVehicleListObject",
    "NonMotorVehicleObject",
    "NonMotorVehicleID",
    _OBJECT_ID_LENGTH,
    ("PassTime", "AppearTime", "MarkTime"),
    (*_EVERY, "HasPlate", "PlateClass", "PlateColor", "PlateNo", "Speed", "Direction"),
)
NOTIFICATION: Final = RecordKind(
    "notification",
    "SubscribeNotificationListObject",
    "SubscribeNotificationObject",
    "NotificationID",
    _NOTIFICATION_ID_LENGTH,
    ("TriggerTime",),
    ("SubscribeID", "TriggerTime"),
)
# What a notification carries inside.
NESTED: Final = {
    "MotorVehicleObjectList": MOTOR_VEHICLE,
    "FaceObjectList": FACE,
    "PersonObjectList": PERSON,
    "NonMotorVehicleObjectList": NON_MOTOR_VEHICLE,
}


@dataclass(frozen=True, slots=True)
class Record:
    """What every record has."""

    kind: RecordKind
    # As the device wrote it, for the answer.
    given_id: str
    # The device's own id, or what identifies the record in its place.
    identity: tuple[str, ...]
    is_irregular: bool
    # None when the device does not say, or its clock was never set.
    occurred_at: datetime | None
    # Base64.
    pictures: Sequence[str]
    fields: Mapping[str, Any]


def objects(body: Mapping[str, Any], kind: RecordKind) -> Sequence[object]:
    """The objects of a body; some devices send a single one without a list. Raises Unusable."""
    return _listed(loose.needed(body, kind.list_name, ""), kind.object_name, f"{kind.list_name}.{kind.object_name}")


def nested(notification: object) -> Sequence[tuple[RecordKind, object]]:
    """The records that a notification carries. Raises Unusable."""
    found: list[tuple[RecordKind, object]] = []
    if not isinstance(notification, dict):
        return found
    for name, kind in NESTED.items():
        inner = notification.get(name)
        if isinstance(inner, dict) and kind.object_name in inner:
            found += [(kind, item) for item in _listed(inner, kind.object_name, name)]
    return found


def _listed(container: Mapping[str, Any], name: str, path: str) -> Sequence[object]:
    value = container.get(name)
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list) or len(value) > OBJECTS_MAX:
        raise loose.Unusable(path)
    return value


def read(item: object, kind: RecordKind, device_id: str, zone: tzinfo, *, keep_face_pictures: bool) -> Record:
    """Reads one object that `device_id` sent. Raises Unusable when it is none."""
    if not isinstance(item, dict):
        raise loose.Unusable(kind.object_name)
    given_id = loose.text(item.get(kind.id_field))
    images = _images(item)
    occurred_at = _time(item, kind, images, given_id, zone)
    if not given_id and occurred_at is None:
        raise loose.Unusable(kind.id_field)
    is_irregular = not _is_regular(given_id, loose.text(item.get("DeviceID")) or device_id, kind)
    return Record(
        kind=kind,
        given_id=given_id,
        # An unusable id may be the same in every record, so the content tells them apart; sent again, it is the same.
        identity=(given_id, _fingerprint(item)) if is_irregular else (given_id,),
        is_irregular=is_irregular,
        occurred_at=occurred_at,
        pictures=[_data(i) for i in images if _data(i) and (keep_face_pictures or not _shows_face(i, kind))],
        fields=item,
    )


def _is_regular(given_id: str, device_id: str, kind: RecordKind) -> bool:
    if len(given_id) != kind.id_length or not (given_id.isascii() and given_id.isalnum()):
        return False
    return kind is NOTIFICATION or given_id.startswith(device_id)


def _time(item: Mapping[str, Any], kind: RecordKind, images: Sequence[Mapping[str, Any]], given_id: str, zone: tzinfo) -> datetime | None:
    written = [item.get(name) for name in kind.time_fields] + [image.get("ShotTime") for image in images]
    if len(given_id) == _OBJECT_ID_LENGTH:
        written.append(given_id[_TIME_IN_ID])
    return next((at for value in written if (at := loose.time(value, zone)) is not None), None)


def _images(item: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    container = item.get("SubImageList")
    listed = container.get("SubImageInfoObject") if isinstance(container, dict) else None
    candidates = listed if isinstance(listed, list) else [listed]
    return [image for image in candidates if isinstance(image, dict)]


def _data(image: Mapping[str, Any]) -> str:
    data = image.get("Data")
    return data if isinstance(data, str) else ""


def _shows_face(image: Mapping[str, Any], kind: RecordKind) -> bool:
    return kind is FACE or loose.text(image.get("Type")) == _FACE_PICTURE


def _fingerprint(item: Mapping[str, Any]) -> str:
    """The same for the same content, however often it is sent; pictures do not count."""
    bare = {name: value for name, value in item.items() if name != "SubImageList"}
    try:
        return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()
    except (ValueError, RecursionError):  # Numbers of thousands of digits, and nesting without end.
        raise loose.Unusable("") from None


def record_json(record: Record) -> str:
    """What is kept of a record, as JSON."""
    kept = {name: value for name in record.kind.kept_fields if (value := loose.text(record.fields.get(name)))}
    return json.dumps({record.kind.id_field: record.given_id, **kept}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Vehicle:
    """What a motor vehicle's record says of its plate."""

    plate: str
    colour: str
    plate_class: str
    # 0 to 100; -1 when the camera does not say.
    confidence: int
    lane_number: int


def vehicle(record: Record) -> Vehicle:
    """The plate in a motor vehicle's record; it is unread when the camera says that there is none."""
    fields = record.fields
    has_plate = loose.flag(fields.get("HasPlate"), True)
    return Vehicle(
        plate=loose.plate(fields.get("PlateNo")) if has_plate else "",
        colour=loose.text(fields.get("PlateColor"))[:8],
        plate_class=loose.text(fields.get("PlateClass"))[:8],
        confidence=loose.integer(fields.get("PlateReliability"), -1, least=0, most=100),
        lane_number=loose.integer(fields.get("LaneNo"), 0, least=0),
    )
