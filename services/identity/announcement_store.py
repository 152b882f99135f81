"""The SQL of what others are told of communities, households and staff, and of when they were told last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from servicekit.database import Transaction
from services.identity.store import PLATFORM_COMMUNITY, Community, community_of


@dataclass(frozen=True, slots=True)
class HouseholdState:
    """What others know of a household; `version` grows with every event of it."""

    household_id: UUID
    community_id: UUID
    building_id: UUID
    version: int
    account_ids: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class StaffState:
    """What others know of an account's roles for its whole community; `version` grows with every event of them."""

    account_id: UUID
    community_id: UUID
    version: int
    roles: Sequence[str]


ADVANCE_HOUSEHOLD = """
UPDATE households h SET version = h.version + 1, told_at = $2 FROM units u WHERE h.household_id = $1 AND u.unit_id = h.unit_id
RETURNING h.household_id, h.community_id, u.building_id, h.version,
    ARRAY(SELECT account_id FROM members m WHERE m.household_id = h.household_id ORDER BY account_id) AS account_ids
"""


async def advance_household(tx: Transaction, household_id: UUID) -> HouseholdState:
    """What others are told of a locked household now, with the version of that event."""
    row = await tx.fetchrow(ADVANCE_HOUSEHOLD, household_id, tx.now)
    assert row is not None
    return HouseholdState(**row)


TELL_COMMUNITIES = """
WITH due AS (
    SELECT community_id FROM communities WHERE told_at < $1 AND community_id <> $2 ORDER BY told_at LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE communities SET told_at = $4 FROM due WHERE communities.community_id = due.community_id
RETURNING communities.community_id, name, time_zone, modules, version
"""


async def tell_communities(tx: Transaction, before: datetime, limit: int) -> list[Community]:
    """Some communities that others were not told of since `before`, locked, and marked as told now."""
    return [community_of(row) for row in await tx.fetch(TELL_COMMUNITIES, before, PLATFORM_COMMUNITY, limit, tx.now)]


# Whoever changes a household's members marks it as told: one that changes while this waits for its row is not due any more, and the members
# that this statement sees are those of the version.
TELL_HOUSEHOLDS = """
WITH due AS (SELECT household_id FROM households WHERE told_at < $1 ORDER BY told_at LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE households h SET told_at = $3 FROM due, units u WHERE h.household_id = due.household_id AND u.unit_id = h.unit_id
RETURNING h.household_id, h.community_id, u.building_id, h.version,
    ARRAY(SELECT account_id FROM members m WHERE m.household_id = h.household_id ORDER BY account_id) AS account_ids
"""


async def tell_households(tx: Transaction, before: datetime, limit: int) -> list[HouseholdState]:
    """Some households of all communities that others were not told of since `before`, locked, and marked as told now."""
    return [HouseholdState(**row) for row in await tx.fetch(TELL_HOUSEHOLDS, before, limit, tx.now)]


ADVANCE_STAFF = """
INSERT INTO staff (account_id, community_id, version, told_at) VALUES ($1, $2, 1, $3)
ON CONFLICT (account_id) DO UPDATE SET version = staff.version + 1, told_at = excluded.told_at
"""
# A statement of its own: the one that waits for the row does not see the roles of the transaction that it waited for.
SELECT_STAFF = """
SELECT account_id, community_id, version,
    ARRAY(SELECT role FROM role_grants g WHERE g.account_id = staff.account_id AND building_id IS NULL ORDER BY role) AS roles
FROM staff WHERE account_id = $1
"""


async def advance_staff(tx: Transaction, account_id: UUID) -> StaffState:
    """What others are told of an account's roles now, with the version of that event. Locks them until the transaction ends."""
    await tx.execute(ADVANCE_STAFF, account_id, tx.community_id, tx.now)
    row = await tx.fetchrow(SELECT_STAFF, account_id)
    assert row is not None
    return StaffState(**row)


# Whoever got a role before others could hear of it.
ENLIST_STAFF = """
INSERT INTO staff (account_id, community_id, version, told_at)
SELECT DISTINCT account_id, community_id, 1, '-infinity'::timestamptz FROM role_grants g
WHERE building_id IS NULL AND community_id <> $1 AND NOT EXISTS (SELECT FROM staff WHERE staff.account_id = g.account_id)
ON CONFLICT DO NOTHING
"""
# Whoever changes an account's roles marks it as told, as with households.
TELL_STAFF = """
WITH due AS (SELECT account_id FROM staff WHERE told_at < $1 ORDER BY told_at LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE staff SET told_at = $3 FROM due WHERE staff.account_id = due.account_id
RETURNING staff.account_id, community_id, version,
    ARRAY(SELECT role FROM role_grants g WHERE g.account_id = staff.account_id AND building_id IS NULL ORDER BY role) AS roles
"""


async def tell_staff(tx: Transaction, before: datetime, limit: int) -> list[StaffState]:
    """Some accounts of all communities of whose roles others were not told since `before`, locked, and marked as told now."""
    await tx.execute(ENLIST_STAFF, PLATFORM_COMMUNITY)
    return [StaffState(**row) for row in await tx.fetch(TELL_STAFF, before, limit, tx.now)]
