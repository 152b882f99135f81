"""Many redeem at once what is there for one: one gets it, each time, and no balance is below zero at any moment.

`make drill` does it two hundred times, `make test` less often.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from ledger.decide import Book, Deciding
from ledger.transfers import Refusal
from linli.points.v1.points_pb2 import Item
from servicekit.errors import Conflict
from tests.drills.books import check_ledger
from tests.points.arrange import Community, town
from tests.points.shop import Resident, item, resident, shelf
from tests.support import Servers

ROUNDS = int(os.environ.get("LINLI_DRILL_ROUNDS", "40"))
AT_ONCE = 64
PRICE = 30

# What residents and items have that is theirs to spend, at its lowest.
LOWEST = "SELECT coalesce(min(balance - held), 0) FROM ledger_accounts WHERE is_credit"


@dataclass(slots=True)
class Outcome:
    """What a drill saw."""

    reserved: int
    refusals: Counter[str]
    lowest: int


async def redeem_at_once(community: Community, rounds: int) -> Outcome:
    """In each round a resident with points for one redeems from many phones at once."""
    coffee = await item(community, stock=rounds * AT_ONCE, points=PRICE)
    outcome = Outcome(0, Counter(), 0)
    async with watched(community, outcome):
        for _ in range(rounds):
            who = await resident(community, PRICE)
            answers = await asyncio.gather(*(attempt(who, coffee) for _ in range(AT_ONCE)))
            outcome.reserved += answers.count("")
            outcome.refusals.update(filter(None, answers))
    assert await shelf(community, coffee) == (rounds * AT_ONCE - outcome.reserved, outcome.reserved)
    return outcome


async def attempt(who: Resident, coffee: Item) -> str:
    """Redeems, and returns why not when that is refused."""
    try:
        await who.redeem(coffee)
    except Conflict as error:
        return error.code
    return ""


@asynccontextmanager
async def watched(community: Community, outcome: Outcome) -> AsyncIterator[None]:
    """Looks at all balances again and again for as long as the block."""

    async def look() -> None:
        while True:
            async with community.town.running.transaction("points", community.community_id) as tx:
                outcome.lowest = min(outcome.lowest, await tx.fetchval(LOWEST))

    watch = asyncio.create_task(look())
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


def check(outcome: Outcome, rounds: int) -> None:
    assert outcome.reserved == rounds
    assert outcome.refusals == {"points.insufficient": rounds * (AT_ONCE - 1)}
    assert outcome.lowest == 0


@pytest.mark.timeout(300)
async def test_of_64_redemptions_at_once_with_points_for_one_exactly_one_succeeds_each_time(servers: Servers) -> None:
    async with town(servers) as started:
        community = Community(started)
        await community.publish_rules()
        check(await redeem_at_once(community, ROUNDS), ROUNDS)
        await check_ledger(started.running.database_urls["points"])


async def test_the_drill_fails_without_the_floor(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    find = Deciding._find

    def without_floors(self: Deciding, *asked: Any) -> list[Book] | Refusal:
        books = find(self, *asked)
        if not isinstance(books, Refusal):
            for book in books:
                book.floor = None
        return books

    monkeypatch.setattr(Deciding, "_find", without_floors)
    async with town(servers) as started:
        community = Community(started)
        await community.publish_rules()
        outcome = await redeem_at_once(community, 2)
    assert outcome.lowest < 0
    with pytest.raises(AssertionError):
        check(outcome, 2)
