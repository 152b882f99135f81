"""Cameras that push `AlarmInfoPlate` and open their barrier when the answer says so.

A push is answered with the decision: it is published, acknowledged by JetStream, decided by parking, and only then answered, or by the
lane's offline rule when the decision is late. What the body means is in `plate_frames`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from urllib.parse import parse_qs

from linli.device.v1.events_pb2 import GateAcknowledged, OpenedOffline, PlateRead
from servicekit.errors import FieldViolation, Invalid, Unavailable
from servicekit.identifiers import derived_id
from servicekit.times import to_timestamp
from services.ingest import device_http, loose, plate_frames
from services.ingest.decisions import Decision, RecordKey
from services.ingest.device_http import Answer, Gone, Request, Route, json_answer
from services.ingest.devices import DECISION_LIMIT_MS, Kind, KnownDevice
from services.ingest.intake import CAMERA_LIMIT, Intake, refused, render, within
from services.ingest.plate_frames import Frame

PATH = "/devices/plate"
BODY_BYTES_MAX = 8 * 1024 * 1024
# A picture is worth waiting this long for; the decision is not to suffer from a slow blob store.
_PICTURE_S = 0.15
# How long the relay closes for, in milliseconds.
_PULSE_MS = 1000
# How long the same record is opened for again after an offline opening: as long as a signed command would live.
_OFFLINE_OPEN = timedelta(seconds=10)


def routes(intake: Intake) -> Mapping[tuple[str, str], Route]:
    """The one path of this protocol."""
    return {("POST", PATH): Route(partial(_receive, intake), render)}


async def _receive(intake: Intake, request: Request) -> Answer:
    started = asyncio.get_running_loop().time()
    known = await _camera(intake, request)
    with intake.admitted(known, CAMERA_LIMIT):
        received_at = intake.clock()
        frame, image_keys = await _frame(intake, request, known, received_at)
        request.release()
        if frame is None:
            return json_answer({})
        return await _decide(intake, request, known, _observation(known, frame, image_keys, received_at), frame, started)


async def _camera(intake: Intake, request: Request) -> KnownDevice:
    """The camera, by HTTP Basic, or by `?device=...&token=...` for those that can only be given an address."""
    if b"authorization" in request.headers or not request.query:
        return await intake.authenticated(request, (Kind.PLATE_CAMERA,))
    query = parse_qs(request.query.decode("latin-1"), max_num_fields=10) if request.query.count(b"&") < 10 else {}
    return await intake.recognised(query.get("device", [""])[0], query.get("token", [""])[0], (Kind.PLATE_CAMERA,))


async def _frame(intake: Intake, request: Request, known: KnownDevice, received_at: datetime) -> tuple[Frame | None, list[str]]:
    """What the camera reads, and the keys of its pictures; no frame when it only says that it is alive."""
    body = device_http.document(await request.body(BODY_BYTES_MAX))
    if plate_frames.is_heartbeat(body):
        _check_serial(plate_frames.serial_of(body), known)
        return None, []
    try:
        frame = plate_frames.read(body, received_at)
    except loose.Unusable as error:
        field = FieldViolation(error.field, "missing", "is missing or not an object")
        raise Invalid("ingest.no_plate_result", "请求中没有识别结果", "The body holds no plate result", fields=[field]) from None
    _check_serial(frame.serial, known)
    keys = await intake.images.keep(known.community_id, received_at, frame.pictures, _PICTURE_S) if frame.pictures else []
    # The camera may wait for seconds; its pictures need not.
    return replace(frame, pictures=()), keys


def _check_serial(serial: str, known: KnownDevice) -> None:
    if serial and serial != known.device_id:
        raise refused()


def _observation(known: KnownDevice, frame: Frame, image_keys: list[str], received_at: datetime) -> PlateRead:
    return PlateRead(
        device_id=known.device_id,
        record_id=str(derived_id(known.device_id, *frame.record)),
        plate=frame.plate,
        plate_colour=frame.colour,
        plate_class=frame.plate_class,
        confidence=frame.confidence,
        occurred_at=to_timestamp(frame.occurred_at or received_at),
        received_at=to_timestamp(received_at),
        image_keys=image_keys,
        awaits_decision=True,
    )


async def _decide(intake: Intake, request: Request, known: KnownDevice, read: PlateRead, frame: Frame, started: float) -> Answer:
    """Publishes a read and answers with what is decided on it."""
    record: RecordKey = (known.community_id, known.device_id, read.record_id)
    loop = asyncio.get_running_loop()
    limit_s = (known.lane.decision_limit_ms if known.lane else DECISION_LIMIT_MS) / 1000
    # What a decision is known of is on record already.
    if intake.decisions.made(record) is None:
        if known.lane is not None:
            intake.decisions.ask(record, started)
        event_id = derived_id("plate", known.device_id, read.record_id)
        try:
            await within(started + limit_s - loop.time(), intake.publish(known, event_id, read))
        except Unavailable:
            if not _opens_offline(known):
                intake.decisions.give_up(record)
                raise
    decision, present = await intake.decisions.wait(record, started + limit_s - loop.time(), request.gone())
    if not present:
        raise Gone
    if decision is None:
        intake.decisions.give_up(record)
        decision = await _late(intake, known, read, record)
    return _answer(intake, known, frame, read, decision)


def _opens_offline(known: KnownDevice) -> bool:
    return known.lane is not None and known.lane.opens_offline and known.lane.gate_device_id == known.device_id


async def _late(intake: Intake, known: KnownDevice, read: PlateRead, record: RecordKey) -> Decision:
    """What the lane does without a decision. An opening is on record before the camera is told."""
    lane, now = known.lane, intake.clock()
    if lane is None or not _opens_offline(known):
        return Decision("late", now)
    opened = OpenedOffline(
        device_id=known.device_id,
        lane_id=lane.lane_id,
        record_id=read.record_id,
        plate=read.plate,
        occurred_at=read.occurred_at,
        opened_at=to_timestamp(now),
        image_keys=read.image_keys,
    )
    await intake.report(known.community_id, opened, known.device_id, read.record_id)
    decision = Decision("ok", now, now + _OFFLINE_OPEN)
    intake.decisions.make(record, decision)
    return decision


def _answer(intake: Intake, known: KnownDevice, frame: Frame, read: PlateRead, decision: Decision) -> Answer:
    now = intake.clock()
    opens = decision.opens(now)
    info = decision.info if opens or decision.opens_until is None else "expired"
    body = {"info": info, "channelNum": frame.channel, "delay": _PULSE_MS, "msgId": frame.message_id or read.record_id}
    answer = json_answer({"Response_AlarmInfoPlate": body})
    if not opens or not decision.command_id:
        return answer

    async def acknowledge() -> None:
        outcome = GateAcknowledged(
            device_id=known.device_id,
            command_id=decision.command_id,
            outcome=GateAcknowledged.OUTCOME_OPENED,
            occurred_at=to_timestamp(now),
        )
        await intake.report(known.community_id, outcome, known.device_id, decision.command_id)

    return replace(answer, afterwards=acknowledge)
