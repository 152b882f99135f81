"""Cameras that push plates and wait for the decision in the answer."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import nats
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from linli.device.v1.commands_pb2 import SignedCommand
from linli.device.v1.events_pb2 import GateAcknowledged, OpenedOffline, PlateRead
from linli.ingest.v1.ingest_pb2 import DisableDeviceRequest, RotateSecretRequest
from linli.parking.v1.events_pb2 import GateOpenRequested, LaneConfigured, VehicleHeld
from servicekit.identifiers import new_id
from services.ingest.devices import Kind
from services.ingest.intake import CAMERA_LIMIT
from tests.ingest.fleet import (
    CAMERA,
    EDGE_BOX,
    GATE,
    INGEST,
    JPEG,
    PARKING,
    PNG,
    Fleet,
    command_id,
    fleet,
    info,
    push_body,
    second_instance,
    signed_command,
    stored,
)
from tests.support import Servers, TestClock, eventually

UNDECIDED = "京B12345"


@asynccontextmanager
async def pushed(town: Fleet, body: Any = None) -> AsyncIterator[tuple["asyncio.Task[httpx.Response]", PlateRead]]:
    """A push that is under way, and what was published of it."""
    seen = len(town.running.events(PlateRead))
    waiting = asyncio.create_task(town.push(body or push_body(UNDECIDED)))
    await eventually(lambda: _longer(town, seen), "the read")
    yield waiting, town.running.events(PlateRead)[seen].message
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def _longer(town: Fleet, seen: int) -> bool:
    return len(town.running.events(PlateRead)) > seen


@asynccontextmanager
async def heard(servers: Servers) -> AsyncIterator["asyncio.Queue[Any]"]:
    """The plate reads that are given to the broker, also those that it knows already."""
    messages: asyncio.Queue[Any] = asyncio.Queue()
    client = await nats.connect(servers.nats.url)
    try:
        await client.subscribe("device.*.plate.>", cb=messages.put)
        await client.flush()
        yield messages
    finally:
        await client.close()


async def open_gate(town: Fleet, read: PlateRead, command: SignedCommand, gate: str = CAMERA) -> None:
    opened = GateOpenRequested(
        lane_id="lane", gate_device_id=gate, camera_device_id=read.device_id, record_id=read.record_id, command=command
    )
    await town.running.publish(opened, town.community_id)


async def test_the_barrier_opens_when_parking_says_so_and_that_is_acknowledged(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        answer = await town.push(push_body("京A12345"))

        assert info(answer) == "ok"
        assert answer.json()["Response_AlarmInfoPlate"]["delay"] == 1000
        read = await town.running.event(PlateRead)
        assert read.message.plate == "京A12345"
        assert (read.message.plate_colour, read.message.plate_class, read.message.confidence) == ("5", "02", 98)
        assert read.message.awaits_decision
        acknowledged = await town.running.event(GateAcknowledged)
        opened = await town.running.event(GateOpenRequested)
        assert acknowledged.message.command_id == command_id(opened.message.command)
        assert acknowledged.message.outcome == GateAcknowledged.OUTCOME_OPENED


async def test_the_barrier_stays_shut_for_a_held_car_and_the_camera_is_told_why(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        assert info(await town.push(push_body("京H12345"))) == "payment_due"
        assert not town.running.events(GateAcknowledged)


async def test_a_held_car_is_not_let_out_by_a_reason_that_is_called_ok(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town, pushed(town) as (waiting, read):
        held = VehicleHeld(lane_id="lane", camera_device_id=CAMERA, record_id=read.record_id, reason="ok")
        await town.running.publish(held, town.community_id)
        assert info(await waiting) == "held"


async def test_a_camera_whose_barrier_is_a_device_of_its_own_is_not_told_to_open(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        assert info(await town.push(push_body("京G12345"))) == "gate"


async def test_a_push_sent_again_while_the_first_waits_gets_the_same_answer_and_is_one_record(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        body = push_body(UNDECIDED)
        async with pushed(town, body) as (first, read), heard(servers) as messages:
            second = asyncio.create_task(town.push(body))
            assert (await messages.get()).headers["ce-id"] == town.running.events(PlateRead)[0].event_id
            await open_gate(town, read, signed_command(CAMERA, datetime.now(UTC)))
            assert [info(await first), info(await second)] == ["ok", "ok"]
        assert await stored(servers) == 1
        await town.running.event(GateAcknowledged)
        assert len({event.event_id for event in town.running.events(GateAcknowledged)}) == 1


async def test_a_push_sent_again_after_the_answer_gets_the_same_answer(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        for plate, expected in (("京A12345", "ok"), ("京H12345", "payment_due")):
            body = push_body(plate)
            assert [info(await town.push(body)) for _ in range(3)] == [expected] * 3
        assert await stored(servers) == 2


async def test_a_push_sent_again_after_its_command_has_expired_opens_nothing(servers: Servers, tmp_path: Path) -> None:
    clock = TestClock()
    async with fleet(servers, tmp_path, PARKING, clock=clock) as town:
        body = push_body("京A12345", clock())
        assert info(await town.push(body)) == "ok"
        clock.advance(seconds=11)
        assert info(await town.push(body)) == "expired"


async def test_a_payment_after_the_car_was_held_opens_for_the_same_record(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        body = push_body("京H12345")
        assert info(await town.push(body)) == "payment_due"
        read = (await town.running.event(PlateRead)).message
        await open_gate(town, read, signed_command(CAMERA, datetime.now(UTC)))

        async def opened() -> bool:
            return info(await town.push(body)) == "ok"

        await eventually(opened)


async def test_a_command_that_is_not_genuine_opens_nothing(servers: Servers, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    commands = {
        "another key": signed_command(CAMERA, now, key=Ed25519PrivateKey.generate()),
        "another gate": signed_command("another", now),
        "another action": signed_command(CAMERA, now, action="close"),
        "garbage": SignedCommand(command=b"\xff\xff", signature=b"short", key_id=""),
        "expired": signed_command(CAMERA, now, lives_s=-1),
    }
    async with fleet(servers, tmp_path) as town:
        for wrong, command in commands.items():
            async with pushed(town) as (waiting, read):
                await open_gate(town, read, command)
                assert info(await waiting) == ("expired" if wrong == "expired" else "refused"), wrong
        assert not town.running.events(GateAcknowledged)


async def test_a_decision_of_another_community_is_not_heard(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.configure_lane(CAMERA, CAMERA, limit_ms=300)
        async with pushed(town) as (waiting, read):
            stranger = GateOpenRequested(
                lane_id="lane",
                gate_device_id=CAMERA,
                camera_device_id=CAMERA,
                record_id=read.record_id,
                command=signed_command(CAMERA, datetime.now(UTC)),
            )
            await town.running.publish(stranger, new_id())
            assert info(await waiting) == "late"


async def test_a_late_decision_leaves_the_barrier_shut_where_the_lane_says_so(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.configure_lane(CAMERA, CAMERA, limit_ms=200)
        started = asyncio.get_running_loop().time()
        assert info(await town.push(push_body(UNDECIDED))) == "late"
        assert 0.2 <= asyncio.get_running_loop().time() - started < 1.5
        assert not town.running.events(OpenedOffline)


async def test_a_late_decision_opens_where_the_lane_says_so_and_is_reported_once(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.configure_lane(CAMERA, CAMERA, limit_ms=200, opens_offline=True)
        at = datetime.now(UTC) - timedelta(seconds=1)
        body = push_body(UNDECIDED, at)
        assert [info(await town.push(body)) for _ in range(2)] == ["ok", "ok"]
        report = (await town.running.event(OpenedOffline)).message
        read = (await town.running.event(PlateRead)).message
        assert (report.device_id, report.lane_id, report.record_id) == (CAMERA, f"lane-of-{CAMERA}", read.record_id)
        assert (report.plate, report.occurred_at.ToDatetime(UTC)) == (UNDECIDED, at)
        assert len(town.running.events(OpenedOffline)) == 1
        assert not town.running.events(GateAcknowledged)  # There was no command.


async def test_a_lane_whose_gate_is_a_device_of_its_own_is_not_opened_through_the_camera(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.configure_lane(CAMERA, GATE, limit_ms=200, opens_offline=True)
        assert info(await town.push(push_body(UNDECIDED))) == "late"
        assert not town.running.events(OpenedOffline)


async def test_an_older_rule_of_a_lane_does_not_replace_a_newer_one(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.configure_lane(CAMERA, CAMERA, limit_ms=200, opens_offline=True, version=2)
        old = LaneConfigured(lane_id=f"lane-of-{CAMERA}", camera_device_id=CAMERA, gate_device_id=CAMERA, decision_limit_ms=1900)
        await town.running.publish(old, town.community_id, version=1)
        await town.running.publish(
            LaneConfigured(lane_id="other", camera_device_id="other", gate_device_id="other", decision_limit_ms=1),
            town.community_id,
            version=1,
        )

        async def both() -> bool:
            async with town.running.transaction("ingest", town.community_id) as tx:
                return bool(await tx.fetchval("SELECT count(*) = 2 FROM lanes"))

        await eventually(both)
        town.forget(CAMERA)
        assert info(await town.push(push_body(UNDECIDED))) == "ok"


async def test_a_camera_that_hung_up_is_not_said_to_have_opened(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        async with pushed(town) as (waiting, read):
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await open_gate(town, read, signed_command(CAMERA, datetime.now(UTC)))
        assert info(await town.push(push_body("京A99999"))) == "ok"
        acknowledged = await town.running.event(GateAcknowledged)
        decided = await town.running.event(GateOpenRequested, lambda event: event.message.record_id != read.record_id)
        assert acknowledged.message.command_id == command_id(decided.message.command)


async def test_an_instance_that_has_just_started_knows_the_decisions_of_the_last_seconds(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        bodies = {"ok": push_body("京A12345"), "payment_due": push_body("京H12345")}
        for expected, body in bodies.items():
            assert info(await town.push(body)) == expected
        async with second_instance(town) as http:
            for expected, body in bodies.items():
                assert info(await http.post("/devices/plate", json=body, auth=town.basic(CAMERA))) == expected
        assert await stored(servers) == 2


async def test_every_instance_hears_the_decision_on_a_record_that_was_pushed_to_another(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town, second_instance(town) as http:
        body = push_body(UNDECIDED)
        async with pushed(town, body) as (first, read):
            async with heard(servers) as messages:
                second = asyncio.create_task(http.post("/devices/plate", json=body, auth=town.basic(CAMERA)))
                await messages.get()
            await open_gate(town, read, signed_command(CAMERA, datetime.now(UTC)))
            assert [info(await first), info(await second)] == ["ok", "ok"]


async def test_a_plate_in_gbk_is_read_as_it_was_meant(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        body = json.dumps(push_body("京A·12345"), ensure_ascii=False).encode("gbk")
        assert info(await town.push(body)) == "ok"
        assert (await town.running.event(PlateRead)).message.plate == "京A·12345"


async def test_spoilt_details_cost_a_record_nothing(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        body = push_body("京A12345", colorType={}, type=[], confidence="high", direction=None)
        body["AlarmInfoPlate"]["channel"] = "3"
        answer = await town.push(body)
        assert (info(answer), answer.json()["Response_AlarmInfoPlate"]["channelNum"]) == ("ok", 3)
        read = (await town.running.event(PlateRead)).message
        assert (read.plate_colour, read.plate_class, read.confidence) == ("", "", -1)


async def test_a_read_from_long_ago_or_from_the_future_keeps_both_times(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        before = datetime.now(UTC)
        for age in (timedelta(days=365), timedelta(days=-3)):
            at = before.replace(microsecond=120000) - age
            await town.push(push_body("京H12345", at))
            read = town.running.events(PlateRead)[-1].message
            assert read.occurred_at.ToDatetime(UTC) == at
            assert before <= read.received_at.ToDatetime(UTC) <= datetime.now(UTC)
        await town.push(push_body("京H12345", timeStamp={"Timeval": {"sec": 12}}))
        read = town.running.events(PlateRead)[-1].message
        assert read.occurred_at == read.received_at  # A clock that was never set says nothing.


async def test_a_camera_that_numbers_its_plates_anew_loses_no_record(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        now = datetime.now(UTC)
        for minute in range(2):
            await town.push(push_body("京A12345", now + timedelta(minutes=minute), plateid=1))
        assert await stored(servers) == 2


async def test_pictures_are_kept_by_their_content_and_only_named_in_the_event(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        pictures: dict[str, Any] = {"imageFile": base64.b64encode(JPEG).decode(), "imageFragmentFile": base64.b64encode(PNG).decode()}
        assert info(await town.push(push_body("京A12345", **pictures))) == "ok"
        read = (await town.running.event(PlateRead)).message
        assert [(tmp_path / key).read_bytes() for key in read.image_keys] == [JPEG, PNG]
        assert all(key.startswith(f"{town.community_id}/{datetime.now(UTC):%Y-%m-%d}/") for key in read.image_keys)
        assert [Path(key).suffix for key in read.image_keys] == [".jpg", ".png"]


async def test_what_is_no_picture_is_left_out_and_the_record_is_not(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        for odd in (b"", b"GIF89a", b"\xff\xd8\xff" * 2_000_000):
            assert info(await town.push(push_body("京A12345", imageFile=base64.b64encode(odd).decode()))) == "ok"
        assert info(await town.push(push_body("京A12345", imageFile="!!!", imageFragmentFile=7))) == "ok"
        assert not any(event.message.image_keys for event in town.running.events(PlateRead))


async def test_a_broken_blob_store_costs_the_record_nothing_but_its_pictures(servers: Servers, tmp_path: Path) -> None:
    images = tmp_path / "images"
    async with fleet(servers, images, PARKING) as town:
        (images / str(town.community_id)).write_text("a file where the folder should be")
        body = push_body("京A12345", imageFile=base64.b64encode(JPEG).decode())
        assert info(await town.push(body)) == "ok"
        assert not (await town.running.event(PlateRead)).message.image_keys


async def test_a_heartbeat_opens_nothing_and_shows_that_the_camera_lives(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        bodies: list[Any] = [{"heartbeat": {"serialno": CAMERA}}, {"heartbeat": 1}, {"heartbeat": None, "serialno": CAMERA}]
        for body in bodies:
            answer = await town.push(body)
            assert (answer.status_code, answer.json()) == (200, {})
        assert (await town.push({"heartbeat": {"serialno": "another"}})).status_code == 401
        assert not town.running.events(PlateRead)
        await town.turn()
        assert (await town.device(CAMERA)).online


async def test_a_camera_that_can_only_be_given_an_address_signs_in_with_a_token(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path, PARKING) as town:
        address = f"/devices/plate?device={CAMERA}&token={town.secrets[CAMERA]}"
        assert info(await town.http.post(address, json=push_body("京A12345"))) == "ok"


async def test_whoever_cannot_show_who_it_is_gets_the_same_answer_whatever_is_wrong(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.register("disabled", Kind.PLATE_CAMERA)
        await town.caller.call(f"{INGEST}/DisableDevice", DisableDeviceRequest(device_id="disabled"))
        right = town.secrets
        body = push_body("京A12345")
        attempts: list[tuple[str, dict[str, Any]]] = [
            ("", {}),
            ("", {"auth": httpx.BasicAuth("nobody", "x")}),
            ("", {"auth": httpx.BasicAuth(CAMERA, "wrong")}),
            ("", {"auth": httpx.BasicAuth("disabled", right["disabled"])}),
            ("", {"auth": httpx.BasicAuth(EDGE_BOX, right[EDGE_BOX])}),
            ("", {"auth": httpx.BasicAuth("é" * 100, "\x00")}),
            ("", {"headers": {"Authorization": "Basic !!!"}}),
            ("", {"headers": {"Authorization": b"Basic \x80"}}),
            ("", {"headers": {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()}}),
            ("", {"headers": {"Authorization": "Bearer token"}}),
            (f"?device={CAMERA}&token=wrong", {}),
            ("?token=&device=", {}),
            ("?" + "&".join(f"a{i}=1" for i in range(100)), {}),
            ("?%ff%00", {}),
        ]
        for query, options in attempts:
            answer = await town.http.post(f"/devices/plate{query}", json=body, **options)
            assert (answer.status_code, answer.json()["code"]) == (401, "ingest.credential_refused"), (query, options)
        foreign = await town.push(push_body("京A12345", serial="another"))
        assert (foreign.status_code, foreign.json()["code"]) == (401, "ingest.credential_refused")
        assert not town.running.events(PlateRead)


async def test_a_new_secret_works_at_once_and_the_old_one_does_not(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        old = town.basic(CAMERA)
        assert (await town.http.post("/devices/plate", json={"heartbeat": {}}, auth=old)).status_code == 200
        rotated = await town.caller.call(f"{INGEST}/RotateSecret", RotateSecretRequest(device_id=CAMERA))

        async def refused() -> bool:
            return (await town.http.post("/devices/plate", json={"heartbeat": {}}, auth=old)).status_code == 401

        await eventually(refused, deadline_s=2)
        fresh = httpx.BasicAuth(CAMERA, rotated.secret)
        assert (await town.http.post("/devices/plate", json={"heartbeat": {}}, auth=fresh)).status_code == 200


async def test_a_body_that_is_no_push_is_refused_with_a_stable_code(servers: Servers, tmp_path: Path) -> None:
    cases = [
        (b"{", 400, "ingest.body_malformed"),
        (b"", 400, "ingest.body_malformed"),
        (b"[]", 400, "ingest.body_malformed"),
        (b"\xff\xfe\xfd", 400, "ingest.body_malformed"),
        (b"[" * 100_000, 400, "ingest.body_malformed"),
        (b'{"AlarmInfoPlate": []}', 400, "ingest.no_plate_result"),
        (b'{"AlarmInfoPlate": {"result": {"PlateResult": "x"}}}', 400, "ingest.no_plate_result"),
        (b'{"something": 1}', 400, "ingest.no_plate_result"),
        (b" " * (10 * 1024 * 1024), 413, "ingest.body_too_large"),
    ]
    async with fleet(servers, tmp_path) as town:
        for body, status, code in cases:
            answer = await town.push(body)
            assert (answer.status_code, answer.json()["code"]) == (status, code), body[:60]
            assert answer.json()["message"]
            assert answer.json()["message_zh"]


async def test_a_body_that_grows_without_saying_how_long_it_is_stops_at_the_limit(servers: Servers, tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b" " * 65536

    async with fleet(servers, tmp_path) as town:
        try:
            answer = await town.http.post("/devices/plate", content=endless(), auth=town.basic(CAMERA))
            assert answer.status_code == 413
        except (httpx.WriteError, httpx.ReadError):
            pass  # Hung up on in the middle, which stops it as well.
        assert (await town.push({"heartbeat": {}})).status_code == 200


async def test_a_camera_gone_mad_is_told_to_slow_down(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.configure_lane(CAMERA, CAMERA, limit_ms=1000)
        now = datetime.now(UTC)
        pushes = (town.push(push_body(UNDECIDED, now + timedelta(seconds=i))) for i in range(CAMERA_LIMIT.in_flight_max + 20))
        answers = await asyncio.gather(*pushes)
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 20
        assert {answer.json()["code"] for answer in refused} == {"ingest.too_many_in_flight"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert info(await town.push(push_body(UNDECIDED))) == "late"


async def test_without_the_broker_the_camera_is_told_to_come_again_and_its_record_is_kept_once(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.configure_lane(CAMERA, CAMERA, limit_ms=300)
        body = push_body(UNDECIDED)
        servers.nats.kill()
        try:
            answers = [await town.push(body) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [503, 503]
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
        finally:
            servers.nats.restart()

        async def taken() -> bool:
            return (await town.push(body)).status_code == 200

        await eventually(taken)
        assert await stored(servers) == 1


async def test_without_the_broker_a_lane_that_opens_offline_opens_and_reports_it_afterwards(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        await town.configure_lane(CAMERA, CAMERA, limit_ms=300, opens_offline=True)
        servers.nats.kill()
        try:
            assert info(await town.push(push_body(UNDECIDED))) == "ok"
        finally:
            servers.nats.restart()

        async def reported() -> bool:
            return await stored(servers, "DEVICE_GATE") == 1

        await eventually(reported)


async def test_unknown_paths_and_methods_have_their_own_answers(servers: Servers, tmp_path: Path) -> None:
    async with fleet(servers, tmp_path) as town:
        answers = [await town.http.get("/devices/plate"), await town.http.post("/devices/nothing")]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
            (405, "ingest.method_not_allowed"),
            (404, "ingest.no_such_path"),
        ]
