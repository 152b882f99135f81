"""NATS JetStream: streams, publishing with acks, durable consumers, the inbox, retries and dead letters.

The broker carries facts; PostgreSQL is the record. What a handler does and the inbox row that says it was done commit together, so an event
that comes twice changes nothing. What cannot be handled is retried with growing delays and then written to the service's dead letters.
"""

import asyncio
import json
import traceback
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, time
from typing import Any, Generic

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError

from servicekit import telemetry
from servicekit.config import NatsSettings, ProcessSettings
from servicekit.database import (
    GIVE_WAY,
    PLATFORM,
    AlreadyHandled,
    Database,
    InboxEntry,
    Transaction,
    forbid_in_transaction,
)
from servicekit.errors import ServiceError, Unavailable
from servicekit.events import Envelope, EventType, M, Received, event_type, received
from servicekit.identifiers import new_id

ACK_S = 5.0
# How long a stream keeps what was published; the outbox keeps it as long.
STREAM_AGE_S = 7 * 24 * 3600
_ACK_WAIT_S = 30.0
# Events in work in one consumer, over all its instances.
_IN_WORK_MAX = 256
# An event that fails this often goes to the dead letters. Times when the database or another service was away do not count.
DELIVERIES_MAX = 8
_RETRY_DELAYS_S = (0.05, 0.2, 1.0, 3.0, 10.0, 30.0, 60.0)
# Streams and consumers are made again when a broker has lost them.
_ENSURE_S = 15.0

_INSERT_DEAD_LETTER = """
INSERT INTO dead_letters (dead_letter_id, community_id, consumer, event_id, subject, headers, body, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def connect(process: ProcessSettings, settings: NatsSettings, name: str) -> Client:
    """Connects to NATS and stays connected, however often the server goes away. Returns only when it is connected."""

    async def on_error(error: Exception) -> None:
        telemetry.log.warning("nats_error", service=name, error=str(error) or type(error).__name__)

    while True:
        try:
            return await nats.connect(
                process.nats_url,
                name=name,
                # Its own inboxes only: what others ask for is none of its business.
                inbox_prefix=f"_INBOX.{name}".encode(),
                user=settings.nats_user or None,
                password=settings.nats_password or None,
                error_cb=on_error,
                connect_timeout=2,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,
                ping_interval=5,
                max_outstanding_pings=3,
            )
        except (OSError, NatsError) as error:
            telemetry.log.warning("nats_unreachable", service=name, error=str(error) or type(error).__name__)
            await asyncio.sleep(0.5)


def is_lost(error: BaseException) -> bool:
    """Whether publishing failed because the broker is away, and may succeed later."""
    return isinstance(error, NatsError | OSError | TimeoutError)


class Publisher:
    """Publishes to JetStream with acks in flight together: nothing waits for one ack before it sends the next message."""

    def __init__(self, client: Client, source: str) -> None:
        self._stream: JetStreamContext = client.jetstream(timeout=ACK_S, publish_async_max_pending=8192)
        self._client = client
        self._source = source

    async def publish(self, event: Envelope) -> None:
        """Returns when JetStream holds the event on disk as its settings say. Raises Unavailable when it does not within five seconds."""
        forbid_in_transaction("publishing to NATS")
        await self.send(event.subject, event.body, event.headers(self._source))

    async def send(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """The same for a message that is no event of ours, such as a replayed one."""
        try:
            ack = await self._stream.publish_async(subject, body, headers=headers, wait_stall=ACK_S)
            await asyncio.wait_for(ack, ACK_S)
        except (NatsError, APIError, NoStreamResponseError, OSError, TimeoutError) as error:
            raise Unavailable(
                "messaging.unavailable",
                "消息服务暂时不可用，请稍后再试",
                "The message broker does not answer; please try again",
                retry_after_s=1,
            ) from error

    async def send_now(self, subject: str, body: bytes) -> None:
        """Sends a message that nobody stores, such as a command to a device that is listening now or not at all."""
        forbid_in_transaction("publishing to NATS")
        await self._client.publish(subject, body)


@dataclass(frozen=True, slots=True)
class Consumption(Generic[M]):
    """One line of a service's `consumes`: which event, and the function that hears it."""

    event: EventType
    handler: Callable[..., Awaitable[None]]
    # "once": in a transaction, with the inbox. "outside": at least once, without a transaction. "live": every instance hears it now or never.
    # "batch": all that waits in one transaction, for handlers whose effects are idempotent by key.
    mode: str

    @property
    def name(self) -> str:
        """The handler's name, which with the service's makes the durable consumer's."""
        return self.handler.__name__


def on(message: type[M], handler: Callable[[Transaction, Received[M]], Awaitable[None]]) -> Consumption[M]:
    """`handler` hears each event once, in a transaction of the event's community."""
    return Consumption(event_type(message), handler, "once")


def on_outside(message: type[M], handler: Callable[[Any, Received[M]], Awaitable[None]]) -> Consumption[M]:
    """`handler` hears each event at least once, outside of any transaction, because it must use the network. It gets a `Call`."""
    return Consumption(event_type(message), handler, "outside")


def on_batch(
    message: type[M], handler: Callable[[Transaction, Sequence[Received[M]]], Awaitable[None]]
) -> Consumption[M]:
    """`handler` hears all events that wait, together, in one transaction of the platform scope. Its effects must be idempotent by key."""
    return Consumption(event_type(message), handler, "batch")


def listen(message: type[M], handler: Callable[[Any, Received[M]], Awaitable[None]]) -> Consumption[M]:
    """Every instance's `handler` hears each event as it passes, and never again. For what is useless a moment later. It gets a `Call`."""
    return Consumption(event_type(message), handler, "live")


async def ensure_stream(client: Client, event: EventType, replicas: int) -> None:
    """Makes the stream of an event, or leaves it as it is. Raises what nats raises."""
    config = StreamConfig(
        name=event.stream,
        subjects=[event.stream_subjects],
        storage=StorageType.FILE,
        max_age=STREAM_AGE_S,
        # A full stream refuses rather than forgets: whoever publishes keeps what was not acknowledged.
        discard=DiscardPolicy.NEW,
        duplicate_window=120,
        num_replicas=replicas,
    )
    try:
        await client.jetstream(timeout=ACK_S).add_stream(config)
    except APIError as error:
        if error.err_code != _STREAM_NAME_IN_USE:
            raise
        await client.jetstream(timeout=ACK_S).update_stream(config)


_STREAM_NAME_IN_USE = 10058


class Consumer:
    """A durable consumer of one service: hears one event with one handler."""

    def __init__(
        self,
        service: str,
        consumption: Consumption[Any],
        client: Client,
        database: Database | None,
        call: Callable[[], Any],
        replicas: int,
    ) -> None:
        self.name = f"{service}-{consumption.name}"
        self._event = consumption.event
        self._handler = consumption.handler
        self._mode = consumption.mode
        self._client = client
        self._database = database
        self._call = call
        self._replicas = replicas
        self._subscription: Subscription | None = None
        self._in_work: set[asyncio.Task[None]] = set()
        # The last task of each aggregate: its events are handled one after the other, other aggregates' beside them.
        self._tails: dict[str, asyncio.Task[None]] = {}
        self._waiting: list[Msg] = []
        self._batch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts to hear. Raises what nats raises."""
        await self.ensure()
        if self._mode == "live":
            self._subscription = await self._client.subscribe(self._event.filter_subject, cb=self._take)
        else:
            subject = f"deliver.{self.name}"
            self._subscription = await self._client.subscribe(subject, queue=self.name, cb=self._take)

    async def ensure(self) -> None:
        """Makes the stream and the consumer when the broker has none, or has lost them."""
        await ensure_stream(self._client, self._event, self._replicas)
        if self._mode == "live":
            return
        config = ConsumerConfig(
            durable_name=self.name,
            filter_subject=self._event.filter_subject,
            deliver_subject=f"deliver.{self.name}",
            deliver_group=self.name,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_S,
            max_ack_pending=_IN_WORK_MAX,
            max_deliver=-1,
        )
        await self._client.jetstream(timeout=ACK_S).add_consumer(self._event.stream, config)

    async def stop(self) -> None:
        """Takes no more, and finishes what is in work."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        while work := [*self._in_work, *([self._batch] if self._batch else [])]:
            await asyncio.wait(work)
            await asyncio.sleep(0)

    async def _take(self, message: Msg) -> None:
        headers = message.headers or {}
        if headers.get("ce-type") != self._event.name:
            await _acknowledge(message)  # Another event under the same subject.
        elif self._mode == "batch":
            self._waiting.append(message)
            if self._batch is None:
                self._batch = asyncio.create_task(self._handle_batches())
        else:
            aggregate = headers.get("ce-subject", "")
            task = asyncio.create_task(self._handle(message, self._tails.get(aggregate)))
            self._tails[aggregate] = task
            self._in_work.add(task)
            task.add_done_callback(lambda done: self._done(done, aggregate))

    def _done(self, task: asyncio.Task[None], aggregate: str) -> None:
        self._in_work.discard(task)
        if self._tails.get(aggregate) is task:
            del self._tails[aggregate]

    async def _handle(self, message: Msg, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        headers = message.headers or {}
        started, outcome = perf_counter(), "handled"
        with telemetry.entry(f"handle {self.name}", headers.get("traceparent"), telemetry.SpanKind.CONSUMER):
            try:
                event = received(headers, message.data, self._event.message)
                telemetry.EVENT_LAG_SECONDS.labels(self.name).observe(max(0.0, time() - event.occurred_at.timestamp()))
                await self._run(event)
                await _acknowledge(message)
            except AlreadyHandled:
                outcome = "repeated"
                await _acknowledge(message)
            except Exception as error:
                outcome = await self._failed(message, error)
        telemetry.EVENT_SECONDS.labels(self.name, outcome).observe(perf_counter() - started)

    async def _run(self, event: Received[Any]) -> None:
        if self._mode != "once" or self._database is None:
            await self._handler(self._call(), event)
            return
        inbox = InboxEntry(self.name, event.event_id, event.community_id)
        async with self._database.transaction(event.community_id, inbox=inbox) as transaction:
            await self._handler(transaction, event)

    async def _handle_batches(self) -> None:
        database = self._database
        assert database is not None
        while self._waiting:
            messages, self._waiting = self._waiting, []
            started = perf_counter()
            try:
                events = [received(m.headers or {}, m.data, self._event.message) for m in messages]
                async with database.transaction(PLATFORM) as transaction:
                    await self._handler(transaction, events)
                for message in messages:
                    await _acknowledge(message)
                telemetry.EVENT_SECONDS.labels(self.name, "handled").observe(perf_counter() - started)
            except Exception as error:
                if len(messages) > 1 and not _is_passing(error):
                    # One of them is bad: each on its own finds out which.
                    for message in messages:
                        await self._handle_alone(message)
                else:
                    for message in messages:
                        await self._failed(message, error)
        self._batch = None

    async def _handle_alone(self, message: Msg) -> None:
        assert self._database is not None
        try:
            event = received(message.headers or {}, message.data, self._event.message)
            async with self._database.transaction(PLATFORM) as transaction:
                await self._handler(transaction, [event])
            await _acknowledge(message)
        except Exception as error:
            await self._failed(message, error)

    async def _failed(self, message: Msg, error: Exception) -> str:
        if self._mode == "live":
            telemetry.log.warning("live_event_failed", consumer=self.name, error=_describe(error))
            return "failed"
        deliveries = message.metadata.num_delivered
        delay = _RETRY_DELAYS_S[min(deliveries, len(_RETRY_DELAYS_S)) - 1]
        try:
            if _is_passing(error):
                await message.nak(delay=min(delay, 3.0))
                return "retried"
            telemetry.log.error("event_failed", consumer=self.name, deliveries=deliveries, error=_describe(error))
            if deliveries < DELIVERIES_MAX:
                await message.nak(delay=delay)
                return "retried"
            await self._bury(message, error)
            await message.term()
            return "dead"
        except (ServiceError, NatsError, OSError) as failure:
            # Neither the broker nor the database took it: it comes again by itself when its ack is overdue.
            telemetry.log.warning("event_left_unacknowledged", consumer=self.name, error=_describe(failure))
            return "failed"

    async def _bury(self, message: Msg, error: Exception) -> None:
        headers = message.headers or {}
        telemetry.DEAD_LETTERS.labels(self.name).inc()
        if self._database is None:
            return
        community = uuid.UUID(headers["ce-community"]) if "ce-community" in headers else uuid.UUID(int=0)
        async with self._database.transaction(PLATFORM) as transaction:
            await transaction.execute(
                _INSERT_DEAD_LETTER,
                new_id(),
                community,
                self.name,
                headers.get("ce-id", ""),
                message.subject,
                json.dumps(headers),
                message.data,
                _describe(error),
            )


def _is_passing(error: Exception) -> bool:
    """Whether the same event may succeed later without anybody mending anything."""
    return isinstance(error, (Unavailable, *GIVE_WAY)) or is_lost(error)


def _describe(error: Exception) -> str:
    # The type and where it happened; values may be personal, so the text of strangers' exceptions stays out.
    text = str(error) if isinstance(error, ServiceError) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else text


async def _acknowledge(message: Msg) -> None:
    # A lost acknowledgement brings the event again, and the inbox knows it.
    if message.reply:
        try:
            await message.ack()
        except (NatsError, OSError):
            pass


async def keep_ensured(
    consumers: Sequence[Consumer], streams: Sequence[EventType], client: Client, replicas: int
) -> None:
    """Makes streams and consumers again when the broker has lost them. Runs until it is cancelled."""
    while True:
        await asyncio.sleep(_ENSURE_S)
        try:
            for event in streams:
                await ensure_stream(client, event, replicas)
            for consumer in consumers:
                await consumer.ensure()
        except (NatsError, OSError, TimeoutError) as error:
            telemetry.log.warning("nats_not_ensured", error=str(error) or type(error).__name__)
