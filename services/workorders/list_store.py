"""The SQL of lists of orders. Each has an index that gives it in its order, at a million orders as at ten."""

from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.listing import Listing, one_of
from services.workorders.order_store import ORDER, read_order
from services.workorders.orders import Kind, Order, Priority, State

_NEWEST_FIRST: Final = ("number",)
_MOST_URGENT_FIRST: Final = ("priority", "number")

OWN: Final = Listing(
    select=ORDER,
    where="reporter_account_id = {} AND community_id = {}",
    filters={"open_only": "is_open"},
    key=_NEWEST_FIRST,
    descending=True,
)


async def list_own(tx: Transaction, open_only: bool, after: int | None, limit: int) -> list[Order]:
    """The caller's own, newest first."""
    rows = await OWN.fetch(tx, [tx.caller.account_id, tx.community_id], after, limit, open_only=open_only)
    return [read_order(row) for row in rows]


_COUNT_OPEN = """
SELECT count(*) FROM (SELECT FROM orders WHERE reporter_account_id = $1 AND community_id = $2 AND is_open LIMIT $3) AS open
"""


async def count_open(tx: Transaction, reporter_account_id: UUID, limit: int) -> int:
    """How many orders of somebody's are open; no more than `limit` are counted."""
    count: int = await tx.fetchval(_COUNT_OPEN, reporter_account_id, tx.community_id, limit)
    return count


PUBLIC: Final = Listing(
    select=ORDER,
    where="community_id = {} AND is_open AND visibility = 'neighbours' AND (building_id IS NULL OR building_id = ANY({}::uuid[]))",
    key=_NEWEST_FIRST,
    descending=True,
)


async def list_public(tx: Transaction, building_ids: frozenset[UUID], after: int | None, limit: int) -> list[Order]:
    """What is open and everybody's in these buildings and on the grounds, newest first."""
    rows = await PUBLIC.fetch(tx, [tx.community_id, list(building_ids)], after, limit)
    return [read_order(row) for row in rows]


ALL: Final = Listing(
    select=ORDER,
    where="community_id = {}",
    filters={
        "state": one_of("state", State),
        "open_only": "is_open",
        "kind": one_of("kind", Kind),
        "category_id": "category_id = {}",
        "priority": one_of("priority", (str(priority) for priority in Priority)),
        "team_id": "team_id = {}",
        "technician_account_id": "technician_account_id = {}",
        "building_id": "building_id = {}",
        "missed_only": "missed_at IS NOT NULL",
    },
    key=_NEWEST_FIRST,
    descending=True,
)


async def list_all(tx: Transaction, asked: Mapping[str, object], after: int | None, limit: int) -> list[Order]:
    """All orders, newest first; those that `asked` asks for, by the names of the filters."""
    return [read_order(row) for row in await ALL.fetch(tx, [tx.community_id], after, limit, **asked)]


JOBS: Final = Listing(select=ORDER, where="worker_account_id = {} AND community_id = {} AND is_open", key=_MOST_URGENT_FIRST)


async def list_jobs(tx: Transaction, after: tuple[int, int] | None, limit: int) -> list[Order]:
    """What the caller works on, and what is offered or given to them, the most urgent first."""
    return [read_order(row) for row in await JOBS.fetch(tx, [tx.caller.account_id, tx.community_id], after, limit)]


TO_TAKE: Final = Listing(select=ORDER, where="community_id = {} AND is_open_to_all AND skill = ANY({}::text[])", key=_MOST_URGENT_FIRST)


async def list_open_jobs(tx: Transaction, skills: Iterable[str], after: tuple[int, int] | None, limit: int) -> list[Order]:
    """What anybody with these skills may take, the most urgent first; what takes none too."""
    return [read_order(row) for row in await TO_TAKE.fetch(tx, [tx.community_id, [*skills, ""]], after, limit)]
