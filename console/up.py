"""`linli up`: the whole platform on one machine, from the servers to the simulated cars, stopped in order by Ctrl-C."""

import asyncio
import contextlib
import secrets
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil
from rich.live import Live

from console import catalog, settings
from console.demonstration import Demonstration
from console.environment import CODES, ENVIRONMENT, newest_code
from console.live import Figures
from console.processes import Child, ProcessError
from console.secrets import SECRETS, Secrets, kept_in, nats_configuration, write_private
from console.seed import SeedError, seed, seed_green, seed_safe
from infra.local.nats import NatsServer, start_nats
from infra.local.ports import choose_port
from infra.local.postgres import PostgresServer, start_postgres
from infra.local.process import lock_holder

READY_S = 60.0
_WATCH_S = 1.0
DEMONSTRATION = "demonstration.json"
_OWNED = ("postgres", "nats", "logs", "images", "terminals")


class UpError(Exception):
    """The platform could not be started; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a start may choose. A port of 0 is any free one; one that is taken is replaced by a free one."""

    folder: Path
    gateway_port: int = 0
    ingest_port: int = 0
    postgres_port: int = 0
    nats_port: int = 0
    mqtt_port: int = 0
    simulator: bool = True
    separate: bool = False
    demonstration: bool = True
    # Settings of services beyond those of a plain start, such as LINLI_GATEWAY_ACCOUNT_REQUESTS_PER_MINUTE.
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Local:
    """The platform while it runs."""

    folder: Path
    postgres: PostgresServer
    nats: NatsServer
    secrets: Secrets
    addresses: settings.Addresses
    children: dict[str, Child] = field(default_factory=dict)
    demonstration: Demonstration | None = None

    @property
    def gateway_url(self) -> str:
        """Where phones call."""
        return f"http://{self.addresses.http['gateway']}"

    @property
    def ingest_url(self) -> str:
        """Where cameras call."""
        return f"http://{self.addresses.http['ingest']}"


@asynccontextmanager
async def local_platform(options: Options) -> AsyncIterator[Local]:
    """Everything but the simulator, for as long as the block. Raises UpError, LocalServerError."""
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    own_secrets = kept_in(options.folder)
    async with AsyncExitStack() as stack:
        # Started from the main thread, to whose life the kernel ties them.
        postgres = start_postgres(options.folder / "postgres", port=options.postgres_port)
        stack.callback(postgres.stop)
        nats = start_nats(
            options.folder / "nats",
            port=options.nats_port,
            mqtt_port=options.mqtt_port,
            configuration=nats_configuration(catalog.find(["all"]), own_secrets),
        )
        stack.callback(nats.stop)
        addresses = _addresses(options)
        local = Local(options.folder, postgres, nats, own_secrets, addresses)
        shared = {**await settings.shared(local.folder, own_secrets, postgres, nats, addresses), **options.settings}
        write_private(options.folder / ENVIRONMENT, msgspec.json.format(msgspec.json.encode(shared), indent=1).decode())
        for child in _children(options, local, shared):
            local.children[child.name] = child
            child.start()
            stack.push_async_callback(child.stop)
        try:
            await asyncio.gather(*(child.ready(READY_S) for child in local.children.values()))
            if options.demonstration:
                local.demonstration = await _demonstrate(local, shared)
        except (ProcessError, SeedError) as error:
            raise UpError(str(error)) from error
        yield local


def _addresses(options: Options) -> settings.Addresses:
    names = list(catalog.SERVICES) if options.separate else ["all"]
    asked = {"gateway": options.gateway_port, "ingest": options.ingest_port}
    port = {name: choose_port(options.folder, name, value) for name, value in asked.items()}
    return settings.Addresses(
        http={name: f"127.0.0.1:{value}" for name, value in port.items()},
        grpc={name: f"127.0.0.1:{choose_port(options.folder, f'{name}-grpc', None)}" for name in names},
        ops={name: f"127.0.0.1:{choose_port(options.folder, f'{name}-ops', None)}" for name in names},
        provider=f"127.0.0.1:{choose_port(options.folder, 'provider', None)}",
    )


def _children(options: Options, local: Local, shared: dict[str, str]) -> list[Child]:
    logs = options.folder / "logs"
    children = [
        Child(
            name="provider",
            command=settings.provider_command(local.folder, local.addresses),
            environment=settings.provider_environment(local.secrets),
            log=logs / "provider.log",
            ready_url=f"http://{local.addresses.provider}/",
        )
    ]
    for name, address in local.addresses.ops.items():
        own = {"LINLI_GRPC_ADDRESS": local.addresses.grpc[name], "LINLI_OPS_ADDRESS": address}
        children.append(
            Child(
                name=name,
                command=["console.main", "serve", name],
                environment={**shared, **own},
                log=logs / f"{name}.log",
                ready_url=f"http://{address}/readyz",
            )
        )
    return children


async def _demonstrate(local: Local, shared: dict[str, str]) -> Demonstration:
    file = local.folder / DEMONSTRATION

    def keep(demonstration: Demonstration) -> None:
        write_private(file, msgspec.json.format(msgspec.json.encode(demonstration), indent=1).decode())

    def read_code(phone: str) -> str | None:
        return newest_code(local.folder, phone)

    if was_founded := file.exists():
        current = msgspec.json.decode(file.read_bytes(), type=Demonstration)
    else:
        operator = await settings.bootstrap_operator(shared)
        current = await seed(
            gateway_url=local.gateway_url,
            ingest_url=local.ingest_url,
            mqtt=(local.nats.host, local.nats.mqtt_port or 0),
            gate_public_key=local.secrets.public_key("gate"),
            operator=operator,
            manager_password=local.secrets.other("demo-manager", lambda: f"linli-{secrets.token_hex(6)}"),
            newest_code=read_code,
        )
    # Ports may differ from the last start's.
    current = msgspec.structs.replace(
        current,
        gateway_url=local.gateway_url,
        ingest_url=local.ingest_url,
        mqtt_host=local.nats.host,
        mqtt_port=local.nats.mqtt_port or 0,
        door_public_key=local.secrets.public_key("door"),
    )
    keep(current)
    # Identity tells of its people again once a minute, which services wait for that came with a later version.
    if not current.bins:
        if was_founded:
            print("adding smart bins and points, which takes a minute or two", flush=True)
        current = await seed_green(current)
        keep(current)
    if not current.terminals:
        if was_founded:
            print("adding doors, alarms and work orders, which takes a minute or two", flush=True)
        current = await seed_safe(current, read_code)
        keep(current)
    return current


async def run(options: Options) -> None:
    """Starts everything, shows it, and stops it on Ctrl-C or SIGTERM. Raises UpError, LocalServerError."""
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None
    starting = True

    def interrupt() -> None:
        stop.set()
        if starting:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    print(f"starting in {options.folder}", flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        async with local_platform(options) as local:
            starting = False
            _introduce(local)
            print(f"ready: {local.gateway_url}", flush=True)
            watch = asyncio.create_task(_keep_servers(local))
            await (_show_traffic(local, stop) if options.simulator else stop.wait())
            watch.cancel()
            print("stopping", flush=True)


async def _keep_servers(local: Local) -> None:
    """Starts PostgreSQL and NATS again when they have died."""
    while True:
        await asyncio.sleep(_WATCH_S)
        for server in (local.postgres, local.nats):
            if server.pid is not None and not _runs(server.pid):
                server.restart()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _introduce(local: Local) -> None:
    demonstration = local.demonstration
    print(f"API documentation: {local.gateway_url}/docs")
    print(f"devices:           {local.ingest_url}")
    if demonstration is not None:
        print(f"community:         {demonstration.community_id}")
        print(f"login (manager):   phone {demonstration.manager_phone}, password {demonstration.manager_password}")
        # As we were called ourselves: the virtual environment need not be on the reader's PATH, nor the folder the usual one.
        command = shlex.join([sys.argv[0], "otp", demonstration.resident_phone, "--data", str(local.folder)])
        print(f"login (resident):  phone {demonstration.resident_phone}, by code; read the code with: {command}")


async def _show_traffic(local: Local, stop: asyncio.Event) -> None:
    # It runs beside us, so that what it costs is not counted to the platform.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "console.child", "console.main", "simulate", "--data", str(local.folder)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=(local.folder / "logs" / "simulator.log").open("ab"),
        start_new_session=True,
    )
    figures = Figures()
    reading = asyncio.create_task(_read(process, figures))
    try:
        if sys.stdout.isatty():
            with Live(figures.render(), refresh_per_second=4) as live:
                while not stop.is_set():
                    live.update(figures.render())
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), 0.25)
        else:
            await stop.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        reading.cancel()


async def _read(process: asyncio.subprocess.Process, figures: Figures) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        figures.take(line.decode(errors="replace"))


def forget(folder: Path) -> None:
    """Deletes everything that `linli up` stored. Raises UpError while it runs."""
    for name in ("postgres", "nats"):
        if (folder / name).exists() and (holder := lock_holder(folder / name)) is not None:
            raise UpError(f"process {holder} is using {folder}: stop it first")
    for name in _OWNED:
        shutil.rmtree(folder / name, ignore_errors=True)
    for file in (CODES, DEMONSTRATION, "provider.sqlite", ENVIRONMENT, SECRETS, "ports.json"):
        (folder / file).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
