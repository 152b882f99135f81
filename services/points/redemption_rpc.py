"""The methods of linli.points.v1.PointsService about redemptions."""

from functools import partial
from typing import Final
from uuid import UUID

from linli.points.v1 import points_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.times import to_timestamp
from services.points import redemption_operations, redemption_store
from services.points.redemption_store import Redemption, RedemptionState

_STATES: Final = {
    pb.REDEMPTION_STATE_RESERVED: RedemptionState.RESERVED,
    pb.REDEMPTION_STATE_PICKED_UP: RedemptionState.PICKED_UP,
    pb.REDEMPTION_STATE_CANCELLED: RedemptionState.CANCELLED,
    pb.REDEMPTION_STATE_EXPIRED: RedemptionState.EXPIRED,
}
_STATE_NUMBERS: Final = {state: number for number, state in _STATES.items()}


async def redeem(tx: Transaction, request: pb.RedeemRequest) -> pb.Redemption:
    """Reserves an item, and holds its points."""
    household_id = UUID(request.household_id) if request.household_id else None
    return _own(await redemption_operations.redeem(tx, UUID(request.item_id), request.quantity, household_id))


async def get_my_redemption(tx: Transaction, request: pb.GetMyRedemptionRequest) -> pb.Redemption:
    """One of the caller's redemptions, with its code."""
    return _own(await redemption_operations.get_own(tx, UUID(request.redemption_id)))


async def list_my_redemptions(tx: Transaction, request: pb.ListMyRedemptionsRequest) -> pb.ListRedemptionsResponse:
    """The caller's redemptions, newest first."""
    rows, token = await page(request, UUID, partial(redemption_store.list_own, tx), lambda row: row.redemption_id)
    return pb.ListRedemptionsResponse(redemptions=[_own(row) for row in rows], next_page_token=token)


async def cancel_redemption(tx: Transaction, request: pb.CancelRedemptionRequest) -> pb.Redemption:
    """Gives a reservation up."""
    return _own(await redemption_operations.cancel(tx, UUID(request.redemption_id)))


async def confirm_redemption(tx: Transaction, request: pb.ConfirmRedemptionRequest) -> pb.Redemption:
    """Hands an item over."""
    return _redemption(await redemption_operations.confirm(tx, request.pickup_code))


async def list_redemptions(tx: Transaction, request: pb.ListRedemptionsRequest) -> pb.ListRedemptionsResponse:
    """Redemptions, newest first, without their codes."""
    fetch = partial(redemption_store.list_redemptions, tx, _STATES.get(request.state))
    rows, token = await page(request, UUID, fetch, lambda row: row.redemption_id)
    return pb.ListRedemptionsResponse(redemptions=[_redemption(row) for row in rows], next_page_token=token)


def _own(redemption: Redemption) -> pb.Redemption:
    """For who reserved: with the code, as long as it picks something up."""
    shown = _redemption(redemption)
    if redemption.state is RedemptionState.RESERVED:
        shown.pickup_code = redemption.pickup_code
    return shown


def _redemption(redemption: Redemption) -> pb.Redemption:
    return pb.Redemption(
        redemption_id=str(redemption.redemption_id),
        item_id=str(redemption.item_id),
        item_name_zh=redemption.name_zh,
        item_name_en=redemption.name_en,
        quantity=redemption.quantity,
        points=redemption.points,
        state=_STATE_NUMBERS[redemption.state],
        account_id=str(redemption.account_id),
        household_id=str(redemption.household_id or ""),
        pickup_place=redemption.pickup_place,
        reserved_at=to_timestamp(redemption.reserved_at),
        expires_at=to_timestamp(redemption.expires_at),
        ended_at=to_timestamp(redemption.ended_at),
    )
