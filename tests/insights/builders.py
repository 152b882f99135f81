"""What the tests of insights state again and again: batches of readings, and reads of them."""

import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from linli.device.v1.events_pb2 import Reading, ReadingBatch
from linli.insights.v1.insights_pb2 import Point, ReadTelemetryRequest
from servicekit.auth import Principal
from servicekit.database import PLATFORM
from servicekit.times import to_timestamp
from services.insights.service import SERVICE
from services.insights.steps import microseconds
from tests.support import Platform, Servers, TestClock, platform, principal

METRIC = "temperature_c"
# A day that has passed, so that each hour of it can be measured, but not so long ago that it is not kept.
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)


@asynccontextmanager
async def insights(servers: Servers, **settings: str) -> AsyncIterator[Platform]:
    """The running service; keywords are its settings."""
    values = {f"LINLI_INSIGHTS_{name.upper()}": value for name, value in settings.items()}
    async with platform(servers, SERVICE, clock=TestClock(), settings=values) as running:
        yield running


def reader(community_id: uuid.UUID | None = None) -> Principal:
    """Somebody who may read everything that insights has of a community."""
    return principal("insights.telemetry.read", "insights.objects.read", community_id=community_id)


def reading(at: datetime, value: float = 21.5, *, metric: str = METRIC, sequence: int = 0) -> Reading:
    """One measured value."""
    return Reading(metric=metric, at_us=microseconds(at), value=value, sequence=sequence)


def batch(readings: Iterable[Reading], *, device_id: str = "sensor", batch_id: str | None = None) -> ReadingBatch:
    """Readings that a device sends together."""
    return ReadingBatch(device_id=device_id, batch_id=str(uuid.uuid4()) if batch_id is None else batch_id, readings=readings)


async def read(
    running: Platform,
    who: Principal,
    since: datetime = DAY,
    until: datetime = DAY + timedelta(days=1),
    step_s: int = 0,
    *,
    device_id: str = "sensor",
    metric: str = METRIC,
) -> list[Point]:
    """The points that a caller gets; the whole of DAY, reading by reading, unless told otherwise."""
    request = ReadTelemetryRequest(
        device_id=device_id, metric=metric, until=to_timestamp(until), step_s=step_s, **{"from": to_timestamp(since)}
    )
    answer = await running.caller(who).call("linli.insights.v1.InsightsService/ReadTelemetry", request)
    return list(answer.points)


async def values(running: Platform, who: Principal, device_id: str = "sensor") -> list[float]:
    """The device's values in DAY, in order of time."""
    return [point.average for point in await read(running, who, device_id=device_id)]


async def stored_chunks(running: Platform) -> int:
    """How many chunks there are, whosever they are."""
    async with running.transaction("insights", PLATFORM) as tx:
        count: int = await tx.fetchval("SELECT count(*) FROM telemetry_chunks")
        return count
