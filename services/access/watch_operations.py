"""What can be done with watch points and maintenances."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.timers import Due, set_timers
from services.access import watch_store
from services.access.alarms import Maintenance
from services.access.door_operations import check_zones
from services.access.watch_store import WatchPoint, WatchPointKind

MAINTENANCE_MAX: Final = timedelta(days=14)
# The kind of the timer that fires when a maintenance is over.
ENDS: Final = "maintenance_ends"


async def create_watch_point(tx: Transaction, source_id: str, name: str, kind: WatchPointKind, zone_id: UUID) -> WatchPoint:
    """Says where a camera or sensor is. Raises NotFound for a zone that is not there, and Conflict when the source has a place."""
    await check_zones(tx, [zone_id])
    point = WatchPoint(new_id(), source_id, name, kind, zone_id)
    if not await watch_store.insert_watch_point(tx, point):
        raise Conflict("access.watch_point_exists", "该设备已设置监控点", "This camera or sensor has a watch point")
    return point


async def update_watch_point(tx: Transaction, watch_point_id: UUID, name: str, zone_id: UUID | None, in_use: bool | None) -> WatchPoint:
    """Changes a watch point; an empty name and None leave things as they are. Raises NotFound."""
    point = await watch_store.lock_watch_point(tx, watch_point_id)
    if point is None:
        raise NotFound("access.watch_point_unknown", "没有找到该监控点", "There is no such watch point")
    if zone_id is not None:
        await check_zones(tx, [zone_id])
    in_use = point.in_use if in_use is None else in_use
    point = replace(point, name=name or point.name, zone_id=zone_id or point.zone_id, in_use=in_use)
    await watch_store.update_watch_point(tx, point)
    return point


async def plan_maintenance(
    tx: Transaction, zone_id: UUID, source_id: str, starts_at: datetime | None, ends_at: datetime, reason: str
) -> Maintenance:
    """Announces maintenance; from now when it says no start, or one that is over: what was observed before is no wonder of it.

    Raises NotFound for a zone that is not there, and Invalid for a time that is none or longer than 14 days.
    """
    begins = max(starts_at or tx.now, tx.now)
    if not begins < ends_at <= begins + MAINTENANCE_MAX:
        field = FieldViolation("ends_at", "access.maintenance_time", "must lie after the start, and at most 14 days after it")
        raise Invalid(
            "access.maintenance_time", "结束时间须在开始之后，且不超过 14 天", "The time of the maintenance is wrong", fields=[field]
        )
    await check_zones(tx, [zone_id])
    planned = Maintenance(new_id(), zone_id, source_id, begins, ends_at, reason, 0)
    await watch_store.insert_maintenance(tx, planned)
    await set_timers(tx, [Due(ENDS, planned.maintenance_id, "", ends_at)])
    return planned


async def end_maintenance(tx: Transaction, maintenance_id: UUID) -> Maintenance:
    """Ends a maintenance now; one that has not begun never will. Raises NotFound, and Conflict for one that is over."""
    planned = await watch_store.lock_maintenance(tx, maintenance_id)
    if planned is None:
        raise NotFound("access.maintenance_unknown", "没有找到该维护", "There is no such maintenance")
    if planned.ends_at <= tx.now:
        raise Conflict("access.maintenance_over", "该维护已结束", "This maintenance is over")
    ended = replace(planned, ends_at=max(tx.now, planned.starts_at))
    await watch_store.end_maintenance(tx, maintenance_id, ended.ends_at)
    await set_timers(tx, [Due(ENDS, maintenance_id, "", ended.ends_at)])
    return ended
