"""A made-up community whose bins fill as people live: mornings and evenings, more at weekends, some bins more than others, chance in all."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from uuid import UUID
from zoneinfo import ZoneInfo

from services.waste.bins import Category, Place
from services.waste.forecast import FULL_PERMILLE, History, Reading, learn, look_ahead
from services.waste.rounds import Compartment, Night, Round, Truck

ZONE = ZoneInfo("Asia/Shanghai")
HOUR = timedelta(hours=1)
DEPOT = Place(31.215, 121.48)
_STEP = timedelta(minutes=10)
# What people bring in each hour of a day, against the mean.
_DAY = [0.1] * 6 + [1.0, 2.6, 2.2, 1.0, 0.7, 0.9, 1.2, 0.8, 0.5, 0.5, 0.7, 1.4, 2.6, 2.9, 2.2, 1.1, 0.5, 0.2]
_WEEKEND = 1.3
# How many days a compartment takes to fill, and what one deposit takes of it.
_DAYS_TO_FILL = {
    Category.KITCHEN: (0.9, 3.0),
    Category.OTHER: (0.9, 4.0),
    Category.RECYCLABLE: (2.0, 6.0),
    Category.HAZARDOUS: (20.0, 40.0),
}
_DEPOSIT_PERMILLE = (8, 40)


@dataclass(slots=True)
class Filling:
    """One compartment as it is, whatever anybody knows of it. `level` goes above 1000 when waste is put beside it."""

    bin_id: UUID
    place: Place
    category: Category
    rate: float
    capacity_grams: int = 200_000
    level: float = 0.0
    readings: list[Reading] = field(default_factory=list)
    overflow_minutes: int = 0

    def deposits(self, random: Random, at: datetime, mood: float) -> None:
        """What is brought in the ten minutes after `at`, which the bin tells."""
        local = at.astimezone(ZONE)
        expected = self.rate * mood * _DAY[local.hour] * (_WEEKEND if local.weekday() >= 5 else 1.0) * (_STEP / HOUR)
        deposit = random.uniform(*_DEPOSIT_PERMILLE)
        if random.random() < 1 - math.exp(-expected / deposit):
            self.level += deposit
            self.told(at + _STEP)

    def told(self, at: datetime) -> None:
        """What the bin says of its fill."""
        self.readings.append(Reading(at, min(round(self.level), FULL_PERMILLE)))


def fillings(bins: int, seed: int = 1) -> list[Filling]:
    """Bins in a community of 600 m by 400 m, each with a compartment of each category."""
    random = Random(seed)
    made = []
    for n in range(bins):
        place = Place(31.2 + random.uniform(0, 0.0036), 121.5 + random.uniform(0, 0.0063))
        for category in Category:
            made.append(Filling(UUID(int=n + 1), place, category, 1000 / 24 / random.uniform(*_DAYS_TO_FILL[category])))
    return made


def live(
    bins: list[Filling], begins: datetime, days: int, rounds_of: Callable[[datetime], list[Round]], seed: int = 2
) -> Iterator[list[Round]]:
    """Lets days pass, each from 20:00 local time on, when the night's rounds are known; yields them when the day is over."""
    random = Random(seed)
    for day in range(days):
        began = begins + timedelta(days=day)
        rounds = rounds_of(began)
        stops = {(stop.bin_id, each.category): stop.arrives_at for each in rounds for stop in each.stops}
        mood = random.uniform(0.75, 1.25)
        at = began
        while at < began + timedelta(days=1):
            for each in bins:
                each.overflow_minutes += 10 * (each.level >= FULL_PERMILLE)
                each.deposits(random, at, mood)
                if at <= stops.get((each.bin_id, each.category), began - HOUR) < at + _STEP:
                    each.level = 0.0
                    each.told(at + _STEP)
            at += _STEP
        yield rounds


def history_of(each: Filling, now: datetime) -> History:
    """What is known of it."""
    return History(each.category, [reading for reading in each.readings if reading.at <= now], now)


def night_of(bins: list[Filling], now: datetime, trucks: list[Truck]) -> Night:
    """What is known at `now`, as a plan needs it."""
    ends_at = max(truck.ends_at for truck in trucks)
    horizon = ends_at + timedelta(days=1)
    keyed = {(each.bin_id, each.category): each for each in bins}
    habits = learn({key: history_of(each, now) for key, each in keyed.items()}, now, ZONE)
    compartments = [
        Compartment(
            each.bin_id,
            each.category,
            each.category,
            each.capacity_grams,
            each.place,
            look_ahead(habits[key], each.readings[-1].fill_permille if each.readings else 0, now, horizon, ZONE),
        )
        for key, each in keyed.items()
    ]
    return Night(min(truck.begins_at for truck in trucks), ends_at, horizon, trucks, compartments)


def trucks_of(night: datetime, bins: list[Filling], **values: int) -> list[Truck]:
    """One truck for each category, from 22:00 to 4:00, whose fixed round goes to every bin."""
    order = tuple(dict.fromkeys(each.bin_id for each in bins))
    begins = night + timedelta(hours=2)
    return [
        Truck(UUID(int=1000 + n), category, values.get("capacity_grams", 6_000_000), DEPOT, begins, begins + timedelta(hours=6), order)
        for n, category in enumerate(Category)
    ]
