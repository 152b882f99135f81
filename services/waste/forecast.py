"""How full compartments will be: learned from how they have filled by the hour of the week, looked ahead from how full they are now.

A bin tells its level when it changes, so what has risen between two readings has risen in the later one's hour. A fall is an emptying, or
somebody who pressed the waste down; neither is growth. A full compartment cannot rise, so its hours teach nothing.

Few data are pulled towards what is known better: an hour of the week towards the compartment's mean with its category's pattern, that mean
towards the category's, and the category's towards a guess. Fill is in thousandths of the capacity, a rate in thousandths for each hour.
No I/O, no clock.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import accumulate, pairwise
from typing import Final, TypeVar

Key = TypeVar("Key")
FULL_PERMILLE: Final = 1000
# As far back as habits are learned: long enough to see each hour of the week often, short enough to follow the seasons.
WINDOW: Final = timedelta(weeks=8)
_HOUR: Final = timedelta(hours=1)
_HOURS_OF_WEEK: Final = 168
# What weighs as much as the data themselves: hours in a mean, growth in an hour of the week (that of five deposits), days in a dispersion.
_MEAN_PRIOR_HOURS: Final = 48
_PATTERN_PRIOR_PERMILLE: Final = 150
_DISPERSION_PRIOR_DAYS: Final = 7
# What is guessed before anything is known: full in three days, and a variance as if each deposit took a thirtieth of the capacity.
_RATE_GUESS: Final = 1000 / 72
_DISPERSION_GUESS: Final = 30.0
# Levels waver by as much although nothing was put in or taken out.
_WAVER_PERMILLE: Final = 30


@dataclass(frozen=True, slots=True)
class Reading:
    """How full a compartment was said to be."""

    at: datetime
    fill_permille: int


@dataclass(frozen=True, slots=True)
class History:
    """A compartment's readings, oldest first, and until when its bin was heard: silence after that is no sign that nothing was put in."""

    category: str
    readings: Sequence[Reading]
    heard_until: datetime


@dataclass(frozen=True, slots=True)
class Habit:
    """How a compartment fills: its rate in each hour of the local week, Monday's first first, and the variance of growth for each
    thousandth of it that is expected."""

    rates: tuple[float, ...]
    dispersion: float


@dataclass(slots=True)
class _Watched:
    """The hours in which a compartment was watched and had room, in order: which of the week each was, and what rose in it."""

    hours: list[tuple[int, int]]
    risen: list[int]
    weeks: list[int]


def learn(histories: Mapping[Key, History], until: datetime, zone: tzinfo) -> dict[Key, Habit]:
    """The habit of each compartment, from its readings of the eight weeks before `until` and from those of its category."""
    since = until - WINDOW
    of_week = {hour: _hour_of_week(hour, zone) for hour in range(_hour(since), _hour(until) + 1)}
    watched = {key: _watch(history, since, until, of_week) for key, history in histories.items()}
    by_category: dict[str, list[_Watched]] = defaultdict(list)
    for key, history in histories.items():
        by_category[history.category].append(watched[key])
    means = {category: _mean(those, _RATE_GUESS) for category, those in by_category.items()}
    patterns = {category: _pattern(those, means[category]) for category, those in by_category.items()}
    return {key: _habit(watched[key], means[history.category], patterns[history.category]) for key, history in histories.items()}


def _watch(history: History, since: datetime, until: datetime, of_week: Mapping[int, int]) -> _Watched:
    watched = _Watched([], [0] * _HOURS_OF_WEEK, [0] * _HOURS_OF_WEEK)
    latest = min(until, history.heard_until)
    readings = [reading for reading in history.readings if since <= reading.at <= latest]
    if not readings:
        return watched
    risen: dict[int, int] = defaultdict(int)
    full: set[int] = set()
    level = readings[0].fill_permille
    for before, reading in pairwise([*readings, Reading(latest, readings[-1].fill_permille)]):
        if before.fill_permille >= FULL_PERMILLE:
            full.update(range(_hour(before.at) + 1, _hour(reading.at)))
        if reading.fill_permille > level:
            risen[_hour(reading.at)] += reading.fill_permille - level
        if not level - _WAVER_PERMILLE <= reading.fill_permille <= level:
            level = reading.fill_permille
    hours = range(_hour(readings[0].at), _hour(latest) + 1)
    watched.hours += [(of_week[hour], risen.get(hour, 0)) for hour in hours if hour not in full]
    for which, rise in watched.hours:
        watched.risen[which] += rise
        watched.weeks[which] += 1
    return watched


def _hour(at: datetime) -> int:
    """The whole hours since 1970, UTC."""
    return int(at.timestamp()) // 3600


def _hour_of_week(hour: int, zone: tzinfo) -> int:
    local = datetime.fromtimestamp(hour * 3600, zone)
    return local.weekday() * 24 + local.hour


def _mean(those: Iterable[_Watched], prior: float) -> float:
    """The rate over all their hours."""
    risen, hours = prior * _MEAN_PRIOR_HOURS, float(_MEAN_PRIOR_HOURS)
    for watched in those:
        risen += sum(watched.risen)
        hours += len(watched.hours)
    return risen / hours


def _pattern(those: Sequence[_Watched], mean: float) -> list[float]:
    """How many times the mean each hour of the week is."""
    risen = [sum(watched.risen[hour] for watched in those) for hour in range(_HOURS_OF_WEEK)]
    weeks = [sum(watched.weeks[hour] for watched in those) for hour in range(_HOURS_OF_WEEK)]
    return _scaled([_times(*hour) for hour in zip(risen, (mean * n for n in weeks), strict=True)], 1.0)


def _times(risen: float, expected: float) -> float:
    """How many times as much rises as was expected, as far as there has been enough of either to say so."""
    return (risen + _PATTERN_PRIOR_PERMILLE) / (expected + _PATTERN_PRIOR_PERMILLE)


def _habit(watched: _Watched, category_mean: float, pattern: Iterable[float]) -> Habit:
    mean = _mean([watched], category_mean)
    hours = zip(watched.risen, watched.weeks, (mean * times for times in pattern), strict=True)
    rates = _scaled([rate * _times(risen, weeks * rate) for risen, weeks, rate in hours], mean)
    return Habit(tuple(rates), _dispersion(watched, rates))


def _scaled(values: Sequence[float], mean: float) -> list[float]:
    """The values with this mean: pulling each hour for itself moves it, and it is known better than they."""
    factor = mean * len(values) / sum(values)
    return [value * factor for value in values]


def _dispersion(watched: _Watched, rates: Sequence[float]) -> float:
    """How far days were from what was expected of them, squared, for each thousandth that was expected."""
    total, days = _DISPERSION_GUESS * _DISPERSION_PRIOR_DAYS, _DISPERSION_PRIOR_DAYS
    for first in range(0, len(watched.hours) - 23, 24):
        day = watched.hours[first : first + 24]
        expected = sum(rates[hour] for hour, _ in day)
        total += (sum(risen for _, risen in day) - expected) ** 2 / expected
        days += 1
    return total / days


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of a compartment after `known_at`, when it was `fill_permille` full.

    `growth` is what is expected to have risen since `begins`, hour by hour; the outlook reaches as far and stands still after it.
    """

    fill_permille: int
    known_at: datetime
    begins: datetime
    growth: tuple[float, ...]
    dispersion: float

    def fill_at(self, at: datetime, emptied_at: datetime | None = None) -> int:
        """How full it will be, in thousandths and above 1000 when waste lies beside it; from an emptying on, when there is one before."""
        if emptied_at is not None and emptied_at <= at:
            return round(self._grown(emptied_at, at))
        return round(self.fill_permille + self._grown(self.known_at, at))

    def full_at(self) -> datetime | None:
        """When it will be full; None when that is further away than this reaches."""
        if self.fill_permille >= FULL_PERMILLE:
            return self.known_at
        target = self._sum(self.known_at) + FULL_PERMILLE - self.fill_permille
        end = bisect_right(self.growth, target)
        if end == len(self.growth):
            return None
        hours = end - 1 + (target - self.growth[end - 1]) / (self.growth[end] - self.growth[end - 1])
        return self.begins + timedelta(seconds=round(hours * 3600))

    def overflow_minutes(self, since: datetime, until: datetime, emptied_at: datetime | None = None) -> int:
        """How long it is expected to be full between two instants: the chance of it, summed up over the time."""
        if emptied_at is None or emptied_at >= until:
            return round(self._full_minutes(self.fill_permille, self.known_at, since, until))
        before = self._full_minutes(self.fill_permille, self.known_at, since, emptied_at)
        return round(before + self._full_minutes(0, emptied_at, max(since, emptied_at), until))

    def _full_minutes(self, fill_permille: int, known_at: datetime, since: datetime, until: datetime) -> float:
        if until <= since:
            return 0.0
        steps = math.ceil((until - since) / _HOUR)
        step = (until - since) / steps
        chances = (self._chance(fill_permille, self._grown(known_at, since + step * (n + 0.5))) for n in range(steps))
        return sum(chances) * (step / timedelta(minutes=1))

    def _chance(self, fill_permille: int, grown: float) -> float:
        """That it is full, when as much is expected to have risen: growth is about normal, being the sum of many deposits."""
        missing = FULL_PERMILLE - fill_permille
        if missing <= 0 or grown <= 0:
            return float(missing <= 0)
        return 0.5 * math.erfc((missing - grown) / math.sqrt(2 * self.dispersion * grown))

    def _grown(self, since: datetime, until: datetime) -> float:
        return max(0.0, self._sum(until) - self._sum(since))

    def _sum(self, at: datetime) -> float:
        """What is expected to have risen since `begins`, straight within an hour."""
        hours = min(max(0.0, (at - self.begins) / _HOUR), float(len(self.growth) - 1))
        whole = min(int(hours), len(self.growth) - 2)
        return self.growth[whole] + (self.growth[whole + 1] - self.growth[whole]) * (hours - whole)


def look_ahead(habit: Habit, fill_permille: int, known_at: datetime, until: datetime, zone: tzinfo) -> Outlook:
    """What is expected until `until` of a compartment that was `fill_permille` full at `known_at`."""
    first, last = _hour(known_at), max(_hour(known_at), _hour(until))
    growth = tuple(accumulate((habit.rates[_hour_of_week(hour, zone)] for hour in range(first, last + 1)), initial=0.0))
    return Outlook(fill_permille, known_at, datetime.fromtimestamp(first * 3600, UTC), growth, habit.dispersion)
