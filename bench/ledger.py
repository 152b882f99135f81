"""Figure: transfers per second through the ledger's writer, against pgbench's own TPC-B-like script on the same PostgreSQL in the same run.

A pgbench transaction changes three balances and writes a line of history; a transfer changes two balances, and writes itself and two
entries. Both wait for the disk. Beside it: latency at half of that load, two shards in two processes, and the ledger as it grows.
"""

import asyncio
import gc
import itertools
import os
import random
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import asyncpg
import uvloop

import ledger
from bench.measure import closed_loop, report
from console.load.schedule import Run, open_loop
from infra.local.postgres import PostgresServer, executable, start_postgres
from ledger import Account, Posting, Receipt, Side, Transfer, Turn, Writer
from ledger.audit import audit
from servicekit import schema
from servicekit.clock import system_clock
from servicekit.database import PLATFORM, open_database
from servicekit.errors import ServiceError
from servicekit.identifiers import new_id

CALLERS = 512
RESIDENTS = 10_000
FUNDS = 1_000_000
ROUND_S = 5.0
ROUNDS = 3
SCALE = 10
CLIENTS = (8, 16, 32)
SIZES = (1_000, 1_000_000, 10_000_000)
ISSUERS = 100
GROWTH_ROUNDS = 5
GROWTH_ROUND_S = 2.0
Work = Callable[[int], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Town:
    """A community's accounts: residents whose points never go below zero, and the one that issues points."""

    community_id: uuid.UUID
    issuer: uuid.UUID
    residents: list[uuid.UUID]

    def transfer(self, giver: uuid.UUID, taker: uuid.UUID) -> Transfer:
        """One point."""
        postings = (Posting(giver, 1), Posting(taker, -1))
        return Transfer(new_id(), self.community_id, "gift", postings, {"rule": "neighbours", "version": 3})


async def decide(turn: Turn, requests: Sequence[Transfer]) -> list[Receipt | ServiceError]:
    """What a writer of plain transfers decides."""
    return await turn.apply(requests)


async def found_town(url: str, community_id: uuid.UUID) -> Town:
    """Opens the accounts and gives every resident the same funds."""
    town = Town(community_id, new_id(), [new_id() for _ in range(RESIDENTS)])
    database = await open_database("ledger", url, pool_size=1, clock=system_clock)
    async with database.transaction(PLATFORM) as tx:
        turn = await ledger.take_turn(tx, [community_id], shards=2)
        residents = [Account(resident, community_id, "points", Side.CREDIT, 0) for resident in town.residents]
        await turn.open_accounts([Account(town.issuer, community_id, "points", Side.DEBIT), *residents])
        for first in range(0, RESIDENTS, 99):
            takers = [Posting(resident, -FUNDS) for resident in town.residents[first : first + 99]]
            await turn.apply([Transfer(new_id(), community_id, "grant", (Posting(town.issuer, FUNDS * len(takers)), *takers))])
    await database.close()
    return town


@asynccontextmanager
async def writing(url: str, town: Town, *, is_hot: bool, shards: int = 1) -> AsyncIterator[Work]:
    """Yields what one caller does: a transfer between two residents, or from the issuer to one."""
    database = await open_database("ledger", url, pool_size=4, clock=system_clock)
    writer: Writer[Transfer, Receipt] = Writer(database, decide, shards=shards)
    residents, issuer, community_id = town.residents, town.issuer, town.community_id
    pairs = itertools.cycle([random.sample(residents, 2) for _ in range(50_000)])

    async def work(_number: int) -> bool:
        giver, taker = next(pairs)
        receipt = await writer.submit(community_id, town.transfer(issuer if is_hot else giver, taker))
        return receipt.is_new

    # As a service's process does when it has started.
    gc.collect()
    gc.freeze()
    try:
        yield work
    finally:
        await writer.close()
        await database.close()


async def transfers_per_second(url: str, town: Town, *, is_hot: bool, seconds: float = ROUND_S) -> float:
    """A round of CALLERS callers in this process."""
    async with writing(url, town, is_hot=is_hot) as work:
        await closed_loop(work, workers=CALLERS, seconds=1)
        run = await closed_loop(work, workers=CALLERS, seconds=seconds)
    assert not run.failures
    return run.per_second


@dataclass(frozen=True, slots=True)
class Pgbench:
    """pgbench on a database of its own."""

    server: PostgresServer

    def _run(self, *arguments: str) -> str:
        command = [str(executable("pgbench")), "-h", self.server.host, "-p", str(self.server.port), "-U", "postgres", *arguments, "bench"]
        environment = {**os.environ, "PGPASSWORD": self.server.password}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    async def prepare(self) -> None:
        """Fills its tables."""
        connection = await asyncpg.connect(self.server.url())
        await connection.execute("CREATE DATABASE bench")
        await connection.close()
        self._run("--initialize", "--quiet", f"--scale={SCALE}")

    def per_second(self, clients: int) -> float:
        """Transactions per second of a round."""
        output = self._run("--protocol=prepared", "--jobs=2", f"--client={clients}", f"--time={ROUND_S:.0f}", "--no-vacuum")
        found = re.search(r"tps = ([\d.]+)", output)
        assert found is not None
        return float(found[1])


async def measure_throughput(server: PostgresServer, url: str, town: Town) -> None:
    """Alternates pgbench, uniform and hot; then each at half of its load."""
    peer = Pgbench(server)
    await peer.prepare()
    clients = max(CLIENTS, key=peer.per_second)
    rates: dict[str, list[float]] = {"pgbench": [], "uniform": [], "hot": []}
    for _ in range(ROUNDS):
        rates["pgbench"].append(peer.per_second(clients))
        rates["uniform"].append(await transfers_per_second(url, town, is_hot=False))
        rates["hot"].append(await transfers_per_second(url, town, is_hot=True))
    ceiling = median(rates["pgbench"])
    for name in ("uniform", "hot"):
        rate = median(rates[name])
        async with writing(url, town, is_hot=name == "hot") as work:
            await open_loop(work, per_second=rate / 2, seconds=1)
            half = await open_loop(work, per_second=rate / 2, seconds=ROUND_S)
        report(
            f"1 ledger, {name}",
            load=f"{CALLERS} callers in one process, {RESIDENTS} accounts, median of {ROUNDS} rounds of {ROUND_S} s",
            value=rate,
            unit="transfers/s",
            rounds=[round(value) for value in rates[name]],
            peer=ceiling,
            peer_is=f"pgbench TPC-B-like, prepared, scale {SCALE}, {clients} clients",
            peer_rounds=[round(value) for value in rates["pgbench"]],
            ratio=rate / ceiling,
            half_load_p50_ms=half.percentile_ms(50),
            half_load_p99_ms=half.percentile_ms(99),
            aim="ratio >= 5, p99 at half load <= 50 ms",
        )


async def measure_shards(url: str, towns: list[Town]) -> None:
    """One process with all callers on one shard, then two with half of the callers and a shard each."""
    alone, together = [], []
    for _ in range(ROUNDS):
        alone.append(sum(await asyncio.gather(_shard(url, towns[0], CALLERS))))
        together.append(sum(await asyncio.gather(*(_shard(url, town, CALLERS // 2) for town in towns))))
    one, two = median(alone), median(together)
    load = f"{CALLERS} callers, uniform, median of {ROUNDS} rounds"
    report("1 ledger, two shards in two processes", load=load, value=two, unit="transfers/s", one=one, ratio=two / one, aim="ratio >= 1.4")


async def _shard(url: str, town: Town, callers: int) -> float:
    names = "\n".join(str(name) for name in (url, callers, town.community_id, town.issuer, *town.residents))
    command = (sys.executable, "-m", "console.child", "bench.ledger")
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    output, _ = await process.communicate(names.encode())
    return float(output)


async def run_shard() -> None:
    """What a process of `measure_shards` does: reads its part, prints its transfers per second."""
    url, callers, *names = sys.stdin.read().split()
    community_id, issuer, *residents = map(uuid.UUID, names)
    async with writing(url, Town(community_id, issuer, residents), is_hot=False, shards=2) as work:
        await closed_loop(work, workers=int(callers), seconds=1.5)
        run: Run = await closed_loop(work, workers=int(callers), seconds=ROUND_S)
    print(run.per_second)


# Awards of one point each, the k-th to resident k modulo their number from issuer k modulo theirs, so that versions and balances are known
# without counting. A million awards in a statement; the keys are made when the rows are there.
FILL = """
WITH award AS (
    SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(k), 12, '0'))::uuid AS transfer_id,
        residents[k % cardinality(residents) + 1] AS taker, k / cardinality(residents) AS taken,
        issuers[k % cardinality(issuers) + 1] AS giver, k / cardinality(issuers) AS given,
        timestamptz '2026-01-01T00:00:00Z' + k * interval '1 millisecond' AS recorded_at
    FROM generate_series($1::bigint, $2::bigint - 1) AS k, (SELECT $3::uuid[] AS residents, $4::uuid[] AS issuers) AS names
), written AS (
    INSERT INTO ledger_transfers (transfer_id, community_id, kind, account_ids, amounts, details, recorded_at)
    SELECT transfer_id, $5::uuid, 'award', ARRAY[giver, taker], ARRAY[1, -1], '{"rule": "bench"}', recorded_at FROM award
)
INSERT INTO ledger_entries (account_id, version, community_id, transfer_id, previous_balance, balance, recorded_at)
SELECT account_id, before + 1, $5, transfer_id, before, before + 1, recorded_at
FROM award, LATERAL (VALUES (giver, given), (taker, taken)) AS side (account_id, before)
"""
OPEN = """
INSERT INTO ledger_accounts (account_id, community_id, unit, is_credit, floor, balance, version, recorded_at)
SELECT account_id, $2, 'points', $3, CASE WHEN $3 THEN 0 END, count, count, timestamptz '2026-01-02T00:00:00Z'
FROM (
    SELECT account_id, ($4::bigint + cardinality($1::uuid[]) - nth) / cardinality($1::uuid[]) AS count
    FROM unnest($1::uuid[]) WITH ORDINALITY AS name (account_id, nth)
) AS counted
"""


async def fill(owner_url: str, entries: int) -> Town:
    """Fills a ledger with so many entries and no others."""
    community_id, awards = uuid.UUID(int=2), entries // 2
    issuers = [new_id() for _ in range(ISSUERS)]
    residents = [new_id() for _ in range(RESIDENTS)]
    connection = await asyncpg.connect(owner_url)
    keys = {"ledger_transfers": "transfer_id", "ledger_entries": "account_id, version"}
    await connection.execute("TRUNCATE ledger_accounts, ledger_transfers, ledger_entries, ledger_holds")
    for table in keys:
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
    for first in range(0, awards, 1_000_000):
        await connection.execute(FILL, first, min(first + 1_000_000, awards), residents, issuers, community_id)
    for names, is_credit in ((issuers, False), (residents, True)):
        await connection.execute(OPEN, names, community_id, is_credit, awards)
    for table, key in keys.items():
        await connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY ({key})")
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    return Town(community_id, issuers[0], residents)


async def measure_growth(server: PostgresServer) -> None:
    """Alternates ledgers of different sizes, in which residents are awarded points; each is audited at the end."""
    places: dict[int, tuple[str, str, Town]] = {}
    for size in SIZES:
        credentials = await schema.provision(server.url(), f"ledger_{size}", "bench", "bench")
        await schema.migrate(credentials.owner_url, [ledger.MIGRATIONS])
        owner_url = server.url(f"linli_ledger_{size}")
        places[size] = (credentials.service_url, owner_url, await fill(owner_url, size))
    rates: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(GROWTH_ROUNDS):
        for size, (url, owner_url, town) in places.items():
            # Rounds are short, and the smallest begins anew each time, so that sizes stay about what they are.
            now = await fill(owner_url, size) if size == SIZES[0] else town
            rates[size].append(await transfers_per_second(url, now, is_hot=True, seconds=GROWTH_ROUND_S))
    smallest = median(rates[SIZES[0]])
    for size, (url, _, _) in places.items():
        begun = perf_counter()
        connection = await asyncpg.connect(url)
        broken = [finding.invariant async for finding in audit(connection) if finding.broken]
        await connection.close()
        report(
            f"4 growth, {size} entries",
            load=f"{CALLERS} callers, one issuer to {RESIDENTS} residents, median of {GROWTH_ROUNDS} rounds of {GROWTH_ROUND_S} s",
            value=median(rates[size]),
            unit="transfers/s",
            rounds=[round(value) for value in rates[size]],
            ratio=median(rates[size]) / smallest,
            broken=broken,
            audit_s=perf_counter() - begun,
            aim="ratio >= 0.8, nothing broken",
        )


async def main() -> None:
    """Measures all of it on a durable server of its own."""
    with tempfile.TemporaryDirectory(prefix="linli-bench-") as folder:
        server = start_postgres(Path(folder) / "postgres", durable=True)
        try:
            credentials = await schema.provision(server.url(), "ledger", "bench", "bench")
            await schema.migrate(credentials.owner_url, [ledger.MIGRATIONS])
            towns = [await found_town(credentials.service_url, uuid.UUID(int=shard)) for shard in (0, 1)]
            connection = await asyncpg.connect(server.url("linli_ledger"))
            await connection.execute("VACUUM ANALYZE")
            await connection.close()
            await measure_throughput(server, credentials.service_url, towns[0])
            await measure_shards(credentials.service_url, towns)
            await measure_growth(server)
        finally:
            server.stop()


if __name__ == "__main__":
    uvloop.run(run_shard())
