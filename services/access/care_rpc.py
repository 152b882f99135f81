"""The methods of linli.access.v1.AccessService about care."""

from functools import partial
from typing import Final
from uuid import UUID

from linli.access.v1 import care_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.times import to_timestamp
from services.access import care_operations, care_store
from services.access.areas import Position
from services.access.care import CareKind, CarePlan

_KIND_MESSAGE: Final = {kind: pb.CareKind.Value(f"CARE_KIND_{kind.name}") for kind in CareKind}
_KIND: Final = {message: kind for kind, message in _KIND_MESSAGE.items()}


async def start_care(tx: Transaction, request: pb.StartCareRequest) -> pb.CarePlan:
    """Begins care for the caller or, with them as guardian, for a member of their household."""
    plan = await care_operations.start(
        tx,
        _KIND[request.kind],
        UUID(request.account_id) if request.account_id else None,
        [UUID(account_id) for account_id in request.guardian_account_ids],
        list(request.source_ids),
        [Position(corner.latitude, corner.longitude) for corner in request.safe_area],
    )
    return await _answer(tx, plan)


async def stop_care(tx: Transaction, request: pb.StopCareRequest) -> pb.CarePlan:
    """Ends care; what was learned of the person is deleted."""
    return await _answer(tx, await care_operations.stop(tx, UUID(request.care_plan_id)))


async def report_wellbeing(tx: Transaction, request: pb.ReportWellbeingRequest) -> pb.CarePlan:
    """Says that somebody looked after the person."""
    return await _answer(tx, await care_operations.report_wellbeing(tx, UUID(request.care_plan_id)))


async def list_my_care_plans(tx: Transaction, request: pb.ListMyCarePlansRequest) -> pb.ListCarePlansResponse:
    """Care plans of the caller and of those whose guardian they are, newest first."""
    fetch = partial(care_store.list_plans_concerning, tx, tx.caller.account_id)
    plans, token = await page(request, UUID, fetch, lambda plan: plan.care_plan_id)
    alarms = await care_store.find_open_alarms(tx, [plan.care_plan_id for plan in plans])
    return pb.ListCarePlansResponse(care_plans=[_plan(tx, plan, alarms.get(plan.care_plan_id)) for plan in plans], next_page_token=token)


async def _answer(tx: Transaction, plan: CarePlan) -> pb.CarePlan:
    alarms = await care_store.find_open_alarms(tx, [plan.care_plan_id])
    return _plan(tx, plan, alarms.get(plan.care_plan_id))


def _plan(tx: Transaction, plan: CarePlan, alarm_id: UUID | None) -> pb.CarePlan:
    is_learned = plan.worry_at is not None and tx.now >= plan.learned_at
    return pb.CarePlan(
        care_plan_id=str(plan.care_plan_id),
        kind=_KIND_MESSAGE[plan.kind],
        account_id=str(plan.account_id),
        guardian_account_ids=map(str, plan.guardian_ids),
        source_ids=plan.source_ids,
        safe_area=[pb.Point(latitude=corner.latitude, longitude=corner.longitude) for corner in plan.safe_area],
        started_at=to_timestamp(plan.started_at),
        stopped_at=to_timestamp(plan.stopped_at),
        last_activity_at=to_timestamp(plan.last_activity_at),
        worry_at=to_timestamp(plan.worry_at if is_learned else None),
        alarm_id=str(alarm_id or ""),
    )
