"""Who may sign in over MQTT: ingest answers the broker's question (NATS auth callout).

NATS speaks MQTT itself. For each device that connects it asks, with id and secret; the answer is a signed permit that allows the device
to publish what devices say, under its own subject, and to hear what its kind of device is told, and nothing else. Without ingest no device
signs in; those that have stay connected.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from servicekit import telemetry
from servicekit.errors import ServiceError
from services.ingest.device_messages import HEARTBEAT, TOPICS
from services.ingest.devices import Kind, KnownDevice
from services.ingest.intake import Intake
from services.ingest.nkeys import AccountKey, claims_of

SUBJECT = "$SYS.REQ.USER.AUTH"
# Only the broker's own question may be answered, and its answers come here.
REPLIES = "$SYS._INBOX.>"
ACCOUNT = "LINLI"
# A device signs in again after this at the latest, so that one that was disabled does not stay. What it sends meanwhile is not heard.
_PERMIT_LIFE = timedelta(hours=12)
_STOP_S = 1.0
# What is said to devices, under each one's own subject: ingest sends commands, access what a door terminal knows and what it is to send.
_TOLD = ("commands", "snapshot", "journal_wanted")
# What devices say. The broker keeps a retained message for each subject, so whoever could make subjects up could fill its disk.
_SAID = (HEARTBEAT, *(topic.name for topic in TOPICS))


class _Server(msgspec.Struct):
    id: str


class _Client(msgspec.Struct):
    type: str = ""
    mqtt_id: str = ""


class _Credentials(msgspec.Struct):
    user: str = ""
    password: str = msgspec.field(default="", name="pass")


class _Question(msgspec.Struct):
    server_id: _Server
    user_nkey: str
    client_info: _Client
    connect_opts: _Credentials


class _Claims(msgspec.Struct):
    nats: _Question


class MqttSignIn:
    """Answers the broker."""

    def __init__(self, intake: Intake, client: Client, key: AccountKey, keep: Callable[[], Awaitable[None]]) -> None:
        """`keep` returns when the broker keeps what devices say. Raises Unavailable."""
        self._intake = intake
        self._client = client
        self._key = key
        self._keep = keep
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begins to answer; instances share the questions."""
        self._subscription = await self._client.subscribe(SUBJECT, queue="ingest", cb=self._hear)

    async def stop(self) -> None:
        """Takes no more questions; the answers to those that have come are left to the background."""
        try:
            async with asyncio.timeout(_STOP_S):
                if self._subscription is not None:
                    await self._subscription.drain()  # type: ignore[no-untyped-call]
        except (NatsError, OSError, TimeoutError):
            pass

    async def _hear(self, message: Msg) -> None:
        # Each in its own time: when the broker comes back all devices ask at once, and it waits for two seconds.
        self._intake.background.start(self._answer(message))

    async def _answer(self, message: Msg) -> None:
        try:
            question = msgspec.json.decode(claims_of(message.data), type=_Claims).nats
        except (ValueError, msgspec.DecodeError) as error:
            telemetry.log.warning("sign_in_question_unreadable", error=type(error).__name__)
            return
        verdict: dict[str, Any]
        try:
            known = await self._device(question)
            await self._keep()
            verdict = {"jwt": self._permit(known, question)}
        except ServiceError as error:
            verdict = {"error": error.code}
        claims: dict[str, object] = {
            "aud": question.server_id.id,
            "sub": question.user_nkey,
            "nats": {**verdict, "type": "authorization_response", "version": 2},
        }
        try:
            await self._client.publish(message.reply, self._key.sign(claims, int(self._intake.clock().timestamp())).encode())
        except (NatsError, OSError) as error:
            telemetry.log.warning("sign_in_not_answered", error=type(error).__name__)

    async def _device(self, question: _Question) -> KnownDevice:
        """The device that asks. Raises Unauthenticated, the same whatever is wrong, or Unavailable.

        Devices speak MQTT, never NATS itself; and a session belongs to its client id, so nobody may sign in under another device's.
        """
        given = question.connect_opts
        fits = question.client_info.type == "mqtt" and question.client_info.mqtt_id == given.user
        known = await self._intake.recognised(given.user, given.password if fits else "", tuple(Kind))
        self._intake.registry.seen(known.device_id)
        return known

    def _permit(self, known: KnownDevice, question: _Question) -> str:
        now = self._intake.clock()
        own = f"devices.{known.device_id}"
        claims: dict[str, object] = {
            "aud": ACCOUNT,
            "sub": question.user_nkey,
            "name": known.device_id,
            "exp": int((now + _PERMIT_LIFE).timestamp()),
            "nats": {
                "type": "user",
                "version": 2,
                "pub": {"allow": [f"{own}.{name}" for name in _SAID]},
                "sub": {"allow": [f"{own}.{name}" for name in (_TOLD if known.kind == Kind.TERMINAL else ("commands",))]},
                "subs": 10,
                "payload": 64 * 1024,
                "data": -1,
            },
        }
        return self._key.sign(claims, int(now.timestamp()))
