"""The SQL of inspections."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.listing import Listing


@dataclass(frozen=True, slots=True)
class Inspection:
    """Something that is looked at again and again. `starts_at` is a local date and time, such as 2026-01-05T09:00.

    `next_at` is None when it does not come any more.
    """

    inspection_id: UUID
    name: str
    category_id: UUID
    building_id: UUID | None
    place: str
    starts_at: str
    recurrence: str
    checklist: Sequence[str]
    next_at: datetime | None
    ended_at: datetime | None = None


_INSERT = """
INSERT INTO inspections (inspection_id, community_id, name, category_id, building_id, place, starts_at, recurrence, checklist, next_at,
    created_by, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""
_INSPECTION: Final = """
SELECT inspection_id, name, category_id, building_id, place, starts_at, recurrence, checklist, next_at, ended_at FROM inspections"""
_LOCK = _INSPECTION + " WHERE inspection_id = $1 FOR NO KEY UPDATE"
_SET_NEXT = "UPDATE inspections SET next_at = $2, ended_at = $3 WHERE inspection_id = $1"
INSPECTIONS: Final = Listing(select=_INSPECTION, where="community_id = {}", key=("name", "inspection_id"))


async def insert_inspection(tx: Transaction, inspection: Inspection) -> None:
    """Adds an inspection."""
    await tx.execute(
        _INSERT,
        inspection.inspection_id,
        tx.community_id,
        inspection.name,
        inspection.category_id,
        inspection.building_id,
        inspection.place,
        inspection.starts_at,
        inspection.recurrence,
        list(inspection.checklist),
        inspection.next_at,
        tx.caller.account_id,
        tx.now,
    )


async def lock_inspection(tx: Transaction, inspection_id: UUID) -> Inspection | None:
    """An inspection, held until the transaction ends."""
    row = await tx.fetchrow(_LOCK, inspection_id)
    return None if row is None else Inspection(**row)


async def set_next(tx: Transaction, inspection: Inspection) -> None:
    """Writes when it comes next, and whether it has ended."""
    await tx.execute(_SET_NEXT, inspection.inspection_id, inspection.next_at, inspection.ended_at)


async def list_inspections(tx: Transaction, after: tuple[str, UUID] | None, limit: int) -> list[Inspection]:
    """Inspections by name."""
    return [Inspection(**row) for row in await INSPECTIONS.fetch(tx, [tx.community_id], after, limit)]
