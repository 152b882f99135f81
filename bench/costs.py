"""Where the time goes: the CPU that each process of the platform takes, and which part of the code takes it inside of one.

`python -m bench.costs FILE MODULE ARGUMENT...` runs a module as a program and, each time it gets SIGUSR1, writes what its code has spent.
The kernel interrupts it after every two milliseconds of CPU (SIGPROF), and what its main thread has spent since then is counted to what it
is doing. No call is slowed down, as by a tracing profiler; what is done in C is counted to the Python that asked for it, or that it wakes.
"""

import asyncio
import gc
import os
import runpy
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec
import psutil

from console.processes import Child
from console.up import READY_S, Local
from tests.support import eventually

METHOD: Final = (
    "CPU by process as the kernel counts it; inside of a process by samples of its stack every 2 ms of CPU, in a round of its own"
)
_EVERY_S: Final = 0.002
_WRITE_S: Final = 10.0
# No Python of any of them: the event loop's own work, such as reading sockets, and what gRPC has compiled.
_NOWHERE: Final = "event loop and gRPC's compiled part"
# What the innermost frame that is known says of a stack.
_PARTS: Final = (
    ("asyncpg/", "SQL"),
    ("store.py", "SQL"),
    ("servicekit/outbox.py", "events"),
    ("servicekit/messaging.py", "events"),
    ("servicekit/events.py", "events"),
    ("points/notices.py", "events"),
    ("nats/", "events"),
    ("protovalidate/", "validation"),
    ("celpy/", "validation"),
    ("servicekit/auth.py", "authentication"),
    ("servicekit/rpc.py", "gRPC"),
    ("_rpc.py", "gRPC"),
    ("grpc/", "gRPC"),
    ("ledger/", "ledger"),
    ("services/", "rules"),
)
_FUNCTIONS: Final = {"validate": "validation", "publish": "events", "write_events": "events", "transaction": "SQL"}


class Spent(msgspec.Struct):
    """CPU seconds: of the whole process, of its main thread by part of the code, and by function."""

    process_s: float
    parts_s: dict[str, float]
    functions_s: dict[str, float]


def _part(frame: FrameType | None) -> str:
    is_sql = False
    while frame is not None:
        part = _part_of(frame)
        # SQL that writes or reads the outbox is what events cost.
        if part == "events" or (part and part != "SQL" and not is_sql):
            return part
        if part and part != "SQL":
            return "SQL"
        is_sql = is_sql or part == "SQL"
        frame = frame.f_back
    return "SQL" if is_sql else _NOWHERE


def _part_of(frame: FrameType) -> str:
    path, name = frame.f_code.co_filename, frame.f_code.co_name
    if "/servicekit/" in path and name in _FUNCTIONS:
        return _FUNCTIONS[name]
    return next((part for known, part in _PARTS if known in path), "")


def _function(frame: FrameType | None) -> str:
    """The innermost function that is ours."""
    while frame is not None:
        path = frame.f_code.co_filename
        if "/services/" in path or "/libs/" in path:
            return f"{'/'.join(path.split('/')[-2:])}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "none of ours"


def main() -> None:
    """Runs a program under the sampler."""
    file, sys.argv = Path(sys.argv[1]), sys.argv[2:]
    parts, functions = defaultdict[str, float](float), defaultdict[str, float](float)
    last, held = time.thread_time(), [0.0]

    def sample(_number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.thread_time()
        parts[_part(frame)] += now - last
        functions[_function(frame)] += now - last
        last = now

    def collect(phase: str, _information: object) -> None:
        # What collecting garbage takes would otherwise be counted to whatever had just asked for memory.
        nonlocal last
        if threading.current_thread() is not threading.main_thread():
            return
        now = time.thread_time()
        if phase == "start":
            last, held[0] = now, now - last
        else:
            parts["collecting garbage"] += now - last
            last = now - held[0]

    def write(_number: int, _frame: FrameType | None) -> None:
        new = file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(Spent(time.process_time(), dict(parts), dict(functions))))
        new.rename(file)

    gc.callbacks.append(collect)
    signal.signal(signal.SIGPROF, sample)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.signal(signal.SIGUSR1, write)
    signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


@asynccontextmanager
async def sampled(local: Local, names: Sequence[str]) -> AsyncIterator[dict[str, Path]]:
    """Runs services under the sampler for as long as the block. Yields the file of each, see `spent`."""
    plain = {name: local.children[name].command for name in names}
    files = {name: local.folder / f"{name}.spent" for name in names}
    await asyncio.gather(*(_run(local.children[name], ["bench.costs", str(files[name]), *plain[name]]) for name in names))
    try:
        yield files
    finally:
        await asyncio.gather(*(_run(local.children[name], plain[name]) for name in names))


async def _run(child: Child, command: list[str]) -> None:
    """Ends a service, which is started again, as something else."""
    child.command, child.restarts, before = command, 0, child.pid
    assert before is not None
    os.kill(before, signal.SIGTERM)

    async def is_another() -> bool:
        return child.pid != before

    await eventually(is_another, deadline_s=READY_S)
    await child.ready(READY_S)


def spent(local: Local, name: str, file: Path) -> Spent:
    """What a service under the sampler has spent until now. Raises TimeoutError when it does not say."""
    file.unlink(missing_ok=True)
    pid = local.children[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGUSR1)
    end = time.monotonic() + _WRITE_S
    while not file.exists():
        if time.monotonic() > end:
            raise TimeoutError(name)
        time.sleep(0.01)
    return msgspec.json.decode(file.read_bytes(), type=Spent)


def by_cost(costs: Mapping[str, float]) -> dict[str, float]:
    """Microseconds, the most first, without what is next to nothing."""
    return {name: round(cost, 1) for name, cost in sorted(costs.items(), key=lambda item: -item[1]) if cost >= 1}


def since(start: Mapping[str, float], end: Mapping[str, float], count: int) -> dict[str, float]:
    """What one of `count` has cost between two accounts of seconds, in microseconds."""
    return {name: (seconds - start.get(name, 0.0)) / count * 1e6 for name, seconds in end.items()}


def cpu_seconds(local: Local) -> dict[str, float]:
    """The CPU that each process has taken until now: services by name, the servers, and this one, which makes the load."""
    pids = {name: child.pid for name, child in local.children.items()}
    pids |= {"nats": local.nats.pid, "load": os.getpid()}
    seconds = {name: _seconds(pid) for name, pid in pids.items() if pid is not None}
    assert local.postgres.pid is not None
    backends = psutil.Process(local.postgres.pid).children()
    seconds["postgres"] = _seconds(local.postgres.pid, with_ended=True) + sum(_seconds(backend.pid) for backend in backends)
    return seconds


def _seconds(pid: int, *, with_ended: bool = False) -> float:
    with suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        ended = times.children_user + times.children_system if with_ended else 0.0
        return float(times.user + times.system + ended)
    return 0.0


if __name__ == "__main__":
    main()
