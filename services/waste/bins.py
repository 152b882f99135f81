"""What is known of a bin: its compartments, how full they are, and when something is wrong with it. Pure.

What it weighed is in `deposits.py`, how wrong its clock is in `clocks.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

# A full bin's alarm does not come and go with each bag that settles.
FULL_PERMILLE: Final = 900
ROOM_PERMILLE: Final = 700
# Only an emptying makes the fill fall by this much, to this little: waste that settles does neither.
EMPTIED_BY_PERMILLE: Final = 300
EMPTIED_TO_PERMILLE: Final = 200
# No sun heats a bin to this; smouldering waste does. Fixed heat detectors respond between 54 and 70 °C (GB 4716, class A1).
FIRE_C: Final = 70
# What burned is out when it is cooler; one that is about as hot does not burn anew with each report.
COOL_C: Final = 60
# A clock that is wrong by more dates deposits into another day or month now and then; the gap keeps the alarm from coming and going.
CLOCK_WRONG: Final = timedelta(minutes=5)
CLOCK_RIGHT: Final = timedelta(minutes=4)
# For what is told of the whole bin.
WHOLE: Final = ""


class Category(StrEnum):
    """The four categories of household waste (GB/T 19095-2019)."""

    RECYCLABLE = "recyclable"
    KITCHEN = "kitchen"
    HAZARDOUS = "hazardous"
    OTHER = "other"


class AlarmKind(StrEnum):
    """Why a bin needs somebody."""

    FULL = "full"
    FIRE = "fire"
    SILENT = "silent"
    CLOCK = "clock"


@dataclass(frozen=True, slots=True)
class Compartment:
    """A part of a bin, for one category. `fill_permille` is None until the bin has said it."""

    name: str
    category: Category
    capacity_grams: int
    fill_permille: int | None = None
    fill_at: datetime | None = None
    emptied_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that is, or was, wrong with a bin. `compartment` is empty for what is about all of it."""

    alarm_id: UUID
    bin_id: UUID
    kind: AlarmKind
    compartment: str
    raised_at: datetime
    cleared_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Degrees, WGS 84."""

    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin with its compartments by name, and the alarms that last."""

    bin_id: UUID
    community_id: UUID
    name: str
    device_id: str
    building_id: UUID | None
    place: Place
    in_use: bool
    last_heard_at: datetime | None
    reported_at: datetime | None
    silent_since: datetime | None
    version: int
    time_zone: ZoneInfo
    compartments: Mapping[str, Compartment]
    alarms: Sequence[Alarm]


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a bin said that a compartment was, in thousandths, and when that was by our time."""

    compartment: str
    at: datetime
    permille: int


def fill_of(compartment: str, at: datetime, permille: int) -> Fill | None:
    """What a bin said, as far as it can be; None when it said nothing. A bin that is more than full is full."""
    return None if permille < 0 else Fill(compartment, at, min(permille, 1000))


# As finely as bins tell the time.
TICK: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Filling:
    """What a bin's words about its fill change."""

    # The compartments that are not as they were.
    compartments: Sequence[Compartment]
    # Each change of fill, late news too.
    levels: Sequence[Fill]
    # When which compartment was emptied: its name, and the first that was heard of it empty.
    emptyings: Sequence[Fill]


def fill(compartments: Mapping[str, Compartment], fills: Iterable[Fill]) -> Filling:
    """Applies what a bin told of its fill. News that is older than what is known goes into the history and changes nothing else.

    Bins tell the time in seconds, and their words overtake each other: of what was told within one the fullest holds.

    An emptying that somebody recorded since the bin last told its fill is the one that is seen, and not a second.
    """
    known, changed = dict(compartments), dict[str, Compartment]()
    levels, emptyings = list[Fill](), list[Fill]()
    for told in sorted(fills, key=lambda each: each.at):
        before = known.get(told.compartment)
        if before is None:
            continue
        if not _is_news(before, told):
            levels.append(told)
            continue
        after = replace(before, fill_permille=told.permille, fill_at=max(told.at, before.fill_at or told.at))
        if told.permille != before.fill_permille:
            levels.append(told)
        if _is_emptied(before, told):
            emptyings.append(told)
            after = replace(after, emptied_at=told.at)
        known[told.compartment] = changed[told.compartment] = after
    return Filling(list(changed.values()), levels, emptyings)


def _is_news(before: Compartment, told: Fill) -> bool:
    if before.fill_at is None or before.fill_permille is None:
        return True
    return told.at >= before.fill_at + TICK or (told.at > before.fill_at - TICK and told.permille > before.fill_permille)


def _is_emptied(before: Compartment, told: Fill) -> bool:
    if before.fill_permille is None or before.fill_at is None:
        return False
    is_empty = before.fill_permille - told.permille >= EMPTIED_BY_PERMILLE and told.permille <= EMPTIED_TO_PERMILLE
    return is_empty and (before.emptied_at is None or before.emptied_at < before.fill_at)


# Whether an alarm is to last, after something was heard, given whether it lasts now.


def is_full(permille: int, *, lasts: bool) -> bool:
    """Whether a compartment is full."""
    return permille >= (ROOM_PERMILLE if lasts else FULL_PERMILLE)


def is_fire(*, smoke: bool, temperature_c: int | None, lasts: bool) -> bool:
    """Whether a bin burns, as far as it can tell."""
    return smoke or (temperature_c is not None and temperature_c >= (COOL_C if lasts else FIRE_C))


def is_clock_wrong(error: timedelta, *, lasts: bool) -> bool:
    """Whether a bin's clock is wrong by more than it may be."""
    return abs(error) > (CLOCK_RIGHT if lasts else CLOCK_WRONG)
