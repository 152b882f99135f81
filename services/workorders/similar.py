"""Whether two reports may be about the same thing: how alike they are in place, category, time and words. Pure."""

import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final
from uuid import UUID

# Reports that lie further apart are about two leaks, not one.
WITHIN: Final = timedelta(days=3)
# Less alike than this is not worth a dispatcher's look.
LIKENESS_MIN: Final = 500
# Thousandths that each can add.
_CATEGORY: Final = 300
_KIN: Final = 150
_HOUSEHOLD: Final = 250
_BUILDING: Final = 200
_GROUNDS: Final = 150
_PLACE: Final = 50
_TIME: Final = 200
_WORDS: Final = 200
# What a report says in more letters it has said in these.
_LENGTH_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Report:
    """What is compared. `category` is a code such as "water.leak"; a report on the grounds has no building."""

    order_id: UUID
    category: str
    building_id: UUID | None
    household_id: UUID | None
    place: str
    words: str
    reported_at: datetime


def likeness(one: Report, other: Report) -> int:
    """How alike two reports are, in thousandths; 0 when they are in two buildings or too far apart in time."""
    apart = abs(one.reported_at - other.reported_at)
    if one.building_id != other.building_id or apart > WITHIN:
        return 0
    if one.household_id is not None and one.household_id == other.household_id:
        place = _HOUSEHOLD
    else:
        place = _GROUNDS if one.building_id is None else _BUILDING
    return (
        _likeness_of_categories(one.category, other.category)
        + place
        + _PLACE * _dice_permille(one.place, other.place) // 1000
        + _TIME * ((WITHIN - apart) // timedelta(seconds=1)) // (WITHIN // timedelta(seconds=1))
        + _WORDS * _dice_permille(one.words, other.words) // 1000
    )


def _likeness_of_categories(one: str, other: str) -> int:
    if one == other:
        return _CATEGORY
    return _KIN if one.partition(".")[0] == other.partition(".")[0] else 0


def _dice_permille(one: str, other: str) -> int:
    """Dice's coefficient of the pairs of letters: Chinese has no blanks between its words, and needs none here."""
    first, second = _pairs(one), _pairs(other)
    together = len(first) + len(second)
    return 2000 * len(first & second) // together if together else 0


def _pairs(text: str) -> set[str]:
    letters = [letter for letter in unicodedata.normalize("NFKC", text[:_LENGTH_MAX]).casefold() if letter.isalnum()]
    return {first + second for first, second in pairwise(letters)}
