"""What organisers confirm: volunteer hours, activities, surveys."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from services.points import earning_operations, holders, store
from services.points.earning import Claim, Reason
from services.points.rulebook import MEASURES_MAX
from services.points.store import Earning

_AHEAD_MAX: Final = timedelta(minutes=2)
# Points are kept for a year at least, so what is confirmed within this time has not expired before it is earned.
_AGE_MAX: Final = timedelta(days=365)


async def confirm_contributions(tx: Transaction, contributions: Sequence[Claim]) -> list[Earning]:
    """What each contribution earns whoever made it, in order; one that was confirmed before has its first answer."""
    turn = await holders.take_turn(tx, [tx.community_id])
    own = (await store.find_housemates(tx, [tx.caller.account_id]))[tx.caller.account_id]
    earnings = await earning_operations.earn_sound(tx, turn, contributions, [_judge(tx, claim, own) for claim in contributions])
    return [
        earning if _is_same(earning, claim) else earning_operations.refuse(claim, Reason.DIFFERS)
        for earning, claim in zip(earnings, contributions, strict=True)
    ]


def _judge(tx: Transaction, claim: Claim, own: Collection[UUID]) -> Reason:
    if claim.account_id in own:
        return Reason.OWN_CONTRIBUTION
    if claim.occurred_at > tx.now + _AHEAD_MAX:
        return Reason.IN_FUTURE
    if claim.occurred_at < tx.now - _AGE_MAX:
        return Reason.TOO_OLD
    if claim.measure > MEASURES_MAX[claim.source]:
        return Reason.MEASURE_NOT_ONE
    return Reason.NONE


def _is_same(told: Earning, claim: Claim) -> bool:
    """Whether a contribution was confirmed before as it is now. A measure that was corrected since is not the organiser's."""
    first = told.claim
    is_corrected = told.transfer_id != first.claim_id
    return (first.account_id, first.source, first.occurred_at, first.title) == (
        claim.account_id,
        claim.source,
        claim.occurred_at,
        claim.title,
    ) and (is_corrected or first.measure == claim.measure)
