"""Barrier gates on MQTT: how an open command reaches one.

A command goes to `devices/<id>/commands`, to whoever listens now: it is kept nowhere, for it must not come late. As long as it is valid
and the gate has not answered it is sent again, because NATS delivers it to MQTT at most once. The gate's own counter makes the repetition
harmless. What a gate answers is heard in `acknowledgements`.
"""

import asyncio
import base64
from datetime import datetime

import msgspec
from prometheus_client import Counter

from linli.parking.v1.events_pb2 import SignedCommand
from servicekit import telemetry
from servicekit.clock import Clock
from servicekit.messaging import Publisher
from services.ingest.commands import GateKeys, OpenCommand
from services.ingest.devices import Kind
from services.ingest.intake import Background
from services.ingest.registry import Registry

_AGAIN_S = 1.0
_WAITING_MAX = 1000

DROPPED = Counter("linli_ingest_commands_dropped_total", "Open commands that were not sent to their gate", ["reason"])


class Gates:
    """The commands that wait for their gate's answer."""

    def __init__(self, keys: GateKeys, registry: Registry, publisher: Publisher, clock: Clock) -> None:
        self.keys = keys
        self._registry = registry
        self._publisher = publisher
        self._clock = clock
        self._waiting: dict[tuple[str, str], asyncio.Event] = {}
        self._sending = Background()

    async def command_for(self, community_id: object, gate_device_id: str, signed: SignedCommand) -> OpenCommand | None:
        """The command, if it is for this gate and the gate is one on MQTT of this community. What is not, or comes late, is counted.

        The community matters: a lane may name any gate, and must not open a stranger's. Raises Unavailable.
        """
        known = await self._registry.find(gate_device_id)
        command = self.keys.read(signed)
        reason = ""
        if known is None or known.community_id != community_id or known.disabled or known.kind != Kind.GATE:
            reason = "no_such_gate"
        elif command is None or command.gate_device_id != gate_device_id:
            reason = "not_genuine"
        elif command.expires_at < self._clock():
            reason = "expired"
        if reason:
            DROPPED.labels(reason).inc()
            telemetry.log.warning("command_dropped", gate=gate_device_id, reason=reason)
            return None
        return command

    def send(self, command: OpenCommand, signed: SignedCommand) -> None:
        """Sends a command until its gate answers or it expires; nobody waits for that, least of all the lane's next command."""
        self._sending.start(self._send(command, signed))

    async def close(self) -> None:
        """Sends no more."""
        await self._sending.stop(0)

    async def _send(self, command: OpenCommand, signed: SignedCommand) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            DROPPED.labels("too_many").inc()
            return
        key = (command.gate_device_id, command.command_id)
        answered = self._waiting.setdefault(key, asyncio.Event())
        body = msgspec.json.encode({"command": _text(signed.command), "signature": _text(signed.signature), "key_id": signed.key_id})
        try:
            while not answered.is_set() and self._left_s(command.expires_at) > 0:
                await self._publisher.send_now(f"devices.{command.gate_device_id}.commands", body)
                try:
                    async with asyncio.timeout(min(_AGAIN_S, self._left_s(command.expires_at))):
                        await answered.wait()
                except TimeoutError:
                    pass
        finally:
            self._waiting.pop(key, None)

    def answered(self, gate_device_id: str, command_id: str) -> None:
        """Notes that a gate has said what it did with a command."""
        waiting = self._waiting.get((gate_device_id, command_id))
        if waiting is not None:
            waiting.set()

    def _left_s(self, expires_at: datetime) -> float:
        return (expires_at - self._clock()).total_seconds()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
