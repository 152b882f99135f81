"""Barrier gates and door terminals on MQTT: how an open command reaches one, and how a terminal hears that a door stays shut.

A command goes to `devices/<id>/commands`, to whoever listens now: it is kept nowhere, for it must not come late. As long as it is valid
and the device has not answered it is sent again, because NATS delivers it to MQTT at most once. The device's own counter makes the
repetition harmless. What a device answers is heard in `acknowledgements`.

Parking's key opens gates, access's opens doors, never the other way round.
"""

import asyncio
import base64
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec
from prometheus_client import Counter

from linli.device.v1.commands_pb2 import SignedCommand
from servicekit import telemetry
from servicekit.clock import Clock
from servicekit.commands import LIFETIME, CommandKeys, OpenCommand
from servicekit.messaging import Publisher
from services.ingest.devices import Kind
from services.ingest.intake import Background
from services.ingest.registry import Registry

_AGAIN_S = 1.0
_CLOSE_S = 1.5
# A rush of some hundred people a second, whose terminals all keep silent.
_WAITING_MAX = 10_000
_TRACES_MAX = 1000
_TOPIC = "devices/{device_id}/commands"
_SENDING = {
    "messaging.system": "nats",
    "messaging.operation.type": "send",
    "messaging.operation.name": "publish",
    "messaging.destination.template": _TOPIC,
}

DROPPED = Counter("linli_ingest_commands_dropped_total", "Open commands, and refusals, that were not sent to their device", ["reason"])


class Openings:
    """The commands that wait for their device's answer."""

    def __init__(self, keys: Mapping[Kind, CommandKeys], registry: Registry, publisher: Publisher, clock: Clock) -> None:
        """`keys` are those of whoever decides, for each kind of device that can be opened."""
        self._keys = keys
        self._registry = registry
        self._publisher = publisher
        self._clock = clock
        self._waiting: dict[tuple[str, str], asyncio.Event] = {}
        # The traces of commands whose devices have not answered, where they are sampled.
        self._traces: dict[tuple[str, str], str] = {}
        self._sending = Background()

    def read(self, kind: Kind, device_id: str, signed: SignedCommand) -> OpenCommand | None:
        """The command, or None when it is not for this device, or not signed by whoever decides on devices of this kind."""
        command = self._keys[kind].read(signed)
        return command if command is not None and command.device_id == device_id else None

    async def open(self, kind: Kind, community_id: UUID, device_id: str, signed: SignedCommand, said: Mapping[str, str]) -> None:
        """Sends a command, with what is `said` beside it, until its device answers or it expires.

        Nobody waits for that, least of all the next command to this device. What is not genuine, comes late, or is for no device of this
        kind in this community is counted and dropped. Raises Unavailable.
        """
        command = self.read(kind, device_id, signed)
        reason = ""
        if not await self._is_there(kind, community_id, device_id):
            reason = "no_such_device"
        elif command is None:
            reason = "not_genuine"
        elif command.expires_at < self._clock():
            reason = "expired"
        elif len(self._waiting) >= _WAITING_MAX:
            reason = "too_many"
        if command is None or reason:
            _drop(device_id, reason)
            return
        body = {"command": _text(signed.command), "signature": _text(signed.signature), "key_id": signed.key_id, **said}
        self._sending.start(self._send(command, msgspec.json.encode(body)))

    async def refuse(self, kind: Kind, community_id: UUID, device_id: str, decided_at: datetime, said: Mapping[str, str]) -> None:
        """Tells a device once that it stays shut, and why; nobody stands there any more when that is late. Raises Unavailable."""
        if not await self._is_there(kind, community_id, device_id):
            _drop(device_id, "no_such_device")
        elif decided_at + LIFETIME < self._clock():
            _drop(device_id, "expired")
        else:
            await self._tell(device_id, msgspec.json.encode(said))

    def note_trace(self, kind: Kind, device_id: str, signed: SignedCommand) -> None:
        """Notes that the present trace is a command's. Devices send no trace with their answers, and any instance may hear them."""
        if telemetry.is_sampled() and (command := self.read(kind, device_id, signed)) is not None:
            while len(self._traces) >= _TRACES_MAX:
                del self._traces[next(iter(self._traces))]
            # Where it is sent from, it may have been sent before we hear of it.
            self._traces.setdefault((device_id, command.command_id), telemetry.traceparent())

    def trace_of(self, device_id: str, command_id: str) -> str:
        """The `traceparent` of a command that a device answers; empty when it is not known, or nobody samples it."""
        return self._traces.pop((device_id, command_id), "")

    def answered(self, device_id: str, command_id: str) -> None:
        """Notes that a device has said what it did with a command."""
        waiting = self._waiting.get((device_id, command_id))
        if waiting is not None:
            waiting.set()

    async def close(self) -> None:
        """Sends no more, but for a device that has not answered yet: its connection may have been gone for a moment."""
        await self._sending.stop(_CLOSE_S)

    async def _is_there(self, kind: Kind, community_id: UUID, device_id: str) -> bool:
        # The community matters: a lane or a door may name any device, and must not open a stranger's.
        known = await self._registry.find(device_id)
        return known is not None and known.community_id == community_id and known.kind == kind and not known.disabled

    async def _send(self, command: OpenCommand, body: bytes) -> None:
        key = (command.device_id, command.command_id)
        answered = self._waiting.setdefault(key, asyncio.Event())
        try:
            while not answered.is_set() and self._left_s(command.expires_at) > 0:
                await self._tell(command.device_id, body, command.command_id)
                try:
                    async with asyncio.timeout(min(_AGAIN_S, self._left_s(command.expires_at))):
                        await answered.wait()
                except TimeoutError:
                    pass
        finally:
            self._waiting.pop(key, None)

    async def _tell(self, device_id: str, body: bytes, command_id: str = "") -> None:
        with telemetry.span(f"publish {_TOPIC}", telemetry.SpanKind.PRODUCER, _SENDING) as span:
            if span is not None and command_id:
                self._traces[device_id, command_id] = telemetry.traceparent()
            await self._publisher.send_now(f"devices.{device_id}.commands", body)

    def _left_s(self, expires_at: datetime) -> float:
        return (expires_at - self._clock()).total_seconds()


def _drop(device_id: str, reason: str) -> None:
    DROPPED.labels(reason).inc()
    telemetry.log.warning("command_dropped", device=device_id, reason=reason)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
