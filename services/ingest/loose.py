"""Values as devices write them: numbers as strings, strings as numbers, flags as anything. Pure.

What cannot be read at all is as good as absent, so that a spoilt detail does not cost a record; only what a record cannot do without is
asked for with `needed`.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from math import isfinite
from typing import Any

TEXT_LENGTH_MAX = 200
_INTEGER_MAX = 10**50
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?", re.ASCII)
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d{3})?", re.ASCII)
# What devices mean lies between these; what lies outside is a clock that was never set, or no time at all.
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_EARLIEST_CLOCK = datetime(1900, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


class Unusable(ValueError):
    """A document lacks what it cannot do without. `field` is its path."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def text(value: object) -> str:
    """A string or number as a string without control characters, at most 200 long; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and abs(value) >= _INTEGER_MAX:
        return ""
    plain = str(value)[: 4 * TEXT_LENGTH_MAX]
    return "".join(c for c in plain if c.isprintable()).strip()[:TEXT_LENGTH_MAX]


def field_text(said: Mapping[str, Any], name: str) -> str:
    """The text or number in a field, as `text`; empty when it is absent. Raises Unusable for anything else."""
    value = said.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable(name)
    return text(value)


def record_id(said: Mapping[str, Any]) -> str:
    """The device's own id of a record, in `id`. Raises Unusable when there is none, or it is too long: one cut short could be another's."""
    found = field_text(said, "id")
    if not found or len(str(said["id"])) > TEXT_LENGTH_MAX:
        raise Unusable("id")
    return found


def number(value: object) -> int | float | None:
    """A number, also from a string; None when it is none, or not finite."""
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.fullmatch(value):
            return None
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if isinstance(value, float) and not isfinite(value) else value


def integer(value: object, otherwise: int, *, least: int = -(2**31), most: int = 2**31 - 1) -> int:
    """A whole number, also from a string; `otherwise` when it is none or lies outside of `least` to `most`."""
    found = number(value)
    return otherwise if found is None or not least <= found <= most else int(found)


def flag(value: object, otherwise: bool) -> bool:
    """A flag, as `true`, `1`, `"1"` or their opposites; `otherwise` when it is none."""
    if isinstance(value, str):
        value = value.strip().lower()
    if value in (True, 1, "1", "true"):
        return True
    if value in (False, 0, "0", "false"):
        return False
    return otherwise


def needed(record: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    """The object in a field. Raises Unusable when it is none."""
    value = record.get(name)
    if not isinstance(value, dict):
        raise Unusable(f"{path}.{name}" if path else name)
    return value


def time(value: object, zone: tzinfo) -> datetime | None:
    """A time in UTC, from `20171018080608` (GA/T 1400) or ISO 8601, in `zone` when it has none; None outside of the years 2000 to 2199."""
    at = clock_time(value, zone)
    return at if at is not None and at >= _EARLIEST else None


def clock_time(value: object, zone: tzinfo) -> datetime | None:
    """The same for the years 1900 to 2199: also what a clock says that was never set, where it is known by how much it is wrong."""
    written = text(value)
    try:
        if match := _COMPACT.fullmatch(written):
            *parts, milliseconds = match.groups()
            year, month, day, hour, minute, second = map(int, parts)
            at = datetime(year, month, day, hour, minute, second, int(milliseconds or 0) * 1000, zone)
        else:
            at = datetime.fromisoformat(written)
        utc = (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
        return utc if _EARLIEST_CLOCK <= utc < _LATEST else None
    except (ValueError, OverflowError):
        return None


def within_range(at: datetime) -> datetime | None:
    """The time in UTC, or None outside of the years 2000 to 2199. Raises OverflowError at the edges of the calendar."""
    utc = at.astimezone(UTC)
    return utc if _EARLIEST <= utc < _LATEST else None


def plate(value: object) -> str:
    """A plate as the camera wrote it, without white space; empty when it could not read one."""
    written = "".join(text(value).split())[:PLATE_LENGTH_MAX]
    return "" if written in _UNREAD else written


# Cars that cross the border carry three plates, which cameras report in one field.
PLATE_LENGTH_MAX = 32
_UNREAD = ("", "_无_")
