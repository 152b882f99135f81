"""What edge boxes saw in their cameras' pictures, over HTTP: observations with the pictures that show them.

A batch is taken as a whole or refused as a whole, with the place of what is wrong, so that nothing is lost unseen. Each of it is an event
of its own; sent again, it is the same. What an observation says is in `observations`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from linli.device.v1.events_pb2 import ObservationMade
from servicekit.errors import FieldViolation, Invalid
from services.ingest import device_http, loose
from services.ingest.device_http import Answer, Request, Route, TooLarge, json_answer
from services.ingest.devices import Kind, KnownDevice
from services.ingest.intake import CAMERA_LIMIT, Intake, render, within
from services.ingest.observations import read_observation

PATH = "/devices/observations"
BODY_BYTES_MAX = 8 * 1024 * 1024
OBSERVATIONS_MAX = 100
# A picture of a face says who it is, and is kept only where the community has the consents for it.
_FACE: Final = "face"
_PICTURE_S = 1.0
_PUBLISH_S = 2.0

_Seen = tuple[UUID, ObservationMade, Sequence[str]]


def routes(intake: Intake) -> Mapping[tuple[str, str], Route]:
    """The one path of this protocol."""
    return {("POST", PATH): Route(partial(_receive, intake), render)}


async def _receive(intake: Intake, request: Request) -> Answer:
    known = await intake.authenticated(request, (Kind.EDGE_BOX,))
    with intake.admitted(known, CAMERA_LIMIT):
        body = device_http.document(await request.body(BODY_BYTES_MAX))
        received_at = intake.clock()
        batch = _read(known, body, received_at)
        keeping = [_keep_pictures(intake, known, observation, received_at, pictures) for _, observation, pictures in batch]
        await asyncio.gather(*keeping)
        publishing = [intake.publish(known, event_id, observation) for event_id, observation, _ in batch]
        await asyncio.gather(*(within(_PUBLISH_S, each) for each in publishing))
        return json_answer({"accepted": len(batch)})


def _read(known: KnownDevice, body: Mapping[str, Any], received_at: datetime) -> Sequence[_Seen]:
    """Raises Invalid, naming the place, or TooLarge."""
    given = body.get("observations")
    if not isinstance(given, list) or not given:
        raise _invalid("observations")
    if len(given) > OBSERVATIONS_MAX:
        zh, en = f"一批最多 {OBSERVATIONS_MAX} 条事件", f"A batch holds at most {OBSERVATIONS_MAX} observations"
        raise TooLarge("ingest.too_many_observations", zh, en)
    return [_read_one(known, said, received_at, f"observations[{index}]") for index, said in enumerate(given)]


def _read_one(known: KnownDevice, said: object, received_at: datetime, place: str) -> _Seen:
    if not isinstance(said, dict):
        raise _invalid(place)
    pictures = said.get("pictures") or []
    if not isinstance(pictures, list) or not all(isinstance(picture, str) for picture in pictures):
        raise _invalid(f"{place}.pictures")
    try:
        return (*read_observation(known, said, received_at), pictures)
    except loose.Unusable as error:
        raise _invalid(f"{place}.{error.field}") from None


async def _keep_pictures(
    intake: Intake, known: KnownDevice, observation: ObservationMade, received_at: datetime, pictures: Sequence[str]
) -> None:
    if pictures and (intake.keep_face_pictures or observation.kind != _FACE):
        observation.image_keys.extend(await intake.images.keep(known.community_id, received_at, pictures, _PICTURE_S))


def _invalid(field: str) -> Invalid:
    code, text = "ingest.observation_invalid", "is missing or cannot be read"
    violation = FieldViolation(field, code, text)
    return Invalid(code, "上报的事件不符合要求", f"The batch is not valid: {field} {text}", fields=[violation])
