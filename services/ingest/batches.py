"""Batches of readings from edge boxes, in JSON or protobuf.

A batch stays one message all the way to the telemetry tables: it is checked here, published once, and answered when JetStream has it.
Nothing is dropped silently: a batch with a reading that cannot be right is refused as a whole, with the place of the reading.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from math import isfinite
from typing import Annotated

import msgspec
from google.protobuf.message import DecodeError

from linli.device.v1.events_pb2 import Reading, ReadingBatch
from servicekit.errors import FieldViolation, Invalid
from servicekit.identifiers import derived_id
from services.ingest.device_http import Answer, Request, Route, TooLarge, UnsupportedMedia, json_answer, malformed
from services.ingest.devices import Kind, KnownDevice
from services.ingest.intake import EDGE_BOX_LIMIT, Intake, refused, render, within

PATH = "/devices/readings"
BODY_BYTES_MAX = 1024 * 1024
UNPACKED_BYTES_MAX = 4 * 1024 * 1024
READINGS_MAX = 10_000
_PUBLISH_S = 2.0
# A clock that is further ahead than this is wrong, and what is older than this has no partition to go to.
_AHEAD_MAX_US = 5 * 60 * 1_000_000
_AGE_MAX_US = 30 * 24 * 3600 * 1_000_000
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_BATCH_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_METRICS_REMEMBERED_MAX = 10_000
_JSON = (b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8")
_PROTOBUF = (b"application/x-protobuf", b"application/protobuf")

# Metrics that were found to be well-formed, so that each name is looked at once and not a hundred thousand times a second.
_well_formed: set[str] = set()


_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Reading(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    metric: str
    at_us: _Int64
    value: float
    sequence: _Int64 = 0


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    batch_id: str
    readings: list[_Reading]
    device_id: str = ""


_decoder = msgspec.json.Decoder(_Batch, strict=False)


def routes(intake: Intake) -> Mapping[tuple[str, str], Route]:
    """The one path of this protocol."""
    return {("POST", PATH): Route(partial(_receive, intake), render)}


async def _receive(intake: Intake, request: Request) -> Answer:
    known = await intake.authenticated(request, (Kind.EDGE_BOX,))
    with intake.admitted(known, EDGE_BOX_LIMIT):
        media = request.headers.get(b"content-type", b"").lower()
        if media not in _JSON and media not in _PROTOBUF:
            raise UnsupportedMedia("ingest.media_type", "请使用 JSON 或 protobuf", "Send application/json or application/x-protobuf")
        body = await request.body(BODY_BYTES_MAX, unpacked_bytes_max=UNPACKED_BYTES_MAX)
        now_us = int(intake.clock().timestamp() * 1_000_000)
        batch = _from_json(body, known, now_us) if media in _JSON else _from_protobuf(body, known, now_us)
        await within(_PUBLISH_S, intake.publish(known, derived_id("readings", known.device_id, batch.batch_id), batch))
        return json_answer({"batch_id": batch.batch_id, "accepted": len(batch.readings)})


def _from_json(body: bytes, known: KnownDevice, now_us: int) -> ReadingBatch:
    try:
        given = _decoder.decode(body)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise _invalid(path.rstrip("`").lstrip("."), reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed() from None
    _check(given, known, now_us)
    batch = ReadingBatch(device_id=known.device_id, batch_id=given.batch_id)
    add = batch.readings.add
    for each in given.readings:  # One by one is what protobuf is fastest at.
        reading = add()
        reading.metric, reading.at_us, reading.value, reading.sequence = each.metric, each.at_us, each.value, each.sequence
    return batch


def _from_protobuf(body: bytes, known: KnownDevice, now_us: int) -> ReadingBatch:
    try:
        batch = ReadingBatch.FromString(body)
    except DecodeError:
        raise malformed() from None
    _check(batch, known, now_us)
    batch.DiscardUnknownFields()
    batch.device_id = known.device_id
    return batch


def _check(batch: _Batch | ReadingBatch, known: KnownDevice, now_us: int) -> None:
    """Raises TooLarge, Invalid, naming the reading, or Unauthenticated when the batch is another device's."""
    if batch.device_id not in ("", known.device_id):
        raise refused()
    if not _BATCH_ID.fullmatch(batch.batch_id):
        raise _invalid("batch_id", "must be 1 to 64 letters, digits or _ . : -")
    readings = batch.readings
    if not readings:
        raise _invalid("readings", "must hold at least one reading")
    if len(readings) > READINGS_MAX:
        raise TooLarge("ingest.too_many_readings", f"一批最多 {READINGS_MAX} 条读数", f"A batch holds at most {READINGS_MAX} readings")
    least, most = now_us - _AGE_MAX_US, now_us + _AHEAD_MAX_US
    times = [reading.at_us for reading in readings]
    metrics = {reading.metric for reading in readings}
    # A sum of finite numbers may overflow, but never hides one that is not finite: the slow way then says whether there is one.
    if metrics <= _well_formed and least <= min(times) and max(times) <= most and isfinite(sum([r.value for r in readings])):
        return
    _check_each(readings, least, most)
    if len(_well_formed) < _METRICS_REMEMBERED_MAX:
        _well_formed.update(metrics)


def _check_each(readings: Iterable[_Reading | Reading], least: int, most: int) -> None:
    for index, reading in enumerate(readings):
        if not _METRIC.fullmatch(reading.metric):
            raise _invalid(f"readings[{index}].metric", "must be a small letter, then small letters, digits or _, at most 64")
        if reading.at_us < least:
            raise _invalid(f"readings[{index}].at_us", "is more than 30 days ago", "ingest.reading_too_old")
        if reading.at_us > most:
            raise _invalid(f"readings[{index}].at_us", "lies in the future", "ingest.reading_from_the_future")
        if not isfinite(reading.value):
            raise _invalid(f"readings[{index}].value", "must be finite")


def _invalid(field: str, text: str, code: str = "ingest.batch_invalid") -> Invalid:
    violation = FieldViolation(field, code, text)
    return Invalid(code, "读数批次不符合要求", f"The batch is not valid: {field} {text}".strip(), fields=[violation])
