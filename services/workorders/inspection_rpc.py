"""The methods of linli.workorders.v1.WorkOrdersService about inspections."""

from functools import partial
from uuid import UUID

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.database import Transaction
from servicekit.identifiers import new_id
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_timestamp
from services.workorders import inspection_operations, inspection_store
from services.workorders.inspection_store import Inspection


async def create_inspection(tx: Transaction, request: pb.CreateInspectionRequest) -> pb.Inspection:
    """Plans an inspection."""
    inspection = Inspection(
        inspection_id=new_id(),
        name=text(request.name, "name"),
        category_id=UUID(request.category_id),
        building_id=UUID(request.building_id) if request.building_id else None,
        place=text(request.place, "place") if request.place else "",
        starts_at=request.starts_at,
        recurrence=request.recurrence,
        checklist=[text(each, f"checklist[{index}]") for index, each in enumerate(request.checklist)],
        next_at=None,
    )
    return _inspection(await inspection_operations.create_inspection(tx, inspection))


async def end_inspection(tx: Transaction, request: pb.EndInspectionRequest) -> pb.Inspection:
    """Ends an inspection."""
    return _inspection(await inspection_operations.end_inspection(tx, UUID(request.inspection_id)))


async def list_inspections(tx: Transaction, request: pb.ListInspectionsRequest) -> pb.ListInspectionsResponse:
    """Inspections by name."""
    fetch = partial(inspection_store.list_inspections, tx)
    inspections, token = await page(request, tuple[str, UUID], fetch, lambda each: (each.name, each.inspection_id))
    return pb.ListInspectionsResponse(inspections=[_inspection(each) for each in inspections], next_page_token=token)


def _inspection(inspection: Inspection) -> pb.Inspection:
    return pb.Inspection(
        inspection_id=str(inspection.inspection_id),
        name=inspection.name,
        category_id=str(inspection.category_id),
        building_id=str(inspection.building_id or ""),
        place=inspection.place,
        starts_at=inspection.starts_at,
        recurrence=inspection.recurrence,
        checklist=inspection.checklist,
        next_at=to_timestamp(inspection.next_at),
        ended_at=to_timestamp(inspection.ended_at),
    )
