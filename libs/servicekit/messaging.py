"""NATS JetStream: streams, publishing with acks, durable consumers, the inbox, retries and dead letters.

The broker carries facts; PostgreSQL is the record. What a handler does and the inbox row that says it was done commit together, so an
event that comes twice changes nothing. A handler waits in place for a database or a service that is away; what it cannot handle is
delivered again with growing delays and then written to the service's dead letters.

Events of one aggregate are handled one after the other in a process. Over several processes, and when one of them fails and comes again,
they may be handled out of order: a handler that minds compares `Received.version` with what it has applied.
"""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from time import perf_counter, time
from typing import Any, Generic
from urllib.parse import urlsplit

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError

from servicekit import metrics, telemetry, tls
from servicekit.config import NatsSettings, ProcessSettings
from servicekit.database import GIVE_WAY, PLATFORM, AlreadyHandled, Database, InboxEntry, Transaction, forbid_in_transaction
from servicekit.errors import Unavailable
from servicekit.events import Envelope, EventType, M, Received, event_type, received
from servicekit.identifiers import derived_id
from servicekit.streams import Mark

ACK_S = 5.0
# How long a stream keeps what was published; the outbox keeps it as long.
STREAM_AGE_S = 7 * 24 * 3600
_ACK_WAIT_S = 30.0
# Events in work in one consumer, over all its instances.
_IN_WORK_MAX = 256
# The same where all that waits is handled together: what a transaction costs is shared by more of them.
_TOGETHER_MAX = 1024
# Events in work in one listener, which no broker holds back: past them it hears nothing.
_LISTENED_MAX = 4096
# Messages that one process has sent and the broker has not acknowledged.
_IN_FLIGHT_MAX = 8192
# An event whose handler fails this often goes to the dead letters.
DELIVERIES_MAX = 8
_RETRY_DELAYS_S = (0.05, 0.2, 1.0, 3.0, 10.0, 30.0, 60.0)
# How often a handler that waits in place tries again.
_PATIENCE_S = (0.05, 0.2, 0.5, 1.0, 3.0)
# A header of dead letters that are handed out again: they are for the one consumer that buried them, and no other hears of them.
ONLY = "linli-only"
_ACK_PREFIX = "$JS.ACK."
# What JetStream answers to whoever makes a stream that exists with other settings.
STREAM_NAME_IN_USE = 10058

_INSERT_DEAD_LETTER = """
INSERT INTO dead_letters (dead_letter_id, community_id, consumer, event_id, subject, headers, body, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (dead_letter_id) DO UPDATE SET error = excluded.error, failed_at = excluded.failed_at, replayed_at = NULL
"""


async def connect(
    process: ProcessSettings,
    settings: NatsSettings,
    name: str,
    *,
    on_reconnect: Callable[[], None] = lambda: None,
    on_close: Callable[[], None] = lambda: None,
) -> Client:
    """Connects to NATS and stays connected, however often the server goes away. Returns only when it is connected.

    `on_close` is called when the client has given up for good, which it does when the server throws it out, and when it is closed. Raises
    SettingsError for certificates that cannot be used.
    """
    # TLS from the first byte: a server that has none is not told our password.
    certificates = tls.certificates(process)
    context, hostname = (certificates.context(), urlsplit(process.nats_url).hostname) if certificates else (None, None)
    told_at = float("-inf")

    async def on_error(error: Exception) -> None:
        nonlocal told_at
        if perf_counter() - told_at > 5:  # Each attempt to reach a server that is away is an error.
            told_at = perf_counter()
            telemetry.log.warning("nats_error", service=name, error=str(error) or type(error).__name__)

    async def reconnected() -> None:
        on_reconnect()

    async def closed() -> None:
        on_close()

    while True:
        try:
            return await nats.connect(
                process.nats_url,
                name=name,
                # Its own inboxes only: what others ask for is none of its business.
                inbox_prefix=f"_INBOX.{name}".encode(),
                user=settings.nats_user or None,
                password=settings.nats_password or None,
                tls=context,
                tls_hostname=hostname,
                tls_handshake_first=context is not None,
                error_cb=on_error,
                reconnected_cb=reconnected,
                closed_cb=closed,
                connect_timeout=2,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,
                ping_interval=5,
                max_outstanding_pings=3,
            )
        except (OSError, NatsError) as error:
            await on_error(error)
            await asyncio.sleep(0.5)


class _Refusal(msgspec.Struct):
    """Why JetStream did not store a message."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    """JetStream's answer to a message. Whoever hears the message could answer too; only this says that it is stored."""

    stream: str = ""
    error: _Refusal | None = None


class Publisher:
    """Publishes to JetStream with acks in flight together: nothing waits for one ack before it sends the next message.

    nats-py's own `publish_async` is not used: each message that it cannot send keeps one of its places in flight for ever, until there
    are none left, and one that JetStream refuses is never told so.
    """

    def __init__(self, client: Client, source: str) -> None:
        self._client = client
        self._source = source
        self._inbox = client.new_inbox()
        self._is_listening = False
        self._number = count()
        # Whether JetStream has stored the message, by the subject of its answer; false asks for sending it again.
        self._acks: dict[str, asyncio.Future[bool]] = {}

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""
        return self._client.is_connected

    async def publish(self, event: Envelope) -> None:
        """Returns when JetStream holds the event on disk as its settings say. Raises Unavailable when it does not within five seconds."""
        forbid_in_transaction("publishing to NATS")
        await self.relay(event)

    async def relay(self, event: Envelope) -> None:
        """The same for the outbox's relay, which keeps its turn by a transaction meanwhile."""
        headers = event.headers(self._source)
        with telemetry.sending(event.type, event.event_id, event.traceparent) as span:
            if span is not None:
                headers["traceparent"] = telemetry.traceparent()
            await self.send(event.subject, event.body, headers)

    async def send(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """The same for a message that is no event of ours, such as a replayed one."""
        if len(self._acks) >= _IN_FLIGHT_MAX:
            raise _unavailable()
        reply = f"{self._inbox}.{next(self._number)}"
        try:
            async with asyncio.timeout(ACK_S):
                is_stored = False
                while not is_stored:
                    ack = self._acks[reply] = asyncio.get_running_loop().create_future()
                    await self._reach()
                    await self._client.publish(subject, body, reply, headers)
                    is_stored = await ack
        except (NatsError, OSError, TimeoutError) as error:
            raise _unavailable() from error
        finally:
            self._acks.pop(reply, None)

    def send_again(self) -> None:
        """Sends again what was not acknowledged when the connection broke; what the broker had stored by then it knows by its id."""
        for ack in self._acks.values():
            if not ack.done():
                ack.set_result(False)

    async def send_now(self, subject: str, body: bytes) -> None:
        """Sends a message that nobody stores, such as a command to a device that is listening now or not at all. Raises Unavailable."""
        forbid_in_transaction("publishing to NATS")
        try:
            async with asyncio.timeout(ACK_S):
                await self._reach()
                await self._client.publish(subject, body)
        except (NatsError, OSError, TimeoutError) as error:
            raise _unavailable() from error

    async def _reach(self) -> None:
        # What is sent while the broker is away would lie in the client and leave whenever it comes back, however late.
        while not self._client.is_connected:
            if self._client.is_closed:
                raise NatsError("the connection is closed")
            await asyncio.sleep(0.02)
        if not self._is_listening:
            self._is_listening = True
            try:
                await self._client.subscribe(f"{self._inbox}.*", cb=self._take_ack)
            except BaseException:
                self._is_listening = False
                raise

    async def _take_ack(self, message: Msg) -> None:
        ack = self._acks.get(message.subject)
        if ack is None or ack.done():
            return
        if message.headers and message.headers.get("Status") == "503":
            ack.set_exception(NatsError("no stream takes this subject"))
            return
        try:
            answer = msgspec.json.decode(message.data, type=_Ack)
        except msgspec.DecodeError:
            return
        if answer.error is not None:
            telemetry.log.warning("publishing_refused", service=self._source, code=answer.error.err_code, reason=answer.error.description)
            ack.set_exception(NatsError(answer.error.description))
        elif answer.stream:
            ack.set_result(True)


def _unavailable() -> Unavailable:
    return Unavailable(
        "messaging.unavailable", "消息服务暂时不可用，请稍后再试", "The message broker does not answer; please try again", retry_after_s=1
    )


@dataclass(frozen=True, slots=True)
class Consumption(Generic[M]):
    """One line of a service's `consumes`: which event, and the function that hears it."""

    event: EventType
    handler: Callable[..., Awaitable[None]]
    # "once": in a transaction, with the inbox. "outside": at least once, without a transaction. "batch": all that waits in one transaction,
    # for handlers whose effects are idempotent by key. "live": every instance hears it now or never.
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


def on_batch(message: type[M], handler: Callable[[Transaction, Sequence[Received[M]]], Awaitable[None]]) -> Consumption[M]:
    """`handler` hears all events that wait, together, in one transaction of the platform scope. Its effects must be idempotent by key."""
    return Consumption(event_type(message), handler, "batch")


def listen(message: type[M], handler: Callable[[Any, Received[M]], Awaitable[None]]) -> Consumption[M]:
    """Every instance's `handler` hears each event as it passes, and never again. For what is useless a moment later. It gets a `Call`."""
    return Consumption(event_type(message), handler, "live")


def stream_of(event: EventType, replicas: int) -> StreamConfig:
    """The stream of an event as this version declares it."""
    return StreamConfig(
        name=event.stream,
        subjects=[event.stream_subjects],
        storage=StorageType.FILE,
        max_age=STREAM_AGE_S,
        # A full stream refuses rather than forgets: whoever publishes keeps what was not acknowledged.
        discard=DiscardPolicy.NEW,
        duplicate_window=120,
        num_replicas=replicas,
    )


async def make_stream(client: Client, config: StreamConfig) -> StreamInfo:
    """Makes a stream, or leaves one of this name as it is: to change one is the operator's (`linli streams`). Raises what nats raises."""
    manager = client.jetstream(timeout=ACK_S)
    try:
        return await manager.add_stream(config)
    except APIError as error:
        if error.err_code != STREAM_NAME_IN_USE:
            raise
    assert config.name is not None
    _tell_that_it_differs(config.name)
    return await manager.stream_info(config.name)


@cache
def _tell_that_it_differs(stream: str) -> None:
    """Once in a process: it is looked at every few seconds."""
    telemetry.log.warning("stream_differs", stream=stream)


async def ensure_stream(client: Client, event: EventType, replicas: int) -> Mark:
    """Makes the stream of an event, or leaves it as it is, and says how far it is. Raises what nats raises."""
    found = await make_stream(client, stream_of(event, replicas))
    assert found.created is not None
    return Mark(event.stream, found.created, "", found.state.last_seq)


async def ensure_all(client: Client, published: Sequence[EventType], consumers: Sequence["Consumer"], replicas: int) -> list[Mark]:
    """Makes the streams and durable consumers that the broker does not have, or has lost, and says how far they are.

    Raises what nats raises.
    """
    events = [*published, *(consumer.event for consumer in consumers)]
    streams = {event.stream: event for event in events}
    marks = {name: await ensure_stream(client, event, replicas) for name, event in streams.items()}
    durable = [await consumer.ensure(marks[consumer.event.stream]) for consumer in consumers if consumer.is_durable]
    return [*marks.values(), *durable]


class Consumer:
    """Hears one event with one handler of one service, durably unless it only listens."""

    def __init__(
        self, service: str, consumption: Consumption[Any], client: Client, database: Database | None, call: Callable[[], Any]
    ) -> None:
        self.name = f"{service}-{consumption.name}"
        self.event = consumption.event
        self._span_name = f"process {self.event.name}"
        self._handler = consumption.handler
        self._mode = consumption.mode
        self._client = client
        self._database = database
        self._call = call
        self._lag_seconds = metrics.EVENT_LAG_SECONDS.labels(self.name)
        self._dead_letters = metrics.DEAD_LETTERS.labels(self.name)
        self._subscription: Subscription | None = None
        self._stopping = asyncio.Event()
        self._in_work: set[asyncio.Task[None]] = set()
        # Positions in the stream of what is in work: what the broker delivers again meanwhile is answered by the answer to the first.
        self._positions: set[int] = set()
        # The last task of each aggregate: its events are handled one after the other, other aggregates' beside them.
        self._tails: dict[str, asyncio.Task[None]] = {}
        self._waiting: list[Msg] = []
        self._batch: asyncio.Task[None] | None = None

    async def ensure(self, stream: Mark) -> Mark:
        """Makes the durable consumer when the broker has none, or has lost it, and says how far it is. Raises what nats raises.

        `stream` is its stream as it was a moment ago.
        """
        config = ConsumerConfig(
            # With a name the request names the filter too, and the broker judges it by the permissions.
            name=self.name,
            durable_name=self.name,
            filter_subject=self.event.filter_subject,
            deliver_subject=f"deliver.{self.name}",
            deliver_group=self.name,
            # One that was lost begins again at the oldest event that the stream holds: the inbox knows which were handled.
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_S,
            max_ack_pending=_TOGETHER_MAX if self._mode == "batch" else _IN_WORK_MAX,
            max_deliver=-1,
        )
        found = await self._client.jetstream(timeout=ACK_S).add_consumer(self.event.stream, config)
        # One for which nothing waits has handled all that there was, also what came after the last event that was for it.
        is_done = not found.num_pending and not found.num_ack_pending
        handled = found.ack_floor.stream_seq if found.ack_floor is not None else 0
        return Mark(stream.stream, stream.made_at, self.name, max(handled, stream.position if is_done else 0))

    @property
    def is_durable(self) -> bool:
        """Whether JetStream keeps for it what it has not heard."""
        return self._mode != "live"

    async def start(self) -> None:
        """Starts to hear. Raises what nats raises."""
        if self._mode == "live":
            self._subscription = await self._client.subscribe(self.event.filter_subject, cb=self._take)
        else:
            self._subscription = await self._client.subscribe(f"deliver.{self.name}", queue=self.name, cb=self._take)
        await self._client.flush()

    async def stop(self, within_s: float = 20.0) -> None:
        """Takes no more, hands back what it has not begun, and finishes what is in work; cancels that when it takes too long."""
        self._stopping.set()
        if self._subscription is not None and self._client.is_connected:
            try:
                async with asyncio.timeout(min(within_s, 2.0)):
                    await self._subscription.drain()  # type: ignore[no-untyped-call]
            except (NatsError, OSError, TimeoutError):
                pass
        if work := [*self._in_work, *([self._batch] if self._batch else [])]:
            _, late = await asyncio.wait(work, timeout=within_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _take(self, message: Msg) -> None:
        headers = message.headers or {}
        if self._mode != "live" and not message.reply.startswith(_ACK_PREFIX):
            telemetry.log.warning("not_from_the_broker", consumer=self.name)
        elif headers.get("ce-type") != self.event.name or headers.get(ONLY, self.name) != self.name:
            await self._answer(message, Msg.ack)  # Another event under the same subject, or a dead letter of another consumer.
        elif self._stopping.is_set():
            await self._answer(message, Msg.nak)
        elif self._mode == "live" and len(self._in_work) >= _LISTENED_MAX:
            metrics.EVENT_SECONDS.labels(self.name, "dropped").observe(0)
        elif self._mode == "live":
            self._begin(message, 0)
        elif (position := message.metadata.sequence.stream) not in self._positions:
            self._positions.add(position)
            self._begin(message, position)

    def _begin(self, message: Msg, position: int) -> None:
        if self._mode == "batch":
            self._waiting.append(message)
            if self._batch is None:
                self._batch = asyncio.create_task(self._handle_batches())
            return
        aggregate = (message.headers or {}).get("ce-subject", "")
        task = asyncio.create_task(self._handle(message, self._tails.get(aggregate)))
        self._tails[aggregate] = task
        self._in_work.add(task)
        task.add_done_callback(lambda done: self._end(done, aggregate, position))

    def _end(self, task: asyncio.Task[None], aggregate: str, position: int) -> None:
        self._in_work.discard(task)
        self._positions.discard(position)
        if self._tails.get(aggregate) is task:
            del self._tails[aggregate]

    async def _handle(self, message: Msg, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        headers = message.headers or {}
        started, outcome = perf_counter(), "handled"
        with telemetry.entry(self._span_name, headers.get("traceparent"), telemetry.SpanKind.CONSUMER) as span:
            if span is not None:
                span.set_attributes(self._describe([headers]))
            try:
                event = received(headers, message.data, self.event.message)
                await self._patiently([message], lambda: self._run(event))
                self._lag_seconds.observe(max(0.0, time() - event.published_at))
            except AlreadyHandled:
                outcome = "repeated"
            except Exception as error:
                outcome = await self._failed(message, error)
                if span is not None:
                    telemetry.fail(span, type(error).__name__)
            if outcome in ("handled", "repeated"):
                await self._answer(message, Msg.ack)
        metrics.EVENT_SECONDS.labels(self.name, outcome).observe(perf_counter() - started)

    def _describe(self, messages: Sequence[Mapping[str, str]]) -> Mapping[str, str | int]:
        """What the span of messages with these headers says of them."""
        described: dict[str, str | int] = {
            "messaging.system": "nats",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": self.event.name,
            "messaging.consumer.group.name": self.name,
        }
        if self._mode == "batch":
            return described | {"messaging.batch.message_count": len(messages)}
        return described | {"messaging.message.id": messages[0].get("ce-id", "")}

    async def _run(self, event: Received[Any]) -> None:
        if self._mode != "once" or self._database is None:
            await self._handler(self._call(), event)
            return
        inbox = InboxEntry(self.name, event.event_id, event.community_id)
        async with self._database.transaction(event.community_id, inbox=inbox) as transaction:
            await self._handler(transaction, event)

    async def _patiently(self, messages: Sequence[Msg], run: Callable[[], Awaitable[None]]) -> None:
        """Runs until the database and the other services that it needs are there; the broker is told that it goes on."""
        for attempt in count():
            try:
                await run()
                return
            except Exception as error:
                if self._mode == "live" or self._stopping.is_set() or not _is_passing(error):
                    raise
                if attempt in (0, 10, 100, 1000):
                    telemetry.log.warning("event_waits", consumer=self.name, attempt=attempt, error=telemetry.describe(error))
            for message in messages:
                await self._answer(message, Msg.in_progress)
            try:
                await asyncio.wait_for(self._stopping.wait(), _PATIENCE_S[min(attempt, len(_PATIENCE_S) - 1)])
            except TimeoutError:
                pass

    async def _handle_batches(self) -> None:
        try:
            while self._waiting:
                messages, self._waiting = self._waiting, []
                await self._handle_batch(messages)
                self._positions.difference_update(message.metadata.sequence.stream for message in messages)
        finally:
            self._batch = None

    async def _handle_batch(self, messages: Sequence[Msg]) -> None:
        started, outcome = perf_counter(), "handled"
        headers = [message.headers or {} for message in messages]
        # One transaction for many traces: it is part of the first that is sampled, and linked to the others.
        sampled = [found for each in headers if (found := each.get("traceparent", "")).endswith("1")]
        links = [context for each in sampled[1:] if (context := telemetry.parse_traceparent(each)) is not None]
        first = sampled[0] if sampled else headers[0].get("traceparent")
        with telemetry.entry(self._span_name, first, telemetry.SpanKind.CONSUMER, links=links) as span:
            if span is not None:
                span.set_attributes(self._describe(headers))
            try:
                events = [received(message.headers or {}, message.data, self.event.message) for message in messages]
                await self._patiently(messages, lambda: self._run_batch(events))
                handled_at = time()
                for event in events:
                    self._lag_seconds.observe(max(0.0, handled_at - event.published_at))
            except Exception as error:
                if span is not None:
                    telemetry.fail(span, type(error).__name__)
                if len(messages) == 1 or _is_passing(error):
                    for message in messages:
                        outcome = await self._failed(message, error)
                else:
                    outcome = "divided"
        if outcome == "divided":
            # One of them is bad: each on its own finds out which.
            for message in messages:
                await self._handle_batch([message])
        elif outcome == "handled":
            for message in messages:
                await self._answer(message, Msg.ack)
        metrics.EVENT_SECONDS.labels(self.name, outcome).observe(perf_counter() - started)

    async def _run_batch(self, events: Sequence[Received[Any]]) -> None:
        assert self._database is not None
        async with self._database.transaction(PLATFORM) as transaction:
            await self._handler(transaction, events)

    async def _failed(self, message: Msg, error: Exception) -> str:
        """Decides what becomes of an event whose handler failed, and returns the word for it. Never raises."""
        if _is_passing(error):
            await self._answer(message, Msg.nak)  # We are stopping; another process may be luckier.
            return "retried"
        if self._mode == "live":
            telemetry.log.error("event_failed", consumer=self.name, error=telemetry.describe(error))
            return "failed"
        deliveries = message.metadata.num_delivered
        telemetry.log.error("event_failed", consumer=self.name, deliveries=deliveries, error=telemetry.describe(error))
        if deliveries < DELIVERIES_MAX:
            delay_s = _RETRY_DELAYS_S[min(deliveries, len(_RETRY_DELAYS_S)) - 1]
            await self._answer(message, lambda failed: failed.nak(delay_s))
            return "retried"
        try:
            await self._bury(message, error)
        except Exception as failure:
            # It comes again by itself when its ack is overdue.
            telemetry.log.error("event_not_buried", consumer=self.name, error=telemetry.describe(failure))
            return "failed"
        await self._answer(message, Msg.term)
        return "dead"

    async def _bury(self, message: Msg, error: Exception) -> None:
        self._dead_letters.inc()
        if self._database is None:
            return
        headers = {name: value.replace("\0", "\ufffd") for name, value in (message.headers or {}).items()}
        position = message.metadata.sequence.stream
        event_id = headers.get("ce-id") or f"{self.event.stream}:{position}"
        async with self._database.transaction(PLATFORM) as transaction:
            await transaction.execute(
                _INSERT_DEAD_LETTER,
                derived_id(self.name, event_id),
                _community(headers),
                self.name,
                event_id,
                message.subject,
                json.dumps(headers),
                message.data,
                telemetry.describe(error),
            )

    async def _answer(self, message: Msg, how: Callable[[Msg], Awaitable[None]]) -> None:
        # What a listener hears carries the address where the publisher waits for JetStream's answer, not for ours.
        if self._mode != "live" and message.reply:
            try:
                await how(message)
            except (NatsError, OSError):
                pass  # An answer that is lost brings the event again, and the inbox knows it.


def _community(headers: dict[str, str]) -> uuid.UUID:
    try:
        return uuid.UUID(headers["ce-community"])
    except (KeyError, ValueError):
        return uuid.UUID(int=0)


def _is_passing(error: Exception) -> bool:
    """Whether the same event may succeed later without anybody mending anything."""
    return isinstance(error, (Unavailable, NatsError, ConnectionError, TimeoutError, *GIVE_WAY))
