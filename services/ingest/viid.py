"""GA/T 1400 (VIID): cameras and platforms that register with a digest and post what they saw.

After its registration a device names itself in a header and proves nothing, as the standard has it. It is believed as long as it speaks
from the address that it registered from and has not fallen silent; everything else is answered with a challenge. Devices that send a
digest with every request are checked every time. What the records say is in `viid_records`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any

from linli.device.v1.events_pb2 import ObjectObserved, PlateRead
from servicekit import telemetry
from servicekit.communities import DEFAULT_ZONE
from servicekit.errors import Exhausted, NotFound, ServiceError, Unauthenticated, Unavailable
from servicekit.identifiers import derived_id
from servicekit.sealing import SealBrokenError
from services.ingest import device_http, digest, loose, store, viid_records
from services.ingest.device_http import Answer, Handler, MethodNotAllowed, Request, Route, TooLarge, UnsupportedMedia, json_answer
from services.ingest.devices import Kind, KnownDevice
from services.ingest.intake import CAMERA_LIMIT, Intake, refused, within
from services.ingest.viid_records import FACE, MOTOR_VEHICLE, NON_MOTOR_VEHICLE, NOTIFICATION, PERSON, Record, RecordKind

BODY_BYTES_MAX = 8 * 1024 * 1024
_SMALL_BYTES_MAX = 64 * 1024
# Devices give up after five seconds.
_PUBLISH_S = 2.0
_PICTURE_S = 1.0
_MEDIA = (b"", b"application/viid+json", b"application/json", b"application/*+json")

OK, BUSY, BAD_OPERATION, BAD_FORMAT, BAD_CONTENT = 0, 2, 4, 7, 8
_TEXTS = {
    OK: "OK",
    BUSY: "Device Busy",
    BAD_OPERATION: "Invalid Operation",
    BAD_FORMAT: "Invalid JSON Format",
    BAD_CONTENT: "Invalid JSON Content",
}


class Challenged(Unauthenticated):
    """Whoever asks is to show who it is, with this nonce."""

    def __init__(self, nonce: str, *, stale: bool = False) -> None:
        error = refused()
        super().__init__(error.code, error.zh, error.en)
        self.header = digest.challenge(nonce, stale=stale)


class BadContent(Exception):
    """The JSON is well-formed and says nothing that can be used; `field` is where."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def routes(intake: Intake) -> Mapping[tuple[str, str], Route]:
    """The paths of the standard that devices use."""

    def route(handler: Handler) -> Route:
        return Route(partial(_checked, intake, handler), partial(_render, intake))

    return {
        ("POST", "/VIID/System/Register"): route(partial(_register, intake)),
        ("POST", "/VIID/System/UnRegister"): route(partial(_unregister, intake)),
        ("POST", "/VIID/System/Keepalive"): route(partial(_keep_alive, intake)),
        ("GET", "/VIID/System/Time"): route(partial(_tell_time, intake)),
        ("POST", "/VIID/MotorVehicles"): route(partial(_take_records, intake, MOTOR_VEHICLE)),
        ("POST", "/VIID/Faces"): route(partial(_take_records, intake, FACE)),
        ("POST", "/VIID/Persons"): route(partial(_take_records, intake, PERSON)),
        ("POST", "/VIID/NonMotorVehicles"): route(partial(_take_records, intake, NON_MOTOR_VEHICLE)),
        ("POST", "/VIID/SubscribeNotifications"): route(partial(_take_records, intake, NOTIFICATION)),
    }


# Answers.


def _status(
    intake: Intake, request: Request, code: int, identifier: str = "", known: KnownDevice | None = None, *, text: str = ""
) -> dict[str, Any]:
    return {
        "RequestURL": request.path,
        "StatusCode": code,
        "StatusString": text or _TEXTS[code],
        "Id": identifier,
        "LocalTime": _local_time(intake.clock(), known),
    }


def _local_time(now: datetime, known: KnownDevice | None) -> str:
    return now.astimezone(known.zone if known else DEFAULT_ZONE).strftime("%Y%m%d%H%M%S")


def _answer(value: dict[str, Any], http_status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    return replace(json_answer(value, http_status, headers), media=b"application/VIID+JSON;charset=utf-8")


def _single(status: dict[str, Any], http_status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    return _answer({"ResponseStatusObject": status}, http_status, headers)


async def _checked(intake: Intake, handler: Handler, request: Request) -> Answer:
    """Turns bad content into the standard's answer."""
    media = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media not in _MEDIA:
        raise UnsupportedMedia("ingest.media_type", "请使用 application/VIID+JSON", "Send application/VIID+JSON")
    try:
        return await handler(request)
    except BadContent as error:
        return _single(_status(intake, request, BAD_CONTENT, text=f"{_TEXTS[BAD_CONTENT]}: {error.field}"), 400)


def _render(intake: Intake, error: ServiceError, request: Request) -> Answer:
    if isinstance(error, Unauthenticated | NotFound | MethodNotAllowed):
        code = BAD_OPERATION
    elif isinstance(error, Exhausted | Unavailable):
        code = BUSY
    else:
        code = BAD_CONTENT if isinstance(error, TooLarge) else BAD_FORMAT
    headers = [(b"www-authenticate", error.header.encode())] if isinstance(error, Challenged) else []
    return _single(_status(intake, request, code, text=f"{_TEXTS[code]}: {error.code}"), error.http_status, headers)


# Who is asking.


async def _identified(intake: Intake, request: Request) -> KnownDevice:
    """The device that asks. Raises Challenged, the same for a stranger as for a wrong digest."""
    now = intake.clock()
    header = request.header(b"authorization")
    if header:
        return await _by_digest(intake, request, header)
    device_id = request.header(b"user-identify").strip()
    address = request.address

    def fits(known: KnownDevice) -> bool:
        return known.kind == Kind.VIID and not known.disabled and intake.registry.is_registered(known, address)

    known = await intake.registry.find_if(device_id, fits) if device_id else None
    if known is None:
        raise Challenged(intake.nonces.new(now))
    return known


async def _by_digest(intake: Intake, request: Request, header: str) -> KnownDevice:
    now = intake.clock()
    answer = digest.parse(header)
    if answer is None:
        raise Challenged(intake.nonces.new(now))

    def fits(known: KnownDevice) -> bool:
        try:
            key = intake.vault.digest_key(known.device_id, known.sealed_digest_key)
        except SealBrokenError as error:
            telemetry.log.error("credential_not_opened", error=str(error))
            return False
        return digest.is_right(answer, key, request.method, request.path) and known.kind == Kind.VIID and not known.disabled

    known = await intake.registry.find_if(answer.username, fits)
    named = request.header(b"user-identify").strip()
    if known is None or named not in ("", known.device_id):
        raise Challenged(intake.nonces.new(now))
    # Only who has the secret learns that the nonce was the matter.
    if not intake.nonces.is_fresh(answer.nonce, now):
        raise Challenged(intake.nonces.new(now), stale=True)
    registers = not intake.registry.is_registered(known, request.address)
    async with intake.database.transaction(known.community_id) as tx:
        is_first_use = await store.insert_digest_use(tx, answer.nonce, answer.count)
        if is_first_use and registers:
            await store.update_registration(tx, known.device_id, request.address)
    if not is_first_use:
        raise Challenged(intake.nonces.new(now), stale=True)
    if registers:
        intake.registry.forget(known.device_id)
    return known


# The system's part.


async def _register(intake: Intake, request: Request) -> Answer:
    if b"authorization" not in request.headers:
        raise Challenged(intake.nonces.new(intake.clock()))
    return await _system(intake, request, "RegisterObject")


async def _unregister(intake: Intake, request: Request) -> Answer:
    return await _system(intake, request, "UnRegisterObject")


async def _keep_alive(intake: Intake, request: Request) -> Answer:
    return await _system(intake, request, "KeepaliveObject")


async def _system(intake: Intake, request: Request, name: str) -> Answer:
    """Register, UnRegister and Keepalive: each names the device once more, in its body."""
    known = await _identified(intake, request)
    with intake.admitted(known, CAMERA_LIMIT):
        body = device_http.document(await request.body(_SMALL_BYTES_MAX))
        inner = body.get(name)
        if not isinstance(inner, dict):
            raise BadContent(name)
        if loose.text(inner.get("DeviceID")) not in ("", known.device_id):
            raise BadContent(f"{name}.DeviceID")
        if name == "UnRegisterObject":
            async with intake.database.transaction(known.community_id) as tx:
                await store.update_registration(tx, known.device_id, None)
            intake.registry.forget(known.device_id)
        return _single(_status(intake, request, OK, known.device_id, known))


async def _tell_time(intake: Intake, request: Request) -> Answer:
    known = await _identified(intake, request)
    with intake.admitted(known, CAMERA_LIMIT):
        now = intake.clock()
        time = {
            "VIIDServerID": intake.viid_server_id,
            "TimeMode": "1",
            "LocalTime": _local_time(now, known),
            "TimeZone": known.zone.key,
        }
        return _answer({"SystemTimeObject": time})


# Records.


async def _take_records(intake: Intake, kind: RecordKind, request: Request) -> Answer:
    """Publishes each record and answers with a status for each; with 503 when one could not be kept, so that the device sends all again."""
    known = await _identified(intake, request)
    with intake.admitted(known, CAMERA_LIMIT):
        groups = _groups(device_http.document(await request.body(BODY_BYTES_MAX)), kind)
        taken = await asyncio.gather(*(_take(intake, known, group) for group in groups))
        statuses = [_status(intake, request, code, identifier, known) for code, identifier in taken]
        busy = any(code == BUSY for code, _ in taken)
        body = {"ResponseStatusListObject": {"ResponseStatusObject": statuses}}
        return _answer(body, 503, [(b"retry-after", b"1")]) if busy else _answer(body)


_Group = Sequence[tuple[RecordKind, object]]


def _groups(body: Mapping[str, Any], kind: RecordKind) -> Sequence[_Group]:
    """Each object of a body, with the records that it carries inside."""
    try:
        items = viid_records.objects(body, kind)
        groups = [[(kind, item), *(viid_records.nested(item) if kind is NOTIFICATION else ())] for item in items]
    except loose.Unusable as error:
        raise BadContent(error.field) from None
    if sum(map(len, groups)) > viid_records.OBJECTS_MAX:
        raise BadContent(kind.list_name)
    return groups


async def _take(intake: Intake, known: KnownDevice, group: _Group) -> tuple[int, str]:
    """Publishes one object of a body and what it carries; answers with its status code and id."""
    records: list[Record | None] = []
    for kind, item in group:
        try:
            records.append(viid_records.read(item, kind, known.device_id, known.zone, keep_face_pictures=intake.keep_face_pictures))
        except loose.Unusable:
            records.append(None)
    codes = await asyncio.gather(*(_publish(intake, known, record) for record in records))
    worst = next(code for code in (BUSY, BAD_CONTENT, OK) if code in codes)
    return worst, records[0].given_id if records[0] else ""


async def _publish(intake: Intake, known: KnownDevice, record: Record | None) -> int:
    if record is None:
        return BAD_CONTENT
    if record.is_irregular:
        intake.registry.count_irregular(known.device_id)
    received_at, came_at = intake.clock(), monotonic()
    keys = await intake.images.keep(known.community_id, received_at, record.pictures, _PICTURE_S) if record.pictures else []
    record_id = str(derived_id(known.device_id, *record.identity)) if record.is_irregular else record.given_id
    observation: PlateRead | ObjectObserved
    if record.kind is MOTOR_VEHICLE:
        vehicle = viid_records.vehicle(record)
        if known.lane is not None:
            intake.decisions.ask((known.community_id, known.device_id, record_id), came_at)
        observation = PlateRead(
            device_id=known.device_id,
            record_id=record_id,
            plate=vehicle.plate,
            plate_colour=vehicle.colour,
            plate_class=vehicle.plate_class,
            confidence=vehicle.confidence,
            lane_number=vehicle.lane_number,
        )
    else:
        observation = ObjectObserved(
            device_id=known.device_id, record_id=record_id, kind=record.kind.name, record_json=viid_records.record_json(record)
        )
    observation.image_keys.extend(keys)
    observation.occurred_at.FromDatetime(record.occurred_at or received_at)
    observation.received_at.FromDatetime(received_at)
    try:
        await within(_PUBLISH_S, intake.publish(known, derived_id(record.kind.name, known.device_id, record_id), observation))
    except Unavailable:
        return BUSY
    return OK
