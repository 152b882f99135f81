"""Steps of time ranges."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.insights.steps import DAY_US, POINTS_MAX, finest_step_s, microseconds, midnights, steps_between

INSTANTS_US = st.integers(946_684_800_000_000, 4_102_444_800_000_000)
ZONES = st.sampled_from(["Asia/Shanghai", "Asia/Kathmandu", "Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe"])


def hours_of_days(zone: str, since: datetime, days: int) -> list[float]:
    begin_us = microseconds(since)
    begins = midnights(begin_us, begin_us + (days + 1) * DAY_US, ZoneInfo(zone))
    return [(after - before) / 3_600_000_000 for before, after in pairwise(begins)][:days]


def test_a_day_begins_at_the_communitys_midnight() -> None:
    noon = microseconds(datetime(2026, 6, 15, 12, tzinfo=UTC))
    assert midnights(noon, noon + 1, ZoneInfo("Asia/Shanghai")) == [microseconds(datetime(2026, 6, 14, 16, tzinfo=UTC))]


def test_days_are_as_long_as_the_clocks_make_them() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert hours_of_days("Europe/Berlin", datetime(2026, 3, 28, tzinfo=berlin), 3) == [24, 23, 24]
    assert hours_of_days("Europe/Berlin", datetime(2026, 10, 24, tzinfo=berlin), 3) == [24, 25, 24]


def test_a_day_whose_midnight_does_not_exist_begins_when_the_clocks_jump() -> None:
    cairo = ZoneInfo("Africa/Cairo")  # 24 April 2026: 00:00 became 01:00
    assert hours_of_days("Africa/Cairo", datetime(2026, 4, 23, 12, tzinfo=cairo), 3) == [24, 23, 24]


@given(INSTANTS_US, st.integers(1, 60 * DAY_US), ZONES)
def test_local_days_cover_the_range_in_order(from_us: int, length_us: int, zone: str) -> None:
    begins = midnights(from_us, from_us + length_us, ZoneInfo(zone))
    assert begins[0] <= from_us
    assert begins[-1] < from_us + length_us
    assert all(before < after for before, after in pairwise(begins))
    assert from_us + length_us - begins[-1] <= 25 * 3_600_000_000


@given(INSTANTS_US, st.integers(1, 90 * DAY_US), st.integers(60, 86_400))
def test_the_number_of_steps_is_that_of_the_instants_in_different_steps(from_us: int, length_us: int, step_s: int) -> None:
    step_us = step_s * 1_000_000
    touched = range(from_us // step_us, (from_us + length_us - 1) // step_us + 1)
    assert steps_between(from_us, from_us + length_us, step_s) == len(touched)


@given(INSTANTS_US, st.integers(1, 4000 * DAY_US))
def test_the_step_that_is_advised_fits(from_us: int, length_us: int) -> None:
    step_s = finest_step_s(from_us, from_us + length_us)
    assert step_s is not None
    assert steps_between(from_us, from_us + length_us, step_s) <= POINTS_MAX


def test_no_step_is_advised_for_more_days_than_there_may_be_points() -> None:
    since = datetime(2000, 1, 1, tzinfo=UTC)
    assert finest_step_s(microseconds(since), microseconds(since + timedelta(days=POINTS_MAX + 1))) is None


@pytest.mark.parametrize(("hours", "step_s"), [(1, 1), (24, 30), (24 * 7, 300), (24 * 90, 1_800)])
def test_the_advised_step_is_one_that_charts_are_read_by(hours: int, step_s: int) -> None:
    begin_us = microseconds(datetime(2026, 6, 15, tzinfo=UTC))
    assert finest_step_s(begin_us, begin_us + hours * 3_600_000_000) == step_s
