"""Calendar days as people write them, checked where they come in."""

from datetime import date

from servicekit.errors import FieldViolation, Invalid

_YEARS = range(2000, 2199)


def day_of(typed: str, field: str) -> date:
    """A calendar day such as 2026-01-05. Raises Invalid, naming the field, when there is none like it in the years 2000 to 2198."""
    try:
        day = date.fromisoformat(typed)
    except ValueError:
        day = date.min
    if day.year not in _YEARS:
        violation = FieldViolation(field, "points.day", "must be a calendar day between the years 2000 and 2198")
        raise Invalid("points.day", "日期无效", "There is no such day", fields=[violation])
    return day
