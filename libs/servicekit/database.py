"""PostgreSQL: one database and one role for each service, a transaction for each request or event, and a wall around each community.

`store.py` of a service runs its SQL on a `Transaction`. Nothing in a transaction calls the network: `forbid_in_transaction` guards the
places that would.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg
from google.protobuf.message import Message
from prometheus_client import Counter

from servicekit import metrics, telemetry
from servicekit.auth import Principal
from servicekit.clock import Clock
from servicekit.errors import Invalid, Unavailable
from servicekit.events import Envelope, envelope
from servicekit.identifiers import new_id

# The scope of relays, timers and look-ups that do not know their community yet: it sees every community's rows.
PLATFORM: Final = "*"
Scope = uuid.UUID | str
Resource = TypeVar("Resource")
if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

_COMMAND_TIMEOUT_S = 15.0
_CLOSE_S = 5.0
# That the server is away is logged this often, not once for each transaction that misses it.
_TELL_S = 1.0
_in_transaction: ContextVar[bool] = ContextVar("in_transaction", default=False)

_INSERT_EVENTS = """
WITH written AS (
    INSERT INTO outbox (event_id, community_id, subject, type, aggregate, version, occurred_at, traceparent, body)
    SELECT * FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::text[], $9::bytea[]
    )
)
SELECT NOT EXISTS (SELECT FROM outbox WHERE sent_at IS NULL AND aggregate = ANY($5::text[]))
"""


def forbid_in_transaction(what: str) -> None:
    """Raises AssertionError inside a transaction: a network call there would hold locks for as long as a stranger likes."""
    if _in_transaction.get():
        raise AssertionError(f"{what} inside a transaction")


class Resources:
    """What a service opened at start, found again by its type."""

    def __init__(self, resources: Sequence[object] = ()) -> None:
        self._resources = tuple(resources)

    def get(self, kind: type[Resource]) -> Resource:
        """The resource of this type. Raises LookupError when the service opened none."""
        for resource in self._resources:
            if isinstance(resource, kind):
                return resource
        raise LookupError(f"no resource of type {kind.__name__}")


class Transaction:
    """One transaction in one scope. Commits when its block ends, rolls back when it raises.

    `now` is one instant for the whole transaction. `principal` is who asked, None for events and timers. `scope` is where it is now.
    """

    __slots__ = ("_connection", "_database", "_events", "_resources", "counted", "now", "principal", "scope")

    def __init__(
        self, connection: "Connection", database: str, scope: Scope, now: datetime, principal: Principal | None, resources: Resources
    ) -> None:
        self._connection = connection
        self._database = database
        # What is to be counted when the transaction has committed.
        self.counted: list[Counter] = []
        self.scope = scope
        self._resources = resources
        self._events: list[Envelope] = []
        self.now = now
        self.principal = principal

    @property
    def community_id(self) -> uuid.UUID:
        """The community that this transaction is in. Raises RuntimeError in the platform scope."""
        if isinstance(self.scope, uuid.UUID):
            return self.scope
        raise RuntimeError("the transaction is in no community")

    @property
    def caller(self) -> Principal:
        """Who asked. Raises RuntimeError when nobody did."""
        if self.principal is None:
            raise RuntimeError("nobody asked for this transaction")
        return self.principal

    def resource(self, kind: type[Resource]) -> Resource:
        """The service's resource of this type, opened at start."""
        return self._resources.get(kind)

    async def enter(self, scope: Scope) -> None:
        """Moves the rest of the transaction to another scope."""
        await self._connection.execute("SELECT set_config('linli.community', $1, true)", str(scope))
        self.scope = scope

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """All rows."""
        with telemetry.statement(sql, self._database):
            rows: list[asyncpg.Record] = await self._connection.fetch(sql, *arguments)
            return rows

    async def fetchrow(self, sql: str, *arguments: object) -> asyncpg.Record | None:
        """The first row, or None."""
        with telemetry.statement(sql, self._database):
            row: asyncpg.Record | None = await self._connection.fetchrow(sql, *arguments)
            return row

    async def fetchval(self, sql: str, *arguments: object) -> Any:
        """The first column of the first row, or None."""
        with telemetry.statement(sql, self._database):
            return await self._connection.fetchval(sql, *arguments)

    async def execute(self, sql: str, *arguments: object) -> int:
        """Runs a statement and returns how many rows it touched."""
        with telemetry.statement(sql, self._database):
            status: str = await self._connection.execute(sql, *arguments)
            count = status.rpartition(" ")[2]
            return int(count) if count.isdigit() else 0

    def publish(
        self, event: Message, *, version: int = 0, occurred_at: datetime | None = None, community_id: uuid.UUID | None = None
    ) -> uuid.UUID:
        """Publishes an event when, and only when, the transaction commits. Returns the event's id.

        Publish after the aggregate's row is locked, so that events of one aggregate leave in order. `occurred_at` is now unless the fact
        is older than this transaction. `community_id` says whose event it is in the platform scope, where the transaction is in none.
        """
        if community_id is None:
            community_id = self.community_id
        elif self.scope not in (PLATFORM, community_id):
            raise RuntimeError("the transaction is in another community")
        event_id = new_id()
        self._events.append(
            envelope(
                event,
                community_id,
                event_id=str(event_id),
                occurred_at=occurred_at or self.now,
                version=version,
                traceparent=telemetry.traceparent(),
            )
        )
        return event_id

    def count(self, counter: Counter) -> None:
        """Adds one to a metric when, and only when, the transaction commits: one that gives way to another runs again."""
        self.counted.append(counter)

    async def write_events(self) -> tuple[Sequence[Envelope], bool]:
        """Writes what was published into the outbox; the last statement before the commit.

        Returns the events, and whether they may leave at once: nothing waits that their aggregates have published before.
        """
        if not self._events:
            return (), True
        if self.scope != PLATFORM and any(event.community_id != self.scope for event in self._events):
            await self.enter(PLATFORM)  # Published before the transaction moved on to where it is now.
        columns = zip(*(_outbox_row(event) for event in self._events), strict=True)
        return self._events, await self.fetchval(_INSERT_EVENTS, *(list(column) for column in columns))


def _outbox_row(event: Envelope) -> tuple[object, ...]:
    return (
        uuid.UUID(event.event_id),
        event.community_id,
        event.subject,
        event.type,
        event.aggregate,
        event.version,
        event.occurred_at,
        event.traceparent,
        event.body,
    )


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """Says that `consumer` has handled `event_id`."""

    consumer: str
    event_id: str
    community_id: uuid.UUID


class AlreadyHandled(Exception):
    """The inbox holds the entry: the effects of this event are committed."""


async def _begin(connection: "Connection", scope: Scope, inbox: InboxEntry | None) -> None:
    # One round trip for all of it, which the simple protocol allows only without arguments.
    sql = f"BEGIN; SELECT set_config('linli.community', {_quoted(str(scope))}, true)"
    if inbox is not None:
        values = ", ".join(_quoted(value) for value in (inbox.consumer, inbox.event_id, str(inbox.community_id)))
        sql += f"; INSERT INTO inbox (consumer, event_id, community_id) VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608
    status = await connection.execute(sql)
    if inbox is not None and status.endswith(" 0"):
        raise AlreadyHandled


def _quoted(text: str) -> str:
    """A string literal of PostgreSQL, whose standard_conforming_strings is on since 9.1."""
    if "\0" in text:
        raise ValueError("a NUL in a literal")
    return "'" + text.replace("'", "''") + "'"


def _is_lost(connection: "Connection", error: BaseException) -> bool:
    """Whether an error means that the session is gone."""
    try:
        # Confused by the death of its server, asyncpg may not know yet that the connection is closed.
        is_confused = isinstance(error, asyncpg.InternalClientError) and not isinstance(error, asyncpg.OutdatedSchemaCacheError)
        return connection.is_closed() or is_confused
    except asyncpg.InterfaceError:
        return True  # The pool has taken it back already.


async def _roll_back(connection: "Connection") -> None:
    """Rolls back to the end, however often the task is cancelled: a statement that nobody stops goes on in PostgreSQL, with its locks."""
    work = asyncio.create_task(_try_to_roll_back(connection))
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _try_to_roll_back(connection: "Connection") -> None:
    # The session is not reset between uses, so one that cannot roll back must not return to the pool.
    try:
        await connection.execute("ROLLBACK", timeout=_CLOSE_S)
    except Exception:
        _give_up(connection)


def _give_up(connection: "Connection") -> None:
    try:
        connection.terminate()
    except asyncpg.InterfaceError:
        pass  # The pool has taken it back already.


class Database:
    """One service's database."""

    def __init__(self, service: str, pool: "Pool", clock: Clock) -> None:
        self.service = service
        self.resources = Resources()
        # Called with the events of each transaction that has committed, and whether they may leave before all that waits in the outbox.
        self.on_events: Callable[[Sequence[Envelope], bool], None] = lambda _events, _may_leave: None
        self._pool = pool
        self._clock = clock
        self._name = f"linli_{service}"
        self._told_at = float("-inf")
        self._in_use = metrics.POOL_IN_USE.labels(service)
        self._wait_seconds = metrics.POOL_WAIT_SECONDS.labels(service)
        metrics.POOL_MAX.labels(service).set(pool.get_max_size())

    @asynccontextmanager
    async def transaction(
        self, scope: Scope, *, principal: Principal | None = None, inbox: InboxEntry | None = None
    ) -> AsyncIterator[Transaction]:
        """A transaction in one community, or in the platform scope.

        Raises Unavailable when the database does not answer, and Invalid when it cannot hold a value. With `inbox`, the transaction writes
        that row first, and raises AlreadyHandled when it was there.
        """
        connection = await self._acquire()
        token = _in_transaction.set(True)
        self._in_use.inc()
        try:
            with telemetry.statement("BEGIN", self._name):
                await _begin(connection, scope, inbox)
            transaction = Transaction(connection, self._name, scope, self._clock(), principal, self.resources)
            yield transaction
            events, may_leave = await transaction.write_events()
            await self._commit(connection)
        except BaseException as error:
            is_lost = _is_lost(connection, error)
            if is_lost:
                _give_up(connection)
            else:
                await _roll_back(connection)
            if isinstance(error, UNREACHABLE) or (is_lost and isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError)):
                raise self._unavailable(error) from error
            if _is_unfit(error):
                telemetry.log.warning("value_refused", service=self.service, error=telemetry.describe(error))
                raise Invalid("request.value", "请求中含有无法保存的字符或数值", "A character or number cannot be stored") from error
            raise
        finally:
            self._in_use.dec()
            _in_transaction.reset(token)
            await self._pool.release(connection)
        for counter in transaction.counted:
            counter.inc()
        if events:
            self.on_events(events, may_leave)

    async def _acquire(self) -> "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]":
        started = perf_counter()
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                return await self._pool.acquire()
        except (*UNREACHABLE, OSError, asyncpg.InterfaceError) as error:
            raise self._unavailable(error) from error
        finally:
            self._wait_seconds.observe(perf_counter() - started)

    async def _commit(self, connection: "Connection") -> None:
        with telemetry.statement("COMMIT", self._name):
            # PostgreSQL answers ROLLBACK, and no error, when a statement had failed and somebody caught its error.
            if await connection.execute("COMMIT") != "COMMIT":
                raise RuntimeError("the transaction was rolled back, because the error of a statement in it was swallowed")

    def _unavailable(self, error: BaseException) -> Unavailable:
        if monotonic() - self._told_at > _TELL_S:
            self._told_at = monotonic()
            telemetry.log.warning("database_unreachable", service=self.service, error=telemetry.describe(error))
        text = "The database does not answer; please try again"
        return Unavailable("database.unavailable", "数据库暂时不可用，请稍后再试", text, retry_after_s=1)

    async def close(self) -> None:
        """Closes the pool."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()


# What asyncpg and the operating system raise when the server is away, restarting, out of connections or too slow.
UNREACHABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    ConnectionError,
    TimeoutError,
)
# What asyncpg raises for an address that it does not understand, or whose certificates are not there.
WRONG_ADDRESS: Final = (asyncpg.ClientConfigurationError, ValueError)
# Another transaction, or a migration, was in the way: doing the whole transaction again is right.
GIVE_WAY: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
_UNFIT = (
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.UntranslatableCharacterError,
    asyncpg.NumericValueOutOfRangeError,
    asyncpg.DatetimeFieldOverflowError,
    asyncpg.InvalidTextRepresentationError,
    asyncpg.InvalidDatetimeFormatError,
    asyncpg.StringDataRightTruncationError,
    asyncpg.ProgramLimitExceededError,
)


def _is_unfit(error: BaseException) -> bool:
    """Whether PostgreSQL has no place for a value: a NUL in a text, a number or an instant out of range, an id that is none."""
    if isinstance(error, _UNFIT):
        return True
    # What asyncpg itself cannot encode. A value of the wrong type is a defect of ours, and is a TypeError underneath.
    return type(error) is asyncpg.DataError and isinstance(error.__cause__, ValueError | OverflowError)


async def _keep_session(_connection: object) -> None:
    """In place of asyncpg's reset, which costs a round trip each time: everything we set is local to its transaction."""


async def open_database(service: str, url: str, *, pool_size: int, clock: Clock) -> Database:
    """Connects to a service's database. Raises what asyncpg raises when it cannot."""
    pool = await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=pool_size,
        command_timeout=_COMMAND_TIMEOUT_S,
        reset=_keep_session,
        server_settings={
            "application_name": f"linli-{service}",
            "timezone": "UTC",
            "jit": "off",
            # A process that died or vanished must not keep its locks.
            "client_connection_check_interval": "2s",
            "idle_in_transaction_session_timeout": "60s",
        },
    )
    return Database(service, pool, clock)
