"""A tariff's JSON form, and the rules that a document must keep to be a tariff which can be charged.

The form is that of the dataclasses in `tariff.py`, field by field; null and absence are the same.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import ClassVar, Final, TypeVar

from services.parking.plates import PlateKind
from services.parking.tariff import (
    Band,
    Cap,
    Concession,
    DesignatedPeriod,
    Discount,
    DiscountUnit,
    FreeTime,
    FreeTimeKind,
    Rate,
    RateUnit,
    RateUnitPeriod,
    Tariff,
    TimeSpan,
    Weekday,
)

_AMOUNT_FEN_MAX: Final = 10_000_00
_DURATION_MAX: Final = {RateUnit.MINUTE: 31 * 24 * 60, RateUnit.HOUR: 31 * 24, RateUnit.DAY: 31}
_OFF_MAX: Final = {
    DiscountUnit.MINUTES: 31 * 24 * 60,
    DiscountUnit.PERCENT: 100,
    DiscountUnit.FEN: _AMOUNT_FEN_MAX,
}
_FREE_OR_GRACE_MINUTES_MAX: Final = 24 * 60
_VERSION_MAX: Final = 1_000_000
_NAME_LENGTH_MAX: Final = 64
_ENTRIES_MAX: Final = 32
_PROBLEMS_MAX: Final = 50
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)
_STAND_IN_MOMENT: Final = datetime(2000, 1, 1, tzinfo=UTC)

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class ProblemCode(StrEnum):
    REQUIRED = "parking.tariff.required"
    UNKNOWN_FIELD = "parking.tariff.unknown_field"
    WRONG_TYPE = "parking.tariff.wrong_type"
    OUT_OF_RANGE = "parking.tariff.out_of_range"
    WRONG_LENGTH = "parking.tariff.wrong_length"
    NOT_ALLOWED = "parking.tariff.not_allowed"
    NOT_A_NAME = "parking.tariff.not_a_name"
    NOT_A_TIME = "parking.tariff.not_a_time"
    DUPLICATE = "parking.tariff.duplicate"
    RATES_OR_FLAT_AMOUNT = "parking.tariff.rates_or_flat_amount"
    RATES_NOT_CONTIGUOUS = "parking.tariff.rates_not_contiguous"
    STEP_NOT_WHOLE = "parking.tariff.step_not_whole"
    LAST_BAND_NOT_ALWAYS = "parking.tariff.last_band_not_always"
    NEVER_IN_FORCE = "parking.tariff.never_in_force"


_MESSAGES: Final[Mapping[ProblemCode, tuple[str, str]]] = {
    ProblemCode.REQUIRED: ("必填", "is required"),
    ProblemCode.UNKNOWN_FIELD: ("没有这个字段", "is not a field of a tariff"),
    ProblemCode.WRONG_TYPE: ("类型应为 {expected}", "must be of type {expected}"),
    ProblemCode.OUT_OF_RANGE: ("应在 {least} 到 {most} 之间", "must be from {least} to {most}"),
    ProblemCode.WRONG_LENGTH: ("应有 {least} 到 {most} 项", "must have from {least} to {most} entries"),
    ProblemCode.NOT_ALLOWED: ("应为其中之一：{allowed}", "must be one of {allowed}"),
    ProblemCode.NOT_A_NAME: (
        "应为 1 到 {most} 个可显示字符",
        "must be from 1 to {most} printable characters",
    ),
    ProblemCode.NOT_A_TIME: ("应形如 {example}", "must look like {example}"),
    ProblemCode.DUPLICATE: ("重复", "is given twice"),
    ProblemCode.RATES_OR_FLAT_AMOUNT: (
        "rates 与 flat_amount 须且只能有一个",
        "needs rates or flat_amount, not both",
    ),
    ProblemCode.RATES_NOT_CONTIGUOUS: (
        "各档费率须从 0 开始、首尾相接，最后一档不设结束",
        "rates must begin at 0 and follow each other without gap or overlap, the last without end",
    ),
    ProblemCode.STEP_NOT_WHOLE: (
        "本档时长须为计费单位的整数倍",
        "the step must last a whole number of increments",
    ),
    ProblemCode.LAST_BAND_NOT_ALWAYS: ("最后一个时段须始终适用", "the last band must apply at all times"),
    ProblemCode.NEVER_IN_FORCE: ("永远不会生效", "can never be in force"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    path: str
    """`bands[0].rates[1].increment_amount`; empty for the document itself."""
    code: ProblemCode
    zh: str
    en: str


class TariffInvalid(ValueError):
    """The document is no tariff; what is wrong with it, in the order of reading (at most 50 problems)."""

    code: ClassVar[str] = "parking.tariff_invalid"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)[:_PROBLEMS_MAX]
        super().__init__("; ".join(f"{problem.path} {problem.en}" for problem in self.problems))


def read_tariff(document: object) -> Tariff:
    """The tariff that a decoded JSON document states. Raises TariffInvalid with every problem found.

    Problems of form (fields, types, ranges) come first; only when there is none, whether the parts make sense together.
    """
    problems: list[Problem] = []
    tariff = _read_part("", document, _tariff, problems)
    if not problems:
        problems.extend(_contradictions(tariff))
    if problems:
        raise TariffInvalid(problems)
    return tariff


# What each part consists of.


def _tariff(part: "_Part") -> Tariff:
    return Tariff(
        name=part.name("name"),
        version=part.whole("version", 1, _VERSION_MAX),
        effective_from=part.moment("effective_from"),
        effective_until=part.moment("effective_until") if part.has("effective_until") else None,
        rate_unit_period=part.choice("rate_unit_period", RateUnitPeriod),
        free=part.part("free", _free_time) if part.has("free") else None,
        grace_minutes=part.whole("grace_minutes", 0, _FREE_OR_GRACE_MINUTES_MAX, default=0),
        bands=part.parts("bands", _band, least=1),
        caps=part.parts("caps", _cap),
        concessions=part.parts("concessions", _concession),
    )


def _free_time(part: "_Part") -> FreeTime:
    return FreeTime(minutes=part.whole("minutes", 1, _FREE_OR_GRACE_MINUTES_MAX), kind=part.choice("kind", FreeTimeKind))


def _band(part: "_Part") -> Band:
    return Band(
        name=part.name("name"),
        time_span=part.part("time_span", _time_span) if part.has("time_span") else TimeSpan(),
        rates=part.parts("rates", _rate),
        flat_amount=part.whole("flat_amount", 0, _AMOUNT_FEN_MAX) if part.has("flat_amount") else None,
        cap_amount=part.whole("cap_amount", 0, _AMOUNT_FEN_MAX) if part.has("cap_amount") else None,
    )


def _time_span(part: "_Part") -> TimeSpan:
    return TimeSpan(
        days_of_week=part.choices("days_of_week", Weekday) if part.has("days_of_week") else tuple(Weekday),
        time_of_day_start=part.clock("time_of_day_start"),
        time_of_day_end=part.clock("time_of_day_end"),
        designated_period=part.choice("designated_period", DesignatedPeriod) if part.has("designated_period") else None,
        designated_period_except=part.flag("designated_period_except"),
    )


def _rate(part: "_Part") -> Rate:
    unit = part.choice("rate_unit", RateUnit)
    most = _DURATION_MAX[unit]
    return Rate(
        rate_unit=unit,
        increment_duration=part.whole("increment_duration", 1, most),
        increment_amount=part.whole("increment_amount", 0, _AMOUNT_FEN_MAX),
        start_duration=part.whole("start_duration", 0, most, default=0),
        end_duration=part.whole("end_duration", 1, most) if part.has("end_duration") else None,
    )


def _cap(part: "_Part") -> Cap:
    return Cap(
        amount=part.whole("amount", 0, _AMOUNT_FEN_MAX),
        rate_unit_period=part.choice("rate_unit_period", RateUnitPeriod),
    )


def _concession(part: "_Part") -> Concession:
    return Concession(user_classes=part.choices("user_classes", PlateKind), discount=part.part("discount", _discount))


def _discount(part: "_Part") -> Discount:
    unit = part.choice("unit", DiscountUnit)
    return Discount(name=part.name("name"), off=part.whole("off", 1, _OFF_MAX[unit]), unit=unit)


# What the parts must be together.


def _contradictions(tariff: Tariff) -> Iterator[Problem]:
    if tariff.effective_until is not None and tariff.effective_until <= tariff.effective_from:
        yield _problem("effective_until", ProblemCode.NEVER_IN_FORCE)
    *others, last = tariff.bands
    if last.time_span != TimeSpan():
        yield _problem(f"bands[{len(others)}].time_span", ProblemCode.LAST_BAND_NOT_ALWAYS)
    for index, band in enumerate(others):
        if band.time_span == TimeSpan():
            yield _problem(f"bands[{index + 1}]", ProblemCode.NEVER_IN_FORCE)
    yield from _duplicates("bands[{}].name", ([band.name] for band in tariff.bands))
    for index, band in enumerate(tariff.bands):
        yield from _contradictions_in_band(band, f"bands[{index}]")
    yield from _duplicates("caps[{}].rate_unit_period", ([cap.rate_unit_period] for cap in tariff.caps))
    yield from _duplicates("concessions[{}].user_classes", (entry.user_classes for entry in tariff.concessions))


def _contradictions_in_band(band: Band, path: str) -> Iterator[Problem]:
    span = band.time_span
    if span.designated_period_except and span.designated_period is None:
        yield _problem(f"{path}.time_span.designated_period", ProblemCode.REQUIRED)
    if bool(band.rates) is (band.flat_amount is not None):
        yield _problem(path, ProblemCode.RATES_OR_FLAT_AMOUNT)
    reached, last = timedelta(0), len(band.rates) - 1
    for index, rate in enumerate(band.rates):
        at = f"{path}.rates[{index}]"
        if rate.starts_after != reached:
            yield _problem(f"{at}.start_duration", ProblemCode.RATES_NOT_CONTIGUOUS)
            return
        if (rate.ends_after is None) is not (index == last):
            yield _problem(f"{at}.end_duration", ProblemCode.RATES_NOT_CONTIGUOUS)
            return
        if rate.ends_after is None:
            return
        if rate.ends_after <= reached:
            yield _problem(f"{at}.end_duration", ProblemCode.RATES_NOT_CONTIGUOUS)
        elif (rate.ends_after - reached) % rate.increment:
            yield _problem(f"{at}.end_duration", ProblemCode.STEP_NOT_WHOLE)
        reached = rate.ends_after


def _duplicates(path: str, entries: Iterable[Iterable[str]]) -> Iterator[Problem]:
    """A problem at each entry that holds something an earlier one holds already."""
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if not seen.isdisjoint(entry):
            yield _problem(path.format(index), ProblemCode.DUPLICATE)
        seen.update(entry)


# How parts are read.


class _Part:
    """One JSON object being read. A problem is noted under its path, and reading goes on with a stand-in value."""

    def __init__(self, document: Mapping[str, object], path: str, problems: list[Problem]) -> None:
        self._unread = dict(document)
        self._path = path
        self._problems = problems

    def has(self, name: str) -> bool:
        if self._unread.get(name) is not None:
            return True
        self._unread.pop(name, None)
        return False

    def whole(self, name: str, least: int, most: int, default: int | None = None) -> int:
        if default is not None and not self.has(name):
            return default
        value = self._take(name, int, "integer")
        if value is not None and least <= value <= most:
            return value
        if value is not None:
            self._note(name, ProblemCode.OUT_OF_RANGE, least=least, most=most)
        return least

    def flag(self, name: str) -> bool:
        return self.has(name) and self._take(name, bool, "boolean") is True

    def name(self, name: str) -> str:
        value = self._take(name, str, "string")
        if value is not None and not (len(value) <= _NAME_LENGTH_MAX and value.strip() and value.isprintable()):
            self._note(name, ProblemCode.NOT_A_NAME, most=_NAME_LENGTH_MAX)
        return value or ""

    def moment(self, name: str) -> datetime:
        value = self._take(name, str, "string")
        if value is None:
            return _STAND_IN_MOMENT
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        self._note(name, ProblemCode.NOT_A_TIME, example="2026-01-01T00:00:00+08:00")
        return _STAND_IN_MOMENT

    def clock(self, name: str) -> time:
        value = self._take(name, str, "string") if self.has(name) else None
        if value is not None and _CLOCK.fullmatch(value):
            return time.fromisoformat(value)
        if value is not None:
            self._note(name, ProblemCode.NOT_A_TIME, example="21:00")
        return time.min

    def choice(self, name: str, allowed: type[E]) -> E:
        value = self._take(name, str, "string")
        return self._chosen(name, value, allowed) if value is not None else next(iter(allowed))

    def choices(self, name: str, allowed: type[E]) -> tuple[E, ...]:
        """Some of the allowed values, each once, in the order of their definition."""
        entries = self._entries(name, least=1)
        chosen = [self._chosen(f"{name}[{index}]", entry, allowed) for index, entry in enumerate(entries)]
        return tuple(value for value in allowed if value in chosen)

    def part(self, name: str, read: "Callable[[_Part], T]") -> T:
        return _read_part(self._at(name), self._unread.pop(name, None), read, self._problems)

    def parts(self, name: str, read: "Callable[[_Part], T]", least: int = 0) -> tuple[T, ...]:
        entries = self._entries(name, least) if least or self.has(name) else []
        return tuple(_read_part(self._at(f"{name}[{index}]"), entry, read, self._problems) for index, entry in enumerate(entries))

    def close(self) -> None:
        for name in self._unread:
            self._note(str(name)[:_NAME_LENGTH_MAX], ProblemCode.UNKNOWN_FIELD)

    def _take(self, name: str, kind: type[T], expected: str) -> T | None:
        value = self._unread.pop(name, None)
        # True is an int to Python, and not to JSON.
        if isinstance(value, kind) and isinstance(value, bool) is (kind is bool):
            return value
        if value is None:
            self._note(name, ProblemCode.REQUIRED)
        else:
            self._note(name, ProblemCode.WRONG_TYPE, expected=expected)
        return None

    def _entries(self, name: str, least: int) -> list[object]:
        entries = self._take(name, list, "array")
        if entries is None:
            return []
        if not least <= len(entries) <= _ENTRIES_MAX:
            self._note(name, ProblemCode.WRONG_LENGTH, least=least, most=_ENTRIES_MAX)
        return entries[:_ENTRIES_MAX]

    def _chosen(self, name: str, value: object, allowed: type[E]) -> E:
        for choice in allowed:
            if choice == value:
                return choice
        self._note(name, ProblemCode.NOT_ALLOWED, allowed=", ".join(allowed))
        return next(iter(allowed))

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _note(self, name: str, code: ProblemCode, **facts: object) -> None:
        self._problems.append(_problem(self._at(name), code, **facts))


def _read_part(path: str, document: object, read: Callable[[_Part], T], problems: list[Problem]) -> T:
    if not isinstance(document, Mapping):
        problems.append(_problem(path, ProblemCode.WRONG_TYPE, expected="object"))
        return read(_Part({}, path, []))
    part = _Part(document, path, problems)
    value = read(part)
    part.close()
    return value


def _problem(path: str, code: ProblemCode, **facts: object) -> Problem:
    zh, en = _MESSAGES[code]
    return Problem(path, code, zh.format(**facts), en.format(**facts))
