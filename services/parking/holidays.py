"""The State Council's yearly holiday arrangement, for the years that the `chinesecalendar` package knows.

A day of a later year is what its weekday says, until a newer package is installed.
"""

from typing import Final

from chinese_calendar import constants

from services.parking.tariff import Holidays

HOLIDAYS: Final = Holidays(days=frozenset(constants.holidays), working_days=frozenset(constants.workdays))
