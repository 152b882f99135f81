"""Rules of points (积分管理办法) as data: what earns how much for whom, within which limits, and on which terms points are kept.

A version is never changed. What happened at an instant is judged by the version that was in force then, whenever we hear of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

# Rule ids of what no rule of a book gives: gifts, and grants by hand.
GIFT: Final = "gift"
GRANT: Final = "grant"


class Source(StrEnum):
    """What earns points, and what is measured of it."""

    WASTE_DEPOSIT = "waste_deposit"  # grams
    VOLUNTEERING = "volunteering"  # minutes
    ACTIVITY = "activity"  # 1
    SURVEY = "survey"  # 1
    WALKING = "walking"  # metres
    CYCLING = "cycling"  # metres
    GRANT = "grant"  # points; never in a rule book


# The most that anybody can tell of one thing, in its source's measure. A grant is never more than was granted.
MEASURES_MAX: Final = {
    Source.WASTE_DEPOSIT: 10_000_000,
    Source.VOLUNTEERING: 1_440,
    Source.ACTIVITY: 1,
    Source.SURVEY: 1,
    Source.WALKING: 1_000_000,
    Source.CYCLING: 1_000_000,
}


class Beneficiary(StrEnum):
    """Who gets a rule's points, and whose limits count."""

    RESIDENT = "resident"
    HOUSEHOLD = "household"


@dataclass(frozen=True, slots=True)
class Rule:
    """`points` for every whole `per` of the measure. A maximum of 0 is no limit; an empty category is every category."""

    rule_id: str
    source: Source
    category: str
    beneficiary: Beneficiary
    points: int
    per: int
    measure_min: int
    daily_points_max: int
    monthly_points_max: int
    text_zh: str
    text_en: str

    def points_for(self, measure: int) -> int:
        """What the measure gives before any limit."""
        return 0 if measure < self.measure_min else measure // self.per * self.points


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms points are kept, granted, given and redeemed."""

    years_kept: int
    grant_points_max: int
    gift_daily_points_max: int
    gift_monthly_points_max: int
    hold_hours: int


@dataclass(frozen=True, slots=True)
class RuleBook:
    """One version of the rules, in force from `effective_from` until the next one is."""

    version: int
    effective_from: datetime
    rules: Sequence[Rule]
    terms: Terms
    changes_zh: str
    changes_en: str
    published_at: datetime
    published_by: UUID

    def find_rule(self, source: Source, category: str) -> Rule | None:
        """The rule for a source: the one for the category before the one for every category."""
        fitting = {rule.category: rule for rule in self.rules if rule.source is source}
        return fitting.get(category) or fitting.get("")


# What a grant by hand is booked under: a point for every point, without limits.
GRANTED: Final = Rule(GRANT, Source.GRANT, "", Beneficiary.RESIDENT, 1, 1, 0, 0, 0, "人工发放", "Granted")


def in_force(books: Iterable[RuleBook], at: datetime) -> RuleBook | None:
    """The version that is in force at an instant; None before the first."""
    return max((book for book in books if book.effective_from <= at), key=lambda book: book.effective_from, default=None)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field of a rule book; `field` as JSON names it."""

    field: str
    code: str
    text: str


def find_faults(rules: Sequence[Rule]) -> list[Fault]:
    """What cannot be in a rule book although each of its fields may have any value: one rule must be found for everything, and earn."""
    faults = []
    ids: set[str] = set()
    subjects: set[tuple[Source, str]] = set()
    for index, rule in enumerate(rules):
        field = f"rules[{index}]"
        if rule.rule_id in ids or rule.rule_id in (GIFT, GRANT):
            faults.append(Fault(f"{field}.rule_id", "points.rule_id_taken", "is another rule's, or one of gift and grant"))
        if (rule.source, rule.category) in subjects:
            faults.append(Fault(f"{field}.source", "points.rule_repeated", "has a rule already, for the same category"))
        if rule.category and rule.source is not Source.WASTE_DEPOSIT:
            faults.append(Fault(f"{field}.category", "points.rule_category", "is for deposits alone"))
        if max(rule.per, rule.measure_min) > MEASURES_MAX[rule.source]:
            faults.append(Fault(f"{field}.per", "points.rule_never_earns", "and measure_min must be no more than the measure can be"))
        ids.add(rule.rule_id)
        subjects.add((rule.source, rule.category))
    return faults
