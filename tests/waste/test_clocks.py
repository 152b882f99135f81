"""When deposits were: bins' clocks that are wrong, drift, are reset, and deposits that come late and in any order."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.waste.clocks import SECOND_US, Dating, Stretch, date, listen, microseconds, possible

START = datetime(2026, 3, 2, tzinfo=UTC)
HALF_A_MINUTE = timedelta(seconds=30)
# Deposits in a bin's time, and how long after they were they arrived.
deposits = st.lists(st.tuples(st.integers(0, 6 * 3600), st.integers(0, 3 * 86400)), min_size=1, max_size=20)


@dataclass(frozen=True)
class Clock:
    """A clock that was wrong by `error_s` at the start, and gains `drift` seconds in each second."""

    error_s: float
    drift: float = 0.0

    def says_us(self, at: datetime) -> int:
        """What it says at that time."""
        passed_s = (at - START).total_seconds()
        return microseconds(at) + round((self.error_s + self.drift * passed_s) * SECOND_US)


def reported(clock: Clock, since: datetime, until: datetime, latency_s: float = 0.2, before: list[Stretch] | None = None) -> list[Stretch]:
    """The stretches of a bin that reports each half minute."""
    stretches = list(before or [])
    at = since
    while at < until:
        newest = stretches[-1] if stretches else None
        stretch = listen(newest, clock.says_us(at), at + timedelta(seconds=latency_s))
        if newest is not None and stretch.heard_from == newest.heard_from:
            stretches.pop()
        stretches.append(stretch)
        at += HALF_A_MINUTE
    return stretches


@given(
    deposits=deposits,
    # Wrong by up to years, gaining or losing up to a minute in an hour: a hundred times what a poor quartz does.
    clock=st.builds(Clock, st.floats(-4e8, 4e8), st.floats(-1 / 60, 1 / 60)),
    latency_s=st.floats(0.01, 2.0),
)
def test_a_deposit_is_dated_within_a_minute_of_the_truth_however_late_it_comes(
    deposits: list[tuple[int, int]], clock: Clock, latency_s: float
) -> None:
    for second, late_s in deposits:
        at = START + timedelta(seconds=second)
        received_at = at + timedelta(seconds=late_s + latency_s)
        # The bin has reported from long before, until just before the deposit was received.
        stretches = reported(clock, START - timedelta(minutes=5), min(received_at, START + timedelta(hours=7)), latency_s)
        dating = date(clock.says_us(at), received_at, stretches)
        assert abs(dating.at - at) <= timedelta(minutes=1)
        assert not dating.is_wrong
        assert dating.at <= received_at


@pytest.mark.parametrize("error_s", [-26 * 365 * 86400, -3600, 600])
def test_what_was_weighed_before_a_clock_was_set_right_keeps_the_error_of_its_time(error_s: float) -> None:
    set_right_at = START + timedelta(hours=2)
    before = reported(Clock(error_s), START, set_right_at)
    stretches = reported(Clock(0), set_right_at, START + timedelta(hours=3), before=before)
    received_at = START + timedelta(hours=3)
    for minutes, clock in ((30, Clock(error_s)), (100, Clock(error_s)), (150, Clock(0))):
        at = START + timedelta(minutes=minutes)
        assert abs(date(clock.says_us(at), received_at, stretches).at - at) < timedelta(minutes=1)


def test_a_clock_that_is_put_back_and_says_the_same_time_again_is_believed_as_it_is_now() -> None:
    stretches = reported(Clock(600), START, START + timedelta(hours=1))
    stretches = reported(Clock(0), START + timedelta(hours=1), START + timedelta(hours=1, minutes=5), before=stretches)
    at = START + timedelta(hours=1, minutes=5)
    assert abs(date(microseconds(at), at, stretches).at - at) < timedelta(seconds=1)


def test_a_steady_clock_makes_one_stretch_and_a_drifting_one_few() -> None:
    assert len(reported(Clock(100), START, START + timedelta(hours=6))) == 1
    assert len(reported(Clock(100, 1 / 3600), START, START + timedelta(hours=6))) <= 6


def test_without_reports_a_bin_is_believed_unless_it_cannot_be() -> None:
    received_at = START
    yesterday, soon, tomorrow, long_ago = (START + timedelta(days=d, seconds=s) for d, s in ((-1, 0), (0, 100), (1, 0), (-40, 0)))
    assert date(microseconds(yesterday), received_at, []) == Dating(yesterday)
    assert date(microseconds(soon), received_at, []) == Dating(received_at)
    assert date(microseconds(tomorrow), received_at, []) == Dating(received_at, is_wrong=True)
    assert date(microseconds(long_ago), received_at, []) == Dating(received_at, is_wrong=True)
    assert date(None, received_at, []) == Dating(received_at)


@given(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62))
def test_no_clock_says_anything_that_is_an_error(said_us: int, reported_us: int) -> None:
    stretches = [] if possible(reported_us) is None else [listen(None, reported_us, START)]
    dating = date(possible(said_us), START, stretches)
    assert START - timedelta(days=30) <= dating.at <= START
