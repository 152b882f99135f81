"""The SQL of pooling: who consents that what they earn is their household's. A consent counts only while its giver lives there."""

from collections.abc import Iterable
from uuid import UUID

from servicekit.database import Transaction

_FIND_POOLS = """
SELECT account_id, household_id FROM pools JOIN known_residents USING (account_id, household_id) WHERE account_id = ANY($1::uuid[])
"""


async def find_pools(tx: Transaction, account_ids: Iterable[UUID]) -> dict[UUID, UUID]:
    """The household for which each account pools. Who pools for none is absent."""
    rows = await tx.fetch(_FIND_POOLS, list(account_ids))
    return {row["account_id"]: row["household_id"] for row in rows}


_LIST_POOLING = """
SELECT account_id FROM pools JOIN known_residents USING (account_id, household_id) WHERE household_id = $1 ORDER BY since, account_id
"""


async def list_pooling(tx: Transaction, household_id: UUID) -> list[UUID]:
    """The members who pool for a household, in the order in which they began to."""
    return [row["account_id"] for row in await tx.fetch(_LIST_POOLING, household_id)]


_UPSERT_POOL = """
INSERT INTO pools (account_id, community_id, household_id, since) VALUES ($1, $2, $3, $4)
ON CONFLICT (account_id) DO UPDATE SET household_id = excluded.household_id, since = excluded.since
WHERE pools.household_id <> excluded.household_id
"""
_DELETE_POOL = "DELETE FROM pools WHERE account_id = $1 AND household_id = $2"


async def save_pooling(tx: Transaction, household_id: UUID, pools: bool) -> None:
    """Keeps that the caller pools for this household, and for no other, or does not."""
    if pools:
        await tx.execute(_UPSERT_POOL, tx.caller.account_id, tx.community_id, household_id, tx.now)
    else:
        await tx.execute(_DELETE_POOL, tx.caller.account_id, household_id)
