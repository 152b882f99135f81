"""A lean MQTT 3.1.1 client that publishes with QoS 1: a bin costs a full client library more than it costs the platform."""

import asyncio
import itertools
import struct
from typing import Any

_CONNACK, _PUBACK = 0x20, 0x40
_CLEAN_WITH_USER_AND_PASSWORD = 0xC2
_TIMEOUT_S = 10.0


class Device(asyncio.Protocol):
    """One signed-in device. It expects nothing from the broker but acknowledgements."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._received = b""
        self._numbers = itertools.cycle(range(1, 1 << 16))
        # What the broker has not acknowledged, by packet number; 0 is the sign-in.
        self._waiting: dict[int, asyncio.Future[None]] = {}

    @classmethod
    async def connect(cls, host: str, port: int, device_id: str, secret: str) -> "Device":
        """Signs in. Raises ConnectionError when the broker refuses."""
        loop = asyncio.get_running_loop()
        _, device = await loop.create_connection(cls, host, port)
        signed_in = device._waiting[0] = loop.create_future()
        body = _text("MQTT") + bytes([4, _CLEAN_WITH_USER_AND_PASSWORD, 0, 0]) + _text(device_id) * 2 + _text(secret)
        device._send(0x10, body)
        async with asyncio.timeout(_TIMEOUT_S):
            await signed_in
        return device

    def publish(self, topic: str, payload: bytes) -> "asyncio.Future[None]":
        """Sends a message with QoS 1. Done when the broker says that it is stored; at most 65,535 wait for that."""
        number = next(self._numbers)
        stored = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(0x32, _text(topic) + struct.pack("!H", number) + payload)
        return stored

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def _send(self, kind: int, body: bytes) -> None:
        self._transport.write(bytes([kind]) + _length(len(body)) + body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the event loop. What comes is four bytes long: a kind, a length of two, and two bytes."""
        received = self._received + data
        whole = len(received) // 4 * 4
        for kind, _, first, second in struct.iter_unpack("4B", received[:whole]):
            waiting = self._waiting.pop(0 if kind == _CONNACK else first << 8 | second)
            if waiting.done():
                continue
            if kind == _PUBACK or second == 0:
                waiting.set_result(None)
            else:
                waiting.set_exception(ConnectionError(f"refused: {second}"))
        self._received = received[whole:]

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error or ConnectionError("the broker has closed the connection"))
        self._waiting.clear()


def _text(text: str) -> bytes:
    body = text.encode()
    return struct.pack("!H", len(body)) + body


def _length(length: int) -> bytes:
    """Seven bits to a byte, the lowest first."""
    encoded = bytearray()
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)
