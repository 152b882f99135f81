"""The methods of linli.access.v1.AccessService about watch points and maintenances."""

from functools import partial
from typing import Final
from uuid import UUID

from linli.access.v1 import alarms_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_datetime, to_timestamp
from services.access import watch_operations, watch_store
from services.access.alarms import Maintenance
from services.access.watch_store import WatchPoint, WatchPointKind

_KIND_MESSAGE: Final = {kind: pb.WatchPointKind.Value(f"WATCH_POINT_KIND_{kind.name}") for kind in WatchPointKind}
_KIND: Final = {message: kind for kind, message in _KIND_MESSAGE.items()}


async def create_watch_point(tx: Transaction, request: pb.CreateWatchPointRequest) -> pb.WatchPoint:
    """Says where a camera or sensor is."""
    name, kind = text(request.name, "name"), _KIND[request.kind]
    return _watch_point(await watch_operations.create_watch_point(tx, request.source_id, name, kind, UUID(request.zone_id)))


async def update_watch_point(tx: Transaction, request: pb.UpdateWatchPointRequest) -> pb.WatchPoint:
    """Moves a watch point, renames it or takes it out of use."""
    point = await watch_operations.update_watch_point(
        tx,
        UUID(request.watch_point_id),
        text(request.name, "name") if request.name else "",
        UUID(request.zone_id) if request.zone_id else None,
        request.in_use if request.HasField("in_use") else None,
    )
    return _watch_point(point)


async def list_watch_points(tx: Transaction, request: pb.ListWatchPointsRequest) -> pb.ListWatchPointsResponse:
    """Cameras and sensors by name."""
    fetch = partial(watch_store.list_watch_points, tx, UUID(request.zone_id) if request.zone_id else None)
    points, token = await page(request, tuple[str, UUID], fetch, lambda point: (point.name, point.watch_point_id))
    return pb.ListWatchPointsResponse(watch_points=[_watch_point(point) for point in points], next_page_token=token)


def _watch_point(point: WatchPoint) -> pb.WatchPoint:
    return pb.WatchPoint(
        watch_point_id=str(point.watch_point_id),
        source_id=point.source_id,
        name=point.name,
        kind=_KIND_MESSAGE[point.kind],
        zone_id=str(point.zone_id),
        in_use=point.in_use,
    )


async def plan_maintenance(tx: Transaction, request: pb.PlanMaintenanceRequest) -> pb.Maintenance:
    """Announces maintenance."""
    planned = await watch_operations.plan_maintenance(
        tx,
        UUID(request.zone_id),
        request.source_id,
        to_datetime(request.starts_at, "starts_at") if request.HasField("starts_at") else None,
        to_datetime(request.ends_at, "ends_at"),
        text(request.reason, "reason"),
    )
    return _maintenance(planned)


async def end_maintenance(tx: Transaction, request: pb.EndMaintenanceRequest) -> pb.Maintenance:
    """Ends a maintenance now."""
    return _maintenance(await watch_operations.end_maintenance(tx, UUID(request.maintenance_id)))


async def list_maintenances(tx: Transaction, request: pb.ListMaintenancesRequest) -> pb.ListMaintenancesResponse:
    """Maintenances, newest first."""
    fetch = partial(watch_store.list_maintenances, tx)
    found, token = await page(request, UUID, fetch, lambda planned: planned.maintenance_id)
    return pb.ListMaintenancesResponse(maintenances=[_maintenance(planned) for planned in found], next_page_token=token)


def _maintenance(planned: Maintenance) -> pb.Maintenance:
    return pb.Maintenance(
        maintenance_id=str(planned.maintenance_id),
        zone_id=str(planned.zone_id),
        source_id=planned.source_id,
        starts_at=to_timestamp(planned.starts_at),
        ends_at=to_timestamp(planned.ends_at),
        reason=planned.reason,
        suppressed=planned.suppressed,
    )
