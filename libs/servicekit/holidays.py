"""The State Council's yearly holiday arrangement, for the years that the `chinesecalendar` package knows.

A day of a later year is what its weekday says, until a newer package is installed. What a holiday means is each service's own rule.
"""

from dataclasses import dataclass
from datetime import date
from typing import Final

from chinese_calendar import constants


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Local dates: the days off, and the Saturdays and Sundays on which people work in exchange for a longer holiday (调休)."""

    days: frozenset[date]
    working_days: frozenset[date]


HOLIDAYS: Final = Arrangement(days=frozenset(constants.holidays), working_days=frozenset(constants.workdays))
