"""Who may pass where: what each terminal must know of each subject, so that it can decide alone.

A subject is an account or a visitor's pass. Residents enter the community's zones and their own building's without any rule; everybody
else, and everywhere else, by rules. Nothing here asks what somebody owes: arrears never block a door (Civil Code art. 944).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from functools import cached_property
from typing import Final
from uuid import UUID

from services.access.doors import AntiPassback, CredentialKind, Direction, ZoneKind
from services.access.windows import Window, is_open, packed

# For how long somebody is let out after what let them in has ended: whoever is still inside must get home.
LEAVING: Final = timedelta(days=1)


class WhomKind(StrEnum):
    """What a rule names people by."""

    RESIDENTS = "residents"
    BUILDING = "building"
    HOUSEHOLD = "household"
    ACCOUNT = "account"
    ROLE = "role"


# A building, household or account by its id, a role by its name; None for all residents.
Whom = tuple[WhomKind, UUID | str | None]


@dataclass(frozen=True, slots=True)
class Times:
    """When somebody is let through: in its windows, between two instants. Always, without any of them."""

    windows: tuple[Window, ...] = ()
    valid_from: datetime | None = None
    valid_until: datetime | None = None

    def holds(self, at: datetime, zone: tzinfo) -> bool:
        """Whether an instant is among them, in a community's own time."""
        if (self.valid_from is not None and at < self.valid_from) or (self.valid_until is not None and at >= self.valid_until):
            return False
        return is_open(self.windows, at, zone)


@dataclass(frozen=True, slots=True)
class Rule:
    """Lets somebody into a zone."""

    rule_id: UUID
    zone_id: UUID
    whom: Whom
    times: Times


@dataclass(frozen=True, slots=True)
class TerminalPlace:
    """Where a terminal is, and what its door accepts."""

    device_id: str
    door_id: UUID
    zone_id: UUID
    zone_kind: ZoneKind
    # Of a building's zone.
    building_id: UUID | None
    direction: Direction
    kinds: frozenset[CredentialKind]
    anti_passback: AntiPassback
    # A door out of use lets nobody in. It still lets out.
    in_use: bool


@dataclass(frozen=True)
class Site:
    """A community's terminals and rules."""

    terminals: tuple[TerminalPlace, ...]
    rules: tuple[Rule, ...]

    @cached_property
    def zones(self) -> Mapping[UUID, TerminalPlace]:
        """Each zone that has terminals, with one of them."""
        return {terminal.zone_id: terminal for terminal in self.terminals}

    @cached_property
    def rules_by_whom(self) -> Mapping[Whom, list[Rule]]:
        """Each rule under whom it is for: there are thousands of subjects, and hundreds of rules that are for a single one of them."""
        found: dict[Whom, list[Rule]] = {}
        for rule in self.rules:
            found.setdefault(rule.whom, []).append(rule)
        return found


@dataclass(frozen=True, slots=True)
class Subject:
    """An account or a pass, as far as doors go."""

    subject_id: UUID
    is_pass: bool
    # Digests of the cards' numbers, and of what is typed for the PIN.
    cards: frozenset[bytes] = frozenset()
    pins: frozenset[bytes] = frozenset()
    # Whether terminals may know the face, and its sealed template when one is kept here.
    face: bool = False
    template_id: UUID | None = None
    # Dynamic codes; a pass that the visitor has not confirmed has none.
    codes: bool = True
    # Where an account lives, or whom a visitor visits: households, each with its building.
    homes: Mapping[UUID, UUID] = field(default_factory=dict)
    roles: frozenset[str] = frozenset()
    # Where a contractor works.
    zone_ids: frozenset[UUID] = frozenset()
    # Of a pass: when it is good, and how often each door lets in on it; 0 is any number of times.
    times: Times = Times()
    entries_max: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """What one terminal knows of one subject: what it accepts of it, and when. It is let through at any of its times."""

    subject_id: UUID
    is_pass: bool
    cards: frozenset[bytes]
    pins: frozenset[bytes]
    face: bool
    template_id: UUID | None
    codes: bool
    phone: bool
    times: tuple[Times, ...]
    entries_max: int

    @property
    def is_of_use(self) -> bool:
        """Whether the subject has anything that the door accepts."""
        return bool(self.cards or self.pins or self.face or self.codes or self.phone)

    def holds(self, at: datetime, zone: tzinfo) -> bool:
        """Whether the subject is let through at an instant, in the community's own time."""
        return any(times.holds(at, zone) for times in self.times)


def entries_of(subject: Subject, site: Site, now: datetime) -> dict[str, Entry]:
    """What each terminal is to know of a subject, by its device. Terminals that are to know nothing of it are absent."""
    ways = _ways(subject, site, now)
    if not ways:
        return {}
    leaving = (_leaving(ways.values()),)
    found: dict[str, Entry] = {}
    # Most of a community's terminals know the same of somebody, and there are half a million pairs of them.
    shared: dict[object, Entry] = {}
    for terminal in site.terminals:
        alike = (terminal.kinds, terminal.direction, terminal.zone_id, terminal.in_use)
        entry = shared.get(alike)
        if entry is None:
            times = leaving if terminal.direction is Direction.OUT else _entering(terminal, ways, now)
            entry = shared[alike] = _entry(subject, terminal, times)
        if entry.times and entry.is_of_use:
            found[terminal.device_id] = entry
    return found


def _ways(subject: Subject, site: Site, now: datetime) -> dict[UUID, list[Times]]:
    """The zones that a subject may enter, or might until lately, each with its times."""
    ways: dict[UUID, list[Times]] = {}
    for zone_id, times in (*_own_ways(subject, site), *_ruled_ways(subject, site)):
        if times.valid_until is None or now < times.valid_until + LEAVING:
            ways.setdefault(zone_id, []).append(times)
    return ways


def _own_ways(subject: Subject, site: Site) -> Iterator[tuple[UUID, Times]]:
    buildings = frozenset(subject.homes.values())
    for zone_id, zone in site.zones.items():
        is_home = buildings and (zone.zone_kind is ZoneKind.COMMUNITY or zone.building_id in buildings)
        if is_home or zone_id in subject.zone_ids:
            yield zone_id, subject.times


def _ruled_ways(subject: Subject, site: Site) -> Iterator[tuple[UUID, Times]]:
    if subject.is_pass:
        return
    for whom in _names(subject):
        for rule in site.rules_by_whom.get(whom, ()):
            yield rule.zone_id, rule.times


def _names(subject: Subject) -> Iterator[Whom]:
    """All that rules may call an account by."""
    yield WhomKind.ACCOUNT, subject.subject_id
    if subject.homes:
        yield WhomKind.RESIDENTS, None
    for household_id in subject.homes:
        yield WhomKind.HOUSEHOLD, household_id
    for building_id in frozenset(subject.homes.values()):
        yield WhomKind.BUILDING, building_id
    for role in subject.roles:
        yield WhomKind.ROLE, role


def _leaving(ways: Iterable[list[Times]]) -> Times:
    """When somebody is let out: always, as long as anything lets them in anywhere, and a while longer."""
    ends = [times.valid_until for way in ways for times in way]
    known = [end for end in ends if end is not None]
    return Times(valid_until=max(known) + LEAVING if len(known) == len(ends) else None)


def _entering(terminal: TerminalPlace, ways: Mapping[UUID, list[Times]], now: datetime) -> tuple[Times, ...]:
    if not terminal.in_use:
        return ()
    times = [way for way in ways.get(terminal.zone_id, ()) if way.valid_until is None or now < way.valid_until]
    # Whoever may enter at any time needs no other time; the rest is kept in an order that is always the same.
    return (Times(),) if Times() in times else tuple(sorted(set(times), key=_order))


def _order(times: Times) -> tuple[list[list[int]], str, str]:
    return packed(times.windows), str(times.valid_from), str(times.valid_until)


def _entry(subject: Subject, terminal: TerminalPlace, times: tuple[Times, ...]) -> Entry:
    """A terminal knows of a subject what its door accepts, and no more."""
    kinds = terminal.kinds
    face = subject.face and CredentialKind.FACE in kinds
    return Entry(
        subject_id=subject.subject_id,
        is_pass=subject.is_pass,
        cards=subject.cards if CredentialKind.CARD in kinds else frozenset(),
        pins=subject.pins if CredentialKind.PIN in kinds else frozenset(),
        face=face,
        template_id=subject.template_id if face else None,
        codes=subject.codes and CredentialKind.CODE in kinds,
        phone=not subject.is_pass and CredentialKind.PHONE in kinds,
        times=times,
        # Leaving is not counted.
        entries_max=subject.entries_max if terminal.direction is Direction.IN else 0,
    )
