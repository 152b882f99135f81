"""What points does when a deposit counts, or does not count any more: one function for each event that it consumes.

Both take all that waits together. They may be handled in any order: a deposit that was withdrawn before it was told earns nothing.
"""

from collections.abc import Sequence
from typing import Final

from linli.waste.v1.events_pb2 import (
    CATEGORY_HAZARDOUS,
    CATEGORY_KITCHEN,
    CATEGORY_OTHER,
    CATEGORY_RECYCLABLE,
    DepositCounted,
    DepositWithdrawn,
)
from servicekit.database import Transaction
from servicekit.errors import malformed
from servicekit.events import Received
from servicekit.identifiers import to_id
from servicekit.times import to_datetime
from services.points import earning_operations, holders
from services.points.earning import Claim
from services.points.earning_operations import deposit_claim_id
from services.points.rulebook import MEASURES_MAX, Source

_MALFORMED: Final = "points.deposit_malformed"
CATEGORIES: Final = {
    CATEGORY_RECYCLABLE: "recyclable",
    CATEGORY_KITCHEN: "kitchen",
    CATEGORY_HAZARDOUS: "hazardous",
    CATEGORY_OTHER: "other",
}


async def earn_on_deposit_counted(tx: Transaction, events: Sequence[Received[DepositCounted]]) -> None:
    """Residents earn for deposits. What cannot be a deposit raises Invalid, and ends among the dead letters."""
    claims = [_counted(event) for event in events]
    turn = await holders.take_turn(tx, {claim.community_id for claim in claims})
    # What counts again did not count before, whether or not we have heard of that yet: it must find its limits free.
    recounted = [_withdrawn(event, event.message.revision - 1) for event in events if event.message.revision > 1]
    if recounted:
        await earning_operations.withdraw(tx, turn, recounted)
    await earning_operations.earn(tx, turn, claims)


def _counted(event: Received[DepositCounted]) -> Claim:
    deposit = event.message
    if not 0 < deposit.grams <= MEASURES_MAX[Source.WASTE_DEPOSIT]:
        raise malformed("grams", f"must be positive and at most {MEASURES_MAX[Source.WASTE_DEPOSIT]}", _MALFORMED)
    if deposit.category not in CATEGORIES:
        raise malformed("category", "must be one of the four", _MALFORMED)
    deposit_id = to_id(deposit.deposit_id, "deposit_id", _MALFORMED)
    return Claim(
        community_id=event.community_id,
        claim_id=deposit_claim_id(deposit_id, deposit.revision),
        source=Source.WASTE_DEPOSIT,
        source_id=str(deposit_id),
        account_id=to_id(deposit.account_id, "account_id", _MALFORMED),
        measure=deposit.grams,
        occurred_at=to_datetime(deposit.occurred_at, "occurred_at"),
        category=CATEGORIES[deposit.category],
    )


async def take_back_on_deposit_withdrawn(tx: Transaction, events: Sequence[Received[DepositWithdrawn]]) -> None:
    """What deposits earned that were contaminated is taken back."""
    claims = [_withdrawn(event, event.message.revision) for event in events]
    turn = await holders.take_turn(tx, {claim.community_id for claim in claims})
    await earning_operations.withdraw(tx, turn, claims)


def _withdrawn(event: Received[DepositCounted] | Received[DepositWithdrawn], revision: int) -> Claim:
    deposit = event.message
    deposit_id = to_id(deposit.deposit_id, "deposit_id", _MALFORMED)
    return Claim(
        community_id=event.community_id,
        claim_id=deposit_claim_id(deposit_id, revision),
        source=Source.WASTE_DEPOSIT,
        source_id=str(deposit_id),
        account_id=to_id(deposit.account_id, "account_id", _MALFORMED),
        measure=0,
        occurred_at=event.occurred_at,
    )
