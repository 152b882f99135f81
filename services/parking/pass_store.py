"""The SQL of who may park: permits, visitors' passes, denied plates, and the households' vehicles that identity tells of."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.listing import Listing
from services.parking.plates import lookalike_key

# Permits.


@dataclass(frozen=True, slots=True)
class Permit:
    """A month pass (月卡) for one space and several plates."""

    permit_id: UUID
    lot_id: UUID
    household_id: UUID
    space_id: UUID
    plates: Sequence[str]
    valid_from: datetime
    valid_until: datetime
    revoked_at: datetime | None = None


_PERMIT: Final = "SELECT permit_id, lot_id, household_id, space_id, plates, valid_from, valid_until, revoked_at FROM permits "
_FIND_OVERLAPPING = """
SELECT EXISTS (
    SELECT FROM permits WHERE (space_id = $2 OR (lot_id = $1 AND plates && $3::text[]))
        AND valid_from < $5 AND $4 < least(valid_until, revoked_at)
)
"""


async def has_overlapping_permit(tx: Transaction, permit: Permit) -> bool:
    """Whether another permit has the space, or one of the plates in the lot, at any time of this one. The lot is locked."""
    arguments = (permit.lot_id, permit.space_id, list(permit.plates), permit.valid_from, permit.valid_until)
    overlaps: bool = await tx.fetchval(_FIND_OVERLAPPING, *arguments)
    return overlaps


_INSERT_PERMIT = """
WITH permit AS (
    INSERT INTO permits (permit_id, community_id, lot_id, household_id, space_id, plates, valid_from, valid_until)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
)
INSERT INTO permit_plates (permit_id, community_id, lot_id, plate, lookalike, valid_until)
SELECT $1, $2, $3, plate, lookalike, $8 FROM unnest($6::text[], $9::text[]) AS plates (plate, lookalike)
"""


async def insert_permit(tx: Transaction, permit: Permit) -> None:
    """Adds a permit."""
    arguments = (permit.permit_id, tx.community_id, permit.lot_id, permit.household_id, permit.space_id, list(permit.plates))
    keys = [lookalike_key(plate) for plate in permit.plates]
    await tx.execute(_INSERT_PERMIT, *arguments, permit.valid_from, permit.valid_until, keys)


_REVOKE_PERMIT = "UPDATE permits SET revoked_at = coalesce(revoked_at, $2) WHERE permit_id = $1"
_SELECT_PERMIT = _PERMIT + "WHERE permit_id = $1"


async def revoke_permit(tx: Transaction, permit_id: UUID) -> Permit | None:
    """Ends a permit now, or leaves it ended; None when there is no such permit."""
    await tx.execute(_REVOKE_PERMIT, permit_id, tx.now)
    row = await tx.fetchrow(_SELECT_PERMIT, permit_id)
    return None if row is None else Permit(**row)


_PERMITS = Listing(
    select=_PERMIT,
    where="lot_id = {}",
    filters={"plate": "{} = ANY(plates)"},
    key=("permit_id",),
    descending=True,
)


async def list_permits(tx: Transaction, lot_id: UUID, plate: str | None, after: UUID | None, limit: int) -> list[Permit]:
    """A lot's permits, newest first; only those of a plate."""
    return [Permit(**row) for row in await _PERMITS.fetch(tx, [lot_id], after, limit, plate=plate)]


# Visitors' passes.


@dataclass(frozen=True, slots=True)
class VisitorPass:
    """An invitation of one car: a resident's, or one that goes with a pass for doors, which for a contractor is no household's."""

    visitor_pass_id: UUID
    household_id: UUID | None
    plate: str
    valid_from: datetime
    valid_until: datetime
    free_minutes: int
    revoked_at: datetime | None = None


_VISIT: Final = "SELECT visitor_pass_id, household_id, plate, valid_from, valid_until, free_minutes, revoked_at FROM visitor_passes "
_LOCK_HOUSEHOLD = "SELECT pg_advisory_xact_lock(hashtextextended('parking.visitor_passes ' || $1, 0))"
# Those that came from access are counted, shown and taken back there.
_MADE_HERE: Final = "access_version IS NULL"
_COUNT_VISITS = f"""
SELECT count(*) FROM visitor_passes WHERE household_id = $1 AND valid_until > $2 AND revoked_at IS NULL AND {_MADE_HERE}
"""  # noqa: S608


async def count_visitor_passes(tx: Transaction, household_id: UUID) -> int:
    """How many passes of a household are valid now or later; nobody else adds one until the transaction ends."""
    await tx.execute(_LOCK_HOUSEHOLD, str(household_id))
    count: int = await tx.fetchval(_COUNT_VISITS, household_id, tx.now)
    return count


_INSERT_VISIT = """
INSERT INTO visitor_passes (visitor_pass_id, community_id, household_id, plate, valid_from, valid_until, free_minutes, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def insert_visitor_pass(tx: Transaction, visitor_pass: VisitorPass) -> None:
    """Adds a visitor's pass."""
    v = visitor_pass
    arguments = (v.visitor_pass_id, tx.community_id, v.household_id, v.plate, v.valid_from, v.valid_until, v.free_minutes)
    await tx.execute(_INSERT_VISIT, *arguments, tx.caller.account_id)


_KEEP_VISIT = """
INSERT INTO visitor_passes AS known (
    visitor_pass_id, community_id, household_id, plate, valid_from, valid_until, free_minutes, revoked_at, access_version
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (visitor_pass_id) DO UPDATE SET plate = excluded.plate, valid_from = excluded.valid_from, valid_until = excluded.valid_until,
    revoked_at = excluded.revoked_at, access_version = excluded.access_version
WHERE known.access_version < excluded.access_version
"""


async def keep_access_pass(tx: Transaction, kept: VisitorPass, version: int) -> None:
    """Keeps the newest version of a pass that came from access. Its plate is one: an empty one would be that of every unread car."""
    row = (kept.visitor_pass_id, tx.community_id, kept.household_id, kept.plate, kept.valid_from, kept.valid_until, kept.free_minutes)
    await tx.execute(_KEEP_VISIT, *row, kept.revoked_at, version)


_ONE_VISIT: Final = f"WHERE visitor_pass_id = $1 AND household_id = $2 AND {_MADE_HERE}"
_REVOKE_VISIT = f"UPDATE visitor_passes SET revoked_at = coalesce(revoked_at, $3) {_ONE_VISIT}"  # noqa: S608
_SELECT_VISIT = _VISIT + _ONE_VISIT


async def revoke_visitor_pass(tx: Transaction, household_id: UUID, visitor_pass_id: UUID) -> VisitorPass | None:
    """Takes a household's pass back, or leaves it taken back; None when the household has no such pass."""
    await tx.execute(_REVOKE_VISIT, visitor_pass_id, household_id, tx.now)
    row = await tx.fetchrow(_SELECT_VISIT, visitor_pass_id, household_id)
    return None if row is None else VisitorPass(**row)


_VISITS = Listing(select=_VISIT, where=f"household_id = {{}} AND {_MADE_HERE}", key=("visitor_pass_id",), descending=True)


async def list_visitor_passes(tx: Transaction, household_id: UUID, after: UUID | None, limit: int) -> list[VisitorPass]:
    """A household's passes, newest first."""
    return [VisitorPass(**row) for row in await _VISITS.fetch(tx, [household_id], after, limit)]


# Denied plates.


@dataclass(frozen=True, slots=True)
class Denial:
    denial_id: UUID
    lot_id: UUID
    plate: str
    reason: str


_INSERT_DENIAL = """
INSERT INTO denials (denial_id, community_id, lot_id, plate, reason, denied_by) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (lot_id, plate) DO NOTHING
"""


async def insert_denial(tx: Transaction, denial: Denial) -> bool:
    """Keeps a plate out; False when it is kept out already."""
    arguments = (denial.denial_id, tx.community_id, denial.lot_id, denial.plate, denial.reason, tx.caller.account_id)
    return await tx.execute(_INSERT_DENIAL, *arguments) == 1


_DELETE_DENIAL = "DELETE FROM denials WHERE denial_id = $1"


async def delete_denial(tx: Transaction, denial_id: UUID) -> bool:
    """Lets a plate in again; False when there is no such denial."""
    return await tx.execute(_DELETE_DENIAL, denial_id) == 1


_DENIALS = Listing(
    select="SELECT denial_id, lot_id, plate, reason FROM denials",
    where="lot_id = {}",
    key=("denial_id",),
    descending=True,
)


async def list_denials(tx: Transaction, lot_id: UUID, after: UUID | None, limit: int) -> list[Denial]:
    """The plates kept out of a lot, newest first."""
    return [Denial(**row) for row in await _DENIALS.fetch(tx, [lot_id], after, limit)]


# Vehicles.

_UPSERT_VEHICLE = """
INSERT INTO vehicles (vehicle_id, community_id, household_id, plate, account_ids, removed, version) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (vehicle_id) DO UPDATE SET household_id = excluded.household_id, plate = excluded.plate, account_ids = excluded.account_ids,
    removed = excluded.removed, version = excluded.version
WHERE vehicles.version <= excluded.version
"""


async def save_vehicle(
    tx: Transaction, vehicle_id: UUID, household_id: UUID | None, plate: str, account_ids: Collection[UUID], version: int
) -> None:
    """Remembers whose a vehicle is, nobody's any more when there is no household, unless a newer event has said it."""
    arguments = (vehicle_id, tx.community_id, household_id, plate, list(account_ids), household_id is None, version)
    await tx.execute(_UPSERT_VEHICLE, *arguments)
