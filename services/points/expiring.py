"""Expiring points when a year has begun, and telling residents before. The version of the rules in force at a New Year decides on it."""

import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from ledger import Balance, Posting, Transfer
from servicekit.communities import find_time_zone, list_communities
from servicekit.database import PLATFORM, Transaction
from servicekit.errors import ServiceError
from servicekit.identifiers import derived_id
from servicekit.rpc import Call
from services.points import expiry, holders, notices, store
from services.points.earning import NOBODY
from services.points.holders import NOTHING, Holder
from services.points.notices import Notice
from services.points.rulebook import RuleBook

_AT_ONCE: Final = 250
_WARNED_BEFORE: Final = timedelta(days=30)


async def expire_points(call: Call) -> None:
    """Moves what has expired out of everybody's points."""
    await _for_all(call, _expire_some)


async def warn_of_expiry(call: Call) -> None:
    """Tells everybody once in a year what expires with the next New Year, thirty days before it."""
    await _for_all(call, _warn_some)


async def _for_all(call: Call, some: Callable[[Transaction, ZoneInfo, UUID], Awaitable[UUID | None]]) -> None:
    """Goes through each community's holders, some in each transaction, so that nobody waits long for the ledger's turn.

    `some` does the next holders behind a cursor and returns the cursor behind them, None at the end.
    """
    async with call.transaction(PLATFORM) as tx:
        communities = list(await list_communities(tx))
    # In another order each time: one whose work fails, which ends the run, keeps no other from its turn for long.
    random.shuffle(communities)
    for community in communities:
        after: UUID | None = NOBODY
        while after is not None:
            async with call.transaction(community.community_id) as tx:
                after = await some(tx, community.time_zone, after)


def _last_year(book: RuleBook | None, year: int) -> int | None:
    """The last of the years whose points expire when `year` begins, by the rules in force then."""
    return None if book is None else expiry.last_year_expired(year, book.terms.years_kept)


async def _expire_some(tx: Transaction, zone: ZoneInfo, after: UUID) -> UUID | None:
    year = tx.now.astimezone(zone).year
    book = await store.book_at(tx, expiry.new_year(year, zone))
    last_year = _last_year(book, year)
    if book is None or last_year is None:
        return None
    holder_ids = await store.list_unexpired(tx, last_year, after, _AT_ONCE)
    if not holder_ids:
        return None
    turn = await holders.take_turn(tx, [tx.community_id])
    owners = [Holder(tx.community_id, holder_id) for holder_id in holder_ids]
    balances = await holders.open_holders(turn, owners)
    earned = await store.earned_by_year(tx, holder_ids, expiry.first_day_after(last_year))
    transfers, done = [], []
    for holder in owners:
        balance = balances.get(holder.points_id, NOTHING)
        left = expiry.left_of(last_year, balance.available, earned[holder.holder_id])
        if left:
            transfers.append(_transfer(holder, balance, left, last_year, book.version))
        if expiry.left_of(last_year, balance.balance, earned[holder.holder_id]) == left:
            done.append(holder.holder_id)  # Else some of it is held for a reservation, which may yet be given up.
    for result in await turn.apply(transfers):
        if isinstance(result, ServiceError):
            raise result
    await store.mark_expired(tx, done, last_year)
    return holder_ids[-1]


def _transfer(holder: Holder, balance: Balance, points: int, last_year: int, rules_version: int) -> Transfer:
    return Transfer(
        # Again only when what was held has become free, which is another version of the account.
        transfer_id=derived_id("points.expiry", str(holder.points_id), str(last_year), str(balance.version)),
        community_id=holder.community_id,
        kind="expiry",
        postings=(Posting(holder.points_id, points), Posting(holders.expired_id(holder.community_id), -points)),
        details={
            "rules_version": rules_version,
            "text_zh": f"{last_year} 年及以前获得的积分到期",
            "text_en": f"Points earned in {last_year} or before have expired",
        },
    )


async def _warn_some(tx: Transaction, zone: ZoneInfo, after: UUID) -> UUID | None:
    year = tx.now.astimezone(zone).year + 1
    begins = expiry.new_year(year, zone)
    if begins - tx.now > _WARNED_BEFORE:
        return None
    last_year = _last_year(await store.book_at(tx, begins), year)
    holder_ids = [] if last_year is None else await store.list_unwarned(tx, year, after, _AT_ONCE)
    if last_year is None or not holder_ids:
        return None
    # The turn, so that of several processes one tells.
    turn = await holders.take_turn(tx, [tx.community_id])
    owners = {Holder(tx.community_id, holder_id): holder_id for holder_id in await store.mark_warned(tx, holder_ids, year)}
    balances = await holders.open_holders(turn, owners)
    earned = await store.earned_by_year(tx, list(owners.values()), expiry.first_day_after(last_year))
    expiring = {
        holder_id: expiry.left_of(last_year, balances.get(holder.points_id, NOTHING).available, earned[holder_id])
        for holder, holder_id in owners.items()
    }
    await _tell_of_expiry(tx, {holder_id: points for holder_id, points in expiring.items() if points}, year)
    return holder_ids[-1]


async def _tell_of_expiry(tx: Transaction, expiring: Mapping[UUID, int], year: int) -> None:
    # All who live in a household: who does not pool yet may begin to, and spend what would expire.
    members = await store.find_members(tx, list(expiring))
    for holder_id, points in expiring.items():
        for account_id in members.get(holder_id, [holder_id]):
            notice = Notice(
                tx.community_id,
                account_id,
                "points.expiring_soon",
                f"{points} 积分将于 {year - 1} 年底到期，请尽快使用",
                f"{points} points expire at the end of {year - 1} unless they are spent",
                notices.household_entries(holder_id) if holder_id in members else notices.MY_ENTRIES,
            )
            notices.tell(tx, notice)


async def find_next_expiry(tx: Transaction, holder_id: UUID, free: int) -> tuple[int, datetime] | None:
    """How many of a holder's `free` points expire next unless they are spent, and when; None when none do."""
    zone = await find_time_zone(tx)
    year = tx.now.astimezone(zone).year
    book = await store.book_at(tx, expiry.new_year(year + 1, zone))
    if book is None or not free:
        return None
    earned = await store.earned_by_year(tx, [holder_id], expiry.first_day_after(year - book.terms.years_kept))
    found = expiry.next_expiry(year, book.terms.years_kept, free, earned[holder_id])
    return None if found is None else (found[0], expiry.new_year(found[1], zone))
