"""What insights does: writes batches of readings, reads them in steps, keeps and lists observed objects, forgets what is old."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day

import prometheus_client

from servicekit import telemetry
from servicekit.communities import find_time_zone
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid
from services.insights import steps, store
from services.insights.chunks import Chunk, Reading, Retention, cut
from services.insights.store import ListedObject, ObservedObject, Point, Range, Source

READINGS_REFUSED = prometheus_client.Counter("linli_readings_refused_total", "Readings that are not kept", ["reason"])
# What one statement carries: enough to cost nothing for each statement, little enough for the memory of a small machine.
_STATEMENT_READINGS = 10_000
# What one answer may read: a second or two of work.
_ANSWER_READINGS_MAX = 2_000_000
_OBJECTS_FORGOTTEN_AT_ONCE = 20_000
_DAYS_AHEAD = 2
_DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BATCH_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings that came together."""

    source: Source
    readings: Sequence[Reading]


async def write_batches(tx: Transaction, batches: Sequence[Batch]) -> None:
    """Stores each reading of each batch, whichever day it is of; a batch that is stored already changes nothing.

    Readings that `chunks.cut` refuses are counted and dropped. Raises Invalid when a batch does not say what it is.
    """
    retention = tx.resource(Retention)
    chunks: list[tuple[Source, Chunk]] = []
    refused: Counter[str] = Counter()
    for batch in batches:
        if not _DEVICE_ID.fullmatch(batch.source.device_id) or not _BATCH_ID.fullmatch(batch.source.batch_id):
            raise Invalid("insights.batch_id", "设备或批次编号无效", "The device id or the batch id is not valid")
        cuts, refusals = cut(batch.readings, retention, tx.now)
        chunks += ((batch.source, chunk) for chunk in cuts)
        refused.update(refusals)
    await store.ensure_days(tx, {chunk.day for _, chunk in chunks})
    for part in _statements(chunks):
        await store.insert_chunks(tx, part)
    for reason, count in refused.items():
        READINGS_REFUSED.labels(reason).inc(count)


def _statements(chunks: Sequence[tuple[Source, Chunk]]) -> list[list[tuple[Source, Chunk]]]:
    parts: list[list[tuple[Source, Chunk]]] = []
    room = 0
    for entry in chunks:
        if room <= 0:
            parts.append([])
            room = _STATEMENT_READINGS
        parts[-1].append(entry)
        room -= len(entry[1].at_us)
    return parts


async def read_telemetry(tx: Transaction, device_id: str, metric: str, since: datetime, until: datetime, step_s: int) -> list[Point]:
    """The readings from `since` until just before `until`, in steps of `step_s` seconds, or one by one when it is 0.

    A step of a day begins at the community's midnight; steps without readings are left out. Raises Invalid when the range ends before it
    begins, or has more points or readings than one answer holds.
    """
    from_us, until_us = steps.microseconds(since), steps.microseconds(until)
    if until_us <= from_us:
        field = FieldViolation("until", "insights.range_inverted", "must be after from")
        raise Invalid("insights.range_inverted", "结束时间必须晚于开始时间", "The range must end after it begins", fields=[field])
    if step_s and steps.steps_between(from_us, until_us, step_s) > steps.POINTS_MAX:
        raise _too_many_points(from_us, until_us)
    asked = Range(tx.community_id, device_id, metric, from_us, until_us, steps.utc_day(from_us), steps.utc_day(until_us - 1))
    readings = await store.count_readings(tx, asked)
    if readings > _ANSWER_READINGS_MAX:
        raise Invalid(
            "insights.too_many_readings",
            f"该时间范围约有 {readings:,} 个读数，一次最多读取 {_ANSWER_READINGS_MAX:,} 个，请缩短时间范围",
            f"The range holds about {readings:,} readings and one answer reads {_ANSWER_READINGS_MAX:,}; ask for a shorter range",
        )
    if step_s == 0:
        points = await store.select_readings(tx, asked, steps.POINTS_MAX + 1)
        if len(points) > steps.POINTS_MAX:
            raise _too_many_points(from_us, until_us)
        return points
    beginnings = None
    if step_s == steps.DAY_S:
        beginnings = steps.midnights(from_us, until_us, await find_time_zone(tx))
    return await store.select_steps(tx, asked, step_s * steps.SECOND_US, beginnings)


def _too_many_points(from_us: int, until_us: int) -> Invalid:
    finest = steps.finest_step_s(from_us, until_us)
    if finest is None:
        return Invalid("insights.range_too_long", "时间范围过长", f"The range is longer than {steps.POINTS_MAX:,} days")
    return Invalid(
        "insights.too_many_points",
        f"结果超过 {steps.POINTS_MAX:,} 个点，请将 step_s 设为 {finest} 或更大",
        f"The answer has more than {steps.POINTS_MAX:,} points; use a step_s of {finest} or more",
        details={"step_s": str(finest)},
    )


async def keep_object(tx: Transaction, seen: ObservedObject) -> None:
    """Stores an object once, however often its camera sends it."""
    await store.insert_object(tx, seen)


async def list_objects(tx: Transaction, device_id: str, after: tuple[datetime, str] | None, limit: int) -> list[ListedObject]:
    """A device's objects, newest first, after a cursor of (occurred_at, record_id)."""
    return await store.select_objects(tx, device_id, after, limit)


async def create_days_ahead(tx: Transaction) -> None:
    """Makes the partitions of today and the next days, so that no writer has to."""
    today = tx.now.date()
    await store.ensure_days(tx, [today + timedelta(days=n) for n in range(_DAYS_AHEAD + 1)])


async def forget_old(tx: Transaction) -> None:
    """Drops the days of telemetry and deletes the objects that are older than what is kept."""
    first_kept = tx.resource(Retention).first_day(tx.now)
    days = await store.drop_days_before(tx, first_kept)
    objects = await store.delete_objects_before(tx, datetime.combine(first_kept, time_of_day(), UTC), _OBJECTS_FORGOTTEN_AT_ONCE)
    if days or objects:
        telemetry.log.info("forgotten", days=days, objects=objects, before=first_kept.isoformat())
