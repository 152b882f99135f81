"""Gates and sensors on MQTT, through a real broker with the accounts that the platform gives it."""

import asyncio
import base64
import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.js.api import RetentionPolicy

from linli.device.v1.events_pb2 import BinDeposited, GateAcknowledged, PlateRead
from linli.ingest.v1.ingest_pb2 import DisableDeviceRequest
from linli.parking.v1.events_pb2 import GateOpenRequested, LaneConfigured
from servicekit.database import Transaction
from servicekit.identifiers import new_id
from services.ingest import store
from services.ingest.device_messages import KEPT_UNDER, STREAM
from services.ingest.devices import Kind
from tests.ingest.broker import PASSWORDS, as_service, guarded_servers, mqtt, town_on_mqtt
from tests.ingest.fleet import CAMERA, EDGE_BOX, GATE, PARKING, Fleet, command_id, info, push_body, second_instance, signed_command
from tests.support import Servers, eventually, principal

COMMANDS = f"devices/{GATE}/commands"
ACKNOWLEDGEMENTS = f"devices/{GATE}/acknowledgements"


@pytest.fixture
def guarded(servers: Servers, tmp_path: Path) -> Iterator[Servers]:
    """The servers, with a guarded broker for each test."""
    with guarded_servers(servers, tmp_path) as own:
        yield own


async def open_by_hand(town: Fleet, gate: str, command: Any, community_id: uuid.UUID | None = None) -> None:
    event = GateOpenRequested(lane_id="lane-1", gate_device_id=gate, command=command)
    await town.publish(event, community_id)


async def next_message(client: aiomqtt.Client, seconds: float = 5) -> Any:
    async with asyncio.timeout(seconds):
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            return json.loads(message.payload)
    raise AssertionError("the broker hung up")


async def silence(client: aiomqtt.Client, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        await next_message(client, seconds)


async def acknowledge(client: aiomqtt.Client, identifier: str, outcome: str = "opened", topic: str = ACKNOWLEDGEMENTS, **more: Any) -> None:
    body = {"command_id": identifier, "outcome": outcome, "at": datetime.now(UTC).isoformat(), **more}
    await client.publish(topic, json.dumps(body), qos=1)


async def test_a_gate_gets_its_signed_command_and_its_answer_closes_the_loop(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path, PARKING) as town, mqtt(guarded, GATE, town.secrets[GATE]) as gate:
        await gate.subscribe(COMMANDS, qos=1)
        assert info(await town.push(push_body("京G12345"))) == "gate"
        sent = await next_message(gate)
        requested = (await town.running.event(GateOpenRequested)).message.command
        assert base64.b64decode(sent["command"]) == requested.command
        assert base64.b64decode(sent["signature"]) == requested.signature
        assert sent["key_id"] == "test"
        await acknowledge(gate, command_id(requested))
        answer = await town.running.event(GateAcknowledged)
        assert (answer.message.device_id, answer.message.command_id) == (GATE, command_id(requested))
        assert answer.message.outcome == GateAcknowledged.OUTCOME_OPENED
        assert answer.community_id == town.community_id


async def test_a_command_is_sent_again_until_the_gate_answers(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town:
        command = signed_command(GATE, datetime.now(UTC))
        await open_by_hand(town, GATE, command)
        async with mqtt(guarded, GATE, town.secrets[GATE]) as gate:  # It was away when the command was first sent.
            await gate.subscribe(COMMANDS)
            first = await next_message(gate)
            assert base64.b64decode(first["command"]) == command.command
            await acknowledge(gate, command_id(command))
            await town.running.event(GateAcknowledged)
            await silence(gate, 1.5)


async def test_a_command_that_comes_late_is_not_sent(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town, mqtt(guarded, GATE, town.secrets[GATE]) as gate:
        await gate.subscribe(COMMANDS)
        await open_by_hand(town, GATE, signed_command(GATE, datetime.now(UTC), lives_s=-0.1))
        await open_by_hand(town, GATE, signed_command("another", datetime.now(UTC)))
        timely = signed_command(GATE, datetime.now(UTC), lives_s=3)
        await open_by_hand(town, GATE, timely)
        assert base64.b64decode((await next_message(gate))["command"]) == timely.command
        # And not for longer than it is valid.
        for _ in range(2):
            assert base64.b64decode((await next_message(gate))["command"]) == timely.command
        await silence(gate, 1.5)


async def test_a_lane_of_another_community_cannot_open_the_gate(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town, mqtt(guarded, GATE, town.secrets[GATE]) as gate:
        await gate.subscribe(COMMANDS)
        await open_by_hand(town, GATE, signed_command(GATE, datetime.now(UTC)), new_id())
        await silence(gate, 1)


async def test_the_first_answer_of_a_gate_counts(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town, mqtt(guarded, GATE, town.secrets[GATE]) as gate:
        identifier = str(new_id())
        await acknowledge(gate, identifier, "opened")
        await acknowledge(gate, identifier, "refused")
        await acknowledge(gate, str(new_id()), "failed")
        await town.running.event(GateAcknowledged, lambda event: event.message.outcome == GateAcknowledged.OUTCOME_FAILED)
        client = await nats.connect(guarded.nats.url)
        kept = (await client.jetstream().stream_info("DEVICE_GATE")).state.messages
        await client.close()
        assert kept == 2


async def test_what_is_no_answer_of_a_gate_is_left_out(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town:
        good = str(new_id())
        async with mqtt(guarded, EDGE_BOX, town.secrets[EDGE_BOX]) as box:
            await acknowledge(box, str(new_id()), topic=f"devices/{EDGE_BOX}/acknowledgements")
        async with mqtt(guarded, GATE, town.secrets[GATE]) as gate:
            for body in (
                b"",
                b"{",
                b"[]",
                b"\xff\xfe",
                b"null",
                b'{"command_id": "x"}',
                b'{"command_id": 7, "outcome": "opened"}',
                b"[" * 3000,
            ):
                await gate.publish(ACKNOWLEDGEMENTS, body, qos=1)
            await acknowledge(gate, str(new_id()), "exploded")
            await acknowledge(gate, "a b", "opened")
            future = (datetime.now(UTC) + timedelta(days=1)).isoformat()
            await acknowledge(gate, good, at=future)
        answer = await town.running.event(GateAcknowledged)
        assert answer.message.command_id == good
        assert answer.message.occurred_at.ToDatetime(UTC) <= datetime.now(UTC)
        assert len(town.running.events(GateAcknowledged)) == 1


async def test_an_answer_that_comes_while_ingest_is_away_is_heard_afterwards(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town, mqtt(guarded, GATE, town.secrets[GATE]) as gate:
        identifier = str(new_id())
        await town.running.host.stop()
        await acknowledge(gate, identifier)
        async with second_instance(town):
            await town.running.event(GateAcknowledged, lambda event: event.message.command_id == identifier)


async def test_only_the_right_secret_connects(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town:
        await town.caller.call("linli.ingest.v1.IngestService/DisableDevice", DisableDeviceRequest(device_id=EDGE_BOX))
        right = town.secrets[GATE]
        for device_id, secret, client_id in [
            (GATE, "wrong", None),
            ("nobody", right, None),
            (EDGE_BOX, town.secrets[EDGE_BOX], None),
            ("", "", "anonymous"),
            (GATE, right, CAMERA),  # A session belongs to its client id.
            ("parking", PASSWORDS["parking"], None),  # A service's password is none for MQTT.
        ]:
            with pytest.raises(aiomqtt.MqttError):
                async with mqtt(guarded, device_id, secret, client_id=client_id):
                    pass
        async with mqtt(guarded, GATE, right):
            pass
        await town.turn()
        assert (await town.device(GATE)).online
        # A device's secret is none for NATS itself.
        client = NatsClient()
        with pytest.raises(nats.errors.Error):
            await client.connect(f"nats://{GATE}:{right}@{guarded.nats.host}:{guarded.nats.port}", allow_reconnect=False)
        await client.close()


async def test_devices_that_come_back_at_once_are_looked_up_together(
    guarded: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town:
        secrets = {f"bin-{number}": await town.register(f"bin-{number}", Kind.BIN) for number in range(40)}
        look_up, looked_up = store.select_known_devices, list[int]()

        async def counted(tx: Transaction, device_ids: Sequence[str]) -> Any:
            looked_up.append(len(device_ids))
            return await look_up(tx, device_ids)

        monkeypatch.setattr(store, "select_known_devices", counted)
        async with AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(mqtt(guarded, *each)) for each in secrets.items()))
        assert len(looked_up) < len(secrets)
        await town.turn()
        assert all([(await town.device(device_id)).online for device_id in secrets])


async def test_what_the_broker_has_acknowledged_outlives_its_death(guarded: Servers, tmp_path: Path) -> None:
    acknowledged: set[str] = set()

    async def weigh(client: aiomqtt.Client, worker: int) -> None:
        for number in itertools.count():
            await client.publish("devices/bin-1/deposit", json.dumps({"id": f"{worker}-{number}", "grams": 500}), qos=1)
            acknowledged.add(f"{worker}-{number}")

    async def many_are_acknowledged() -> bool:
        return len(acknowledged) >= 300

    async with town_on_mqtt(guarded, tmp_path) as town:
        secret = await town.register("bin-1", Kind.BIN)
        with suppress(aiomqtt.MqttError):
            async with mqtt(guarded, "bin-1", secret) as client:
                workers = [asyncio.create_task(weigh(client, worker)) for worker in range(16)]
                await eventually(many_are_acknowledged)
                guarded.nats.kill()
                for worker in workers:
                    worker.cancel()
                async for _ in client.messages:
                    pass
        guarded.nats.restart()

        async def all_is_passed_on() -> bool:
            return acknowledged <= await passed_on(guarded)

        await eventually(all_is_passed_on)


async def passed_on(guarded: Servers) -> set[str]:
    """The records of all deposits that were passed on."""
    client = await nats.connect(guarded.nats.url)
    try:
        stream = client.jetstream()
        state = (await stream.stream_info("DEVICE_DEPOSIT")).state
        kept = await asyncio.gather(*(stream.get_msg("DEVICE_DEPOSIT", number + 1) for number in range(state.messages)))
        return {BinDeposited.FromString(message.data or b"").record_id for message in kept}
    finally:
        await client.close()


async def test_without_ingest_no_device_connects_and_those_that_have_stay(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town:
        secret = town.secrets[GATE]
        box = mqtt(guarded, EDGE_BOX, town.secrets[EDGE_BOX])
        await box.__aenter__()
    with pytest.raises(aiomqtt.MqttError):
        async with mqtt(guarded, GATE, secret):
            pass
    await box.publish(f"devices/{EDGE_BOX}/heartbeat", b"", qos=1)
    await box.__aexit__(None, None, None)


async def test_a_heartbeat_over_mqtt_shows_that_the_gate_lives(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town, mqtt(guarded, GATE, town.secrets[GATE]) as gate:
        await gate.publish(f"devices/{GATE}/heartbeat", b"", qos=0)

        async def online() -> bool:
            await town.turn()
            return (await town.device(GATE)).online

        await eventually(online)


async def test_a_device_reaches_no_topic_but_its_own(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town, mqtt(guarded, EDGE_BOX, town.secrets[EDGE_BOX]) as box:
        heard: list[str] = []
        operator = await nats.connect(guarded.nats.url)

        async def hear(message: Any) -> None:
            heard.append(message.subject)

        for topic in (
            COMMANDS,
            "devices/+/commands",
            "devices/*/commands",
            "#",
            "devices/#",
            f"devices/{EDGE_BOX}/heartbeat",
            "$SYS/#",
            "$MQTT/#",
            "linli/#",
        ):
            refused = await box.subscribe(topic, qos=1)
            assert [code.value for code in refused] == [128], topic  # type: ignore[union-attr]
        async with mqtt(guarded, GATE, town.secrets[GATE]) as gate:
            await gate.subscribe(COMMANDS)
            for subject in ("linli.>", "device.>"):
                await operator.subscribe(subject, cb=hear)
            await operator.flush()
            for topic in (
                COMMANDS,
                ACKNOWLEDGEMENTS,
                f"devices/{EDGE_BOX}/commands",
                f"linli/parking/GateOpenRequested/{town.community_id}",
                f"device/{town.community_id}/plate/x",
                "$SYS/REQ/USER/AUTH",
                "$JS/API/STREAM/LIST",
            ):
                for qos in (0, 1):
                    await box.publish(topic, json.dumps({"command_id": "forged", "outcome": "opened"}), qos=qos)
            await silence(gate, 1)
        assert not heard
        assert not town.running.events(GateAcknowledged)
        await operator.close()


async def test_a_device_cannot_fill_the_brokers_disk(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path) as town:
        secret = town.secrets[EDGE_BOX]
        async with mqtt(guarded, EDGE_BOX, secret) as box:
            for number in range(20):
                await box.publish(f"devices/{EDGE_BOX}/made-up-{number}", b"x" * 1000, qos=1, retain=True)
            await box.publish(f"devices/{EDGE_BOX}/heartbeat", b"x", qos=1, retain=True)
        async with mqtt(guarded, EDGE_BOX, secret) as box:
            sending = asyncio.create_task(box.publish(f"devices/{EDGE_BOX}/heartbeat", b"x" * 1000, qos=2))
            with pytest.raises(aiomqtt.MqttError):
                await asyncio.wait_for(box._disconnected, 5)
            sending.cancel()
        operator = await nats.connect(guarded.nats.url)
        kept = {stream.config.name: stream.state.messages for stream in await operator.jsm().streams_info()}
        # Of what it may say the broker keeps the last, of what it makes up nothing.
        assert kept["$MQTT_rmsgs"] == 1
        assert kept["$MQTT_qos2in"] == 0
        await operator.close()


async def test_devices_are_heard_beside_a_stream_of_messages_that_only_the_operator_may_change(guarded: Servers, tmp_path: Path) -> None:
    operator = await nats.connect(guarded.nats.url)
    # As NATS makes it by itself.
    await operator.jetstream().add_stream(name=STREAM, subjects=[f"{KEPT_UNDER}>"], retention=RetentionPolicy.INTEREST)
    async with town_on_mqtt(guarded, tmp_path) as town:
        async with mqtt(guarded, GATE, town.secrets[GATE]) as gate:
            await acknowledge(gate, str(uuid.uuid4()))
            await town.running.event(GateAcknowledged)
        errors: list[str] = []
        ingest = await as_service(guarded, "ingest", errors)
        await ingest.publish(f"$JS.API.STREAM.UPDATE.{STREAM}", b"{}")
        await ingest.flush()
        await eventually(lambda: _any(errors))
        await ingest.close()
    assert (await operator.jetstream().stream_info(STREAM)).config.max_bytes == -1
    await operator.close()


async def test_a_service_publishes_and_hears_what_it_declares_and_nothing_else(guarded: Servers, tmp_path: Path) -> None:
    async with town_on_mqtt(guarded, tmp_path, PARKING) as town:
        errors: list[str] = []
        parking = await as_service(guarded, "parking", errors)
        community = principal().community_id
        for subject in (
            f"linli.billing.PaymentSucceeded.{community}",
            f"linli.parking.VehicleEntered.{community}",  # Not declared by the stand-in.
            f"device.{community}.plate.camera",
            f"devices.{GATE}.commands",
            "$SYS.REQ.USER.AUTH",
            "$SYS.REQ.SERVER.PING",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.DELETE.LINLI_PARKING",
            "$JS.API.CONSUMER.CREATE.DEVICE_READINGS.x",
            "_INBOX.ingest.x",
        ):
            errors.clear()
            await parking.publish(subject, b"{}")
            await parking.flush()
            await eventually(lambda: _any(errors), subject)
            assert "permissions violation for publish" in errors[0].lower()
        for subject in (
            ">",
            "linli.>",
            "device.>",
            "devices.>",
            "_INBOX.>",
            "_INBOX.ingest.>",
            "$SYS.>",
            "$SYS.REQ.USER.AUTH",
            "deliver.>",
            "$MQTT.>",
        ):
            errors.clear()
            await parking.subscribe(subject)
            await parking.flush()
            await eventually(lambda: _any(errors), subject)
            assert "permissions violation for subscription" in errors[0].lower()
        await parking.close()
        # What it declares goes through: the whole way from the camera's push to the answer ran on these permissions.
        assert info(await town.push(push_body("京A12345"))) == "ok"
        assert town.running.events(PlateRead)


async def _any(errors: list[str]) -> bool:
    return bool(errors)


async def test_everything_that_ingest_does_on_nats_is_allowed_to_it(
    guarded: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with town_on_mqtt(guarded, tmp_path, PARKING) as town:
        lane = LaneConfigured(lane_id="l", camera_device_id=CAMERA, gate_device_id=GATE, decision_limit_ms=500)
        await town.publish(lane)
        await town.configure_lane(CAMERA, CAMERA)
        await town.set_zone("Asia/Urumqi")
        assert info(await town.push(push_body("京A12345"))) == "ok"
        await town.running.event(GateAcknowledged)
    written = capsys.readouterr()
    assert "violation" not in (written.out + written.err).lower()
    assert "Permissions Violation" not in (tmp_path / "nats" / "server.log").read_text()
