"""Gauges that have to be asked for: what waits in databases and at the broker, and how busy the event loop is.

One task of each process asks, every 15 seconds. A number that can no longer be read is taken back, so that none looks fresh that is not.
With several processes of one service each tells the same number: `max by (service)`, never `sum`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final

from nats.aio.client import Client
from prometheus_client import Gauge

from servicekit import metrics, telemetry
from servicekit.database import PLATFORM, Database
from servicekit.messaging import ACK_S

EVERY_S: Final = 15.0
_LOOP_EVERY_S: Final = 0.25
_COUNTED_MAX: Final = 10_000

# The partial indexes of what waits answer all of it, whatever the tables hold.
SELECT_WAITING: Final = """
SELECT
    (SELECT count(*) FROM (SELECT FROM outbox WHERE sent_at IS NULL LIMIT $1) AS unsent) AS unsent,
    (SELECT extract(epoch FROM now() - created_at) FROM outbox WHERE sent_at IS NULL ORDER BY position LIMIT 1) AS age_s,
    (SELECT count(*) FROM (SELECT FROM dead_letters WHERE replayed_at IS NULL LIMIT $1) AS letters) AS dead_letters
"""


async def sample(work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Samples all of it, again and again, until it is cancelled."""
    while True:
        await asyncio.gather(*(each() for each in work))
        await asyncio.sleep(EVERY_S)


async def sample_database(database: Database) -> None:
    """How much waits in a service's outbox and for how long, and how many dead letters wait for a person. Never raises."""

    async def read() -> list[float]:
        async with database.transaction(PLATFORM) as tx:
            row = await tx.fetchrow(SELECT_WAITING, _COUNTED_MAX)
        assert row is not None
        return [row["unsent"], row["age_s"] or 0, row["dead_letters"]]

    gauges = (metrics.OUTBOX_UNSENT, metrics.OUTBOX_AGE_SECONDS, metrics.DEAD_LETTERS_WAITING)
    await show(gauges, database.service, read)


async def sample_consumer(client: Client, stream: str, name: str) -> None:
    """How much a durable consumer has still to do. Never raises."""

    async def read() -> list[float]:
        found = await client.jetstream(timeout=ACK_S).consumer_info(stream, name)
        return [found.num_pending or 0, found.num_ack_pending or 0]

    await show((metrics.CONSUMER_PENDING, metrics.CONSUMER_UNACKNOWLEDGED), name, read)


async def show(gauges: Sequence[Gauge], label: str, read: Callable[[], Awaitable[Sequence[float]]]) -> None:
    """Sets each gauge to what was read, under a label; takes all of them back when it cannot be read. Never raises."""
    try:
        values = await read()
    except Exception as error:
        telemetry.log.info("not_sampled", what=label, error=telemetry.describe(error))
        for gauge in gauges:
            gauge.remove(label)
    else:
        for gauge, value in zip(gauges, values, strict=True):
            gauge.labels(label).set(value)


async def watch_loop() -> None:
    """Measures how late the event loop is, until it is cancelled."""
    while True:
        started = perf_counter()
        await asyncio.sleep(_LOOP_EVERY_S)
        metrics.LOOP_LAG_SECONDS.observe(max(0.0, perf_counter() - started - _LOOP_EVERY_S))
