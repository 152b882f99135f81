"""What devices say over MQTT. `TOPICS` shows which topics are heard, from which devices, and what reads them.

A device may publish under its own subject only; the broker sees to that, with the permissions that `mqtt_auth` gave it. What must not be
lost is heard from the stream in which the broker's MQTT gateway stores it before it sends the PUBACK: a PUBACK means that it is stored, and
what comes while ingest restarts is heard afterwards. What is useless a moment later is heard when it comes, or not.

The messages of one device on one topic are passed on in their order, many at once; devices wait for each other never. What cannot be read
is counted, and what of it was kept goes to the dead letters.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from time import monotonic, perf_counter
from typing import Any, Final
from uuid import UUID

from google.protobuf.message import Message
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from prometheus_client import Counter

from linli.device.v1.events_pb2 import CredentialPresented, DoorAcknowledged, GateAcknowledged
from servicekit import metrics, telemetry
from servicekit.errors import Unavailable
from servicekit.messaging import make_stream
from servicekit.rpc import Call
from servicekit.sampling import sample_consumer
from services.ingest import acknowledgements, bins, observations, store, terminals
from services.ingest.devices import DEVICE_ID, Kind, KnownDevice
from services.ingest.documents import read_document
from services.ingest.intake import Intake
from services.ingest.loose import Unusable
from services.ingest.metrics import DoorQuestions
from services.ingest.openings import Openings

# NATS's own stream of MQTT messages, the one for which a PUBACK speaks. It keeps what somebody is interested in until they have heard it.
STREAM: Final = "$MQTT_msgs"
KEPT_UNDER: Final = "$MQTT.msgs."


@dataclass(frozen=True, slots=True)
class Topic:
    """`devices/<device>/<name>`: who may be heard there, and what reads it."""

    name: str
    kinds: Collection[Kind]
    # The observation in a message that came at an instant, and the id of its event. Raises Unusable.
    read: Callable[[KnownDevice, Mapping[str, Any], datetime], tuple[UUID, Message]]
    # Whether the broker keeps what comes until it is heard.
    is_kept: bool = True
    # What is longer is no message of these. The broker holds MQTT to no limit but its own of 1 MiB, not even to a permit's.
    bytes_max: int = 16 * 1024

    @property
    def subject(self) -> str:
        """As NATS writes it: what is kept is heard where its MQTT gateway stores it."""
        return f"{KEPT_UNDER if self.is_kept else ''}devices.*.{self.name}"

    @property
    def template(self) -> str:
        """The topic, for any device."""
        return f"devices/{{device_id}}/{self.name}"

    @property
    def consumer(self) -> str:
        """The durable consumer, and the queue that instances share."""
        return f"ingest-{self.name}"

    @property
    def heard_on(self) -> str:
        """Where messages come to us."""
        return f"deliver.{self.consumer}" if self.is_kept else self.subject


TOPICS: Final = (
    Topic("acknowledgements", (Kind.GATE, Kind.TERMINAL), acknowledgements.read_acknowledgement),
    Topic("deposit", (Kind.BIN,), bins.read_deposit),
    # A bin never sends one again, so that the difference of its clock to ours is the clock's error: one that is heard late would be wrong.
    Topic("status", (Kind.BIN,), bins.read_status, is_kept=False),
    # Nobody waits at the door for an answer that is late: the terminal has decided by itself, and its journal says so.
    Topic("presented", (Kind.TERMINAL,), terminals.read_presentation, is_kept=False),
    # The next one says it all again.
    Topic("terminal", (Kind.TERMINAL,), terminals.read_report, is_kept=False),
    Topic("journal", (Kind.TERMINAL,), terminals.read_journal, bytes_max=terminals.JOURNAL_BYTES_MAX),
    Topic("observation", (Kind.SENSOR,), observations.read_observation),
)
_KEPT: Final = [topic for topic in TOPICS if topic.is_kept]
HEARTBEAT: Final = "heartbeat"
_HEARTBEATS: Final = f"devices.*.{HEARTBEAT}"
_STREAM_BYTES_MAX = 1024 * 1024 * 1024
# So much can wait while ingest is away, of all devices and of one on one topic. What is more gets no PUBACK, and is sent again.
_MESSAGES_PER_DEVICE_MAX = 10_000
_ACK_WAIT_S = 30.0
# Messages in work on one topic, over all instances.
_IN_WORK_MAX = 1024
# Messages that are read in one turn: a flood of deposits must not keep a device from signing in, or a camera from its answer.
_TOGETHER_MAX = 32
# Messages of one device that wait where no broker holds them back.
_WAITING_MAX = 256
_ENSURE_S = 15.0
_RETRY_S = 1.0
_STOP_S = 2.0

_ACK_PREFIX = "$JS.ACK."
NATS_PUBLISHES = (
    *(f"$JS.API.STREAM.{verb}.{STREAM}" for verb in ("CREATE", "INFO")),
    *(f"$JS.API.CONSUMER.CREATE.{STREAM}.{topic.consumer}.{topic.subject}" for topic in _KEPT),
    *(f"$JS.API.CONSUMER.INFO.{STREAM}.{topic.consumer}" for topic in _KEPT),
    *(f"$JS.ACK.{STREAM}.{topic.consumer}.>" for topic in _KEPT),
)
NATS_SUBSCRIBES = (_HEARTBEATS, *(topic.heard_on for topic in TOPICS))

_ACKNOWLEDGED = (GateAcknowledged, DoorAcknowledged)
_HEARING = {"messaging.system": "nats", "messaging.operation.type": "process", "messaging.operation.name": "process"}
IGNORED = Counter("linli_ingest_device_messages_ignored_total", "MQTT messages of devices that were not passed on", ["topic", "reason"])


def stream_of_messages(replicas: int) -> StreamConfig:
    """NATS's stream of MQTT messages as this version declares it."""
    return StreamConfig(
        name=STREAM,
        subjects=[f"{KEPT_UNDER}>"],
        storage=StorageType.FILE,
        # As the gateway makes it itself when the first device connects; ingest makes it before.
        retention=RetentionPolicy.INTEREST,
        max_bytes=_STREAM_BYTES_MAX,
        max_msgs_per_subject=_MESSAGES_PER_DEVICE_MAX,
        # A full stream refuses rather than forgets, and then the gateway sends no PUBACK.
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        num_replicas=replicas,
    )


class DeviceMessages:
    """Hears devices for as long as `run` runs."""

    def __init__(self, intake: Intake, openings: Openings, questions: DoorQuestions, client: Client, replicas: int) -> None:
        self._intake = intake
        self._openings = openings
        self._questions = questions
        self._client = client
        self._replicas = replicas
        # What waits on each subject that is in work.
        self._waiting: dict[str, list[Msg]] = {}
        self._in_work: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        # Of which of the client's connections the broker is known to keep what devices say, counted from 0.
        self._kept_since: int | None = None
        self._keeping = asyncio.Lock()

    async def keep(self) -> None:
        """Returns when the broker keeps what devices say, even if it has lost its disk before it came back. Raises Unavailable.

        Without our consumers nobody is interested, and it acknowledges what it does not keep: so no device is let in before.
        """
        async with self._keeping:
            connection = self._client.stats["reconnects"]
            if self._kept_since == connection:
                return
            try:
                await self._ensure()
            except (NatsError, OSError, TimeoutError) as error:
                raise Unavailable(
                    "messaging.unavailable", "消息服务暂时不可用", "The message broker does not answer", retry_after_s=1
                ) from error
            self._kept_since = connection

    async def run(self) -> None:
        """Hears until it is cancelled; makes the stream and its consumers when the broker has none, or has lost them."""
        subscriptions = [
            await self._client.subscribe(topic.heard_on, queue=topic.consumer, cb=partial(self._take, topic)) for topic in TOPICS
        ]
        subscriptions.append(await self._client.subscribe(_HEARTBEATS, queue="ingest-heartbeat", cb=self._hear_heartbeat))
        try:
            while True:
                try:
                    await self._ensure()
                    await asyncio.sleep(_ENSURE_S)
                except (NatsError, OSError, TimeoutError) as error:
                    telemetry.log.warning("device_messages_not_ensured", error=str(error) or type(error).__name__)
                    await asyncio.sleep(_RETRY_S)
        finally:
            await self._stop(subscriptions)

    async def _ensure(self) -> None:
        await make_stream(self._client, stream_of_messages(self._replicas))
        manager = self._client.jetstream(timeout=5)
        for topic in _KEPT:
            consumer = ConsumerConfig(
                name=topic.consumer,
                durable_name=topic.consumer,
                filter_subject=topic.subject,
                deliver_subject=topic.heard_on,
                deliver_group=topic.consumer,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=_ACK_WAIT_S,
                max_ack_pending=_IN_WORK_MAX,
            )
            await manager.add_consumer(STREAM, consumer)

    async def sample(self) -> None:
        """Sets the gauges of what devices said and was not passed on yet."""
        await asyncio.gather(*(sample_consumer(self._client, STREAM, topic.consumer) for topic in _KEPT))

    async def _stop(self, subscriptions: Sequence[Subscription]) -> None:
        """Takes no more and finishes what has come: what is not kept would be lost, and the rest come to another instance late."""
        try:
            async with asyncio.timeout(_STOP_S):
                for subscription in subscriptions:
                    await subscription.drain()  # type: ignore[no-untyped-call]
        except (NatsError, OSError, TimeoutError):
            pass
        if self._in_work:
            _, late = await asyncio.wait(self._in_work, timeout=_STOP_S)
            for task in late:
                task.cancel()

    async def _hear_heartbeat(self, message: Msg) -> None:
        device_id = message.subject.split(".")[1]
        if DEVICE_ID.fullmatch(device_id):
            self._intake.registry.seen(device_id)

    async def _take(self, topic: Topic, message: Msg) -> None:
        if topic.is_kept and not message.reply.startswith(_ACK_PREFIX):
            return  # Not from the broker.
        waiting = self._waiting.get(message.subject)
        if waiting is None:
            self._waiting[message.subject] = [message]
            task = asyncio.create_task(self._hear_device(topic, message.subject))
            self._in_work.add(task)
            task.add_done_callback(self._in_work.discard)
        elif topic.is_kept or len(waiting) < _WAITING_MAX:
            waiting.append(message)
        else:
            IGNORED.labels(topic.name, "too_many").inc()

    async def _hear_device(self, topic: Topic, subject: str) -> None:
        """Passes on what one device has said on one topic, until nothing waits."""
        waiting = self._waiting[subject]
        try:
            while waiting:
                messages = waiting[:_TOGETHER_MAX]
                del waiting[:_TOGETHER_MAX]
                await self._hear(topic, subject.split(".")[-2], messages)
        finally:
            del self._waiting[subject]

    async def _hear(self, topic: Topic, device_id: str, messages: Sequence[Msg]) -> None:
        """Passes messages on. Never raises: what fails, and is kept, comes again."""
        came_at = monotonic()
        try:
            known = await self._intake.registry.find(device_id)
            if known is None or known.disabled or known.kind not in topic.kinds:
                IGNORED.labels(topic.name, "no_such_device").inc(len(messages))
                await self._answer(topic, messages, Msg.term)
                return
            self._intake.registry.seen(device_id)
            async with self._turn:
                readable, unusable = self._read(topic, known, messages)
                for _, _, observation in readable:
                    if isinstance(observation, CredentialPresented):
                        self._questions.ask((known.community_id, known.device_id, observation.presentation_id), came_at)
                passing = [asyncio.create_task(self._pass_on(topic, known, *each)) for each in readable]
                await asyncio.sleep(0)  # They are on their way, in their order.
            await asyncio.gather(*passing)
            if unusable:
                await self._set_aside(topic, known, unusable)
        except Unavailable:
            await self._answer(topic, messages, partial(Msg.nak, delay=_RETRY_S))  # Those that were answered stay so.
        except Exception as error:
            telemetry.log.error("device_messages_left", topic=topic.name, error=telemetry.describe(error))  # They come again by themselves.

    def _read(
        self, topic: Topic, known: KnownDevice, messages: Sequence[Msg]
    ) -> tuple[Sequence[tuple[Msg, UUID, Message]], Sequence[tuple[Msg, str]]]:
        readable, unusable = [], []
        for message in messages:
            # The broker's clock and ours agree.
            received_at = message.metadata.timestamp if topic.is_kept else self._intake.clock()
            if len(message.data) > topic.bytes_max:
                unusable.append((message, "too long"))
                continue
            try:
                readable.append((message, *topic.read(known, read_document(message.data), received_at)))
            except Unusable as error:
                unusable.append((message, error.field or "no JSON object"))
            except Exception as error:  # Whatever a device sends holds back no other.
                unusable.append((message, telemetry.describe(error)))
        return readable, unusable

    async def _pass_on(self, topic: Topic, known: KnownDevice, message: Msg, event_id: UUID, observation: Message) -> None:
        # An acknowledgement goes on with the trace of its command; MQTT carries none, so everything else begins one.
        trace = self._openings.trace_of(known.device_id, observation.command_id) if isinstance(observation, _ACKNOWLEDGED) else ""
        with telemetry.entry(f"process {topic.template}", trace, telemetry.SpanKind.CONSUMER) as span:
            if span is not None:
                span.set_attributes({**_HEARING, "messaging.destination.template": topic.template})
            started, outcome = perf_counter(), "handled"
            try:
                await self._intake.publish(known, event_id, observation)
                await self._answer(topic, [message], Msg.ack)
            except Unavailable:
                outcome = "retried"
                await self._answer(topic, [message], partial(Msg.nak, delay=_RETRY_S))
            if topic.is_kept:
                metrics.EVENT_SECONDS.labels(topic.consumer, outcome).observe(perf_counter() - started)

    async def _set_aside(self, topic: Topic, known: KnownDevice, unusable: Sequence[tuple[Msg, str]]) -> None:
        """Counts what cannot be read, and keeps it where an operator finds it. Raises Unavailable."""
        if topic.is_kept:
            async with self._intake.database.transaction(known.community_id) as tx:
                letters = {message.data[: topic.bytes_max]: error for message, error in unusable}
                await store.insert_dead_letters(tx, topic.consumer, f"{KEPT_UNDER}devices.{known.device_id}.{topic.name}", letters)
            metrics.DEAD_LETTERS.labels(topic.consumer).inc(len(unusable))
        for _ in unusable:
            self._intake.registry.count_irregular(known.device_id)
        IGNORED.labels(topic.name, "malformed").inc(len(unusable))
        _, error = unusable[0]
        telemetry.log.warning("device_messages_malformed", device=known.device_id, topic=topic.name, messages=len(unusable), field=error)
        await self._answer(topic, [message for message, _ in unusable], Msg.term)

    async def _answer(self, topic: Topic, messages: Sequence[Msg], how: Callable[[Msg], Awaitable[None]]) -> None:
        if not topic.is_kept:
            return
        for message in messages:
            try:
                await how(message)
            except (NatsError, OSError):
                pass  # It comes again, and its event is known by its id.


async def sample_messages(call: Call) -> None:
    """Sets the gauges of what devices said and was not passed on yet."""
    await call.resource(DeviceMessages).sample()
