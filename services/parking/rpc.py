"""The methods of linli.parking.v1.ParkingService: sessions, gates and reviews here, lots and passes in their own modules."""

from functools import partial
from typing import Final
from uuid import UUID

from linli.parking.v1 import parking_pb2 as pb
from servicekit.database import Transaction
from servicekit.errors import NotFound
from servicekit.identifiers import new_id
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_timestamp
from services.parking import operations, record_store
from services.parking.lot_rpc import (
    create_area,
    create_lane,
    create_lot,
    create_space,
    get_lot,
    get_occupancy,
    list_daily_figures,
    list_hourly_occupancy,
    list_lots,
    list_spaces,
    list_tariffs,
    publish_tariff,
    update_lane,
)
from services.parking.pass_rpc import (
    create_visitor_pass,
    deny_plate,
    issue_permit,
    list_denials,
    list_permits,
    list_visitor_passes,
    remove_denial,
    revoke_permit,
    revoke_visitor_pass,
)
from services.parking.record_store import Review, SessionRecord
from services.parking.sessions import SessionState
from services.parking.texts import plate_of

__all__ = [
    "create_area",
    "create_lane",
    "create_lot",
    "create_space",
    "create_visitor_pass",
    "deny_plate",
    "get_lot",
    "get_occupancy",
    "get_session",
    "issue_permit",
    "list_daily_figures",
    "list_denials",
    "list_gate_openings",
    "list_hourly_occupancy",
    "list_household_sessions",
    "list_lots",
    "list_permits",
    "list_reviews",
    "list_sessions",
    "list_spaces",
    "list_tariffs",
    "list_visitor_passes",
    "open_gate",
    "publish_tariff",
    "quote_stay",
    "remove_denial",
    "resolve_review",
    "revoke_permit",
    "revoke_visitor_pass",
    "update_lane",
]

_STATES: Final = {
    pb.SESSION_STATE_OPEN: SessionState.OPEN,
    pb.SESSION_STATE_LEFT: SessionState.LEFT,
    pb.SESSION_STATE_EXIT_MISSED: SessionState.EXIT_MISSED,
}
_STATE_NUMBERS: Final = {state: number for number, state in _STATES.items()}


async def quote_stay(tx: Transaction, request: pb.QuoteStayRequest) -> pb.Quote:
    """What a parked car owes now."""
    session, quote, leave_by = await operations.quote_stay(tx, UUID(request.lot_id), plate_of(request.plate, "plate").text)
    charge_id = str(session.charge.charge_id) if session.charge is not None and quote.amount_fen else ""
    return pb.Quote(
        quote_id=charge_id or str(new_id()),
        session_id=str(session.session_id),
        amount_fen=quote.amount_fen,
        valid_until=to_timestamp(quote.valid_until),
        leave_by=to_timestamp(leave_by),
        charge_id=charge_id,
        lines=[pb.QuoteLine(text_zh=line.zh, text_en=line.en, amount_fen=line.amount_fen) for line in quote.charge.lines],
    )


# Sessions.


async def get_session(tx: Transaction, request: pb.GetSessionRequest) -> pb.Session:
    """A stay in the lot."""
    session = await record_store.session(tx, UUID(request.session_id))
    if session is None:
        raise NotFound("parking.session_not_found", "没有找到停车记录", "There is no such stay")
    return _session(session)


async def list_sessions(tx: Transaction, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:
    """Stays, newest first."""
    lot_id = UUID(request.lot_id) if request.lot_id else None
    plate = plate_of(request.plate, "plate").text if request.plate else None
    fetch = partial(record_store.list_sessions, tx, lot_id, plate, _STATES.get(request.state))
    sessions, token = await page(request, UUID, fetch, lambda session: session.session_id)
    return pb.ListSessionsResponse(sessions=[_session(session) for session in sessions], next_page_token=token)


async def list_household_sessions(tx: Transaction, request: pb.ListHouseholdSessionsRequest) -> pb.ListSessionsResponse:
    """The stays of a household's own vehicles, newest first."""
    fetch = partial(record_store.list_household_sessions, tx, UUID(request.household_id))
    sessions, token = await page(request, UUID, fetch, lambda session: session.session_id)
    return pb.ListSessionsResponse(sessions=[_session(session) for session in sessions], next_page_token=token)


def _session(session: SessionRecord) -> pb.Session:
    return pb.Session(
        session_id=str(session.session_id),
        lot_id=str(session.lot_id),
        plate=session.plate,
        state=_STATE_NUMBERS[session.state],
        admission=session.admission,
        entered_at=to_timestamp(session.entered_at),
        left_at=to_timestamp(session.left_at),
        amount_fen=session.amount_fen,
        paid_fen=session.paid_fen,
    )


# Gates.


async def open_gate(tx: Transaction, request: pb.OpenGateRequest) -> pb.GateOpening:
    """A guard opens a gate by hand, with a reason."""
    plate = plate_of(request.plate, "plate") if request.plate else None
    opening = await operations.open_gate(tx, UUID(request.lane_id), text(request.reason, "reason", lines=True), plate)
    return pb.GateOpening(
        command_id=str(opening.command_id),
        lane_id=str(opening.lane_id),
        reason_code=opening.reason_code,
        reason=opening.reason,
        opened_by=str(opening.opened_by or ""),
        session_id=str(opening.session_id or ""),
        requested_at=to_timestamp(opening.requested_at),
    )


async def list_gate_openings(tx: Transaction, request: pb.ListGateOpeningsRequest) -> pb.ListGateOpeningsResponse:
    """Every opening of a gate, newest first."""
    lane_id = UUID(request.lane_id) if request.lane_id else None
    rows, token = await page(request, UUID, partial(record_store.list_openings, tx, lane_id), lambda opening: opening.command_id)
    openings = [
        pb.GateOpening(
            command_id=str(opening.command_id),
            lane_id=str(opening.lane_id),
            reason_code=opening.reason_code,
            reason=opening.reason,
            opened_by=str(opening.opened_by or ""),
            session_id=str(opening.session_id or ""),
            requested_at=to_timestamp(opening.requested_at),
            outcome=opening.outcome,
        )
        for opening in rows
    ]
    return pb.ListGateOpeningsResponse(gate_openings=openings, next_page_token=token)


# Reviews.


async def list_reviews(tx: Transaction, request: pb.ListReviewsRequest) -> pb.ListReviewsResponse:
    """Passages that a person must look at, newest first."""
    fetch = partial(record_store.list_reviews, tx, request.include_resolved)
    reviews, token = await page(request, UUID, fetch, lambda review: review.review_id)
    return pb.ListReviewsResponse(reviews=[_review(review) for review in reviews], next_page_token=token)


async def resolve_review(tx: Transaction, request: pb.ResolveReviewRequest) -> pb.Review:
    """Says which stay a reviewed passage belongs to, or that it belongs to none."""
    session_id = UUID(request.session_id) if request.session_id else None
    return _review(await operations.resolve_review(tx, UUID(request.review_id), session_id, text(request.note, "note", lines=True)))


def _review(review: Review) -> pb.Review:
    return pb.Review(
        review_id=str(review.review_id),
        lane_id=str(review.lane_id or ""),
        kind=review.kind,
        plate_read=review.plate_read,
        session_ids=[str(session_id) for session_id in review.session_ids],
        occurred_at=to_timestamp(review.occurred_at),
        resolved=review.resolved_at is not None,
    )
