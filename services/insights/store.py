"""All SQL of insights. Instants of readings are microseconds since the Unix epoch, others are aware datetimes."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from servicekit.database import Transaction
from servicekit.listing import Listing
from services.insights.chunks import Chunk


@dataclass(frozen=True, slots=True)
class Source:
    """Where a chunk's readings come from."""

    community_id: uuid.UUID
    device_id: str
    batch_id: str


@dataclass(frozen=True, slots=True)
class Range:
    """The readings of one metric of one device from `from_us` until just before `until_us`; the days are the UTC days that it touches."""

    community_id: uuid.UUID
    device_id: str
    metric: str
    from_us: int
    until_us: int
    first_day: date
    last_day: date

    def arguments(self) -> tuple[object, ...]:
        """The first seven arguments of every statement that reads a range."""
        return (self.community_id, self.device_id, self.metric, self.first_day, self.last_day, self.from_us, self.until_us)


@dataclass(frozen=True, slots=True)
class Point:
    """The readings of one step, which begins at `at_us`."""

    at_us: int
    average: float
    minimum: float
    maximum: float
    readings: int


@dataclass(frozen=True, slots=True)
class ObservedObject:
    """What a camera reported."""

    device_id: str
    record_id: str
    kind: str
    occurred_at: datetime
    received_at: datetime
    image_keys: Sequence[str]
    record_json: str


@dataclass(frozen=True, slots=True)
class ListedObject:
    """What a camera reported, as lists show it."""

    record_id: str
    kind: str
    occurred_at: datetime
    images: int


ENSURE_DAYS = "SELECT ensure_telemetry_day(day) FROM unnest($1::date[]) AS day ORDER BY day"


async def ensure_days(tx: Transaction, days: Collection[date]) -> None:
    """Makes the partitions of these days that do not exist. Comes first in its transaction: it may wait for another that makes them."""
    await tx.execute(ENSURE_DAYS, list(days))


# Chunks differ in length, which arrays of arrays cannot; so the readings of all come in flat arrays, of which each chunk is a slice. No
# metric's name holds a space.
INSERT_CHUNKS = """
INSERT INTO telemetry_chunks (community_id, device_id, day, batch_id, first_us, last_us, metrics, ends, at_us, value, sequence)
SELECT community_id, device_id, day, batch_id, first_us, last_us, string_to_array(metrics, ' '), ($12::int[])[first_end:last_end],
    ($13::bigint[])[first:last], ($14::float8[])[first:last], ($15::bigint[])[first:last]
FROM unnest(
    $1::uuid[], $2::text[], $3::date[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::int[], $9::int[], $10::int[], $11::int[]
) AS chunk (community_id, device_id, day, batch_id, first_us, last_us, metrics, first_end, last_end, first, last)
ON CONFLICT DO NOTHING
"""


async def insert_chunks(tx: Transaction, chunks: Sequence[tuple[Source, Chunk]]) -> None:
    """Writes chunks; those that are there already stay as they are."""
    ends: list[int] = []
    at_us: list[int] = []
    value: list[float] = []
    sequence: list[int] = []
    rows: list[tuple[object, ...]] = []
    for source, chunk in chunks:
        first_end, first = len(ends) + 1, len(at_us) + 1
        ends += chunk.ends
        at_us += chunk.at_us
        value += chunk.value
        sequence += chunk.sequence
        key = (source.community_id, source.device_id, chunk.day, source.batch_id)
        content = (min(chunk.at_us), max(chunk.at_us), " ".join(chunk.metrics))
        rows.append((*key, *content, first_end, len(ends), first, len(at_us)))
    columns = [list(column) for column in zip(*rows, strict=True)]
    # Few devices number their readings. Where none does, every slice of nothing is empty, and nothing is what is stored.
    await tx.execute(INSERT_CHUNKS, *columns, ends, at_us, value, sequence if any(sequence) else [])


COUNT_READINGS = """
SELECT coalesce(sum(ends[nth] - coalesce(ends[nth - 1], 0)), 0)
FROM telemetry_chunks, LATERAL (SELECT array_position(metrics, $3::text) AS nth) AS named
WHERE community_id = $1 AND device_id = $2 AND day BETWEEN $4 AND $5 AND last_us >= $6 AND first_us < $7
"""


async def count_readings(tx: Transaction, asked: Range) -> int:
    """How many readings of the metric are in the chunks that a range touches: what reading it costs."""
    count: int = await tx.fetchval(COUNT_READINGS, *asked.arguments())
    return count


# A reading that two batches brought is one reading; should its values differ the least is taken, so that the order of arrival is no matter.
SELECT_READINGS = """
SELECT at_us, min(value) AS value
FROM telemetry_readings
WHERE community_id = $1 AND device_id = $2 AND metric = $3 AND day BETWEEN $4 AND $5 AND last_us >= $6 AND first_us < $7
    AND at_us >= $6 AND at_us < $7
GROUP BY at_us, sequence
ORDER BY at_us, sequence
LIMIT $8
"""


async def select_readings(tx: Transaction, asked: Range, limit: int) -> list[Point]:
    """The first `limit` readings of a range, each as a point of its own, in order of time."""
    rows = await tx.fetch(SELECT_READINGS, *asked.arguments(), limit)
    return [Point(at_us, value, value, value, 1) for at_us, value in rows]


# avg() would also sum squares, which overflow long before the values do.
SELECT_STEPS = """
SELECT step_us, sum(value) / count(*) AS average, min(value) AS minimum, max(value) AS maximum, count(*) AS readings
FROM (
    SELECT min(value) AS value,
        CASE WHEN $9::bigint[] IS NULL THEN at_us / $8::bigint * $8 ELSE ($9::bigint[])[width_bucket(at_us, $9::bigint[])] END AS step_us
    FROM telemetry_readings
    WHERE community_id = $1 AND device_id = $2 AND metric = $3 AND day BETWEEN $4 AND $5 AND last_us >= $6 AND first_us < $7
        AND at_us >= $6 AND at_us < $7
    GROUP BY at_us, sequence
) AS reading
GROUP BY step_us
ORDER BY step_us
"""


async def select_steps(tx: Transaction, asked: Range, step_us: int, beginnings: Sequence[int] | None) -> list[Point]:
    """The steps of a range that have readings, in order: of `step_us` each, or those that begin at `beginnings`."""
    rows = await tx.fetch(SELECT_STEPS, *asked.arguments(), step_us, beginnings)
    return [Point(*row) for row in rows]


DROP_DAYS_BEFORE = "SELECT drop_telemetry_before($1)"


async def drop_days_before(tx: Transaction, first_kept: date) -> int:
    """Drops the partitions of the days before, and says how many."""
    dropped: int = await tx.fetchval(DROP_DAYS_BEFORE, first_kept)
    return dropped


INSERT_OBJECT = """
INSERT INTO observed_objects (community_id, device_id, record_id, kind, occurred_at, received_at, image_keys, record_json)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
"""


async def insert_object(tx: Transaction, seen: ObservedObject) -> None:
    """Writes an object unless it is there."""
    await tx.execute(
        INSERT_OBJECT,
        tx.community_id,
        seen.device_id,
        seen.record_id,
        seen.kind,
        seen.occurred_at,
        seen.received_at,
        seen.image_keys,
        seen.record_json,
    )


OBJECTS = Listing(
    select="SELECT record_id, kind, occurred_at, cardinality(image_keys) AS images FROM observed_objects",
    where="community_id = {} AND device_id = {}",
    key=("occurred_at", "record_id"),
    descending=True,
)


async def select_objects(tx: Transaction, device_id: str, after: tuple[datetime, str] | None, limit: int) -> list[ListedObject]:
    """The device's newest objects after a cursor."""
    return [ListedObject(*row) for row in await OBJECTS.fetch(tx, [tx.community_id, device_id], after, limit)]


DELETE_OBJECTS_BEFORE = """
DELETE FROM observed_objects
WHERE ctid = ANY (ARRAY (SELECT ctid FROM observed_objects WHERE received_at < $1 LIMIT $2))
"""


async def delete_objects_before(tx: Transaction, first_kept: datetime, limit: int) -> int:
    """Deletes at most `limit` objects that were received before, and says how many."""
    return await tx.execute(DELETE_OBJECTS_BEFORE, first_kept, limit)
