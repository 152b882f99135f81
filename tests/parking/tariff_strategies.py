"""Random tariffs, stays and holidays for property tests: small numbers, every feature, edges more often than chance."""

from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from services.parking.charges import Stay
from services.parking.plates import PlateKind
from services.parking.tariff import Discount, DiscountUnit, Holidays, Tariff
from services.parking.tariff_document import read_tariff
from tests.parking.tariff_cases import SPRING_FESTIVAL_2026, Document

_CLOCKS: Final = ("00:00", "05:45", "07:00", "08:00", "12:30", "19:00", "21:00", "23:59")
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_KINDS: Final = (PlateKind.SMALL, PlateKind.NEW_ENERGY_SMALL, PlateKind.POLICE)
STEADY_ZONES: Final[tuple[tzinfo, ...]] = (
    ZoneInfo("Asia/Shanghai"),
    ZoneInfo("Asia/Urumqi"),
    timezone(timedelta(hours=5, minutes=45)),
    UTC,
)
# Clocks that are put forward and back, by an hour and by half an hour, and at midnight.
CHANGING_ZONES: Final[tuple[tzinfo, ...]] = (
    ZoneInfo("America/New_York"),
    ZoneInfo("Australia/Lord_Howe"),
    ZoneInfo("Asia/Beirut"),
)

amounts = st.integers(0, 1200)


@st.composite
def ladders(draw: st.DrawFn) -> list[Document]:
    rates: list[Document] = []
    reached = 0
    for last in [False] * draw(st.integers(0, 2)) + [True]:
        increment = draw(st.sampled_from([10, 15, 30, 45, 60, 120, 1440]))
        end = None if last else reached + increment * draw(st.integers(1, 4))
        rates.append(
            {
                "rate_unit": "minute",
                "increment_duration": increment,
                "increment_amount": draw(amounts),
                "start_duration": reached,
                "end_duration": end,
            }
        )
        reached = end or reached
    return rates


@st.composite
def time_spans(draw: st.DrawFn) -> Document:
    span: Document = {
        "time_of_day_start": draw(st.sampled_from(_CLOCKS)),
        "time_of_day_end": draw(st.sampled_from(_CLOCKS)),
    }
    match draw(st.sampled_from(["always", "days", "period"])):
        case "days":
            span["days_of_week"] = draw(st.lists(st.sampled_from(_WEEKDAYS), min_size=1, max_size=6, unique=True))
        case "period":
            span["designated_period"] = draw(st.sampled_from(["holidays", "workdays"]))
            span["designated_period_except"] = draw(st.booleans())
        case _:
            # Unlike the last band's, this one has to leave some time to the others.
            if span["time_of_day_start"] == span["time_of_day_end"]:
                span["days_of_week"] = ["tue", "sat"]
    return span


@st.composite
def bands(draw: st.DrawFn, name: str, *, always: bool) -> Document:
    band: Document = {"name": name}
    if draw(st.booleans()):
        band["rates"] = draw(ladders())
    else:
        band["flat_amount"] = draw(amounts)
    if draw(st.booleans()):
        band["cap_amount"] = draw(st.integers(0, 3000))
    if not always:
        band["time_span"] = draw(time_spans())
    return band


@st.composite
def tariff_documents(draw: st.DrawFn) -> Document:
    periods = st.sampled_from(["rolling", "calendar", "stay"])
    off = {"minutes": 90, "percent": 50, "fen": 250}[unit := draw(st.sampled_from(["minutes", "percent", "fen"]))]
    discount = {"name": "新能源", "off": off, "unit": unit}
    return {
        "name": "随机",
        "version": 1,
        "effective_from": "2025-01-01T00:00:00+08:00",
        "rate_unit_period": draw(periods),
        "free": draw(
            st.none()
            | st.fixed_dictionaries(
                {
                    "minutes": st.sampled_from([1, 15, 30, 120]),
                    "kind": st.sampled_from(["all_or_nothing", "deducted"]),
                }
            )
        ),
        "grace_minutes": draw(st.sampled_from([0, 15])),
        "bands": [
            *(draw(bands(f"时段{index}", always=False)) for index in range(draw(st.integers(0, 3)))),
            draw(bands("其他", always=True)),
        ],
        "caps": [{"amount": draw(st.integers(0, 4000)), "rate_unit_period": period} for period in draw(st.lists(periods, unique=True))],
        "concessions": draw(st.just([]) | st.just([{"user_classes": ["new_energy_small"], "discount": discount}])),
    }


def tariffs() -> st.SearchStrategy[Tariff]:
    return tariff_documents().map(read_tariff)


holidays = st.just(SPRING_FESTIVAL_2026) | st.just(Holidays()) | st.just(Holidays(days=frozenset({date(2026, 3, 8)})))

# Around Spring Festival, and around the nights on which clocks change.
_moments = st.sampled_from(
    [datetime(2026, 2, 13, tzinfo=UTC), datetime(2026, 3, 7, tzinfo=UTC), datetime(2026, 10, 31, tzinfo=UTC)]
).flatmap(lambda start: st.integers(0, 4 * 24 * 60).map(lambda minutes: start + timedelta(minutes=minutes)))

durations = st.integers(0, 4 * 24 * 4).map(lambda quarters: timedelta(minutes=15 * quarters)) | st.integers(0, 4 * 24 * 3600).map(
    lambda seconds: timedelta(seconds=seconds)
)

discounts = st.lists(
    st.builds(Discount, st.just("访客券"), st.sampled_from([1, 30, 60, 100]), st.sampled_from(DiscountUnit)),
    max_size=3,
).map(tuple)


def stays(zones: tuple[tzinfo, ...] = STEADY_ZONES + CHANGING_ZONES) -> st.SearchStrategy[Stay]:
    return st.builds(Stay, _moments, st.sampled_from(_KINDS), st.sampled_from(zones), holidays, discounts)


def write_tariff(tariff: Tariff) -> dict[str, object]:
    """The JSON form of a tariff."""
    return {field.name: _written(getattr(tariff, field.name)) for field in fields(tariff)}


def _written(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case time():
            return value.strftime("%H:%M")
        case StrEnum():
            return value.value
        case tuple():
            return [_written(entry) for entry in value]
        case _ if is_dataclass(value):
            return {field.name: _written(getattr(value, field.name)) for field in fields(value)}
        case _:
            return value
