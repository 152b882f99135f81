"""Pooling: members of a household decide, each for themselves, that what they earn from now on is the household's."""

from uuid import UUID

from servicekit import households
from servicekit.database import Transaction
from servicekit.errors import Conflict, NotFound
from services.points import holders, pool_store


async def set_pooling(tx: Transaction, household_id: UUID, pools: bool) -> None:
    """The caller pools from now on, or earns for themselves again; what was pooled stays pooled. Raises NotFound for a foreign household.

    It waits for the turn, so that no earning is judged half before it and half after.
    """
    await holders.take_turn(tx, [tx.community_id])
    if not await households.is_member(tx, household_id, tx.caller.account_id):
        raise household_not_found()
    await pool_store.save_pooling(tx, household_id, pools)


async def check_may_spend(tx: Transaction, household_id: UUID) -> None:
    """Raises NotFound when the caller does not live in this household, and Conflict when they do not pool for it."""
    account_id = tx.caller.account_id
    if (await pool_store.find_pools(tx, [account_id])).get(account_id) == household_id:
        return
    if not await households.is_member(tx, household_id, account_id):
        raise household_not_found()
    raise Conflict("points.not_pooling", "您没有加入家庭积分，不能使用", "Only members who pool spend what is pooled")


async def check_household(tx: Transaction, household_id: UUID) -> None:
    """Raises NotFound when the community has no such household."""
    if not await households.is_household(tx, household_id):
        raise household_not_found()


def household_not_found() -> NotFound:
    """The error for a household that is not there, or not the caller's."""
    return NotFound("points.household_not_found", "没有找到该家庭", "There is no such household")
