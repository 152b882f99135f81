"""Figure 2, second half: how fast the telemetry writer drains a stream, against a bare binary copy of the same batches.

Run it as `python -m bench.telemetry`: it starts its own durable PostgreSQL and NATS, prints JSON lines and takes about 40 s. The writer is
the real service: stream, consumer, row-level security, idempotent chunks, a commit for each gathering. The ceiling decodes the same batches
from memory and copies a row for each reading into a partitioned table without walls, keys or indexes. Beside it, how long it takes to read
a day.
"""

import asyncio
import os
import random
import statistics
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter

import asyncpg
import nats
import uvloop
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from bench.measure import report
from console.load.schedule import Run
from infra.local.nats import start_nats
from infra.local.ports import choose_port
from infra.local.postgres import start_postgres
from linli.device.v1.events_pb2 import Reading, ReadingBatch
from servicekit import messaging, schema
from servicekit.clock import system_clock
from servicekit.config import ProcessSettings
from servicekit.database import PLATFORM, Database, Resources, open_database
from servicekit.events import Envelope, envelope, event_type
from servicekit.identifiers import new_id
from servicekit.messaging import Publisher
from servicekit.service import hosted
from services.insights import operations
from services.insights.chunks import Retention
from services.insights.service import SERVICE
from services.insights.steps import EPOCH, microseconds
from services.insights.store import Source

BATCHES = 5_000
READINGS = 100
METRICS = 4
DEVICES = 20
ROUNDS = 5
DAY_READS = 100
# What the consumer gathers at most, so that the ceiling commits as seldom.
COPIED_AT_ONCE = 256
COMMUNITY = uuid.uuid4()
CONSUMER = "insights-write_readings_on_batch"

PLAIN_TABLE = """
CREATE TABLE plain (
    community_id uuid NOT NULL, device_id text NOT NULL, metric text NOT NULL, at timestamptz NOT NULL,
    value double precision NOT NULL, sequence bigint NOT NULL
) PARTITION BY RANGE (at)
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the run's own servers are."""

    service_url: str
    superuser_url: str
    nats_url: str
    folder: Path


@asynccontextmanager
async def durable_servers() -> AsyncIterator[Servers]:
    """PostgreSQL and NATS with a migrated database."""
    with tempfile.TemporaryDirectory(prefix="linli-bench-") as name:
        folder = Path(name)
        postgres = start_postgres(folder / "postgres", durable=True)
        server = start_nats(folder / "nats")
        try:
            credentials = await schema.provision(postgres.url(), SERVICE.name, "bench", "bench")
            await schema.migrate(credentials.owner_url, SERVICE.migrations)
            os.environ["LINLI_INSIGHTS_DATABASE_URL"] = credentials.service_url
            yield Servers(credentials.service_url, postgres.url("linli_insights"), server.url, folder)
        finally:
            server.stop()
            postgres.stop()


def make_batches(now: datetime) -> list[Envelope]:
    """What edge boxes send: each batch is 25 seconds of four metrics of one device, up to now."""
    seconds = READINGS // METRICS
    first_us = microseconds(now - timedelta(seconds=BATCHES // DEVICES * seconds))
    batches = []
    for number in range(BATCHES):
        begin_us = first_us + number // DEVICES * seconds * 1_000_000
        readings = [
            Reading(metric=f"temperature_{n % METRICS}_c", at_us=begin_us + n // METRICS * 1_000_000, value=random.gauss(21, 2))
            for n in range(READINGS)
        ]
        batch = ReadingBatch(device_id=f"edge-box-{number % DEVICES:02}", batch_id=str(new_id()), readings=readings)
        batches.append(envelope(batch, COMMUNITY, event_id=batch.batch_id, occurred_at=now))
    return batches


async def fill_stream(url: str, batches: Sequence[Envelope]) -> None:
    """Replaces what the stream holds by these batches."""
    client = await nats.connect(url)
    try:
        kind = event_type(ReadingBatch)
        try:
            await client.jetstream().delete_stream(kind.stream)
        except NotFoundError:
            pass
        await messaging.ensure_stream(client, kind, 1)
        publisher = Publisher(client, "ingest")
        for start in range(0, len(batches), 1000):
            await asyncio.gather(*(publisher.publish(batch) for batch in batches[start : start + 1000]))
    finally:
        await client.close()


def settings_of(servers: Servers) -> ProcessSettings:
    """A process on free ports."""
    grpc, operations_port = (choose_port(servers.folder, name, None) for name in ("grpc", "ops"))
    return ProcessSettings(grpc_address=f"127.0.0.1:{grpc}", ops_address=f"127.0.0.1:{operations_port}", nats_url=servers.nats_url)


async def drain(servers: Servers, batches: Sequence[Envelope]) -> float:
    """Readings per second from when the service makes its consumer until the last batch is acknowledged."""
    await fill_stream(servers.nats_url, batches)
    watcher = await nats.connect(servers.nats_url)
    try:
        watching = asyncio.create_task(_watch(watcher.jetstream(), len(batches)))
        async with hosted([SERVICE], settings_of(servers)):
            seconds = await asyncio.wait_for(watching, 60)
    finally:
        await watcher.close()
    return len(batches) * READINGS / seconds


async def _watch(stream: JetStreamContext, last: int) -> float:
    began = None
    while True:
        try:
            information = await stream.consumer_info(event_type(ReadingBatch).stream, CONSUMER)
        except NotFoundError:
            await asyncio.sleep(0.002)
            continue
        began = perf_counter() if began is None else began
        if information.ack_floor is not None and information.ack_floor.stream_seq >= last:
            return perf_counter() - began
        await asyncio.sleep(0.01)


async def copy_bare(servers: Servers, batches: Sequence[Envelope]) -> float:
    """Readings per second of one connection that decodes the batches and copies them in binary."""
    connection = await asyncpg.connect(servers.superuser_url)
    try:
        began = perf_counter()
        for start in range(0, len(batches), COPIED_AT_ONCE):
            rows = []
            for entry in batches[start : start + COPIED_AT_ONCE]:
                batch = ReadingBatch.FromString(entry.body)
                device_id = batch.device_id
                for reading in batch.readings:
                    at = EPOCH + timedelta(microseconds=reading.at_us)
                    rows.append((COMMUNITY, device_id, reading.metric, at, reading.value, reading.sequence))
            await connection.copy_records_to_table("plain", records=rows)
        return len(batches) * READINGS / (perf_counter() - began)
    finally:
        await connection.close()


async def measure_writing(servers: Servers) -> None:
    """Alternates the service and the bare copy on the same batches, each time into empty tables."""
    now = system_clock()
    batches = make_batches(now)
    connection = await asyncpg.connect(servers.superuser_url)
    await connection.execute(PLAIN_TABLE)
    for days_ago in range(-1, 3):
        day = now.date() - timedelta(days=days_ago)
        until = day + timedelta(days=1)
        await connection.execute(f"CREATE TABLE plain_{day:%Y%m%d} PARTITION OF plain FOR VALUES FROM ('{day}') TO ('{until}')")
    rates: dict[str, list[float]] = {"service": [], "bare": []}
    for _ in range(ROUNDS):
        for name, run in (("bare", copy_bare), ("service", drain)):
            await connection.execute("TRUNCATE plain, telemetry_chunks")
            await connection.execute("CHECKPOINT")
            rates[name].append(await run(servers, batches))
            table = {"bare": "SELECT count(*) FROM plain", "service": "SELECT count(*) FROM telemetry_readings"}[name]
            assert await connection.fetchval(table) == BATCHES * READINGS
    await connection.close()
    load = f"{BATCHES} protobuf batches of {READINGS} readings, {METRICS} metrics each, {DEVICES} devices; median of {ROUNDS} rounds"
    value, ceiling = statistics.median(rates["service"]), statistics.median(rates["bare"])
    report(
        "2 telemetry",
        load=load,
        value=value,
        unit="readings/s",
        ceiling=ceiling,
        ceiling_is="the same batches decoded and copied in binary on one bare connection, a row for each reading",
        ratio=value / ceiling,
        aim="ratio >= 0.7",
    )


async def write_day(database: Database, day: datetime) -> None:
    """A device that measures once a second, in batches of 100 that come out of order."""
    starts = list(range(0, 86_400, READINGS))
    random.shuffle(starts)
    batches = []
    for start in starts:
        instants = range(microseconds(day) + start * 1_000_000, microseconds(day) + (start + READINGS) * 1_000_000, 1_000_000)
        readings = [Reading(metric="power_w", at_us=at_us, value=random.gauss(400, 50)) for at_us in instants]
        batches.append(operations.Batch(Source(COMMUNITY, "meter", str(new_id())), readings))
    async with database.transaction(PLATFORM) as tx:
        await operations.write_batches(tx, batches)


async def measure_reading(servers: Servers) -> None:
    """One reader of a day of one reading a second, with ten such days stored."""
    database = await open_database(SERVICE.name, servers.service_url, pool_size=1, clock=system_clock)
    database.resources = Resources([Retention(days=90)])
    today = system_clock().replace(hour=0, minute=0, second=0, microsecond=0)
    for days_ago in range(1, 11):
        await write_day(database, today - timedelta(days=days_ago))
    latencies = []
    begun = perf_counter()
    for number in range(DAY_READS):
        since = today - timedelta(days=2 + number % 9)
        start = perf_counter()
        async with database.transaction(COMMUNITY) as tx:
            points = await operations.read_telemetry(tx, "meter", "power_w", since, since + timedelta(days=1), 60)
        latencies.append(perf_counter() - start)
        assert len(points) == 1440
    run = Run(latencies, perf_counter() - begun, 0)
    await database.close()
    load = f"one reader, {DAY_READS} reads of 86,400 readings in 1,440 steps of 60 s"
    for percent in (50, 99):
        report(f"2 telemetry, a day read, p{percent}", load=load, value=run.percentile_ms(percent), unit="ms", ceiling=None, ratio=None)


async def main() -> None:
    """Measures writing, then reading."""
    async with durable_servers() as servers:
        await measure_writing(servers)
        await measure_reading(servers)


if __name__ == "__main__":
    uvloop.run(main())
