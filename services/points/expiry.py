"""When points expire: at the end of a calendar year, the oldest first.

There are no lots. Because the oldest points are spent first, what is left of those that a holder earned up to a year is its balance less
all that it earned after that year. What is held for a reservation is spent already, as far as this goes.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo


def last_year_expired(year: int, years_kept: int) -> int | None:
    """In `year`, points of which year and before have expired; None where they never do."""
    return year - years_kept - 1 if years_kept else None


def left_of(year: int, free: int, earned: Mapping[int, int]) -> int:
    """What is left of points earned up to `year`, of `free` ones in all; `earned` is what was earned in each later year."""
    return max(0, free - sum(points for earned_in, points in earned.items() if earned_in > year))


def next_expiry(year: int, years_kept: int, free: int, earned: Mapping[int, int]) -> tuple[int, int] | None:
    """In `year`, how many points expire next unless they are spent, and the year at whose beginning; None when none do."""
    if not years_kept:
        return None
    for end in range(year, year + years_kept + 1):
        left = left_of(end - years_kept, free, earned)
        if left:
            return left, end + 1
    return None


def new_year(year: int, zone: ZoneInfo) -> datetime:
    """The instant at which a year begins."""
    return datetime(year, 1, 1, tzinfo=zone).astimezone(UTC)


def first_day_after(year: int) -> date:
    """The first day that is not in the year or before."""
    return date(year + 1, 1, 1)
