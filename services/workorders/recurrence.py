"""When an inspection comes again: calendar rules of days (RFC 5545 §3.3.10) in a community's time. Pure.

What RFC 5545 leaves open or forbids is refused here rather than guessed, and so is what comes more than once a day.
"""

import re
from collections.abc import Mapping
from datetime import MAXYEAR, UTC, datetime, time
from typing import Final
from zoneinfo import ZoneInfo

from dateutil.rrule import rrule, rrulestr

# The parts that a rule of each frequency may have besides those of `_ANY`.
_PARTS: Final[Mapping[str, frozenset[str]]] = {
    "DAILY": frozenset({"BYMONTH", "BYMONTHDAY", "BYDAY"}),
    "WEEKLY": frozenset({"BYMONTH", "BYDAY", "BYSETPOS"}),
    "MONTHLY": frozenset({"BYMONTH", "BYMONTHDAY", "BYDAY", "BYSETPOS"}),
    "YEARLY": frozenset({"BYMONTH", "BYMONTHDAY", "BYDAY", "BYSETPOS", "BYWEEKNO", "BYYEARDAY"}),
}
_ANY: Final = frozenset({"FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST"})
# The largest number in each part; those of `_FROM_THE_END` count backwards when they are negative.
_MAX: Final[Mapping[str, int]] = {
    "INTERVAL": 400,
    "COUNT": 10_000,
    "BYMONTH": 12,
    "BYMONTHDAY": 31,
    "BYWEEKNO": 53,
    "BYYEARDAY": 366,
    "BYSETPOS": 366,
}
_FROM_THE_END: Final = frozenset({"BYMONTHDAY", "BYWEEKNO", "BYYEARDAY", "BYSETPOS"})
_SINGLE: Final = frozenset({"INTERVAL", "COUNT"})
_PART: Final = re.compile(r"([A-Z]+)=([A-Z0-9,+-]+)")
_NUMBER: Final = re.compile(r"[+-]?[1-9][0-9]{0,4}")
_DAY: Final = re.compile(r"([+-]?[1-9][0-9]?)?(MO|TU|WE|TH|FR|SA|SU)")
_UNTIL: Final = re.compile(r"[0-9]{8}(T[0-9]{6}Z?)?")
_ORDINAL_MAX: Final[Mapping[str, int]] = {"MONTHLY": 5, "YEARLY": 53}
# The calendar repeats itself after so many years, weekdays and leap years alike.
_CYCLE_YEARS: Final = 400


class RecurrenceError(ValueError):
    """A rule that is none, or comes more often than once a day. Says why, in English."""


def next_after(starts_at: datetime, recurrence: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """The first instant after `after`, in UTC, at which the rule comes; None when it does not come any more.

    `starts_at` is a local time without a zone: the earliest, and the time of day. A local time that a clock change leaves out or repeats is
    read as RFC 5545 §3.3.5 says. Raises RecurrenceError.
    """
    parts = _parse(recurrence)
    until = _until(parts.pop("UNTIL", ""), zone)
    # A rule that never comes is looked for until the last year there is. Started late in it, that takes a tenth of a second at most.
    years = (MAXYEAR - 1 - starts_at.year) // _CYCLE_YEARS * _CYCLE_YEARS
    rule = _rule(parts, _later(starts_at, years))
    found = _following(rule, _later(after.astimezone(zone).replace(tzinfo=None), years))
    while found is not None:
        local = _later(found, -years)
        if until is not None and local > until:
            return None
        instant = local.replace(tzinfo=zone).astimezone(UTC)
        if instant > after:  # In the hour that comes twice, what is later by the clock on the wall may be earlier.
            return instant
        found = _following(rule, found)
    return None


def _following(rule: rrule, local: datetime) -> datetime | None:
    try:
        return rule.after(local)
    except (ValueError, OverflowError):
        return None  # The week in which the calendar ends has days that it does not have.


def _later(local: datetime, years: int) -> datetime:
    return local.replace(year=local.year + years)


def _rule(parts: Mapping[str, str], starts_at: datetime) -> rrule:
    try:
        rule = rrulestr(";".join(f"{name}={value}" for name, value in parts.items()), dtstart=starts_at)
    except ValueError as error:
        raise RecurrenceError(str(error)) from None
    assert isinstance(rule, rrule)
    return rule


def _parse(recurrence: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for text in recurrence.strip().upper().split(";"):
        matched = _PART.fullmatch(text)
        if matched is None or matched[1] in parts:
            raise RecurrenceError(f"not a part of a rule, or not the first of its kind: {text[:40]}")
        parts[matched[1]] = matched[2]
    frequency = parts.get("FREQ", "")
    if frequency not in _PARTS:
        raise RecurrenceError("FREQ must be DAILY, WEEKLY, MONTHLY or YEARLY")
    for name, value in parts.items():
        if name not in _ANY | _PARTS[frequency]:
            raise RecurrenceError(f"{name} does not go with FREQ={frequency}")
        _check_value(frequency, name, value)
    if "COUNT" in parts and "UNTIL" in parts:
        raise RecurrenceError("COUNT and UNTIL exclude each other")
    if "BYSETPOS" in parts and not any(name.startswith("BY") for name in parts if name != "BYSETPOS"):
        raise RecurrenceError("BYSETPOS takes another BY part")
    if "BYWEEKNO" in parts and re.search("[0-9]", parts.get("BYDAY", "")):
        raise RecurrenceError("a numbered BYDAY does not go with BYWEEKNO")
    return parts


def _check_value(frequency: str, name: str, value: str) -> None:
    values = value.split(",")
    if name in _SINGLE and len(values) > 1:
        raise RecurrenceError(f"{name} takes one number")
    if name in _MAX:
        for each in values:
            if not _NUMBER.fullmatch(each) or abs(int(each)) > _MAX[name] or (int(each) < 0 and name not in _FROM_THE_END):
                raise RecurrenceError(f"{name} cannot be {each[:20]}")
    elif name == "WKST":
        if not _DAY.fullmatch(value) or len(value) > 2:
            raise RecurrenceError("WKST must be a day of the week")
    elif name == "BYDAY":
        for each in values:
            matched = _DAY.fullmatch(each)
            if matched is None or (matched[1] and abs(int(matched[1])) > _ORDINAL_MAX.get(frequency, 0)):
                raise RecurrenceError(f"BYDAY cannot be {each[:20]}")


def _until(text: str, zone: ZoneInfo) -> datetime | None:
    """The last local time, included; a day without a time is included as a whole."""
    if not text:
        return None
    try:
        if not _UNTIL.fullmatch(text):
            raise ValueError
        until = datetime.fromisoformat(text)
        if until.tzinfo is not None:
            return until.astimezone(zone).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise RecurrenceError(f"UNTIL cannot be {text[:20]}") from None
    return datetime.combine(until, time.max) if "T" not in text else until
