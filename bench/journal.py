"""Figure: a hundred terminals that come back from a day without a network, and what they tell of it, until the last passage is stored.

Against the same messages published straight into a stream of which nobody knows, in the same NATS in the same run: no broker's sign-in, no
chain of hashes, no rows. One message in twenty is sent again, as after a lost acknowledgement, cut otherwise than before; in the end
everything is there exactly once.
"""

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import perf_counter

import asyncpg
import nats
from nats.aio.client import Client
from nats.js.api import StorageType, StreamConfig

from bench.costs import by_cost, cpu_seconds, since
from bench.measure import report
from bench.mqtt import Device
from bench.terminals import set_up
from console.up import Local
from infra.local.accounts import OPERATOR
from linli.device.v1.events_pb2 import JournalUploaded
from servicekit.events import event_type
from services.access.journal import BEGINNING, record_hash

TERMINALS = 100
RECORDS = 10_000
PART = 100
# Messages of each terminal that the broker has not acknowledged.
IN_FLIGHT = 8
AGAIN_EVERY = 20
PEOPLE = 60
# What a stream is given at once.
PUBLISHED_AT_ONCE = 256
_DRAIN_S = 500.0
_STREAM, _SUBJECT = "BENCH", "linli.bench.journal"
_HELD = "SELECT coalesce(sum(held), 0)::bigint FROM journals WHERE device_id LIKE 'bench-journal-%'"
# Of each terminal: passages, segments, and whether it is whole.
_WHOLE = """
SELECT count(*) FROM journals
WHERE device_id LIKE 'bench-journal-%' AND held = $1 AND told_sequence = $1 AND broken_at IS NULL AND gap_since IS NULL
    AND (SELECT count(*) FROM passages WHERE passages.device_id = journals.device_id) = $2
    AND (SELECT count(*) FROM journal_segments AS held WHERE held.device_id = journals.device_id AND last_sequence = $1) = 1
"""
_COPY = "INSERT INTO bench_passages SELECT * FROM passages WHERE device_id LIKE 'bench-journal-1%'"


def make_records(device_id: str, now: datetime) -> tuple[list[str], int]:
    """What happened at a door in a day, and how many of it are passages."""
    people = [(str(uuid.uuid4()), uuid.uuid4().hex[:16]) for _ in range(PEOPLE)]
    apart = timedelta(days=1) / RECORDS
    records, passages = [], 0
    for nth in range(RECORDS):
        said: dict[str, object] = {"kind": "granted", "at": (now - apart * (RECORDS - nth)).isoformat()}
        subject, card = people[nth % PEOPLE]
        if nth % 50 == 49:
            said["kind"] = "closed"
        elif nth % 20 == 19:
            said |= {"kind": "refused", "presentation": str(uuid.uuid4()), "by": "card", "reason": "unknown", "offline": True}
        elif nth % 3 == 2:
            said |= {"presentation": str(uuid.uuid4()), "by": "face", "subject": subject, "offline": True}
        else:
            said |= {"presentation": str(uuid.uuid4()), "by": "card", "subject": subject, "card": card, "offline": True}
        passages += said["kind"] != "closed"
        records.append(json.dumps(said, separators=(",", ":")))
    return records, passages


def make_parts(records: Sequence[str]) -> tuple[list[bytes], list[bytes]]:
    """The messages of a journal, and those that are sent again."""
    hashes = [BEGINNING]
    for record in records:
        hashes.append(record_hash(hashes[-1], record.encode()))

    def part(first: int, last: int) -> bytes:
        return json.dumps({"first": first, "previous": hashes[first - 1].hex(), "records": records[first - 1 : last]}).encode()

    firsts = range(1, RECORDS + 1, PART)
    again = [part(first + PART // 2, min(first + PART, RECORDS)) for first in firsts[::AGAIN_EVERY]]
    return [part(first, first + PART - 1) for first in firsts], again


async def measure(local: Local) -> None:
    """Prints the figure."""
    secrets = await set_up(local, "bench-journal", TERMINALS)
    now = datetime.now(UTC)
    told = {device_id: make_records(device_id, now) for device_id in secrets}
    passages = next(iter(told.values()))[1]
    parts = {device_id: make_parts(records) for device_id, (records, _) in told.items()}
    del told
    bus = await nats.connect(local.nats.url, user=OPERATOR, password=local.secrets.password(f"{OPERATOR}-nats"))
    access = await asyncpg.connect(local.postgres.url("linli_access"))
    port = local.nats.mqtt_port
    assert port is not None
    devices = {device_id: await Device.connect(local.nats.host, port, device_id, secret) for device_id, secret in secrets.items()}
    try:
        ceiling = await _flood_stream(bus, parts)
        before = cpu_seconds(local)
        until_s = await _return(bus, access, devices, parts)
        costs = since(before, cpu_seconds(local), TERMINALS * RECORDS)
        whole = await access.fetchval(_WHOLE, RECORDS, passages)
        await access.execute("CREATE TABLE bench_passages (LIKE passages INCLUDING ALL)")
        copied_at = perf_counter()
        copied = await access.execute(_COPY)
        alone = int(copied.rpartition(" ")[2]) / (perf_counter() - copied_at)
        alarms = await access.fetchval("SELECT count(*) FROM alarms WHERE source_id LIKE 'bench-journal-%'")
    finally:
        for device in devices.values():
            device.close()
        await bus.close()
        await access.close()
    rate = TERMINALS * RECORDS / until_s["booked by access"]
    message = next(iter(parts.values()))[0][0]
    report(
        "3 journal",
        load=f"{TERMINALS} terminals, {RECORDS} records each, {PART} in a message of {len(message)} bytes, {IN_FLIGHT} in flight of each",
        records_per_second=rate,
        seconds_until={stage: round(seconds, 2) for stage, seconds in until_s.items()},
        terminals_not_whole=TERMINALS - whole,
        alarms=alarms,
        sent_again=sum(len(again) for _, again in parts.values()),
        bare_records_per_second=ceiling,
        bare_is="the same messages, acknowledged by JetStream, without us",
        ratio=rate / ceiling,
        postgres_alone_rows_per_second=alone,
        postgres_alone_is="the same passages from table to table with the same indexes, in one statement",
        ratio_to_postgres=rate / alone,
        microseconds_of_a_record_by_process=by_cost(costs),
    )


async def _return(
    bus: Client,
    access: "asyncpg.Connection[asyncpg.Record]",
    devices: Mapping[str, Device],
    parts: Mapping[str, tuple[Sequence[bytes], Sequence[bytes]]],
) -> dict[str, float]:
    """All of them at once. Returns when the last record had come how far, in seconds."""
    stream = event_type(JournalUploaded).stream
    goal = (await bus.jetstream().stream_info(stream)).state.last_seq + sum(len(fresh) + len(again) for fresh, again in parts.values())
    until_s: dict[str, float] = {}
    began = perf_counter()

    async def one(device_id: str) -> None:
        window = asyncio.Semaphore(IN_FLIGHT)
        fresh, again = parts[device_id]
        for nth, message in enumerate(fresh):
            for each in (message, again[nth // AGAIN_EVERY])[: 1 + (nth % AGAIN_EVERY == AGAIN_EVERY - 1)]:
                await window.acquire()
                devices[device_id].publish(f"devices/{device_id}/journal", each).add_done_callback(lambda _done: window.release())
        for _ in range(IN_FLIGHT):
            await window.acquire()

    async def everybody() -> None:
        await asyncio.gather(*map(one, devices))
        until_s["acknowledged by NATS"] = perf_counter() - began

    publishing = asyncio.create_task(everybody())
    async with asyncio.timeout(_DRAIN_S):
        # A look at a hundred rows costs next to nothing.
        while await access.fetchval(_HELD) < TERMINALS * RECORDS:
            if "passed on by ingest" not in until_s and (await bus.jetstream().stream_info(stream)).state.last_seq >= goal:
                until_s["passed on by ingest"] = perf_counter() - began
            await asyncio.sleep(0.05)
    until_s["booked by access"] = perf_counter() - began
    await publishing
    return dict(sorted(until_s.items(), key=lambda item: item[1]))


async def _flood_stream(bus: Client, parts: Mapping[str, tuple[Sequence[bytes], Sequence[bytes]]]) -> float:
    """Records per second until JetStream has acknowledged the last message."""
    stream = bus.jetstream(publish_async_max_pending=PUBLISHED_AT_ONCE)
    await stream.add_stream(StreamConfig(name=_STREAM, subjects=[_SUBJECT], storage=StorageType.FILE))
    began = perf_counter()
    for fresh, _ in parts.values():
        for message in fresh:
            await stream.publish_async(_SUBJECT, message)
    await stream.publish_async_completed()
    seconds = perf_counter() - began
    assert (await stream.stream_info(_STREAM)).state.messages == TERMINALS * RECORDS // PART
    await stream.delete_stream(_STREAM)
    return TERMINALS * RECORDS / seconds
