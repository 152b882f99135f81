"""How compartments fill, as it is learned and looked ahead."""

from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.waste.bins import Category
from services.waste.forecast import Habit, History, Outlook, Reading, learn, look_ahead
from services.waste.rounds import Round
from tests.waste.filling import DAY, HOUR, ZONE, Filling, fillings, habits_of, live

# A Monday, midnight in Shanghai.
MONDAY = datetime(2026, 3, 1, 16, tzinfo=UTC)
WEEKS = 4 * 7 * DAY


def history(readings: list[tuple[datetime, int]], heard_until: datetime, category: str = "other") -> History:
    return History(category, [Reading(at, fill) for at, fill in readings], heard_until)


def every_day(hour: int, permille: int, days: int = 28) -> list[tuple[datetime, int]]:
    """Something is brought at the same hour of each day, and taken away at the end of it."""
    levels = []
    for day in range(days):
        levels += [(MONDAY + DAY * day + HOUR * hour, permille), (MONDAY + DAY * day + HOUR * 23, 0)]
    return [(MONDAY, 0), *levels]


def habit_of(readings: list[tuple[datetime, int]], until: datetime = MONDAY + WEEKS) -> Habit:
    return learn({"it": history(readings, until)}, until, ZONE)["it"]


def outlook_of(rate: float, fill_permille: int, hours: int = 96) -> Outlook:
    return look_ahead(Habit((rate,) * 168, 30.0), fill_permille, MONDAY, MONDAY + HOUR * hours, ZONE)


def test_what_is_brought_each_evening_is_expected_in_the_evening() -> None:
    rates = habit_of(every_day(hour=19, permille=300)).rates
    for day in range(7):
        assert max(range(24), key=lambda hour: rates[day * 24 + hour]) == 19
        assert sum(rates[day * 24 : day * 24 + 24]) == pytest.approx(300, rel=0.1)
        assert rates[day * 24 + 19] > 150


def test_hours_are_those_of_the_community() -> None:
    until = MONDAY + WEEKS
    told = {"it": history(every_day(hour=19, permille=300), until)}
    there = learn(told, until, ZoneInfo("Europe/Berlin"))["it"].rates
    assert max(range(24), key=lambda hour: there[24 + hour]) == 12


def test_a_new_compartment_is_expected_to_fill_as_others_of_its_category_do() -> None:
    until = MONDAY + WEEKS
    new = [(until - HOUR, 0), (until - HOUR / 2, 20)]
    told = {
        "old": history(every_day(hour=19, permille=300), until, "kitchen"),
        "new": history(new, until, "kitchen"),
        "never heard": history([], until, "kitchen"),
        "alone": history([], until, "hazardous"),
    }
    learned = {key: sum(habit.rates[:24]) for key, habit in learn(told, until, ZONE).items()}
    assert learned["new"] == pytest.approx(learned["old"], rel=0.15)
    assert learned["never heard"] == pytest.approx(learned["old"], rel=0.15)
    assert 200 < learned["alone"] < 500


def test_hours_in_which_a_compartment_is_full_do_not_make_it_look_idle() -> None:
    readings = [(MONDAY, 0)]
    for cycle in range(4):
        # It fills in two days and overflows for five.
        start = MONDAY + 7 * DAY * cycle
        readings += [(start + HOUR * (n + 1), round(1000 * (n + 1) / 48)) for n in range(48)]
        readings.append((start + 7 * DAY - HOUR / 2, 0))
    assert sum(habit_of(readings).rates) / 168 == pytest.approx(1000 / 48, rel=0.15)


def test_a_bin_that_fell_silent_is_not_taken_for_an_idle_one() -> None:
    until = MONDAY + WEEKS
    readings = every_day(hour=19, permille=300, days=7)
    silent, idle = (learn({"it": history(readings, heard)}, until, ZONE)["it"].rates for heard in (MONDAY + 7 * DAY, until))
    assert sum(silent) / 7 == pytest.approx(300, rel=0.1)
    assert sum(idle) < 0.5 * sum(silent)


def test_levels_that_waver_are_no_growth() -> None:
    wavering = [(MONDAY + HOUR * n, 400 + 10 * (n % 3)) for n in range(28 * 24)]
    assert sum(habit_of(wavering).rates[:24]) < 30


def test_waste_that_is_pressed_down_is_no_emptying_and_no_growth() -> None:
    readings = [(MONDAY, 500), *[(MONDAY + DAY * day, 500 - 100 * (day % 2)) for day in range(1, 28)]]
    rise = sum(habit_of(readings).rates) / 7
    assert rise == pytest.approx(50, rel=0.3)  # 100 every other day, after each time


def test_a_month_of_ordinary_life_is_foreseen_a_day_ahead_and_overflow_as_often_as_it_happens() -> None:
    bins = fillings(8, seed=5)

    def empty_what_is_half_full(now: datetime) -> list[Round]:
        for each in bins:
            if each.level > 500:
                each.empty(now)
        return []

    began = MONDAY + 20 * HOUR
    live(bins, began, 28, empty_what_is_half_full, seed=3)
    errors, foreseen, happened = [], 0, 0
    for day in range(28, 42):
        now = began + DAY * day
        empty_what_is_half_full(now)
        habits = habits_of(bins, now)
        levels = {each.key: each.level for each in bins}
        outlooks = {each.key: look_ahead(habits[each.key], round(each.level), now, now + DAY, ZONE) for each in bins}
        before = sum(each.overflow_minutes for each in bins)
        live(bins, now, 1, lambda _: [], seed=100 + day)
        happened += sum(each.overflow_minutes for each in bins) - before
        foreseen += sum(outlook.overflow_minutes(now, now + DAY) for outlook in outlooks.values())
        for each in bins:
            if each.category in (Category.KITCHEN, Category.OTHER):
                errors.append(abs(outlooks[each.key].fill_at(now + DAY) - each.level) / (each.level - levels[each.key]))
    assert sum(errors) / len(errors) < 0.3  # of a day's growth; the days themselves differ by up to a quarter
    assert happened > 0
    assert 0.7 < foreseen / happened < 1.4


def test_a_full_compartment_overflows_until_it_is_emptied() -> None:
    outlook = outlook_of(rate=10, fill_permille=1000)
    assert outlook.full_at() == MONDAY
    assert outlook.overflow_minutes(MONDAY, MONDAY + 24 * HOUR) == 24 * 60
    assert outlook.overflow_minutes(MONDAY, MONDAY + 24 * HOUR, emptied_at=MONDAY + 90 * timedelta(minutes=1)) == 90
    assert outlook.fill_at(MONDAY + 24 * HOUR) == 1240
    assert outlook.fill_at(MONDAY + 24 * HOUR, emptied_at=MONDAY + 4 * HOUR) == 200


def test_when_a_compartment_will_be_full_is_told_as_far_as_can_be_seen() -> None:
    assert outlook_of(rate=25, fill_permille=500).full_at() == MONDAY + 20 * HOUR
    assert outlook_of(rate=25, fill_permille=500, hours=18).full_at() is None
    halves = look_ahead(Habit((25.0,) * 168, 30.0), 500, MONDAY + HOUR / 2, MONDAY + 48 * HOUR, ZONE)
    assert halves.full_at() == MONDAY + 20.5 * HOUR


def test_overflow_is_likelier_the_nearer_it_is() -> None:
    minutes = [outlook_of(rate=20, fill_permille=fill).overflow_minutes(MONDAY, MONDAY + 24 * HOUR) for fill in range(0, 1001, 100)]
    assert minutes == sorted(minutes)
    assert minutes[0] < 10
    assert minutes[5] > 10  # expected to be just short of full
    assert minutes[-1] == 24 * 60


@given(
    rates=st.lists(st.floats(0.01, 200), min_size=168, max_size=168),
    fill=st.integers(0, 1000),
    known=st.integers(-20_000, 0),
    since=st.integers(0, 2000),
    lasts=st.integers(0, 2000),
    emptied=st.none() | st.integers(0, 4000),
)
def test_every_outlook_holds_together(rates: list[float], fill: int, known: int, since: int, lasts: int, emptied: int | None) -> None:
    minute = timedelta(minutes=1)
    outlook = look_ahead(Habit(tuple(rates), 30.0), fill, MONDAY + known * minute, MONDAY + 4000 * minute, ZONE)
    begins, ends = MONDAY + since * minute, MONDAY + (since + lasts) * minute
    assert fill <= outlook.fill_at(begins) <= outlook.fill_at(ends)
    full_at = outlook.full_at()
    if full_at is None:
        assert outlook.fill_at(MONDAY + 4000 * minute) <= 1000
    else:
        assert outlook.fill_at(full_at) >= 1000
    emptied_at = None if emptied is None else MONDAY + emptied * minute
    left = outlook.overflow_minutes(begins, ends)
    assert 0 <= outlook.overflow_minutes(begins, ends, emptied_at) <= left + 1 <= lasts + 1
    if emptied_at is not None and emptied_at <= ends:
        assert outlook.fill_at(ends, emptied_at) <= outlook.fill_at(ends)
        assert outlook.fill_at(emptied_at, emptied_at) == 0


def test_any_readings_teach_something() -> None:
    odd = Filling(UUID(int=1), fillings(1)[0].place, Category.OTHER, 1.0)
    odd.readings = [Reading(MONDAY, 1000), Reading(MONDAY, 0), Reading(MONDAY + HOUR, 1000), Reading(MONDAY + WEEKS, 1000)]
    habit = habits_of([odd], MONDAY + WEEKS)[odd.key]
    assert all(rate > 0 for rate in habit.rates)
    assert habit.dispersion > 0
