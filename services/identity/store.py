"""The SQL of communities, homes, people, roles and vehicles. That of sign-in is in `sign_in_store.py`, and that of
what others were told in `announcement_store.py`.

Every statement runs in the scope of one community, which the wall enforces; those that list name the community too, for their indexes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

from servicekit.database import Transaction
from servicekit.sealing import Sealed
from services.identity.roles import MemberKind

# The installation's own community: operators and signing keys belong to it.
PLATFORM_COMMUNITY: Final = UUID("00000000-0000-7000-8000-000000000001")
# A community like any other, but nobody lives in it: operators try there whether the installation works.
TRIAL_COMMUNITY: Final = UUID("00000000-0000-7000-8000-000000000002")


@dataclass(frozen=True, slots=True)
class Community:
    """A community; `version` grows by one with every change."""

    community_id: UUID
    name: str
    time_zone: str
    modules: tuple[str, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Building:
    """A building."""

    building_id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of a building, with its exclusive area in square centimetres."""

    unit_id: UUID
    building_id: UUID
    label: str
    exclusive_area_cm2: int


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account; the phone is encrypted, and bound to the account."""

    account_id: UUID
    name: str
    phone: Sealed


@dataclass(frozen=True, slots=True)
class Member:
    """A person in a household, under the name that the household uses."""

    account: Account
    kind: MemberKind


@dataclass(frozen=True, slots=True)
class Household:
    """A household of a unit, its members in the order they came."""

    household_id: UUID
    unit_id: UUID
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class RoleGrant:
    """A role of an account, limited to a building unless that is None."""

    role_grant_id: UUID
    account: Account
    role: str
    building_id: UUID | None
    granted_at: datetime


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A household's vehicle; `version` grows with every event of it."""

    vehicle_id: UUID
    household_id: UUID
    plate: str
    version: int


INSERT_COMMUNITY = """
INSERT INTO communities (community_id, name, time_zone, modules, version, created_at, told_at) VALUES ($1, $2, $3, $4, $5, $6, $6)
ON CONFLICT DO NOTHING
"""


async def insert_community(tx: Transaction, community: Community) -> None:
    """Stores a community, or leaves the one that has its id as it is."""
    await tx.execute(
        INSERT_COMMUNITY,
        community.community_id,
        community.name,
        community.time_zone,
        list(community.modules),
        community.version,
        tx.now,
    )


SELECT_COMMUNITY = "SELECT community_id, name, time_zone, modules, version FROM communities WHERE community_id = $1"


async def find_community(tx: Transaction, community_id: UUID) -> Community | None:
    """A community."""
    row = await tx.fetchrow(SELECT_COMMUNITY, community_id)
    return None if row is None else community_of(row)


LOCK_COMMUNITY = SELECT_COMMUNITY + " FOR UPDATE"


async def lock_community(tx: Transaction) -> Community:
    """The community of this transaction, which nobody else changes until it ends."""
    row = await tx.fetchrow(LOCK_COMMUNITY, tx.community_id)
    assert row is not None
    return community_of(row)


UPDATE_COMMUNITY = """
UPDATE communities SET name = $2, time_zone = $3, modules = $4, version = $5, told_at = $6 WHERE community_id = $1
"""


async def update_community(tx: Transaction, community: Community) -> None:
    """Stores a locked community's new state, of which others are told now."""
    await tx.execute(
        UPDATE_COMMUNITY, community.community_id, community.name, community.time_zone, list(community.modules), community.version, tx.now
    )


SELECT_COMMUNITIES = """
SELECT community_id, name, time_zone, modules, version FROM communities
WHERE community_id <> ALL ($1::uuid[]) AND ($2::text IS NULL OR (name, community_id) > ($2, $3::uuid))
ORDER BY name, community_id LIMIT $4
"""


async def list_communities(tx: Transaction, after: tuple[str, UUID] | None, limit: int) -> list[Community]:
    """Communities that people live in, by name, after a name and id."""
    name, community_id = after or (None, None)
    nobodys = [PLATFORM_COMMUNITY, TRIAL_COMMUNITY]
    return [community_of(row) for row in await tx.fetch(SELECT_COMMUNITIES, nobodys, name, community_id, limit)]


def community_of(row: Record) -> Community:
    """A row as a community."""
    return Community(row["community_id"], row["name"], row["time_zone"], tuple(row["modules"]), row["version"])


INSERT_BUILDING = "INSERT INTO buildings (building_id, community_id, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"


async def insert_building(tx: Transaction, building: Building) -> bool:
    """Stores a building; False when one has its name."""
    return await tx.execute(INSERT_BUILDING, building.building_id, tx.community_id, building.name) > 0


SELECT_BUILDING = "SELECT building_id, name FROM buildings WHERE building_id = $1"


async def find_building(tx: Transaction, building_id: UUID) -> Building | None:
    """A building."""
    row = await tx.fetchrow(SELECT_BUILDING, building_id)
    return None if row is None else Building(**row)


SELECT_BUILDINGS = """
SELECT building_id, name FROM buildings WHERE community_id = $1 AND ($2::text IS NULL OR name > $2) ORDER BY name LIMIT $3
"""


async def list_buildings(tx: Transaction, after: str | None, limit: int) -> list[Building]:
    """Buildings by name, after a name."""
    return [Building(**row) for row in await tx.fetch(SELECT_BUILDINGS, tx.community_id, after, limit)]


INSERT_UNIT = """
INSERT INTO units (unit_id, community_id, building_id, label, exclusive_area_cm2) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING
"""


async def insert_unit(tx: Transaction, unit: Unit) -> bool:
    """Stores a unit of a building of this community; False when one of the building has its label."""
    return await tx.execute(INSERT_UNIT, unit.unit_id, tx.community_id, unit.building_id, unit.label, unit.exclusive_area_cm2) > 0


SELECT_UNIT = "SELECT unit_id, building_id, label, exclusive_area_cm2 FROM units WHERE unit_id = $1"


async def find_unit(tx: Transaction, unit_id: UUID) -> Unit | None:
    """A unit."""
    row = await tx.fetchrow(SELECT_UNIT, unit_id)
    return None if row is None else Unit(**row)


SELECT_UNITS = """
SELECT unit_id, building_id, label, exclusive_area_cm2 FROM units
WHERE building_id = $1 AND ($2::text IS NULL OR label > $2) ORDER BY label LIMIT $3
"""


async def list_units(tx: Transaction, building_id: UUID, after: str | None, limit: int) -> list[Unit]:
    """A building's units by label, after a label."""
    return [Unit(**row) for row in await tx.fetch(SELECT_UNITS, building_id, after, limit)]


INSERT_HOUSEHOLD = "INSERT INTO households (household_id, community_id, unit_id, version) VALUES ($1, $2, $3, 0)"


async def insert_household(tx: Transaction, household: Household) -> None:
    """Stores a household of a unit of this community. Others hear of it with `announcement_store.advance_household`."""
    await tx.execute(INSERT_HOUSEHOLD, household.household_id, tx.community_id, household.unit_id)


LOCK_HOUSEHOLD = "SELECT household_id FROM households WHERE household_id = $1 FOR UPDATE"


async def lock_household(tx: Transaction, household_id: UUID) -> bool:
    """Keeps others from changing a household's people and vehicles until the transaction ends; False when there is none."""
    return await tx.fetchval(LOCK_HOUSEHOLD, household_id) is not None


SELECT_HOUSEHOLD = "SELECT household_id, unit_id FROM households WHERE household_id = $1"


async def find_household(tx: Transaction, household_id: UUID) -> Household | None:
    """A household with its members."""
    found = await _with_members(tx, await tx.fetch(SELECT_HOUSEHOLD, household_id))
    return found[0] if found else None


SELECT_HOUSEHOLDS = """
SELECT household_id, unit_id FROM households
WHERE community_id = $1 AND ($2::uuid IS NULL OR household_id < $2) ORDER BY household_id DESC LIMIT $3
"""


async def list_households(tx: Transaction, before: UUID | None, limit: int) -> list[Household]:
    """Households with their members, newest first, before an id."""
    return await _with_members(tx, await tx.fetch(SELECT_HOUSEHOLDS, tx.community_id, before, limit))


SELECT_HOUSEHOLDS_OF_ACCOUNT = """
SELECT h.household_id, h.unit_id FROM households h JOIN members m USING (household_id)
WHERE m.account_id = $1 ORDER BY h.household_id
"""


async def list_households_of(tx: Transaction, account_id: UUID) -> list[Household]:
    """The households that an account belongs to, with their members."""
    return await _with_members(tx, await tx.fetch(SELECT_HOUSEHOLDS_OF_ACCOUNT, account_id))


SELECT_MEMBERS = """
SELECT m.household_id, m.kind, m.name, a.account_id, a.phone, a.phone_key_id
FROM members m JOIN accounts a USING (account_id) WHERE m.household_id = ANY($1::uuid[]) ORDER BY m.added_at, a.account_id
"""


async def _with_members(tx: Transaction, rows: Sequence[Record]) -> list[Household]:
    members: dict[UUID, list[Member]] = {row["household_id"]: [] for row in rows}
    for row in await tx.fetch(SELECT_MEMBERS, list(members)):
        members[row["household_id"]].append(Member(_account(row), MemberKind(row["kind"])))
    return [Household(row["household_id"], row["unit_id"], tuple(members[row["household_id"]])) for row in rows]


INSERT_MEMBER = """
INSERT INTO members (household_id, account_id, community_id, kind, name, added_at) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
"""


async def insert_member(tx: Transaction, household_id: UUID, account_id: UUID, kind: MemberKind, name: str) -> bool:
    """Puts a person into a household; False when they are in it."""
    return await tx.execute(INSERT_MEMBER, household_id, account_id, tx.community_id, kind, name, tx.now) > 0


DELETE_MEMBER = "DELETE FROM members WHERE household_id = $1 AND account_id = $2"


async def delete_member(tx: Transaction, household_id: UUID, account_id: UUID) -> bool:
    """Takes a person out of a household; False when they are not in it."""
    return await tx.execute(DELETE_MEMBER, household_id, account_id) > 0


SELECT_MEMBERSHIPS = "SELECT household_id, kind FROM members WHERE account_id = $1"


async def list_memberships(tx: Transaction, account_id: UUID) -> list[tuple[UUID, MemberKind]]:
    """The households of an account, and how it belongs to each."""
    return [(row["household_id"], MemberKind(row["kind"])) for row in await tx.fetch(SELECT_MEMBERSHIPS, account_id)]


INSERT_ACCOUNT = """
INSERT INTO accounts (account_id, community_id, phone_index, phone, phone_key_id, name, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (community_id, phone_index) DO NOTHING
"""


async def insert_account(tx: Transaction, account: Account, phone_index: bytes) -> bool:
    """Stores an account; False when the community has one with this phone."""
    return (
        await tx.execute(
            INSERT_ACCOUNT,
            account.account_id,
            tx.community_id,
            phone_index,
            account.phone.data,
            account.phone.key_id,
            account.name,
            tx.now,
        )
        > 0
    )


LOCK_ACCOUNT_BY_PHONE = "SELECT account_id, name, phone, phone_key_id FROM accounts WHERE phone_index = $1 FOR UPDATE"


async def lock_account_by_phone(tx: Transaction, phone_index: bytes) -> Account | None:
    """The account of a phone, which nobody else changes until the transaction ends."""
    row = await tx.fetchrow(LOCK_ACCOUNT_BY_PHONE, phone_index)
    return None if row is None else _account(row)


SELECT_ACCOUNT = "SELECT account_id, name, phone, phone_key_id FROM accounts WHERE account_id = $1"


async def find_account(tx: Transaction, account_id: UUID) -> Account | None:
    """An account."""
    row = await tx.fetchrow(SELECT_ACCOUNT, account_id)
    return None if row is None else _account(row)


NAME_ACCOUNT = "UPDATE accounts SET name = $2 WHERE account_id = $1"


async def name_account(tx: Transaction, account: Account, name: str) -> Account:
    """Gives an account a name."""
    await tx.execute(NAME_ACCOUNT, account.account_id, name)
    return replace(account, name=name)


LOCK_ACCOUNTS_UNDER_KEYS = """
SELECT account_id, name, phone, phone_key_id FROM accounts WHERE phone_key_id = ANY($1::text[]) LIMIT $2 FOR UPDATE SKIP LOCKED
"""


async def lock_accounts_under_keys(tx: Transaction, key_ids: Sequence[str], limit: int) -> list[Account]:
    """Some accounts whose phones are encrypted with one of these data keys."""
    return [_account(row) for row in await tx.fetch(LOCK_ACCOUNTS_UNDER_KEYS, key_ids, limit)]


UPDATE_PHONE = "UPDATE accounts SET phone = $2, phone_key_id = $3 WHERE account_id = $1"


async def update_phone(tx: Transaction, account_id: UUID, phone: Sealed) -> None:
    """Stores an account's phone as it is encrypted now."""
    await tx.execute(UPDATE_PHONE, account_id, phone.data, phone.key_id)


def _account(row: Record) -> Account:
    return Account(row["account_id"], row["name"], Sealed(row["phone_key_id"], row["phone"]))


INSERT_ROLE_GRANT = """
INSERT INTO role_grants (role_grant_id, community_id, account_id, role, building_id, granted_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""


async def insert_role_grant(tx: Transaction, grant: RoleGrant) -> bool:
    """Stores a role grant; False when the account holds the role with the same reach."""
    return (
        await tx.execute(
            INSERT_ROLE_GRANT,
            grant.role_grant_id,
            tx.community_id,
            grant.account.account_id,
            grant.role,
            grant.building_id,
            grant.granted_at,
        )
        > 0
    )


_GRANTS = """
SELECT g.role_grant_id, g.role, g.building_id, g.granted_at, a.account_id, a.name, a.phone, a.phone_key_id
FROM role_grants g JOIN accounts a USING (account_id)
"""
SELECT_ROLE_GRANTS = (
    _GRANTS + "WHERE g.community_id = $1 AND ($2::uuid IS NULL OR g.role_grant_id < $2) ORDER BY g.role_grant_id DESC LIMIT $3"
)


async def list_role_grants(tx: Transaction, before: UUID | None, limit: int) -> list[RoleGrant]:
    """Who holds which role, newest first, before an id."""
    return [_role_grant(row) for row in await tx.fetch(SELECT_ROLE_GRANTS, tx.community_id, before, limit)]


SELECT_ROLE_GRANTS_OF_ACCOUNT = _GRANTS + "WHERE g.account_id = $1 ORDER BY g.role_grant_id"


async def list_role_grants_of(tx: Transaction, account_id: UUID) -> list[RoleGrant]:
    """The roles of an account."""
    return [_role_grant(row) for row in await tx.fetch(SELECT_ROLE_GRANTS_OF_ACCOUNT, account_id)]


SELECT_ROLE_GRANT = _GRANTS + "WHERE g.role_grant_id = $1"


async def find_role_grant(tx: Transaction, role_grant_id: UUID) -> RoleGrant | None:
    """A role grant."""
    row = await tx.fetchrow(SELECT_ROLE_GRANT, role_grant_id)
    return None if row is None else _role_grant(row)


COUNT_HOLDERS = "SELECT count(*) FROM role_grants WHERE community_id = $1 AND role = $2 AND building_id IS NULL"


async def count_holders(tx: Transaction, role: str) -> int:
    """How many accounts hold a role for the whole community."""
    count: int = await tx.fetchval(COUNT_HOLDERS, tx.community_id, role)
    return count


DELETE_ROLE_GRANT = "DELETE FROM role_grants WHERE role_grant_id = $1"


async def delete_role_grant(tx: Transaction, role_grant_id: UUID) -> None:
    """Takes a role away."""
    await tx.execute(DELETE_ROLE_GRANT, role_grant_id)


def _role_grant(row: Record) -> RoleGrant:
    return RoleGrant(row["role_grant_id"], _account(row), row["role"], row["building_id"], row["granted_at"])


INSERT_VEHICLE = """
INSERT INTO vehicles (vehicle_id, community_id, household_id, plate, version) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING
"""


async def insert_vehicle(tx: Transaction, vehicle: Vehicle) -> bool:
    """Stores a vehicle; False when the community has one with this plate."""
    return await tx.execute(INSERT_VEHICLE, vehicle.vehicle_id, tx.community_id, vehicle.household_id, vehicle.plate, vehicle.version) > 0


SELECT_VEHICLES = "SELECT vehicle_id, household_id, plate, version FROM vehicles WHERE household_id = $1 ORDER BY plate"


async def list_vehicles(tx: Transaction, household_id: UUID) -> list[Vehicle]:
    """A household's vehicles by plate."""
    return [Vehicle(**row) for row in await tx.fetch(SELECT_VEHICLES, household_id)]


ADVANCE_VEHICLES = """
UPDATE vehicles SET version = version + 1 WHERE vehicle_id = ANY($1::uuid[]) RETURNING vehicle_id, household_id, plate, version
"""


async def advance_vehicles(tx: Transaction, vehicle_ids: Collection[UUID]) -> list[Vehicle]:
    """Vehicles with the version of their next event."""
    return [Vehicle(**row) for row in await tx.fetch(ADVANCE_VEHICLES, list(vehicle_ids))]


DELETE_VEHICLE = """
DELETE FROM vehicles WHERE household_id = $1 AND vehicle_id = $2 RETURNING vehicle_id, household_id, plate, version + 1 AS version
"""


async def delete_vehicle(tx: Transaction, household_id: UUID, vehicle_id: UUID) -> Vehicle | None:
    """Removes a household's vehicle and returns it with the version of its last event; None when it has no such vehicle."""
    row = await tx.fetchrow(DELETE_VEHICLE, household_id, vehicle_id)
    return None if row is None else Vehicle(**row)
