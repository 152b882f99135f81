"""The relay: publishes what transactions wrote into the outbox, in order for each aggregate, and marks it sent.

It is woken in the process after each commit and looks by itself every second. Relays of several processes take turns behind a lock, so that one
aggregate's events never overtake each other. Rows stay until they are old, so that a broker that lost its disk can be given them again.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from servicekit import telemetry
from servicekit.clock import Clock
from servicekit.database import PLATFORM, Database, Transaction
from servicekit.errors import ServiceError, Unavailable
from servicekit.events import Envelope
from servicekit.messaging import STREAM_AGE_S, Publisher

_POLL_S = 1.0
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
_MARK_SENT = "UPDATE outbox SET sent_at = $2 WHERE event_id = ANY($1::uuid[])"
_COUNT_UNSENT = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"
_REPLAY = "UPDATE outbox SET sent_at = NULL WHERE created_at >= $1 AND sent_at IS NOT NULL"
_PRUNE_OUTBOX = "DELETE FROM outbox WHERE created_at < $1 AND sent_at IS NOT NULL"
_PRUNE_INBOX = "DELETE FROM inbox WHERE handled_at < $1"
_PRUNE_KEYS = "DELETE FROM idempotency_keys WHERE created_at < $1"


class Relay:
    """One service's relay in one process."""

    def __init__(self, database: Database, publisher: Publisher, clock: Clock) -> None:
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._woken = asyncio.Event()
        database.on_events = self._woken.set

    async def run(self) -> None:
        """Relays until it is cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._woken.wait(), _POLL_S)
            except TimeoutError:
                pass
            self._woken.clear()
            try:
                while await self.send_batch() == _BATCH:
                    pass
            except (ServiceError, asyncpg.PostgresError) as error:
                telemetry.log.warning("outbox_waits", service=self._database.service, error=str(error))
                await asyncio.sleep(0.2)

    async def send_batch(self) -> int:
        """Publishes what waits, up to a limit, and returns how many it saw. Raises Unavailable when the broker or the database is away."""
        async with self._database.transaction(PLATFORM) as transaction:
            await transaction.execute(_TAKE_TURN)
            rows = await transaction.fetch(_SELECT_UNSENT, _BATCH)
            if rows:
                sent = await self._publish_in_order(rows)
                await transaction.execute(_MARK_SENT, sent, self._clock())
                telemetry.OUTBOX_SENT.labels(self._database.service).inc(len(sent))
                if len(sent) < len(rows):
                    telemetry.log.warning("outbox_unsent", service=self._database.service, events=len(rows) - len(sent))
                    await asyncio.sleep(0.2)
            return len(rows)

    async def _publish_in_order(self, rows: Sequence[asyncpg.Record]) -> list[object]:
        """Publishes one event of each aggregate at a time; an aggregate whose event fails waits for the next turn."""
        queues: dict[str, list[asyncpg.Record]] = {}
        for row in rows:
            queues.setdefault(row["aggregate"], []).append(row)
        sent: list[object] = []

        async def drain(queue: list[asyncpg.Record]) -> None:
            for row in queue:
                await self._publisher.send(row["subject"], row["body"], _envelope(row).headers(self._database.service))
                sent.append(row["event_id"])

        results = await asyncio.gather(*(drain(queue) for queue in queues.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Unavailable):
                raise result
        return sent

    async def flush(self) -> None:
        """Publishes all that waits, for a process that is about to stop; what the broker does not take stays for the next one."""
        try:
            while await self.send_batch() == _BATCH:
                pass
        except (ServiceError, asyncpg.PostgresError) as error:
            telemetry.log.warning("outbox_not_flushed", service=self._database.service, error=str(error))

    async def prune(self) -> None:
        """Deletes what is too old to be needed, and counts what waits."""
        now = self._clock()
        async with self._database.transaction(PLATFORM) as transaction:
            await transaction.execute(_PRUNE_OUTBOX, now - KEEP)
            await transaction.execute(_PRUNE_INBOX, now - _KEEP_INBOX)
            await transaction.execute(_PRUNE_KEYS, now - _KEEP_KEYS)
            telemetry.OUTBOX_UNSENT.labels(self._database.service).set(await transaction.fetchval(_COUNT_UNSENT))


async def replay(transaction: Transaction, since: object) -> int:
    """Marks everything published since an instant as unsent, so that the relay publishes it again. Consumers know what they have handled."""
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
