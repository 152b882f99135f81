"""Observations: as ingest reads them, and from edge boxes over HTTP with the pictures that show them."""

import base64
import json
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linli.device.v1.events_pb2 import ObservationMade
from services.ingest.devices import Kind, KnownDevice
from services.ingest.loose import Unusable
from services.ingest.observations import read_observation
from services.ingest.observing import BODY_BYTES_MAX, OBSERVATIONS_MAX
from tests.ingest.fleet import CAMERA, EDGE_BOX, JPEG, PNG, Fleet, fleet, stored
from tests.support import Servers, eventually

SENSOR = KnownDevice("sensor-1", uuid.UUID(int=1), Kind.SENSOR, False, b"", b"", None, None, None, None)
BOX = KnownDevice("box-1", uuid.UUID(int=1), Kind.EDGE_BOX, False, b"", b"", None, None, None, None)
RECEIVED_AT = datetime(2026, 1, 5, 7, 31, 10, tzinfo=UTC)
SEEN = {"id": "r1", "kind": "intrusion", "track": "t7", "confidence": 0.87, "at": "2026-01-05T15:31:09+08:00"}


def observation(known: KnownDevice = SENSOR, received_at: datetime = RECEIVED_AT, **changed: Any) -> ObservationMade:
    return read(known, received_at, changed)[1]


def event_id(known: KnownDevice = SENSOR, received_at: datetime = RECEIVED_AT, **changed: Any) -> uuid.UUID:
    return read(known, received_at, changed)[0]


def read(known: KnownDevice, received_at: datetime, changed: dict[str, Any]) -> tuple[uuid.UUID, ObservationMade]:
    said = {name: value for name, value in {**SEEN, **changed}.items() if value is not None}
    return read_observation(known, said, received_at)


def test_an_observation_is_passed_on_as_the_device_says_it() -> None:
    found = observation(lat="31.2304", lon=121.4737)
    assert (found.device_id, found.source_id, found.record_id) == ("sensor-1", "sensor-1", "r1")
    assert (found.kind, found.track_id, found.confidence_permille) == ("intrusion", "t7", 870)
    assert (found.latitude, found.longitude) == (31.2304, 121.4737)
    assert found.occurred_at.ToDatetime(UTC) == datetime(2026, 1, 5, 7, 31, 9, tzinfo=UTC)
    assert found.received_at.ToDatetime(UTC) == RECEIVED_AT


@pytest.mark.parametrize(
    ("written", "permille"), [(0, 0), ("0.5", 500), (1, 1000), (None, -1), (87, -1), (-0.1, -1), ("sure", -1), (True, -1)]
)
def test_a_confidence_that_is_no_share_is_as_good_as_absent(written: Any, permille: int) -> None:
    assert observation(confidence=written).confidence_permille == permille


def test_a_place_is_whole_or_absent_and_a_position_needs_one() -> None:
    for odd in (
        {"lat": 31.2},
        {"lon": 121.4},
        {"lat": 91, "lon": 0},
        {"lat": 0, "lon": 181},
        {"lat": "north", "lon": 0},
        {"lat": 1e300, "lon": 0},
    ):
        assert not observation(**odd).HasField("latitude")
        with pytest.raises(Unusable):
            observation(kind="position", **odd)
    assert observation(kind="position", lat=0, lon=-180).HasField("latitude")


NO_OBSERVATIONS: list[dict[str, Any]] = [
    *({"kind": kind} for kind in (None, "", "x", "fire lane", "跌倒", "x" * 51, 7, ["fall"], True)),
    {"id": ""},
    {"id": "x" * 201},
    {"id": {}},
    {"id": False},
    {"track": {}},
    {"id": None, "at": None},
    {"id": None, "at": "never"},
]


@pytest.mark.parametrize("changed", NO_OBSERVATIONS)
def test_what_cannot_be_an_observation_is_unusable(changed: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        observation(**changed)


def test_only_an_edge_box_speaks_for_cameras() -> None:
    assert observation(BOX, camera="cam-9").source_id == "cam-9"
    assert observation(BOX).source_id == "box-1"
    assert observation(SENSOR, camera="cam-9").source_id == "sensor-1"
    with pytest.raises(Unusable):
        observation(BOX, camera="cam/9")


def test_the_same_record_is_the_same_event_however_late_it_comes_and_other_content_is_another() -> None:
    later = RECEIVED_AT + timedelta(hours=3)
    assert event_id() == event_id(received_at=later, kind="Intrusion")
    assert event_id(at=None) == event_id(received_at=later, at=None)
    assert event_id(id=None) == event_id(received_at=later, id=None)
    assert observation(id=None).record_id == observation(received_at=later, id=None).record_id != ""
    assert observation(at="1970-01-01T00:00:09Z").occurred_at == observation().received_at
    changes: list[dict[str, Any]] = [{"id": "r2"}, {"id": None}, {"at": None}, {"kind": "fall"}, {"track": "t8"}, {"lat": 1, "lon": 1}]
    assert len({event_id(), event_id(BOX), *(event_id(**change) for change in changes)}) == 8


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*SEEN, "camera", "lat", "lon"]), values))
def test_whatever_a_device_says_is_read_or_unusable_and_never_breaks_anything(said: dict[str, Any]) -> None:
    for known in (SENSOR, BOX):
        with suppress(Unusable):
            _, found = read_observation(known, {**SEEN, **said}, RECEIVED_AT)
            assert found.record_id
            assert found.source_id
            assert -1 <= found.confidence_permille <= 1000


# Over HTTP.


def seen(record_id: str | None = "r1", **more: Any) -> dict[str, Any]:
    return {"id": record_id, "camera": "cam-9", "kind": "intrusion", "confidence": 0.9, "at": datetime.now(UTC).isoformat(), **more}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def send(town: Fleet, body: Any, device_id: str = EDGE_BOX) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await town.http.post("/devices/observations", content=content, auth=town.basic(device_id))


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    return answer.status_code, body["code"], body["fields"][0]["field"] if "fields" in body else ""


async def test_each_observation_of_a_batch_is_an_event_with_its_pictures(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        pictures = [encoded(JPEG), encoded(PNG), encoded(b"no picture"), "?"]
        answer = await send(town, {"observations": [seen("a", pictures=pictures), seen("b", camera=None, kind="fall")]})
        assert (answer.status_code, answer.json()) == (200, {"accepted": 2})
        first = (await town.running.event(ObservationMade, lambda event: event.message.record_id == "a")).message
        second = (await town.running.event(ObservationMade, lambda event: event.message.record_id == "b")).message
        assert (first.device_id, first.source_id, second.source_id) == (EDGE_BOX, "cam-9", EDGE_BOX)
        assert [(tmp_path / key).read_bytes() for key in first.image_keys] == [JPEG, PNG]
        assert not second.image_keys


async def test_a_picture_of_a_face_is_kept_only_where_faces_may_be(servers: Servers, tmp_path: Path) -> None:
    for keeps in (False, True):
        async with fleet(servers, tmp_path, LINLI_INGEST_KEEP_FACE_PICTURES=str(keeps).lower()) as town:
            assert (await send(town, {"observations": [seen(kind="face", pictures=[encoded(JPEG)])]})).status_code == 200
            assert bool((await town.running.event(ObservationMade)).message.image_keys) == keeps


async def test_a_batch_sent_again_is_the_same_events_and_a_later_one_beside_them_another(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        one, other = seen("a", pictures=[encoded(JPEG)]), seen("b")
        for body in ([one], [one, other], [other, one], [one]):
            assert (await send(town, {"observations": body})).status_code == 200
        assert await stored(servers, "DEVICE_OBSERVATION") == 2


async def test_a_bad_entry_refuses_the_whole_batch_with_its_place(servers: Servers, tmp_path: Path) -> None:
    invalid = "ingest.observation_invalid"
    cases: list[tuple[Any, tuple[int, str, str]]] = [
        ({"observations": [seen(), seen(kind="?")]}, (400, invalid, "observations[1].kind")),
        ({"observations": [seen(), seen(), seen(None)]}, (200, "", "")),
        ({"observations": [seen(None, at=None)]}, (400, invalid, "observations[0].id")),
        ({"observations": [seen(camera="a b")]}, (400, invalid, "observations[0].camera")),
        ({"observations": [seen(), 7]}, (400, invalid, "observations[1]")),
        ({"observations": [seen(pictures="x")]}, (400, invalid, "observations[0].pictures")),
        ({"observations": [seen(pictures=[7])]}, (400, invalid, "observations[0].pictures")),
        ({"observations": [seen(kind="position")]}, (400, invalid, "observations[0].lat")),
        ({"observations": []}, (400, invalid, "observations")),
        ({"observations": {}}, (400, invalid, "observations")),
        ({}, (400, invalid, "observations")),
        ([], (400, "ingest.body_malformed", "")),
        (b"{", (400, "ingest.body_malformed", "")),
        ({"observations": [seen(str(number)) for number in range(OBSERVATIONS_MAX + 1)]}, (413, "ingest.too_many_observations", "")),
        (b" " * (BODY_BYTES_MAX + 1), (413, "ingest.body_too_large", "")),
    ]
    async with fleet(servers, tmp_path) as town:
        for body, expected in cases:
            answer = await send(town, body)
            assert (answer.status_code, "", "") == expected if answer.is_success else refusal(answer) == expected, body
        for device_id in (CAMERA, EDGE_BOX):  # A camera's own credential, and a wrong one.
            stranger = await town.http.post(
                "/devices/observations", json={"observations": [seen()]}, auth=(device_id, town.secrets[CAMERA])
            )
            assert refusal(stranger)[:2] == (401, "ingest.credential_refused")
        assert await stored(servers, "DEVICE_OBSERVATION") == 3


async def test_without_the_broker_the_box_is_told_to_come_again_and_its_observation_is_kept_once(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        body = {"observations": [seen()]}
        servers.nats.kill()
        try:
            answer = await send(town, body)
            assert (answer.status_code, answer.json()["code"]) == (503, "messaging.unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        finally:
            servers.nats.restart()

        async def taken() -> bool:
            return (await send(town, body)).status_code == 200

        await eventually(taken)
        assert await stored(servers, "DEVICE_OBSERVATION") == 1
