"""Whatever a device sends, it is answered, and never with a defect of ours."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import nats
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.aio.msg import Msg

from linli.device.v1.events_pb2 import PlateRead, Reading, ReadingBatch
from linli.parking.v1.events_pb2 import VehicleHeld
from servicekit.events import envelope, received
from servicekit.identifiers import new_id
from tests.ingest.fleet import CAMERA, EDGE_BOX, VIID_CAMERA, Fleet, fleet, push_body
from tests.ingest.test_viid import NAMED, register, vehicle, vehicles
from tests.support import Servers

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    10**400,
    1e308,
    "",
    "0",
    "\x00",
    "😀" * 300,
    "9" * 5000,
    "20261301000000",
    [],
    {},
    [[]],
    {"a": {}},
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@st.composite
def bent(draw: st.DrawFn, right: Any) -> Any:
    """Something right in which a few places were replaced by anything at all."""
    if isinstance(right, dict) and draw(st.integers(0, 9)):
        return {
            draw(st.just(key) | st.text(max_size=5)) if not draw(st.integers(0, 19)) else key: draw(bent(value))
            for key, value in right.items()
        }
    if isinstance(right, list) and draw(st.integers(0, 9)):
        return [draw(bent(value)) for value in right]
    return right if draw(st.integers(0, 3)) else draw(VALUES)


@st.composite
def bodies(draw: st.DrawFn, right: Any) -> bytes:
    """A body: bent JSON in some encoding, or spoilt bytes."""
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "gb18030", "utf-16", "utf-8-sig"]))
    body = _json(draw(bent(right)), encoding)
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(body)))
        body = body[:place] + draw(st.binary(max_size=20)) + body[place + draw(st.integers(0, 20)) :]
    return body


def _json(value: Any, encoding: str) -> bytes:
    try:
        return msgspec.json.encode(value).decode().encode(encoding, "surrogatepass")
    except (msgspec.EncodeError, UnicodeError, OverflowError):
        return repr(value).encode("utf-8", "surrogatepass")


RIGHT_FACE = {
    "FaceID": "1" * 48,
    "FaceAppearTime": "20260101000000",
    "SubImageList": {"SubImageInfoObject": [{"Data": "/9j/", "Type": "11"}]},
}
RIGHT_NOTE = {"NotificationID": "1", "TriggerTime": "20260101000000", "FaceObjectList": {"FaceObject": [RIGHT_FACE]}}
RIGHT_OBSERVATION = {"id": "1", "camera": "c", "kind": "fall", "confidence": 0.5, "at": "20260101000000", "pictures": ["/9j/"]}
CASES = [
    ("/devices/plate", push_body("京A12345", imageFile="/9j/"), CAMERA),
    ("/devices/plate", {"heartbeat": {"serialno": CAMERA}}, CAMERA),
    ("/devices/readings", {"batch_id": "b", "readings": [{"metric": "a", "at_us": 1, "value": 1.5, "sequence": 2}]}, EDGE_BOX),
    ("/devices/observations", {"observations": [RIGHT_OBSERVATION, RIGHT_OBSERVATION]}, EDGE_BOX),
    ("/VIID/MotorVehicles", vehicles(vehicle(SubImageList={"SubImageInfoObject": [{"Data": "/9j/"}]})), VIID_CAMERA),
    ("/VIID/Faces", {"FaceListObject": {"FaceObject": [RIGHT_FACE]}}, VIID_CAMERA),
    ("/VIID/SubscribeNotifications", {"SubscribeNotificationListObject": {"SubscribeNotificationObject": [RIGHT_NOTE]}}, VIID_CAMERA),
    ("/VIID/System/Keepalive", {"KeepaliveObject": {"DeviceID": VIID_CAMERA}}, VIID_CAMERA),
]
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(["application/json", "application/x-protobuf", "text/plain"]) | TEXT,
        "Content-Encoding": st.sampled_from(["gzip", "identity", "deflate"]) | TEXT,
        "User-Identify": st.just(VIID_CAMERA) | TEXT,
        "Authorization": TEXT.map(lambda text: f"Digest {text}") | TEXT.map(lambda text: f"Basic {text}") | TEXT,
        "X-Forwarded-For": TEXT,
        "traceparent": TEXT,
    },
)


@pytest.fixture
def ask(servers: Servers, tmp_path: Path) -> Iterator[Callable[..., httpx.Response]]:
    """Sends one request to a running ingest in which every device is known, and every car is held at once."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        town: Fleet = runner.run(stack.enter_async_context(fleet(servers, tmp_path)))
        runner.run(register(town))
        runner.run(_hold_every_car(town, stack))

        async def request(method: str, path: str, device_id: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
            raw = {
                name.encode(): value.encode("latin-1") for name, value in {**NAMED, "Content-Type": "application/json", **headers}.items()
            }
            auth = None if "Authorization" in headers or device_id == VIID_CAMERA else town.basic(device_id)
            return await town.http.request(method, path, content=body, headers=raw, auth=auth)

        yield lambda *arguments: runner.run(request(*arguments))
        runner.run(stack.aclose())


async def _hold_every_car(town: Fleet, stack: contextlib.AsyncExitStack) -> None:
    client = await nats.connect(town.running.nats_url)
    stack.push_async_callback(client.close)

    async def hold(message: Msg) -> None:
        read = received(message.headers or {}, message.data, PlateRead).message
        held = VehicleHeld(lane_id="lane", camera_device_id=read.device_id, record_id=read.record_id, reason="held")
        event = envelope(held, town.community_id, event_id=str(new_id()), occurred_at=datetime.now(UTC))
        await client.publish(event.subject, event.body, headers=event.headers("test"))

    await client.subscribe("device.*.plate.>", cb=hold)
    await client.flush()


@pytest.mark.parametrize(("path", "right", "device_id"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_no_body_makes_ingest_fail(ask: Callable[..., httpx.Response], path: str, right: Any, device_id: str) -> None:
    @FUZZ
    @given(bodies(right))
    def check(body: bytes) -> None:
        answer = ask("POST", path, device_id, body, {})
        assert answer.status_code < 500, (answer.status_code, answer.text, body)
        assert isinstance(answer.json(), dict)

    check()


def test_no_protobuf_makes_ingest_fail(ask: Callable[..., httpx.Response]) -> None:
    good = ReadingBatch(batch_id="b", readings=[Reading(metric="a", at_us=1, value=1)]).SerializeToString()

    @FUZZ
    @given(st.binary(max_size=200) | st.binary(max_size=20).map(lambda more: good + more))
    def check(body: bytes) -> None:
        answer = ask("POST", "/devices/readings", EDGE_BOX, body, {"Content-Type": "application/x-protobuf"})
        assert answer.status_code < 500, (answer.status_code, answer.text, body)

    check()


def test_no_header_method_or_path_makes_ingest_fail(ask: Callable[..., httpx.Response]) -> None:
    methods = st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"])

    @FUZZ
    @given(
        methods,
        st.sampled_from([path for path, _, _ in CASES] + ["/", "/VIID", "/VIID/System/Register", "/devices/plate?token=%ff&device=%00"]),
        HEADERS,
        st.binary(max_size=30),
    )
    def check(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        try:
            answer = ask(method, path, CAMERA, body, {name: value.strip() for name, value in headers.items()})
        except httpx.LocalProtocolError:
            return  # No client could send this header.
        assert answer.status_code < 500, (answer.status_code, answer.text, path, headers, body)

    check()
