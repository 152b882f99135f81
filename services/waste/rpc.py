"""The methods of linli.waste.v1.WasteService: who residents are to a bin; bins, deposits and collections have modules of their own."""

from functools import partial
from uuid import UUID

from google.protobuf.empty_pb2 import Empty

from linli.waste.v1 import waste_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.times import to_timestamp
from services.waste import operations, resident_store
from services.waste.bin_rpc import create_bin, get_bin, list_bin_alarms, list_bins, update_bin
from services.waste.collection_rpc import (
    create_truck,
    get_collection_plan,
    list_collection_plans,
    list_trucks,
    plan_collection,
    record_emptying,
    update_truck,
)
from services.waste.deposit_rpc import (
    download_waste_figures,
    get_waste_figures,
    list_deposits,
    list_my_deposits,
    report_contamination,
    review_deposit,
    withdraw_contamination,
)
from services.waste.resident_store import Card

__all__ = [
    "approach_bin",
    "create_bin",
    "create_identification_code",
    "create_truck",
    "download_waste_figures",
    "get_bin",
    "get_collection_plan",
    "get_waste_figures",
    "list_bin_alarms",
    "list_bins",
    "list_cards",
    "list_collection_plans",
    "list_deposits",
    "list_my_deposits",
    "list_trucks",
    "plan_collection",
    "record_emptying",
    "register_card",
    "report_contamination",
    "review_deposit",
    "revoke_card",
    "update_bin",
    "update_truck",
    "withdraw_contamination",
]
# What of a card's number is shown.
_SHOWN = 4


async def register_card(tx: Transaction, request: pb.RegisterCardRequest) -> pb.Card:
    """Gives a resident a card."""
    return _card(await operations.register_card(tx, request.card_number, UUID(request.account_id)))


async def revoke_card(tx: Transaction, request: pb.RevokeCardRequest) -> Empty:
    """Takes a card out of use."""
    await operations.revoke_card(tx, UUID(request.card_id))
    return Empty()


async def list_cards(tx: Transaction, request: pb.ListCardsRequest) -> pb.ListCardsResponse:
    """Cards in use, newest first."""
    fetch = partial(resident_store.list_cards, tx, UUID(request.account_id) if request.account_id else None)
    cards, token = await page(request, UUID, fetch, lambda card: card.card_id)
    return pb.ListCardsResponse(cards=[_card(card) for card in cards], next_page_token=token)


def _card(card: Card) -> pb.Card:
    return pb.Card(
        card_id=str(card.card_id),
        card_masked="*" * (len(card.card_number) - _SHOWN) + card.card_number[-_SHOWN:],
        account_id=str(card.account_id),
        registered_at=to_timestamp(card.registered_at),
    )


async def create_identification_code(tx: Transaction, _request: pb.CreateIdentificationCodeRequest) -> pb.IdentificationCode:
    """A code that the caller's phone shows to a bin."""
    created = await operations.create_identification_code(tx)
    return pb.IdentificationCode(code=created.code, expires_at=to_timestamp(created.expires_at))


async def approach_bin(tx: Transaction, request: pb.ApproachBinRequest) -> pb.Approach:
    """Notes that the caller stands at a bin."""
    return pb.Approach(until=to_timestamp(await operations.approach_bin(tx, UUID(request.bin_id))))
