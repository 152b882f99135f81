"""A service: its declaration, and the host that runs one or several of them in a process.

Start: settings, migrations, pools, NATS, resources, jobs, gRPC, consumers, timers, HTTP, ready. Stop: not ready, linger until nobody sends
any more, take no more work, finish what is in work, flush the outbox, exit 0. `/livez`, `/readyz` and `/metrics` answer on the process's
own operations address.
"""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any, Protocol, TypeVar

import grpc.aio
import msgspec
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from nats.aio.client import Client
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.errors import ServiceUnavailableError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from servicekit import messaging, metrics, rpc, sampling, schema, telemetry, tls
from servicekit.auth import Verifier
from servicekit.clock import Clock, system_clock
from servicekit.config import (
    PREFIX,
    Address,
    ApiSettings,
    DatabaseSettings,
    NatsSettings,
    ProcessSettings,
    SettingsError,
    address_of,
    load,
)
from servicekit.database import PLATFORM, UNREACHABLE, WRONG_ADDRESS, Database, Resources, Transaction, open_database
from servicekit.errors import ServiceError, Unavailable
from servicekit.events import event_type
from servicekit.http_server import HttpServer, serve_http
from servicekit.messaging import Consumer, Consumption, Publisher
from servicekit.outbox import Relay
from servicekit.timers import Timer, Timers

_PRUNE_S = 60.0
_ENSURE_S = 15.0
_CONNECT_RETRY_S = 0.5
# What callers by gRPC need to hear that we are no longer well, and the calls on their way to arrive.
_LEAVE_S = 0.5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One line of a service's `jobs`."""

    every_s: float
    run: Callable[..., Awaitable[None]]
    outside: bool = False


def every(*, run: Callable[[Transaction], Awaitable[None]], minutes: float = 0, seconds: float = 0) -> Job:
    """Runs `run` in a transaction of the platform scope, in one process at a time."""
    return Job(minutes * 60 + seconds, run)


def every_outside(*, run: Callable[[rpc.Call], Awaitable[None]], minutes: float = 0, seconds: float = 0) -> Job:
    """Runs `run` outside of any transaction, in every process; what it does must be idempotent."""
    return Job(minutes * 60 + seconds, run, outside=True)


class Asgi(Protocol):
    """An HTTP application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


@dataclass(slots=True)
class Running:
    """A service while it runs: what its `resources` and `http` may build on."""

    name: str
    settings: Any
    process: ProcessSettings
    clock: Clock
    nats: Client
    publisher: Publisher
    verifier: Verifier
    database: Database | None
    # The services that it declares to call.
    peers: Set[str]
    resources: Resources = field(default_factory=Resources)
    # Set when the process begins to drain; long answers end when it is.
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    def call(self) -> rpc.Call:
        """A call that nobody made: for events and timers."""
        return rpc.Call(self.clock(), None, self.database, self.resources, {})

    def peer(self, service: str) -> rpc.Peer:
        """Another service's gRPC API; who asks for it closes it. Raises LookupError when the declaration does not name it in `calls`."""
        if service not in self.peers:
            raise LookupError(f"{self.name} does not declare that it calls {service}")
        return rpc.Peer(address_of(service, self.process), tls.certificates(self.process))


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a service that speaks HTTP listens."""

    http_address: Address


@dataclass(frozen=True, slots=True)
class Service:
    """The declaration of a service: its table of contents."""

    name: str
    settings: type[msgspec.Struct] = msgspec.Struct
    # The folders of its SQL migrations: its own, and those of libraries that keep tables in its database. Without any it has no database.
    migrations: Sequence[Path] = ()
    api: rpc.Api | None = None
    publishes: Sequence[type[Message]] = ()
    consumes: Sequence[Consumption[Any]] = ()
    jobs: Sequence[Job] = ()
    # Who judges what has become due: one line for each kind of timer.
    timers: Sequence[Timer] = ()
    # Opens what lives as long as the service and yields it; `tx.resource(Type)` finds it again.
    resources: Callable[[Running], contextlib.AbstractAsyncContextManager[Sequence[object]]] | None = None
    # Builds the HTTP application that it serves on its own address.
    http: Callable[[Running], Asgi] | None = None
    # Subjects and JetStream API subjects that it uses beside its events; its NATS user may use these and no more.
    nats_publishes: Sequence[str] = ()
    nats_subscribes: Sequence[str] = ()
    # The services whose gRPC API it calls by `Running.peer`. Nothing else lets it through to them: see `peers`.
    calls: Collection[str] = ()
    # Whether it calls servers outside of the platform, whose addresses are among its settings. The blob store is none of them.
    outside: bool = False
    # A community cannot switch it off.
    always_on: bool = False
    # Runs once, in the platform scope and before the service starts, after its database was restored to an earlier instant: it mends what
    # others remember for us since then. `linli recover` and `linli restore` call it.
    after_restore: Callable[[Transaction], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        """Raises TypeError for two jobs of one name: their turn is taken by name, so each would keep the other from it."""
        names = [job.run.__name__ for job in self.jobs]
        if len(set(names)) < len(names):
            raise TypeError(f"{self.name} declares two jobs of one name")

    @property
    def peers(self) -> Set[str]:
        """Every service that it calls: those in `calls`, and identity when it has an API, whose callers' tokens identity's keys verify."""
        return {*self.calls, *(["identity"] if self.api is not None else [])}


def contract(descriptor: Any, service: str, functions: ModuleType) -> rpc.Api:
    """The API of a generated module, such as `contract(parking_pb2.DESCRIPTOR, "ParkingService", rpc)`."""
    return rpc.Api(descriptor.services_by_name[service], functions)


class Host:
    """Runs services in this process."""

    def __init__(
        self,
        services: Sequence[Service],
        process: ProcessSettings,
        clock: Clock = system_clock,
        verifier: Verifier | None = None,
    ) -> None:
        self.running: list[Running] = []
        # Set by what only a new process mends.
        self.broken = asyncio.Event()
        self._services = services
        self._verifier = verifier
        self._process = process
        self._clock = clock
        self._stack = AsyncExitStack()
        self._consumers: list[Consumer] = []
        self._timers: list[Timers] = []
        self._relays: list[Relay] = []
        self._keepers: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._samples: list[Callable[[], Awaitable[None]]] = []
        self._operations_server: HttpServer | None = None
        self._http: list[HttpServer] = []
        self._grpc = grpc.aio.server(maximum_concurrent_rpcs=rpc.CALLS_MAX + rpc.WATCHERS_MAX, options=rpc.SERVER_OPTIONS)
        self._is_listening = False
        self._health = health.aio.HealthServicer()
        self.is_ready = False

    async def start(self) -> None:
        """Starts everything and returns when it is ready. Waits for PostgreSQL and NATS as long as they need: order of start is free.

        Raises SettingsError, OSError for an address that is taken, MigrationError, and what a service's resources raise. `stop` tidies up
        after that too.
        """
        settings = [_settings_of(service) for service in self._services]
        certificates = tls.certificates(self._process)
        self._operations_server = await serve_http(self._operations(), self._process.ops_address)
        verifier = self._verifier or self._identity_keys()
        databases = await _all([self._open_database(service) for service in self._services])
        for service, own, database in zip(self._services, settings, databases, strict=True):
            self.running.append(await self._start_service(service, own, database, verifier))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        contracts = [service.api.contract.full_name for service in self._services if service.api]
        reflection.enable_server_reflection([*contracts, health.SERVICE_NAME, reflection.SERVICE_NAME], self._grpc)
        try:
            if certificates is None:
                self._grpc.add_insecure_port(self._process.grpc_address)
            else:
                self._grpc.add_secure_port(self._process.grpc_address, certificates.server())
        except RuntimeError:
            raise OSError(f"cannot listen on {self._process.grpc_address}") from None
        await self._grpc.start()
        self._is_listening = True
        for consumer in self._consumers:
            await consumer.start()
        for timers in self._timers:
            timers.start()
        self._tasks.append(asyncio.create_task(sampling.sample(self._samples)))
        self._tasks.append(asyncio.create_task(sampling.watch_loop()))
        for service, running in zip(self._services, self.running, strict=True):
            if service.http is not None:
                address = load(HttpSettings, service.name).http_address
                self._http.append(await serve_http(service.http(running), address))
        await self._tell_health(health_pb2.HealthCheckResponse.SERVING)
        self.is_ready = True

    async def stop(self) -> None:
        """Lingers, then drains: takes no more work, finishes what is in work, flushes the outboxes, closes.

        Ends within `linger_s`, `drain_s` and a few seconds.
        """
        is_awaited, self.is_ready = self.is_ready and not self.broken.is_set(), False
        linger_s = self._process.linger_s if is_awaited else 0
        for server in self._http:
            server.send_away()
        await asyncio.sleep(linger_s)
        end = asyncio.get_running_loop().time() + self._process.drain_s

        def left_s() -> float:
            return max(0.1, end - asyncio.get_running_loop().time())

        for running in self.running:
            # News end now and not before: who comes back for them at once comes to another process.
            running.draining.set()
        # HTTP first: its requests still call our own gRPC, and wait for what our own listeners hear.
        await _each(server.stop(left_s()) for server in self._http)
        calls = self._stop_calls(min(linger_s, _LEAVE_S), left_s())
        consumers = [consumer.stop(left_s()) for consumer in self._consumers]
        await _each([calls, *consumers, *(timers.stop(left_s()) for timers in self._timers)])
        await _cancel(self._tasks)
        await _each(relay.flush(left_s()) for relay in self._relays)
        await _each([self._stack.aclose()])
        if self._operations_server is not None:
            await _each([self._operations_server.stop(1.0)])
        telemetry.flush()

    async def _stop_calls(self, leave_s: float, within_s: float) -> None:
        """Tells callers by gRPC to go to other replicas, and stops when they have gone.

        So late because one who knows of no other replica must look for one now, and because HTTP in this process was among them.
        """
        await self._tell_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._is_listening:
            await asyncio.sleep(leave_s)
            await self._grpc.stop(within_s)

    def _identity_keys(self) -> Verifier:
        peer = rpc.Peer(address_of("identity", self._process), tls.certificates(self._process))
        self._stack.push_async_callback(peer.close)
        return Verifier(lambda: _fetch_keys(peer))

    async def _start_service(self, service: Service, settings: msgspec.Struct, database: Database | None, verifier: Verifier) -> Running:
        name = service.name
        keeper = asyncio.Event()
        self._keepers.append(keeper)
        client = await self._connect(name, keeper)
        publisher = Publisher(client, name)
        running = Running(name, settings, self._process, self._clock, client, publisher, verifier, database, service.peers)
        if service.resources is not None:
            running.resources = Resources(await self._stack.enter_async_context(service.resources(running)))
            if database is not None:
                database.resources = running.resources
        if service.api is not None:
            methods = rpc.methods_of(
                service.api,
                service=name,
                always_on=service.always_on,
                verifier=verifier,
                database=database,
                resources=running.resources,
                clock=self._clock,
                callers={caller.strip().encode() for caller in load(ApiSettings, name).callers.split(",") if caller.strip()},
            )
            self._grpc.add_generic_rpc_handlers((rpc.generic_handler(methods),))
        await self._start_messaging(service, running, keeper)
        if database is not None:
            self._timers.append(Timers(database, service.timers))
        for job in service.jobs:
            self._tasks.append(asyncio.create_task(_run_job(name, job, running)))
        return running

    async def _connect(self, name: str, keeper: asyncio.Event) -> Client:
        def reconnected() -> None:
            # It may have come back without its disk, and there may be events that it did not take.
            keeper.set()
            for running in self.running:
                if running.name == name:
                    running.publisher.send_again()
            for relay in self._relays:
                relay.wake()

        is_closing = False

        def closed() -> None:
            if not is_closing:
                telemetry.log.error("nats_closed", service=name)
                self.broken.set()

        async def close() -> None:
            nonlocal is_closing
            is_closing = True
            metrics.NATS_CONNECTED.remove(name)
            await client.close()

        settings = load(NatsSettings, name)
        client = await messaging.connect(self._process, settings, name, on_reconnect=reconnected, on_close=closed)
        metrics.NATS_CONNECTED.labels(name).set_function(lambda: client.is_connected)
        self._stack.push_async_callback(close)
        return client

    async def _open_database(self, service: Service) -> Database | None:
        if not service.migrations:
            return None
        settings = load(DatabaseSettings, service.name)
        while True:
            try:
                if settings.migration_url:
                    await schema.migrate(settings.migration_url, service.migrations)
                database = await open_database(
                    service.name, settings.database_url, pool_size=settings.database_pool_size, clock=self._clock
                )
                break
            except (OSError, *UNREACHABLE, *schema.NOT_LET_IN) as error:
                telemetry.log.warning("database_not_reached", service=service.name, error=type(error).__name__)
                await asyncio.sleep(_CONNECT_RETRY_S)
            except WRONG_ADDRESS as error:  # Its text may hold a part of the address, and so of the password.
                name = f"{PREFIX}_{service.name.upper()}"
                raise SettingsError(f"{name}_DATABASE_URL or {name}_MIGRATION_URL is wrong: {type(error).__name__}") from None
        self._stack.push_async_callback(database.close)
        await schema.wait(database, service.migrations)
        return database

    async def _start_messaging(self, service: Service, running: Running, keeper: asyncio.Event) -> None:
        published = [event_type(message) for message in service.publishes]
        consumers = [Consumer(service.name, consumption, running.nats, running.database, running.call) for consumption in service.consumes]
        self._consumers += consumers
        relay = None if running.database is None else Relay(running.database, running.publisher, published)

        async def ensure() -> None:
            if relay is not None:
                await relay.recall()
            marks = await messaging.ensure_all(running.nats, published, consumers, self._process.stream_replicas)
            if relay is not None:
                await relay.compare(marks)

        while True:
            try:
                await ensure()
                break
            except (Unavailable, NatsTimeout, NoRespondersError, ServiceUnavailableError, ConnectionClosedError) as error:
                telemetry.log.warning("jetstream_not_reached", service=service.name, error=type(error).__name__)
                await asyncio.sleep(_CONNECT_RETRY_S)
        if published or consumers:
            self._tasks.append(asyncio.create_task(_keep(service.name, ensure, keeper)))
        if relay is not None:
            self._relays.append(relay)
            self._tasks.append(asyncio.create_task(relay.run()))
            self._tasks.append(asyncio.create_task(_prune(relay)))
        durable = [consumer for consumer in consumers if consumer.is_durable]
        self._samples += [partial(sampling.sample_consumer, running.nats, each.event.stream, each.name) for each in durable]
        if running.database is not None:
            self._samples.append(partial(sampling.sample_database, running.database))

    async def _tell_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        await self._health.set("", status)
        for service in self._services:
            if service.api is not None:
                await self._health.set(service.api.contract.full_name, status)

    def _operations(self) -> Starlette:
        async def live(_request: Request) -> Response:
            return PlainTextResponse("broken" if self.broken.is_set() else "ok", status_code=503 if self.broken.is_set() else 200)

        async def ready(_request: Request) -> Response:
            problems = ["starting or draining"] if not self.is_ready else []
            problems += [f"{r.name}: nats" for r in self.running if not r.nats.is_connected]
            return PlainTextResponse("; ".join(problems) or "ok", status_code=503 if problems else 200)

        async def metrics(_request: Request) -> Response:
            return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

        return Starlette(routes=[Route("/livez", live), Route("/readyz", ready), Route("/metrics", metrics)])


def _settings_of(service: Service) -> msgspec.Struct:
    """A service's own settings. What else it needs is looked at too, so that what is wrong is told before anything is waited for."""
    load(NatsSettings, service.name)
    if service.migrations:
        load(DatabaseSettings, service.name)
    if service.http is not None:
        load(HttpSettings, service.name)
    return load(service.settings, service.name)


async def _fetch_keys(peer: rpc.Peer) -> bytes:
    # The one contract that the runtime itself needs: identity's published keys.
    from google.api.httpbody_pb2 import HttpBody

    answer = await peer.call("/linli.identity.v1.IdentityService/GetKeys", b"", timeout_s=2.0, is_read=True)
    data: bytes = HttpBody.FromString(answer).data
    return data


async def _run_job(service: str, job: Job, running: Running) -> None:
    name = f"{service}-{job.run.__name__}"
    # A rate counts from what it has seen before: without its zero the first failure would show an hour later, with the second.
    metrics.JOB_SECONDS.labels(name, "failed")
    while True:
        await asyncio.sleep(job.every_s)
        started, outcome = perf_counter(), "done"
        with telemetry.entry(f"run {name}", None, telemetry.SpanKind.INTERNAL) as span:
            try:
                await _run_once(name, job, running)
            except Exception as error:
                outcome = "failed"
                tell = telemetry.log.warning if isinstance(error, ServiceError) else telemetry.log.error
                tell("job_failed", job=name, error=telemetry.describe(error))
                if span is not None:
                    telemetry.fail(span, type(error).__name__)
        metrics.JOB_SECONDS.labels(name, outcome).observe(perf_counter() - started)


async def _run_once(name: str, job: Job, running: Running) -> None:
    if job.outside or running.database is None:
        await job.run(running.call())
        return
    async with running.database.transaction(PLATFORM) as transaction:
        if await transaction.fetchval("SELECT pg_try_advisory_xact_lock(hashtext($1))", name):
            await job.run(transaction)


async def _keep(service: str, ensure: Callable[[], Awaitable[None]], woken: asyncio.Event) -> None:
    """Makes streams and consumers again when the broker has lost them: when it has come back, and now and then."""
    while True:
        try:
            async with asyncio.timeout(_ENSURE_S):
                await woken.wait()
        except TimeoutError:
            pass
        woken.clear()
        try:
            await ensure()
        except Exception as error:
            telemetry.log.warning("streams_not_ensured", service=service, error=telemetry.describe(error))
            await asyncio.sleep(_CONNECT_RETRY_S)
            woken.set()


async def _prune(relay: Relay) -> None:
    while True:
        await asyncio.sleep(_PRUNE_S)
        try:
            await relay.prune()
        except Exception as error:
            telemetry.log.warning("prune_failed", error=telemetry.describe(error))


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Does it together; when one fails the others end."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _each(work: Iterable[Awaitable[object]]) -> None:
    """Does it together; one that fails keeps no other from its end."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, Exception):
            telemetry.log.error("drain_failed", error=telemetry.describe(result))


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    # Libraries swallow a cancellation now and then, so once may not be enough.
    while waiting := [task for task in tasks if not task.done()]:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting, timeout=1.0)


@asynccontextmanager
async def hosted(services: Sequence[Service], process: ProcessSettings, clock: Clock = system_clock) -> AsyncIterator[Host]:
    """Services that run for as long as the block."""
    host = Host(services, process, clock)
    try:
        await host.start()
        yield host
    finally:
        await host.stop()


async def serve(services: Sequence[Service], process: ProcessSettings) -> None:
    """Runs services until SIGTERM or SIGINT, then drains. Raises what `Host.start` raises, and OSError when the process must start anew."""
    telemetry.configure(process, "+".join(service.name for service in services))
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    loop.set_exception_handler(_log_stray)
    asked, started = asyncio.Event(), False

    def ask() -> None:
        asked.set()
        if not started and task is not None:
            task.cancel()  # It may wait for a server that never comes.

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    try:
        async with hosted(services, process) as host:
            started = True
            # What was imported and opened stays: the collector need not walk over it again and again.
            gc.collect()
            gc.freeze()
            telemetry.log.info("ready", services=[service.name for service in services])
            await _first(asked.wait(), host.broken.wait())
            telemetry.log.info("draining")
            if not asked.is_set():
                raise OSError("NATS has closed the connection for good")
    except asyncio.CancelledError:
        if not asked.is_set():
            raise


async def _first(*work: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(tasks)


def _log_stray(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # asyncio's own words for an error that nobody awaited hold the text of the exception.
    error = context.get("exception")
    telemetry.log.error("stray_error", what=context["message"], error=telemetry.describe(error) if error else "")
