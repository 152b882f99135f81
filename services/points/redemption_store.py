"""The SQL of redemptions."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.listing import Listing, one_of


class RedemptionState(StrEnum):
    """What has become of a redemption."""

    RESERVED = "reserved"
    PICKED_UP = "picked_up"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Redemption:
    """Somebody's item, from the reservation on. `redemption_id` is also the pending transfer's, `points` are for all of the quantity."""

    redemption_id: UUID
    community_id: UUID
    item_id: UUID
    name_zh: str
    name_en: str
    pickup_place: str
    account_id: UUID
    household_id: UUID | None
    quantity: int
    points: int
    state: RedemptionState
    pickup_code: str
    reserved_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None


_REDEMPTION: Final = """
SELECT redemption_id, redemptions.community_id, item_id, name_zh, name_en, pickup_place, account_id, household_id, quantity,
    redemptions.points, state, pickup_code, reserved_at, expires_at, ended_at
FROM redemptions JOIN items USING (item_id)
"""
_INSERT_REDEMPTION = """
INSERT INTO redemptions (redemption_id, community_id, item_id, account_id, household_id, quantity, points, state, pickup_code,
    reserved_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""


async def insert_redemption(tx: Transaction, redemption: Redemption) -> None:
    """Adds a reservation."""
    await tx.execute(
        _INSERT_REDEMPTION,
        redemption.redemption_id,
        tx.community_id,
        redemption.item_id,
        redemption.account_id,
        redemption.household_id,
        redemption.quantity,
        redemption.points,
        redemption.state,
        redemption.pickup_code,
        redemption.reserved_at,
        redemption.expires_at,
    )


_COUNT_HAD = """
SELECT coalesce(sum(quantity), 0)::bigint FROM redemptions WHERE item_id = $1 AND account_id = $2 AND state IN ('reserved', 'picked_up')
"""


async def count_had(tx: Transaction, item_id: UUID, account_id: UUID) -> int:
    """How many of an item a resident has reserved or picked up, whoever paid."""
    count: int = await tx.fetchval(_COUNT_HAD, item_id, account_id)
    return count


_END = """
UPDATE redemptions SET state = $2, ended_at = $3, confirmed_by = $4 WHERE redemption_id = ANY($1::uuid[]) AND state = 'reserved'
"""
_SELECT_ENDED = _REDEMPTION + "WHERE redemption_id = ANY($1::uuid[]) ORDER BY redemptions.community_id, redemption_id"


async def end(tx: Transaction, redemption_ids: Collection[UUID], state: RedemptionState) -> list[Redemption]:
    """Ends reservations, now, and hands them back by community; the turn is taken. Picked up: by the caller."""
    confirmed_by = tx.caller.account_id if state is RedemptionState.PICKED_UP else None
    await tx.execute(_END, list(redemption_ids), state, tx.now, confirmed_by)
    return [_redemption(row) for row in await tx.fetch(_SELECT_ENDED, list(redemption_ids))]


_FIND_BY_CODE = _REDEMPTION + "WHERE pickup_code = $1"


async def find_by_code(tx: Transaction, pickup_code: str) -> Redemption | None:
    """The redemption, ended or not, that a code picks up."""
    row = await tx.fetchrow(_FIND_BY_CODE, pickup_code)
    return None if row is None else _redemption(row)


_FIND_OWN = _REDEMPTION + "WHERE redemption_id = $1 AND account_id = $2"


async def find_own(tx: Transaction, redemption_id: UUID) -> Redemption | None:
    """One of the caller's own."""
    row = await tx.fetchrow(_FIND_OWN, redemption_id, tx.caller.account_id)
    return None if row is None else _redemption(row)


_OWN = Listing(select=_REDEMPTION, where="account_id = {}", key=("redemption_id",), descending=True)


async def list_own(tx: Transaction, after: UUID | None, limit: int) -> list[Redemption]:
    """The caller's own, newest first."""
    return [_redemption(row) for row in await _OWN.fetch(tx, [tx.caller.account_id], after, limit)]


# The page first, then its items: behind the walls the planner takes a community's redemptions for few, and would join and sort all of them.
_REDEMPTIONS = Listing(
    select=_REDEMPTION + "WHERE redemption_id IN (SELECT redemption_id FROM redemptions",  # noqa: S608  # both are ours
    where="community_id = {}",
    filters={"state": one_of("state", RedemptionState)},
    key=("redemption_id",),
    descending=True,
    then=") ORDER BY redemption_id DESC",
)


async def list_redemptions(tx: Transaction, state: RedemptionState | None, after: UUID | None, limit: int) -> list[Redemption]:
    """The community's, newest first; only those in one state."""
    return [_redemption(row) for row in await _REDEMPTIONS.fetch(tx, [tx.community_id], after, limit, state=state)]


def _redemption(row: asyncpg.Record) -> Redemption:
    return Redemption(**{**row, "state": RedemptionState(row["state"])})
