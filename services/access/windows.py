"""Times of the week, in a community's own time: when a rule lets in, when a kind of alarm is armed.

They are read on the clock on the wall: on the day on which clocks go back its repeated hour counts twice, on the day on which they go
forward the skipped one never comes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

DAY_MINUTES: Final = 1440
_WEEK: Final = range(1, 8)


@dataclass(frozen=True, slots=True)
class Window:
    """From one minute after midnight until another on some days of the week: 1 is Monday, 7 Sunday.

    One that does not end after it begins goes on past midnight, and belongs to the day on which it begins.
    """

    weekdays: frozenset[int]
    from_minute: int
    until_minute: int

    def holds(self, weekday: int, minute: int) -> bool:
        """Whether it is open at a minute of a day of the week."""
        if self.from_minute < self.until_minute:
            return weekday in self.weekdays and self.from_minute <= minute < self.until_minute
        yesterday = (weekday - 2) % 7 + 1
        return (weekday in self.weekdays and minute >= self.from_minute) or (yesterday in self.weekdays and minute < self.until_minute)


def is_open(windows: Sequence[Window], at: datetime, zone: tzinfo) -> bool:
    """Whether one of them is open at an instant. Without any it is always open."""
    if not windows:
        return True
    local = at.astimezone(zone)
    minute = local.hour * 60 + local.minute
    return any(window.holds(local.isoweekday(), minute) for window in windows)


def packed(windows: Iterable[Window]) -> list[list[int]]:
    """The windows as they are stored and sent: the weekdays as bits, Monday the lowest, and the two minutes."""
    return [[sum(1 << (day - 1) for day in window.weekdays), window.from_minute, window.until_minute] for window in windows]


def unpacked(rows: Iterable[Sequence[int]]) -> tuple[Window, ...]:
    """What was packed."""
    return tuple(Window(frozenset(day for day in _WEEK if days >> (day - 1) & 1), begins, ends) for days, begins, ends in rows)
