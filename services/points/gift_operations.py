"""Gifts: points that a resident gives to a neighbour, or to the household, within the limits of the rules."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from ledger import Posting, Transfer
from servicekit import households
from servicekit.communities import find_time_zone
from servicekit.database import Transaction
from servicekit.errors import Conflict, Denied, ServiceError
from servicekit.identifiers import new_id
from services.points import gift_store, holders, pool_operations, pool_store, store
from services.points.holders import NOTHING, Holder
from services.points.notices import MY_ENTRIES, Notice, household_entries, tell
from services.points.redemption_operations import insufficient
from services.points.rule_operations import not_a_resident, resident_not_found
from services.points.store import DailyEarning


async def give_to_neighbour(tx: Transaction, account_id: UUID, points: int, message: str) -> tuple[UUID, int]:
    """Gives some of the caller's points to another resident. Returns the transfer, and what the giver has left.

    Raises Denied for a gift to oneself, NotFound for who is no resident here, and what `_give` raises.
    """
    giver_id = tx.caller.account_id
    if account_id == giver_id:
        raise Denied("points.gift_to_self", "不能赠送给自己", "Nobody gives to themselves")
    homes = await households.find_homes(tx, [giver_id, account_id])
    if giver_id not in homes:
        raise not_a_resident()
    if account_id not in homes:
        raise resident_not_found()
    return await _give(tx, account_id, points, message, told=[account_id], link=MY_ENTRIES)


async def give_to_household(tx: Transaction, household_id: UUID, points: int, message: str) -> tuple[UUID, int]:
    """Gives some of the caller's points to their own household. Raises NotFound when they do not live there, and what `_give` raises."""
    if not await households.is_member(tx, household_id, tx.caller.account_id):
        raise pool_operations.household_not_found()
    others = [account_id for account_id in await pool_store.list_pooling(tx, household_id) if account_id != tx.caller.account_id]
    return await _give(tx, household_id, points, message, told=others, link=household_entries(household_id))


async def _give(tx: Transaction, receiver_id: UUID, points: int, message: str, *, told: Sequence[UUID], link: str) -> tuple[UUID, int]:
    """Moves the points, and tells who has them now. Raises Conflict when a limit or the giver's points do not allow it."""
    turn = await holders.take_turn(tx, [tx.community_id])
    giver, receiver = Holder(tx.community_id, tx.caller.account_id), Holder(tx.community_id, receiver_id)
    day = tx.now.astimezone(await find_time_zone(tx)).date()
    await _check_limits(tx, points, day)
    owed = (await holders.open_holders(turn, [receiver])).get(receiver.owed_id, NOTHING).balance
    transfer_id = new_id()
    details = {
        "rule_id": "gift",
        "source_id": str(transfer_id),
        "text_zh": f"积分赠送：{message}" if message else "积分赠送",
        "text_en": f"Gift: {message}" if message else "Gift",
    }
    postings = (Posting(giver.points_id, points), *holders.credit(receiver, points, owed))
    (answer,) = await turn.apply([Transfer(transfer_id, tx.community_id, "gift", postings, details)])
    if isinstance(answer, ServiceError):
        # Somebody who never had points has no account yet.
        raise insufficient() if answer.code in ("ledger.insufficient", "ledger.account_not_found") else answer
    await gift_store.insert_gift(tx, transfer_id, receiver_id, points, day)
    if points > owed:
        # What settles a debt is not there to expire.
        await store.add_daily_earnings(tx, [DailyEarning(tx.community_id, receiver_id, receiver_id, "gift", day, points - owed)])
    for account_id in told:
        zh, en = f"您收到赠送的 {points} 积分", f"You were given {points} points"
        tell(tx, Notice(tx.community_id, account_id, "points.gift_received", zh, en, link))
    return transfer_id, (await turn.balances([giver.points_id]))[giver.points_id].available


async def _check_limits(tx: Transaction, points: int, day: date) -> None:
    terms = await store.terms_at(tx, tx.now)
    if terms is None or not (terms.gift_daily_points_max and terms.gift_monthly_points_max):
        raise Conflict("points.gifts_off", "本小区的积分规则不允许赠送", "The rules of this community allow no gifts")
    given = await gift_store.sum_given(tx, tx.caller.account_id, day)
    if given.on_day + points > terms.gift_daily_points_max:
        raise _limit("points.gift_daily_limit", "今日", "today", terms.gift_daily_points_max - given.on_day)
    if given.in_month + points > terms.gift_monthly_points_max:
        raise _limit("points.gift_monthly_limit", "本月", "this month", terms.gift_monthly_points_max - given.in_month)


def _limit(code: str, zh: str, en: str, left: int) -> Conflict:
    left = max(0, left)
    return Conflict(code, f"{zh}还可赠送 {left} 积分", f"You may still give {left} points {en}", details={"left": str(left)})
