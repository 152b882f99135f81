"""The SQL of who a deposit is from: residents' cards, and who said that they stand at a bin."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from servicekit.database import Transaction
from servicekit.listing import Listing
from services.waste.deposits import Approach, Holding


@dataclass(frozen=True, slots=True)
class Card:
    """A card in use."""

    card_id: UUID
    card_number: str
    account_id: UUID
    registered_at: datetime


_INSERT_CARD = """
INSERT INTO cards (card_id, community_id, card_number, account_id, registered_by, registered_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (community_id, card_number) WHERE revoked_at IS NULL DO NOTHING
"""


async def insert_card(tx: Transaction, card: Card, registered_by: UUID) -> bool:
    """Adds a card; False when one of its number is in use."""
    row = (card.card_id, tx.community_id, card.card_number, card.account_id, registered_by, card.registered_at)
    return await tx.execute(_INSERT_CARD, *row) == 1


_REVOKE_CARD = "UPDATE cards SET revoked_at = $2 WHERE card_id = $1 AND revoked_at IS NULL"


async def revoke_card(tx: Transaction, card_id: UUID, at: datetime) -> bool:
    """Takes a card out of use; False when none of this id is in use."""
    return await tx.execute(_REVOKE_CARD, card_id, at) == 1


_CARDS = Listing(
    select="SELECT card_id, card_number, account_id, registered_at FROM cards",
    where="community_id = {} AND revoked_at IS NULL",
    filters={"account_id": "account_id = {}"},
    key=("card_id",),
    descending=True,
)


async def list_cards(tx: Transaction, account_id: UUID | None, after: UUID | None, limit: int) -> list[Card]:
    """Cards in use, newest first; only this resident's."""
    return [Card(*row) for row in await _CARDS.fetch(tx, [tx.community_id], after, limit, account_id=account_id)]


_FIND_HOLDINGS = """
SELECT community_id, card_number, account_id, registered_at, revoked_at FROM cards
WHERE (community_id, card_number) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
"""


async def find_holdings(tx: Transaction, cards: Collection[tuple[UUID, str]]) -> dict[tuple[UUID, str], list[Holding]]:
    """Who held these cards, each named by its community and its number, and when."""
    rows = await tx.fetch(_FIND_HOLDINGS, [community_id for community_id, _ in cards], [number for _, number in cards])
    return _grouped(((row["community_id"], row["card_number"]), Holding(*row[2:])) for row in rows)


_INSERT_APPROACH = """
INSERT INTO approaches (bin_id, community_id, account_id, approached_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
"""


async def insert_approach(tx: Transaction, bin_id: UUID, approach: Approach) -> None:
    """Notes that somebody stands at a bin."""
    await tx.execute(_INSERT_APPROACH, bin_id, tx.community_id, approach.account_id, approach.at)


_FIND_APPROACHES = """
SELECT DISTINCT approaches.bin_id, approaches.account_id, approaches.approached_at, (
    SELECT min(next.approached_at) FROM approaches AS next
    WHERE next.account_id = approaches.account_id AND next.approached_at > approaches.approached_at AND next.bin_id <> approaches.bin_id
) AS until
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS asked (bin_id, since, until)
JOIN approaches ON approaches.bin_id = asked.bin_id AND approaches.approached_at BETWEEN asked.since AND asked.until
"""


async def find_approaches(tx: Transaction, asked: Collection[tuple[UUID, datetime, datetime]]) -> dict[UUID, list[Approach]]:
    """Who came to bins, each between two instants, and when they came to another one."""
    columns = ([each[nth] for each in asked] for nth in range(3))
    return _grouped((row["bin_id"], Approach(*row[1:])) for row in await tx.fetch(_FIND_APPROACHES, *columns))


def _grouped(pairs: Any) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
