"""The tariff as data: its JSON form, what is refused, and which version is in force."""

import json
from contextlib import suppress
from copy import deepcopy
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.parking.tariff import Discount, DiscountUnit, Holidays, Tariff
from services.parking.tariff_document import ProblemCode, TariffInvalid, read_tariff
from tests.parking.tariff_cases import CASES, SPRING_FESTIVAL_2026, Document, band, clock, flat, rate, tariff
from tests.parking.tariff_strategies import tariffs, write_tariff


@given(tariffs())
@settings(max_examples=100, deadline=None)
def test_a_tariff_survives_being_written_as_json_and_read_again(tariff: Tariff) -> None:
    assert read_tariff(json.loads(json.dumps(write_tariff(tariff)))) == tariff


@pytest.mark.parametrize("document", [CASES[0].tariff, CASES[-1].tariff, CASES[40].tariff])
def test_null_and_absence_are_the_same(document: Document) -> None:
    assert read_tariff(without_nulls(document)) == read_tariff(document)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(entry) for name, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


# What is refused, by the path of the field and a code that programs can rely on.

GOOD = tariff(
    flat("夜间", 500, time_span=clock("21:00", "07:00")),
    band("白天", rate(60, 500, end=60), rate(30, 200, start=60)),
    free={"minutes": 30, "kind": "all_or_nothing"},
    caps=[{"amount": 3000, "rate_unit_period": "rolling"}],
    concessions=[
        {"user_classes": ["police"], "discount": {"name": "警车免费", "off": 100, "unit": "percent"}},
        {"user_classes": ["new_energy_small"], "discount": {"name": "减半", "off": 50, "unit": "percent"}},
    ],
)
REMOVED = object()


def changed(path: str, value: object) -> Document:
    """The good tariff with one field set, added or removed."""
    document = deepcopy(GOOD)
    *outer, name = [int(part) if part.isdigit() else part for part in path.replace("[", ".").replace("]", "").split(".")]
    parent: Any = document
    for part in outer:
        parent = parent[part]
    if value is REMOVED:
        del parent[name]
    elif isinstance(parent, list) and name == len(parent):
        parent.append(value)
    else:
        parent[name] = value
    return document


def problems_of(document: object) -> list[tuple[str, str]]:
    with pytest.raises(TariffInvalid) as raised:
        read_tariff(document)
    assert all(problem.zh and problem.en for problem in raised.value.problems)
    return [(problem.path, problem.code.name) for problem in raised.value.problems]


def test_the_good_tariff_is_good() -> None:
    assert read_tariff(GOOD).caps[0].amount == 3000


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("name", REMOVED, "REQUIRED"),
        ("name", "", "NOT_A_NAME"),
        ("name", "  ", "NOT_A_NAME"),
        ("name", "a\nb", "NOT_A_NAME"),
        ("name", "长" * 65, "NOT_A_NAME"),
        ("name", 5, "WRONG_TYPE"),
        ("version", "1", "WRONG_TYPE"),
        ("version", True, "WRONG_TYPE"),
        ("version", 1.0, "WRONG_TYPE"),
        ("version", 0, "OUT_OF_RANGE"),
        ("surprise", 1, "UNKNOWN_FIELD"),
        ("effective_from", "2026-01-01T00:00:00", "NOT_A_TIME"),
        ("effective_from", "yesterday", "NOT_A_TIME"),
        ("effective_from", "0001-01-01T00:00:00+08:00", "NOT_A_TIME"),
        ("effective_until", "2025-01-01T00:00:00+08:00", "NEVER_IN_FORCE"),
        ("rate_unit_period", "weekly", "NOT_ALLOWED"),
        ("rate_unit_period", REMOVED, "REQUIRED"),
        ("free", [], "WRONG_TYPE"),
        ("free.minutes", 0, "OUT_OF_RANGE"),
        ("free.kind", "sometimes", "NOT_ALLOWED"),
        ("grace_minutes", -1, "OUT_OF_RANGE"),
        ("bands", REMOVED, "REQUIRED"),
        ("bands", {}, "WRONG_TYPE"),
        ("bands", [], "WRONG_LENGTH"),
        ("bands[0]", None, "WRONG_TYPE"),
        ("bands[0].flat_amount", -1, "OUT_OF_RANGE"),
        ("bands[0].flat_amount", 1_000_001, "OUT_OF_RANGE"),
        ("bands[0].time_span.time_of_day_start", "21", "NOT_A_TIME"),
        ("bands[0].time_span.time_of_day_start", "24:00", "NOT_A_TIME"),
        ("bands[0].time_span.time_of_day_start", "２１:00", "NOT_A_TIME"),
        ("bands[0].time_span.days_of_week", [], "WRONG_LENGTH"),
        ("bands[0].time_span.designated_period", "snow", "NOT_ALLOWED"),
        ("bands[0].time_span.designated_period_except", "yes", "WRONG_TYPE"),
        ("bands[1].rates[0].rate_unit", "fortnight", "NOT_ALLOWED"),
        ("bands[1].rates[0].increment_duration", 0, "OUT_OF_RANGE"),
        ("bands[1].rates[0].increment_amount", 1.5, "WRONG_TYPE"),
        ("bands[1].rates[0].start_duration", 30, "RATES_NOT_CONTIGUOUS"),
        ("bands[1].rates[0].end_duration", None, "RATES_NOT_CONTIGUOUS"),
        ("bands[1].rates[0].colour", "red", "UNKNOWN_FIELD"),
        ("concessions[0].discount.unit", None, "REQUIRED"),
        ("bands[1].rates[1].start_duration", 90, "RATES_NOT_CONTIGUOUS"),
        ("bands[1].rates[1].end_duration", 120, "RATES_NOT_CONTIGUOUS"),
        ("bands[1].time_span", clock("08:00", "20:00"), "LAST_BAND_NOT_ALWAYS"),
        ("bands[1].name", "夜间", "DUPLICATE"),
        ("caps[0].amount", None, "REQUIRED"),
        ("concessions[1].user_classes", ["police", "military"], "DUPLICATE"),
        ("concessions[0].discount.off", 101, "OUT_OF_RANGE"),
    ],
)
def test_a_wrong_field_is_named_with_its_path_and_a_code(path: str, value: object, code: str) -> None:
    assert problems_of(changed(path, value)) == [(path, code)]


@pytest.mark.parametrize(
    ("path", "value", "found_at", "code"),
    [
        ("bands[0].time_span.days_of_week", ["sun", "day"], "bands[0].time_span.days_of_week[1]", "NOT_ALLOWED"),
        ("concessions[0].user_classes", ["polcie"], "concessions[0].user_classes[0]", "NOT_ALLOWED"),
        (
            "bands[0].time_span.designated_period_except",
            True,
            "bands[0].time_span.designated_period",
            "REQUIRED",
        ),
        ("bands[1].rates[0].increment_duration", 45, "bands[1].rates[0].end_duration", "STEP_NOT_WHOLE"),
        ("bands[1].rates", None, "bands[1]", "RATES_OR_FLAT_AMOUNT"),
        ("bands[1].flat_amount", 500, "bands[1]", "RATES_OR_FLAT_AMOUNT"),
        ("bands[0].time_span", None, "bands[1]", "NEVER_IN_FORCE"),
        ("caps[1]", {"amount": 5000, "rate_unit_period": "rolling"}, "caps[1].rate_unit_period", "DUPLICATE"),
    ],
)
def test_a_contradiction_is_named_where_it_shows(path: str, value: object, found_at: str, code: str) -> None:
    assert problems_of(changed(path, value)) == [(found_at, code)]


@pytest.mark.parametrize("document", [None, [], "tariff", 5, True])
def test_what_is_no_object_is_no_tariff(document: object) -> None:
    assert problems_of(document) == [("", "WRONG_TYPE")]


def test_all_problems_are_told_at_once() -> None:
    document = changed("version", 0) | {"name": None, "surprise": 1}
    assert problems_of(document) == [("name", "REQUIRED"), ("version", "OUT_OF_RANGE"), ("surprise", "UNKNOWN_FIELD")]


def test_a_document_of_nothing_but_problems_gets_a_bounded_answer() -> None:
    assert len(problems_of({f"field {number}": 1 for number in range(1000)})) == 50


def test_codes_are_stable() -> None:
    assert ProblemCode("parking.tariff.out_of_range") is ProblemCode.OUT_OF_RANGE
    assert TariffInvalid.code == "parking.tariff_invalid"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=12,
)
paths = st.sampled_from(
    [
        "name",
        "version",
        "effective_from",
        "effective_until",
        "rate_unit_period",
        "free",
        "free.kind",
        "bands",
        "bands[0]",
        "bands[0].time_span",
        "bands[0].time_span.days_of_week",
        "bands[0].time_span.time_of_day_end",
        "bands[1].rates",
        "bands[1].rates[0]",
        "bands[1].rates[0].end_duration",
        "caps",
        "concessions[0].user_classes",
        "concessions[0].discount",
    ]
)


@given(paths, json_values)
@settings(max_examples=300, deadline=None)
def test_whatever_stands_in_a_field_it_is_accepted_or_refused_in_an_orderly_way(path: str, value: object) -> None:
    with suppress(TariffInvalid):
        assert read_tariff(changed(path, value)).bands


@pytest.mark.parametrize(("off", "unit"), [(-1, DiscountUnit.FEN), (101, DiscountUnit.PERCENT)])
def test_a_discount_neither_adds_to_a_charge_nor_takes_more_than_all_of_it(off: int, unit: DiscountUnit) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Discount("访客券", off, unit)


# Days on which people work.


@pytest.mark.parametrize(
    ("day", "works"),
    [
        (date(2026, 3, 2), True),  # Monday
        (date(2026, 3, 7), False),  # Saturday
        (date(2026, 2, 14), True),  # Saturday, made up for the holiday
        (date(2026, 2, 16), False),  # Monday within the holiday
    ],
)
def test_workdays_follow_the_holiday_arrangement(day: date, works: bool) -> None:
    assert SPRING_FESTIVAL_2026.is_workday(day) is works


def test_without_an_arrangement_workdays_are_monday_to_friday() -> None:
    assert [Holidays().is_workday(date(2026, 3, day)) for day in range(2, 9)] == [True] * 5 + [False] * 2
