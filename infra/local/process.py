"""One local server as a process: started, watched until it answers, stopped, killed, and recovered after a crash.

A server owns one folder: `lock`, `server.log`, `ports.json`, what it is configured by, and `data`. It runs in its own
session, so Ctrl-C in the terminal reaches only the parent, and dies with its parent, however that dies. Started by root
it runs as an unprivileged account, which owns only `data` and the files it must read: root writes into no folder where
that account could put a symbolic link.

Which server it is, its settings and its test of readiness are given by `postgres.py` and `nats.py`; what happens in the
new process before the server's own code is in `child.py`.
"""

import contextlib
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

START_SECONDS_MAX = 60.0  # recovery after a crash replays at most the settings' few hundred MB of log
STOP_SECONDS_MAX = 15.0
LOG_BYTES_MAX = 16 * 1024 * 1024
LOG_TAIL_LINES = 15
ACCOUNTS = ("postgres", "_postgres", "nobody")
# What a server gets of our environment; the secrets in the rest are none of its business.
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
# Who ends the server when we die: the kernel, or a process beside the server that waits for the end of its stdin.
WATCHER = "kernel" if sys.platform == "linux" else "stdin"


class LocalServerError(Exception):
    """A local server could not be started; the text says why and shows the end of its log."""


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int


def account_for(data: Path) -> Account:
    """The account that a server of this data runs as: the caller's own, or for root an unprivileged one.

    Root takes the owner of existing data, then the user behind sudo, then an account that exists on most systems.
    Raises LocalServerError when there is none.
    """
    if os.geteuid() != 0:
        return Account(user_name(os.geteuid()), os.geteuid(), os.getegid())
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(user_name(owner.st_uid), owner.st_uid, owner.st_gid)
    for name in (os.environ.get("SUDO_USER", "root"), *ACCOUNTS):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise LocalServerError(f"running as root, and none of the accounts {', '.join(ACCOUNTS)} exists")


def user_name(uid: int) -> str:
    """The name of an account, its number when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def spawn(
    command: list[str], folder: Path, account: Account, output: IO[bytes] | int, last_signal: signal.Signals
) -> subprocess.Popen[bytes]:
    """Start `command` in `folder` as `account`; `last_signal` reaches it when this process dies.

    On Linux the kernel ties a child to the thread that started it: call this from a thread that lives as long as the
    server shall.
    """
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py"))),
            *(str(os.getpid()), str(int(last_signal)), WATCHER, str(account.uid), str(account.gid), str(folder)),
            *command,
        ],
        stdin=subprocess.DEVNULL if WATCHER == "kernel" else subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=_environment(os.environ),
    )


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    return {name: ours[name] for name in ENVIRONMENT if name in ours} | {"LC_ALL": "C", "TZ": "UTC"}


@dataclass(slots=True, kw_only=True)
class ServerProcess:
    """A server and the folder it owns."""

    title: str
    executable: Path
    folder: Path
    # Polite first; after the last comes SIGKILL. The last is also sent when this process dies: nobody is left then to
    # see whether a polite one was heeded.
    stop_signals: tuple[signal.Signals, ...]
    _process: subprocess.Popen[bytes] | None = None
    _lock: int | None = None

    @property
    def data(self) -> Path:
        """The server's working directory, by which an orphan of an earlier run is recognised."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def pid(self) -> int | None:
        """The process id, None when it was not started or has been stopped."""
        return self._process.pid if self._process else None

    @contextlib.contextmanager
    def occupy(self) -> Iterator[None]:
        """Take the folder, end what an earlier run left running in it, and keep it if the block succeeds.

        Raises LocalServerError when another process has it, or this one.
        """
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._lock = _lock(self.folder, self.title)
        try:
            self._end_left_behind(self.stop_signals)
            yield
        except BaseException:
            self.kill()
            raise

    def start(self, arguments: list[str], is_ready: Callable[[int], bool]) -> None:
        """Start the server in its occupied folder; returns when `is_ready` says so of its process id."""
        process = self._process = self._spawn([str(self.executable), *arguments], self.data)
        deadline = time.monotonic() + START_SECONDS_MAX
        while process.poll() is None:
            if is_ready(process.pid):
                return
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer in {START_SECONDS_MAX} s")
            time.sleep(0.01)
        raise self._failure(f"ended while starting, exit code {process.returncode}")

    def stop(self) -> None:
        """Stop in order; returns when no process of the server is left. Does nothing when it is stopped."""
        self._end(self.stop_signals)

    def kill(self) -> None:
        """End every process of the server with SIGKILL, as a crash would."""
        self._end(())

    def run(self, command: list[str]) -> None:
        """Run a preparing command as the server's account to its end, its output to the log."""
        process = self._spawn(command, self.folder)
        try:
            failed = process.wait(START_SECONDS_MAX) != 0
        except subprocess.TimeoutExpired:
            failed = True
        finally:
            self._end_process(process, ())
        if failed:
            raise self._failure(f"could not be prepared: {Path(command[0]).name} failed")

    def hand_over(self, path: Path) -> None:
        """Give a file or folder to the server's account."""
        if os.geteuid() == 0:
            account = account_for(self.data)
            os.chown(path, account.uid, account.gid, follow_symlinks=False)

    def _spawn(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_suffix(".log.1"))
        self.log.touch(mode=0o600)
        with self.log.open("ab") as log:
            return spawn(command, folder, account_for(self.data), log, self.stop_signals[-1])

    def _failure(self, what: str) -> LocalServerError:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return LocalServerError("\n".join([f"{self.title} {what}; {self.log} ends with:", *lines]))

    def _end(self, signals: tuple[signal.Signals, ...]) -> None:
        if self._process is not None:
            self._end_process(self._process, signals)
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _end_process(self, process: subprocess.Popen[bytes], signals: tuple[signal.Signals, ...]) -> None:
        if process.poll() is None:
            server = psutil.Process(process.pid)
            end([server, *server.children(recursive=True)], server, signals)
            process.wait()
        if process.stdin:
            process.stdin.close()  # which ends the watcher
        self._end_left_behind(())  # children of a server that died on its own

    def _end_left_behind(self, signals: tuple[signal.Signals, ...]) -> None:
        left = servers_in(self.data, self.executable.name)
        # Children of PostgreSQL change their command line. A signal that asks the server to shut down in order means
        # other things to them, among them one that damages the data.
        servers = [process for process in left if _program(process) == self.executable.name]
        end(left, servers[0] if servers else None, signals)


def servers_in(data: Path, name: str) -> list[psutil.Process]:
    """The processes called `name` whose working directory is `data`, oldest first."""
    if not data.exists():
        return []
    found = [
        process
        for process in psutil.process_iter(["name", "cwd", "create_time"])
        if process.info["name"] == name and process.info["cwd"] and Path(process.info["cwd"]) == data
    ]
    return sorted(found, key=lambda process: (process.info["create_time"], process.pid))


def end(processes: list[psutil.Process], server: psutil.Process | None, signals: tuple[signal.Signals, ...]) -> None:
    """End these processes: each signal in turn to the server among them until it is gone, then SIGKILL to the rest."""
    for number in signals:
        if server:
            _send(server, number)
            if _are_gone([server]):
                break
    for process in processes:
        _send(process, signal.SIGKILL)
    if not _are_gone(processes):
        raise LocalServerError(f"processes {[process.pid for process in processes]} cannot be ended")


def _program(process: psutil.Process) -> str:
    try:
        return Path(process.cmdline()[0]).name
    except (psutil.Error, IndexError):
        return ""


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _are_gone(processes: list[psutil.Process]) -> bool:
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while any(_runs(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _lock(folder: Path, title: str) -> int:
    """Take the folder for this process; the kernel gives it free when the process ends, however it ends."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 20).decode(errors="replace") or "unknown"
        os.close(descriptor)
        raise LocalServerError(f"{title} in {folder} is in use by process {holder}") from error
    os.truncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def lock_holder(folder: Path) -> int | None:
    """The process that has taken `folder`, or None; what a dead process left in the lock file does not count."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        return int(os.read(descriptor, 20) or 0)
    finally:
        os.close(descriptor)
