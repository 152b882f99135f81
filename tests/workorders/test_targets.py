"""When promises are due: working hours, holidays, warnings, and the steps of the chain."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from services.workorders.targets import Clock, Hours, Terms, due, level_of, moments

SHANGHAI = ZoneInfo("Asia/Shanghai")
# Half past eight to noon, and one to half past five, on weekdays.
OFFICE = tuple(Hours(weekday, *span) for weekday in range(1, 6) for span in ((510, 720), (780, 1050)))
ROLES = Terms().escalation_roles


def at(text: str) -> datetime:
    """An instant of the community's clock, in March 2026, whose second is a Monday."""
    return datetime.fromisoformat(f"2026-03-{text}").replace(tzinfo=SHANGHAI).astimezone(UTC)


office = Clock(SHANGHAI, OFFICE)


def test_a_promise_in_working_hours_waits_through_noon_nights_and_weekends() -> None:
    assert due(office, at("02T10:00"), 15) == at("02T10:15")
    assert due(office, at("02T11:50"), 15) == at("02T13:05")
    assert due(office, at("02T20:00"), 15) == at("03T08:45")
    assert due(office, at("06T17:20"), 30) == at("09T08:50")
    assert due(office, at("02T08:30"), 8 * 60) == at("02T17:30")
    assert due(office, at("02T10:00"), 0) is None


def test_round_the_clock_nothing_is_waited_for() -> None:
    assert due(Clock(), at("06T17:20"), 15) == at("06T17:35")


def test_holidays_are_free_and_working_weekends_are_not() -> None:
    clock = Clock(SHANGHAI, OFFICE, holidays={date(2026, 3, 3)}, working_days={date(2026, 3, 7)})
    assert due(clock, at("02T17:20"), 20) == at("04T08:40")
    assert due(clock, at("06T17:20"), 20) == at("07T08:40")


def test_hours_that_overlap_count_once() -> None:
    clock = Clock(SHANGHAI, (Hours(1, 600, 720), Hours(1, 540, 660), Hours(1, 720, 780)))
    assert clock.between(at("02T00:00"), at("03T00:00")) == 4 * 3600
    assert clock.after(at("02T09:00"), 4 * 3600) == at("02T13:00")


def test_a_day_on_which_the_clocks_change_opens_at_its_usual_hour() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    clock = Clock(berlin, tuple(Hours(weekday, 0, 1440) for weekday in range(1, 8)))
    start = datetime(2026, 3, 29, 0, 0, tzinfo=berlin).astimezone(UTC)
    assert clock.between(start, start + timedelta(days=1)) == 24 * 3600
    assert Clock(berlin, (Hours(7, 540, 600),)).after(start, 0) == datetime(2026, 3, 29, 9, 0, tzinfo=berlin)


def test_warnings_come_at_a_half_and_four_fifths_and_the_chain_from_the_end_on_by_halves() -> None:
    start = at("02T10:00")
    told = moments(Clock(), start, 15, ROLES)
    assert [(moment.name, moment.at - start) for moment in told] == [
        ("warn_50", timedelta(minutes=7, seconds=30)),
        ("warn_80", timedelta(minutes=12)),
        ("level_1", timedelta(minutes=15)),
        ("level_2", timedelta(minutes=22, seconds=30)),
        ("level_3", timedelta(minutes=30)),
    ]
    assert [level_of(moment.name) for moment in told] == [0, 0, 1, 2, 3]


hours = st.builds(
    lambda weekday, opens, minutes: Hours(weekday, opens, min(opens + minutes, 1440)),
    st.integers(1, 7),
    st.integers(0, 1400),
    st.integers(20, 900),
)
clocks = st.builds(
    Clock,
    st.just(SHANGHAI),
    st.lists(hours, max_size=6).map(tuple),
    st.frozensets(st.dates(date(2026, 3, 1), date(2026, 3, 20)), max_size=4),
    st.frozensets(st.dates(date(2026, 3, 1), date(2026, 3, 20)), max_size=4),
)
# Of a second that the clock has begun nothing is told.
instants = st.integers(0, 9 * 86_400).map(lambda seconds: datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=seconds))


@given(clocks, instants, st.integers(1, 20_000))
def test_what_a_clock_has_run_until_an_instant_is_what_it_was_told_to_run(clock: Clock, start: datetime, seconds: int) -> None:
    end = clock.after(start, seconds)
    assert clock.between(start, end) == seconds
    assert end >= start + timedelta(seconds=seconds)


@given(clocks, instants, st.integers(1, 300), st.integers(0, 100_000))
def test_a_promise_whose_clock_stood_still_is_due_when_as_much_of_it_has_run(
    clock: Clock, start: datetime, minutes: int, after_s: int
) -> None:
    due_at = due(clock, start, minutes)
    assert due_at is not None
    stopped_at = start + timedelta(seconds=after_s)
    goes_on_at = stopped_at + timedelta(days=3)
    clock_from = clock.after(start, clock.between(stopped_at, goes_on_at))
    later_due_at = due(clock, clock_from, minutes)
    assert later_due_at is not None
    if stopped_at < due_at:
        assert clock.between(start, stopped_at) + clock.between(goes_on_at, later_due_at) == minutes * 60
    else:
        assert later_due_at <= goes_on_at
