"""Load on a fixed schedule, and percentiles. What the load is, its caller says."""

import asyncio
import math
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run: latencies in seconds, how long it took, and how many answers were wrong."""

    latencies: Sequence[float]
    seconds: float
    failures: int
    # How much later than it was due each began, in seconds. It is part of the latency, and nobody's fault but the generator's.
    lateness: Sequence[float] = ()

    def percentile_ms(self, percent: float) -> float:
        """The latency that `percent` of the answers were not slower than, in milliseconds."""
        return percentile_ms(self.latencies, percent)

    @property
    def per_second(self) -> float:
        """Answers in each second."""
        return len(self.latencies) / self.seconds


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """What `percent` of some durations are not longer than, in milliseconds; not a number when there are none."""
    if not seconds:
        return math.nan
    ordered = sorted(seconds)
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] * 1000, 3)


async def open_loop(
    work: Callable[[int], Awaitable[bool]], *, per_second: float, seconds: float, until: asyncio.Event | None = None
) -> Run:
    """Starts `work` on a fixed schedule, whether or not earlier work has ended, until `until` is set at the latest.

    Latency counts from when the work was due, so that a stall is seen by all that it delays (no coordinated omission).
    """
    latencies, lateness = array("d"), array("d")
    failures = 0

    async def one(number: int, due: float) -> None:
        nonlocal failures
        lateness.append(time.perf_counter() - due)
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
        if until is not None and until.is_set():
            break
        task = asyncio.create_task(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return Run(latencies, time.perf_counter() - start, failures, lateness)
