"""A barrier gate on MQTT: checks each command's signature, addressee, counter and expiry before it opens, and says what it did."""

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime

import aiomqtt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from linli.device.v1.commands_pb2 import DeviceCommand

_RECONNECT_S = 0.5


class Gate:
    """One gate. `on_open` is told each time it opens."""

    def __init__(self, host: str, port: int, device_id: str, secret: str, public_key: str, on_open: Callable[[str], None]) -> None:
        self.device_id = device_id
        self.opened: list[str] = []
        self.refused: list[str] = []
        self.connected = asyncio.Event()
        self._host, self._port, self._secret = host, port, secret
        self._key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key))
        self._counter = 0
        self._on_open = on_open
        self._moved = asyncio.Condition()

    async def run(self) -> None:
        """Obeys until it is cancelled, and comes back however often the broker goes away."""
        while True:
            try:
                async with aiomqtt.Client(
                    self._host, self._port, username=self.device_id, password=self._secret, identifier=self.device_id, keepalive=15
                ) as client:
                    await client.subscribe(f"devices/{self.device_id}/commands", qos=1)
                    self.connected.set()
                    async for message in client.messages:
                        if isinstance(message.payload, bytes):
                            await self._obey(client, message.payload)
            except aiomqtt.MqttError:
                self.connected.clear()
                await asyncio.sleep(_RECONNECT_S)

    async def opens_beyond(self, count: int, within_s: float) -> bool:
        """Whether the gate has opened more than `count` times, now or within the time."""
        async with self._moved:
            try:
                await asyncio.wait_for(self._moved.wait_for(lambda: len(self.opened) > count), within_s)
            except TimeoutError:
                return False
        return True

    async def _obey(self, client: aiomqtt.Client, payload: bytes) -> None:
        command, outcome = self.judge(payload, datetime.now(UTC))
        if command is None:
            return
        if outcome == "opened":
            self._counter = command.counter
            self.opened.append(command.command_id)
            self._on_open(command.command_id)
            async with self._moved:
                self._moved.notify_all()
        else:
            self.refused.append(command.command_id)
        answer = {"command_id": command.command_id, "outcome": outcome, "at": datetime.now(UTC).isoformat()}
        await client.publish(f"devices/{self.device_id}/acknowledgements", json.dumps(answer), qos=1)

    def judge(self, payload: bytes, now: datetime) -> tuple[DeviceCommand | None, str]:
        """What to do with a command: "opened", "expired" or "refused". None when it is no command at all."""
        try:
            signed = json.loads(payload)
            body = base64.b64decode(signed["command"])
            command = DeviceCommand.FromString(body)
            self._key.verify(base64.b64decode(signed["signature"]), body)
        except InvalidSignature:
            return command, "refused"
        except Exception:
            return None, "refused"
        if command.device_id != self.device_id or command.action != "open" or command.counter <= self._counter:
            return command, "refused"
        if command.expires_at.ToDatetime(tzinfo=UTC) < now:
            return command, "expired"
        return command, "opened"
