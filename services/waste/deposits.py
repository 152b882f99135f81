"""What becomes of a deposit: it counts, somebody has to look at it, or it is refused. Pure.

Whatever a bin sends is judged and kept; nothing that is wrong with it is an error.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from services.waste.bins import Bin, Category, Compartment

# No resident lifts this much. A load cell that says so is broken, or was weighed with somebody leaning on it.
ABSURD_GRAMS: Final = 200_000
# What one person brings at once: stacks of paper or a case of bottles; a full pail; a box of batteries, lamps and paint; two full bags.
# More may be true after a feast or a move, so somebody looks at it.
AT_ONCE_GRAMS: Final[Mapping[Category, int]] = {
    Category.RECYCLABLE: 40_000,
    Category.KITCHEN: 20_000,
    Category.HAZARDOUS: 10_000,
    Category.OTHER: 25_000,
}
# A Chinese city dweller makes about one kilogram a day: this is two months of it, or a family's cellar.
IN_A_DAY_GRAMS: Final = 60_000
# Within this the bin's weighing is whose who said that they stand there; and how far clocks and walking may differ.
APPROACH: Final = timedelta(minutes=3)
SLACK: Final = timedelta(seconds=30)
# A reader's clock, or a bin's without reports, may be off by this when it says that a card or a code was shown.
CLOCK_SLACK: Final = timedelta(minutes=2)
# An inspector finds what is wrong while it is in the bin, or on the truck that came for it.
CONTAMINATION: Final = timedelta(days=7)


class State(StrEnum):
    """What became of a deposit."""

    COUNTED = "counted"
    IN_REVIEW = "in_review"
    REFUSED = "refused"
    CONTAMINATED = "contaminated"


class Concern(StrEnum):
    """What is wrong with a deposit, by a name that stays."""

    NONE = ""
    WEIGHT_NOT_POSITIVE = "weight_not_positive"
    WEIGHT_ABSURD = "weight_absurd"
    WEIGHT_IMPLAUSIBLE = "weight_implausible"
    COMPARTMENT_UNKNOWN = "compartment_unknown"
    BIN_UNKNOWN = "bin_unknown"
    BIN_OUT_OF_USE = "bin_out_of_use"
    ID_REUSED = "id_reused"
    CLOCK_WRONG = "clock_wrong"
    CARD_UNKNOWN = "card_unknown"
    CODE_INVALID = "code_invalid"


@dataclass(frozen=True, slots=True)
class Depositor:
    """Whose a deposit is, or why nobody can be named; neither when nobody said anything."""

    account_id: UUID | None = None
    concern: Concern = Concern.NONE


NOBODY: Final = Depositor()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a deposit, and why."""

    state: State
    concern: Concern
    category: Category | None


def judge(
    grams: int, bin_: Bin | None, compartment: str, depositor: Depositor, *, of_the_day_grams: int, is_id_reused: bool, is_date_wrong: bool
) -> Verdict:
    """Judges a deposit. `of_the_day_grams` is what counted for its resident on the same day before it."""
    found = bin_.compartments.get(compartment) if bin_ is not None else None
    category = found.category if found is not None else None
    refusal = _refusal(grams, bin_, is_id_reused=is_id_reused)
    if refusal is not None:
        return Verdict(State.REFUSED, refusal, category)
    assert bin_ is not None
    if found is None:
        return Verdict(State.IN_REVIEW, Concern.COMPARTMENT_UNKNOWN, None)
    if not bin_.in_use:
        return Verdict(State.IN_REVIEW, Concern.BIN_OUT_OF_USE, category)
    if grams > limit_grams(found) or (depositor.account_id is not None and of_the_day_grams + grams > IN_A_DAY_GRAMS):
        return Verdict(State.IN_REVIEW, Concern.WEIGHT_IMPLAUSIBLE, category)
    return Verdict(State.COUNTED, depositor.concern or (Concern.CLOCK_WRONG if is_date_wrong else Concern.NONE), category)


def _refusal(grams: int, bin_: Bin | None, *, is_id_reused: bool) -> Concern | None:
    if is_id_reused:
        return Concern.ID_REUSED
    if bin_ is None:
        return Concern.BIN_UNKNOWN
    if grams <= 0:
        return Concern.WEIGHT_NOT_POSITIVE
    return Concern.WEIGHT_ABSURD if grams > ABSURD_GRAMS else None


def limit_grams(compartment: Compartment) -> int:
    """What a compartment takes at once without a question."""
    return min(AT_ONCE_GRAMS[compartment.category], compartment.capacity_grams)


@dataclass(frozen=True, slots=True)
class Holding:
    """When somebody held a card; `until` is None while they do."""

    account_id: UUID
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Approach:
    """Somebody said that they stand at a bin. `until` is when they said so at another one; None when they have not."""

    account_id: UUID
    at: datetime
    until: datetime | None = None


def holder(holdings: Iterable[Holding], at: datetime) -> UUID | None:
    """Whose a card was; None when it was nobody's."""
    for slack in (timedelta(), CLOCK_SLACK):
        held = [each for each in holdings if each.since <= at + slack and (each.until is None or at < each.until)]
        if held:
            return max(held, key=lambda each: each.since).account_id
    return None


def approached(approaches: Iterable[Approach], at: datetime) -> UUID | None:
    """Who stood at the bin: the last to have come before, or who came just then; None when nobody did. Nobody stands at two bins."""
    before = [each for each in approaches if each.at <= at <= each.at + APPROACH and (each.until is None or at < each.until)]
    if before:
        return max(before, key=lambda each: each.at).account_id
    soon = [each for each in approaches if at < each.at <= at + SLACK]
    return min(soon, key=lambda each: each.at).account_id if soon else None
