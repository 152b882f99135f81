"""Figure: how late timers fire while a million are pending and 200 become due each second, and what an hour costs in which none does.

Against a bare loop of the same statements on the same PostgreSQL: as many connections of asyncpg, without a pool, retries, metrics or a
handler's transaction object. The handler writes one row. Lateness ends where the commit begins; it is half of the time between two looks
more than anything else, so the bare loop looks as often.
"""

import asyncio
import gc
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import asyncpg
import psutil
import uvloop

from bench.measure import report
from console.load.schedule import Run
from infra.local.postgres import start_postgres
from servicekit import schema
from servicekit.clock import system_clock
from servicekit.database import Transaction, open_database
from servicekit.identifiers import new_id
from servicekit.timers import EARLIEST, TAKE, Due, Timers, timer
from tests.support import eventually

PENDING = 1_000_000
COMMUNITIES = 100
PER_SECOND = 200
ROUND_S = 15
ROUNDS = 3
IDLE_S = 60.0
AT_ONCE = 4
LOOK_S = 0.5
KIND = "response"

# Between an hour and a month from now, in no order.
FILL = """
INSERT INTO timers (community_id, subject_id, kind, name, due_at, try_at)
SELECT community_id, uuidv7(), $3, 'at 15 minutes', due_at, due_at FROM (
    SELECT ($1::uuid[])[1 + number % cardinality($1::uuid[])] AS community_id,
        now() + interval '1 hour' + random() * interval '30 days' AS due_at
    FROM generate_series(1, $2) AS number
) AS pending
"""
BECOME_DUE = """
INSERT INTO timers (community_id, subject_id, kind, name, due_at, try_at)
SELECT ($1::uuid[])[1 + number % cardinality($1::uuid[])], uuidv7(), $5, 'at 15 minutes', due_at, due_at
FROM generate_series(1, $2::int) AS number CROSS JOIN LATERAL (SELECT $3::timestamptz + number * $4::interval AS due_at) AS due
"""
WRITE = "INSERT INTO inbox (consumer, event_id, community_id) VALUES ('bench', $1, $2)"
Firing = Callable[[list[float]], AbstractAsyncContextManager[None]]


def _firing(url: str) -> Firing:
    """Servicekit's timers, which note how late each was."""

    @asynccontextmanager
    async def fire(late: list[float]) -> AsyncIterator[None]:
        async def judge(tx: Transaction, due: Due) -> None:
            await tx.execute(WRITE, str(due.subject_id), tx.community_id)
            late.append(time.time() - due.due_at.timestamp())

        database = await open_database("bench", url, pool_size=AT_ONCE, clock=system_clock)
        timers = Timers(database, [timer(KIND, judge)])
        timers.start()
        yield
        await timers.stop()
        await database.close()

    return fire


def _bare_loop(url: str) -> Firing:
    """The same statements, and nothing else."""

    @asynccontextmanager
    async def fire(late: list[float]) -> AsyncIterator[None]:
        turn = asyncio.Lock()
        floor: datetime | None = None

        async def work(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
            nonlocal floor
            while True:
                async with turn:
                    await connection.execute("BEGIN; SELECT set_config('linli.community', '*', true)")
                    now, row = datetime.now(UTC), None
                    floor = floor or await connection.fetchval(EARLIEST)
                    if floor is not None and floor <= now:
                        row = await connection.fetchrow(TAKE, floor, now, [KIND], [])
                    floor = None if row is None else row["try_at"]
                    if row is None:
                        await connection.execute("COMMIT")
                        await asyncio.sleep(LOOK_S)
                        continue
                await connection.execute("SELECT set_config('linli.community', $1, true)", str(row["community_id"]))
                await connection.execute(WRITE, str(row["subject_id"]), row["community_id"])
                late.append(time.time() - row["due_at"].timestamp())
                await connection.execute("COMMIT")

        connections = [await asyncpg.connect(url) for _ in range(AT_ONCE)]
        tasks = [asyncio.create_task(work(connection)) for connection in connections]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections:
            connection.terminate()

    return fire


def _postgres_seconds(pid: int) -> float:
    """The CPU that the server has taken until now, with sessions that have ended."""
    server = psutil.Process(pid)
    times = server.cpu_times()
    seconds = times.user + times.system + times.children_user + times.children_system
    for backend in server.children():
        with suppress(psutil.NoSuchProcess):
            times = backend.cpu_times()
            seconds += times.user + times.system
    return float(seconds)


async def _load(
    superuser: "asyncpg.Connection[asyncpg.Record]", communities: list[uuid.UUID], firing: Firing, pid: int
) -> tuple[Run, float]:
    """A round: how late each timer was, and the CPU seconds that one took in this process and in PostgreSQL."""
    late: list[float] = []
    count = PER_SECOND * ROUND_S
    first, apart = datetime.now(UTC) + timedelta(seconds=2), timedelta(seconds=1 / PER_SECOND)
    await superuser.execute(BECOME_DUE, communities, count, first, apart, KIND)

    async def all_have_fired() -> bool:
        return len(late) == count

    async with firing(late):
        await asyncio.sleep(1)
        gc.collect()
        gc.freeze()
        begun, cpu = time.perf_counter(), time.process_time() + _postgres_seconds(pid)
        await eventually(all_have_fired, deadline_s=3 * ROUND_S, every_s=0.1)
        spent = time.process_time() + _postgres_seconds(pid) - cpu
        run = Run(late, time.perf_counter() - begun, failures=0)
    return run, spent / count


async def _idle(firing: Firing, pid: int) -> tuple[float, float]:
    """The CPU seconds of an hour in this process and in PostgreSQL, from a minute in which nothing is due."""
    async with firing([]):
        await asyncio.sleep(2)
        process, postgres = time.process_time(), _postgres_seconds(pid)
        await asyncio.sleep(IDLE_S)
        hours = IDLE_S / 3600
        return (time.process_time() - process) / hours, (_postgres_seconds(pid) - postgres) / hours


@asynccontextmanager
async def _nobody(_late: list[float]) -> AsyncIterator[None]:
    yield


async def main() -> None:
    """Prints the figure."""
    with tempfile.TemporaryDirectory(prefix="linli-bench-") as folder:
        server = start_postgres(Path(folder) / "postgres")
        assert server.pid is not None
        try:
            credentials = await schema.provision(server.url(), "bench", "bench", "bench")
            await schema.migrate(credentials.owner_url, [])
            superuser = await asyncpg.connect(server.url("linli_bench"))
            communities = [new_id() for _ in range(COMMUNITIES)]
            await superuser.execute(FILL, communities, PENDING, KIND)
            await superuser.execute("VACUUM ANALYZE")
            await superuser.execute("CHECKPOINT")
            ours, bare = _firing(credentials.service_url), _bare_loop(credentials.service_url)
            await _measure_load(superuser, communities, ours, bare, server.pid)
            await superuser.execute("VACUUM ANALYZE")
            await superuser.execute("CHECKPOINT")
            await superuser.close()
            await _measure_idle(ours, bare, server.pid)
        finally:
            server.stop()


async def _measure_load(
    superuser: "asyncpg.Connection[asyncpg.Record]", communities: list[uuid.UUID], ours: Firing, bare: Firing, pid: int
) -> None:
    rounds = [[await _load(superuser, communities, firing, pid) for firing in (ours, bare)] for _ in range(ROUNDS)]
    (runs, costs), (bare_runs, bare_costs) = (zip(*column, strict=True) for column in zip(*rounds, strict=True))
    p99_ms, bare_p99_ms = median(run.percentile_ms(99) for run in runs), median(run.percentile_ms(99) for run in bare_runs)
    report(
        "timers, late",
        load=f"{PENDING} pending, {PER_SECOND} due a second, {ROUNDS} x {ROUND_S} s, a look every {LOOK_S} s",
        p50_ms=median(run.percentile_ms(50) for run in runs),
        p99_ms=p99_ms,
        rounds_p99_ms=[run.percentile_ms(99) for run in runs],
        cpu_ms_each=median(costs) * 1000,
        bare_p50_ms=median(run.percentile_ms(50) for run in bare_runs),
        bare_p99_ms=bare_p99_ms,
        bare_cpu_ms_each=median(bare_costs) * 1000,
        ratio_p99=p99_ms / bare_p99_ms,
        ratio_cpu=median(costs) / median(bare_costs),
    )


async def _measure_idle(ours: Firing, bare: Firing, pid: int) -> None:
    process_s, postgres_s = await _idle(ours, pid)
    bare_process_s, bare_postgres_s = await _idle(bare, pid)
    report(
        "timers, an idle hour",
        load=f"{PENDING} pending, none due, from {IDLE_S} s",
        process_cpu_s=process_s,
        postgres_cpu_s=postgres_s,
        bare_process_cpu_s=bare_process_s,
        bare_postgres_cpu_s=bare_postgres_s,
        without_timers_postgres_cpu_s=(await _idle(_nobody, pid))[1],
        ratio_cpu=(process_s + postgres_s) / (bare_process_s + bare_postgres_s),
    )


if __name__ == "__main__":
    uvloop.run(main())
