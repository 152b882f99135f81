"""Which compartments a night's rounds empty, in what order, and what that costs against the fixed rounds."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from services.waste.bins import Category, Place
from services.waste.rounds import Compartment, Figures, Night, Plan, Round, Stop, Truck, distance_m, plan_night
from tests.waste.filling import DAY, DEPOT, HOUR, Filling, fillings, live, night_of, steady, trucks_of

# A Monday, 20:00 in Shanghai, when nights are planned.
EVENING = datetime(2026, 3, 2, 12, tzinfo=UTC)
GATE = Place(31.2, 121.5)
FULL_BIN_G = 200_000


def bin_id(n: int) -> UUID:
    return UUID(int=n + 1)


def north_of_gate(metres: int) -> Place:
    """A place that much further north, as the crow flies."""
    return Place(GATE.latitude + metres / 111_195, GATE.longitude)


def truck(
    capacity_grams: int = 6_000_000, hours: float = 6, fixed_round: Sequence[int] = (), *, number: int = 1, depot: Place = GATE
) -> Truck:
    """A truck for 其他垃圾 that starts at 22:00 and stands at the gate."""
    begins = EVENING + 2 * HOUR
    return Truck(
        UUID(int=1000 + number), Category.OTHER, capacity_grams, depot, begins, begins + hours * HOUR, [bin_id(n) for n in fixed_round]
    )


def night(trucks: Sequence[Truck], compartments: Sequence[Compartment]) -> Night:
    ends_at = max(each.ends_at for each in trucks)
    return Night(min(each.begins_at for each in trucks), ends_at, ends_at + DAY, trucks, compartments)


def full(n: int, place: Place = GATE) -> Compartment:
    return steady(bin_id(n), place, 1000, 20, EVENING)


def idle(n: int, place: Place = GATE) -> Compartment:
    """Almost empty, and will be for days."""
    return steady(bin_id(n), place, 100, 1, EVENING)


def visited(plan: Plan) -> list[UUID]:
    return [stop.bin_id for each in plan.rounds for stop in each.stops]


def left_out(plan: Plan) -> list[UUID]:
    return [each.bin_id for each in plan.left_out]


def test_full_bins_are_emptied_and_idle_ones_are_left_for_another_night() -> None:
    plan = plan_night(night([truck()], [full(1, north_of_gate(500)), idle(2, north_of_gate(400)), full(3, north_of_gate(300))]))
    assert sorted(visited(plan)) == [bin_id(1), bin_id(3)]
    assert left_out(plan) == [bin_id(2)]
    assert plan.rounds[0].distance_m == 2 * distance_m(GATE, north_of_gate(500))
    assert plan.planned.emptyings == 2


def test_a_night_in_which_nothing_fills_needs_no_truck() -> None:
    plan = plan_night(night([truck(fixed_round=(1, 2))], [idle(1, north_of_gate(300)), idle(2, north_of_gate(600))]))
    assert plan.rounds == []
    assert plan.planned == Figures(distance_m=0, emptyings=0, overflow_minutes=plan.fixed.overflow_minutes)
    assert plan.fixed.emptyings == 2
    assert plan.fixed.distance_m == 2 * distance_m(GATE, north_of_gate(600))


def test_what_is_left_is_told_fullest_first_and_with_the_time_when_it_will_be_full() -> None:
    filling = steady(bin_id(1), GATE, 0, 15, EVENING)
    plan = plan_night(night([truck()], [idle(2), filling, steady(bin_id(3), GATE, 300, 1, EVENING)]))
    assert left_out(plan) == [bin_id(3), bin_id(1), bin_id(2)]
    assert [each.fill_permille for each in plan.left_out] == [308, 15 * 8, 108]
    assert plan.left_out[1].full_at == EVENING + timedelta(seconds=240_000)
    assert plan.left_out[0].full_at is None


def test_a_truck_arrives_when_it_has_driven_and_emptied_at_fifteen_kilometres_an_hour_and_three_minutes_a_bin() -> None:
    plan = plan_night(night([truck()], [full(1, north_of_gate(500)), full(2, north_of_gate(500))]))
    first, second = plan.rounds[0].stops
    assert distance_m(GATE, north_of_gate(500)) in (650, 651)
    assert timedelta(seconds=156) <= first.arrives_at - truck().begins_at <= timedelta(seconds=157)
    assert second.arrives_at - first.arrives_at == timedelta(minutes=3)


def test_a_truck_takes_what_is_expected_when_it_comes() -> None:
    plan = plan_night(night([truck()], [steady(bin_id(1), GATE, 800, 50, EVENING)]))
    (stop,) = plan.rounds[0].stops
    assert (stop.grams, stop.fill_permille) == (180_000, 900)
    assert plan.rounds[0].load_grams == 180_000


def test_a_truck_takes_what_fits_when_it_comes_even_if_it_would_not_at_the_nights_end() -> None:
    plan = plan_night(night([truck(capacity_grams=2 * FULL_BIN_G * 1050 // 1000)], [full(1), full(2)]))
    assert sorted(visited(plan)) == [bin_id(1), bin_id(2)]


def test_of_a_bin_that_has_overflowed_for_days_no_more_is_expected_than_half_as_much_again() -> None:
    plan = plan_night(night([truck()], [steady(bin_id(1), GATE, 1000, 50, EVENING - 10 * DAY)]))
    assert plan.rounds[0].load_grams == FULL_BIN_G * 3 // 2


def test_compartments_of_a_category_in_one_bin_are_one_stop() -> None:
    twins = [replace(full(1), name=name) for name in ("left", "right")]
    plan = plan_night(night([truck(fixed_round=(1,))], twins))
    assert visited(plan) == [bin_id(1)]
    assert plan.rounds[0].load_grams == 2 * FULL_BIN_G * 104 // 100
    assert plan.planned == plan.fixed


def test_categories_are_never_mixed() -> None:
    kitchen = replace(full(1), category=Category.KITCHEN)
    plan = plan_night(night([truck(), replace(truck(number=2), category=Category.KITCHEN)], [full(1), kitchen, full(2)]))
    by_category = {each.category: sorted(stop.bin_id for stop in each.stops) for each in plan.rounds}
    assert by_category == {Category.OTHER: [bin_id(1), bin_id(2)], Category.KITCHEN: [bin_id(1)]}


def test_a_category_without_a_truck_is_left_and_its_overflow_counts() -> None:
    hazardous = replace(full(1), category=Category.HAZARDOUS)
    plan = plan_night(night([truck()], [hazardous]))
    assert left_out(plan) == [bin_id(1)]
    assert plan.planned.overflow_minutes == plan.fixed.overflow_minutes == 30 * 60


def test_the_fixed_round_ends_when_the_truck_is_full() -> None:
    small = truck(capacity_grams=450_000, fixed_round=(1, 2, 3))
    plan = plan_night(night([small], [full(n, north_of_gate(100 * n)) for n in (1, 2, 3)]))
    assert plan.fixed.emptyings == 2
    assert plan.fixed.distance_m == 2 * distance_m(GATE, north_of_gate(200))


def test_the_fixed_round_ends_when_the_shift_does() -> None:
    short = truck(hours=0.2, fixed_round=(1, 2, 3))
    plan = plan_night(night([short], [full(n, north_of_gate(100 * n)) for n in (1, 2, 3)]))
    assert plan.fixed.emptyings == 2


def test_a_bin_on_two_fixed_rounds_is_emptied_once() -> None:
    plan = plan_night(night([truck(fixed_round=(1, 2)), truck(fixed_round=(2, 3), number=2)], [full(1), full(2), full(3)]))
    assert plan.fixed.emptyings == 3


def test_the_fullest_bins_come_first_when_a_truck_cannot_take_all() -> None:
    bins = [steady(bin_id(n), north_of_gate(50), fill, 12, EVENING) for n, fill in enumerate((1000, 700, 950, 750))]
    plan = plan_night(night([truck(capacity_grams=450_000)], bins))
    assert sorted(visited(plan)) == [bin_id(0), bin_id(2)]


def test_an_overflowing_bin_far_away_is_worth_more_than_many_near_ones_that_may_overflow() -> None:
    near = [steady(bin_id(n), north_of_gate(50), 700, 7, EVENING) for n in range(1, 8)]
    plan = plan_night(night([truck(capacity_grams=3 * FULL_BIN_G)], [*near, full(0, north_of_gate(9000))]))
    assert bin_id(0) in visited(plan)


def test_a_bin_beyond_every_shift_or_capacity_is_left_and_keeps_no_other_from_being_emptied() -> None:
    heavy = steady(bin_id(2), GATE, 1000, 20, EVENING, capacity_grams=7_000_000)
    plan = plan_night(night([truck()], [full(1), heavy, full(3, north_of_gate(60_000))]))
    assert visited(plan) == [bin_id(1)]
    assert set(left_out(plan)) == {bin_id(2), bin_id(3)}


def test_the_same_night_has_the_same_plan() -> None:
    bins = [steady(bin_id(n), north_of_gate(37 * n % 900), 600 + 13 * n % 400, 15, EVENING) for n in range(30)]
    asked = night([truck(), truck(number=2)], bins)
    assert plan_night(asked) == plan_night(asked)


def test_a_community_with_nothing_in_it_is_planned_monthtoo() -> None:
    assert plan_night(night([truck()], [])) == Plan([], Figures(0, 0, 0), Figures(0, 0, 0), [])


def test_hundreds_of_full_bins_are_planned_within_seconds() -> None:
    bins = [full(n, Place(31.2 + n % 30 / 3000, 121.5 + n // 30 / 3000)) for n in range(300)]
    began = datetime.now(UTC)
    plan = plan_night(night([truck(capacity_grams=15_000_000), truck(capacity_grams=15_000_000, number=2)], bins))
    assert plan.planned.emptyings > 100
    assert datetime.now(UTC) - began < timedelta(seconds=20)


def test_a_month_of_plans_overflows_hardly_more_than_emptying_all_each_night_and_drives_less_than_every_other_night() -> None:
    bins = fillings(16, seed=2)
    places = {each.bin_id: each.place for each in bins}

    def every_night(now: datetime, those: Sequence[Filling]) -> list[Round]:
        return [drive(each, [(n, places[n], 0) for n in each.fixed_round]) for each in trucks_of(now, those)]

    def every_other_night(now: datetime, those: Sequence[Filling]) -> list[Round]:
        return every_night(now, those) if (now - EVENING).days % 2 else []

    def ours(now: datetime, those: Sequence[Filling]) -> Sequence[Round]:
        return planned(night_of(those, now, trucks_of(now, those)))

    spend(14, bins, EVENING, every_night)  # what the forecast learns from
    always, seldom, planned_month = (spend(28, deepcopy(bins), EVENING + 14 * DAY, plan) for plan in (every_night, every_other_night, ours))
    assert planned_month.distance_m < seldom.distance_m < 0.6 * always.distance_m
    assert planned_month.overflow_minutes < 1.3 * always.overflow_minutes
    assert planned_month.overflow_minutes < 0.1 * seldom.overflow_minutes


def spend(days: int, bins: Sequence[Filling], begins: datetime, plan: Callable[[datetime, Sequence[Filling]], Sequence[Round]]) -> Figures:
    """What days with such rounds cost, and how long compartments were full in them."""
    before = sum(each.overflow_minutes for each in bins)
    driven = live(bins, begins, days, lambda now: plan(now, bins), seed=days)
    overflow_minutes = sum(each.overflow_minutes for each in bins) - before
    return Figures(sum(each.distance_m for each in driven), sum(len(each.stops) for each in driven), overflow_minutes)


def planned(asked: Night) -> Sequence[Round]:
    """The rounds of a plan that was checked."""
    plan = plan_night(asked)
    check(asked, plan)
    return plan.rounds


# The same rules, said once more and simply.


def drive(by: Truck, stops: Sequence[tuple[UUID, Place, int]]) -> Round:
    """What a truck drives that takes these grams from these bins."""
    places = [by.depot, *(place for _, place, _ in stops), by.depot]
    at, way_m, made = by.begins_at, 0, []
    for (here, there), stop in zip(pairwise(places), [*stops, None], strict=True):
        way_m += distance_m(here, there)
        at += timedelta(seconds=math.ceil(distance_m(here, there) * 0.24))
        if stop is not None:
            made.append(Stop(stop[0], at, stop[2], 0))
            at += timedelta(minutes=3)
    return Round(by.truck_id, by.category, made, way_m, sum(grams for _, _, grams in stops), at)


def check(asked: Night, plan: Plan) -> None:
    """Every plan can be driven, says what it costs, leaves nothing unsaid and nothing urgent that still fits."""
    trucks = {each.truck_id: each for each in asked.trucks}
    places = {each.bin_id: each.place for each in asked.compartments}
    assert len({each.truck_id for each in plan.rounds}) == len(plan.rounds)
    emptied = [(stop.bin_id, each.category) for each in plan.rounds for stop in each.stops]
    assert len(set(emptied)) == len(emptied) == plan.planned.emptyings
    assert sum(each.distance_m for each in plan.rounds) == plan.planned.distance_m
    for each in plan.rounds:
        by = trucks[each.truck_id]
        again = drive(by, [(stop.bin_id, places[stop.bin_id], stop.grams) for stop in each.stops])
        assert each == replace(again, stops=each.stops)
        assert [stop.arrives_at for stop in each.stops] == [stop.arrives_at for stop in again.stops]
        assert by.category is each.category
        assert each.stops
        assert each.load_grams <= by.capacity_grams
        assert each.back_at <= by.ends_at
    left = {(each.bin_id, each.name) for each in asked.compartments if (each.bin_id, each.category) not in set(emptied)}
    assert {(each.bin_id, each.compartment) for each in plan.left_out} == left
    # Nobody would rather drive the fixed rounds. What a visit is worth does not say at which minute of the night it comes, hence the slack.
    is_no_later = plan.planned.overflow_minutes <= plan.fixed.overflow_minutes + 60 * len(asked.compartments)
    assert is_no_later or plan.planned.distance_m <= plan.fixed.distance_m


def fits_somewhere(asked: Night, plan: Plan, site: Compartment) -> bool:
    """Whether a truck could take one bin more, in between what it takes already."""
    places = {each.bin_id: each.place for each in asked.compartments}
    for by in asked.trucks:
        stops = [stop for each in plan.rounds if each.truck_id == by.truck_id for stop in each.stops]
        order = [(stop.bin_id, places[stop.bin_id], stop.grams) for stop in stops]
        grams = site.capacity_grams * min(1500, site.outlook.fill_at(by.ends_at)) // 1000
        for at in range(len(order) + 1):
            longer = drive(by, [*order[:at], (site.bin_id, site.place, grams), *order[at:]])
            if longer.load_grams <= by.capacity_grams and longer.back_at <= by.ends_at:
                return True
    return False


metres = st.integers(-3000, 3000)
compartments = st.lists(
    st.builds(
        lambda north, east, fill, rate, capacity: (Place(31.2 + north / 111_195, 121.5 + east / 95_000), fill, rate, capacity),
        metres,
        metres,
        st.integers(0, 1000),
        st.floats(0.1, 100),
        st.integers(1_000, 2_000_000),
    ),
    max_size=12,
)
trucks = st.lists(st.tuples(st.integers(10_000, 5_000_000), st.integers(1, 400), st.sampled_from([GATE, DEPOT])), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(compartments, trucks)
def test_every_plan_can_be_driven_and_no_overflowing_bin_is_left_that_still_fits(
    bins: list[tuple[Place, int, float, int]], out: list[tuple[int, int, Place]]
) -> None:
    made = [steady(bin_id(n), place, fill, rate, EVENING, capacity_grams=capacity) for n, (place, fill, rate, capacity) in enumerate(bins)]
    order = range(len(made))
    asked = night([truck(grams, minutes / 60, order, number=n, depot=depot) for n, (grams, minutes, depot) in enumerate(out)], made)
    plan = plan_night(asked)
    check(asked, plan)
    for each in made:
        full_at = each.outlook.full_at()
        if full_at is not None and full_at < asked.horizon and each.bin_id in left_out(plan):
            assert not fits_somewhere(asked, plan, each)


@settings(max_examples=30, deadline=None)
@given(compartments, trucks, st.integers(0, 11))
def test_a_full_bin_that_a_truck_can_reach_is_left_only_for_other_full_ones(
    bins: list[tuple[Place, int, float, int]], out: list[tuple[int, int, Place]], which: int
) -> None:
    # One is full, all others are far from it.
    made = [
        steady(bin_id(n), place, 1000 if n == which else fill // 10, 5 if n == which else min(rate, 9), EVENING, capacity_grams=capacity)
        for n, (place, fill, rate, capacity) in enumerate(bins)
    ]
    asked = night([truck(grams, minutes / 60, number=n, depot=depot) for n, (grams, minutes, depot) in enumerate(out)], made)
    plan = plan_night(asked)
    check(asked, plan)
    if which < len(made):
        nothing = Plan((), plan.planned, plan.fixed, ())
        assert (bin_id(which) in visited(plan)) or not fits_somewhere(asked, nothing, made[which])
