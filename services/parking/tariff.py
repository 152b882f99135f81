"""The tariff as data.

Vocabulary after the Curb Data Specification (Curbs API, policies). It states a price per `rate_unit`; here a price is
stated per increment, because two yuan for half an hour is no whole number of fen a minute. Amounts are int fen.

Of the versions in force when a car comes in (`effective_from` inclusive, `effective_until` exclusive) the one that began
last prices its stay, whatever happens to the tariff meanwhile: a holiday tariff with an end takes over from the ordinary
one and gives back to it. The store finds it.

`tariff_document.py` reads tariffs from JSON and is where every Tariff comes from; `charges.py` says what a stay costs.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Final

from services.parking.plates import PlateKind


class RateUnit(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"  # 24 hours


_UNIT_DURATION: Final = {
    RateUnit.MINUTE: timedelta(minutes=1),
    RateUnit.HOUR: timedelta(hours=1),
    RateUnit.DAY: timedelta(days=1),
}


class RateUnitPeriod(StrEnum):
    ROLLING = "rolling"  # each 24 hours from the arrival
    CALENDAR = "calendar"  # each local calendar day
    STAY = "stay"  # the whole stay


class DesignatedPeriod(StrEnum):
    HOLIDAYS = "holidays"
    WORKDAYS = "workdays"  # Monday to Friday and make-up working days (调休), holidays left out


class Weekday(StrEnum):
    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


_WEEKDAYS: Final = tuple(Weekday)  # in the order of date.weekday()


@dataclass(frozen=True, slots=True)
class Holidays:
    """The State Council's yearly arrangement, as local dates."""

    days: frozenset[date] = frozenset()
    working_days: frozenset[date] = frozenset()
    """Saturdays and Sundays on which people work in exchange for a longer holiday (调休)."""

    def is_workday(self, day: date) -> bool:
        return day in self.working_days or (day.weekday() < 5 and day not in self.days)


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """Local clock times on some days. One that crosses midnight belongs to the day on which it starts."""

    days_of_week: tuple[Weekday, ...] = _WEEKDAYS
    time_of_day_start: time = time.min
    time_of_day_end: time = time.min
    """Exclusive; on the next day when it is not after the start."""
    designated_period: DesignatedPeriod | None = None
    designated_period_except: bool = False
    """True turns the designated period around: all days but those."""

    def applies_on(self, day: date, holidays: Holidays) -> bool:
        if _WEEKDAYS[day.weekday()] not in self.days_of_week:
            return False
        match self.designated_period:
            case None:
                return True
            case DesignatedPeriod.HOLIDAYS:
                inside = day in holidays.days
            case DesignatedPeriod.WORKDAYS:
                inside = holidays.is_workday(day)
        return inside is not self.designated_period_except


@dataclass(frozen=True, slots=True)
class Rate:
    """One step of a price: from `start_duration` (inclusive) to `end_duration` (exclusive) rate units after arrival."""

    rate_unit: RateUnit
    increment_duration: int
    increment_amount: int
    """Fen for each increment that has started."""
    start_duration: int = 0
    end_duration: int | None = None

    @property
    def increment(self) -> timedelta:
        return self.increment_duration * _UNIT_DURATION[self.rate_unit]

    @property
    def starts_after(self) -> timedelta:
        return self.start_duration * _UNIT_DURATION[self.rate_unit]

    @property
    def ends_after(self) -> timedelta | None:
        return None if self.end_duration is None else self.end_duration * _UNIT_DURATION[self.rate_unit]


@dataclass(frozen=True, slots=True)
class Band:
    """What parking costs during a time span: rates by the hour, or one flat price for each time the span comes."""

    name: str
    time_span: TimeSpan = TimeSpan()
    rates: tuple[Rate, ...] = ()
    """Steps without gaps, the last without end; empty when the price is flat."""
    flat_amount: int | None = None
    cap_amount: int | None = None
    """The most that increments started during one occurrence of the span cost."""


@dataclass(frozen=True, slots=True)
class Cap:
    amount: int
    rate_unit_period: RateUnitPeriod


class FreeTimeKind(StrEnum):
    ALL_OR_NOTHING = "all_or_nothing"  # who stays longer pays from the first minute
    DEDUCTED = "deducted"  # who stays longer pays as if the car had come that much later


@dataclass(frozen=True, slots=True)
class FreeTime:
    minutes: int
    kind: FreeTimeKind


class DiscountUnit(StrEnum):
    MINUTES = "minutes"  # as if the car had come that much later, where that is cheaper
    PERCENT = "percent"  # rounded to the fen in the driver's favour
    FEN = "fen"


@dataclass(frozen=True, slots=True)
class Discount:
    """A visitor's coupon, or what a class of vehicles is granted."""

    name: str
    off: int
    unit: DiscountUnit

    def __post_init__(self) -> None:
        if self.off < 0 or (self.unit is DiscountUnit.PERCENT and self.off > 100):
            raise ValueError(f"a discount cannot be {self.off} {self.unit}")


@dataclass(frozen=True, slots=True)
class Concession:
    """The discount that every vehicle of these classes has."""

    user_classes: tuple[PlateKind, ...]
    discount: Discount


@dataclass(frozen=True, slots=True)
class Tariff:
    name: str
    version: int
    effective_from: datetime
    bands: tuple[Band, ...]
    """The first whose time span applies is in force; the last one applies always."""
    rate_unit_period: RateUnitPeriod
    """How often the steps of the rates start again, and "the first hour" comes back."""
    effective_until: datetime | None = None
    free: FreeTime | None = None
    caps: tuple[Cap, ...] = ()
    concessions: tuple[Concession, ...] = ()
    grace_minutes: int = 0
    """To reach the exit after having paid."""
