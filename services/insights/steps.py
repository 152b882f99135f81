"""Steps: the equal parts of a time range that readings are averaged over. Instants are microseconds since the Unix epoch. No I/O, no clock.

Steps are aligned to the epoch, whatever range is asked for, so that two reads of one step agree. A step of a day is a day of the community:
it begins at local midnight, and is as long as that day was.
"""

from datetime import UTC, date, datetime, timedelta, tzinfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = EPOCH.date()
DAY_S = 86_400
SECOND_US = 1_000_000
DAY_US = DAY_S * SECOND_US
POINTS_MAX = 5_000
# Widths that people read a chart by, for telling them which one fits.
_WIDTHS_S = (1, 5, 10, 30, 60, 300, 900, 1_800, 3_600, 21_600, DAY_S)


def microseconds(instant: datetime) -> int:
    """An aware instant in microseconds since the Unix epoch."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def utc_day(at_us: int) -> date:
    """The UTC day of an instant."""
    return EPOCH_DAY + timedelta(days=at_us // DAY_US)


def steps_between(from_us: int, until_us: int, step_s: int) -> int:
    """How many steps of `step_s` seconds a range touches; `until_us` is outside of it."""
    step_us = step_s * SECOND_US
    return (until_us - 1) // step_us - from_us // step_us + 1


def finest_step_s(from_us: int, until_us: int) -> int | None:
    """The finest handy step whose points for this range are not too many; None when even days are."""
    return next((width for width in _WIDTHS_S if steps_between(from_us, until_us, width) <= POINTS_MAX), None)


def midnights(from_us: int, until_us: int, zone: tzinfo) -> list[int]:
    """When each local day that a range touches begins, in order."""
    first = (EPOCH + timedelta(microseconds=from_us)).astimezone(zone).date()
    last = (EPOCH + timedelta(microseconds=until_us - 1)).astimezone(zone).date()
    days = (first + timedelta(days=n) for n in range((last - first).days + 1))
    return [microseconds(datetime(day.year, day.month, day.day, tzinfo=zone)) for day in days]
