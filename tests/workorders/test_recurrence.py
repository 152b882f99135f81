"""When calendar rules come, and which are none."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.workorders.recurrence import RecurrenceError, next_after

SHANGHAI, NEW_YORK = ZoneInfo("Asia/Shanghai"), ZoneInfo("America/New_York")
MONDAY_9 = datetime(2026, 1, 5, 9, 0)  # noqa: DTZ001


def instants(recurrence: str, count: int, zone: ZoneInfo = SHANGHAI, starts_at: datetime = MONDAY_9) -> list[str]:
    """The first instants of a rule, as the community's clock shows them."""
    found: list[str] = []
    after: datetime | None = datetime(2026, 1, 1, tzinfo=UTC)
    while after is not None and len(found) < count:
        after = next_after(starts_at, recurrence, zone, after)
        if after is not None:
            found.append(after.astimezone(zone).isoformat(timespec="minutes"))
    return found


def days(recurrence: str, count: int = 4, starts_at: datetime = MONDAY_9) -> list[str]:
    return [each[:10] for each in instants(recurrence, count, starts_at=starts_at)]


def test_rules_come_on_the_days_that_the_standard_says() -> None:
    # After the examples of RFC 5545 §3.8.5.3, at other dates.
    assert days("FREQ=MONTHLY;BYDAY=1MO") == ["2026-01-05", "2026-02-02", "2026-03-02", "2026-04-06"]
    assert days("FREQ=WEEKLY;INTERVAL=2;WKST=SU;BYDAY=TU,TH") == ["2026-01-06", "2026-01-08", "2026-01-20", "2026-01-22"]
    assert days("FREQ=MONTHLY;BYMONTHDAY=-1") == ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]
    assert days("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1") == ["2026-01-30", "2026-02-27", "2026-03-31", "2026-04-30"]
    assert days("FREQ=MONTHLY;BYMONTHDAY=31") == ["2026-01-31", "2026-03-31", "2026-05-31", "2026-07-31"]
    assert days("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", 2) == ["2028-02-29", "2032-02-29"]
    assert days("freq=daily;bymonth=11;interval=10", 3) == ["2026-11-01", "2026-11-11", "2026-11-21"]


def test_a_rule_ends_after_its_count_or_with_its_last_day() -> None:
    assert days("FREQ=DAILY;COUNT=2") == ["2026-01-05", "2026-01-06"]
    assert days("FREQ=DAILY;UNTIL=20260107") == ["2026-01-05", "2026-01-06", "2026-01-07"]
    assert days("FREQ=DAILY;UNTIL=20260107T085959") == ["2026-01-05", "2026-01-06"]
    assert days("FREQ=DAILY;UNTIL=20260107T010000Z") == ["2026-01-05", "2026-01-06", "2026-01-07"]
    assert days("FREQ=DAILY;UNTIL=20260107T005959Z") == ["2026-01-05", "2026-01-06"]


def test_the_hour_stays_the_same_when_clocks_are_changed() -> None:
    starts_at = datetime(2026, 3, 7, 2, 30)  # noqa: DTZ001
    # On 8 March 2:30 is left out: the offset before is taken (RFC 5545 §3.3.5).
    spring = ["2026-03-07T02:30-05:00", "2026-03-08T03:30-04:00", "2026-03-09T02:30-04:00"]
    assert instants("FREQ=DAILY", 3, NEW_YORK, starts_at) == spring
    starts_at = datetime(2026, 10, 31, 1, 30)  # noqa: DTZ001
    # On 1 November 1:30 comes twice: the first is meant.
    autumn = ["2026-10-31T01:30-04:00", "2026-11-01T01:30-04:00", "2026-11-02T01:30-05:00"]
    assert instants("FREQ=DAILY", 3, NEW_YORK, starts_at) == autumn
    between_the_two = datetime(2026, 11, 1, 5, 45, tzinfo=UTC)
    for minutes in range(0, 60, 15):
        after = between_the_two + timedelta(minutes=minutes)
        assert next_after(starts_at, "FREQ=DAILY", NEW_YORK, after) == datetime(2026, 11, 2, 6, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "recurrence",
    [
        "",
        "every monday",
        "FREQ=HOURLY",
        "FREQ=SECONDLY;COUNT=3",
        "FREQ=DAILY;BYHOUR=1,2",
        "FREQ=DAILY;FREQ=DAILY",
        "INTERVAL=2",
        "FREQ=DAILY;INTERVAL=0",
        "FREQ=DAILY;INTERVAL=2,3",
        "FREQ=DAILY;INTERVAL=99999",
        "FREQ=DAILY;COUNT=-1",
        "FREQ=DAILY;COUNT=1;UNTIL=20260107",
        "FREQ=DAILY;UNTIL=20261301",
        "FREQ=DAILY;UNTIL=99991231T235959Z0",
        "FREQ=DAILY;UNTIL=2026W011",
        "FREQ=WEEKLY;BYDAY=1MO",
        "FREQ=MONTHLY;BYDAY=6MO",
        "FREQ=MONTHLY;BYDAY=XX",
        "FREQ=MONTHLY;BYMONTHDAY=0",
        "FREQ=MONTHLY;BYMONTHDAY=32",
        "FREQ=MONTHLY;BYMONTH=-1",
        "FREQ=MONTHLY;BYSETPOS=1",
        "FREQ=YEARLY;BYWEEKNO=20;BYDAY=1MO",
        "FREQ=YEARLY;BYEASTER=0",
        "FREQ=DAILY\nEXDATE:20260105T090000",
        "FREQ=DAILY;WKST=1MO",
    ],
)
def test_what_is_no_rule_or_comes_too_often_is_refused(recurrence: str) -> None:
    with pytest.raises(RecurrenceError):
        next_after(MONDAY_9, recurrence, SHANGHAI, datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "recurrence",
    [
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=DAILY;INTERVAL=7;BYDAY=TU",
        "FREQ=WEEKLY;BYDAY=SA,SU;BYSETPOS=5",
        "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=300",
        "FREQ=YEARLY;BYWEEKNO=53;BYMONTH=6",
    ],
)
def test_a_rule_that_never_comes_is_known_to_in_a_moment(recurrence: str) -> None:
    assert next_after(MONDAY_9, recurrence, SHANGHAI, datetime(2026, 1, 1, tzinfo=UTC)) is None


_RULES = st.builds(
    ";".join,
    st.lists(
        st.sampled_from(["FREQ=DAILY", "FREQ=WEEKLY", "FREQ=MONTHLY", "FREQ=YEARLY", "INTERVAL=3", "BYDAY=MO,WE", "BYDAY=-1FR"])
        | st.sampled_from(["BYMONTHDAY=1,-1", "BYMONTH=6,7", "BYSETPOS=2", "COUNT=9", "UNTIL=20280101", "WKST=TU", "BYYEARDAY=-1"]),
        min_size=1,
        max_size=5,
        unique=True,
    ),
)


@given(_RULES | st.text(max_size=30), st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31)))  # noqa: DTZ001
def test_whatever_is_typed_the_next_time_is_later_or_the_rule_is_refused(recurrence: str, starts_at: datetime) -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC)
    try:
        found = next_after(starts_at, recurrence, NEW_YORK, after)
    except RecurrenceError:
        return
    assert found is None or found > after
