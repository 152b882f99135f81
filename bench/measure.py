"""Load without a pause, and the JSON lines that benchmarks print. Load on a schedule is `console.load.schedule`'s."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from console.load.schedule import Run


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
