"""A made-up day of a car park: what its cameras see, what its drivers pay, and how late each piece of news is."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

LATE_S_MAX = 119
_PROVINCES = "京沪粤苏浙"
_MISREAD = {"8": "B", "B": "8", "5": "S", "S": "5", "2": "Z", "Z": "2"}


@dataclass(frozen=True)
class Seen:
    """A camera reads a plate, in seconds since the morning."""

    second: int
    number: int
    plate: str
    lane: str


@dataclass(frozen=True)
class Asked:
    """A driver asks what is owed, and pays it a while later."""

    second: int
    number: int
    plate: str
    pays_after_s: int


Happening = Seen | Asked


@dataclass(frozen=True)
class News:
    """A happening, and when it becomes known."""

    second: int
    happening: Happening


@dataclass(frozen=True)
class Day:
    happenings: Sequence[Happening]
    # Plates that share a month pass.
    permits: Sequence[Sequence[str]]

    def in_time(self) -> list[News]:
        """All as it happens, once."""
        return [News(happening.second, happening) for happening in self.happenings]

    def late_and_twice(self, chance: random.Random) -> list[News]:
        """Every read twice, each time up to two minutes late; a driver asks when he asks."""
        news = []
        for happening in self.happenings:
            copies = 2 if isinstance(happening, Seen) else 1
            for _ in range(copies):
                delay_s = chance.randint(0, LATE_S_MAX) if isinstance(happening, Seen) else 0
                news.append(News(happening.second + delay_s, happening))
        return sorted(news, key=lambda one: (one.second, chance.random()))


def a_day(chance: random.Random, vehicles: int, hours: int = 12) -> Day:
    """Some vehicles that come and go: with passes and without, misread, missed, read again and again, paid for and not."""
    plates = _plates(chance, vehicles)
    permits = [plates[at : at + 2] for at in range(0, vehicles // 3, 2)]
    happenings = [happening for plate in plates for happening in _life(chance, plate, hours * 3600)]
    # No two reads at the same instant, so that "in time" means one thing.
    taken: set[int] = set()
    numbered = []
    for number, happening in enumerate(sorted(happenings, key=lambda happening: happening.second)):
        second = happening.second
        while second in taken:
            second += 1
        taken.add(second)
        numbered.append(replace(happening, second=second, number=number))
    return Day(sorted(numbered, key=lambda happening: happening.second), permits)


def _plates(chance: random.Random, vehicles: int) -> list[str]:
    plates: list[str] = []
    while len(plates) < vehicles:
        plate = chance.choice(_PROVINCES) + "A" + "".join(chance.choices("0123456789BSZ", k=5))
        # Every fifth one has a twin that a camera may take it for.
        for candidate in (plate, _misread(chance, plate)) if chance.random() < 0.2 else (plate,):
            if candidate not in plates:
                plates.append(candidate)
    return plates[:vehicles]


def _misread(chance: random.Random, plate: str) -> str:
    spots = [index for index, character in enumerate(plate) if character in _MISREAD and index > 1]
    if not spots:
        return plate
    spot = chance.choice(spots)
    return plate[:spot] + _MISREAD[plate[spot]] + plate[spot + 1 :]


def _life(chance: random.Random, plate: str, seconds: int) -> Iterator[Happening]:
    now = chance.randrange(seconds // 2)
    while now < seconds:
        if chance.random() > 0.04:
            yield from _passage(chance, plate, now, "in")
        stay_s = chance.choice([chance.randint(240, 1500), chance.randint(1500, 5000), chance.randint(5000, 14000)])
        if chance.random() < 0.85:
            asked = now + stay_s - chance.randint(150, 500)
            if asked > now + LATE_S_MAX + 60:
                yield Asked(asked, 0, plate, chance.randint(5, 60))
        now += stay_s
        if chance.random() > 0.06:
            yield from _passage(chance, _misread(chance, plate) if chance.random() < 0.06 else plate, now, "out")
        now += chance.choice([chance.randint(240, 600), chance.randint(600, 15000)])


def _passage(chance: random.Random, plate: str, second: int, way: str) -> Iterator[Seen]:
    lane = f"{chance.choice(['east', 'west'])}_{way}"
    yield Seen(second, 0, plate, lane)
    while chance.random() < 0.15:
        second += chance.randint(4, 25)
        yield Seen(second, 0, plate, lane)
