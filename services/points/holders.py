"""Who has points, and their accounts on the ledger. What moves points is decided elsewhere.

A holder is a resident or a household, by its own id. Each holder has an account of points, which never goes below what is held of it, and
once something was taken back that had been spent already, an account of what it owes. Each community has one account of what was issued,
which every earning touches, one of what was redeemed, and one of what has expired.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

import ledger
from ledger import Account, Balance, Posting, Side, Turn
from servicekit.database import Transaction
from servicekit.identifiers import derived_id
from services.points import store

UNIT: Final = "points"
NOTHING: Final = Balance(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Holder:
    """A resident or a household of a community."""

    community_id: UUID
    holder_id: UUID

    @property
    def points_id(self) -> UUID:
        """The account of the holder's points."""
        return _account_id("points.of", self.community_id, self.holder_id)

    @property
    def owed_id(self) -> UUID:
        """The account of what the holder owes."""
        return _account_id("points.owed", self.community_id, self.holder_id)


# Asked several times for each earning, of the same few thousand people.
@lru_cache(maxsize=100_000)
def _account_id(kind: str, community_id: UUID, owner_id: UUID) -> UUID:
    return derived_id(kind, str(community_id), str(owner_id))


@dataclass(frozen=True, slots=True)
class Shards:
    """How many shards the ledger has; the same in every process of the service."""

    count: int


def shards(tx: Transaction) -> int:
    """How many shards the ledger has."""
    return tx.resource(Shards).count


async def take_turn(tx: Transaction, community_ids: Iterable[UUID]) -> Turn:
    """From here on this transaction alone moves points of these communities. Comes before anything is read that a decision rests on."""
    return await ledger.take_turn(tx, set(community_ids), shards=shards(tx))


def issued_id(community_id: UUID) -> UUID:
    """The community's account of all that was ever earned, less what was taken back."""
    return _account_id("points.issued", community_id, community_id)


def redeemed_id(community_id: UUID) -> UUID:
    """The community's account of points that were spent."""
    return _account_id("points.redeemed", community_id, community_id)


def expired_id(community_id: UUID) -> UUID:
    """The community's account of points that have expired."""
    return _account_id("points.expired", community_id, community_id)


async def open_holders(turn: Turn, holders: Iterable[Holder]) -> dict[UUID, Balance]:
    """Opens the accounts that these holders and their communities do not have yet, but for what holders owe.

    Returns the balances of their points and of what they owe, by account; an account that is not open is absent, which is NOTHING.
    """
    wanted = set(holders)
    # What was issued changes with every earning; asked for here, it costs no look of its own.
    asked = [issued_id(community_id) for community_id in {holder.community_id for holder in wanted}]
    known = await turn.balances([*asked, *(account_id for holder in wanted for account_id in (holder.points_id, holder.owed_id))])
    missing = [holder for holder in wanted if holder.points_id not in known]
    if missing:
        accounts = [Account(holder.points_id, holder.community_id, UNIT, Side.CREDIT, floor=0) for holder in missing]
        for community_id in {holder.community_id for holder in missing}:
            accounts += (
                Account(issued_id(community_id), community_id, UNIT, Side.DEBIT),
                Account(redeemed_id(community_id), community_id, UNIT, Side.CREDIT, floor=0),
                Account(expired_id(community_id), community_id, UNIT, Side.CREDIT, floor=0),
            )
        await turn.open_accounts(accounts)
        await store.insert_holders(turn.tx, [(holder.community_id, holder.holder_id) for holder in missing])
    return known


async def open_owed(turn: Turn, holders: Iterable[Holder]) -> None:
    """Opens the accounts of what these holders owe."""
    await turn.open_accounts([Account(holder.owed_id, holder.community_id, UNIT, Side.DEBIT, floor=0) for holder in set(holders)])


def credit(holder: Holder, points: int, owed: int) -> tuple[Posting, ...]:
    """The postings that give a holder points, more than 0: what it owes is settled first."""
    settled = min(points, owed)
    postings = (Posting(holder.owed_id, -settled), Posting(holder.points_id, settled - points))
    return tuple(posting for posting in postings if posting.amount)


def take(holder: Holder, points: int, balances: Mapping[UUID, Balance]) -> tuple[Posting, ...]:
    """The postings that take points, more than 0, from a holder: what is free of them, and what it cannot give it owes."""
    there = min(points, max(0, balances.get(holder.points_id, NOTHING).available))
    postings = (Posting(holder.points_id, there), Posting(holder.owed_id, points - there))
    return tuple(posting for posting in postings if posting.amount)
