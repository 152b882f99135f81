"""Why the local servers would not start here: each finding says what is, and when it is wrong what to do.

It looks and changes nothing. The servers' own complaints are in their logs, which a failed start shows.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from infra.local import nats, postgres
from infra.local.ports import is_free
from infra.local.process import LocalServerError, account_for, lock_holder, servers_in, spawn, user_name

Language = Literal["zh", "en"]

PYTHON_MIN = (3, 11)
DISK_BYTES_MIN = 1 << 30
SHARED_MEMORY_BYTES_MIN = 32 << 20

# Detail and remedy of each finding, in English and Chinese.
TEXTS: dict[str, tuple[str, str]] = {
    "python": ("Python {version}", "Python {version}"),
    "python.remedy": ("use Python {minimum} or newer", "请使用 Python {minimum} 或更高版本"),
    "runs": ("{version}", "{version}"),
    "runs_not": ("does not run: {reason}", "无法运行：{reason}"),
    "runs_not.remedy": (
        "install the dependencies again; the wheels need Linux with glibc or macOS on x86-64 or ARM64",
        "请重新安装依赖；安装包需要 x86-64 或 ARM64 上的 Linux（glibc）或 macOS",
    ),
    "account": ("servers run as {account}", "服务器以 {account} 身份运行"),
    "account_not": ("running as root, and {reason}", "当前为 root，且{reason}"),
    "account_not.remedy": (
        "run as an ordinary user, or move the folder to where other accounts may enter, for example /srv",
        "请以普通用户运行，或把目录移到其他账户可进入的位置，例如 /srv",
    ),
    "folder": ("{folder} can be written", "{folder} 可写"),
    "folder_not": ("{folder} cannot be written: {reason}", "{folder} 不可写：{reason}"),
    "folder_not.remedy": (
        "choose another data folder, or change its mode",
        "请选择其他数据目录，或修改其权限",
    ),
    "owner_not": ("{folder} belongs to {owner}", "{folder} 属于 {owner}"),
    "owner_not.remedy": (
        "run as {owner}, or choose another data folder",
        "请以 {owner} 身份运行，或选择其他数据目录",
    ),
    "path_not": (
        "the path has {count} bytes, PostgreSQL takes {limit}",
        "路径长 {count} 字节，PostgreSQL 最多 {limit}",
    ),
    "path_not.remedy": ("choose a data folder with a shorter path", "请选择路径更短的数据目录"),
    "disk": ("{free} MiB free", "剩余 {free} MiB"),
    "disk.remedy": ("free disk space until there are {minimum} MiB", "请清理磁盘，至少留出 {minimum} MiB"),
    "port": ("{port} is free", "{port} 空闲"),
    "port_ours": (
        "{port} is held by this installation, process {holder}",
        "{port} 由本系统占用，进程 {holder}",
    ),
    "port_taken": ("{port} is held by {holder}", "{port} 已被 {holder} 占用"),
    "port_taken.remedy": (
        "nothing, if any free port will do; otherwise stop that process or choose another port",
        "若可使用任意空闲端口则无需处理；否则请停止该进程或改用其他端口",
    ),
    "lock": ("no server runs in this folder", "此目录中没有服务器在运行"),
    "lock_held": ("in use by process {holder}", "进程 {holder} 正在使用"),
    "lock_stale": ("left over from an earlier run: {holder}", "上次运行的遗留：{holder}"),
    "lock_stale.remedy": (
        "start again, which stops it in order; or end the process",
        "重新启动即可将其有序停止；也可直接结束该进程",
    ),
    "shared_memory": ("{free} MiB free", "剩余 {free} MiB"),
    "shared_memory_unlimited": ("limited by memory alone", "仅受内存限制"),
    "shared_memory.remedy": (
        "enlarge /dev/shm to {minimum} MiB or more; for a container --shm-size=256m",
        "请将 /dev/shm 扩大到 {minimum} MiB 以上；容器可用 --shm-size=256m",
    ),
    "unseen": ("a process that this user cannot see", "当前用户不可见的进程"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    ok: bool
    detail: str
    remedy: str = ""  # empty when ok


def diagnose(
    data_dir: Path,
    ports: Mapping[str, int],
    *,
    language: Language = "en",
    disk_bytes_min: int = DISK_BYTES_MIN,
) -> list[Finding]:
    """Everything that has to be right before the local servers start, good findings included.

    `data_dir` holds a folder for each server and need not exist; `ports` are the wanted ones by the name of
    their listener. A taken port is a finding though the start would choose another one.
    """
    folder = data_dir.resolve()
    say = _Speaker(language)
    findings = [
        say("python", sys.version_info >= PYTHON_MIN, "python", version=sys.version.split()[0], minimum=".".join(map(str, PYTHON_MIN))),
        _runs(say, "PostgreSQL", lambda: postgres.executable("postgres")),
        _runs(say, "NATS", nats.executable),
    ]
    if os.geteuid() == 0:
        findings.append(_account(say, folder))
    findings += [_folder(say, folder), _disk(say, folder, disk_bytes_min), _shared_memory(say)]
    findings += _locks(say, folder)
    findings += [_port(say, name, port, folder) for name, port in ports.items()]
    return findings


@dataclass(frozen=True, slots=True)
class _Speaker:
    language: Language

    def __call__(self, name: str, ok: bool, text: str, **values: object) -> Finding:
        remedy = "" if ok else self.text(f"{text}.remedy", **values)
        return Finding(name, ok, self.text(text, **values), remedy)

    def text(self, key: str, **values: object) -> str:
        return TEXTS[key][self.language == "zh"].format(**values)


def _runs(say: _Speaker, name: str, executable: Callable[[], Path]) -> Finding:
    try:
        command = [str(executable()), "--version"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired, LocalServerError) as error:
        return say(name, False, "runs_not", reason=error)
    if answer.returncode != 0:
        return say(name, False, "runs_not", reason=answer.stderr.strip())
    return say(name, True, "runs", version=answer.stdout.strip())


def _account(say: _Speaker, folder: Path) -> Finding:
    """Root's own check: whether PostgreSQL can be run by the account it would be given."""
    try:
        account = account_for(folder / "postgres" / "data")
        command = [str(postgres.executable("postgres")), "--version"]
        process = spawn(command, _existing(folder), account, subprocess.PIPE, signal.SIGKILL)
        output, _ = process.communicate(timeout=10)
    except (OSError, subprocess.TimeoutExpired, LocalServerError) as error:
        return say("account", False, "account_not", reason=error)
    if process.returncode != 0:
        return say("account", False, "account_not", reason=output.decode(errors="replace").strip())
    return say("account", True, "account", account=account.name)


def _folder(say: _Speaker, folder: Path) -> Finding:
    path_bytes = len(bytes(folder / "postgres" / "data"))
    if path_bytes > postgres.PATH_BYTES_MAX:
        return say("folder", False, "path_not", count=path_bytes, limit=postgres.PATH_BYTES_MAX)
    try:
        existing = _existing(folder)
        owner = existing.stat().st_uid
        if existing == folder and os.geteuid() not in (0, owner):
            return say("folder", False, "owner_not", folder=folder, owner=user_name(owner))
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return say("folder", False, "folder_not", folder=folder, reason=error.strerror)
    return say("folder", True, "folder", folder=folder)


def _disk(say: _Speaker, folder: Path, bytes_min: int) -> Finding:
    free = shutil.disk_usage(_existing(folder)).free
    return say("disk", free >= bytes_min, "disk", free=free >> 20, minimum=bytes_min >> 20)


def _shared_memory(say: _Speaker) -> Finding:
    """PostgreSQL's parallel queries share memory through files here; containers give 64 MiB, some nothing."""
    if sys.platform != "linux":
        return say("shared memory", True, "shared_memory_unlimited")
    mounted = Path("/dev/shm")  # noqa: S108  # measured, not written to
    free = shutil.disk_usage(mounted).free if mounted.is_dir() else 0
    minimum = SHARED_MEMORY_BYTES_MIN
    return say("shared memory", free >= minimum, "shared_memory", free=free >> 20, minimum=minimum >> 20)


def _locks(say: _Speaker, folder: Path) -> Iterator[Finding]:
    for server in _server_folders(folder):
        name = f"lock of {server.name}"
        holder = lock_holder(server)
        left = [*servers_in(server / "data", "nats-server"), *servers_in(server / "data", "postgres")]
        if holder is not None:
            yield say(name, True, "lock_held", holder=holder)
        elif left:
            yield say(name, False, "lock_stale", holder=", ".join(map(_describe, left)))
        else:
            yield say(name, True, "lock")


def _port(say: _Speaker, name: str, port: int, folder: Path) -> Finding:
    name = f"port of {name}"
    if is_free(port):
        return say(name, True, "port", port=port)
    listener = _listener(port)
    if listener is None:
        return say(name, False, "port_taken", port=port, holder=say.text("unseen"))
    holders = {lock_holder(server) for server in _server_folders(folder)}
    if holders & {process.pid for process in (listener, *listener.parents())}:
        return say(name, True, "port_ours", port=port, holder=listener.pid)
    return say(name, False, "port_taken", port=port, holder=_describe(listener))


def _listener(port: int) -> psutil.Process | None:
    for _attempt in range(3):  # a child that is just ending may be listed in place of the server it had the socket from
        try:
            connections = psutil.net_connections("tcp")
        except psutil.AccessDenied:  # macOS tells only root
            return None
        pids = [each.pid for each in connections if each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,)]
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pids[0]) if pids and pids[0] else None
    return None


def _server_folders(folder: Path) -> list[Path]:
    try:
        return sorted(path.parent for path in folder.glob("*/lock"))
    except OSError:
        return []


def _existing(folder: Path) -> Path:
    # os.path's own: Path.exists raises where a folder above may not be entered.
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))


def _describe(process: psutil.Process) -> str:
    return f"{process.name()} ({process.pid})"
