"""The methods of linli.access.v1.AccessService about zones, doors, terminals and rules."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from linli.access.v1 import access_pb2 as pb
from linli.access.v1 import windows_pb2
from linli.device.v1 import events_pb2 as device
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_datetime, to_timestamp
from services.access import door_operations, door_store, journal_store, opening_operations
from services.access.deciding_operations import Opening
from services.access.door_operations import DoorChange
from services.access.door_store import Door, Terminal, Zone
from services.access.doors import AntiPassback, CredentialKind, Direction, DoorKind, ZoneKind
from services.access.entries import Rule, Whom, WhomKind
from services.access.journal_store import JournalState
from services.access.windows import Window

ZONE_KIND_MESSAGE: Final = {kind: pb.ZoneKind.Value(f"ZONE_KIND_{kind.name}") for kind in ZoneKind}
DOOR_KIND_MESSAGE: Final = {kind: pb.DoorKind.Value(f"DOOR_KIND_{kind.name}") for kind in DoorKind}
ANTI_PASSBACK_MESSAGE: Final = {kind: pb.AntiPassback.Value(f"ANTI_PASSBACK_{kind.name}") for kind in AntiPassback}
DIRECTION_MESSAGE: Final = {kind: pb.Direction.Value(f"DIRECTION_{kind.name}") for kind in Direction}
CREDENTIAL_KIND_MESSAGE: Final = {kind: device.CredentialKind.Value(f"CREDENTIAL_KIND_{kind.name}") for kind in CredentialKind}
_ZONE_KIND: Final = {message: kind for kind, message in ZONE_KIND_MESSAGE.items()}
_DOOR_KIND: Final = {message: kind for kind, message in DOOR_KIND_MESSAGE.items()}
_ANTI_PASSBACK: Final = {message: kind for kind, message in ANTI_PASSBACK_MESSAGE.items()}
_DIRECTION: Final = {message: kind for kind, message in DIRECTION_MESSAGE.items()}
CREDENTIAL_KIND: Final = {message: kind for kind, message in CREDENTIAL_KIND_MESSAGE.items()}


def optional_id(typed: str) -> UUID | None:
    """An id that may be left empty."""
    return UUID(typed) if typed else None


# Zones.


async def create_zone(tx: Transaction, request: pb.CreateZoneRequest) -> pb.Zone:
    """Adds a zone."""
    kind, building_id = _ZONE_KIND[request.kind], optional_id(request.building_id)
    return _zone(await door_operations.create_zone(tx, text(request.name, "name"), kind, building_id))


async def list_zones(tx: Transaction, request: pb.ListZonesRequest) -> pb.ListZonesResponse:
    """The community's zones."""
    zones, token = await page(request, str, partial(door_store.list_zones, tx), lambda zone: zone.name)
    return pb.ListZonesResponse(zones=[_zone(zone) for zone in zones], next_page_token=token)


def _zone(zone: Zone) -> pb.Zone:
    kind = ZONE_KIND_MESSAGE[zone.kind]
    return pb.Zone(zone_id=str(zone.zone_id), name=zone.name, kind=kind, building_id=str(zone.building_id or ""))


# Doors.


async def create_door(tx: Transaction, request: pb.CreateDoorRequest) -> pb.Door:
    """Adds a door."""
    door = await door_operations.create_door(
        tx,
        UUID(request.zone_id),
        text(request.name, "name"),
        _DOOR_KIND[request.kind],
        [CREDENTIAL_KIND[kind] for kind in request.credential_kinds],
        _ANTI_PASSBACK[request.anti_passback],
        request.held_open_limit_s,
    )
    return _door(door)


async def update_door(tx: Transaction, request: pb.UpdateDoorRequest) -> pb.Door:
    """Changes a door."""
    change = DoorChange(
        name=text(request.name, "name") if request.name else None,
        credential_kinds=tuple(CREDENTIAL_KIND[kind] for kind in request.credential_kinds) or None,
        anti_passback=_ANTI_PASSBACK.get(request.anti_passback),
        held_open_limit_s=request.held_open_limit_s or None,
        in_use=request.in_use if request.HasField("in_use") else None,
    )
    (message,) = await _doors(tx, [await door_operations.update_door(tx, UUID(request.door_id), change)])
    return message


async def get_door(tx: Transaction, request: pb.GetDoorRequest) -> pb.Door:
    """A door with its terminals."""
    (message,) = await _doors(tx, [await door_operations.get_door(tx, UUID(request.door_id))])
    return message


async def list_doors(tx: Transaction, request: pb.ListDoorsRequest) -> pb.ListDoorsResponse:
    """The community's doors by name."""
    fetch = partial(door_store.list_doors, tx, optional_id(request.zone_id))
    doors, token = await page(request, str, fetch, lambda door: door.name)
    return pb.ListDoorsResponse(doors=await _doors(tx, doors), next_page_token=token)


async def _doors(tx: Transaction, doors: Sequence[Door]) -> list[pb.Door]:
    """Doors with their terminals."""
    at_doors: dict[UUID, list[Terminal]] = {}
    for terminal in await door_store.list_terminals_at(tx, [door.door_id for door in doors]):
        at_doors.setdefault(terminal.door_id, []).append(terminal)
    journals = await journal_store.states_of(tx, [terminal.device_id for at_door in at_doors.values() for terminal in at_door])
    return [_door(door, [_terminal(terminal, journals) for terminal in at_doors.get(door.door_id, ())]) for door in doors]


def _door(door: Door, terminals: Iterable[pb.Terminal] = ()) -> pb.Door:
    return pb.Door(
        door_id=str(door.door_id),
        zone_id=str(door.zone_id),
        name=door.name,
        kind=DOOR_KIND_MESSAGE[door.kind],
        credential_kinds=[CREDENTIAL_KIND_MESSAGE[kind] for kind in door.credential_kinds],
        anti_passback=ANTI_PASSBACK_MESSAGE[door.anti_passback],
        held_open_limit_s=door.held_open_limit_s,
        terminals=terminals,
        in_use=door.in_use,
    )


# Terminals.


async def add_terminal(tx: Transaction, request: pb.AddTerminalRequest) -> pb.Terminal:
    """Puts a terminal at one side of a door."""
    direction = _DIRECTION[request.direction]
    return _terminal(await door_operations.add_terminal(tx, UUID(request.door_id), request.device_id, direction), {})


async def remove_terminal(tx: Transaction, request: pb.RemoveTerminalRequest) -> pb.Terminal:
    """Takes a terminal away from its door."""
    terminal = await door_operations.remove_terminal(tx, request.device_id)
    return _terminal(terminal, await journal_store.states_of(tx, [terminal.device_id]))


async def list_terminals(tx: Transaction, request: pb.ListTerminalsRequest) -> pb.ListTerminalsResponse:
    """Terminals, with how far their rules and journals have come."""
    fetch = partial(door_store.list_terminals, tx, optional_id(request.door_id), request.behind_only)
    terminals, token = await page(request, str, fetch, lambda terminal: terminal.device_id)
    journals = await journal_store.states_of(tx, [terminal.device_id for terminal in terminals])
    return pb.ListTerminalsResponse(terminals=[_terminal(terminal, journals) for terminal in terminals], next_page_token=token)


def _terminal(terminal: Terminal, journals: Mapping[str, JournalState]) -> pb.Terminal:
    message = pb.Terminal(
        device_id=terminal.device_id,
        door_id=str(terminal.door_id),
        direction=DIRECTION_MESSAGE[terminal.direction],
        wanted_version=terminal.wanted_version,
        confirmed_version=terminal.confirmed_version,
        last_reported_at=to_timestamp(terminal.last_reported_at),
    )
    if journal := journals.get(terminal.device_id):
        message.journal_sequence, message.journal_missing, message.journal_broken = journal.sequence, journal.missing, journal.broken
    return message


# Opening.


async def open_door(tx: Transaction, request: pb.OpenDoorRequest) -> pb.DoorOpening:
    """Opens a door from afar."""
    reason = text(request.reason, "reason", lines=True)
    return _opening(await opening_operations.open_door(tx, UUID(request.door_id), request.device_id, reason))


async def list_my_doors(tx: Transaction, _request: pb.ListMyDoorsRequest) -> pb.ListMyDoorsResponse:
    """The doors that the caller may open now, or at other times."""
    doors = [
        pb.MyDoor(
            door_id=str(mine.door.door_id),
            name=mine.door.name,
            kind=DOOR_KIND_MESSAGE[mine.door.kind],
            credential_kinds=[CREDENTIAL_KIND_MESSAGE[kind] for kind in mine.door.credential_kinds],
            open_now=mine.open_now,
        )
        for mine in await door_operations.list_my_doors(tx)
    ]
    return pb.ListMyDoorsResponse(doors=doors)


async def open_my_door(tx: Transaction, request: pb.OpenMyDoorRequest) -> pb.DoorOpening:
    """Opens a door that the caller stands at."""
    return _opening(await opening_operations.open_my_door(tx, UUID(request.door_id)))


def _opening(opening: Opening) -> pb.DoorOpening:
    return pb.DoorOpening(
        command_id=str(opening.command_id),
        door_id=str(opening.door_id),
        device_id=opening.device_id,
        expires_at=to_timestamp(opening.expires_at),
    )


# Rules.


async def create_access_rule(tx: Transaction, request: pb.CreateAccessRuleRequest) -> pb.AccessRule:
    """Lets somebody into a zone."""
    rule = await door_operations.create_rule(
        tx,
        UUID(request.zone_id),
        _whom_of(request),
        windows_of(request.windows),
        to_datetime(request.valid_from, "valid_from") if request.HasField("valid_from") else None,
        to_datetime(request.valid_until, "valid_until") if request.HasField("valid_until") else None,
    )
    return _rule(rule)


def _whom_of(request: pb.CreateAccessRuleRequest) -> Whom:
    named: list[Whom] = [(WhomKind.RESIDENTS, None)] if request.all_residents else []
    for kind, typed in (
        (WhomKind.BUILDING, request.building_id),
        (WhomKind.HOUSEHOLD, request.household_id),
        (WhomKind.ACCOUNT, request.account_id),
    ):
        named += [(kind, UUID(typed))] if typed else []
    named += [(WhomKind.ROLE, text(request.role, "role"))] if request.role else []
    if len(named) != 1:
        field = FieldViolation("all_residents", "access.rule_whom", "name all residents, a building, a household, an account or a role")
        raise Invalid("access.rule_whom", "须且只须指定一类通行对象", "Name exactly one of those whom the rule lets in", fields=[field])
    return named[0]


async def end_access_rule(tx: Transaction, request: pb.EndAccessRuleRequest) -> pb.AccessRule:
    """Ends a rule now."""
    return _rule(await door_operations.end_rule(tx, UUID(request.rule_id)))


async def list_access_rules(tx: Transaction, request: pb.ListAccessRulesRequest) -> pb.ListAccessRulesResponse:
    """Rules, newest first."""
    fetch = partial(door_store.list_rules, tx, optional_id(request.zone_id))
    rules, token = await page(request, UUID, fetch, lambda rule: rule.rule_id)
    return pb.ListAccessRulesResponse(rules=[_rule(rule) for rule in rules], next_page_token=token)


def _rule(rule: Rule) -> pb.AccessRule:
    kind, name = rule.whom
    return pb.AccessRule(
        rule_id=str(rule.rule_id),
        zone_id=str(rule.zone_id),
        all_residents=kind is WhomKind.RESIDENTS,
        building_id=str(name) if kind is WhomKind.BUILDING else "",
        household_id=str(name) if kind is WhomKind.HOUSEHOLD else "",
        account_id=str(name) if kind is WhomKind.ACCOUNT else "",
        role=str(name) if kind is WhomKind.ROLE else "",
        windows=window_messages(rule.times.windows),
        valid_from=to_timestamp(rule.times.valid_from),
        valid_until=to_timestamp(rule.times.valid_until),
    )


def windows_of(messages: Iterable[windows_pb2.WeeklyWindow]) -> tuple[Window, ...]:
    """Times of the week that somebody named."""
    return tuple(Window(frozenset(message.weekdays), message.from_minute, message.until_minute) for message in messages)


def window_messages(windows: Iterable[Window]) -> list[windows_pb2.WeeklyWindow]:
    """Times of the week as the contract says them."""
    return [
        windows_pb2.WeeklyWindow(weekdays=sorted(window.weekdays), from_minute=window.from_minute, until_minute=window.until_minute)
        for window in windows
    ]
