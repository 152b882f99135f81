"""The SQL of ratings, and of orders that may be about the same thing."""

from datetime import datetime
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.listing import Listing
from services.workorders.order_store import ORDER, read_order
from services.workorders.orders import Order

# More reports than these within three days of one in one building is a burst main that everybody knows of.
_COMPARED_MAX: Final = 500

_INSERT_RATING = """
INSERT INTO ratings (order_id, reopened, community_id, stars, rating_text, rated_by, rated_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (order_id, reopened) DO NOTHING
"""


async def insert_rating(tx: Transaction, order: Order, stars: int, rating_text: str) -> bool:
    """Keeps how a completion was rated; False when it was rated already."""
    values = (order.order_id, order.reopened, tx.community_id, stars, rating_text, tx.caller.account_id, tx.now)
    return await tx.execute(_INSERT_RATING, *values) == 1


# Of those that are not linked themselves: an original, not another of its duplicates.
NEAR: Final = Listing(
    select=ORDER,
    key=("reported_at", "order_id"),
    descending=True,
    where="community_id = {} AND reported_at BETWEEN {} AND {} AND order_id <> {} AND duplicate_of_order_id IS NULL AND "
    "state <> 'cancelled'",
    filters={"building": "building_id = {}", "on_the_grounds": "building_id IS NULL"},
)


async def list_near(tx: Transaction, order: Order, since: datetime, until: datetime) -> list[Order]:
    """The orders that were reported at about the time of this one, in the same building or like it on the grounds; the newest first."""
    scope = [tx.community_id, since, until, order.order_id]
    rows = await NEAR.fetch(tx, scope, None, _COMPARED_MAX, building=order.building_id, on_the_grounds=order.building_id is None)
    return [read_order(row) for row in rows]


_HAS_LINKED = "SELECT EXISTS (SELECT FROM orders WHERE duplicate_of_order_id = $1)"


async def has_linked(tx: Transaction, order_id: UUID) -> bool:
    """Whether other orders end with this one."""
    return bool(await tx.fetchval(_HAS_LINKED, order_id))
