"""The methods of linli.workorders.v1.WorkOrdersService about orders: reporting, looking, triage, work, and what the reporter says."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit import telemetry
from servicekit.database import Transaction
from servicekit.identifiers import derived_id, new_id
from servicekit.paging import page
from servicekit.rpc import Call, outside_transaction
from servicekit.sealing import DataKeys, SealBrokenError, Sealed
from servicekit.texts import in_callers_language, text
from servicekit.times import to_datetime, to_timestamp
from services.workorders import (
    list_store,
    order_operations,
    order_store,
    photo_operations,
    photo_store,
    photos,
    report_operations,
    work_operations,
)
from services.workorders.category_rpc import KIND_MESSAGE, KINDS, PRIORITIES, PRIORITY_MESSAGE
from services.workorders.dispatch import explain
from services.workorders.order_store import Step
from services.workorders.orders import Order, State, Target, Viewer, Visibility, WaitsFor
from services.workorders.photo_store import Photo
from services.workorders.report_operations import Report

_STATES: Final = {
    pb.ORDER_STATE_REPORTED: State.REPORTED,
    pb.ORDER_STATE_TRIAGED: State.TRIAGED,
    pb.ORDER_STATE_DISPATCHED: State.DISPATCHED,
    pb.ORDER_STATE_ACCEPTED: State.ACCEPTED,
    pb.ORDER_STATE_ON_SITE: State.ON_SITE,
    pb.ORDER_STATE_WAITING: State.WAITING,
    pb.ORDER_STATE_DONE: State.DONE,
    pb.ORDER_STATE_CONFIRMED: State.CONFIRMED,
    pb.ORDER_STATE_REOPENED: State.REOPENED,
    pb.ORDER_STATE_CANCELLED: State.CANCELLED,
}
_STATE_MESSAGE: Final = {state: message for message, state in _STATES.items()}
_VISIBILITIES: Final = {
    pb.VISIBILITY_HOUSEHOLD: Visibility.HOUSEHOLD,
    pb.VISIBILITY_NEIGHBOURS: Visibility.NEIGHBOURS,
    pb.VISIBILITY_REPORTER: Visibility.REPORTER,
}
_VISIBILITY_MESSAGE: Final = {visibility: message for message, visibility in _VISIBILITIES.items()}
_WAITS: Final = {
    pb.WAITS_FOR_PART: WaitsFor.PART,
    pb.WAITS_FOR_RESIDENT: WaitsFor.RESIDENT,
    pb.WAITS_FOR_PAYMENT: WaitsFor.PAYMENT,
}
# The steps whose notes were written for everybody who may see the order.
_FOR_ALL: Final = frozenset({"commented", "paused", "done"})
_WAITS_MESSAGE: Final = {waits: message for message, waits in _WAITS.items()}


# Reporting and triage.


@outside_transaction
async def report_order(call: Call, request: pb.ReportOrderRequest) -> pb.Order:
    """Reports something. Outside, because the photos are looked at first; the order's id comes from the idempotency key, so it is one."""
    report = Report(
        category_id=UUID(request.category_id),
        title=text(request.title, "title"),
        description=_lines(request.description, "description"),
        household_id=_id(request.household_id),
        building_id=_id(request.building_id),
        place=_line(request.place, "place"),
        contact_phone=request.contact_phone,
        visibility=_VISIBILITIES.get(request.visibility),
        priority=PRIORITIES.get(request.priority),
    )
    key = call.headers.get("idempotency-key")
    caller = call.caller
    order_id = derived_id("workorders.report", str(caller.community_id), str(caller.account_id), key) if key else new_id()
    looked_at = await photos.look_at(call, [UUID(photo_id) for photo_id in request.photo_ids])
    async with call.transaction() as tx:
        return await order_message(tx, await report_operations.report_order(tx, order_id, report, looked_at))


async def triage_order(tx: Transaction, request: pb.TriageOrderRequest) -> pb.Order:
    """Checks a new order."""
    order = await report_operations.triage(
        tx,
        UUID(request.order_id),
        category_id=_id(request.category_id),
        priority=PRIORITIES.get(request.priority),
        place=_line(request.place, "place"),
        visibility=_VISIBILITIES.get(request.visibility),
        note=_lines(request.note, "note"),
    )
    return await order_message(tx, order)


# Looking.


async def get_order(tx: Transaction, request: pb.GetOrderRequest) -> pb.Order:
    """An order, for those who may see it."""
    return await order_message(tx, await order_operations.find_visible(tx, UUID(request.order_id)))


async def list_order_steps(tx: Transaction, request: pb.ListOrderStepsRequest) -> pb.ListOrderStepsResponse:
    """What happened to an order, oldest first. Neighbours are not told who did it, and read only what was written for all."""
    who = await order_operations.viewer(tx)
    order = order_operations.visible(await order_store.find_order(tx, UUID(request.order_id)), who)
    steps, token = await page(request, int, partial(order_store.list_steps, tx, order.order_id), lambda step: step.version)
    is_party = photo_operations.is_party(order, who)
    return pb.ListOrderStepsResponse(steps=[_step(each, is_party=is_party) for each in steps], next_page_token=token)


def _step(step: Step, *, is_party: bool) -> pb.OrderStep:
    return pb.OrderStep(
        step_id=str(derived_id("workorders.step", str(step.order_id), str(step.version))),
        action=step.action,
        state=_STATE_MESSAGE[step.state],
        at=to_timestamp(step.at),
        account_id=str(step.account_id or "") if is_party else "",
        note=step.note if is_party or step.action in _FOR_ALL else "",
    )


async def list_my_orders(tx: Transaction, request: pb.ListMyOrdersRequest) -> pb.ListOrdersResponse:
    """The caller's own, newest first."""
    found, token = await page(request, int, partial(list_store.list_own, tx, request.open_only), lambda order: order.number)
    return pb.ListOrdersResponse(orders=await order_messages(tx, found), next_page_token=token)


async def list_public_orders(tx: Transaction, request: pb.ListPublicOrdersRequest) -> pb.ListOrdersResponse:
    """What is everybody's in the caller's building and on the grounds; who lives nowhere here sees nothing."""
    who = await order_operations.viewer(tx)
    if not who.is_resident:
        return pb.ListOrdersResponse()
    found, token = await page(request, int, partial(list_store.list_public, tx, who.building_ids), lambda order: order.number)
    return pb.ListOrdersResponse(orders=await order_messages(tx, found, is_public=True), next_page_token=token)


async def list_orders(tx: Transaction, request: pb.ListOrdersRequest) -> pb.ListOrdersResponse:
    """All orders, newest first."""
    asked = {
        "state": _STATES.get(request.state),
        "open_only": request.open_only,
        "kind": KINDS.get(request.kind),
        "category_id": _id(request.category_id),
        "priority": PRIORITIES.get(request.priority),
        "team_id": _id(request.team_id),
        "technician_account_id": _id(request.technician_account_id),
        "building_id": _id(request.building_id),
        "missed_only": request.missed_only,
    }
    found, token = await page(request, int, partial(list_store.list_all, tx, asked), lambda order: order.number)
    return pb.ListOrdersResponse(orders=await order_messages(tx, found), next_page_token=token)


async def list_my_jobs(tx: Transaction, request: pb.ListMyJobsRequest) -> pb.ListJobsResponse:
    """The caller's jobs, the most urgent first."""
    found, token = await page(request, tuple[int, int], partial(list_store.list_jobs, tx), lambda job: (job.priority, job.number))
    return pb.ListJobsResponse(jobs=await order_messages(tx, found), next_page_token=token)


# Work.


async def plan_visit(tx: Transaction, request: pb.PlanVisitRequest) -> pb.Order:
    """Agrees on when somebody comes."""
    visit_from, visit_until = to_datetime(request.visit_from, "visit_from"), to_datetime(request.visit_until, "visit_until")
    return await order_message(tx, await work_operations.plan_visit(tx, UUID(request.order_id), visit_from, visit_until))


async def arrive_on_site(tx: Transaction, request: pb.ArriveOnSiteRequest) -> pb.Order:
    """The caller is there."""
    return await order_message(tx, await work_operations.arrive(tx, UUID(request.order_id)))


async def pause_order(tx: Transaction, request: pb.PauseOrderRequest) -> pb.Order:
    """The work cannot go on."""
    reason = text(request.reason, "reason", lines=True)
    return await order_message(tx, await work_operations.pause(tx, UUID(request.order_id), _WAITS[request.waits_for], reason))


async def resume_order(tx: Transaction, request: pb.ResumeOrderRequest) -> pb.Order:
    """The work goes on."""
    return await order_message(tx, await work_operations.resume(tx, UUID(request.order_id)))


async def complete_order(tx: Transaction, request: pb.CompleteOrderRequest) -> pb.Order:
    """The work is done."""
    resolution = text(request.resolution, "resolution", lines=True)
    return await order_message(tx, await work_operations.complete(tx, UUID(request.order_id), request.cause, resolution))


async def confirm_order(tx: Transaction, request: pb.ConfirmOrderRequest) -> pb.Order:
    """The reporter says that it is done."""
    return await order_message(tx, await work_operations.confirm(tx, UUID(request.order_id)))


async def reopen_order(tx: Transaction, request: pb.ReopenOrderRequest) -> pb.Order:
    """The reporter says that it is not."""
    reason = text(request.reason, "reason", lines=True)
    return await order_message(tx, await work_operations.reopen_own(tx, UUID(request.order_id), reason))


async def cancel_order(tx: Transaction, request: pb.CancelOrderRequest) -> pb.Order:
    """The reporter, or staff, takes an order back."""
    reason = text(request.reason, "reason", lines=True)
    return await order_message(tx, await work_operations.cancel(tx, UUID(request.order_id), reason))


async def comment_order(tx: Transaction, request: pb.CommentOrderRequest) -> pb.Order:
    """Writes something to an order."""
    return await order_message(tx, await work_operations.comment(tx, UUID(request.order_id), text(request.text, "text", lines=True)))


# Orders as the contract says them.


async def order_message(tx: Transaction, order: Order) -> pb.Order:
    """An order, as far as the caller is shown it."""
    (message,) = await order_messages(tx, [order])
    return message


async def order_messages(tx: Transaction, orders: Sequence[Order], *, is_public: bool = False) -> list[pb.Order]:
    """Orders, as far as the caller is shown them: a neighbour, and everybody in a public list, sees what it is and not whose."""
    if not orders:
        return []
    who = await order_operations.viewer(tx)
    pictures = await photo_store.list_photos(tx, [order.order_id for order in orders])
    called = [] if is_public else [order.order_id for order in orders if who.may_call(order)]
    phones = await order_store.find_contacts(tx, called) if called else {}
    return [_message(tx, order, pictures.get(order.order_id, ()), phones, who, is_public=is_public) for order in orders]


def _message(
    tx: Transaction, order: Order, pictures: Sequence[Photo], phones: Mapping[UUID, Sealed], who: Viewer, *, is_public: bool
) -> pb.Order:
    due = {target: order.due_at(target) if _is_pending(order, target) else None for target in Target}
    message = pb.Order(
        order_id=str(order.order_id),
        number=order.number,
        kind=KIND_MESSAGE[order.kind],
        category_id=str(order.category_id),
        priority=PRIORITY_MESSAGE[order.priority],
        state=_STATE_MESSAGE[order.state],
        waits_for=_WAITS_MESSAGE[order.waits_for] if order.waits_for else pb.WAITS_FOR_UNSPECIFIED,
        title=order.title,
        description=order.description,
        building_id=str(order.building_id or ""),
        place=order.place,
        visibility=_VISIBILITY_MESSAGE[order.visibility],
        photos=[pb.Photo(photo_id=str(each.photo_id), url=photo_operations.address(tx, each)) for each in pictures],
        visit_from=to_timestamp(order.visit_from),
        visit_until=to_timestamp(order.visit_until),
        reported_at=to_timestamp(order.reported_at),
        accepted_at=to_timestamp(order.accepted_at),
        on_site_at=to_timestamp(order.on_site_at),
        done_at=to_timestamp(order.done_at),
        closed_at=to_timestamp(order.closed_at),
        response_due_at=to_timestamp(due[Target.RESPONSE]),
        on_site_due_at=to_timestamp(due[Target.ON_SITE]),
        done_due_at=to_timestamp(due[Target.DONE]),
        missed=order.missed,
        duplicate_of_order_id=str(order.duplicate_of_order_id or ""),
        reopened=order.reopened,
        cause=order.cause,
        resolution=order.resolution,
        origin=order.origin,
        origin_id=order.origin_id,
    )
    if not is_public and photo_operations.is_party(order, who):
        message.MergeFrom(_private(order))
        for shown, picture in zip(message.photos, pictures, strict=True):
            shown.uploaded_by_account_id = str(picture.uploaded_by)
        message.contact_phone = _phone(tx, order, phones)
    return message


def _private(order: Order) -> pb.Order:
    """What is for the reporter, staff and who works on it alone."""
    return pb.Order(
        household_id=str(order.household_id or ""),
        reporter_account_id=str(order.reporter_account_id or ""),
        team_id=str(order.team_id or ""),
        technician_account_id=str(order.technician_account_id or order.offered_to_account_id or ""),
        dispatch_reason=in_callers_language(*explain(order.dispatch_reason)),
        stars=order.stars,
        rating_text=order.rating_text,
        charge_id=str(order.charge_id or ""),
        amount_fen=order.amount_fen,
        paid=order.is_paid,
    )


def _is_pending(order: Order, target: Target) -> bool:
    return order.awaits(target) and not order.is_missed(target) and order.clock_stopped_at is None


def _phone(tx: Transaction, order: Order, phones: Mapping[UUID, Sealed]) -> str:
    sealed = phones.get(order.order_id)
    if sealed is None:
        return ""
    try:
        return tx.resource(DataKeys).open(sealed, report_operations.phone_row(order.order_id)).decode()
    except SealBrokenError:
        # The order is still to be read and worked on.
        telemetry.log.error("contact_not_opened", order_id=str(order.order_id))
        return ""


def _id(typed: str) -> UUID | None:
    return UUID(typed) if typed else None


def _line(typed: str, field: str) -> str:
    return text(typed, field) if typed else ""


def _lines(typed: str, field: str) -> str:
    return text(typed, field, lines=True) if typed else ""
