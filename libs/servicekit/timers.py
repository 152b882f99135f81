"""Timers: what is to be done at an instant that a business action has set, once, whatever restarts in between.

A timer is a row that its action writes or takes back in its own transaction. Every process of a service looks twice a second for what is
due and fires it: one transaction in the timer's community, in which the row is deleted and the handler's effects are written. So a timer
whose process is killed is still there for the next one, and one whose effects are committed is gone. Work that comes by the clock and is
about no subject is a job of the service (`every`).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from uuid import UUID

from servicekit import metrics, telemetry
from servicekit.database import GIVE_WAY, PLATFORM, Database, Transaction
from servicekit.errors import ServiceError

_POLL_S = 0.5
# So few that a backlog leaves connections of the pool to requests and events.
_AT_ONCE = 4
_RUN_S = 20.0
_DELAY_MAX_S = 3600


@dataclass(frozen=True, slots=True)
class Due:
    """A timer: at `due_at` the handler of `kind` judges the subject. `name` tells the timers of one kind and subject apart."""

    kind: str
    subject_id: UUID
    name: str
    due_at: datetime


Handler = Callable[[Transaction, Due], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Timer:
    """One line of a service's `timers`."""

    kind: str
    run: Handler


def timer(kind: str, run: Handler) -> Timer:
    """`run` judges the timers of a kind, each once, in a transaction of its community in which the timer is deleted.

    `tx.now` is at or after `due_at`; after a pause of the service long after. `run` locks what it judges and looks whether there is still
    anything to do. It may set the same timer anew. When it raises, nothing has happened, and it runs again, later each time.
    """
    return Timer(kind, run)


_SET = """
INSERT INTO timers (community_id, subject_id, kind, name, due_at, try_at)
SELECT $1::uuid, subject_id, kind, name, due_at, due_at
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) AS due (subject_id, kind, name, due_at)
ON CONFLICT (community_id, subject_id, kind, name)
DO UPDATE SET due_at = excluded.due_at, try_at = excluded.try_at, attempts = 0
"""


async def set_timers(tx: Transaction, timers: Iterable[Due]) -> None:
    """Sets timers of the transaction's community, or moves those that are set. Of two for the same thing the later in order counts."""
    # In one order, so that two transactions which set the same timers cannot wait for each other.
    rows = sorted({(due.subject_id, due.kind, due.name): due.due_at for due in timers}.items())
    if rows:
        columns = zip(*((*key, due_at) for key, due_at in rows), strict=True)
        await tx.execute(_SET, tx.community_id, *(list(column) for column in columns))


_CANCEL = "DELETE FROM timers WHERE community_id = $1 AND subject_id = $2"
_CANCEL_KIND = "DELETE FROM timers WHERE community_id = $1 AND subject_id = $2 AND kind = $3"


async def cancel_timers(tx: Transaction, subject_id: UUID, kind: str | None = None) -> None:
    """Takes back the timers of a subject, or those of one kind. What has fired has fired."""
    if kind is None:
        await tx.execute(_CANCEL, tx.community_id, subject_id)
    else:
        await tx.execute(_CANCEL_KIND, tx.community_id, subject_id, kind)


# What a look costs while nothing is due.
EARLIEST = "SELECT min(try_at) FROM timers"
# The longest due of those that nobody has in work. Whoever changes a subject locks it first and its timers then, the handler the other way
# round: so the handler is the one that gives way, before PostgreSQL chooses.
TAKE = """
WITH next AS (
    SELECT community_id, subject_id, kind, name FROM timers
    WHERE try_at >= $1 AND try_at <= $2 AND kind = ANY($3::text[]) AND subject_id <> ALL($4::uuid[])
    ORDER BY try_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
DELETE FROM timers USING next
WHERE (timers.community_id, timers.subject_id, timers.kind, timers.name) = (next.community_id, next.subject_id, next.kind, next.name)
RETURNING timers.community_id, timers.kind, timers.subject_id, timers.name, timers.due_at, timers.try_at, timers.attempts,
    set_config('lock_timeout', '500ms', true)
"""
_POSTPONE = """
UPDATE timers SET attempts = $6, try_at = $7
WHERE community_id = $1 AND subject_id = $2 AND kind = $3 AND name = $4 AND due_at = $5 AND attempts < $6
"""
_COUNT_STRANGE = "SELECT kind, count(*) AS timers FROM timers WHERE kind <> ALL($1::text[]) GROUP BY kind"


@dataclass(frozen=True, slots=True)
class _Taken:
    community_id: UUID
    due: Due
    attempts: int


class Timers:
    """Fires one service's timers in one process."""

    def __init__(self, database: Database, timers: Sequence[Timer]) -> None:
        self._database = database
        self._handlers = {each.kind: each.run for each in timers}
        if len(self._handlers) < len(timers):
            raise TypeError(f"{database.service} declares two handlers for one kind of timer")
        self._stopping = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._in_work: set[asyncio.Task[None]] = set()
        # A subject's timers fire one after the other, and one that has failed not again before it is put off.
        self._subjects: set[UUID] = set()
        # Where the last look found one: the next looks from there on, and not through all that have just been fired. None where it found
        # none, and once in each interval.
        self._floor: datetime | None = None

    def start(self) -> None:
        """Starts to fire, first what became due while nobody did."""
        self._looking = asyncio.create_task(self._look())

    async def stop(self, within_s: float = 20.0) -> None:
        """Takes up no more, and finishes what is in work; what takes too long it leaves to the next process."""
        self._stopping.set()
        if self._looking is not None:
            _, late = await asyncio.wait([self._looking, *self._in_work], timeout=within_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _look(self) -> None:
        await self._tell_of_strange_kinds()
        slots, loop = asyncio.Semaphore(_AT_ONCE), asyncio.get_running_loop()
        from_the_start_at = loop.time()
        while self._handlers:
            await slots.acquire()
            if self._stopping.is_set():
                return
            if loop.time() >= from_the_start_at:
                self._floor, from_the_start_at = None, loop.time() + _POLL_S
            # One at a time looks, and the next does while the handlers of those before run.
            has_found: asyncio.Future[bool] = loop.create_future()
            task = asyncio.create_task(self._fire(has_found))
            self._in_work.add(task)
            task.add_done_callback(self._in_work.discard)
            task.add_done_callback(lambda _: slots.release())
            if not await has_found:
                from_the_start_at = loop.time()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await self._stopping.wait()

    async def _tell_of_strange_kinds(self) -> None:
        try:
            async with self._database.transaction(PLATFORM) as tx:
                for row in await tx.fetch(_COUNT_STRANGE, list(self._handlers)):
                    telemetry.log.warning("timers_left_alone", service=self._database.service, kind=row["kind"], timers=row["timers"])
        except Exception as error:
            telemetry.log.warning("timers_not_counted", service=self._database.service, error=telemetry.describe(error))

    async def _fire(self, has_found: asyncio.Future[bool]) -> None:
        """Fires the next timer that is due; says whether there is one as soon as it knows."""
        taken, started, outcome = None, perf_counter(), "fired"
        try:
            async with asyncio.timeout(_RUN_S), self._database.transaction(PLATFORM) as tx:
                taken = await self._take(tx)
                has_found.set_result(taken is not None)
                if taken is None:
                    return
                await tx.enter(taken.community_id)
                with telemetry.entry(f"fire {self._name(taken)}", None, telemetry.SpanKind.INTERNAL):
                    await self._handlers[taken.due.kind](tx, taken.due)
        except Exception as error:
            if taken is None:
                telemetry.log.warning("timers_wait", service=self._database.service, error=telemetry.describe(error))
                return
            outcome = "failed"
            await self._postpone(taken, error)
        finally:
            if taken is not None:
                self._subjects.discard(taken.due.subject_id)
            if not has_found.done():
                has_found.set_result(False)
        metrics.JOB_SECONDS.labels(self._name(taken), outcome).observe(perf_counter() - started)

    async def _take(self, tx: Transaction) -> _Taken | None:
        if self._floor is None:
            self._floor = await tx.fetchval(EARLIEST)
            if self._floor is None or self._floor > tx.now:
                return None
        row = await tx.fetchrow(TAKE, self._floor, tx.now, list(self._handlers), list(self._subjects))
        if row is None:
            return None
        self._floor = row["try_at"]
        self._subjects.add(row["subject_id"])
        due = Due(row["kind"], row["subject_id"], row["name"], row["due_at"])
        taken = _Taken(row["community_id"], due, row["attempts"])
        metrics.TIMER_LATE_SECONDS.labels(self._name(taken)).observe((tx.now - due.due_at).total_seconds())
        return taken

    async def _postpone(self, taken: _Taken, error: Exception) -> None:
        """Has a timer that failed tried again: after a second, and each time after twice as long."""
        is_ours = not isinstance(error, (ServiceError, *GIVE_WAY))
        tell = telemetry.log.error if is_ours else telemetry.log.warning
        tell("timer_failed", timer=self._name(taken), attempts=taken.attempts + 1, error=telemetry.describe(error))
        delay = timedelta(seconds=min(2 ** min(taken.attempts, 32), _DELAY_MAX_S))
        due = taken.due
        try:
            async with self._database.transaction(PLATFORM) as tx:
                key = (taken.community_id, due.subject_id, due.kind, due.name, due.due_at)
                await tx.execute(_POSTPONE, *key, taken.attempts + 1, tx.now + delay)
        except Exception as lost:
            telemetry.log.warning("timer_not_postponed", timer=self._name(taken), error=telemetry.describe(lost))

    def _name(self, taken: _Taken) -> str:
        return f"{self._database.service}-{taken.due.kind}"
