"""The methods of linli.points.v1.PointsService about points that somebody grants by hand."""

import asyncio
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from linli.points.v1 import points_pb2 as pb
from servicekit.database import Transaction
from servicekit.errors import ServiceError
from servicekit.paging import page
from servicekit.rpc import Call, outside_transaction
from servicekit.texts import text
from servicekit.times import to_timestamp
from services.points import grant_operations, grant_store
from services.points.grant_operations import GrantRequest, GrantWriter
from services.points.grant_store import Grant, GrantState

_STATES: Final = {
    pb.GRANT_STATE_WAITING: GrantState.WAITING,
    pb.GRANT_STATE_GRANTED: GrantState.GRANTED,
    pb.GRANT_STATE_REJECTED: GrantState.REJECTED,
}
_STATE_NUMBERS: Final = {state: number for number, state in _STATES.items()}


@outside_transaction
async def grant_points(call: Call, request: pb.GrantPointsRequest) -> pb.Grant:
    """Grants points by hand, together with all other grants that wait."""
    return _grant(await call.resource(GrantWriter).grant(_request(call, request)))


@outside_transaction
async def grant_points_in_batch(call: Call, request: pb.GrantPointsInBatchRequest) -> pb.GrantPointsInBatchResponse:
    """Grants points to many residents, each on its own."""
    return pb.GrantPointsInBatchResponse(outcomes=await asyncio.gather(*(_outcome(call, grant) for grant in request.grants)))


async def _outcome(call: Call, request: pb.GrantPointsRequest) -> pb.GrantOutcome:
    try:
        return pb.GrantOutcome(grant=await grant_points(call, request))
    except ServiceError as error:
        return pb.GrantOutcome(code=error.code, text_zh=error.zh, text_en=error.en)


def _request(call: Call, request: pb.GrantPointsRequest) -> GrantRequest:
    return GrantRequest(
        community_id=call.caller.community_id,
        grant_id=UUID(request.grant_id),
        account_id=UUID(request.account_id),
        points=request.points,
        reason=text(request.reason, "reason"),
        requested_by=call.caller.account_id,
    )


async def approve_grant(tx: Transaction, request: pb.ApproveGrantRequest) -> pb.Grant:
    """A second person approves a grant that waits."""
    return _grant(await grant_operations.approve_grant(tx, UUID(request.grant_id)))


async def reject_grant(tx: Transaction, request: pb.RejectGrantRequest) -> pb.Grant:
    """Ends a grant that waits."""
    return _grant(await grant_operations.reject_grant(tx, UUID(request.grant_id)))


async def list_grants(tx: Transaction, request: pb.ListGrantsRequest) -> pb.ListGrantsResponse:
    """Grants, newest first."""
    fetch = partial(grant_store.list_grants, tx, _STATES.get(request.state))
    grants, token = await page(request, tuple[datetime, UUID], fetch, lambda grant: (grant.requested_at, grant.grant_id))
    return pb.ListGrantsResponse(grants=[_grant(grant) for grant in grants], next_page_token=token)


def _grant(grant: Grant) -> pb.Grant:
    return pb.Grant(
        grant_id=str(grant.grant_id),
        account_id=str(grant.account_id),
        points=grant.points,
        reason=grant.reason,
        state=_STATE_NUMBERS[grant.state],
        requested_by=str(grant.requested_by),
        decided_by=str(grant.decided_by or ""),
        requested_at=to_timestamp(grant.requested_at),
        decided_at=to_timestamp(grant.decided_at),
    )
