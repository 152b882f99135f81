"""The SQL of the catalogue. How much there is of an item is on the ledger: `catalogue_operations.py`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.listing import Listing


@dataclass(frozen=True, slots=True)
class Item:
    """Something that points are redeemed for. `points` is the price of one; `per_resident_max` 0 is no limit."""

    item_id: UUID
    name_zh: str
    name_en: str
    description: str
    points: int
    valid_from: datetime
    valid_until: datetime | None
    per_resident_max: int
    pickup_place: str
    listed: bool

    def is_valid(self, at: datetime) -> bool:
        """Whether it is redeemed at this instant, as far as its dates go."""
        return self.valid_from <= at and (self.valid_until is None or at < self.valid_until)


_ITEM: Final = """
SELECT item_id, name_zh, name_en, description, points, valid_from, valid_until, per_resident_max, pickup_place, listed FROM items
"""
_INSERT_ITEM = """
INSERT INTO items (item_id, community_id, name_zh, name_en, description, points, valid_from, valid_until, per_resident_max, pickup_place)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


async def insert_item(tx: Transaction, item: Item) -> None:
    """Adds an item, listed."""
    texts = (item.name_zh, item.name_en, item.description)
    validity = (item.valid_from, item.valid_until)
    await tx.execute(_INSERT_ITEM, item.item_id, tx.community_id, *texts, item.points, *validity, item.per_resident_max, item.pickup_place)


_UPDATE_ITEM = "UPDATE items SET points = $2, description = $3, valid_until = $4, listed = $5 WHERE item_id = $1"


async def update_item(tx: Transaction, item: Item) -> None:
    """Keeps what may be changed of an item."""
    await tx.execute(_UPDATE_ITEM, item.item_id, item.points, item.description, item.valid_until, item.listed)


_FIND_ITEM = _ITEM + "WHERE item_id = $1"
_LOCK_ITEM = _ITEM + "WHERE item_id = $1 FOR UPDATE"


async def find_item(tx: Transaction, item_id: UUID, *, for_change: bool = False) -> Item | None:
    """An item; with `for_change`, which nobody else changes until the transaction ends."""
    row = await tx.fetchrow(_LOCK_ITEM if for_change else _FIND_ITEM, item_id)
    return None if row is None else Item(**row)


_ITEMS = Listing(
    select=_ITEM,
    where="community_id = {}",
    filters={"valid_at": "listed AND valid_from <= {} AND (valid_until IS NULL OR valid_until > {})"},
    key=("item_id",),
    descending=True,
)


async def list_items(tx: Transaction, is_all: bool, after: UUID | None, limit: int) -> list[Item]:
    """The catalogue, newest first: what is listed and valid now, or all of it."""
    valid_at = None if is_all else (tx.now, tx.now)
    return [Item(**row) for row in await _ITEMS.fetch(tx, [tx.community_id], after, limit, valid_at=valid_at)]
