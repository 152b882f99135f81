"""Time between contracts and code: protobuf timestamps, UTC datetimes, calendar days, community time zones."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.errors import FieldViolation, Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What people and devices mean lies between these; PostgreSQL and datetime hold more, arithmetic on the edge does not.
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


def to_datetime(timestamp: Timestamp, field: str) -> datetime:
    """A timestamp as an aware UTC datetime, to the microsecond. Raises Invalid, naming `field`, outside of the years 2000 to 2199."""
    try:
        instant = _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)
    except OverflowError:
        instant = _LATEST
    if not _EARLIEST <= instant < _LATEST:
        violation = FieldViolation(field, "timestamp.range", "must lie between the years 2000 and 2199")
        raise Invalid("request.invalid", "时间超出范围", "A time is out of range", fields=[violation])
    return instant


def to_datetime_or(timestamp: Timestamp, otherwise: datetime) -> datetime:
    """The same, and `otherwise` for one that lies outside: for what devices and other services say, which is never refused for its time."""
    try:
        return to_datetime(timestamp, "")
    except Invalid:
        return otherwise


def to_timestamp(instant: datetime | None) -> Timestamp | None:
    """A datetime as a timestamp; None stays None, which leaves a field unset."""
    if instant is None:
        return None
    # Timestamp.FromDatetime says the same, by way of a calendar, in four times the time.
    since = instant - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def to_day(typed: str, field: str) -> date:
    """A calendar day such as 2026-01-05. Raises Invalid, naming `field`, when there is none like it in the years 2000 to 2199."""
    try:
        day = date.fromisoformat(typed)
    except ValueError:
        day = date.min
    if not _EARLIEST.date() <= day < _LATEST.date():
        violation = FieldViolation(field, "date", "must be a calendar day between the years 2000 and 2199")
        raise Invalid("request.invalid", "日期无效", "There is no such day", fields=[violation])
    return day


def span(first: date, last: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """When these calendar days of a time zone begin and, the last one included, end: UTC, the end not part of it."""
    begins, ends = (datetime.combine(day, time.min, zone).astimezone(UTC) for day in (first, last + timedelta(days=1)))
    return begins, ends


def zone(name: str) -> ZoneInfo:
    """The IANA time zone of this name. Raises Invalid when there is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        violation = FieldViolation("time_zone", "time_zone", "must be an IANA time zone such as Asia/Shanghai")
        raise Invalid("request.invalid", "时区无效", "The time zone is not known", fields=[violation]) from None
