"""What tests stand on: real servers, fresh databases, running services, signed callers.

Servers are started once for each test worker; each platform gets empty databases and a NATS without streams, in about 50 ms. Tests whose
rows do not meet, because each has a community of its own, share one platform in a module:

    pytestmark = pytest.mark.asyncio(loop_scope="module")

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def running(servers: Servers) -> AsyncIterator[Platform]:
        async with platform(servers, SERVICE) as started:
            yield started

Everything asynchronous in such a module runs on the module's loop; a test there that starts a platform of its own keeps the streams.
"""

import asyncio
import itertools
import os
import secrets
import time
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import asyncpg
import jwt
import msgspec
import nats
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from nats.aio.msg import Msg

from console import catalog
from infra.local.nats import NatsServer, start_nats
from infra.local.ports import CHOICE, is_free
from infra.local.postgres import PostgresServer, start_postgres
from servicekit import schema
from servicekit.auth import ALGORITHM, AUDIENCE, Principal, Verifier, claims_of
from servicekit.clock import system_clock
from servicekit.config import ProcessSettings, load
from servicekit.database import Database, Scope, Transaction
from servicekit.events import M, Received, event_type, received
from servicekit.identifiers import new_id
from servicekit.rpc import Peer
from servicekit.service import Host, Service

T = TypeVar("T")
PASSWORD = "test"
DEADLINE_S = 15.0
# What keeps one phone from asking too much would keep a test or a benchmark from asking anything.
UNLIMITED = {"LINLI_GATEWAY_ACCOUNT_REQUESTS_PER_MINUTE": "0", "LINLI_GATEWAY_ADDRESS_REQUESTS_PER_MINUTE": "0"}
SERVICES = Path(__file__).parents[1] / "services"


async def eventually(probe: Callable[[], Awaitable[T]], what: str = "", deadline_s: float = DEADLINE_S, every_s: float = 0.01) -> T:
    """The first truthy answer of `probe`, which is asked every `every_s`. Fails when there is none within the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        answer = await probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what or probe}; last answer {answer!r}")
        await asyncio.sleep(every_s)


class TestClock:
    """A clock that moves only when it is told to."""

    __test__ = False

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        """Moves forward by `timedelta(**duration)`."""
        self.now += timedelta(**duration)


_TABLES = """
SELECT quote_ident(relname) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'schema_migrations'
"""
# What a test may change in a schema: tables, columns, policies, triggers, functions, indexes and constraints.
_SHAPE = """
SELECT md5(
    (SELECT string_agg(concat(oid, relname, relkind, relrowsecurity, relforcerowsecurity), ',' ORDER BY oid)
     FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    || (SELECT string_agg(concat(attrelid, attname, atttypid, attnotnull), ',' ORDER BY attrelid, attnum)
        FROM pg_attribute JOIN pg_class ON oid = attrelid WHERE relnamespace = 'public'::regnamespace)
    || (SELECT string_agg(concat(oid, polname, polrelid), ',' ORDER BY oid) FROM pg_policy)
    || (SELECT count(*) FROM pg_trigger WHERE tgenabled = 'O') || (SELECT count(*) FROM pg_constraint)
    || (SELECT string_agg(concat(oid, prosrc), ',' ORDER BY oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace))
"""


@dataclass(slots=True)
class _Template:
    """A migrated database, what it looks like, and its clones that are empty again."""

    credentials: schema.Credentials
    tables: list[str]
    shape: str
    # Rows that migrations wrote cannot be told from a test's own, so clones with any are not used twice.
    is_empty: bool
    free: list[str] = field(default_factory=list)


def _database_name(service: Service) -> str:
    """What a service's databases are called; a stand-in with the name of a real service has its own."""
    is_real = any(folder.is_relative_to(SERVICES) for folder in service.migrations)
    return service.name if is_real else f"{service.name}_stand_in"


class Servers:
    """PostgreSQL and NATS for one test worker."""

    def __init__(self, folder: Path) -> None:
        self.postgres: PostgresServer = start_postgres(folder / "postgres", durable=False)
        self.nats: NatsServer = start_nats(folder / "nats")
        self._templates: dict[str, _Template] = {}
        # Shared by copies that have a broker of their own.
        self._clones = itertools.count(1)

    def stop(self) -> None:
        self.nats.stop()
        self.postgres.stop()

    async def template(self, service: Service) -> schema.Credentials:
        """The addresses of the migrated database that this service's test databases are cloned from."""
        name = _database_name(service)
        if name not in self._templates:
            credentials = await schema.provision(self.postgres.url(), name, PASSWORD, PASSWORD)
            await schema.migrate(credentials.owner_url, service.migrations)
            connection = await asyncpg.connect(self.postgres.url(f"linli_{name}"))
            try:
                tables = [row[0] for row in await connection.fetch(_TABLES)]
                is_empty = not any([await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})") for table in tables])
                shape = await connection.fetchval(_SHAPE)
            finally:
                await connection.close()
            self._templates[name] = _Template(credentials, tables, shape, is_empty)
        return self._templates[name].credentials

    @asynccontextmanager
    async def database(self, service: Service) -> AsyncIterator[str]:
        """The address of a fresh database, for the service's own role.

        A clone costs 0.1 s or more and an emptied one 10 ms, so a clone that still looks like its template is emptied and used again.
        """
        credentials = await self.template(service)
        template = self._templates[_database_name(service)]
        clone = template.free.pop() if template.free else await self._clone(service)
        try:
            yield credentials.service_url.rpartition("/")[0] + f"/{clone}"
        finally:
            if await self._empty(clone, template):
                template.free.append(clone)
            else:
                await self._run(f"DROP DATABASE IF EXISTS {clone} WITH (FORCE)")

    async def _clone(self, service: Service) -> str:
        template = f"linli_{_database_name(service)}"
        clone = f"{template}_{os.getpid()}_{next(self._clones)}"
        await self._run(f"CREATE DATABASE {clone} TEMPLATE {template} OWNER {template}_owner")
        return clone

    async def _run(self, sql: str) -> None:
        connection = await asyncpg.connect(self.postgres.url())
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def _empty(self, database: str, template: _Template) -> bool:
        """Deletes every row, and says whether the database is as good as a fresh clone."""
        if not template.is_empty:
            return False
        # Without triggers: rows refer to each other, and some tables refuse to forget.
        settings = {"session_replication_role": "replica", "lock_timeout": "1s"}
        try:
            connection = await asyncpg.connect(self.postgres.url(database), server_settings=settings)
        except (OSError, asyncpg.PostgresError):
            return False
        try:
            await connection.execute("".join(f"DELETE FROM {table};" for table in template.tables))
            return bool(await connection.fetchval(_SHAPE) == template.shape)
        except asyncpg.PostgresError:
            return False
        finally:
            await connection.close()

    async def forget_streams(self) -> None:
        """Deletes every stream."""
        client = await nats.connect(self.nats.url)
        try:
            for stream in await client.jsm().streams_info():
                if not (stream.config.name or "").startswith("$"):  # those of NATS itself
                    await client.jsm().delete_stream(stream.config.name or "")
        finally:
            await client.close()


class Mint:
    """Signs access tokens as identity would, for tests of services that run without it."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        jwk = jwt.algorithms.OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        self._jwks = msgspec.json.encode({"keys": [{**jwk, "kid": "test", "alg": ALGORITHM, "use": "sig"}]})

    async def keys(self) -> bytes:
        """The published keys."""
        return self._jwks

    def token(self, principal: Principal, **claims: Any) -> str:
        """A token for `principal`; `claims` override what it says."""
        now = int(time.time())
        payload = {**claims_of(principal), "aud": AUDIENCE, "iat": now, "exp": now + 600, **claims}
        return jwt.encode(payload, self._key, algorithm=ALGORITHM, headers={"kid": "test"})


def principal(
    *permissions: str,
    community_id: uuid.UUID | None = None,
    account_id: uuid.UUID | None = None,
    household: Mapping[uuid.UUID, Sequence[str]] | None = None,
    modules: Sequence[str] = catalog.SERVICES,
) -> Principal:
    """Somebody who holds these permissions for the community, and others for households."""
    return Principal(
        account_id=account_id or new_id(),
        community_id=community_id or new_id(),
        permissions=frozenset(permissions),
        by_household={key: frozenset(value) for key, value in (household or {}).items()},
        modules=frozenset(modules),
    )


@dataclass(slots=True)
class Caller:
    """Calls gRPC methods as one principal. Raises the service's errors."""

    peer: Peer
    token: str | None

    async def call(self, method: str, request: Message, **metadata: str) -> Any:
        """Calls `linli.parking.v1.ParkingService/GetLot`; keywords are metadata with `_` for `-`."""
        service, _, name = method.partition("/")
        descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        headers = [(key.replace("_", "-"), value) for key, value in metadata.items()]
        if self.token is not None:
            headers.append(("authorization", f"Bearer {self.token}"))
        answer = await self.peer.call(f"/{method}", request.SerializeToString(), headers)
        return GetMessageClass(descriptor.output_type).FromString(answer)


@dataclass(slots=True)
class Platform:
    """Services that run in this process on fresh databases."""

    host: Host
    mint: Mint
    clock: Any
    grpc_address: str
    ops_url: str
    http_urls: dict[str, str]
    nats_url: str
    database_urls: dict[str, str]
    _peer: Peer
    seen: dict[str, list[Received[Any]]] = field(default_factory=dict)

    def caller(self, who: Principal | None = None, **claims: Any) -> Caller:
        """Calls as `who`, or without a token."""
        return Caller(self._peer, None if who is None else self.mint.token(who, **claims))

    def database(self, service: str) -> Database:
        """A running service's database, to look at what the test cannot see from outside."""
        for running in self.host.running:
            if running.name == service and running.database is not None:
                return running.database
        raise LookupError(service)

    @asynccontextmanager
    async def transaction(self, service: str, scope: Scope) -> AsyncIterator[Transaction]:
        """A transaction on a running service's database."""
        async with self.database(service).transaction(scope) as transaction:
            yield transaction

    async def publish(self, message: Message, community_id: uuid.UUID, *, event_id: str | None = None, **envelope: Any) -> str:
        """Publishes an event as another service would. Returns its id."""
        from servicekit.events import envelope as wrap

        running = self.host.running[0]
        identifier = event_id or str(new_id())
        envelope.setdefault("occurred_at", datetime.now(UTC))
        await running.publisher.publish(wrap(message, community_id, event_id=identifier, **envelope))
        return identifier

    def events(self, message: type[M]) -> list[Received[M]]:
        """The events of a type that were published since the platform started, in order."""
        return self.seen.get(event_type(message).name, [])

    async def event(self, message: type[M], where: Callable[[Received[M]], bool] = lambda _event: True) -> Received[M]:
        """The first published event of a type that fits; waits for it."""

        async def find() -> Received[M] | None:
            return next((event for event in self.events(message) if where(event)), None)

        found = await eventually(find, f"{message.DESCRIPTOR.full_name}")
        assert found is not None
        return found


def free_address() -> str:
    """A loopback address that nobody listens on."""
    start = (os.getpid() * 37) % len(CHOICE)
    for step in range(len(CHOICE)):
        port = CHOICE[(start + step * 7 + _taken.count(0)) % len(CHOICE)]
        if port not in _taken and is_free(port):
            _taken.append(port)
            return f"127.0.0.1:{port}"
    raise OSError("no free port")


_taken: list[int] = []


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for a block."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@asynccontextmanager
async def platform(
    servers: Servers,
    *services: Service,
    clock: Callable[[], datetime] | None = None,
    mint: Mint | None = None,
    settings: Mapping[str, str] | None = None,
    keep_streams: bool = False,
) -> AsyncIterator[Platform]:
    """Runs services in this process. Tokens are the test's own, signed by `mint`, unless identity is among the services.

    `settings` are environment variables that win over the harness's own. `keep_streams` lets a second platform join a running one.
    """
    from contextlib import AsyncExitStack

    if not keep_streams:
        await servers.forget_streams()
    signer = mint or Mint()
    grpc_address, ops_address = free_address(), free_address()
    values = {
        "LINLI_GRPC_ADDRESS": grpc_address,
        "LINLI_OPS_ADDRESS": ops_address,
        "LINLI_SERVICE_ADDRESS": grpc_address,
        "LINLI_NATS_URL": servers.nats.url,
        "LINLI_DRAIN_S": "5",
        "LINLI_BLOB_TICKET_KEY": b64encode(secrets.token_bytes(32)).decode(),
    }
    http_urls: dict[str, str] = {}
    database_urls: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        values["LINLI_BLOBS_URL"] = stack.enter_context(TemporaryDirectory())
        for service in services:
            if service.migrations:
                database_urls[service.name] = await stack.enter_async_context(servers.database(service))
                values[f"LINLI_{service.name.upper()}_DATABASE_URL"] = database_urls[service.name]
            if service.http is not None:
                address = free_address()
                values[f"LINLI_{service.name.upper()}_HTTP_ADDRESS"] = address
                http_urls[service.name] = f"http://{address}"
        stack.enter_context(environment({**values, **(settings or {})}))
        process = load(ProcessSettings)
        watcher = await nats.connect(servers.nats.url)
        stack.push_async_callback(watcher.close)
        own_keys = all(service.name != "identity" for service in services)
        verifier = Verifier(signer.keys) if own_keys else None
        host = Host(services, process, clock or system_clock, verifier)
        peer = Peer(grpc_address)
        stack.push_async_callback(peer.close)
        running = Platform(host, signer, clock, grpc_address, f"http://{ops_address}", http_urls, servers.nats.url, database_urls, peer)
        await _watch(watcher, running)
        stack.push_async_callback(host.stop)
        await host.start()
        yield running


async def _watch(client: Any, running: Platform) -> None:
    known: set[str] = set()

    async def keep(message: Msg) -> None:
        headers = message.headers or {}
        name = headers.get("ce-type")
        if name and headers.get("ce-id") not in known:  # What is published again is the same event.
            known.add(headers.get("ce-id", ""))
            kind = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
            running.seen.setdefault(name, []).append(received(headers, message.data, kind))

    for subject in ("linli.>", "device.>"):
        await client.subscribe(subject, cb=keep)
    await client.flush()
