"""The SQL of where cameras and sensors are, and of the maintenances that explain what they observe."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.listing import Listing
from services.access.alarms import Maintenance

# Watch points.


class WatchPointKind(StrEnum):
    """What observes."""

    CAMERA = "camera"
    SENSOR = "sensor"


@dataclass(frozen=True, slots=True)
class WatchPoint:
    """A camera or sensor and the zone that it watches."""

    watch_point_id: UUID
    source_id: str
    name: str
    kind: WatchPointKind
    zone_id: UUID
    in_use: bool = True


_INSERT_WATCH_POINT = """
INSERT INTO watch_points (watch_point_id, community_id, source_id, name, kind, zone_id) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""


async def insert_watch_point(tx: Transaction, point: WatchPoint) -> bool:
    """Adds a watch point; False when its source has one."""
    row = (point.watch_point_id, tx.community_id, point.source_id, point.name, point.kind, point.zone_id)
    return await tx.execute(_INSERT_WATCH_POINT, *row) == 1


_WATCH_POINT: Final = "SELECT watch_point_id, source_id, name, kind, zone_id, in_use, community_id FROM watch_points"
_LOCK_WATCH_POINT = _WATCH_POINT + " WHERE watch_point_id = $1 FOR UPDATE"
_WATCH_POINTS = Listing(select=_WATCH_POINT, key=("name", "watch_point_id"), where="community_id = {}", filters={"zone_id": "zone_id = {}"})
_OF_SOURCES: Final = " WHERE (community_id, source_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))"
_FIND_WATCH_POINTS = _WATCH_POINT + _OF_SOURCES
_UPDATE_WATCH_POINT = "UPDATE watch_points SET name = $2, zone_id = $3, in_use = $4 WHERE watch_point_id = $1"


async def lock_watch_point(tx: Transaction, watch_point_id: UUID) -> WatchPoint | None:
    """A watch point, locked until the transaction ends."""
    row = await tx.fetchrow(_LOCK_WATCH_POINT, watch_point_id)
    return None if row is None else _watch_point(row)


async def update_watch_point(tx: Transaction, point: WatchPoint) -> None:
    """Writes a locked watch point's name, zone and whether it is in use."""
    await tx.execute(_UPDATE_WATCH_POINT, point.watch_point_id, point.name, point.zone_id, point.in_use)


async def list_watch_points(tx: Transaction, zone_id: UUID | None, after: tuple[str, UUID] | None, limit: int) -> list[WatchPoint]:
    """The community's watch points by name; only those of a zone."""
    return [_watch_point(row) for row in await _WATCH_POINTS.fetch(tx, [tx.community_id], after, limit, zone_id=zone_id)]


async def find_watch_points(tx: Transaction, sources: Collection[tuple[UUID, str]]) -> dict[tuple[UUID, str], WatchPoint]:
    """The watch points of these sources, each named by its community and its id, in any scope."""
    if not sources:
        return {}
    communities, source_ids = zip(*sources, strict=True)
    rows = await tx.fetch(_FIND_WATCH_POINTS, list(communities), list(source_ids))
    return {(row["community_id"], row["source_id"]): _watch_point(row) for row in rows}


def _watch_point(row: asyncpg.Record) -> WatchPoint:
    kind = WatchPointKind(row["kind"])
    return WatchPoint(row["watch_point_id"], row["source_id"], row["name"], kind, row["zone_id"], row["in_use"])


# Maintenances.

_INSERT_MAINTENANCE = """
INSERT INTO maintenances (maintenance_id, community_id, zone_id, source_id, starts_at, ends_at, reason, planned_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def insert_maintenance(tx: Transaction, planned: Maintenance) -> None:
    """Adds a maintenance that the caller plans."""
    row = (planned.maintenance_id, tx.community_id, planned.zone_id, planned.source_id, planned.starts_at, planned.ends_at, planned.reason)
    await tx.execute(_INSERT_MAINTENANCE, *row, tx.caller.account_id)


_MAINTENANCE: Final = "SELECT maintenance_id, zone_id, source_id, starts_at, ends_at, reason, suppressed FROM maintenances"
_LOCK_MAINTENANCE = _MAINTENANCE + " WHERE maintenance_id = $1 FOR UPDATE"
_END_MAINTENANCE = "UPDATE maintenances SET ends_at = $2 WHERE maintenance_id = $1"
_MAINTENANCES = Listing(select=_MAINTENANCE, key=("maintenance_id",), descending=True, where="community_id = {}")
_FIND_MAINTENANCES = (
    _MAINTENANCE + " WHERE zone_id = ANY($1::uuid[]) AND starts_at <= $3::timestamptz AND ends_at > $2::timestamptz ORDER BY maintenance_id"
)
_ADD_SUPPRESSED = """
UPDATE maintenances SET suppressed = maintenances.suppressed + counted.suppressed
FROM unnest($1::uuid[], $2::bigint[]) AS counted (maintenance_id, suppressed) WHERE maintenances.maintenance_id = counted.maintenance_id
"""


async def lock_maintenance(tx: Transaction, maintenance_id: UUID) -> Maintenance | None:
    """A maintenance, locked until the transaction ends."""
    row = await tx.fetchrow(_LOCK_MAINTENANCE, maintenance_id)
    return None if row is None else Maintenance(*row)


async def end_maintenance(tx: Transaction, maintenance_id: UUID, at: datetime) -> None:
    """Ends a locked maintenance."""
    await tx.execute(_END_MAINTENANCE, maintenance_id, at)


async def list_maintenances(tx: Transaction, after: UUID | None, limit: int) -> list[Maintenance]:
    """The community's maintenances, newest first."""
    return [Maintenance(*row) for row in await _MAINTENANCES.fetch(tx, [tx.community_id], after, limit)]


async def find_maintenances(tx: Transaction, zone_ids: Collection[UUID], since: datetime, until: datetime) -> list[Maintenance]:
    """The maintenances in these zones that go on at some instant between the two."""
    return [Maintenance(*row) for row in await tx.fetch(_FIND_MAINTENANCES, list(zone_ids), since, until)] if zone_ids else []


async def add_suppressed(tx: Transaction, suppressed: Mapping[UUID, int]) -> None:
    """Counts observations that maintenances explain."""
    if suppressed:
        ordered = sorted(suppressed.items())
        await tx.execute(_ADD_SUPPRESSED, [key for key, _ in ordered], [count for _, count in ordered])
