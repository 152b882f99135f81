"""The SQL of alarms, of the observations that are counted in them, and of which devices are silent."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.listing import Listing, one_of
from services.access.alarm_rules import TERMINAL_SILENT
from services.access.alarms import MERGED, Alarm, AlarmState, Episode, Severity

# Keys of blobs hold none, and an array of arrays would have to be rectangular.
_BETWEEN_KEYS: Final = "\n"

# What observations belong to.

# In one order, so that two transactions which count the same wait for each other instead of dead-locking.
_COUNT_OBSERVATIONS = """
INSERT INTO counted_observations (observation_id, community_id, counted_at)
SELECT DISTINCT observation_id, $1::uuid, $3::timestamptz FROM unnest($2::uuid[]) AS observation_id ORDER BY observation_id
ON CONFLICT DO NOTHING RETURNING observation_id
"""
_FORGET_OBSERVATIONS = """
DELETE FROM counted_observations
WHERE ctid = ANY (ARRAY (SELECT ctid FROM counted_observations WHERE counted_at < $1 LIMIT $2))
"""
_LOCK_SOURCES = """
SELECT count(pg_advisory_xact_lock(hashtextextended('access.alarms ' || source, 0)))
FROM (SELECT source FROM unnest($1::text[]) AS source ORDER BY source) AS ordered
"""
_LOCK_EPISODES = """
SELECT alarm_id, alarms.kind, alarms.source_id, track_id, raised_at, last_observed_at, observations, image_keys, told_at, state, closed_at,
    false_alarm
FROM alarms JOIN unnest($2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[]) AS asked (kind, source_id, since, until)
    ON alarms.kind = asked.kind AND alarms.source_id = asked.source_id AND greatest(last_observed_at, closed_at) >= since
        AND raised_at <= until
WHERE community_id = $1 AND merged_into IS NULL ORDER BY alarm_id FOR UPDATE OF alarms
"""


@dataclass(frozen=True, slots=True)
class Span:
    """The time around what a source observed of a kind, in which alarms may be that it belongs to."""

    kind: str
    source_id: str
    since: datetime
    until: datetime


async def count_observations(tx: Transaction, observation_ids: Collection[UUID]) -> set[UUID]:
    """Notes that these observations are counted, and returns those that were not."""
    rows = await tx.fetch(_COUNT_OBSERVATIONS, tx.community_id, list(observation_ids), tx.now)
    return {row["observation_id"] for row in rows}


async def forget_observations(tx: Transaction, before: datetime, limit: int) -> int:
    """Forgets at most so many observations that were counted before, and says how many."""
    return await tx.execute(_FORGET_OBSERVATIONS, before, limit)


async def lock_episodes(tx: Transaction, spans: Sequence[Span]) -> dict[tuple[str, str], list[Episode]]:
    """The alarms of these spans by kind and source. No other transaction raises or changes any of these sources until this one ends."""
    await tx.execute(_LOCK_SOURCES, [f"{tx.community_id} {span.kind} {span.source_id}" for span in spans])
    columns = zip(*((span.kind, span.source_id, span.since, span.until) for span in spans), strict=True)
    found: dict[tuple[str, str], list[Episode]] = {(span.kind, span.source_id): [] for span in spans}
    for row in await tx.fetch(_LOCK_EPISODES, tx.community_id, *(list(column) for column in columns)):
        found[row["kind"], row["source_id"]].append(
            Episode(
                alarm_id=row["alarm_id"],
                track_id=row["track_id"],
                first_at=row["raised_at"],
                last_at=row["last_observed_at"],
                observations=row["observations"],
                image_keys=tuple(row["image_keys"]),
                told_at=row["told_at"],
                is_acknowledged=row["state"] == AlarmState.ACKNOWLEDGED,
                closed_at=row["closed_at"],
                was_false=row["false_alarm"],
            )
        )
    return found


_FIND_BUILDINGS = "SELECT zone_id, building_id FROM zones WHERE zone_id = ANY($1::uuid[]) AND building_id IS NOT NULL"


async def find_buildings(tx: Transaction, zone_ids: Iterable[UUID]) -> dict[UUID, UUID]:
    """The buildings of these zones; those that are in none are absent."""
    return {row["zone_id"]: row["building_id"] for row in await tx.fetch(_FIND_BUILDINGS, list(zone_ids))}


# Alarms.

_INSERT_ALARMS = """
INSERT INTO alarms (
    alarm_id, community_id, kind, severity, source_id, track_id, place, zone_id, door_id, building_id, raised_at, last_observed_at,
    observations, image_keys, told_at, escalate_after_s, care_plan_id
)
SELECT alarm_id, $1::uuid, kind, severity, source_id, track_id, place, zone_id, door_id, building_id, raised_at, last_observed_at,
    observations, string_to_array(image_keys, E'\\n'), told_at, escalate_after_s, care_plan_id
FROM unnest(
    $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::uuid[], $9::uuid[], $10::uuid[], $11::timestamptz[],
    $12::timestamptz[], $13::bigint[], $14::text[], $15::timestamptz[], $16::bigint[], $17::uuid[]
) AS raised (
    alarm_id, kind, severity, source_id, track_id, place, zone_id, door_id, building_id, raised_at, last_observed_at, observations,
    image_keys, told_at, escalate_after_s, care_plan_id
)
"""


async def insert_alarms(tx: Transaction, raised: Iterable[tuple[Alarm, str]]) -> None:
    """Writes alarms that are new, each with its track."""
    rows = [
        (
            *(alarm.alarm_id, alarm.kind, alarm.severity, alarm.source_id, track_id, alarm.place),
            *(alarm.zone_id, alarm.door_id, alarm.building_id, alarm.raised_at, alarm.last_observed_at, alarm.observations),
            *(_BETWEEN_KEYS.join(alarm.image_keys), alarm.told_at, alarm.escalate_after_s, alarm.care_plan_id),
        )
        for alarm, track_id in raised
    ]
    if rows:
        await tx.execute(_INSERT_ALARMS, tx.community_id, *(list(column) for column in zip(*rows, strict=True)))


_UPDATE_EPISODES = """
UPDATE alarms SET raised_at = changed.raised_at, last_observed_at = changed.last_observed_at, observations = changed.observations,
    image_keys = string_to_array(changed.image_keys, E'\\n')
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::text[])
    AS changed (alarm_id, raised_at, last_observed_at, observations, image_keys)
WHERE alarms.alarm_id = changed.alarm_id
"""
_MERGE = """
UPDATE alarms SET state = 'closed', closed_at = $3, cause = $4, merged_into = merged.into_id, version = version + 1
FROM unnest($1::uuid[], $2::uuid[]) AS merged (alarm_id, into_id) WHERE alarms.alarm_id = merged.alarm_id
RETURNING alarms.alarm_id, version
"""


async def update_episodes(tx: Transaction, changed: Sequence[Episode]) -> None:
    """Writes what observations changed of locked alarms."""
    rows = [(each.alarm_id, each.first_at, each.last_at, each.observations, _BETWEEN_KEYS.join(each.image_keys)) for each in changed]
    if rows:
        await tx.execute(_UPDATE_EPISODES, *(list(column) for column in zip(*rows, strict=True)))


async def merge(tx: Transaction, merged: Mapping[UUID, UUID]) -> dict[UUID, int]:
    """Closes locked alarms, each as a part of another, and returns their versions."""
    if not merged:
        return {}
    rows = await tx.fetch(_MERGE, list(merged), list(merged.values()), tx.now, MERGED)
    return {row["alarm_id"]: row["version"] for row in rows}


_ALARM: Final = """
SELECT alarm_id, kind, severity, state, source_id, place, zone_id, door_id, building_id, raised_at, last_observed_at, observations,
    image_keys, told_at, escalate_after_s, escalations, acknowledged_by, acknowledged_at, closed_by, closed_at, cause, false_alarm, note,
    work_order_id,    work_order_version, care_plan_id, version
FROM alarms"""
_FIND_ALARM = _ALARM + " WHERE alarm_id = $1"
_LOCK_ALARM = _FIND_ALARM + " FOR UPDATE"
_LOCK_OPEN_OF_CARE = _ALARM + " WHERE care_plan_id = ANY($1::uuid[]) AND state <> 'closed' ORDER BY alarm_id FOR UPDATE"
_LOCK_OPEN_OF_SOURCE = (
    _ALARM + " WHERE community_id = $1 AND source_id = $2 AND kind = $3 AND state <> 'closed' ORDER BY alarm_id FOR UPDATE"
)
_ALARMS = Listing(
    select=_ALARM,
    key=("told_at", "alarm_id"),
    descending=True,
    where="community_id = {}",
    filters={"state": one_of("state", AlarmState), "kind": "kind = {}", "source_id": "source_id = {}", "severity_min": "severity >= {}"},
)
_UPDATE_ALARM = """
UPDATE alarms SET state = $2, escalations = $3, acknowledged_by = $4, acknowledged_at = $5, closed_by = $6, closed_at = $7, cause = $8,
    false_alarm = $9, note = $10, work_order_id = $11, work_order_version = $12, care_plan_id = $13, version = $14
WHERE alarm_id = $1
"""


async def find_alarm(tx: Transaction, alarm_id: UUID, *, lock: bool = False) -> Alarm | None:
    """An alarm, locked until the transaction ends when asked for."""
    row = await tx.fetchrow(_LOCK_ALARM if lock else _FIND_ALARM, alarm_id)
    return None if row is None else _alarm(row)


async def lock_open_of_care(tx: Transaction, care_plan_ids: Collection[UUID]) -> list[Alarm]:
    """The alarms that are open about the persons of these care plans, locked."""
    return [_alarm(row) for row in await tx.fetch(_LOCK_OPEN_OF_CARE, list(care_plan_ids))]


async def lock_open_of_source(tx: Transaction, source_id: str, kind: str) -> list[Alarm]:
    """The alarms of a kind that are open at a source, locked."""
    return [_alarm(row) for row in await tx.fetch(_LOCK_OPEN_OF_SOURCE, tx.community_id, source_id, kind)]


async def list_alarms(
    tx: Transaction,
    state: AlarmState | None,
    kind: str | None,
    source_id: str | None,
    severity_min: Severity | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Alarm]:
    """The community's alarms, newest first; only those that fit what is asked."""
    asked = {"state": state, "kind": kind, "source_id": source_id, "severity_min": severity_min}
    return [_alarm(row) for row in await _ALARMS.fetch(tx, [tx.community_id], after, limit, **asked)]


async def update_alarm(tx: Transaction, alarm: Alarm) -> None:
    """Writes what became of a locked alarm."""
    await tx.execute(
        _UPDATE_ALARM,
        *(alarm.alarm_id, alarm.state, alarm.escalations, alarm.acknowledged_by, alarm.acknowledged_at, alarm.closed_by, alarm.closed_at),
        *(alarm.cause, alarm.false_alarm, alarm.note, alarm.work_order_id, alarm.work_order_version, alarm.care_plan_id, alarm.version),
    )


def _alarm(row: asyncpg.Record) -> Alarm:
    values = dict(row)
    values["severity"], values["state"] = Severity(row["severity"]), AlarmState(row["state"])
    return Alarm(**{**values, "image_keys": tuple(row["image_keys"])})


# Figures.

_FIGURES = """
SELECT figures.source_id, coalesce(watch_points.name, doors.name, '') AS name, figures.kind, raised, closed, false_alarms,
    acknowledged_after
FROM (
    SELECT source_id, kind, count(*) AS raised, count(*) FILTER (WHERE state = 'closed') AS closed,
        count(*) FILTER (WHERE state = 'closed' AND false_alarm) AS false_alarms,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY acknowledged_at - told_at) AS acknowledged_after
    FROM alarms WHERE community_id = $1 AND told_at >= $2 AND told_at < $3 AND merged_into IS NULL GROUP BY source_id, kind
    ORDER BY count(*) DESC, source_id, kind LIMIT $4
) AS figures
LEFT JOIN watch_points ON watch_points.community_id = $1 AND watch_points.source_id = figures.source_id
LEFT JOIN terminals ON terminals.community_id = $1 AND terminals.device_id = figures.source_id
LEFT JOIN doors ON doors.door_id = terminals.door_id
ORDER BY raised DESC, figures.source_id, figures.kind
"""


@dataclass(frozen=True, slots=True)
class SourceFigures:
    """What came of the alarms of one kind that a source raised. `acknowledged_after` is the middle one; None when none was acknowledged."""

    source_id: str
    name: str
    kind: str
    raised: int
    closed: int
    false_alarms: int
    acknowledged_after: timedelta | None


async def sum_up(tx: Transaction, since: datetime, until: datetime, limit: int) -> list[SourceFigures]:
    """Figures of the alarms that were raised from `since` until just before `until`, the sources that raised most first."""
    return [SourceFigures(*row) for row in await tx.fetch(_FIGURES, tx.community_id, since, until, limit)]


# What is known of devices.

_REMEMBER_STATUS = """
INSERT INTO device_statuses AS known (community_id, device_id, silent_since, version) VALUES ($1, $2, $3, $4)
ON CONFLICT (community_id, device_id) DO UPDATE SET silent_since = excluded.silent_since, version = excluded.version
WHERE known.version < excluded.version
"""
_FIND_TERMINAL_PLACE = """
SELECT door_id, name, zone_id FROM terminals JOIN doors USING (door_id)
WHERE terminals.community_id = $1 AND device_id = $2 AND removed_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class DoorPlace:
    """The door of a terminal, as far as an alarm tells of it."""

    door_id: UUID
    name: str
    zone_id: UUID


async def remember_status(tx: Transaction, device_id: str, silent_since: datetime | None, version: int) -> bool:
    """Keeps since when a device is silent, None when it is heard; False when something newer is known."""
    return await tx.execute(_REMEMBER_STATUS, tx.community_id, device_id, silent_since, version) == 1


async def find_terminal_place(tx: Transaction, device_id: str) -> DoorPlace | None:
    """Where a terminal is; None for a device that is none."""
    row = await tx.fetchrow(_FIND_TERMINAL_PLACE, tx.community_id, device_id)
    return None if row is None else DoorPlace(*row)


_LIST_SILENT_TERMINALS = """
SELECT device_id FROM terminals JOIN doors USING (door_id, community_id) JOIN device_statuses USING (community_id, device_id)
WHERE zone_id = $1 AND removed_at IS NULL AND silent_since IS NOT NULL AND NOT EXISTS (
    SELECT FROM alarms
    WHERE alarms.community_id = $2 AND source_id = device_id AND alarms.kind = $3 AND state <> 'closed'
)
ORDER BY device_id
"""


async def list_silent_terminals(tx: Transaction, zone_id: UUID) -> list[str]:
    """The terminals of a zone that are silent and of which no alarm says so."""
    return [row["device_id"] for row in await tx.fetch(_LIST_SILENT_TERMINALS, zone_id, tx.community_id, TERMINAL_SILENT)]
