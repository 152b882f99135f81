"""The local NATS server: what JetStream keeps, its optional listeners, and what it says when it cannot start."""

import asyncio
import json
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import nats as client
import pytest

from infra.local.nats import NatsServer, start_nats
from infra.local.process import LocalServerError

Start = Callable[..., NatsServer]


async def publish(server: NatsServer, count: int) -> None:
    connection = await client.connect(server.url, allow_reconnect=False)
    stream = connection.jetstream()
    await stream.add_stream(name="plates", subjects=["plates.>"])
    for number in range(count):
        await stream.publish("plates.read", str(number).encode())
    await connection.close()


async def stored(server: NatsServer) -> int:
    connection = await client.connect(server.url, allow_reconnect=False)
    information = await connection.jetstream().stream_info("plates")
    await connection.close()
    return information.state.messages


def greets(server: NatsServer, user: str, password: str) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=5) as connection, connection.makefile("rb") as lines:
        lines.readline()
        options = json.dumps({"user": user, "pass": password, "verbose": False})
        connection.sendall(f"CONNECT {options}\r\nPING\r\n".encode())
        return lines.readline()


def test_a_second_run_continues_with_the_messages_and_the_addresses_of_the_first(tmp_path: Path, nats: Start) -> None:
    first = nats(tmp_path, mqtt_port=0, monitor_port=0)
    asyncio.run(publish(first, 10))
    first.stop()

    second = nats(tmp_path, mqtt_port=0, monitor_port=0)

    assert second.url == first.url
    assert (second.mqtt_port, second.monitor_port) == (first.mqtt_port, first.monitor_port)
    assert asyncio.run(stored(second)) == 10


def test_messages_that_were_acknowledged_are_there_after_a_crash(tmp_path: Path, nats: Start) -> None:
    server = nats(tmp_path)
    asyncio.run(publish(server, 100))
    address = server.url

    server.kill()
    server.restart()

    assert server.url == address
    assert asyncio.run(stored(server)) == 100


def test_a_taken_port_is_left_to_its_holder(tmp_path: Path, nats: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        asked = holder.getsockname()[1]
        server = nats(tmp_path, port=asked)
        used = server.port
        assert used != asked
        asyncio.run(publish(server, 1))
        server.stop()

    assert nats(tmp_path, port=asked).port == used


def test_devices_find_an_mqtt_listener_and_operators_a_monitor_when_asked_for(tmp_path: Path, nats: Start) -> None:
    server = nats(tmp_path, mqtt_port=0, monitor_port=0)

    with socket.create_connection((server.host, server.mqtt_port or 0), timeout=5) as device:
        device.sendall(bytes.fromhex("10 0d 0004 4d515454 04 02 003c 0001 61"))  # CONNECT, clean session, client "a"
        assert device.recv(4) == bytes.fromhex("20 02 00 00")
    with urllib.request.urlopen(f"http://{server.host}:{server.monitor_port}/varz", timeout=5) as answer:
        figures = json.load(answer)
    assert figures["max_payload"] == 8 * 1024 * 1024
    assert figures["host"] == "127.0.0.1"


def test_without_being_asked_for_there_is_no_mqtt_listener_and_no_monitor(tmp_path: Path, nats: Start) -> None:
    server = nats(tmp_path)

    assert (server.mqtt_port, server.monitor_port) == (None, None)


def test_the_callers_accounts_are_in_force(tmp_path: Path, nats: Start) -> None:
    server = nats(tmp_path, configuration='authorization { user: "parking", password: "a secret of the caller" }')

    assert greets(server, "parking", "a secret of the caller") == b"PONG\r\n"
    assert greets(server, "parking", "guess") == b"-ERR 'Authorization Violation'\r\n"
    assert (tmp_path / "nats.conf").stat().st_mode & 0o077 == 0


def test_a_mistake_in_the_configuration_is_shown_and_leaves_the_folder_free(tmp_path: Path, nats: Start) -> None:
    with pytest.raises(LocalServerError, match=r"server\.log ends with:\n(.*\n)*.*no_such_setting"):
        start_nats(tmp_path, configuration="no_such_setting: 1")

    asyncio.run(publish(nats(tmp_path), 1))


def test_a_folder_in_use_is_refused(tmp_path: Path, nats: Start) -> None:
    nats(tmp_path)

    with pytest.raises(LocalServerError, match="in use by process"):
        start_nats(tmp_path)


def test_a_path_with_spaces_quotes_and_chinese_characters_is_fine(tmp_path: Path, nats: Start) -> None:
    server = nats(tmp_path / 'it\'s 邻里 "$HOME" 数据 %s\\n')
    asyncio.run(publish(server, 1))
    server.restart()

    assert asyncio.run(stored(server)) == 1
