"""Who lives together, and in which building. Each service that needs it keeps its own copy, from identity's events.

A service that needs it hears `FOLLOWED`. An account that has left its last household is no resident any more.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from linli.identity.v1.events_pb2 import HouseholdChanged
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.messaging import on

# Nothing happens for a version that is known or older. One statement, because identity tells of hundreds of households in a minute.
_REMEMBER = """
WITH applied AS (
    INSERT INTO known_households AS known (household_id, community_id, building_id, version) VALUES ($1, $2, $3, $4)
    ON CONFLICT (household_id) DO UPDATE SET building_id = excluded.building_id, version = excluded.version
    WHERE known.version < excluded.version
    RETURNING household_id
), gone AS (
    DELETE FROM known_residents AS resident USING applied
    WHERE resident.household_id = applied.household_id AND resident.account_id <> ALL($5::uuid[])
)
INSERT INTO known_residents (account_id, household_id, community_id)
SELECT account_id, applied.household_id, $2 FROM applied, unnest($5::uuid[]) AS account_id
ON CONFLICT DO NOTHING
"""
# Identifiers sort by age.
_SELECT_HOMES = """
SELECT DISTINCT ON (account_id) account_id, household_id, building_id
FROM known_residents JOIN known_households USING (household_id)
WHERE account_id = ANY($1::uuid[]) ORDER BY account_id, household_id
"""
_SELECT_RESIDENTS = """
SELECT DISTINCT ON (community_id, account_id) community_id, account_id, household_id
FROM known_residents WHERE account_id = ANY($1::uuid[]) ORDER BY community_id, account_id, household_id
"""
_IS_RESIDENT = "SELECT EXISTS (SELECT FROM known_residents WHERE account_id = $1 AND community_id = $2)"
_SELECT_ALL_HOMES = """
SELECT account_id, household_id, building_id FROM known_residents JOIN known_households USING (household_id)
WHERE account_id = ANY($1::uuid[]) AND known_residents.community_id = $2 ORDER BY account_id, household_id
"""
_IS_HOUSEHOLD = "SELECT EXISTS (SELECT FROM known_households WHERE household_id = $1)"
_LIVE_TOGETHER = """
SELECT EXISTS (
    SELECT FROM known_residents AS one JOIN known_residents AS other USING (household_id)
    WHERE one.account_id = $1 AND other.account_id = $2
)
"""
_SELECT_MEMBERSHIP = "SELECT EXISTS (SELECT FROM known_residents WHERE account_id = $1 AND household_id = $2)"
_SELECT_MEMBERS = """
SELECT DISTINCT account_id FROM known_residents JOIN known_households USING (household_id) WHERE building_id = $1 ORDER BY account_id
"""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a resident lives."""

    household_id: UUID
    building_id: UUID


async def remember_household_on_household_changed(tx: Transaction, event: Received[HouseholdChanged]) -> None:
    """Keeps the newest version. Raises ValueError for an id that is none."""
    household = event.message
    await tx.execute(
        _REMEMBER,
        UUID(household.household_id),
        tx.community_id,
        UUID(household.building_id),
        event.version,
        [UUID(account_id) for account_id in household.account_ids],
    )


FOLLOWED = on(HouseholdChanged, remember_household_on_household_changed)


async def find_residents(tx: Transaction, account_ids: Iterable[UUID]) -> dict[tuple[UUID, UUID], UUID]:
    """The household of each account, its oldest, by community and account, in any scope: who has moved away lives nowhere in this one."""
    rows = await tx.fetch(_SELECT_RESIDENTS, list(account_ids))
    return {(row["community_id"], row["account_id"]): row["household_id"] for row in rows}


async def is_resident(tx: Transaction, account_id: UUID) -> bool:
    """Whether an account lives in the transaction's community."""
    return bool(await tx.fetchval(_IS_RESIDENT, account_id, tx.community_id))


async def find_homes(tx: Transaction, account_ids: Iterable[UUID]) -> dict[UUID, Home]:
    """The home of each account in one community: its oldest household when it has several. Who lives nowhere here is absent."""
    rows = await tx.fetch(_SELECT_HOMES, list(account_ids))
    return {row["account_id"]: Home(row["household_id"], row["building_id"]) for row in rows}


async def list_homes(tx: Transaction, account_ids: Iterable[UUID]) -> dict[UUID, list[Home]]:
    """All homes of each account in the transaction's community. Who lives nowhere here is absent."""
    homes: dict[UUID, list[Home]] = {}
    for row in await tx.fetch(_SELECT_ALL_HOMES, list(account_ids), tx.community_id):
        homes.setdefault(row["account_id"], []).append(Home(row["household_id"], row["building_id"]))
    return homes


async def is_household(tx: Transaction, household_id: UUID) -> bool:
    """Whether there is such a household in the transaction's scope."""
    return bool(await tx.fetchval(_IS_HOUSEHOLD, household_id))


async def live_together(tx: Transaction, one: UUID, other: UUID) -> bool:
    """Whether two accounts belong to one household."""
    return bool(await tx.fetchval(_LIVE_TOGETHER, one, other))


async def is_member(tx: Transaction, household_id: UUID, account_id: UUID) -> bool:
    """Whether an account belongs to a household."""
    return bool(await tx.fetchval(_SELECT_MEMBERSHIP, account_id, household_id))


async def list_members(tx: Transaction, building_id: UUID) -> list[UUID]:
    """The accounts that live in a building."""
    return [row["account_id"] for row in await tx.fetch(_SELECT_MEMBERS, building_id)]
