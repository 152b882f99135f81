"""Zones, doors, terminals and rules; which doors somebody may pass. Opening them from afar is in `opening_operations.py`.

What a terminal is to know follows from all of these: whoever changes one says so to `snapshot_operations`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from servicekit.communities import find_time_zone
from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.households import list_members
from servicekit.identifiers import new_id
from servicekit.staff import list_staff
from servicekit.timers import Due, set_timers
from services.access import door_store, entry_store, snapshot_operations, snapshot_store
from services.access.door_store import Door, Terminal, Zone
from services.access.doors import AntiPassback, CredentialKind, Direction, DoorKind, ZoneKind, needs_a_face
from services.access.entries import LEAVING, Entry, Rule, Times, Whom, WhomKind, entries_of
from services.access.windows import Window

HELD_OPEN_LIMIT_S: Final = 30
# The timer of a rule: a day after its end nobody is inside by it any more.
RULE_ENDS: Final = "rule_ends"


async def create_zone(tx: Transaction, name: str, kind: ZoneKind, building_id: UUID | None) -> Zone:
    """Adds a zone. Raises Invalid for a building's zone without its building, or another with one; Conflict for a name that is taken."""
    if (kind is ZoneKind.BUILDING) != (building_id is not None):
        field = FieldViolation("building_id", "access.zone_building", "belongs to the zone of a building, and to no other")
        raise Invalid(
            "access.zone_building", "楼栋区域须指定楼栋，其他区域不可指定", "A building's zone needs its building", fields=[field]
        )
    zone = Zone(new_id(), name, kind, building_id)
    if not await door_store.insert_zone(tx, zone):
        raise Conflict("access.zone_exists", "已有同名区域", "There is a zone of this name")
    return zone


async def check_zones(tx: Transaction, zone_ids: Collection[UUID]) -> None:
    """Raises NotFound when one of these zones is none of the community's."""
    if await door_store.count_zones(tx, zone_ids) < len(zone_ids):
        raise NotFound("access.zone_unknown", "没有找到该区域", "There is no such zone")


# Doors.


async def create_door(
    tx: Transaction,
    zone_id: UUID,
    name: str,
    kind: DoorKind,
    credential_kinds: Sequence[CredentialKind],
    anti_passback: AntiPassback,
    held_open_limit_s: int,
) -> Door:
    """Adds a door. 0 seconds take the usual limit.

    Raises NotFound for an unknown zone, Invalid for a door that opens to faces alone, and Conflict for a name that is taken.
    """
    await check_zones(tx, [zone_id])
    _check_kinds(credential_kinds)
    door = Door(new_id(), zone_id, name, kind, tuple(credential_kinds), anti_passback, held_open_limit_s or HELD_OPEN_LIMIT_S)
    if not await door_store.insert_door(tx, door):
        raise _door_exists()
    return door


def _check_kinds(kinds: Collection[CredentialKind]) -> None:
    if needs_a_face(kinds):
        field = FieldViolation("credential_kinds", "access.face_only", "must hold a code, a card or a PIN beside the face")
        zh = "人脸不能是唯一的开门方式，请同时开启二维码、门卡或密码"
        raise Invalid("access.face_only", zh, "A face cannot be the only way in: add codes, cards or PINs", fields=[field])


def _door_exists() -> Conflict:
    return Conflict("access.door_exists", "已有同名的门", "There is a door of this name")


@dataclass(frozen=True, slots=True)
class DoorChange:
    """What is to change of a door; None leaves it as it is."""

    name: str | None = None
    credential_kinds: tuple[CredentialKind, ...] | None = None
    anti_passback: AntiPassback | None = None
    held_open_limit_s: int | None = None
    in_use: bool | None = None


async def update_door(tx: Transaction, door_id: UUID, change: DoorChange) -> Door:
    """Changes a door. Raises NotFound, Invalid for one that would open to faces alone, and Conflict for a name that is taken."""
    if change.in_use is False:
        await snapshot_store.take_turn(tx)
    found = await door_store.find_door(tx, door_id, lock=True)
    if found is None:
        raise door_unknown()
    changed = replace(
        found,
        name=change.name or found.name,
        credential_kinds=change.credential_kinds or found.credential_kinds,
        anti_passback=change.anti_passback or found.anti_passback,
        held_open_limit_s=change.held_open_limit_s or found.held_open_limit_s,
        in_use=found.in_use if change.in_use is None else change.in_use,
    )
    _check_kinds(changed.credential_kinds)
    if not await door_store.update_door(tx, changed):
        raise _door_exists()
    if replace(changed, name=found.name) != found:
        terminals = await door_store.list_terminals_at(tx, [door_id])
        shut = [each.device_id for each in terminals if each.direction is Direction.IN] if found.in_use and not changed.in_use else []
        await snapshot_operations.refresh_all(tx, [terminal.device_id for terminal in terminals], cleared=shut)
    return changed


async def get_door(tx: Transaction, door_id: UUID) -> Door:
    """A door. Raises NotFound."""
    found = await door_store.find_door(tx, door_id)
    if found is None:
        raise door_unknown()
    return found


def door_unknown() -> NotFound:
    """There is no such door, or whoever asks may not know that there is."""
    return NotFound("access.door_unknown", "没有找到该门", "There is no such door")


# Terminals.


async def add_terminal(tx: Transaction, door_id: UUID, device_id: str, direction: Direction) -> Terminal:
    """Puts a terminal at one side of a door. Raises NotFound for an unknown door, and Conflict for a device that is at one already.

    Whether it is a terminal that this community has registered nobody asks: ingest tells of a device once, and not of what kind it is. One
    that is not never reports and is told nothing, for whatever is heard of a device and told to it goes by its community.
    """
    await get_door(tx, door_id)
    # Who was let in where it was before is not let in here.
    await snapshot_store.take_turn(tx)
    if not await door_store.place_terminal(tx, device_id, door_id, direction):
        raise Conflict("access.terminal_in_place", "该终端已安装在门上", "The terminal is at a door already")
    await snapshot_operations.refresh_all(tx, [device_id], cleared=[device_id])
    return await get_terminal(tx, device_id)


async def remove_terminal(tx: Transaction, device_id: str) -> Terminal:
    """Takes a terminal away; what it knows is to be forgotten. Raises NotFound."""
    if not await door_store.remove_terminal(tx, device_id):
        raise terminal_unknown()
    await snapshot_operations.refresh_all(tx, [device_id])
    return await get_terminal(tx, device_id)


async def get_terminal(tx: Transaction, device_id: str) -> Terminal:
    """A terminal, one that was taken away too. Raises NotFound."""
    terminal = await door_store.find_terminal(tx, device_id)
    if terminal is None:
        raise terminal_unknown()
    return terminal


def terminal_unknown() -> NotFound:
    """There is no such terminal."""
    return NotFound("access.terminal_unknown", "没有找到该终端", "There is no such terminal")


# Rules.


async def create_rule(
    tx: Transaction, zone_id: UUID, whom: Whom, windows: Sequence[Window], valid_from: datetime | None, valid_until: datetime | None
) -> Rule:
    """Lets somebody into a zone, from now on unless said otherwise. Raises NotFound for an unknown zone, Invalid for times in no order."""
    await check_zones(tx, [zone_id])
    begins = valid_from or tx.now
    if valid_until is not None and valid_until <= max(begins, tx.now):
        field = FieldViolation("valid_until", "access.validity", "must be after valid_from, and in the future")
        raise Invalid("access.validity", "有效期有误", "The validity is not possible", fields=[field])
    rule = Rule(new_id(), zone_id, whom, Times(tuple(windows), begins, valid_until))
    await door_store.insert_rule(tx, rule, begins)
    if valid_until is not None:
        await _forget_later(tx, rule.rule_id, valid_until)
    await refresh_whom(tx, whom)
    return rule


async def end_rule(tx: Transaction, rule_id: UUID) -> Rule:
    """Ends a rule now, or leaves it ended. Raises NotFound."""
    rule = await door_store.find_rule(tx, rule_id, lock=True)
    if rule is None:
        raise NotFound("access.rule_unknown", "没有找到该通行规则", "There is no such rule")
    if rule.times.valid_until is not None and rule.times.valid_until <= tx.now:
        return rule
    await door_store.end_rule(tx, rule_id, tx.now)
    await _forget_later(tx, rule_id, tx.now)
    await refresh_whom(tx, rule.whom)
    return replace(rule, times=replace(rule.times, valid_until=tx.now))


async def _forget_later(tx: Transaction, rule_id: UUID, ends_at: datetime) -> None:
    await set_timers(tx, [Due(RULE_ENDS, rule_id, "", ends_at + LEAVING)])


async def refresh_whom(tx: Transaction, whom: Whom) -> None:
    """Tells the terminals of all that a rule is for."""
    match whom:
        case (WhomKind.ACCOUNT, UUID() as account_id):
            await snapshot_operations.refresh(tx, [account_id])
        case (WhomKind.HOUSEHOLD, UUID() as household_id):
            await snapshot_operations.refresh(tx, (await entry_store.find_household(tx, household_id)).account_ids)
        case (WhomKind.BUILDING, UUID() as building_id):
            await snapshot_operations.refresh(tx, await list_members(tx, building_id))
        case (WhomKind.ROLE, str() as role):
            await snapshot_operations.refresh(tx, await list_staff(tx, role))
        case _:
            await snapshot_operations.refresh_all(tx)


# Passing doors.


async def find_way(tx: Transaction, subject_id: UUID, *, unconfirmed: bool = False) -> dict[UUID, Entry]:
    """What opens the doors that let a subject in, now or at other times, by door. Empty for who is let in nowhere.

    A pass that is not confirmed has no way, unless it is asked for as if it were.
    """
    site = await entry_store.load_site(tx)
    doors = {terminal.device_id: terminal.door_id for terminal in site.terminals if terminal.direction is Direction.IN}
    found: dict[UUID, Entry] = {}
    for subject in await entry_store.load_subjects(tx, [subject_id], unconfirmed=unconfirmed):
        for device_id, entry in entries_of(subject, site, tx.now).items():
            if device_id in doors:
                found.setdefault(doors[device_id], entry)
    return found


@dataclass(frozen=True, slots=True)
class MyDoor:
    """A door that somebody may pass."""

    door: Door
    open_now: bool


async def list_my_doors(tx: Transaction) -> list[MyDoor]:
    """The doors that let the caller in, now or at other times, by name."""
    entries = await find_way(tx, tx.caller.account_id)
    zone = await find_time_zone(tx)
    return [MyDoor(door, entries[door.door_id].holds(tx.now, zone)) for door in await door_store.find_doors(tx, entries.keys())]
