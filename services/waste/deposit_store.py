"""The SQL of deposits, and of what they weighed in each month. Weights are grams."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.listing import Listing, one_of
from services.waste.bins import Category
from services.waste.deposits import Concern, State
from services.waste.figures import MonthWeights, Weights


@dataclass(frozen=True, slots=True)
class Deposit:
    """A deposit as it stands. `bin_id` is None for what came from no bin, `category` while the compartment is not known."""

    deposit_id: UUID
    bin_id: UUID | None
    compartment: str
    category: Category | None
    grams: int
    account_id: UUID | None
    state: State
    concern: Concern
    revision: int
    occurred_at: datetime
    received_at: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What a bin sent: its own id of it, a digest of all it says, and what else is kept as it was said."""

    community_id: UUID
    device_id: str
    record_id: str
    content: bytes
    fill_permille: int | None
    card_number: str
    said_us: int | None
    month: date


@dataclass(frozen=True, slots=True)
class DayOfResident:
    """A resident's local day, from its beginning until just before the next one's."""

    community_id: UUID
    account_id: UUID
    since: datetime
    until: datetime


_FIND_CONTENTS = "SELECT deposit_id, content FROM deposits WHERE deposit_id = ANY($1::uuid[])"


async def find_contents(tx: Transaction, deposit_ids: Collection[UUID]) -> dict[UUID, bytes]:
    """The digests of those deposits that are known."""
    return {row["deposit_id"]: row["content"] for row in await tx.fetch(_FIND_CONTENTS, list(deposit_ids))}


_INSERT_DEPOSITS = """
INSERT INTO deposits (
    deposit_id, bin_id, compartment, category, grams, account_id, state, concern, revision, occurred_at, received_at, note,
    community_id, device_id, record_id, content, fill_permille, card_number, said_us,
    month
)
SELECT * FROM unnest(
    $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::uuid[], $7::text[], $8::text[], $9::bigint[], $10::timestamptz[],
    $11::timestamptz[], $12::text[], $13::uuid[], $14::text[], $15::text[], $16::bytea[], $17::bigint[], $18::text[], $19::bigint[],
    $20::date[]
)
ON CONFLICT DO NOTHING
"""


async def insert_deposits(tx: Transaction, deposits: Sequence[tuple[Deposit, Record]]) -> int:
    """Adds deposits that are not there, and says how many."""
    rows = sorted((*_values(deposit), *_values(record)) for deposit, record in deposits)
    columns = [list(column) for column in zip(*rows, strict=True)]
    return await tx.execute(_INSERT_DEPOSITS, *columns) if columns else 0


def _values(row: Deposit | Record | DayOfResident) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in row.__slots__)


_SUM_COUNTED = """
SELECT nth, (
    SELECT coalesce(sum(grams), 0) FROM deposits
    WHERE community_id = asked.community_id AND account_id = asked.account_id AND occurred_at >= asked.since AND occurred_at < asked.until
        AND state = 'counted'
)::bigint AS grams
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[])
    WITH ORDINALITY AS asked (community_id, account_id, since, until, nth)
"""


async def sum_counted(tx: Transaction, asked: Sequence[DayOfResident]) -> list[int]:
    """What counted for each resident on that day."""
    columns = [list(column) for column in zip(*(_values(each) for each in asked), strict=True)]
    sums = {row["nth"]: row["grams"] for row in await tx.fetch(_SUM_COUNTED, *columns)}
    return [sums[nth + 1] for nth in range(len(asked))]


_DEPOSIT: Final = """
SELECT deposit_id, bin_id, compartment, category, grams, account_id, state, concern, revision, occurred_at, received_at, note FROM deposits
"""
_DEPOSITS = Listing(
    select=_DEPOSIT,
    where="community_id = {}",
    filters={"bin_id": "bin_id = {}", "state": one_of("state", State)},
    key=("occurred_at", "deposit_id"),
    descending=True,
)
_DEPOSITS_OF_RESIDENT = Listing(select=_DEPOSIT, where="account_id = {}", key=("occurred_at", "deposit_id"), descending=True)
# Where the last page ended.
Cursor = tuple[datetime, UUID]


async def list_deposits(tx: Transaction, bin_id: UUID | None, state: State | None, after: Cursor | None, limit: int) -> list[Deposit]:
    """The community's deposits, newest first; only of one bin, only in one state."""
    return [_deposit(row) for row in await _DEPOSITS.fetch(tx, [tx.community_id], after, limit, bin_id=bin_id, state=state)]


async def list_deposits_of_resident(tx: Transaction, account_id: UUID, after: Cursor | None, limit: int) -> list[Deposit]:
    """A resident's deposits, newest first."""
    return [_deposit(row) for row in await _DEPOSITS_OF_RESIDENT.fetch(tx, [account_id], after, limit)]


def _deposit(row: Any) -> Deposit:
    category = None if row["category"] is None else Category(row["category"])
    return Deposit(**{**row, "category": category, "state": State(row["state"]), "concern": Concern(row["concern"])})


_LOCK_DEPOSIT = _DEPOSIT + "WHERE deposit_id = $1 FOR UPDATE"


async def lock_deposit(tx: Transaction, deposit_id: UUID) -> Deposit | None:
    """A deposit, locked until the transaction ends."""
    row = await tx.fetchrow(_LOCK_DEPOSIT, deposit_id)
    return None if row is None else _deposit(row)


_UPDATE_DEPOSIT = """
UPDATE deposits SET category = $2, state = $3, concern = $4, revision = $5, note = $6, judged_by = $7, judged_at = $8 WHERE deposit_id = $1
"""


async def update_deposit(tx: Transaction, changed: Deposit, judged_by: UUID) -> None:
    """Writes what somebody made of a locked deposit."""
    row = (changed.deposit_id, changed.category, changed.state, changed.concern, changed.revision, changed.note)
    await tx.execute(_UPDATE_DEPOSIT, *row, judged_by, tx.now)


# What deposits weighed.


@dataclass(frozen=True, slots=True)
class MonthOfBuilding:
    """Whose sums a deposit goes into. `building_id` is None for bins that stand at none."""

    community_id: UUID
    month: date
    building_id: UUID | None


_ADD_WEIGHTS = """
INSERT INTO monthly_weights AS kept (
    community_id, month, building_id, recyclable_grams, kitchen_grams, hazardous_grams, other_grams, deposits, contaminated_deposits
)
SELECT * FROM unnest(
    $1::uuid[], $2::date[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[]
)
ON CONFLICT (community_id, month, building_id) DO UPDATE SET
    recyclable_grams = kept.recyclable_grams + excluded.recyclable_grams,
    kitchen_grams = kept.kitchen_grams + excluded.kitchen_grams,
    hazardous_grams = kept.hazardous_grams + excluded.hazardous_grams,
    other_grams = kept.other_grams + excluded.other_grams,
    deposits = kept.deposits + excluded.deposits,
    contaminated_deposits = kept.contaminated_deposits + excluded.contaminated_deposits
"""


async def add_weights(tx: Transaction, added: Mapping[MonthOfBuilding, Weights]) -> None:
    """Adds to the sums; always in one order, so that two that add do not wait for each other."""
    rows = sorted(added.items(), key=lambda item: (item[0].community_id, item[0].month, str(item[0].building_id)))
    columns = [list(column) for column in zip(*((*_key(key), *weights.values()) for key, weights in rows), strict=True)]
    if columns:
        await tx.execute(_ADD_WEIGHTS, *columns)


def _key(key: MonthOfBuilding) -> tuple[object, ...]:
    return key.community_id, key.month, key.building_id


_LIST_WEIGHTS = """
SELECT month, building_id, recyclable_grams, kitchen_grams, hazardous_grams, other_grams, deposits, contaminated_deposits
FROM monthly_weights WHERE community_id = $1 AND month BETWEEN $2 AND $3 ORDER BY month, building_id NULLS LAST
"""


async def list_weights(tx: Transaction, first: date, last: date) -> list[MonthWeights]:
    """The sums of the months from `first` to `last`, by month and building."""
    rows = await tx.fetch(_LIST_WEIGHTS, tx.community_id, first, last)
    return [MonthWeights(month, building_id, Weights(*weights)) for month, building_id, *weights in rows]


_FIND_MONTH = """
SELECT deposits.community_id, month, building_id FROM deposits JOIN bins USING (bin_id) WHERE deposit_id = $1
"""


async def month_of(tx: Transaction, deposit_id: UUID) -> MonthOfBuilding:
    """Whose sums a deposit of a bin goes into."""
    row = await tx.fetchrow(_FIND_MONTH, deposit_id)
    assert row is not None
    return MonthOfBuilding(*row)
