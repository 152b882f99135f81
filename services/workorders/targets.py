"""When promises are due: working time, warnings before a promise is due, and who is told after it was missed. Pure.

Time given to a promise is counted in seconds of its clock, which runs round the clock or in the community's working hours.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final
from uuid import UUID

# A clock with next to no working hours ends somewhere.
_DAYS_MAX: Final = 1500
_MINUTE_S: Final = 60
_MONDAY: Final = 1


@dataclass(frozen=True, slots=True)
class Hours:
    """Working hours of a day of the week, 1 is Monday, in minutes after midnight of the community's time."""

    weekday: int
    from_minute: int
    until_minute: int


@dataclass(frozen=True, slots=True)
class Terms:
    """How the community serves. `terms_id` is None for a community that has set none.

    `escalation_roles` are told of a missed promise one after the other. An offer waits `offer_s`; `reopen_days` after it was done an order
    confirms itself.
    """

    terms_id: UUID | None = None
    working_hours: tuple[Hours, ...] = tuple(Hours(weekday, 510, 1050) for weekday in range(1, 8))
    follows_holidays: bool = False
    escalation_roles: tuple[str, ...] = ("foreman", "property_manager", "residents_committee_member")
    offer_s: int = 180
    reopen_days: int = 7

    def reopens_until(self, done_at: datetime) -> datetime:
        """Until when a reporter may say that it is not done; then it confirms itself."""
        return done_at + timedelta(days=self.reopen_days)


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of promises: it runs in these hours, or always when there are none.

    `holidays` are free, `working_days` at a weekend make up for them, in the hours of a Monday when their weekday has none.
    """

    zone: tzinfo = UTC
    hours: tuple[Hours, ...] = ()
    holidays: Collection[date] = field(default=frozenset(), repr=False)
    working_days: Collection[date] = field(default=frozenset(), repr=False)

    def after(self, start: datetime, seconds: int) -> datetime:
        """The instant at which so many seconds have run since `start`; never more than four years later."""
        if not self.hours:
            return start + timedelta(seconds=seconds)
        left = timedelta(seconds=seconds)
        last = start
        for opens, closes in self._open_from(start):
            if opens + left <= closes:
                return opens + left
            left -= closes - opens
            last = closes
        return last

    def between(self, start: datetime, end: datetime) -> int:
        """How many seconds have run from one instant to a later one."""
        if not self.hours:
            return int((end - start).total_seconds())
        run = timedelta()
        for opens, closes in self._open_from(start):
            if opens >= end:
                break
            run += min(closes, end) - opens
        return int(run.total_seconds())

    def _open_from(self, start: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The stretches in which the clock runs, from `start` on."""
        first = start.astimezone(self.zone).date()
        for days in range(_DAYS_MAX):
            day = first + timedelta(days=days)
            for from_minute, until_minute in self._minutes(day):
                opens, closes = max(self._at(day, from_minute), start), self._at(day, until_minute)
                if opens < closes:
                    yield opens, closes

    def _minutes(self, day: date) -> list[tuple[int, int]]:
        """A day's working hours, in order and joined where they meet."""
        weekday = day.isoweekday()
        if day in self.holidays:
            return []
        if day in self.working_days and not any(each.weekday == weekday for each in self.hours):
            weekday = _MONDAY
        joined: list[tuple[int, int]] = []
        for opens, closes in sorted((each.from_minute, each.until_minute) for each in self.hours if each.weekday == weekday):
            if joined and opens <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], closes))
            else:
                joined.append((opens, closes))
        return joined

    def _at(self, day: date, minute: int) -> datetime:
        # By the wall clock: a day on which the zone changes its offset opens at the usual hour.
        days, minutes = divmod(minute, 24 * 60)
        local = datetime.combine(day + timedelta(days=days), time(minutes // 60, minutes % 60), self.zone)
        return local.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happens to a promise on its way: `name` is "warn_50", "warn_80", or "level_1" and on, for each step of the chain."""

    name: str
    at: datetime


def level_of(name: str) -> int:
    """The step of the chain that a moment's name says, 1 for the first; 0 for a warning."""
    kind, _, number = name.partition("_")
    return int(number) if kind == "level" else 0


def due(clock: Clock, start: datetime, minutes: int) -> datetime | None:
    """When a promise that begins then is due; None when nothing is promised."""
    return clock.after(start, minutes * _MINUTE_S) if minutes else None


def moments(clock: Clock, start: datetime, minutes: int, roles: Sequence[str]) -> list[Moment]:
    """What happens to a promise that begins then, if nobody keeps it.

    Warnings come when a half and four fifths have run; the first of the chain is told when it is due, each other after another half.
    """
    total_s = minutes * _MINUTE_S
    after_s = [("warn_50", total_s // 2), ("warn_80", total_s * 4 // 5)]
    after_s += [(f"level_{level}", total_s * (level + 1) // 2) for level in range(1, len(roles) + 1)]
    return [Moment(name, clock.after(start, seconds)) for name, seconds in after_s]
