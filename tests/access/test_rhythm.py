"""How long a quiet may last before somebody worries, and what is learned from what is noticed."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from servicekit.identifiers import new_id
from services.access.care import CareKind, CarePlan, notice
from services.access.rhythm import DAYS, HOURS, QUIET_MAX_MINUTES, QUIET_MIN_BY_DAY, QUIET_MIN_BY_NIGHT, Rhythm

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 1, 5, tzinfo=SHANGHAI)

minutes = st.integers(0, QUIET_MAX_MINUTES)
rhythms = st.dictionaries(st.dates(date(2026, 1, 1), date(2026, 1, 28)), st.tuples(*[minutes] * HOURS), max_size=5).map(Rhythm)
instants = st.integers(0, 50 * 24 * 60).map(lambda minute: MONDAY + timedelta(minutes=minute))


def lived(days: int, *hours: float) -> Rhythm:
    """The rhythm of somebody who is active at these hours of each day."""
    times = [MONDAY + timedelta(days=day, hours=hour) for day in range(days) for hour in hours]
    rhythm = Rhythm()
    for before, after in pairwise(times):
        rhythm = rhythm.learned(before, after, SHANGHAI)
    return rhythm


def worry(rhythm: Rhythm, active: Iterable[datetime]) -> datetime | None:
    worry_at = None
    for at in sorted(active):
        worry_at = rhythm.worry_at(worry_at, at, SHANGHAI)
    return worry_at


def test_who_sleeps_eight_hours_may_sleep_eight_hours_and_not_be_still_so_long_by_day() -> None:
    rhythm = lived(14, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22.5)
    assert timedelta(hours=8.5) <= rhythm.allows(MONDAY + timedelta(days=15, hours=22.5), SHANGHAI) <= timedelta(hours=13)
    assert rhythm.allows(MONDAY + timedelta(days=15, hours=10), SHANGHAI) == QUIET_MIN_BY_DAY


def test_however_lively_somebody_is_they_may_go_out_for_two_hours_and_sleep_for_four() -> None:
    rhythm = lived(10, *(hour / 2 for hour in range(48)))
    assert rhythm.allows(MONDAY + timedelta(days=11, hours=12), SHANGHAI) == QUIET_MIN_BY_DAY
    assert rhythm.allows(MONDAY + timedelta(days=11, hours=2), SHANGHAI) == QUIET_MIN_BY_NIGHT


def test_a_week_away_from_home_does_not_make_us_patient() -> None:
    rhythm = lived(21, 7, 9, 11, 13, 15, 17, 19, 21)
    before = rhythm.allows(MONDAY + timedelta(days=30, hours=9), SHANGHAI)
    away = rhythm.learned(MONDAY + timedelta(days=21, hours=9), MONDAY + timedelta(days=28, hours=9), SHANGHAI)
    assert away.allows(MONDAY + timedelta(days=30, hours=9), SHANGHAI) == before


def test_nobody_worries_for_a_day_where_nothing_is_known() -> None:
    assert Rhythm().allows(MONDAY, SHANGHAI) >= timedelta(days=1)


def test_what_is_older_than_four_weeks_is_forgotten() -> None:
    rhythm = lived(60, 8, 12, 18)
    assert len(rhythm.days) <= DAYS
    assert min(rhythm.days) > MONDAY.date() + timedelta(days=60 - DAYS - 2)


def test_the_night_on_which_clocks_change_is_a_night_like_others() -> None:
    evening = datetime(2026, 3, 28, 22, tzinfo=BERLIN)
    rhythm = Rhythm().learned(evening.astimezone(UTC), datetime(2026, 3, 29, 7, tzinfo=BERLIN).astimezone(UTC), BERLIN)
    assert rhythm.days[date(2026, 3, 28)][22] == 8 * 60  # one hour of nine is skipped


@given(rhythms, st.lists(instants, min_size=1, max_size=12), instants)
def test_whoever_does_more_worries_nobody_earlier(rhythm: Rhythm, active: list[datetime], one_more: datetime) -> None:
    before, after = worry(rhythm, active), worry(rhythm, [*active, one_more])
    assert before is not None
    assert after is not None
    assert after >= before


@given(rhythms, instants)
def test_a_worry_comes_at_least_two_hours_and_at_most_a_day_and_a_half_after_the_last_activity(rhythm: Rhythm, at: datetime) -> None:
    allowed = rhythm.allows(at, SHANGHAI)
    assert QUIET_MIN_BY_DAY <= allowed <= timedelta(minutes=QUIET_MAX_MINUTES * 3 // 2)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=200), instants)
def test_what_is_kept_stays_small_however_much_is_noticed(gaps: list[int], at: datetime) -> None:
    rhythm = Rhythm()
    for gap in gaps:
        after = at + timedelta(minutes=gap)
        rhythm, at = rhythm.learned(at, after, SHANGHAI), after
    assert len(rhythm.days) <= DAYS + 1
    assert all(0 <= quiet <= QUIET_MAX_MINUTES for day in rhythm.days.values() for quiet in day)


def plan() -> CarePlan:
    return CarePlan(new_id(), new_id(), CareKind.ACTIVITY, new_id(), (new_id(),), ("sensor",), (), MONDAY)


def test_nothing_is_learned_from_a_quiet_in_which_a_sensor_was_silent() -> None:
    times = [MONDAY + timedelta(hours=hour) for hour in (1, 9, 10)]
    noticed, rhythm = notice(plan(), times[:1], Rhythm(), times[0], SHANGHAI)
    noticed, rhythm = notice(replace(noticed, is_quiet_doubtful=True), times[1:2], rhythm, times[1], SHANGHAI)
    assert not rhythm.days
    noticed, rhythm = notice(noticed, times[2:], rhythm, times[2], SHANGHAI)
    assert rhythm.days[MONDAY.date()][9] == 60


def test_what_was_noticed_before_care_began_is_nobodys_business() -> None:
    noticed, rhythm = notice(plan(), [MONDAY - timedelta(hours=1), MONDAY], Rhythm(), MONDAY, SHANGHAI)
    assert (noticed.last_activity_at, rhythm.days) == (None, {})


@given(st.lists(instants, min_size=1, max_size=30), st.data())
def test_one_batch_says_the_same_in_any_order_and_twice(told: list[datetime], data: st.DataObject) -> None:
    again = data.draw(st.permutations([*told, *data.draw(st.lists(st.sampled_from(told), max_size=5))]))
    start = plan()
    assert notice(start, again, Rhythm(), MONDAY, SHANGHAI) == notice(start, sorted(told), Rhythm(), MONDAY, SHANGHAI)
