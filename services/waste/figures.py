"""What deposits weighed, added up, and as a table for spreadsheets. Pure."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final
from uuid import UUID

from services.waste.bins import Category

MONTHS_MAX: Final = 36


@dataclass(frozen=True, slots=True)
class Weights:
    """Grams by category, and how many deposits counted and how many were contaminated."""

    recyclable_grams: int = 0
    kitchen_grams: int = 0
    hazardous_grams: int = 0
    other_grams: int = 0
    deposits: int = 0
    contaminated_deposits: int = 0

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(*(mine + its for mine, its in zip(self.values(), other.values(), strict=True)))

    def __neg__(self) -> "Weights":
        return Weights(*(-mine for mine in self.values()))

    def values(self) -> tuple[int, ...]:
        """All of it, in the order of the fields."""
        return (
            self.recyclable_grams,
            self.kitchen_grams,
            self.hazardous_grams,
            self.other_grams,
            self.deposits,
            self.contaminated_deposits,
        )

    @property
    def total_grams(self) -> int:
        """What everything weighed."""
        return self.recyclable_grams + self.kitchen_grams + self.hazardous_grams + self.other_grams

    @property
    def diversion_permille(self) -> int:
        """The part that was sorted for recycling, composting or safe treatment, in thousandths, rounded down; 0 of nothing."""
        return (self.total_grams - self.other_grams) * 1000 // self.total_grams if self.total_grams else 0


def weigh(category: Category, grams: int, *, is_contaminated: bool = False) -> Weights:
    """One deposit. A contaminated one goes with 其他垃圾, whatever it was meant to be, and is counted apart."""
    kind = Category.OTHER if is_contaminated else category
    return Weights(
        recyclable_grams=grams if kind is Category.RECYCLABLE else 0,
        kitchen_grams=grams if kind is Category.KITCHEN else 0,
        hazardous_grams=grams if kind is Category.HAZARDOUS else 0,
        other_grams=grams if kind is Category.OTHER else 0,
        deposits=0 if is_contaminated else 1,
        contaminated_deposits=1 if is_contaminated else 0,
    )


@dataclass(frozen=True, slots=True)
class MonthWeights:
    """What was put into the bins of one building in a month; of those that stand at none when `building_id` is None."""

    month: date
    building_id: UUID | None
    weights: Weights


def months(first: date, last: date) -> list[date]:
    """The first days of all months from `first` to `last`, which are first days themselves."""
    count = (last.year - first.year) * 12 + last.month - first.month + 1
    return [date(first.year + (first.month - 1 + nth) // 12, (first.month - 1 + nth) % 12 + 1, 1) for nth in range(count)]


def add_up(rows: Iterable[MonthWeights]) -> Weights:
    """All of them together."""
    return sum((row.weights for row in rows), Weights())


_HEADER: Final = (
    "月份 Month",
    "楼栋 Building",
    "可回收物 Recyclable (kg)",
    "厨余垃圾 Kitchen (kg)",
    "有害垃圾 Hazardous (kg)",
    "其他垃圾 Other (kg)",
    "合计 Total (kg)",
    "分流率 Diversion (‰)",
    "投放次数 Deposits",
    "混投次数 Contaminated",
)


def table(rows: Sequence[MonthWeights]) -> bytes:
    """The figures as CSV (RFC 4180), with a byte order mark, without which spreadsheets do not see that it is UTF-8."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(_HEADER)
    for row in rows:
        weights = row.weights
        grams = (weights.recyclable_grams, weights.kitchen_grams, weights.hazardous_grams, weights.other_grams, weights.total_grams)
        counts = (weights.diversion_permille, weights.deposits, weights.contaminated_deposits)
        writer.writerow([f"{row.month:%Y-%m}", row.building_id or "", *map(_kilograms, grams), *counts])
    return out.getvalue().encode("utf-8-sig")


def _kilograms(grams: int) -> str:
    return f"{grams // 1000}.{grams % 1000:03d}"
