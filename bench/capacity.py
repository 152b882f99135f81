"""What each kind of work costs: CPU by process, bytes in PostgreSQL, its log and JetStream; and what a thousand households need of them.

Each kind runs alone, open loop, on the platform with one process for each service. What the platform costs when nothing happens is taken
off. Processes that make the load are not counted. docs/capacity.md has the figures and what follows from them.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg
import psutil
from nats.aio.client import Client

from bench.costs import by_cost, cpu_seconds, since
from bench.measure import report
from console.environment import stored_environment
from console.load import run
from console.load.kinds import together_of
from console.load.site import find
from console.up import Local
from infra.local.accounts import OPERATOR
from servicekit import messaging
from servicekit.config import NatsSettings, ProcessSettings, load

_SECONDS: Final = float(os.environ.get("LINLI_BENCH_SECONDS", "30"))
_SETTLE_S: Final = 5.0
# A second; far enough below what the machine can do that nothing queues.
RATES: Final = {"reads": 100.0, "plates": 40.0, "doors": 20.0, "deposits": 40.0, "readings": 20_000.0, "orders": 20.0}
# What a thousand households (2,800 people) do in a day: our assumption, to be replaced by a community's own counts.
A_DAY: Final = {"reads": 28_000, "plates": 2_400, "doors": 11_200, "deposits": 2_000, "readings": 432_000, "orders": 30}
# Of a day's work, the share that comes in its busiest hour.
_PEAK_SHARE: Final = 0.12
_MIB: Final = 1024 * 1024
_DATABASE_BYTES = "SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE datname LIKE 'linli%'"
_LOG_BYTES = "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint"


@dataclass(frozen=True, slots=True)
class Account:
    """What the platform has taken until now: CPU seconds by process, and bytes."""

    cpu_s: dict[str, float]
    database_bytes: int
    log_bytes: int
    stream_bytes: int


@dataclass(frozen=True, slots=True)
class Books:
    """Where accounts are read."""

    local: Local
    postgres: "asyncpg.Connection[asyncpg.Record]"
    nats: Client

    async def read(self) -> Account:
        """The account as of now."""
        await self.postgres.execute("CHECKPOINT")
        streams = await self.nats.jetstream().streams_info()
        return Account(
            {name: seconds for name, seconds in cpu_seconds(self.local).items() if name not in ("load", "provider")},
            await self.postgres.fetchval(_DATABASE_BYTES),
            await self.postgres.fetchval(_LOG_BYTES),
            sum(stream.state.bytes for stream in streams),
        )


@asynccontextmanager
async def _books(local: Local) -> AsyncIterator[Books]:
    environment = stored_environment(local.folder)
    postgres = await asyncpg.connect(local.postgres.url())
    nats = await messaging.connect(load(ProcessSettings, "", environment), load(NatsSettings, OPERATOR, environment), OPERATOR)
    try:
        yield Books(local, postgres, nats)
    finally:
        await nats.close()
        await postgres.close()


async def measure(local: Local) -> None:
    """Prints what each kind of work costs, and what a thousand households need."""
    address = find(local.folder, {})
    async with _books(local) as books:
        await asyncio.sleep(_SETTLE_S)
        start = await books.read()
        await asyncio.sleep(_SECONDS)
        idle = await books.read()
        idle_s = {name: (seconds - start.cpu_s[name]) / _SECONDS for name, seconds in idle.cpu_s.items()}
        report(
            "capacity idle", cpu_ms_per_second=by_cost({name: value * 1000 for name, value in idle_s.items()}), memory_mib=_memory(local)
        )
        day_cpu_s: Counter[str] = Counter()
        day_bytes = dict.fromkeys(("database", "log", "streams"), 0.0)
        for kind, rate in RATES.items():
            accounts: list[Account] = []

            async def open_books(accounts: list[Account] = accounts) -> None:
                await asyncio.sleep(_SETTLE_S)
                accounts.append(await books.read())

            # Its devices are registered before, and everything has been touched once.
            (outcome,) = await run.measure(address, {kind: rate}, seconds=_SECONDS, warm_up_s=2, before=open_books)
            await asyncio.sleep(_SETTLE_S)
            before, after = accounts[0], await books.read()
            count = len(outcome.run.latencies) * (together_of(rate) if kind == "readings" else 1)
            took_s = outcome.run.seconds + _SETTLE_S
            at_rest = {name: seconds + idle_s[name] * took_s for name, seconds in before.cpu_s.items()}
            cost_us = since(at_rest, after.cpu_s, count)
            size = {
                "database": (after.database_bytes - before.database_bytes) / count,
                "log": (after.log_bytes - before.log_bytes) / count,
                "streams": (after.stream_bytes - before.stream_bytes) / count,
            }
            day_cpu_s.update({name: A_DAY[kind] * cost / 1e6 for name, cost in cost_us.items()})
            day_bytes = {name: day_bytes[name] + A_DAY[kind] * each for name, each in size.items()}
            report(
                f"capacity {kind}",
                per_second=rate,
                failed=outcome.run.failures,
                p50_ms=outcome.run.percentile_ms(50),
                p99_ms=outcome.run.percentile_ms(99),
                cpu_us=round(sum(cost_us.values()), 1),
                cpu_us_by_process=by_cost(cost_us),
                bytes_each={name: round(each) for name, each in size.items()},
            )
        report(
            "capacity 1,000 households",
            a_day=A_DAY,
            cpu_core_seconds_a_day=round(day_cpu_s.total(), 1),
            cpu_core_seconds_by_process={name: round(seconds, 1) for name, seconds in day_cpu_s.most_common()},
            cores_in_the_busiest_hour=round(day_cpu_s.total() * _PEAK_SHARE / 3600, 4),
            mib_a_day={name: round(total / _MIB, 2) for name, total in day_bytes.items()},
            memory_mib_after=_memory(local),
        )


def _memory(local: Local) -> dict[str, int]:
    """What each process keeps in memory, in MiB; PostgreSQL's as what its processes do not share, and what they do once."""
    found = {
        name: psutil.Process(child.pid).memory_info().rss // _MIB
        for name, child in local.children.items()
        if child.pid is not None and name != "provider"
    }
    assert local.nats.pid is not None
    assert local.postgres.pid is not None
    found["nats"] = psutil.Process(local.nats.pid).memory_info().rss // _MIB
    postmaster = psutil.Process(local.postgres.pid)
    found["postgres"] = sum(each.memory_full_info().pss for each in (postmaster, *postmaster.children())) // _MIB
    return found
