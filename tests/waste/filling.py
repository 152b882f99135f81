"""A made-up community whose bins fill as people live: mornings and evenings, more at weekends, some more than others, chance in all."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from uuid import UUID
from zoneinfo import ZoneInfo

from services.waste.bins import Category, Place
from services.waste.forecast import FULL_PERMILLE, Habit, History, Reading, learn, look_ahead
from services.waste.rounds import Compartment, Night, Round, Truck

ZONE = ZoneInfo("Asia/Shanghai")
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
DEPOT = Place(31.215, 121.48)
_STEP = timedelta(minutes=10)
# What people bring in each hour of a day, against the mean.
_PATTERN = [0.1] * 6 + [1.0, 2.6, 2.2, 1.0, 0.7, 0.9, 1.2, 0.8, 0.5, 0.5, 0.7, 1.4, 2.6, 2.9, 2.2, 1.1, 0.5, 0.2]
_WEEKEND = 1.3
# How many days compartments take to fill, and what a deposit takes of one.
_DAYS_TO_FILL = {
    Category.KITCHEN: (0.9, 3.0),
    Category.OTHER: (0.9, 4.0),
    Category.RECYCLABLE: (2.0, 6.0),
    Category.HAZARDOUS: (20.0, 40.0),
}
_DEPOSIT_PERMILLE = (8, 40)


@dataclass(slots=True)
class Filling:
    """One compartment as it is, whatever anybody knows of it. Its level goes above 1000 when waste is put beside it."""

    bin_id: UUID
    place: Place
    category: Category
    rate: float
    level: float = 0.0
    readings: list[Reading] = field(default_factory=list)
    overflow_minutes: int = 0

    @property
    def key(self) -> tuple[UUID, Category]:
        return self.bin_id, self.category

    def live(self, random: Random, at: datetime, mood: float) -> None:
        """What is brought in the ten minutes after `at`, which the bin tells."""
        local = at.astimezone(ZONE)
        expected = self.rate * mood * _PATTERN[local.hour] * (_WEEKEND if local.weekday() >= 5 else 1.0) * (_STEP / HOUR)
        deposit = random.uniform(*_DEPOSIT_PERMILLE)
        self.overflow_minutes += 10 * (self.level >= FULL_PERMILLE)
        if random.random() < 1 - math.exp(-expected / deposit):
            self._change(self.level + deposit, at + _STEP)

    def empty(self, at: datetime) -> None:
        """Somebody empties it."""
        self._change(0.0, at + _STEP)

    def _change(self, level: float, at: datetime) -> None:
        self.level = level
        self.readings.append(Reading(at, min(round(level), FULL_PERMILLE)))


def fillings(bins: int, seed: int = 1) -> list[Filling]:
    """Bins in a community of 600 m by 400 m, each with a compartment of each category."""
    random = Random(seed)
    made = []
    for n in range(bins):
        place = Place(31.2 + random.uniform(0, 0.0036), 121.5 + random.uniform(0, 0.0063))
        made += [Filling(UUID(int=n + 1), place, each, 1000 / 24 / random.uniform(*_DAYS_TO_FILL[each])) for each in Category]
    return made


def live(bins: Sequence[Filling], begins: datetime, days: int, plan: Callable[[datetime], Sequence[Round]], seed: int) -> list[Round]:
    """Lets days pass, with a plan for the night at the beginning of each. Returns the rounds that were driven."""
    random = Random(seed)
    driven: list[Round] = []
    for day in range(days):
        began = at = begins + DAY * day
        rounds = plan(began)
        driven += rounds
        stops = {(stop.bin_id, each.category): stop.arrives_at for each in rounds for stop in each.stops}
        mood = random.uniform(0.75, 1.25)
        while at < began + DAY:
            for each in bins:
                each.live(random, at, mood)
                if at <= stops.get(each.key, began - DAY) < at + _STEP:
                    each.empty(at)
            at += _STEP
    return driven


def habits_of(bins: Sequence[Filling], now: datetime) -> dict[tuple[UUID, Category], Habit]:
    """What can be learned of them by then."""
    known = {each.key: [reading for reading in each.readings if reading.at <= now] for each in bins}
    return learn({each.key: History(each.category, known[each.key], now) for each in bins}, now, ZONE)


def night_of(bins: Sequence[Filling], now: datetime, trucks: Sequence[Truck]) -> Night:
    """What is known at `now`, as a plan needs it."""
    ends_at = max(truck.ends_at for truck in trucks)
    habits = habits_of(bins, now)
    compartments = []
    for each in bins:
        fill_permille = each.readings[-1].fill_permille if each.readings else 0
        outlook = look_ahead(habits[each.key], fill_permille, now, ends_at + DAY, ZONE)
        compartments.append(Compartment(each.bin_id, each.category, each.category, 200_000, each.place, outlook))
    return Night(min(truck.begins_at for truck in trucks), ends_at, ends_at + DAY, trucks, compartments)


def trucks_of(night: datetime, bins: Sequence[Filling], *, capacity_grams: int = 6_000_000) -> list[Truck]:
    """One truck for each category, out from two hours after `night` for six hours, whose fixed round goes to every bin."""
    order = tuple(dict.fromkeys(each.bin_id for each in bins))
    shift = (night + 2 * HOUR, night + 8 * HOUR)
    return [Truck(UUID(int=1000 + n), category, capacity_grams, DEPOT, *shift, order) for n, category in enumerate(Category)]


def steady(bin_id: UUID, place: Place, fill_permille: int, rate: float, at: datetime, **values: int) -> Compartment:
    """A compartment for 其他垃圾 that fills by the same thousandths each hour, whose fill was told at `at`."""
    outlook = look_ahead(Habit((rate,) * 168, 30.0), fill_permille, at, at + 4 * DAY, ZONE)
    return Compartment(bin_id, "other", Category.OTHER, values.get("capacity_grams", 200_000), place, outlook)
