"""The methods of linli.workorders.v1.WorkOrdersService about who gets an order."""

from functools import partial
from uuid import UUID

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import in_callers_language, text
from services.workorders import dispatch_operations, list_store, order_operations, technician_store
from services.workorders.dispatch import Candidate, explain, to_facts
from services.workorders.order_rpc import order_message, order_messages


async def dispatch_order(tx: Transaction, request: pb.DispatchOrderRequest) -> pb.Order:
    """Gives an order to a technician, or offers it to whoever fits best."""
    technician_account_id = UUID(request.technician_account_id) if request.technician_account_id else None
    note = text(request.note, "note", lines=True) if request.note else ""
    return await order_message(tx, await dispatch_operations.dispatch_order(tx, UUID(request.order_id), technician_account_id, note))


async def list_candidates(tx: Transaction, request: pb.ListCandidatesRequest) -> pb.ListCandidatesResponse:
    """The technicians for an order, the best first, and why."""
    order = await order_operations.find_visible(tx, UUID(request.order_id))
    candidates = await dispatch_operations.list_candidates(tx, order)
    return pb.ListCandidatesResponse(candidates=[_candidate(each) for each in candidates])


def _candidate(candidate: Candidate) -> pb.Candidate:
    technician, reason = candidate.technician, candidate.reason
    return pb.Candidate(
        account_id=str(technician.account_id),
        name=technician.name,
        reason=in_callers_language(*explain(to_facts(reason))),
        on_shift=bool(reason.on_shift),
        open_jobs=technician.open_jobs,
        distance_m=-1 if reason.distance_m is None else reason.distance_m,
    )


async def list_open_jobs(tx: Transaction, request: pb.ListOpenJobsRequest) -> pb.ListJobsResponse:
    """What the caller may take, the most urgent first; nothing for who is no technician."""
    technician = await technician_store.find_technician(tx, tx.caller.account_id)
    if technician is None or not technician.in_use:
        return pb.ListJobsResponse()
    fetch = partial(list_store.list_open_jobs, tx, technician.skills)
    found, token = await page(request, tuple[int, int], fetch, lambda job: (job.priority, job.number))
    return pb.ListJobsResponse(jobs=await order_messages(tx, found), next_page_token=token)


async def accept_order(tx: Transaction, request: pb.AcceptOrderRequest) -> pb.Order:
    """The caller takes an order."""
    return await order_message(tx, await dispatch_operations.accept(tx, UUID(request.order_id)))


async def pass_on_order(tx: Transaction, request: pb.PassOnOrderRequest) -> pb.Order:
    """The caller passes an order on."""
    return await order_message(
        tx, await dispatch_operations.pass_on(tx, UUID(request.order_id), text(request.reason, "reason", lines=True))
    )
