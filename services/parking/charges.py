"""What a stay costs under a tariff: the charge with the lines of its receipt, what is still due, and a quote.

The meter buys time. From the arrival on it buys one increment after another, each at the rate in force at the instant
at which the increment starts; an increment is bought as soon as it has started and is never cut, so that no minute is
paid for twice. A flat price buys all that is left of its time span. Caps keep the meter from counting further.
What was bought up to any instant does not depend on when the car leaves, hence a longer stay never costs less,
and on a boundary the lower price holds: 60 minutes are one hour.

Amounts are int fen. Permits, and who has paid how, are not known here.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import ClassVar, Final, NamedTuple

from services.parking.plates import PlateKind
from services.parking.tariff import (
    Band,
    Cap,
    Discount,
    DiscountUnit,
    FreeTimeKind,
    Holidays,
    Rate,
    RateUnitPeriod,
    Tariff,
    TimeSpan,
)

_DAY: Final = timedelta(days=1)
_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)
_DISCOUNT_ORDER: Final = tuple(DiscountUnit)


class ExitBeforeEntry(ValueError):
    """A stay cannot end before it began; `lanes.judge_exit_time` tells what to do with such a read."""

    code: ClassVar[str] = "parking.exit_before_entry"


@dataclass(frozen=True, slots=True)
class Stay:
    """All that a price depends on, apart from the tariff and the time of leaving."""

    entered_at: datetime
    plate_kind: PlateKind
    zone: tzinfo
    """The community's: clock times and calendar days are local, durations are not."""
    holidays: Holidays
    discounts: tuple[Discount, ...] = ()
    paid_fen: int = 0
    settled_at: datetime | None = None
    """When a payment last left nothing owed: the start of the grace time. A part payment does not set it."""


class LineKind(StrEnum):
    FREE = "free"
    RATE = "rate"
    FLAT = "flat"
    CAP = "cap"
    DISCOUNT = "discount"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a receipt; caps and discounts are negative."""

    kind: LineKind
    amount_fen: int
    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class Charge:
    amount_fen: int
    lines: tuple[Line, ...]
    """In the order in which they arose; their amounts add up to the charge."""


def charge(tariff: Tariff, stay: Stay, left_at: datetime) -> Charge:
    """What the whole stay costs, paid or not. Never negative, never falls as `left_at` grows, never above a cap.

    A cap binds each of its periods that the stay touches, counted from the arrival or, when free minutes are deducted,
    from their end; an increment belongs to the period in which it starts.
    Raises ExitBeforeEntry, and ValueError for a naive datetime.
    """
    entered_at, left_at = _in_utc(stay.entered_at), _in_utc(left_at)
    if left_at < entered_at:
        raise ExitBeforeEntry(f"left at {left_at}, entered at {entered_at}")
    metered_from = entered_at
    lines: list[Line] = []
    if tariff.free is not None:
        free = timedelta(minutes=tariff.free.minutes)
        within = left_at - entered_at <= free
        if tariff.free.kind is FreeTimeKind.DEDUCTED:
            metered_from += free
        if within or tariff.free.kind is FreeTimeKind.DEDUCTED:
            lines.append(_free_line(free))
        if within:
            return Charge(0, tuple(lines))
    lines += _metered(tariff, stay, metered_from, left_at)
    lines += _discounted(tariff, stay, metered_from, left_at, _sum(lines))
    return Charge(_sum(lines), tuple(lines))


def due(tariff: Tariff, stay: Stay, at: datetime) -> int:
    """What has still to be paid, in fen, for the car to leave at `at`.

    Nothing until the grace time after a settling payment is over; then what the whole stay costs less what was paid, so
    that a car which stays on pays for the time beyond, on the same meter, with the same caps and free minutes used up.
    """
    if stay.settled_at is not None and at <= stay.settled_at + timedelta(minutes=tariff.grace_minutes):
        return 0
    return max(0, charge(tariff, stay, at).amount_fen - stay.paid_fen)


@dataclass(frozen=True, slots=True)
class Quote:
    amount_fen: int
    valid_until: datetime
    """Inclusive. Who pays the amount by then has settled."""
    charge: Charge


def quote(
    tariff: Tariff,
    stay: Stay,
    at: datetime,
    *,
    valid_for_at_least: timedelta = timedelta(0),
    valid_for_at_most: timedelta = timedelta(minutes=15),
) -> Quote:
    """What is due at `at`, and until when that is the price: to the second before it rises, within the two bounds.

    `valid_for_at_least` is a promise of the lot's: it keeps the price for the time a payment takes, even across a rise.
    """
    amount = due(tariff, stay, at)
    # A price that never falls can be searched by halving.
    offsets = range(int(valid_for_at_most.total_seconds()) + 1)
    unchanged = bisect_right(offsets, amount, key=lambda seconds: due(tariff, stay, at + timedelta(seconds=seconds)))
    validity = max(valid_for_at_least, timedelta(seconds=unchanged - 1))
    return Quote(amount, at + validity, charge(tariff, stay, at))


def yuan(fen: int) -> str:
    """An amount as people read it: `12.50`."""
    return f"{fen // 100}.{fen % 100:02d}"


# The meter.


class _Interval(NamedTuple):
    start: datetime
    end: datetime


class _Occurrence(NamedTuple):
    """A time span's coming once, as an interval in UTC; the lowest rank is in force."""

    rank: int
    start: datetime
    end: datetime


class _Timeline:
    """The bands of a tariff laid out in time."""

    def __init__(self, bands: Sequence[Band], zone: tzinfo, holidays: Holidays) -> None:
        self._bands = bands
        self._zone = zone
        self._holidays = holidays
        self._starting_on: dict[date, list[_Occurrence]] = {}

    def calendar_day(self, at: datetime) -> _Interval:
        today = at.astimezone(self._zone).date()
        return _Interval(self._instant(today, time.min), self._instant(today + _DAY, time.min))

    def in_force(self, at: datetime) -> tuple[Band, _Interval, datetime]:
        """The band in force, the occurrence of its time span, and an instant until which it stays in force."""
        today = at.astimezone(self._zone).date()
        nearby = self._occurrences(today) + self._occurrences(today - _DAY)
        rank, start, end = min(occurrence for occurrence in nearby if occurrence.start <= at < occurrence.end)
        until = min(edge for occurrence in nearby for edge in occurrence[1:] if edge > at)
        return self._bands[rank], _Interval(start, end), until

    def _occurrences(self, day: date) -> list[_Occurrence]:
        """Those that start on a local day."""
        if day not in self._starting_on:
            self._starting_on[day] = [
                _Occurrence(rank, self._instant(day, span.time_of_day_start), self._end(span, day))
                for rank, span in enumerate(band.time_span for band in self._bands)
                if span.applies_on(day, self._holidays)
            ]
        return self._starting_on[day]

    def _end(self, span: TimeSpan, day: date) -> datetime:
        same_day = span.time_of_day_end > span.time_of_day_start
        return self._instant(day if same_day else day + _DAY, span.time_of_day_end)

    def _instant(self, day: date, clock: time) -> datetime:
        return datetime.combine(day, clock, self._zone).astimezone(UTC)


class _Price(NamedTuple):
    band: str
    increment: timedelta | None
    """None for a flat price."""
    amount: int


class _Limit(NamedTuple):
    """One period of one cap: what the increments that start in it may cost together."""

    zh: str
    en: str
    amount: int
    start: datetime
    end: datetime


def _metered(tariff: Tariff, stay: Stay, metered_from: datetime, left_at: datetime) -> list[Line]:
    timeline = _Timeline(tariff.bands, stay.zone, stay.holidays)
    bought: Counter[_Price] = Counter()
    spent: Counter[_Limit] = Counter()
    above_cap: Counter[tuple[str, str]] = Counter()
    at = metered_from
    while at < left_at:
        band, occurrence, until = timeline.in_force(at)
        limits = [_limit(cap, metered_from, at, timeline) for cap in tariff.caps]
        if band.cap_amount is not None:
            limits.append(_limited(band.name, band.name, band.cap_amount, occurrence))
        if band.flat_amount is not None:
            price, count, paid_until = _Price(band.name, None, band.flat_amount), 1, occurrence.end
        else:
            # As many increments at once as start at the same rate and under the same limits, rounded up: a started
            # one is bought.
            steps = _period(tariff.rate_unit_period, metered_from, at, timeline)
            rate, step_end = _step(band.rates, max(steps.start, metered_from), at)
            stop = min(left_at, until, steps.end, step_end, *(limit.end for limit in limits))
            price, count = _Price(band.name, rate.increment, rate.increment_amount), -((at - stop) // rate.increment)
            paid_until = at + count * rate.increment
        cost = count * price.amount
        bought[price] += count
        if limits:
            tightest = min(limits, key=lambda limit: limit.amount - spent[limit])
            allowed = min(cost, tightest.amount - spent[tightest])
            above_cap[tightest.zh, tightest.en] += cost - allowed
            for limit in limits:
                spent[limit] += allowed
        at = paid_until
    lines = [_price_line(price, count) for price, count in bought.items()]
    return lines + [Line(LineKind.CAP, -cut, zh, en) for (zh, en), cut in above_cap.items() if cut]


def _step(rates: Sequence[Rate], counted_from: datetime, at: datetime) -> tuple[Rate, datetime]:
    """The step that the time since `counted_from` has reached, and when it ends."""
    rate = next(rate for rate in reversed(rates) if rate.starts_after <= at - counted_from)
    return rate, _END_OF_TIME if rate.ends_after is None else counted_from + rate.ends_after


def _period(period: RateUnitPeriod, metered_from: datetime, at: datetime, timeline: _Timeline) -> _Interval:
    match period:
        case RateUnitPeriod.ROLLING:
            start = metered_from + (at - metered_from) // _DAY * _DAY
            return _Interval(start, start + _DAY)
        case RateUnitPeriod.CALENDAR:
            return timeline.calendar_day(at)
        case RateUnitPeriod.STAY:
            return _Interval(metered_from, _END_OF_TIME)


def _limit(cap: Cap, metered_from: datetime, at: datetime, timeline: _Timeline) -> _Limit:
    match cap.rate_unit_period:
        case RateUnitPeriod.ROLLING:
            zh, en = "每24小时", "24 hours"
        case RateUnitPeriod.CALENDAR:
            zh, en = "每日", "calendar day"
        case RateUnitPeriod.STAY:
            zh, en = "每次", "stay"
    return _limited(zh, en, cap.amount, _period(cap.rate_unit_period, metered_from, at, timeline))


def _limited(zh: str, en: str, amount: int, interval: _Interval) -> _Limit:
    return _Limit(f"{zh}封顶{yuan(amount)}元", f"at most ¥{yuan(amount)} per {en}", amount, *interval)


def _discounted(tariff: Tariff, stay: Stay, metered_from: datetime, left_at: datetime, amount_fen: int) -> list[Line]:
    """Minutes come off first, then percents, then amounts; those of the vehicle's class before the driver's own."""
    lines = []
    granted = [entry.discount for entry in tariff.concessions if stay.plate_kind in entry.user_classes]
    for discount in sorted([*granted, *stay.discounts], key=lambda discount: _DISCOUNT_ORDER.index(discount.unit)):
        match discount.unit:
            case DiscountUnit.MINUTES:
                metered_from += timedelta(minutes=discount.off)
                reduced = min(amount_fen, _sum(_metered(tariff, stay, metered_from, left_at)))
            case DiscountUnit.PERCENT:
                reduced = amount_fen * (100 - discount.off) // 100
            case DiscountUnit.FEN:
                reduced = max(0, amount_fen - discount.off)
        if reduced != amount_fen:
            lines.append(Line(LineKind.DISCOUNT, reduced - amount_fen, discount.name, discount.name))
        amount_fen = reduced
    return lines


def _free_line(free: timedelta) -> Line:
    zh, en = _duration(free)
    return Line(LineKind.FREE, 0, f"{zh}内免费", f"first {en} free")


def _price_line(price: _Price, count: int) -> Line:
    amount_fen, unit = count * price.amount, yuan(price.amount)
    if price.increment is None:
        return Line(LineKind.FLAT, amount_fen, f"{price.band} {unit}元×{count}", f"{price.band}: {count} × ¥{unit}")
    zh, en = _duration(price.increment)
    return Line(
        LineKind.RATE,
        amount_fen,
        f"{price.band} 每{zh}{unit}元×{count}",
        f"{price.band}: {count} × {en} at ¥{unit}",
    )


def _duration(duration: timedelta) -> tuple[str, str]:
    hours, minutes = divmod(duration // timedelta(minutes=1), 60)
    return (f"{hours}小时", f"{hours} h") if not minutes else (f"{60 * hours + minutes}分钟", f"{60 * hours + minutes} min")


def _sum(lines: Iterable[Line]) -> int:
    return sum(line.amount_fen for line in lines)


def _in_utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError(f"a naive datetime: {at}")
    return at.astimezone(UTC)
