"""The relay: publishes what transactions wrote into the outbox, in order for each aggregate, and marks it sent.

What a transaction has just committed leaves from memory, when nothing waits that its aggregates have published before: then no later event
of theirs can overtake it, in this process or another, because whoever writes one finds these unsent. Everything else, and what could not
leave, is read from the table by one relay at a time, which is woken in the process after each such commit and looks by itself every second.
Rows stay until they are old: a broker that has lost its disk is given them again, as soon as it is back and without anybody asking.
"""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from datetime import timedelta

import asyncpg

from servicekit import metrics, streams, telemetry
from servicekit.database import PLATFORM, Database, Transaction
from servicekit.errors import Unavailable
from servicekit.events import Envelope, EventType
from servicekit.messaging import STREAM_AGE_S, Publisher
from servicekit.streams import Mark

_POLL_S = 1.0
_PAUSE_S = 0.2
_BATCH = 512
KEEP = timedelta(seconds=STREAM_AGE_S)
# The inbox must remember for longer than anything can be published again.
_KEEP_INBOX = KEEP * 2
_KEEP_KEYS = timedelta(days=2)

# Released by the commit. Waiting for it is right: what the other relay leaves behind is ours to send.
_TAKE_TURN = "SELECT pg_advisory_xact_lock(hashtext('linli.outbox'))"
_SELECT_UNSENT = """
SELECT event_id, community_id, subject, type, aggregate, version, occurred_at, traceparent, body
FROM outbox WHERE sent_at IS NULL ORDER BY position LIMIT $1
"""
# A mark that a crash forgets only means that the event is published again, so no mark waits for the disk.
_MARK_SENT = """
UPDATE outbox SET sent_at = now() FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unhurried
WHERE event_id = ANY($1::uuid[]) AND sent_at IS NULL
"""
# What has waited for longer than any event that is on its way.
_SELECT_LATE = "SELECT EXISTS (SELECT FROM outbox WHERE sent_at IS NULL AND created_at < now() - interval '1 second')"
# What people were told is not told again days later: it is only repeated when it may not have reached them.
_REPLAY_TYPES = """
UPDATE outbox SET sent_at = NULL
WHERE sent_at IS NOT NULL AND (type = ANY($1::text[]) OR (type = ANY($2::text[]) AND created_at > now() - interval '10 minutes'))
"""
_REPLAY = "UPDATE outbox SET sent_at = NULL WHERE created_at >= $1 AND sent_at IS NOT NULL"
_PRUNE_OUTBOX = "DELETE FROM outbox WHERE created_at < now() - $1::interval AND sent_at IS NOT NULL"
_PRUNE_INBOX = "DELETE FROM inbox WHERE handled_at < now() - $1::interval"
_PRUNE_KEYS = "DELETE FROM idempotency_keys WHERE created_at < now() - $1::interval"


class Relay:
    """One service's relay in one process."""

    def __init__(self, database: Database, publisher: Publisher, published: Sequence[EventType] = ()) -> None:
        self._database = database
        self._publisher = publisher
        self._woken = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()
        # Events that have left from memory and are not marked yet. While the relay compares them with the table nobody marks.
        self._unmarked: set[str] = set()
        self._comparing = asyncio.Lock()
        self._marking: asyncio.Task[None] | None = None
        self._published = published
        # The broker's streams as this process saw them last, or before it another one.
        self._streams: dict[str, Mark] | None = None
        database.on_events = self._committed
        # A rate counts from what it has seen before.
        metrics.STREAMS_LOST.labels(database.service)

    def wake(self) -> None:
        """Looks at once, because something waits or the broker has come back."""
        self._woken.set()

    def _committed(self, events: Sequence[Envelope], may_leave: bool) -> None:
        if may_leave and self._publisher.is_connected:
            task = asyncio.create_task(self._leave(events))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        else:
            self._woken.set()

    async def _leave(self, events: Sequence[Envelope]) -> None:
        sent = await self._publish_in_order(events)
        self._unmarked |= set(sent)
        if self._marking is None and sent:
            # In no trace: it marks the events of many.
            self._marking = asyncio.create_task(self._mark(), context=Context())
        if len(sent) < len(events):
            self._woken.set()

    async def _mark(self) -> None:
        """Marks what has left, all that there is at once; what it cannot mark is published again."""
        try:
            while self._unmarked:
                async with self._comparing:
                    sent = list(self._unmarked)
                    try:
                        async with self._database.transaction(PLATFORM) as transaction:
                            await transaction.execute(_MARK_SENT, sent)
                    finally:
                        self._unmarked.difference_update(sent)
        except Exception as error:
            telemetry.log.warning("outbox_not_marked", service=self._database.service, error=telemetry.describe(error))
        finally:
            self._marking = None

    async def run(self) -> None:
        """Relays until it is cancelled, at first what an earlier process left behind."""
        self._woken.set()
        while True:
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            is_woken = self._woken.is_set()
            self._woken.clear()
            # While the broker is away there is nothing to do, and no turn to keep from another process that may reach it.
            if self._publisher.is_connected and not await self._send_all(only_late=not is_woken):
                await asyncio.sleep(_PAUSE_S)

    async def flush(self, within_s: float = 20.0) -> None:
        """Publishes all that waits, for a process that is about to stop; what the broker does not take stays for the next one."""
        try:
            async with asyncio.timeout(within_s):
                while tasks := [*self._leaving, *([self._marking] if self._marking else [])]:
                    await asyncio.wait(tasks)
                if self._publisher.is_connected:
                    await self._send_all()
        except TimeoutError:
            telemetry.log.warning("outbox_not_flushed", service=self._database.service)

    async def _send_all(self, *, only_late: bool = False) -> bool:
        """Sends batches until nothing waits; says whether it came to that."""
        try:
            if only_late and not await self._is_anything_late():
                return True
            while (sent := await self.send_batch()) == _BATCH:
                pass
        except Exception as error:
            telemetry.log.warning("outbox_waits", service=self._database.service, error=telemetry.describe(error))
            return False
        return sent >= 0

    async def _is_anything_late(self) -> bool:
        async with self._database.transaction(PLATFORM) as transaction:
            return bool(await transaction.fetchval(_SELECT_LATE))

    async def send_batch(self) -> int:
        """Publishes what waits, up to a limit. Returns how many events it sent, or -1 when the broker did not take them all.

        The broker is called inside this one transaction, which keeps the turn and locks no row that anybody else waits for.
        """
        async with self._comparing, self._database.transaction(PLATFORM) as transaction:
            await transaction.execute(_TAKE_TURN)
            rows = await transaction.fetch(_SELECT_UNSENT, _BATCH)
            if self._leaving:
                await asyncio.wait(self._leaving)
            events = [_envelope(row) for row in rows]
            sent = [event.event_id for event in events if event.event_id in self._unmarked]
            sent += await self._publish_in_order([event for event in events if event.event_id not in self._unmarked])
            if sent:
                await transaction.execute(_MARK_SENT, sent)
        if len(sent) < len(rows):
            telemetry.log.warning("outbox_unsent", service=self._database.service, events=len(rows) - len(sent))
            return -1
        return len(sent)

    async def _publish_in_order(self, events: Sequence[Envelope]) -> list[str]:
        """Publishes one event of each aggregate at a time, and returns the ids of those that the broker has stored.

        An aggregate whose event fails waits for the next turn, and holds back no other.
        """
        queues: dict[str, list[Envelope]] = {}
        for event in events:
            queues.setdefault(event.aggregate, []).append(event)
        sent: list[str] = []

        async def drain(queue: Sequence[Envelope]) -> None:
            for event in queue:
                try:
                    await self._publisher.relay(event)
                except Unavailable:
                    return
                except Exception as error:
                    telemetry.log.error("event_unpublishable", type=event.type, event_id=event.event_id, error=telemetry.describe(error))
                    return
                sent.append(event.event_id)

        if len(queues) == 1:
            await drain(events)
        else:
            await asyncio.gather(*(drain(queue) for queue in queues.values()))
        metrics.OUTBOX_SENT.labels(self._database.service).inc(len(sent))
        return sent

    async def recall(self) -> None:
        """Looks up what the service knows of the broker's streams, once; before they are looked at, so that it is the older of the two."""
        if self._streams is None:
            async with self._database.transaction(PLATFORM) as transaction:
                self._streams = await streams.known_streams(transaction)

    async def compare(self, marks: Sequence[Mark]) -> None:
        """Takes in how far the broker's streams are, and publishes again what belongs into those that have lost something.

        Each process does so for itself: what one has on its way might be marked as sent after another one has looked.
        """
        assert self._streams is not None
        lost = streams.find_lost(self._streams, marks)
        again = 0
        async with self._comparing, self._database.transaction(PLATFORM) as transaction:
            await streams.remember(transaction, marks)
            if lost:
                self._unmarked.clear()
                names = {mark.stream for mark in lost}
                events = [event for event in self._published if event.stream in names]
                told = {event.name for event in events if event.recipient_field}
                again = await transaction.execute(_REPLAY_TYPES, [event.name for event in events if event.name not in told], list(told))
        self._streams |= {mark.stream: mark for mark in marks if not mark.consumer}
        if lost:
            metrics.STREAMS_LOST.labels(self._database.service).inc(len(lost))
            telemetry.log.error("streams_lost", service=self._database.service, streams=[mark.stream for mark in lost], events_again=again)
            self.wake()

    async def prune(self) -> None:
        """Deletes what is too old to be needed."""
        async with self._database.transaction(PLATFORM) as transaction:
            await transaction.execute(_PRUNE_OUTBOX, KEEP)
            await transaction.execute(_PRUNE_INBOX, _KEEP_INBOX)
            await transaction.execute(_PRUNE_KEYS, _KEEP_KEYS)
            await streams.forget(transaction)


async def replay(transaction: Transaction, since: object) -> int:
    """Marks what was published since an instant as unsent, so that the relay publishes it again. Consumers know what they have handled."""
    return await transaction.execute(_REPLAY, since)


def _envelope(row: asyncpg.Record) -> Envelope:
    return Envelope(
        event_id=str(row["event_id"]),
        type=row["type"],
        community_id=row["community_id"],
        subject=row["subject"],
        aggregate=row["aggregate"],
        version=row["version"],
        occurred_at=row["occurred_at"],
        traceparent=row["traceparent"],
        body=row["body"],
    )
