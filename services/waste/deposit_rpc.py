"""The methods of linli.waste.v1.WasteService about deposits, and the figures that they add up to."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from google.api.httpbody_pb2 import HttpBody

from linli.waste.v1 import waste_pb2 as pb
from linli.waste.v1.events_pb2 import CATEGORY_UNSPECIFIED
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_timestamp
from services.waste import deposit_operations, deposit_store, operations
from services.waste.bin_rpc import CATEGORY
from services.waste.deposit_operations import CATEGORY_MESSAGE
from services.waste.deposit_store import Deposit
from services.waste.deposits import State
from services.waste.figures import Weights, add_up, table

_STATE: Final = {
    pb.DEPOSIT_STATE_COUNTED: State.COUNTED,
    pb.DEPOSIT_STATE_IN_REVIEW: State.IN_REVIEW,
    pb.DEPOSIT_STATE_REFUSED: State.REFUSED,
    pb.DEPOSIT_STATE_CONTAMINATED: State.CONTAMINATED,
}
_STATE_MESSAGE: Final = {state: message for message, state in _STATE.items()}


async def list_my_deposits(tx: Transaction, request: pb.ListMyDepositsRequest) -> pb.ListDepositsResponse:
    """The caller's deposits, newest first."""
    fetch = partial(deposit_store.list_deposits_of_resident, tx, tx.caller.account_id)
    return _response(*await page(request, tuple[datetime, UUID], fetch, lambda deposit: (deposit.occurred_at, deposit.deposit_id)))


async def list_deposits(tx: Transaction, request: pb.ListDepositsRequest) -> pb.ListDepositsResponse:
    """The community's deposits, newest first."""
    bin_id = UUID(request.bin_id) if request.bin_id else None
    fetch = partial(deposit_store.list_deposits, tx, bin_id, _STATE.get(request.state))
    return _response(*await page(request, tuple[datetime, UUID], fetch, lambda deposit: (deposit.occurred_at, deposit.deposit_id)))


def _response(deposits: Sequence[Deposit], token: str) -> pb.ListDepositsResponse:
    return pb.ListDepositsResponse(deposits=[_message(deposit) for deposit in deposits], next_page_token=token)


async def review_deposit(tx: Transaction, request: pb.ReviewDepositRequest) -> pb.Deposit:
    """Settles a deposit that waits for it."""
    category = CATEGORY.get(request.category)
    deposit_id, note = UUID(request.deposit_id), text(request.note, "note", lines=True) if request.note else ""
    return _message(await deposit_operations.review_deposit(tx, deposit_id, accept=request.accept, category=category, note=note))


async def report_contamination(tx: Transaction, request: pb.ReportContaminationRequest) -> pb.Deposit:
    """Takes back a deposit that does not belong where it was put."""
    return _message(await deposit_operations.report_contamination(tx, UUID(request.deposit_id), text(request.note, "note", lines=True)))


async def withdraw_contamination(tx: Transaction, request: pb.WithdrawContaminationRequest) -> pb.Deposit:
    """Lets a deposit count again."""
    return _message(await deposit_operations.withdraw_contamination(tx, UUID(request.deposit_id), text(request.note, "note", lines=True)))


def _message(deposit: Deposit) -> pb.Deposit:
    return pb.Deposit(
        deposit_id=str(deposit.deposit_id),
        bin_id=str(deposit.bin_id or ""),
        compartment=deposit.compartment,
        category=CATEGORY_MESSAGE[deposit.category] if deposit.category is not None else CATEGORY_UNSPECIFIED,
        grams=deposit.grams,
        account_id=str(deposit.account_id or ""),
        state=_STATE_MESSAGE[deposit.state],
        concern=deposit.concern,
        occurred_at=to_timestamp(deposit.occurred_at),
        received_at=to_timestamp(deposit.received_at),
        note=deposit.note,
    )


async def get_waste_figures(tx: Transaction, request: pb.GetWasteFiguresRequest) -> pb.WasteFigures:
    """What was deposited, by month and building."""
    asked, rows = await operations.list_weights(tx, request.from_month, request.until_month)
    months = []
    for month in asked:
        its = [row for row in rows if row.month == month]
        buildings = [pb.BuildingFigures(building_id=str(row.building_id or ""), weights=_weights_message(row.weights)) for row in its]
        months.append(pb.MonthFigures(month=f"{month:%Y-%m}", total=_weights_message(add_up(its)), buildings=buildings))
    return pb.WasteFigures(months=months, total=_weights_message(add_up(rows)))


async def download_waste_figures(tx: Transaction, request: pb.DownloadWasteFiguresRequest) -> HttpBody:
    """The same as CSV."""
    _, rows = await operations.list_weights(tx, request.from_month, request.until_month)
    return HttpBody(content_type="text/csv; charset=utf-8", data=table(rows))


def _weights_message(weights: Weights) -> pb.Weights:
    return pb.Weights(
        recyclable_grams=weights.recyclable_grams,
        kitchen_grams=weights.kitchen_grams,
        hazardous_grams=weights.hazardous_grams,
        other_grams=weights.other_grams,
        diversion_permille=weights.diversion_permille,
        deposits=weights.deposits,
        contaminated_deposits=weights.contaminated_deposits,
    )
