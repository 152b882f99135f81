"""The SQL of zones, doors, terminals and the rules that let people in."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.listing import Listing
from services.access.doors import AntiPassback, CredentialKind, Direction, DoorKind, ZoneKind
from services.access.entries import Rule, WhomKind
from services.access.entry_store import rule_of
from services.access.windows import packed

# Zones.


@dataclass(frozen=True, slots=True)
class Zone:
    """What lies behind doors."""

    zone_id: UUID
    name: str
    kind: ZoneKind
    building_id: UUID | None


_INSERT_ZONE = "INSERT INTO zones (zone_id, community_id, name, kind, building_id) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"


async def insert_zone(tx: Transaction, zone: Zone) -> bool:
    """Adds a zone; False when another has its name."""
    return await tx.execute(_INSERT_ZONE, zone.zone_id, tx.community_id, zone.name, zone.kind, zone.building_id) == 1


_COUNT_ZONES = "SELECT count(*) FROM zones WHERE zone_id = ANY($1::uuid[])"


async def count_zones(tx: Transaction, zone_ids: Collection[UUID]) -> int:
    """How many of these zones there are."""
    count: int = await tx.fetchval(_COUNT_ZONES, list(zone_ids))
    return count


_ZONES = Listing(select="SELECT zone_id, name, kind, building_id FROM zones", key=("name",), where="community_id = {}")


async def list_zones(tx: Transaction, after: str | None, limit: int) -> list[Zone]:
    """The community's zones by name."""
    rows = await _ZONES.fetch(tx, [tx.community_id], after, limit)
    return [Zone(row["zone_id"], row["name"], ZoneKind(row["kind"]), row["building_id"]) for row in rows]


# Doors.


@dataclass(frozen=True, slots=True)
class Door:
    """A door, without its terminals."""

    door_id: UUID
    zone_id: UUID
    name: str
    kind: DoorKind
    credential_kinds: tuple[CredentialKind, ...]
    anti_passback: AntiPassback
    held_open_limit_s: int
    in_use: bool = True


# Two doors that get one name at a time: the second finds the first.
_LOCK_NAMES = "SELECT pg_advisory_xact_lock(hashtextextended('access.doors ' || $1, 0))"
_INSERT_DOOR = """
INSERT INTO doors (door_id, community_id, zone_id, name, kind, credential_kinds, anti_passback, held_open_limit_s)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING
"""


async def insert_door(tx: Transaction, door: Door) -> bool:
    """Adds a door; False when another has its name."""
    await tx.execute(_LOCK_NAMES, str(tx.community_id))
    row = (door.door_id, tx.community_id, door.zone_id, door.name, door.kind, list(door.credential_kinds))
    return await tx.execute(_INSERT_DOOR, *row, door.anti_passback, door.held_open_limit_s) == 1


_UPDATE_DOOR = """
UPDATE doors SET name = $2, credential_kinds = $3, anti_passback = $4, held_open_limit_s = $5, in_use = $6
WHERE door_id = $1 AND NOT EXISTS (
    SELECT FROM doors AS other WHERE other.community_id = doors.community_id AND other.name = $2 AND other.door_id <> $1
)
"""


async def update_door(tx: Transaction, door: Door) -> bool:
    """Changes a door, which the transaction has locked; False when another has its name."""
    await tx.execute(_LOCK_NAMES, str(tx.community_id))
    row = (door.door_id, door.name, list(door.credential_kinds), door.anti_passback, door.held_open_limit_s, door.in_use)
    return await tx.execute(_UPDATE_DOOR, *row) == 1


_DOOR: Final = "SELECT door_id, zone_id, name, kind, credential_kinds, anti_passback, held_open_limit_s, in_use FROM doors"
_FIND_DOOR = _DOOR + " WHERE door_id = $1"
_LOCK_DOOR = _FIND_DOOR + " FOR UPDATE"
_DOORS = Listing(select=_DOOR, key=("name",), where="community_id = {}", filters={"zone_id": "zone_id = {}"})


async def find_door(tx: Transaction, door_id: UUID, *, lock: bool = False) -> Door | None:
    """A door, locked until the transaction ends when asked for."""
    row = await tx.fetchrow(_LOCK_DOOR if lock else _FIND_DOOR, door_id)
    return None if row is None else _door(row)


async def list_doors(tx: Transaction, zone_id: UUID | None, after: str | None, limit: int) -> list[Door]:
    """The community's doors by name; only those of a zone."""
    return [_door(row) for row in await _DOORS.fetch(tx, [tx.community_id], after, limit, zone_id=zone_id)]


_FIND_DOORS = _DOOR + " WHERE door_id = ANY($1::uuid[]) ORDER BY name"


async def find_doors(tx: Transaction, door_ids: Collection[UUID]) -> list[Door]:
    """These doors by name."""
    return [_door(row) for row in await tx.fetch(_FIND_DOORS, list(door_ids))]


def _door(row: asyncpg.Record) -> Door:
    return Door(
        door_id=row["door_id"],
        zone_id=row["zone_id"],
        name=row["name"],
        kind=DoorKind(row["kind"]),
        credential_kinds=tuple(map(CredentialKind, row["credential_kinds"])),
        anti_passback=AntiPassback(row["anti_passback"]),
        held_open_limit_s=row["held_open_limit_s"],
        in_use=row["in_use"],
    )


# Terminals.


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal at one side of a door, and how far it has come with what it is to know."""

    device_id: str
    door_id: UUID
    direction: Direction
    wanted_version: int
    confirmed_version: int
    last_reported_at: datetime | None


# One that was here before comes back with its versions and its counter.
_PLACE_TERMINAL = """
INSERT INTO terminals (device_id, community_id, door_id, direction, added_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (community_id, device_id) DO UPDATE
SET door_id = excluded.door_id, direction = excluded.direction, added_at = excluded.added_at, removed_at = NULL
WHERE terminals.removed_at IS NOT NULL
"""


async def place_terminal(tx: Transaction, device_id: str, door_id: UUID, direction: Direction) -> bool:
    """Puts a device at one side of a door; False when it is at a door of this community already."""
    return await tx.execute(_PLACE_TERMINAL, device_id, tx.community_id, door_id, direction, tx.now) == 1


_REMOVE_TERMINAL = "UPDATE terminals SET removed_at = $3 WHERE community_id = $1 AND device_id = $2 AND removed_at IS NULL"


async def remove_terminal(tx: Transaction, device_id: str) -> bool:
    """Takes a terminal away; False when it is at no door of this community."""
    return await tx.execute(_REMOVE_TERMINAL, tx.community_id, device_id, tx.now) == 1


_TERMINAL: Final = "SELECT device_id, door_id, direction, wanted_version, confirmed_version, last_reported_at FROM terminals"
_FIND_TERMINAL = _TERMINAL + " WHERE community_id = $1 AND device_id = $2"
_LIST_AT_DOORS = _TERMINAL + " WHERE door_id = ANY($1::uuid[]) AND removed_at IS NULL ORDER BY direction, device_id"
_TERMINALS = Listing(
    select=_TERMINAL,
    key=("device_id",),
    where="community_id = {} AND removed_at IS NULL",
    filters={"door_id": "door_id = {}", "behind": "confirmed_version < wanted_version"},
)


async def find_terminal(tx: Transaction, device_id: str) -> Terminal | None:
    """A terminal, one that was taken away too."""
    row = await tx.fetchrow(_FIND_TERMINAL, tx.community_id, device_id)
    return None if row is None else _terminal(row)


async def list_terminals(tx: Transaction, door_id: UUID | None, behind: bool, after: str | None, limit: int) -> list[Terminal]:
    """The community's terminals by device; only those of a door, only those that have not confirmed all that they are to know."""
    return [_terminal(row) for row in await _TERMINALS.fetch(tx, [tx.community_id], after, limit, door_id=door_id, behind=behind)]


async def list_terminals_at(tx: Transaction, door_ids: Collection[UUID]) -> list[Terminal]:
    """The terminals of these doors, those that let in first."""
    return [_terminal(row) for row in await tx.fetch(_LIST_AT_DOORS, list(door_ids))]


def _terminal(row: asyncpg.Record) -> Terminal:
    device_id, door_id, direction, *rest = row
    return Terminal(device_id, door_id, Direction(direction), *rest)


# Rules.

_INSERT_RULE = """
INSERT INTO access_rules (rule_id, community_id, zone_id, whom, whom_id, role, windows, valid_from, valid_until, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


async def insert_rule(tx: Transaction, rule: Rule, valid_from: datetime) -> None:
    """Adds a rule."""
    kind, name = rule.whom
    whom = (None, name) if kind is WhomKind.ROLE else (name, None)
    windows = json.dumps(packed(rule.times.windows))
    row = (rule.rule_id, tx.community_id, rule.zone_id, kind, *whom, windows, valid_from, rule.times.valid_until)
    await tx.execute(_INSERT_RULE, *row, tx.caller.account_id)


_RULE: Final = "SELECT rule_id, zone_id, whom, whom_id, role, windows, valid_from, valid_until FROM access_rules"
_FIND_RULE = _RULE + " WHERE rule_id = $1"
_LOCK_RULE = _FIND_RULE + " FOR UPDATE"
_END_RULE = "UPDATE access_rules SET valid_until = $2 WHERE rule_id = $1"
_RULES = Listing(select=_RULE, key=("rule_id",), descending=True, where="community_id = {}", filters={"zone_id": "zone_id = {}"})


async def find_rule(tx: Transaction, rule_id: UUID, *, lock: bool = False) -> Rule | None:
    """A rule, locked until the transaction ends when asked for."""
    row = await tx.fetchrow(_LOCK_RULE if lock else _FIND_RULE, rule_id)
    return None if row is None else rule_of(row)


async def end_rule(tx: Transaction, rule_id: UUID, at: datetime) -> None:
    """Ends a rule, which the transaction has locked."""
    await tx.execute(_END_RULE, rule_id, at)


async def list_rules(tx: Transaction, zone_id: UUID | None, after: UUID | None, limit: int) -> list[Rule]:
    """The community's rules, newest first; only those of a zone."""
    return [rule_of(row) for row in await _RULES.fetch(tx, [tx.community_id], after, limit, zone_id=zone_id)]
