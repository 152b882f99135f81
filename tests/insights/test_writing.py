"""Writing telemetry: each reading once, on its own day, for as long as it is kept."""

import asyncio
import math
import random
import sys
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import nats
import prometheus_client
import pytest

from linli.device.v1.events_pb2 import ReadingBatch
from servicekit import messaging
from servicekit.config import NatsSettings, ProcessSettings, load
from servicekit.database import PLATFORM
from servicekit.events import envelope, event_type
from servicekit.service import hosted
from services.insights import operations
from services.insights.service import SERVICE
from services.insights.store import Source
from tests.insights import crashing_writer
from tests.insights.builders import DAY, batch, insights, read, reader, reading, stored_chunks, values
from tests.support import Platform, Servers, environment, eventually, free_address

CONSUMER = "insights-write_readings_on_batch"
STREAM = event_type(ReadingBatch).stream


def refused(reason: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value("linli_readings_refused_total", {"reason": reason}) or 0.0


async def acknowledged(url: str, messages: int) -> None:
    """Waits until the writer has acknowledged this many messages."""
    client = await nats.connect(url)
    try:

        async def all_of_them() -> bool:
            information = await client.jetstream().consumer_info(STREAM, CONSUMER)
            return information.ack_floor is not None and information.ack_floor.stream_seq >= messages

        await eventually(all_of_them, "acknowledged")
    finally:
        await client.close()


async def test_a_batch_delivered_again_under_any_event_id_is_stored_once(servers: Servers) -> None:
    who = reader()
    async with insights(servers) as running:
        sent = batch([reading(DAY + timedelta(seconds=n), n) for n in range(100)])
        for _ in range(3):
            await running.publish(sent, who.community_id)
        await acknowledged(servers.nats.url, 3)
        assert await values(running, who) == [float(n) for n in range(100)]
        assert await stored_chunks(running) == 1


async def test_a_reading_that_two_batches_brought_is_one_reading(servers: Servers) -> None:
    who = reader()
    async with insights(servers) as running:
        await running.publish(batch([reading(DAY, 1), reading(DAY + timedelta(seconds=1), 2)]), who.community_id)
        await running.publish(batch([reading(DAY + timedelta(seconds=1), 2), reading(DAY + timedelta(seconds=2), 3)]), who.community_id)
        await running.publish(batch([reading(DAY, 7, sequence=1), reading(DAY, 7, sequence=1)]), who.community_id)
        await acknowledged(servers.nats.url, 3)
        assert await values(running, who) == [1, 7, 2, 3]
        (step,) = await read(running, who, step_s=3600)
        assert (step.readings, step.average, step.minimum, step.maximum) == (4, 13 / 4, 1, 7)


async def test_what_was_committed_but_not_acknowledged_before_kill_9_is_stored_once(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await servers.forget_streams()
    who, batches, per_batch = reader(), 300, 40
    monkeypatch.setattr(messaging, "_ACK_WAIT_S", crashing_writer.ACK_WAIT_S)
    async with servers.database(SERVICE) as database_url:
        values = {
            "LINLI_INSIGHTS_DATABASE_URL": database_url,
            "LINLI_GRPC_ADDRESS": free_address(),
            "LINLI_OPS_ADDRESS": free_address(),
            "LINLI_NATS_URL": servers.nats.url,
        }
        with environment(values):
            await publish_batches(who.community_id, batches, per_batch)
            child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.insights.crashing_writer")
            assert await asyncio.wait_for(child.wait(), 30) == -9
            assert (await count_stored(database_url))[0], "it died before it committed"
            async with hosted([SERVICE], load(ProcessSettings)):
                await acknowledged(servers.nats.url, batches)
        assert await count_stored(database_url) == (batches, batches * per_batch)
    await assert_redelivered(servers.nats.url, batches)


async def publish_batches(community_id: uuid.UUID, batches: int, per_batch: int) -> None:
    client = await messaging.connect(load(ProcessSettings), NatsSettings(), "test")
    try:
        await messaging.ensure_stream(client, event_type(ReadingBatch), 1)
        publisher = messaging.Publisher(client, "test")
        for number in range(batches):
            sent = batch(reading(DAY + timedelta(seconds=number * per_batch + n), n) for n in range(per_batch))
            await publisher.publish(envelope(sent, community_id, event_id=sent.batch_id, occurred_at=DAY))
    finally:
        await client.close()


async def count_stored(database_url: str) -> tuple[int, int]:
    """How many different batches, and how many readings, are stored."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('linli.community', '*', true)")
            batches = await connection.fetchval("SELECT count(DISTINCT batch_id) FROM telemetry_chunks")
            return batches, await connection.fetchval("SELECT count(*) FROM telemetry_readings")
    finally:
        await connection.close()


async def assert_redelivered(url: str, messages: int) -> None:
    """Without messages that came twice the test would prove nothing."""
    client = await nats.connect(url)
    try:
        information = await client.jetstream().consumer_info(STREAM, CONSUMER)
        assert information.delivered is not None
        assert information.delivered.consumer_seq > messages
    finally:
        await client.close()


async def test_batches_in_any_order_read_the_same(servers: Servers) -> None:
    who = reader()
    sent = [batch(reading(DAY + timedelta(seconds=10 * number + n), 10 * number + n) for n in range(10)) for number in range(50)]
    random.shuffle(sent)
    async with insights(servers) as running:
        for each in sent:
            await running.publish(each, who.community_id)
        await acknowledged(servers.nats.url, len(sent))
        assert await values(running, who) == [float(n) for n in range(500)]


async def test_late_readings_go_to_their_own_day(servers: Servers) -> None:
    who, long_ago = reader(), DAY - timedelta(days=60)
    async with insights(servers) as running:
        await running.publish(batch([reading(long_ago, 1), reading(DAY, 2)]), who.community_id)
        await acknowledged(servers.nats.url, 1)
        assert [point.average for point in await read(running, who, long_ago, long_ago + timedelta(days=1))] == [1]
        async with running.transaction("insights", PLATFORM) as tx:
            rows = await tx.fetch("SELECT tableoid::regclass::text AS partition FROM telemetry_chunks ORDER BY day")
        assert [row["partition"] for row in rows] == [f"telemetry_chunks_{day:%Y%m%d}" for day in (long_ago, DAY)]


async def test_a_batch_without_an_id_goes_by_its_events(servers: Servers) -> None:
    who = reader()
    async with insights(servers) as running:
        sent = batch([reading(DAY)], batch_id="")
        await running.publish(sent, who.community_id, event_id="first")
        await running.publish(sent, who.community_id, event_id="second")
        await acknowledged(servers.nats.url, 2)
        assert await stored_chunks(running) == 2
        assert await values(running, who) == [21.5]


async def test_values_that_nothing_measures_are_dropped_and_counted(servers: Servers) -> None:
    who, before = reader(), refused("value")
    async with insights(servers) as running:
        measured = [1.0, math.nan, math.inf, -math.inf, 1e308, 2.0]
        await running.publish(batch(reading(DAY + timedelta(seconds=n), value) for n, value in enumerate(measured)), who.community_id)
        await running.publish(batch([reading(DAY, metric="a\0b")]), who.community_id)
        await acknowledged(servers.nats.url, 2)
        assert await values(running, who) == [1, 2]
        assert refused("value") == before + 4


async def test_a_batch_larger_than_one_statement_is_stored_whole(servers: Servers) -> None:
    who = reader()
    async with insights(servers) as running:
        async with running.transaction("insights", PLATFORM) as tx:
            source = Source(who.community_id, "sensor", "large")
            readings = [reading(DAY + timedelta(seconds=n // 10), n, metric=f"metric_{n % 10}") for n in range(120_000)]
            await operations.write_batches(tx, [operations.Batch(source, readings)])
        points = await read(running, who, step_s=86_400, metric="metric_3")
        assert sum(point.readings for point in points) == 12_000


async def test_a_poison_batch_becomes_a_dead_letter_and_its_neighbours_are_stored(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "DELIVERIES_MAX", 2)
    who = reader()
    async with insights(servers) as running:
        poison = batch([reading(DAY)], batch_id="nul\0byte")
        neighbours = [batch([reading(DAY + timedelta(seconds=n), n)]) for n in range(20)]
        for sent in [*neighbours[:10], poison, *neighbours[10:]]:
            await running.publish(sent, who.community_id)
        garbled = envelope(batch([]), who.community_id, event_id="garbled", occurred_at=DAY)
        await running.host.running[0].publisher.send(garbled.subject, b"\xff\xff", garbled.headers("test"))
        await acknowledged(servers.nats.url, 22)
        assert await values(running, who) == [float(n) for n in range(20)]
        async with running.transaction("insights", PLATFORM) as tx:
            dead = await tx.fetch("SELECT community_id, body FROM dead_letters ORDER BY length(body)")
        assert [row["body"] for row in dead] == [b"\xff\xff", poison.SerializeToString()]
        assert {row["community_id"] for row in dead} == {who.community_id}


async def test_days_that_are_no_longer_kept_are_dropped_and_refused(servers: Servers) -> None:
    who, old, before = reader(), DAY - timedelta(days=10), refused("old")
    async with insights(servers, retention_days="20") as running:
        await running.publish(batch([reading(old, 1), reading(DAY, 2)]), who.community_id)
        await acknowledged(servers.nats.url, 1)
        await forget(running)
        assert await partitions(running) == {f"telemetry_chunks_{old:%Y%m%d}", f"telemetry_chunks_{DAY:%Y%m%d}"}
        running.clock.advance(days=8)
        await forget(running)
        assert await partitions(running) == {f"telemetry_chunks_{DAY:%Y%m%d}"}
        assert await read(running, who, old, old + timedelta(days=1)) == []
        await running.publish(batch([reading(old, 1)]), who.community_id)
        await acknowledged(servers.nats.url, 2)
        assert refused("old") == before + 1
        assert await values(running, who) == [2]


async def test_a_day_that_is_being_read_is_dropped_the_next_time(servers: Servers) -> None:
    old = DAY - timedelta(days=10)
    async with insights(servers, retention_days="5") as running:
        running.clock.advance(days=-8)
        await running.publish(batch([reading(old)]), uuid.uuid4())
        await acknowledged(servers.nats.url, 1)
        running.clock.advance(days=8)
        async with running.transaction("insights", PLATFORM) as tx:
            assert await tx.fetchval("SELECT count(*) FROM telemetry_chunks") == 1
            await forget(running)
            assert await partitions(running) == {f"telemetry_chunks_{old:%Y%m%d}"}
        await forget(running)
        assert await partitions(running) == set()


async def forget(running: Platform) -> None:
    async with running.transaction("insights", PLATFORM) as tx:
        await operations.forget_old(tx)


async def partitions(running: Platform) -> set[str]:
    async with running.transaction("insights", PLATFORM) as tx:
        rows = await tx.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'telemetry_chunks'::regclass")
        return {row["name"] for row in rows}


async def test_partitions_are_there_before_their_day(servers: Servers) -> None:
    async with insights(servers) as running:
        async with running.transaction("insights", PLATFORM) as tx:
            await operations.create_days_ahead(tx)
        today = running.clock.now.date()
        assert {f"telemetry_chunks_{today + timedelta(days=n):%Y%m%d}" for n in range(3)} <= await partitions(running)


async def test_writers_that_meet_a_new_day_together_both_write(servers: Servers) -> None:
    community = uuid.uuid4()
    async with insights(servers) as running:

        async def write(number: int) -> None:
            async with running.transaction("insights", PLATFORM) as tx:
                source = Source(community, f"sensor-{number}", "batch")
                readings = [reading(DAY - timedelta(days=n)) for n in range(5)]
                await operations.write_batches(tx, [operations.Batch(source, readings)])

        await asyncio.gather(*(write(number) for number in range(6)))
        assert await stored_chunks(running) == 30


async def test_every_partition_is_behind_the_wall(servers: Servers) -> None:
    async with insights(servers) as running:
        await running.publish(batch([reading(DAY)]), uuid.uuid4())
        await acknowledged(servers.nats.url, 1)
        async with running.transaction("insights", uuid.uuid4()) as tx:
            assert await tx.fetchval(f"SELECT count(*) FROM telemetry_chunks_{DAY:%Y%m%d}") == 0
            unwalled = await tx.fetch(
                """
                SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
                    AND relname <> 'schema_migrations' AND NOT (relrowsecurity AND relforcerowsecurity
                    AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid))
                """
            )
        assert unwalled == []


async def test_the_services_role_makes_and_drops_days_only_within_limits(servers: Servers) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    async with insights(servers) as running:
        for statement, arguments in (
            ("SELECT drop_telemetry_before($1)", (tomorrow,)),
            ("SELECT drop_telemetry_before($1)", (None,)),
            ("SELECT ensure_telemetry_day($1)", (tomorrow + timedelta(days=5000),)),
            ("SELECT ensure_telemetry_day($1)", (None,)),
        ):
            with pytest.raises(asyncpg.InvalidParameterValueError):
                async with running.transaction("insights", PLATFORM) as tx:
                    await tx.execute(statement, *arguments)
        for statement in ("CREATE TABLE mine (id int)", "DROP TABLE telemetry_chunks", "TRUNCATE telemetry_chunks"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with running.transaction("insights", PLATFORM) as tx:
                    await tx.execute(statement)
