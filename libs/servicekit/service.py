"""A service: its declaration, and the host that runs one or several of them in a process.

Start: settings, migrations, pools, NATS, resources, gRPC, consumers, timers, HTTP, ready. Stop: not ready, take no more work, finish what is in
work, flush the outbox, exit 0. `/livez`, `/readyz` and `/metrics` answer on the process's own operations address.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any, Protocol

import asyncpg
import grpc.aio
import msgspec
import uvicorn
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from nats.aio.client import Client
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from servicekit import messaging, rpc, schema, telemetry
from servicekit.auth import Verifier
from servicekit.clock import Clock, system_clock
from servicekit.config import DatabaseSettings, NatsSettings, ProcessSettings, address_of, load
from servicekit.database import PLATFORM, Database, Resources, Transaction, open_database
from servicekit.errors import ServiceError
from servicekit.events import EventType, event_type
from servicekit.messaging import Consumer, Consumption, Publisher
from servicekit.outbox import Relay

_PRUNE_S = 60.0
_CONNECT_RETRY_S = 0.5


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
    resources: Resources = field(default_factory=Resources)
    # Set when the process begins to drain; long answers end when it is.
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    def call(self) -> rpc.Call:
        """A call that nobody made: for events and timers."""
        return rpc.Call(self.clock(), None, self.database, self.resources, {})

    def address_of(self, service: str) -> str:
        """Where another service's gRPC API is."""
        return address_of(service, self.process)


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a service that speaks HTTP listens."""

    http_address: str


@dataclass(frozen=True, slots=True)
class Service:
    """The declaration of a service: its table of contents."""

    name: str
    settings: type[msgspec.Struct] = msgspec.Struct
    # The folder of its SQL migrations; a service without one has no database.
    migrations: Path | None = None
    api: rpc.Api | None = None
    publishes: Sequence[type[Message]] = ()
    consumes: Sequence[Consumption[Any]] = ()
    jobs: Sequence[Job] = ()
    # Opens what lives as long as the service and yields it; `tx.resource(Type)` finds it again.
    resources: Callable[[Running], contextlib.AbstractAsyncContextManager[Sequence[object]]] | None = None
    # Builds the HTTP application that it serves on its own address.
    http: Callable[[Running], Asgi] | None = None
    # Subjects and JetStream API subjects that it uses beside its events; its NATS user may use these and no more.
    nats_publishes: Sequence[str] = ()
    nats_subscribes: Sequence[str] = ()
    # A community cannot switch it off.
    always_on: bool = False


def contract(descriptor: Any, service: str, functions: ModuleType) -> rpc.Api:
    """The API of a generated module, such as `contract(parking_pb2.DESCRIPTOR, "ParkingService", rpc)`."""
    return rpc.Api(descriptor.services_by_name[service], functions)


class _HttpServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # The host owns the signals: it drains everything, not this server alone.


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
        self._services = services
        self._verifier = verifier
        self._process = process
        self._clock = clock
        self._stack = AsyncExitStack()
        self._consumers: list[Consumer] = []
        self._relays: list[Relay] = []
        self._timers: list[asyncio.Task[None]] = []
        self._http: list[tuple[_HttpServer, asyncio.Task[None]]] = []
        self._grpc = grpc.aio.server(maximum_concurrent_rpcs=rpc.CALLS_MAX, options=rpc.CHANNEL_OPTIONS)
        self._health = health.aio.HealthServicer()
        self._ready = False

    async def start(self) -> None:
        """Starts everything and returns when it is ready. Waits for PostgreSQL and NATS as long as they need: order of start is free."""
        await self._serve_http(self._operations(), self._process.ops_address)
        verifier = self._verifier or self._identity_keys()
        await asyncio.gather(*(self._start_service(service, verifier) for service in self._services))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        contracts = [service.api.contract.full_name for service in self._services if service.api]
        reflection.enable_server_reflection([*contracts, health.SERVICE_NAME, reflection.SERVICE_NAME], self._grpc)
        if self._grpc.add_insecure_port(self._process.grpc_address) == 0:
            raise OSError(f"cannot listen on {self._process.grpc_address}")
        await self._grpc.start()
        await asyncio.gather(*(consumer.start() for consumer in self._consumers))
        for service, running in zip(self._services, self.running, strict=True):
            if service.http is not None:
                await self._serve_http(service.http(running), load(HttpSettings, service.name).http_address)
        await self._set_ready(True)

    async def stop(self) -> None:
        """Drains: takes no more work, finishes what is in work, flushes the outboxes, closes."""
        await self._set_ready(False)
        for running in self.running:
            running.draining.set()
        # The first is the operations server: it answers until the end.
        await asyncio.gather(*(self._stop_http(server) for server in self._http[1:]))
        await self._grpc.stop(self._process.drain_s)
        await asyncio.gather(*(consumer.stop() for consumer in self._consumers))
        await _cancel(self._timers)
        await asyncio.gather(*(relay.flush() for relay in self._relays))
        await self._stack.aclose()
        await asyncio.gather(*(self._stop_http(server) for server in self._http[:1]))
        telemetry.flush()

    def _identity_keys(self) -> Verifier:
        peer = rpc.Peer(address_of("identity", self._process))
        self._stack.push_async_callback(peer.close)
        return Verifier(lambda: _fetch_keys(peer))

    async def _start_service(self, service: Service, verifier: Verifier) -> None:
        name = service.name
        settings = load(service.settings, name)
        client = await messaging.connect(self._process, load(NatsSettings, name), name)
        self._stack.push_async_callback(client.close)
        publisher = Publisher(client, name)
        database = await self._open_database(service) if service.migrations else None
        running = Running(name, settings, self._process, self._clock, client, publisher, verifier, database)
        self.running.append(running)
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
            )
            self._grpc.add_generic_rpc_handlers((rpc.generic_handler(methods),))
        await self._start_messaging(service, running)
        for job in service.jobs:
            self._timers.append(asyncio.create_task(_run_job(name, job, running)))

    async def _open_database(self, service: Service) -> Database:
        settings = load(DatabaseSettings, service.name)
        while True:
            try:
                if settings.migration_url:
                    await schema.migrate(settings.migration_url, service.migrations)
                database = await open_database(
                    service.name, settings.database_url, pool_size=settings.database_pool_size, clock=self._clock
                )
                break
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, TimeoutError) as error:
                telemetry.log.warning("database_not_reached", service=service.name, error=type(error).__name__)
                await asyncio.sleep(_CONNECT_RETRY_S)
        self._stack.push_async_callback(database.close)
        return database

    async def _start_messaging(self, service: Service, running: Running) -> None:
        published = [event_type(message) for message in service.publishes]
        await self._ensure_streams(running.nats, published)
        consumers = [
            Consumer(
                service.name, consumption, running.nats, running.database, running.call, self._process.stream_replicas
            )
            for consumption in service.consumes
        ]
        self._consumers += consumers
        if published or consumers:
            keeper = messaging.keep_ensured(consumers, published, running.nats, self._process.stream_replicas)
            self._timers.append(asyncio.create_task(keeper))
        if running.database is not None:
            relay = Relay(running.database, running.publisher, self._clock)
            self._relays.append(relay)
            self._timers.append(asyncio.create_task(relay.run()))
            self._timers.append(asyncio.create_task(_prune(relay)))

    async def _ensure_streams(self, client: Client, events: Sequence[EventType]) -> None:
        for event in {event.stream: event for event in events}.values():
            await messaging.ensure_stream(client, event, self._process.stream_replicas)

    async def _set_ready(self, ready: bool) -> None:
        self._ready = ready
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", status)
        for service in self._services:
            if service.api is not None:
                await self._health.set(service.api.contract.full_name, status)

    def _operations(self) -> Starlette:
        async def live(_request: Request) -> Response:
            return PlainTextResponse("ok")

        async def ready(_request: Request) -> Response:
            problems = ["starting or draining"] if not self._ready else []
            problems += [f"{r.name}: nats" for r in self.running if not r.nats.is_connected]
            return PlainTextResponse("; ".join(problems) or "ok", status_code=503 if problems else 200)

        async def metrics(_request: Request) -> Response:
            return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

        return Starlette(routes=[Route("/livez", live), Route("/readyz", ready), Route("/metrics", metrics)])

    async def _serve_http(self, application: Asgi, address: str) -> None:
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            # Whose X-Forwarded-For is believed is the application's to say; uvicorn would believe everybody on this machine.
            proxy_headers=False,
            date_header=False,
            timeout_graceful_shutdown=self._process.drain_s,
            timeout_keep_alive=75,
            h11_max_incomplete_event_size=64 * 1024,
        )
        server = _HttpServer(config)
        listener = _listen(address)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        self._http.append((server, task))
        while not server.started:
            if task.done():
                task.result()
                raise OSError(f"cannot serve on {address}")
            await asyncio.sleep(0.005)

    async def _stop_http(self, server: tuple[_HttpServer, asyncio.Task[None]]) -> None:
        server[0].should_exit = True
        await server[1]


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    listener.listen(1024)
    listener.setblocking(False)
    return listener


async def _fetch_keys(peer: rpc.Peer) -> bytes:
    # The one contract that the runtime itself needs: identity's published keys.
    from google.api.httpbody_pb2 import HttpBody

    answer = await peer.call("/linli.identity.v1.IdentityService/GetKeys", b"", timeout_s=2.0)
    data: bytes = HttpBody.FromString(answer).data
    return data


async def _run_job(service: str, job: Job, running: Running) -> None:
    name = f"{service}-{job.run.__name__}"
    while True:
        await asyncio.sleep(job.every_s)
        started, outcome = perf_counter(), "done"
        try:
            if job.outside or running.database is None:
                await job.run(running.call())
            else:
                async with running.database.transaction(PLATFORM) as transaction:
                    if await transaction.fetchval("SELECT pg_try_advisory_xact_lock(hashtext($1))", name):
                        await job.run(transaction)
        except ServiceError as error:
            outcome = "failed"
            telemetry.log.warning("job_failed", job=name, error=str(error))
        except Exception as error:
            outcome = "failed"
            telemetry.log.error("job_failed", job=name, exc_info=error)
        telemetry.JOB_SECONDS.labels(name, outcome).observe(perf_counter() - started)


async def _prune(relay: Relay) -> None:
    while True:
        try:
            await relay.prune()
        except (ServiceError, asyncpg.PostgresError) as error:
            telemetry.log.warning("prune_failed", error=str(error))
        await asyncio.sleep(_PRUNE_S)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def hosted(
    services: Sequence[Service], process: ProcessSettings, clock: Clock = system_clock
) -> AsyncIterator[Host]:
    """Services that run for as long as the block."""
    host = Host(services, process, clock)
    try:
        await host.start()
        yield host
    finally:
        await host.stop()


async def serve(services: Sequence[Service], process: ProcessSettings) -> None:
    """Runs services until SIGTERM or SIGINT, then drains."""
    telemetry.configure(process, "+".join(service.name for service in services))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with hosted(services, process):
        telemetry.log.info("ready", services=[service.name for service in services])
        await stop.wait()
        telemetry.log.info("draining")
