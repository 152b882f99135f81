"""Certificates: who is let in, who is believed, and what happens when they are renewed."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import grpc.aio
import httpx
import nats
import psutil
import pytest
import pytest_asyncio

from infra.local import accounts
from infra.local.nats import NatsServer, start_nats
from servicekit import messaging, schema
from servicekit.auth import Verifier
from servicekit.clock import system_clock
from servicekit.config import NatsSettings, ProcessSettings, SettingsError, load
from servicekit.database import PLATFORM, Resources, open_database
from servicekit.errors import Denied, Unavailable
from servicekit.rpc import Peer
from servicekit.service import Host
from servicekit.tls import Certificates
from services.gateway.service import SERVICE as GATEWAY
from services.identity import operations
from services.identity import service as identity
from services.identity.store import PLATFORM_COMMUNITY
from tests.authority import Authority
from tests.identity.arrange import DATA_KEYS, INDEX_KEY
from tests.servicekit.secured import nats_tls, postgres_tls
from tests.servicekit.toy import COUNT_WORDS, QUIET, message
from tests.support import Caller, Mint, Servers, environment, eventually, free_address, principal

pytestmark = pytest.mark.asyncio(loop_scope="module")
EXPIRED = timedelta(hours=-1)
CALLER = "gateway.linli"
NOT_LET_IN = (OSError, ssl.SSLError, asyncpg.PostgresError, asyncpg.InterfaceError)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def broker(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A NATS that lets in only who shows a certificate."""
    folder = tmp_path_factory.mktemp("broker")
    server = start_nats(folder / "nats", configuration=nats_tls(authority.issue(folder / "tls", "127.0.0.1")))
    yield server
    server.stop()


@dataclass(slots=True)
class Door:
    """A running service whose gRPC demands certificates, and those who call it."""

    host: Host
    address: str
    certificates: Path
    authority: Authority
    folder: Path
    mint: Mint

    @asynccontextmanager
    async def peer(self, certificates: Path | None, address: str = "") -> AsyncIterator[Peer]:
        """The service, as who has these certificates reaches it."""
        peer = Peer(address or self.address, None if certificates is None else Certificates(certificates))
        try:
            yield peer
        finally:
            await peer.close()

    async def ask(self, peer: Peer) -> Any:
        """Calls as somebody with a good token. Raises the service's errors, and Unavailable when it is not reached."""
        token = self.mint.token(principal("toy.say", "toy.read", modules=["toy"]))
        return await Caller(peer, token).call(COUNT_WORDS, message("CountWordsRequest"))

    def caller(self, name: str = CALLER) -> Path:
        """The certificates of one who may call, unless it has another name."""
        return self.authority.issue(self.folder / "caller", name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(servers: Servers, authority: Authority, broker: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    folder, mint = tmp_path_factory.mktemp("door"), Mint()
    certificates = authority.issue(folder / "toy", "127.0.0.1")
    async with servers.database(QUIET) as url:
        values = {
            "LINLI_GRPC_ADDRESS": free_address(),
            "LINLI_OPS_ADDRESS": free_address(),
            "LINLI_NATS_URL": broker.url,
            "LINLI_TLS_FOLDER": str(certificates),
            "LINLI_TOY_DATABASE_URL": url,
            "LINLI_TOY_CALLERS": f"{CALLER}, another.linli",
            "LINLI_DRAIN_S": "5",
        }
        with environment(values):
            host = Host([QUIET], load(ProcessSettings), verifier=Verifier(mint.keys))
            try:
                await host.start()
                yield Door(host, values["LINLI_GRPC_ADDRESS"], certificates, authority, folder, mint)
            finally:
                await host.stop()


# gRPC


async def test_who_shows_a_certificate_of_our_authority_is_answered(door: Door) -> None:
    async with door.peer(door.caller()) as peer:
        assert (await door.ask(peer)).words == 0


def stranger(door: Door, trusted: Path) -> Path:
    """A certificate of another authority, whose holder believes the right one."""
    folder = Authority().issue(door.folder / "stranger", CALLER)
    shutil.copy(trusted / "ca.crt", folder / "ca.crt")
    return folder


async def test_who_shows_none_or_an_expired_one_or_one_of_another_authority_is_not_answered(door: Door) -> None:
    for certificates in (None, stranger(door, door.certificates), door.authority.issue(door.folder / "late", CALLER, valid=EXPIRED)):
        async with door.peer(certificates) as peer:
            with pytest.raises(Unavailable):
                await door.ask(peer)
    showing_none = grpc.ssl_channel_credentials((door.certificates / "ca.crt").read_bytes())
    async with grpc.aio.secure_channel(door.address, showing_none) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(f"/{COUNT_WORDS}")(b"", timeout=5)  # type: ignore[arg-type]
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_service_is_believed_only_under_its_name_and_its_authority(door: Door) -> None:
    certificates = door.caller()
    async with door.peer(certificates, f"localhost:{door.address.rpartition(':')[2]}") as peer:
        with pytest.raises(Unavailable):
            await door.ask(peer)
    shutil.copy(Authority().issue(door.folder / "other", "127.0.0.1") / "ca.crt", certificates / "ca.crt")
    async with door.peer(certificates) as peer:
        with pytest.raises(Unavailable):
            await door.ask(peer)


async def test_a_service_answers_only_those_whom_it_is_told_to(door: Door) -> None:
    async with door.peer(door.caller("points.linli")) as peer:
        with pytest.raises(Denied, match=r"auth\.caller"):
            await door.ask(peer)


async def test_a_service_calls_only_whom_its_declaration_names(door: Door) -> None:
    (running,) = door.host.running
    with pytest.raises(LookupError, match="toy does not declare that it calls billing"):
        running.peer("billing")
    await running.peer("identity").close()


async def test_a_callers_renewed_certificate_is_used_without_a_restart(door: Door) -> None:
    certificates = door.caller()
    async with door.peer(certificates) as peer:
        await door.ask(peer)
        door.authority.issue(certificates, CALLER, valid=EXPIRED)
        with pytest.raises(Unavailable):
            await door.ask(peer)
        door.authority.issue(certificates, CALLER)
        await door.ask(peer)


async def test_a_services_renewed_certificate_is_used_without_a_restart_and_an_expired_one_is_not_believed(door: Door) -> None:
    door.authority.issue(door.certificates, "127.0.0.1", valid=EXPIRED)
    async with door.peer(door.caller()) as peer:
        with pytest.raises(Unavailable):
            await door.ask(peer)
        door.authority.issue(door.certificates, "127.0.0.1")

        async def is_answered() -> bool:
            with suppress(Unavailable):
                return bool(await door.ask(peer) is not None)
            return False

        await eventually(is_answered)


async def test_half_a_renewal_changes_nothing(door: Door) -> None:
    (door.certificates / "tls.key").write_text("not all of it has come")
    try:
        async with door.peer(door.caller()) as peer:
            await door.ask(peer)
    finally:
        door.authority.issue(door.certificates, "127.0.0.1")


async def test_a_renewal_that_stays_half_is_told_now_and_then_and_used_when_it_is_whole(
    authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificates = Certificates(authority.issue(tmp_path / "toy", "toy"))
    before = certificates.channel()
    (tmp_path / "toy" / "tls.key").write_text("not all of it has come")
    for _ in range(100):  # as many calls, each of which looks
        assert certificates.channel() is before
    assert capsys.readouterr().out.count("certificates_not_read") == 1
    authority.issue(tmp_path / "toy", "toy")

    async def is_renewed() -> bool:
        return certificates.channel() is not before

    await eventually(is_renewed)


async def test_certificates_that_cannot_be_used_stop_the_start(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="LINLI_TLS_FOLDER"):
        Certificates(tmp_path / "gone")
    mixed = authority.issue(tmp_path / "mixed", "a")
    shutil.copy(authority.issue(tmp_path / "another", "b") / "tls.key", mixed / "tls.key")
    with pytest.raises(SettingsError, match="LINLI_TLS_FOLDER"):
        Certificates(mixed)


# NATS


async def test_nats_lets_in_who_shows_a_certificate_and_nobody_else(door: Door, broker: NatsServer) -> None:
    assert door.host.running[0].nats.is_connected
    without = ssl.create_default_context(cafile=str(door.certificates / "ca.crt"))
    with pytest.raises((OSError, nats.errors.Error)):
        await nats.connect(broker.url, tls=without, tls_handshake_first=True, allow_reconnect=False, connect_timeout=2)


async def test_a_client_of_nats_follows_when_the_authority_itself_is_replaced(tmp_path: Path) -> None:
    old, new = Authority(), Authority()
    server = start_nats(tmp_path / "nats", configuration=nats_tls(old.issue(tmp_path / "tls", "127.0.0.1")))
    try:
        process = ProcessSettings(nats_url=server.url, tls_folder=str(old.issue(tmp_path / "client", "toy")))
        client = await messaging.connect(process, NatsSettings(), "toy")
        new.issue(tmp_path / "tls", "127.0.0.1")
        server.restart()
        new.issue(tmp_path / "client", "toy")

        async def is_back() -> bool:
            return client.is_connected and client.stats["reconnects"] > 0

        await eventually(is_back)
        await client.flush()
        await client.close()
    finally:
        server.stop()


async def test_a_server_without_tls_is_not_told_the_password(authority: Authority, tmp_path: Path) -> None:
    heard, is_heard = bytearray(), asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"INFO " + json.dumps({"server_id": "x", "version": "2.10.0", "headers": True, "max_payload": 1024}).encode() + b"\r\n"
        )
        with suppress(OSError):
            heard.extend(await reader.read(4096))
        is_heard.set()
        writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for tls_folder, is_told in ((str(authority.issue(tmp_path / "client", "toy")), False), ("", True)):
        heard.clear()
        is_heard.clear()
        process = ProcessSettings(nats_url=url, tls_folder=tls_folder)
        connecting = asyncio.create_task(messaging.connect(process, NatsSettings(nats_user="toy", nats_password="hush"), "toy"))
        await asyncio.wait_for(is_heard.wait(), 10)
        while not connecting.done():
            connecting.cancel()  # which the client swallows now and then
            await asyncio.wait([connecting], timeout=0.1)
        assert (b"hush" in heard) is is_told
    server.close()


# All of it


@contextlib.contextmanager
def linli(*arguments: str, log: Path, **values: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command as its own process, which has nothing of our environment but the path."""
    command = [sys.executable, "-m", "console.main", *arguments]
    with log.open("ab") as out, subprocess.Popen(command, env={"PATH": os.environ["PATH"], **values}, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            process.kill()


async def ready(process: subprocess.Popen[bytes], ops_address: str) -> None:
    """Waits until the process says that it is ready."""

    async def is_ready() -> bool:
        assert process.poll() is None, "it has ended; its log says why"
        with suppress(httpx.HTTPError):
            return (await client.get(f"http://{ops_address}/readyz")).status_code == 200
        return False

    async with httpx.AsyncClient(trust_env=False) as client:
        await eventually(is_ready, deadline_s=60)


async def watch_arguments(seen: set[str]) -> None:
    """Collects the arguments of every process below this one, as anybody on the machine may read them."""
    while True:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                seen.add(" ".join(process.cmdline()))
        await asyncio.sleep(0.02)


@dataclass(slots=True)
class Installation:
    """An identity and a gateway whose every connection needs a certificate."""

    folder: Path
    authority: Authority
    credentials: schema.Credentials
    secrets: Mapping[str, str]
    nats_url: str
    grpc: str
    http: str

    def values(self, process: str, ops: str, *secrets: str) -> dict[str, str]:
        """The environment of one process, with a folder of the secrets that it may know."""
        folder = self.folder / f"{process}-secrets"
        folder.mkdir()
        for name in secrets:
            (folder / name).write_text(self.secrets[name])
        return {
            "LINLI_SECRETS_FOLDER": str(folder),
            "LINLI_TLS_FOLDER": str(self.authority.issue(self.folder / process, process, "127.0.0.1")),
            "LINLI_NATS_URL": self.nats_url,
            "LINLI_SERVICE_ADDRESS": self.grpc,
            "LINLI_OPS_ADDRESS": ops,
            "LINLI_DRAIN_S": "5",
        }


@asynccontextmanager
async def installation(servers: Servers, authority: Authority, folder: Path) -> AsyncIterator[Installation]:
    """Roles and an empty database on a PostgreSQL behind TLS, and a guarded NATS."""
    passwords = {"gateway": "g8-nats", "identity": "i8-nats", accounts.OPERATOR: "o8-nats"}
    configuration = accounts.configuration([GATEWAY, identity.SERVICE], passwords) + nats_tls(
        authority.issue(folder / "nats-tls", "127.0.0.1")
    )
    broker = start_nats(folder / "nats", configuration=configuration)
    direct = await schema.provision(servers.postgres.url(), "secured", "owners-secret", "services-secret")
    shown = authority.issue(folder / "database-client", "linli_secured")
    try:
        async with postgres_tls(servers.postgres.port, authority.issue(folder / "postgres-tls", "127.0.0.1")) as port:
            options = f"sslmode=verify-full&sslrootcert={shown}/ca.crt&sslcert={shown}/tls.crt&sslkey={shown}/tls.key"
            urls = [f"{url.replace(str(servers.postgres.port), str(port))}?{options}" for url in (direct.owner_url, direct.service_url)]
            secrets = {
                "LINLI_IDENTITY_MIGRATION_URL": urls[0],
                "LINLI_IDENTITY_DATABASE_URL": urls[1],
                "LINLI_IDENTITY_DATA_KEYS": DATA_KEYS,
                "LINLI_IDENTITY_INDEX_KEY": INDEX_KEY,
                "LINLI_IDENTITY_NATS_PASSWORD": passwords["identity"],
                "LINLI_GATEWAY_NATS_PASSWORD": passwords["gateway"],
                "LINLI_BLOB_TICKET_KEY": INDEX_KEY,
            }
            yield Installation(folder, authority, schema.Credentials(*urls), secrets, broker.url, free_address(), free_address())
    finally:
        broker.stop()
        connection = await asyncpg.connect(servers.postgres.url())
        await connection.execute("DROP DATABASE linli_secured WITH (FORCE)")
        await connection.close()


async def sign_in(installed: Installation) -> int:
    """Makes the operator, who signs in on a phone and asks who it is. Returns the status of the last answer."""
    database = await open_database("identity", installed.credentials.service_url, pool_size=1, clock=system_clock)
    settings = identity.Settings(
        data_keys=DATA_KEYS, index_key=INDEX_KEY, code_sender="development", code_file=str(installed.folder / "codes")
    )
    database.resources = Resources(identity.tools(settings))
    async with database.transaction(PLATFORM) as tx:
        await operations.bootstrap_operator(tx, "13800000000", "管理员", "correct horse battery")
    await database.close()
    who = {"community_id": str(PLATFORM_COMMUNITY), "phone": "13800000000", "password": "correct horse battery"}
    async with httpx.AsyncClient(base_url=f"http://{installed.http}", trust_env=False, timeout=20) as phone:
        tokens = (await phone.post("/v1/sign-in/password", json=who)).raise_for_status().json()
        return (await phone.get("/v1/me", headers={"Authorization": f"Bearer {tokens['access_token']}"})).status_code


async def test_a_phone_is_answered_by_processes_that_speak_tls_everywhere_and_no_process_shows_a_secret(
    servers: Servers, authority: Authority, tmp_path: Path
) -> None:
    async with installation(servers, authority, tmp_path) as installed:
        for url in (installed.credentials.owner_url.partition("?")[0], installed.credentials.owner_url.partition("&sslcert")[0]):
            with pytest.raises(NOT_LET_IN):
                await asyncpg.connect(url, timeout=5)
        own = [name for name in installed.secrets if name.startswith("LINLI_IDENTITY")]
        ops = {name: free_address() for name in ("identity", "gateway", "migration")}
        seen: set[str] = set()
        watching = asyncio.create_task(watch_arguments(seen))
        with (
            linli(
                *("serve", "identity"),
                log=tmp_path / "identity.log",
                LINLI_GRPC_ADDRESS=installed.grpc,
                LINLI_IDENTITY_NATS_USER="identity",
                LINLI_IDENTITY_CODE_SENDER="development",
                LINLI_IDENTITY_CODE_FILE=str(tmp_path / "codes"),
                **installed.values("identity", ops["identity"], *(name for name in own if "MIGRATION" not in name)),
            ) as serving,
            linli(
                *("serve", "gateway"),
                log=tmp_path / "gateway.log",
                LINLI_GRPC_ADDRESS=free_address(),
                LINLI_GATEWAY_NATS_USER="gateway",
                LINLI_GATEWAY_HTTP_ADDRESS=installed.http,
                **installed.values("gateway", ops["gateway"], "LINLI_GATEWAY_NATS_PASSWORD", "LINLI_BLOB_TICKET_KEY"),
            ) as front,
            linli(
                *("migrate", "identity"),
                log=tmp_path / "migrate.log",
                **installed.values("migrate", ops["migration"], *own),
            ) as migration,
        ):
            assert await asyncio.to_thread(migration.wait, 60) == 0, (tmp_path / "migrate.log").read_text()
            await ready(serving, ops["identity"])
            await ready(front, ops["gateway"])
            assert await sign_in(installed) == 200
            watching.cancel()
            for process in (front, serving):
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 30) == 0
    for program in ("dbmate", "serve identity", "serve gateway", "postgres", "nats-server"):
        assert any(program in arguments for arguments in seen), program
    hidden = ["owners-secret", "services-secret", DATA_KEYS, INDEX_KEY, "g8-nats", "i8-nats", servers.postgres.password]
    assert [arguments for arguments in seen if any(secret in arguments for secret in hidden)] == []
