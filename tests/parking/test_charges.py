"""What a stay costs: the hand-computed table, and what holds for every tariff and every stay."""

from dataclasses import replace
from datetime import datetime, time, timedelta, tzinfo
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.parking.charges import ExitBeforeEntry, LineKind, Stay, charge, due, quote
from services.parking.plates import PlateKind
from services.parking.tariff import Band, FreeTimeKind, Rate, RateUnitPeriod, Tariff
from services.parking.tariff_document import read_tariff
from tests.parking import tariff_cases
from tests.parking.tariff_cases import CASES, COMMUNITY, Case
from tests.parking.tariff_strategies import CHANGING_ZONES, STEADY_ZONES, durations, stays, tariffs

many = settings(max_examples=100, deadline=None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.entered} to {case.left}: {case.calculation}")
def test_a_stay_costs_what_the_posted_rules_say(case: Case) -> None:
    assert charge(read_tariff(case.tariff), case.stay, case.left_at).amount_fen == case.fen


def test_the_table_holds_enough_cases_and_each_its_calculation() -> None:
    assert len(CASES) >= 40
    assert all(case.calculation for case in CASES)


# What holds for every tariff and every stay.


@given(tariffs(), stays(), st.lists(durations, min_size=2, max_size=6))
@many
def test_a_charge_is_never_negative_and_never_falls_as_the_stay_grows(tariff: Tariff, stay: Stay, lengths: list[timedelta]) -> None:
    amounts = [charge(tariff, stay, stay.entered_at + length).amount_fen for length in sorted(lengths)]
    assert amounts[0] >= 0
    assert all(shorter <= longer for shorter, longer in pairwise(amounts))


@given(
    tariffs(),
    stays(),
    durations,
    st.sampled_from([timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)]),
)
@many
def test_a_charge_does_not_fall_from_one_moment_to_the_next(tariff: Tariff, stay: Stay, length: timedelta, more: timedelta) -> None:
    left_at = stay.entered_at + length
    assert charge(tariff, stay, left_at).amount_fen <= charge(tariff, stay, left_at + more).amount_fen


@given(tariffs(), stays(), durations)
@many
def test_a_charge_is_never_above_a_cap(tariff: Tariff, stay: Stay, length: timedelta) -> None:
    left_at = stay.entered_at + length
    start = metered_from(tariff, stay)
    amount = charge(tariff, stay, left_at).amount_fen
    for cap in tariff.caps:
        match cap.rate_unit_period:
            case RateUnitPeriod.ROLLING:
                periods = -((start - left_at) // timedelta(days=1))
            case RateUnitPeriod.CALENDAR:
                last = (left_at - timedelta.resolution).astimezone(stay.zone).date()
                periods = (last - start.astimezone(stay.zone).date()).days + 1
            case RateUnitPeriod.STAY:
                periods = 1
        assert amount <= cap.amount * max(0, periods)


@given(tariffs(), stays(), durations)
@many
def test_the_lines_of_a_receipt_add_up_to_the_charge(tariff: Tariff, stay: Stay, length: timedelta) -> None:
    charged = charge(tariff, stay, stay.entered_at + length)
    assert sum(line.amount_fen for line in charged.lines) == charged.amount_fen
    for line in charged.lines:
        assert line.amount_fen < 0 if line.kind in {LineKind.CAP, LineKind.DISCOUNT} else line.amount_fen >= 0


@given(tariffs(), stays(), durations, st.sampled_from(STEADY_ZONES + CHANGING_ZONES))
@many
def test_a_charge_does_not_depend_on_the_zone_in_which_its_times_are_written(
    tariff: Tariff, stay: Stay, length: timedelta, elsewhere: tzinfo
) -> None:
    left_at = stay.entered_at + length
    written_elsewhere = replace(stay, entered_at=stay.entered_at.astimezone(elsewhere))
    assert charge(tariff, written_elsewhere, left_at.astimezone(elsewhere)) == charge(tariff, stay, left_at)


@given(tariffs(), stays(), durations)
@many
def test_a_discount_never_makes_a_stay_dearer(tariff: Tariff, stay: Stay, length: timedelta) -> None:
    left_at = stay.entered_at + length
    undiscounted = charge(tariff, replace(stay, discounts=()), left_at).amount_fen
    assert charge(tariff, stay, left_at).amount_fen <= undiscounted


@given(tariffs(), stays(), durations)
@many
def test_whoever_leaves_within_the_free_minutes_pays_nothing(tariff: Tariff, stay: Stay, length: timedelta) -> None:
    if tariff.free is not None and length <= timedelta(minutes=tariff.free.minutes):
        assert charge(tariff, stay, stay.entered_at + length).amount_fen == 0


@given(tariffs(), stays(STEADY_ZONES), durations)
@many
def test_buying_one_increment_after_another_by_the_wall_clock_comes_to_the_same(tariff: Tariff, stay: Stay, length: timedelta) -> None:
    plain = replace(stay, discounts=(), plate_kind=PlateKind.SMALL)
    left_at = stay.entered_at + length
    assert charge(tariff, plain, left_at).amount_fen == charge_by_the_wall_clock(tariff, plain, left_at)


@given(tariffs(), stays(CHANGING_ZONES))
@many
def test_where_clocks_are_put_forward_and_back_every_instant_has_a_price(tariff: Tariff, stay: Stay) -> None:
    assert charge(tariff, stay, stay.entered_at + timedelta(days=4)).amount_fen >= 0


# Quotes, payments and grace.

settlements = st.none() | st.tuples(durations, st.integers(0, 5000))


@given(tariffs(), stays(), durations, settlements, st.floats(0, 1))
@many
def test_a_quote_is_the_price_throughout_its_validity_and_rises_right_after(
    tariff: Tariff, stay: Stay, length: timedelta, settlement: tuple[timedelta, int] | None, part: float
) -> None:
    if settlement is not None:
        stay = replace(stay, settled_at=stay.entered_at + min(length, settlement[0]), paid_fen=settlement[1])
    at = stay.entered_at + length
    quoted = quote(tariff, stay, at)
    assert at <= quoted.valid_until <= at + timedelta(minutes=15)
    assert due(tariff, stay, at + part * (quoted.valid_until - at)) == quoted.amount_fen
    assert due(tariff, stay, quoted.valid_until) == quoted.amount_fen
    if quoted.valid_until < at + timedelta(minutes=15):
        assert due(tariff, stay, quoted.valid_until + timedelta(seconds=1)) > quoted.amount_fen


@given(tariffs(), stays(), durations, durations)
@many
def test_what_is_due_never_falls_after_a_payment(tariff: Tariff, stay: Stay, paid_after: timedelta, more: timedelta) -> None:
    paid_at = stay.entered_at + paid_after
    settled = replace(stay, settled_at=paid_at, paid_fen=due(tariff, stay, paid_at))
    grace_over = paid_at + timedelta(minutes=tariff.grace_minutes)
    assert due(tariff, settled, grace_over) == 0
    assert due(tariff, settled, grace_over + more) <= due(tariff, settled, grace_over + 2 * more)


def parked(minutes: int, *, paid_fen: int = 0, paid_after: int | None = None) -> tuple[Stay, datetime]:
    stay = Case(COMMUNITY, "03-02 08:00", "03-02 08:00", 0, "").stay
    settled_at = None if paid_after is None else stay.entered_at + timedelta(minutes=paid_after)
    return replace(stay, paid_fen=paid_fen, settled_at=settled_at), stay.entered_at + timedelta(minutes=minutes)


def test_a_car_that_paid_leaves_within_its_grace_period_for_free() -> None:
    assert due(read_tariff(COMMUNITY), *parked(75, paid_fen=500, paid_after=60)) == 0


def test_a_car_that_stays_beyond_its_grace_period_pays_what_the_whole_stay_costs_less_what_it_paid() -> None:
    # 5 yuan paid after an hour; 76 minutes cost 5 + 2.
    assert due(read_tariff(COMMUNITY), *parked(76, paid_fen=500, paid_after=60)) == 200


def test_a_car_that_stays_beyond_its_grace_period_in_time_that_was_paid_for_owes_nothing() -> None:
    # 7 yuan paid after 65 minutes cover 90.
    assert due(read_tariff(COMMUNITY), *parked(90, paid_fen=700, paid_after=65)) == 0


def test_a_part_payment_gives_no_grace() -> None:
    assert due(read_tariff(COMMUNITY), *parked(61, paid_fen=100)) == 600


def test_what_was_paid_beyond_the_charge_is_not_owed_back_at_the_lane() -> None:
    assert due(read_tariff(COMMUNITY), *parked(61, paid_fen=9900)) == 0


def test_a_quote_is_valid_until_the_next_step_and_no_longer_than_its_bound() -> None:
    tariff = read_tariff(COMMUNITY)
    stay, at = parked(50)
    quoted = quote(tariff, stay, at)
    assert (quoted.amount_fen, quoted.valid_until) == (500, at + timedelta(minutes=10))
    stay, at = parked(31)
    assert quote(tariff, stay, at).valid_until == at + timedelta(minutes=15)


def test_a_quote_of_a_capped_stay_is_valid_across_increments_that_cost_nothing_more() -> None:
    stay, at = parked(10 * 60 - 1)
    assert quote(read_tariff(COMMUNITY), stay, at, valid_for_at_most=timedelta(hours=1)).valid_until == at + timedelta(hours=1)


def test_a_lot_may_keep_a_quote_for_the_time_a_payment_takes() -> None:
    stay, at = parked(60)
    quoted = quote(read_tariff(COMMUNITY), stay, at, valid_for_at_least=timedelta(minutes=3))
    assert (quoted.amount_fen, quoted.valid_until) == (500, at + timedelta(minutes=3))


# Bad input.


def test_a_stay_that_ends_before_it_began_has_no_charge() -> None:
    stay, at = parked(0)
    with pytest.raises(ExitBeforeEntry):
        charge(read_tariff(COMMUNITY), stay, at - timedelta(seconds=1))


def test_a_time_without_a_zone_has_no_charge() -> None:
    stay, _ = parked(0)
    with pytest.raises(ValueError, match="naive"):
        charge(read_tariff(COMMUNITY), stay, datetime(2026, 3, 2, 9, 0))  # noqa: DTZ001


# The receipt.


def test_a_receipt_explains_itself_in_chinese_and_in_english() -> None:
    tariff = read_tariff(tariff_cases.NEW_ENERGY_HALF)
    case = Case(tariff_cases.NEW_ENERGY_HALF, "03-02 08:00", "03-02 15:10", 1500, "", PlateKind.NEW_ENERGY_SMALL)
    assert [(line.zh, line.en, line.amount_fen) for line in charge(tariff, case.stay, case.left_at).lines] == [
        ("临停 每1小时5.00元×1", "临停: 1 × 1 h at ¥5.00", 500),
        ("临停 每30分钟2.00元×13", "临停: 13 × 30 min at ¥2.00", 2600),
        ("每24小时封顶30.00元", "at most ¥30.00 per 24 hours", -100),
        ("新能源减半", "新能源减半", -1500),
    ]


def test_a_receipt_of_a_year_has_no_more_lines_than_the_tariff_has_prices() -> None:
    stay, at = parked(366 * 24 * 60)
    charged = charge(read_tariff(COMMUNITY), stay, at)
    assert charged.amount_fen == 366 * 3000
    assert len(charged.lines) == 3


# The same rules once more, the slow way: one increment at a time, bands looked up on the wall clock.


def metered_from(tariff: Tariff, stay: Stay) -> datetime:
    deducted = tariff.free is not None and tariff.free.kind is FreeTimeKind.DEDUCTED
    return stay.entered_at + timedelta(minutes=tariff.free.minutes if tariff.free and deducted else 0)


def charge_by_the_wall_clock(tariff: Tariff, stay: Stay, left_at: datetime) -> int:
    """For zones whose offset never changes, without discounts."""
    if tariff.free is not None and left_at - stay.entered_at <= timedelta(minutes=tariff.free.minutes):
        return 0
    start = metered_from(tariff, stay).astimezone(stay.zone)
    at, end = start, left_at.astimezone(stay.zone)
    spent: dict[object, int] = {}
    while at < end:
        band, began, ends = next(found for band in tariff.bands if (found := occurrence_at(band, at, stay)))
        limits = {(cap, period_start(cap.rate_unit_period, start, at)): cap.amount for cap in tariff.caps}
        if band.cap_amount is not None:
            limits[band, began] = band.cap_amount  # type: ignore[index]
        if band.flat_amount is not None:
            price, at = band.flat_amount, ends
        else:
            counted_from = max(start, period_start(tariff.rate_unit_period, start, at))
            rate = rate_after(band, at - counted_from)
            price, at = rate.increment_amount, at + rate.increment
        price = min([price, *(amount - spent.get(limit, 0) for limit, amount in limits.items())])
        for key in [*limits, "all"]:
            spent[key] = spent.get(key, 0) + price
    return spent.get("all", 0)


def rate_after(band: Band, elapsed: timedelta) -> Rate:
    return [rate for rate in band.rates if timedelta(minutes=rate.start_duration) <= elapsed][-1]


def period_start(period: RateUnitPeriod, start: datetime, at: datetime) -> datetime:
    match period:
        case RateUnitPeriod.ROLLING:
            return start + timedelta(days=(at - start).days)
        case RateUnitPeriod.CALENDAR:
            return at.replace(hour=0, minute=0, second=0, microsecond=0)
        case RateUnitPeriod.STAY:
            return start


def occurrence_at(band: Band, at: datetime, stay: Stay) -> tuple[Band, datetime, datetime] | None:
    span = band.time_span
    crosses_midnight = span.time_of_day_end <= span.time_of_day_start
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (midnight, midnight - timedelta(days=1)):
        began = day + since_midnight(span.time_of_day_start)
        ends = day + since_midnight(span.time_of_day_end) + timedelta(days=crosses_midnight)
        if began <= at < ends and span.applies_on(day.date(), stay.holidays):
            return band, began, ends
    return None


def since_midnight(clock: time) -> timedelta:
    return timedelta(hours=clock.hour, minutes=clock.minute)
