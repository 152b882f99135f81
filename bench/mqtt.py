"""Lean MQTT 3.1.1 clients: a device costs a full client library more than it costs the platform."""

import asyncio
import itertools
import struct
from collections.abc import Callable
from typing import Any, Self

_CONNACK, _PUBLISH, _PUBACK, _SUBACK = 0x20, 0x30, 0x40, 0x90
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
    async def connect(cls, host: str, port: int, device_id: str, secret: str) -> Self:
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

    def tell(self, topic: str, payload: bytes) -> None:
        """Sends a message with QoS 0: nobody says whether it came."""
        self._send(_PUBLISH, _text(topic) + payload)

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
            self._acknowledged(kind, first, second)
        self._received = received[whole:]

    def _acknowledged(self, kind: int, first: int, second: int) -> None:
        waiting = self._waiting.pop(0 if kind == _CONNACK else first << 8 | second)
        if waiting.done():
            return
        if kind == _PUBACK or second == 0:
            waiting.set_result(None)
        else:
            waiting.set_exception(ConnectionError(f"refused: {second}"))

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error or ConnectionError("the broker has closed the connection"))
        self._waiting.clear()


class Listener(Device):
    """A device that hears, too."""

    def __init__(self) -> None:
        super().__init__()
        # Gets the payload of each message.
        self.hear: Callable[[bytes], None] = lambda _payload: None

    async def subscribe(self, topic: str) -> None:
        """Hears a topic, with QoS 0."""
        number = next(self._numbers)
        subscribed = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(0x82, struct.pack("!H", number) + _text(topic) + b"\0")
        async with asyncio.timeout(_TIMEOUT_S):
            await subscribed

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._received += data
        while (packet := self._next_packet()) is not None:
            kind, body = packet
            if kind & 0xF0 == _PUBLISH:
                self.hear(body[2 + (body[0] << 8 | body[1]) :])
            elif kind in (_CONNACK, _PUBACK):
                self._acknowledged(kind, body[0], body[1])
            elif kind == _SUBACK:
                self._acknowledged(_PUBACK, body[0], body[1])

    def _next_packet(self) -> tuple[int, bytes] | None:
        data, length, at = self._received, 0, 1
        while True:
            if at >= len(data):
                return None
            length |= (data[at] & 127) << 7 * (at - 1)
            at += 1
            if data[at - 1] < 128:
                break
        if len(data) < at + length:
            return None
        self._received = data[at + length :]
        return data[0], data[at : at + length]


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
