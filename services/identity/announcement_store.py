"""The SQL of what others are told of communities and households, and of when they were told last."""

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
