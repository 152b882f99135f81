"""Load, percentiles and the JSON lines that benchmarks print."""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run: latencies in seconds, how long it took, and how many answers were wrong."""

    latencies: Sequence[float]
    seconds: float
    failures: int

    def percentile_ms(self, percent: float) -> float:
        """The latency that `percent` of the answers were not slower than, in milliseconds."""
        ordered = sorted(self.latencies)
        return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] * 1000, 3)

    @property
    def per_second(self) -> float:
        """Answers in each second."""
        return len(self.latencies) / self.seconds


async def open_loop(work: Callable[[int], Awaitable[bool]], *, per_second: float, seconds: float) -> Run:
    """Starts `work` on a fixed schedule, whether or not earlier work has ended.

    Latency counts from when the work was due, so that a stall is seen by all that it delays (no coordinated omission).
    """
    latencies: list[float] = []
    failures = 0

    async def one(number: int, due: float) -> None:
        nonlocal failures
        ok = await work(number)
        latencies.append(time.perf_counter() - due)
        failures += not ok

    start = time.perf_counter()
    # Those that have ended are let go: the collector would walk over them again and again, and its pauses count as ours.
    tasks: set[asyncio.Task[None]] = set()
    for number in range(int(per_second * seconds)):
        due = start + number / per_second
        delay = due - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.create_task(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return Run(latencies, time.perf_counter() - start, failures)


async def closed_loop(work: Callable[[int], Awaitable[bool]], *, workers: int, seconds: float) -> Run:
    """`workers` callers, each of which starts again as soon as it has its answer. `work` gets the caller's number."""
    latencies: list[float] = []
    failures = 0
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal failures
        while (begun := time.perf_counter()) < end:
            ok = await work(number)
            latencies.append(time.perf_counter() - begun)
            failures += not ok

    start = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(workers)))
    return Run(latencies, time.perf_counter() - start, failures)


def report(figure: str, **values: object) -> None:
    """Prints one JSON line."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in values.items()}
    print(json.dumps({"figure": figure, **rounded}, ensure_ascii=False), flush=True)
