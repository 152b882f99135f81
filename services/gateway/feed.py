"""The feed: every notification of the platform as JetStream stores it, handed to those who listen in this process.

One ordered, unacknowledged consumer serves all connections: it costs the broker the same for one phone as for ten thousand, and a
connection that begins takes no consumer of its own. The sequence in the stream is the position of everybody. What a phone missed while it
was away is read from the stream by subject. How notifications reach a phone is told in `notifications`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from linli.notification.v1.events_pb2 import Notified
from servicekit import telemetry
from servicekit.events import event_type, received
from servicekit.messaging import ensure_stream

_EVENT = event_type(Notified)
# What the feed asks of JetStream, for the permissions of the gateway's NATS user.
_REQUESTS = ("STREAM.CREATE", "STREAM.INFO", "STREAM.MSG.GET", "CONSUMER.CREATE")
NATS_PUBLISHES = tuple(f"$JS.API.{request}.{_EVENT.stream}" for request in _REQUESTS)
_HEARTBEAT_S = 0.5
# Two heartbeats missed: the consumer is gone, or the broker is.
_SILENCE_S = 1.5
_RETRY_S = 0.5
# What may wait for one slow connection.
_WAITING_MAX = 64


@dataclass(frozen=True, slots=True)
class Notice:
    """One notification at its place in the stream."""

    sequence: int
    occurred_at: datetime
    message: Notified


class Listener:
    """One connection's place to hear. `since` is the position of the feed when it began: what is later comes by itself."""

    def __init__(self, since: int) -> None:
        self.since = since
        self.ended = False
        self._waiting: deque[Notice] = deque()
        self._wake = asyncio.Event()

    def put(self, notice: Notice) -> None:
        """Hands over a notice. A listener that lets too many wait is ended: its phone comes back and resumes."""
        if len(self._waiting) >= _WAITING_MAX:
            self.end()
        else:
            self._waiting.append(notice)
            self._wake.set()

    def end(self) -> None:
        """Ends the listener; what waits is dropped."""
        self.ended = True
        self._waiting.clear()
        self._wake.set()

    async def next(self, timeout_s: float) -> Notice | None:
        """The next notice; None when there was none in time, or the listener has ended."""
        if not self._waiting and not self.ended:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return None
        return self._waiting.popleft() if self._waiting else None


class Feed:
    """Follows the stream of notifications for as long as `run` runs."""

    def __init__(self, client: Client, replicas: int) -> None:
        self._client = client
        self._stream = client.jetstream(timeout=2)
        self._replicas = replicas
        self._listeners: dict[str, set[Listener]] = {}
        # The sequence of the last notification that was handed out; unknown until the stream is reached for the first time.
        self._position: int | None = None
        self._created: datetime | None = None
        self._ended = False

    @property
    def is_ready(self) -> bool:
        """Whether there may be listeners: the stream was reached, so that they know where they begin, and the process does not drain."""
        return self._position is not None and not self._ended

    @contextmanager
    def listen(self, community_id: UUID, account_id: UUID) -> Iterator[Listener]:
        """Hears what one account is told from now on. The feed must be ready."""
        assert self._position is not None
        subject = _subject(community_id, account_id)
        listener = Listener(self._position)
        self._listeners.setdefault(subject, set()).add(listener)
        try:
            yield listener
        finally:
            self._listeners[subject].discard(listener)
            if not self._listeners[subject]:
                del self._listeners[subject]

    def end(self) -> None:
        """Ends every listener and takes no new ones: the process drains."""
        self._ended = True
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end()

    async def missed(self, community_id: UUID, account_id: UUID, after: int, until: int) -> AsyncIterator[Notice]:
        """What one account was told after one position and not after another. Raises what nats raises when the broker is away."""
        subject = _subject(community_id, account_id)
        while after < until:
            try:
                stored = await self._stream.get_msg(_EVENT.stream, seq=after + 1, subject=subject, next=True)
            except NotFoundError:
                return
            after = stored.seq or until
            if after <= until and (notice := _notice(after, stored.headers, stored.data)):
                yield notice

    async def holds(self, sequence: int) -> bool:
        """Whether the stream ever gave out this sequence. A broker that lost its disk begins anew at 1. Raises what nats raises."""
        state = (await self._stream.stream_info(_EVENT.stream)).state
        return sequence <= state.last_seq

    async def run(self) -> None:
        """Follows the stream, through restarts of the broker, until it is cancelled."""
        while True:
            try:
                await self._follow()
            except (NatsError, OSError) as error:
                telemetry.log.warning("feed_interrupted", error=str(error) or type(error).__name__)
            except Exception as error:
                telemetry.log.error("feed_failed", exc_info=error)
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        """Hears the stream from the present position until something is missing."""
        await ensure_stream(self._client, _EVENT, self._replicas)
        info = await self._stream.stream_info(_EVENT.stream)
        if self._position is None:
            self._position = info.state.last_seq
        elif info.created != self._created or info.state.last_seq < self._position:
            self._position = 0  # The broker lost its disk; what is in the new stream is all new.
        self._created = info.created
        heard, ordered = asyncio.Event(), _Order()

        async def take(message: Msg) -> None:
            if ordered.accepts(message):
                self._hand_out(message)
            heard.set()

        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=take)
        try:
            await self._stream.add_consumer(
                _EVENT.stream,
                ConsumerConfig(
                    deliver_subject=inbox,
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=self._position + 1,
                    ack_policy=AckPolicy.NONE,
                    filter_subject=_EVENT.filter_subject,
                    idle_heartbeat=_HEARTBEAT_S,
                    inactive_threshold=30,
                    mem_storage=True,
                    num_replicas=1,
                ),
            )
            while not ordered.broken:
                heard.clear()
                async with asyncio.timeout(_SILENCE_S):
                    await heard.wait()
        finally:
            # What this subscription still hands over comes again through the next one.
            ordered.broken = True
            if not self._client.is_closed:
                await subscription.unsubscribe()

    def _hand_out(self, message: Msg) -> None:
        if message.headers and message.headers.get("Status"):
            return
        self._position = message.metadata.sequence.stream
        listeners = self._listeners.get(message.subject)
        if listeners and (notice := _notice(self._position, message.headers, message.data)):
            for listener in listeners:
                listener.put(notice)


class _Order:
    """Notices when a message of a consumer is missing: its numbers rise by one, and heartbeats repeat the last."""

    def __init__(self) -> None:
        self.broken = False
        self._last = 0

    def accepts(self, message: Msg) -> bool:
        """Whether everything before this message has come."""
        headers = message.headers or {}
        if headers.get("Status"):
            last = int(headers.get("Nats-Last-Consumer", self._last))
            self.broken = self.broken or last != self._last
        elif message.metadata.sequence.consumer == self._last + 1:
            self._last += 1
        else:
            self.broken = True
        return not self.broken


def _subject(community_id: UUID, account_id: UUID) -> str:
    return _EVENT.subject(Notified(account_id=str(account_id)), community_id)


def _notice(sequence: int, headers: dict[str, str] | None, body: bytes | None) -> Notice | None:
    try:
        event = received(headers or {}, body or b"", Notified)
    except ValueError as error:
        telemetry.log.error("notification_unreadable", sequence=sequence, error=telemetry.describe(error))
        return None
    return Notice(sequence, event.occurred_at, event.message)
