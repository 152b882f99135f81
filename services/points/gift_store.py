"""The SQL of gifts."""

from dataclasses import dataclass
from datetime import date
from uuid import UUID

from servicekit.database import Transaction


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody has given away, on a day and in its month."""

    on_day: int
    in_month: int


_SUM_GIVEN = """
SELECT coalesce(sum(points) FILTER (WHERE day = $2), 0)::bigint AS on_day, coalesce(sum(points), 0)::bigint AS in_month
FROM gifts WHERE giver_id = $1 AND day >= $3 AND day <= $2
"""


async def sum_given(tx: Transaction, giver_id: UUID, day: date) -> Given:
    """What a giver has given on a day, and since the first of its month."""
    row = await tx.fetchrow(_SUM_GIVEN, giver_id, day, day.replace(day=1))
    assert row is not None
    return Given(**row)


_INSERT_GIFT = "INSERT INTO gifts (transfer_id, community_id, giver_id, receiver_id, points, day) VALUES ($1, $2, $3, $4, $5, $6)"


async def insert_gift(tx: Transaction, transfer_id: UUID, receiver_id: UUID, points: int, day: date) -> None:
    """Adds a gift of the caller."""
    await tx.execute(_INSERT_GIFT, transfer_id, tx.community_id, tx.caller.account_id, receiver_id, points, day)
