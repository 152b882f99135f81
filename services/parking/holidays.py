"""The holidays that tariffs go by."""

from typing import Final

from servicekit import holidays
from services.parking.tariff import Holidays

HOLIDAYS: Final = Holidays(days=holidays.HOLIDAYS.days, working_days=holidays.HOLIDAYS.working_days)
