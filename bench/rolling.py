"""Figure: how long phones and cameras wait while every process of the platform is exchanged, against the same load when nothing happens.

Every service has two processes. A new one starts at a lower priority until it is ready, for in a cluster it would have a share of the CPU
of its own and not take it from those that serve. The generator and the balancer share the machine with all of it, and so does whatever else
runs: what they took of the CPU, and how late the generator itself was, is said beside the figure.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import psutil

from bench.measure import report
from console.load.http import Pool
from console.load.schedule import Run, percentile_ms
from tests.drills.replicas import STARTING_NICE, Cluster, replicated
from tests.drills.traffic import Traffic, begin

# A machine that such a load fills when nothing happens says nothing of what happens: there, less is asked for.
REQUESTS_PER_S = float(os.environ.get("LINLI_BENCH_ROLLING_REQUESTS", "200"))
PUSHES_PER_S = float(os.environ.get("LINLI_BENCH_ROLLING_PUSHES", "100"))
SEPARATE = os.environ.get("LINLI_BENCH_ROLLING_SEPARATE", "1") == "1"
WARM_UP_S, CALM_S = 10.0, 30.0


async def main() -> None:
    """Prints the figure."""
    with tempfile.TemporaryDirectory(prefix="linli-bench-") as folder:
        async with (
            replicated(Path(folder), separate=SEPARATE) as cluster,
            Pool(cluster.http["gateway"]) as phones,
            Pool(cluster.http["ingest"]) as cameras,
        ):
            traffic = await begin(cluster, phones, cameras)
            await traffic.flow_for(REQUESTS_PER_S, PUSHES_PER_S, WARM_UP_S)
            before = await _measured("calm, before", cluster, traffic, asyncio.sleep(CALM_S))
            rolling = await _measured("while every process is exchanged", cluster, traffic, _roll(cluster))
            after = await _measured("calm, after", cluster, traffic, asyncio.sleep(CALM_S))
    for nth, what in enumerate(("requests", "pushes")):
        calm_ms = percentile_ms([*before[nth].latencies, *after[nth].latencies], 99)
        report(
            f"rolling, {what}",
            calm_p50_ms=percentile_ms([*before[nth].latencies, *after[nth].latencies], 50),
            calm_p99_ms=calm_ms,
            rolling_p50_ms=rolling[nth].percentile_ms(50),
            rolling_p99_ms=rolling[nth].percentile_ms(99),
            ratio_p99=rolling[nth].percentile_ms(99) / calm_ms,
            failures=sum(run[nth].failures for run in (before, rolling, after)),
            aim="ratio_p99 <= 2, no failure",
        )


async def _roll(cluster: Cluster) -> None:
    for name in cluster.groups:
        await cluster.roll(name, nice=STARTING_NICE)


async def _measured(phase: str, cluster: Cluster, traffic: Traffic, work: Awaitable[None]) -> Sequence[Run]:
    """The load for as long as `work` takes. Prints what it was like, and who took how many of the machine's cores."""
    until = asyncio.Event()
    traffic.failures.clear()
    traffic.late = 0
    spent, began = _Spent(cluster), perf_counter()
    flowing = asyncio.create_task(traffic.flow(REQUESTS_PER_S, PUSHES_PER_S, until))
    try:
        await work
    finally:
        until.set()
        runs = await flowing
    seconds = perf_counter() - began
    for what, run in zip(("requests", "pushes"), runs, strict=True):
        report(
            f"rolling, {what}, {phase}",
            load=f"{REQUESTS_PER_S:.0f} requests/s and {PUSHES_PER_S:.0f} pushes/s open loop, {len(cluster.groups)} processes twice",
            seconds=seconds,
            answers=len(run.latencies),
            **{f"p{percent:g}_ms".replace(".", "_"): run.percentile_ms(percent) for percent in (50, 90, 99, 99.9, 100)},
            generator_late_p99_ms=percentile_ms(run.lateness, 99),
            failures=run.failures,
        )
    report(f"rolling, cores, {phase}", **spent.cores(seconds), late=traffic.late, failures=dict(traffic.failures.most_common(5)))
    return runs


class _Spent:
    """Who takes the CPU of this machine, from now on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before = self._now()

    def cores(self, seconds: float) -> dict[str, float]:
        """Cores taken by the platform and us, by us (generator and balancer) alone, and in all, strangers among them."""
        now = self._now()
        return {name: (now[name] - self._before[name]) / seconds for name in now}

    def _now(self) -> dict[str, float]:
        machine = psutil.cpu_times()
        return {
            "platform_and_generator": _taken(psutil.Process()),
            "generator": sum(psutil.Process().cpu_times()[:2]),
            "machine": sum(machine) - machine.idle - getattr(machine, "iowait", 0.0),
        }


def _taken(process: psutil.Process) -> float:
    """CPU seconds of a process with all that it has started, those that have ended among them."""
    own = process.cpu_times()
    seconds = own.user + own.system + own.children_user + own.children_system
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            seconds += _taken(child)
    return float(seconds)
