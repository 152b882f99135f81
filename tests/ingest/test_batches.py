"""Edge boxes that post batches of readings."""

import gzip
import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from linli.device.v1.events_pb2 import Reading, ReadingBatch
from services.ingest.batches import READINGS_MAX
from tests.ingest.fleet import EDGE_BOX, Fleet, fleet, stored
from tests.support import Servers, eventually

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
DAY_US = 24 * 3600 * 1_000_000


def now_us() -> int:
    return time.time_ns() // 1000


def reading(**fields: Any) -> dict[str, Any]:
    return {"metric": "temperature_c", "at_us": now_us(), "value": 21.5, "sequence": 1, **fields}


def batch(*readings: Any, batch_id: str = "b1", **fields: Any) -> dict[str, Any]:
    return {"batch_id": batch_id, "readings": list(readings) or [reading()], **fields}


def message(*readings: Reading, batch_id: str = "b1", **fields: Any) -> bytes:
    one = Reading(metric="temperature_c", at_us=now_us(), value=21.5)
    return ReadingBatch(batch_id=batch_id, readings=readings or [one], **fields).SerializeToString()


async def send(town: Fleet, body: Any, headers: Mapping[str, str] = JSON) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await town.http.post("/devices/readings", content=content, headers=headers, auth=town.basic(EDGE_BOX))


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    """HTTP status, code, and the field that is named."""
    body = answer.json()
    return answer.status_code, body["code"], body["fields"][0]["field"] if "fields" in body else ""


async def test_a_batch_stays_one_message_with_every_reading_in_it(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        given = [reading(metric="co_ppm", value=9.25, sequence=i) for i in range(100)]
        answer = await send(town, batch(*given))
        assert (answer.status_code, answer.json()) == (200, {"batch_id": "b1", "accepted": 100})
        event = await town.running.event(ReadingBatch)
        assert (event.message.device_id, event.message.batch_id) == (EDGE_BOX, "b1")
        kept = [{"metric": r.metric, "at_us": r.at_us, "value": r.value, "sequence": r.sequence} for r in event.message.readings]
        assert kept == given
        assert await stored(servers, "DEVICE_READINGS") == 1


async def test_protobuf_and_gzip_say_the_same(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        packed = {"Content-Encoding": "gzip"}
        assert (await send(town, message(batch_id="p"), PROTOBUF)).status_code == 200
        assert (await send(town, gzip.compress(message(batch_id="pz")), {**PROTOBUF, **packed})).status_code == 200
        assert (await send(town, gzip.compress(json.dumps(batch(batch_id="jz")).encode()), {**JSON, **packed})).status_code == 200
        for batch_id in ("p", "pz", "jz"):
            event = await town.running.event(ReadingBatch, lambda event, wanted=batch_id: event.message.batch_id == wanted)  # type: ignore[misc]
            assert [(r.metric, r.value) for r in event.message.readings] == [("temperature_c", 21.5)]


async def test_a_batch_sent_again_is_one_event(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        body = batch()
        assert [(await send(town, body)).status_code for _ in range(3)] == [200, 200, 200]
        assert await stored(servers, "DEVICE_READINGS") == 1


async def test_what_cannot_be_right_is_refused_with_the_place_of_the_reading(servers: Servers, tmp_path: Path) -> None:
    good, now = reading(), now_us()
    cases: list[tuple[Any, tuple[int, str, str]]] = [
        (batch(good, reading(at_us=now + DAY_US)), (400, "ingest.reading_from_the_future", "readings[1].at_us")),
        (batch(good, good, reading(at_us=now - 31 * DAY_US)), (400, "ingest.reading_too_old", "readings[2].at_us")),
        (batch(reading(at_us=2**63 - 1)), (400, "ingest.reading_from_the_future", "readings[0].at_us")),
        (batch(good, reading(metric="Temperature C")), (400, "ingest.batch_invalid", "readings[1].metric")),
        (batch(reading(metric="温度")), (400, "ingest.batch_invalid", "readings[0].metric")),
        (batch(reading(metric="")), (400, "ingest.batch_invalid", "readings[0].metric")),
        (batch(good, reading(value="warm")), (400, "ingest.batch_invalid", "readings[1].value")),
        (batch(good, reading(at_us=2**70)), (400, "ingest.batch_invalid", "readings[1].at_us")),
        (batch(good, reading(unit="C")), (400, "ingest.batch_invalid", "readings[1]")),
        (batch(good, 7), (400, "ingest.batch_invalid", "readings[1]")),
        ({"batch_id": "b", "readings": []}, (400, "ingest.batch_invalid", "readings")),
        ({"batch_id": "b"}, (400, "ingest.batch_invalid", "")),
        (batch(batch_id=""), (400, "ingest.batch_invalid", "batch_id")),
        (batch(batch_id="b" * 65), (400, "ingest.batch_invalid", "batch_id")),
        (batch(batch_id="b\n1"), (400, "ingest.batch_invalid", "batch_id")),
        (batch(more=1), (400, "ingest.batch_invalid", "")),
        ([], (400, "ingest.batch_invalid", "")),
        (b"", (400, "ingest.body_malformed", "")),
        (b"{", (400, "ingest.body_malformed", "")),
        (b'{"batch_id": "\xff"}', (400, "ingest.body_malformed", "")),
        (b"[" * 100_000, (400, "ingest.batch_invalid", "")),
        (batch(*[{}] * 10), (400, "ingest.batch_invalid", "readings[0]")),
    ]
    async with fleet(servers, tmp_path) as town:
        for body, expected in cases:
            assert refusal(await send(town, body)) == expected, body
        assert not town.running.events(ReadingBatch)


async def test_protobuf_is_checked_as_json_is(servers: Servers, tmp_path: Path) -> None:
    now = now_us()
    cases = [
        (message(Reading(metric="a", at_us=now, value=float("nan"))), "readings[0].value"),
        (message(Reading(metric="a", at_us=now, value=1), Reading(metric="a", at_us=now, value=float("-inf"))), "readings[1].value"),
        (message(Reading(metric="a", at_us=now + DAY_US, value=1)), "readings[0].at_us"),
        (message(Reading(metric="a.b", at_us=now, value=1)), "readings[0].metric"),
        (message(batch_id=""), "batch_id"),
        (b"", "batch_id"),
        (b"\xff\xff", ""),
        (b"\x0a\x02\xff\xff", ""),
    ]
    async with fleet(servers, tmp_path) as town:
        for body, field in cases:
            status, _, named = refusal(await send(town, body, PROTOBUF))
            assert (status, named) == (400, field), body
        largest = [Reading(metric="a", at_us=now, value=value) for value in (1.7e308, 1.7e308)]
        assert (await send(town, message(*largest), PROTOBUF)).status_code == 200
        # What a newer box sends beside it does not travel on.
        unknown = message(batch_id="unknown") + struct.pack("BB", 15 << 3 | 2, 3) + b"abc"
        assert (await send(town, unknown, PROTOBUF)).status_code == 200
        event = await town.running.event(ReadingBatch, lambda event: event.message.batch_id == "unknown")
        assert b"abc" not in event.message.SerializeToString()


async def test_a_box_speaks_in_its_own_name_only(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        assert (await send(town, batch(device_id=EDGE_BOX))).status_code == 200
        assert refusal(await send(town, batch(device_id="another")))[:2] == (401, "ingest.credential_refused")
        stranger = await town.http.post("/devices/readings", json=batch(), auth=("another", "secret"))
        assert refusal(stranger)[:2] == (401, "ingest.credential_refused")
        assert stranger.headers["www-authenticate"].startswith("Basic")


async def test_size_and_format_have_limits(servers: Servers, tmp_path: Path) -> None:
    packed = {**JSON, "Content-Encoding": "gzip"}
    many = message(*[Reading(metric="a", at_us=now_us(), value=1)] * (READINGS_MAX + 1))
    bomb = gzip.compress(b" " * 100_000_000)
    whole = gzip.compress(json.dumps(batch()).encode())
    async with fleet(servers, tmp_path) as town:
        assert refusal(await send(town, many, PROTOBUF))[:2] == (413, "ingest.too_many_readings")
        assert refusal(await send(town, b" " * (10 * 1024 * 1024)))[:2] == (413, "ingest.body_too_large")
        assert refusal(await send(town, bomb, packed))[:2] == (413, "ingest.body_too_large")
        for spoilt in (b"no gzip", whole[:-5], whole + b"more", whole + whole, b""):
            assert refusal(await send(town, spoilt, packed))[:2] == (400, "ingest.body_malformed")
        assert refusal(await send(town, batch(), {**JSON, "Content-Encoding": "br"}))[:2] == (415, "ingest.encoding")
        for media in ("text/csv", "", "application/jsonp"):
            assert refusal(await send(town, batch(), {"Content-Type": media}))[:2] == (415, "ingest.media_type")


async def test_without_the_broker_the_box_is_told_to_come_again_and_its_batch_is_kept_once(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        body = batch()
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
        await send(town, body)
        assert await stored(servers, "DEVICE_READINGS") == 1
