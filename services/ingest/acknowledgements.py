"""What devices say over MQTT: gates answer commands, devices say that they are alive.

A device may publish under its own subject only; the broker sees to that, with the permissions that `mqtt_auth` gave it. Gates' answers
are kept in a stream of their own, so that a PUBACK of the broker means that the answer is stored, and one that comes while ingest
restarts is heard afterwards. Heartbeats are heard when they come, or not.
"""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError
from prometheus_client import Counter

from linli.device.v1.events_pb2 import GateAcknowledged
from servicekit import telemetry
from servicekit.errors import Unavailable
from servicekit.identifiers import derived_id
from servicekit.times import to_timestamp
from services.ingest import loose
from services.ingest.devices import DEVICE_ID, Kind
from services.ingest.intake import Intake

STREAM = "DEVICES"
CONSUMER = "ingest-acknowledgements"
_SUBJECTS = "devices.*.acknowledgements"
_HEARTBEATS = "devices.*.heartbeat"
_DELIVER = f"deliver.{CONSUMER}"
_AGE_S = 24 * 3600
_STREAM_BYTES_MAX = 256 * 1024 * 1024
_MESSAGE_BYTES_MAX = 4096
_ACK_WAIT_S = 30.0
_IN_WORK_MAX = 256
_ENSURE_S = 15.0
_RETRY_S = 1.0
NATS_PUBLISHES = (
    *(f"$JS.API.STREAM.{verb}.{STREAM}" for verb in ("CREATE", "UPDATE")),
    f"$JS.API.CONSUMER.CREATE.{STREAM}.{CONSUMER}.{_SUBJECTS}",
    f"$JS.ACK.{STREAM}.{CONSUMER}.>",
)
NATS_SUBSCRIBES = (_HEARTBEATS, _DELIVER)

IGNORED = Counter("linli_ingest_device_messages_ignored_total", "MQTT messages of devices that were none", ["reason"])

_OUTCOMES = {
    "opened": GateAcknowledged.OUTCOME_OPENED,
    "expired": GateAcknowledged.OUTCOME_EXPIRED,
    "refused": GateAcknowledged.OUTCOME_REFUSED,
    "failed": GateAcknowledged.OUTCOME_FAILED,
}


class _Acknowledgement(msgspec.Struct):
    command_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    outcome: Literal["opened", "expired", "refused", "failed"]
    at: str = ""


class DeviceMessages:
    """Hears devices for as long as `run` runs."""

    def __init__(self, intake: Intake, client: Client, replicas: int) -> None:
        self._intake = intake
        self._client = client
        self._replicas = replicas
        self._in_work: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Hears until it is cancelled; makes the stream and its consumer when the broker has none, or has lost them."""
        await self._client.subscribe(_DELIVER, queue=CONSUMER, cb=self._take)
        await self._client.subscribe(_HEARTBEATS, queue=CONSUMER, cb=self._hear_heartbeat)
        while True:
            try:
                await self._ensure()
                await asyncio.sleep(_ENSURE_S)
            except (NatsError, OSError, TimeoutError) as error:
                telemetry.log.warning("device_messages_not_ensured", error=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_S)

    async def _ensure(self) -> None:
        stream = StreamConfig(
            name=STREAM,
            subjects=[_SUBJECTS],
            storage=StorageType.FILE,
            max_age=_AGE_S,
            max_bytes=_STREAM_BYTES_MAX,
            max_msg_size=_MESSAGE_BYTES_MAX,
            # A device gone mad must not silence the others: the oldest answers give way, which were heard long ago.
            discard=DiscardPolicy.OLD,
            num_replicas=self._replicas,
        )
        manager = self._client.jetstream(timeout=5)
        try:
            await manager.add_stream(stream)
        except APIError:
            await manager.update_stream(stream)
        consumer = ConsumerConfig(
            name=CONSUMER,
            durable_name=CONSUMER,
            filter_subject=_SUBJECTS,
            deliver_subject=_DELIVER,
            deliver_group=CONSUMER,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_S,
            max_ack_pending=_IN_WORK_MAX,
        )
        await manager.add_consumer(STREAM, consumer)

    async def _take(self, message: Msg) -> None:
        task = asyncio.create_task(self._handle(message))
        self._in_work.add(task)
        task.add_done_callback(self._in_work.discard)

    async def _handle(self, message: Msg) -> None:
        try:
            reason = await self._hear_acknowledgement(message.subject.split(".")[1], message.data)
            if reason:
                IGNORED.labels(reason).inc()
                await message.term()
            else:
                await message.ack()
        except Unavailable:
            await message.nak(delay=_RETRY_S)
        except (NatsError, OSError) as error:
            telemetry.log.warning("acknowledgement_left", error=type(error).__name__)  # It comes again by itself.
        except Exception as error:
            telemetry.log.error("acknowledgement_failed", exc_info=error)

    async def _hear_acknowledgement(self, device_id: str, body: bytes) -> str:
        """Publishes what a gate did; says why when it is nothing to publish. Raises Unavailable."""
        known = await self._intake.registry.find(device_id)
        if known is None or known.disabled or known.kind != Kind.GATE:
            return "no_such_gate"
        try:
            said = msgspec.json.decode(body, type=_Acknowledgement)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return "malformed"
        self._intake.registry.seen(device_id)
        at = loose.time(said.at, UTC) or self._intake.clock()
        observation = GateAcknowledged(
            device_id=device_id,
            command_id=said.command_id,
            outcome=_OUTCOMES[said.outcome],
            occurred_at=to_timestamp(_not_late(at, self._intake)),
        )
        # The first answer counts: a gate that gets its command again refuses the repetition, which changes nothing.
        await self._intake.publish(known, derived_id("acknowledged", device_id, said.command_id), observation)
        return ""

    async def _hear_heartbeat(self, message: Msg) -> None:
        device_id = message.subject.split(".")[1]
        if DEVICE_ID.fullmatch(device_id):
            self._intake.registry.seen(device_id)


def _not_late(at: datetime, intake: Intake) -> datetime:
    return min(at, intake.clock())
