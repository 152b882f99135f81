"""A process of services: it starts in any order with its servers, tells what is wrong, and drains."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import httpx
import msgspec
import pytest
from google.api.httpbody_pb2 import HttpBody
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from servicekit import schema
from servicekit.auth import Verifier
from servicekit.config import ProcessSettings, SettingsError, load
from servicekit.database import PLATFORM, Transaction
from servicekit.errors import Unavailable
from servicekit.events import Received
from servicekit.messaging import on
from servicekit.rpc import Peer
from servicekit.service import Host, Running, Service, every, every_outside
from tests.servicekit.toy import COUNT, INSERT, MISBEHAVE, QUIET, SAY, Spoken, message, texts, toy
from tests.servicekit.wire import wire_to
from tests.support import PASSWORD, Mint, Servers, environment, eventually, free_address, platform, principal

COMMUNITY = uuid.UUID("018f0000-0000-7000-8000-000000000001")


def settings(servers: Servers, **values: str) -> dict[str, str]:
    """What a process of the toy service is told."""
    return {
        "LINLI_GRPC_ADDRESS": free_address(),
        "LINLI_OPS_ADDRESS": free_address(),
        "LINLI_NATS_URL": servers.nats.url,
        "LINLI_DRAIN_S": "5",
        **values,
    }


@asynccontextmanager
async def hosting(values: Mapping[str, str], *services: Service, mint: Mint | None = None) -> AsyncIterator[Host]:
    """A host with these settings, which a test starts."""
    with environment(values):
        host = Host(services, load(ProcessSettings), verifier=Verifier((mint or Mint()).keys))
        try:
            yield host
        finally:
            await host.stop()


async def answers(url: str) -> int:
    """The status that an operations address answers with; 0 for no answer."""
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(url)).status_code
        except httpx.HTTPError:
            return 0


# Starting


async def test_a_process_starts_before_its_servers_and_is_ready_when_they_are(servers: Servers) -> None:
    async with servers.database(QUIET) as url, wire_to(servers.postgres.port) as postgres, wire_to(servers.nats.port) as broker:
        await postgres.cut()
        await broker.cut()
        owner_url = (await servers.template(QUIET)).owner_url.rpartition("/")[0] + "/" + url.rpartition("/")[2]
        values = settings(
            servers,
            LINLI_NATS_URL=f"nats://{broker.address}",
            LINLI_TOY_DATABASE_URL=url.replace(f"127.0.0.1:{servers.postgres.port}", postgres.address),
            LINLI_TOY_MIGRATION_URL=owner_url.replace(f"127.0.0.1:{servers.postgres.port}", postgres.address),
        )
        async with hosting(values, QUIET) as host:
            starting = asyncio.create_task(host.start())
            ops = f"http://{values['LINLI_OPS_ADDRESS']}"

            async def lives() -> bool:
                return await answers(f"{ops}/livez") == 200

            await eventually(lives)
            assert await answers(f"{ops}/readyz") == 503
            await postgres.mend()
            await broker.mend()
            await starting
            assert await answers(f"{ops}/readyz") == 200
            await broker.cut()

            async def is_unready() -> bool:
                return await answers(f"{ops}/readyz") == 503

            await eventually(is_unready)
            await broker.mend()

            async def is_ready() -> bool:
                return await answers(f"{ops}/readyz") == 200

            await eventually(is_ready)


async def test_a_process_migrates_its_database_at_start_when_it_is_given_the_owner(servers: Servers) -> None:
    name = f"fresh_{uuid.uuid4().hex[:8]}"
    credentials = await schema.provision(servers.postgres.url(), name, PASSWORD, PASSWORD)
    service = toy(name=name)
    values = settings(
        servers,
        **{
            f"LINLI_{name.upper()}_DATABASE_URL": credentials.service_url,
            f"LINLI_{name.upper()}_MIGRATION_URL": credentials.owner_url,
        },
    )
    for _ in range(2):
        async with hosting(values, service) as host:
            await host.start()
            database = host.running[0].database
            assert database is not None
            async with database.transaction(PLATFORM) as tx:
                assert await tx.fetchval(COUNT) == 0
    await drop(servers, name)


async def drop(servers: Servers, name: str) -> None:
    """Drops a service's database."""
    connection = await asyncpg.connect(servers.postgres.url())
    await connection.execute(f"DROP DATABASE linli_{name} WITH (FORCE)")
    await connection.close()


async def test_a_service_and_its_libraries_keep_their_tables_in_one_database(servers: Servers, tmp_path: Path) -> None:
    name = f"shared_{uuid.uuid4().hex[:8]}"
    library, own = tmp_path / "library", tmp_path / "own"

    def write(folder: Path, version: str, sql: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / f"{version}_{folder.name}.sql").write_text(f"-- migrate:up\n{sql};\n-- migrate:down\n")

    write(library, "20260101000001", "CREATE TABLE pages (page int)")
    write(own, "20260101000002", "CREATE TABLE notes (page int)")
    credentials = await schema.provision(servers.postgres.url(), name, PASSWORD, PASSWORD)
    await schema.migrate(credentials.owner_url, [library, own])
    # A library goes on without its users: what it adds may be older than what they have.
    write(library, "20260101000000", "CREATE TABLE covers (page int)")
    await schema.migrate(credentials.owner_url, [library, own])
    connection = await asyncpg.connect(credentials.service_url)
    assert await connection.fetch("SELECT * FROM covers, pages, notes") == []
    await connection.close()

    write(own, "20260101000000", "SELECT 1")
    with pytest.raises(schema.MigrationError, match="20260101000000_own"):
        await schema.migrate(credentials.owner_url, [library, own])
    await drop(servers, name)


class Loud(msgspec.Struct, frozen=True):
    """Settings of a service that must be told its volume."""

    volume: int


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LINLI_GRPC_ADDRESS", "nowhere"),
        ("LINLI_DRAIN_S", "soon"),
        ("LINLI_TRACE_RATIO", "2"),
        ("LINLI_TOY_VOLUME", "loud"),
        ("LINLI_TOY_DATABASE_POOL_SIZE", "0"),
        ("LINLI_TOY_HTTP_ADDRESS", "8080"),
    ],
)
async def test_a_wrong_setting_stops_the_start_at_once_with_its_name_and_without_its_value(servers: Servers, name: str, value: str) -> None:
    service = toy(settings=Loud, http=lambda _running: Starlette())
    values = settings(
        servers,
        LINLI_NATS_URL="nats://127.0.0.1:1",
        LINLI_TOY_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
        LINLI_TOY_VOLUME="11",
        LINLI_TOY_HTTP_ADDRESS=free_address(),
    )

    async def start() -> None:
        async with asyncio.timeout(5), hosting({**values, name: value}, service) as host:
            await host.start()

    with pytest.raises(SettingsError, match=name) as refused:
        await start()
    assert f"`{value}`" not in str(refused.value)


async def test_a_setting_that_is_missing_stops_the_start_with_its_name(servers: Servers) -> None:
    async with hosting(settings(servers), QUIET) as host:
        with pytest.raises(SettingsError, match="LINLI_TOY_DATABASE_URL is not set"):
            await host.start()


@pytest.mark.parametrize("address", ["LINLI_GRPC_ADDRESS", "LINLI_OPS_ADDRESS", "LINLI_TOY_HTTP_ADDRESS"])
async def test_an_address_that_is_taken_stops_the_start_and_is_named(servers: Servers, address: str) -> None:
    taken = free_address()
    with socket.create_server(("127.0.0.1", int(taken.partition(":")[2]))):
        async with servers.database(QUIET) as url:
            values = {**settings(servers, LINLI_TOY_DATABASE_URL=url, LINLI_TOY_HTTP_ADDRESS=free_address()), address: taken}
            async with hosting(values, toy(http=lambda _running: Starlette())) as host:
                with pytest.raises(OSError, match=taken):
                    await host.start()


async def test_two_processes_do_not_share_a_grpc_address(servers: Servers) -> None:
    async with platform(servers, QUIET) as running, servers.database(QUIET) as url:
        values = settings(servers, LINLI_TOY_DATABASE_URL=url, LINLI_GRPC_ADDRESS=running.grpc_address)
        async with hosting(values, QUIET) as host:
            with pytest.raises(OSError, match=running.grpc_address):
                await host.start()


async def test_a_start_that_fails_leaves_nothing_open(servers: Servers) -> None:
    @asynccontextmanager
    async def resources(_running: Running) -> AsyncIterator[Sequence[object]]:
        opened.append("open")
        try:
            yield []
        finally:
            opened.remove("open")

    @asynccontextmanager
    async def broken(_running: Running) -> AsyncIterator[Sequence[object]]:
        raise KeyError("no such key")
        yield []

    opened: list[str] = []
    before = asyncio.all_tasks()
    async with servers.database(QUIET) as url:
        values = settings(servers, LINLI_TOY_DATABASE_URL=url, LINLI_OTHER_DATABASE_URL=url)
        async with hosting(values, toy(resources=resources), toy(name="other", resources=broken)) as host:
            with pytest.raises(KeyError):
                await host.start()
            assert opened == ["open"]
        assert opened == []
        connection = await asyncpg.connect(servers.postgres.url())
        name = url.rpartition("/")[2]

        async def nobody_is_connected() -> bool:
            return not await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name)

        await eventually(nobody_is_connected)
        await connection.close()

    async def nothing_runs() -> bool:
        return asyncio.all_tasks() <= before

    await eventually(nothing_runs)


async def test_two_services_in_one_process_each_have_their_own(servers: Servers) -> None:
    async def note(tx: Transaction, event: Received[Any]) -> None:
        await tx.execute(INSERT, tx.community_id, f"heard {event.message.word}")

    def application(running: Running) -> Starlette:
        async def name(_request: Request) -> PlainTextResponse:
            return PlainTextResponse(running.name)

        return Starlette(routes=[Route("/", name)])

    @asynccontextmanager
    async def slowly(running: Running) -> AsyncIterator[Sequence[object]]:
        await asyncio.sleep(0.05)
        yield [running.name]

    one, other = toy(http=application, resources=slowly), toy(on(Spoken, note), name="other", http=application)
    async with platform(servers, one, other) as running:
        async with httpx.AsyncClient() as client:
            for service in ("toy", "other"):
                assert (await client.get(running.http_urls[service])).text == service
        who = principal("toy.say", community_id=COMMUNITY, modules=["toy"])
        await running.caller(who).call(SAY, message("SayRequest", word="hello"))

        async def is_heard() -> bool:
            async with running.transaction("other", COMMUNITY) as tx:
                return await texts(tx) == ["heard hello"]

        await eventually(is_heard)
        async with running.transaction("toy", COMMUNITY) as tx:
            assert await texts(tx) == ["hello"]


# Running


async def test_a_timed_job_runs_in_a_transaction_in_one_process_at_a_time_and_outlives_its_failures(servers: Servers) -> None:
    runs = 0

    async def close_sessions(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await tx.execute(INSERT, COMMUNITY, f"run {runs}")
        if runs == 1:
            raise ValueError
        assert await tx.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted") == 1

    async def count_outside(call: Any) -> None:
        outside.append(call.now)

    outside: list[object] = []
    service = toy(jobs=[every(seconds=0.02, run=close_sessions), every_outside(seconds=0.02, run=count_outside)])
    async with platform(servers, service) as running:

        async def ran() -> bool:
            async with running.transaction("toy", PLATFORM) as tx:
                return len(await texts(tx)) >= 3 and len(outside) >= 3

        await eventually(ran)
        async with running.transaction("toy", PLATFORM) as tx:
            assert "run 1" not in await texts(tx)


async def test_two_jobs_of_one_name_are_refused() -> None:
    async def run(_tx: Transaction) -> None: ...

    with pytest.raises(TypeError, match="two jobs of one name"):
        toy(jobs=[every(seconds=1, run=run), every(minutes=1, run=run)])


async def test_a_process_that_nats_has_thrown_out_says_that_it_must_start_anew(servers: Servers) -> None:
    async with platform(servers, QUIET) as running:
        client = running.host.running[0].nats
        await client.publish("linli.toy.Spoken.x", b"x" * (8 * 1024 * 1024), headers={"one": "more"})

        async def is_broken() -> bool:
            return running.host.broken.is_set() and await answers(f"{running.ops_url}/livez") == 503

        await eventually(is_broken)


async def test_metrics_are_answered(servers: Servers) -> None:
    async with platform(servers, QUIET) as running:
        await running.caller().call(MISBEHAVE, message("MisbehaveRequest", how="fine"))
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{running.ops_url}/metrics")).text
        assert 'linli_rpc_seconds_count{method="/linli.toy.v1.ToyService/Misbehave",status="OK"}' in text


async def test_nothing_can_be_changed_at_the_operations_address(servers: Servers) -> None:
    async with platform(servers, QUIET) as running, httpx.AsyncClient(base_url=running.ops_url) as client:
        for path in ("/livez", "/readyz", "/metrics"):
            assert [(await client.request(verb, path)).status_code for verb in ("POST", "PUT", "PATCH", "DELETE")] == [405] * 4, path
        for path in ("/", "/debug", "/settings", "/openapi.json"):
            assert (await client.get(path)).status_code == 404


# Draining


async def test_a_drain_lets_an_http_request_finish(servers: Servers) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> PlainTextResponse:
        begun.set()
        await finish.wait()
        return PlainTextResponse("done")

    async with platform(servers, toy(http=lambda _running: Starlette(routes=[Route("/", slow)]))) as running:
        async with httpx.AsyncClient() as client:
            request = asyncio.create_task(client.get(running.http_urls["toy"]))
            await begun.wait()
            stopping = asyncio.create_task(running.host.stop())
            await running.host.running[0].draining.wait()
            with pytest.raises(httpx.ConnectError):
                await client.get(running.http_urls["toy"])
            finish.set()
            assert (await request).text == "done"
        await stopping


async def test_a_drain_ends_in_time_whatever_still_hangs(servers: Servers) -> None:
    async def hang(*_: object) -> None:
        began.release()
        await asyncio.sleep(60)

    async def hang_http(_request: Request) -> PlainTextResponse:
        await hang()
        return PlainTextResponse("never")

    began = asyncio.Semaphore(0)
    service = toy(on(Spoken, hang), http=lambda _running: Starlette(routes=[Route("/", hang_http)]))
    async with platform(servers, service, settings={"LINLI_DRAIN_S": "1"}) as running:
        peer = Peer(running.grpc_address)
        call = asyncio.create_task(peer.call(f"/{MISBEHAVE}", message("MisbehaveRequest", how="slow").SerializeToString(), timeout_s=60))
        async with httpx.AsyncClient() as client:
            request = asyncio.create_task(client.get(running.http_urls["toy"], timeout=60))
            await running.publish(Spoken(word_id="a", word="hang"), COMMUNITY)
            for _ in range(2):
                await began.acquire()
            started = time.monotonic()
            await running.host.stop()
            assert time.monotonic() - started < 4
            results = await asyncio.gather(call, request, return_exceptions=True)
        assert isinstance(results[0], Unavailable)
        assert isinstance(results[1], httpx.HTTPError)
        await peer.close()


PROGRAM = """
import asyncio
from servicekit.config import ProcessSettings, load
from servicekit.service import serve
from tests.servicekit import toy

quick = toy.functions.say

async def say(tx, request):
    answer = await quick(tx, request)
    await tx.execute("SELECT pg_sleep(0.5)")
    return answer

toy.functions.say = say
asyncio.run(serve([toy.QUIET], load(ProcessSettings)))
"""


@asynccontextmanager
async def identity(mint: Mint) -> AsyncIterator[str]:
    """The address of a service that publishes the keys of `mint` as identity does."""

    async def get_keys(_body: bytes, _context: object) -> bytes:
        answer: bytes = HttpBody(data=await mint.keys()).SerializeToString()
        return answer

    server, address = grpc.aio.server(), free_address()
    handlers: dict[str, Any] = {"GetKeys": grpc.unary_unary_rpc_method_handler(get_keys)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("linli.identity.v1.IdentityService", handlers),))
    well = health.aio.HealthServicer()
    await well.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(well, server)
    server.add_insecure_port(address)
    await server.start()
    yield address
    await server.stop(None)


async def _start_program(values: Mapping[str, str]) -> asyncio.subprocess.Process:
    path = os.pathsep.join(sys.path)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        env={**os.environ, **values, "PYTHONPATH": path},
        stderr=asyncio.subprocess.PIPE,
    )


async def test_sigterm_lets_a_call_finish_sends_what_it_published_and_exits_0(servers: Servers) -> None:
    mint = Mint()
    await servers.forget_streams()
    async with servers.database(QUIET) as url, identity(mint) as address:
        values = settings(servers, LINLI_TOY_DATABASE_URL=url, LINLI_IDENTITY_ADDRESS=address, LINLI_LOG_LEVEL="debug")
        program = await _start_program(values)
        try:
            ops = f"http://{values['LINLI_OPS_ADDRESS']}"

            async def is_ready() -> bool:
                return await answers(f"{ops}/readyz") == 200

            await eventually(is_ready, deadline_s=30)
            peer = Peer(values["LINLI_GRPC_ADDRESS"])
            metadata = [("authorization", f"Bearer {mint.token(principal('toy.say', community_id=COMMUNITY, modules=['toy']))}")]
            request = message("SayRequest", word="slowly").SerializeToString()
            call = asyncio.create_task(peer.call(f"/{SAY}", request, metadata))
            superuser = await asyncpg.connect(servers.postgres.url(url.rpartition("/")[2]))

            async def in_work() -> bool:
                return bool(await superuser.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

            await eventually(in_work)
            started = time.monotonic()
            program.send_signal(signal.SIGTERM)
            await call
            _, log = await program.communicate()
            assert program.returncode == 0, log.decode()
            assert time.monotonic() - started < 5
            assert await superuser.fetchval("SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0
            assert await superuser.fetchval("SELECT count(*) FROM outbox") == 1
            await superuser.close()
            await peer.close()
            lines = [json.loads(line) for line in log.decode().splitlines()]
            assert [line["event"] for line in lines if line["event"] in ("ready", "draining")] == ["ready", "draining"]
            assert not [line for line in lines if line.get("level") == "error"]
        finally:
            if program.returncode is None:
                program.kill()


async def test_sigterm_ends_a_process_that_still_waits_for_its_servers(servers: Servers) -> None:
    values = settings(servers, LINLI_TOY_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", LINLI_NATS_URL="nats://127.0.0.1:1")
    program = await _start_program(values)
    try:

        async def lives() -> bool:
            return await answers(f"http://{values['LINLI_OPS_ADDRESS']}/livez") == 200

        await eventually(lives, deadline_s=30)
        program.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            _, log = await program.communicate()
        assert program.returncode == 0, log.decode()
    finally:
        if program.returncode is None:
            program.kill()
