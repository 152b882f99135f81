"""What work costs: prices, the lines of a quote, and how a quote's state goes on. Pure; money is whole fen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

# A million yuan: beyond it is a slip of the finger, not a repair.
TOTAL_MAX_FEN: Final = 100_000_000


class Unit(StrEnum):
    """What a price is for."""

    PIECE = "piece"
    METRE = "metre"
    HOUR = "hour"
    VISIT = "visit"


class QuoteState(StrEnum):
    """`REPLACED`: a newer quote took its place."""

    OPEN = "open"
    AGREED = "agreed"
    REFUSED = "refused"
    REPLACED = "replaced"


FOLLOWS: Final[Mapping[QuoteState, Sequence[QuoteState]]] = {
    QuoteState.OPEN: (QuoteState.AGREED, QuoteState.REFUSED, QuoteState.REPLACED),
    # Work that turns out to be more is quoted anew as a whole.
    QuoteState.AGREED: (QuoteState.REPLACED,),
}


@dataclass(frozen=True, slots=True)
class Price:
    """A version of a price. `price_fen` is for one unit; `labour` tells work from material."""

    code: str
    version: int
    name_zh: str
    name_en: str
    unit: Unit
    price_fen: int
    labour: bool
    in_use: bool


@dataclass(frozen=True, slots=True)
class Line:
    """So much of something, at the price that it had when it was quoted."""

    code: str
    version: int
    name_zh: str
    name_en: str
    unit: Unit
    quantity_hundredths: int
    price_fen: int
    amount_fen: int


@dataclass(frozen=True, slots=True)
class Quote:
    """What was quoted for an order. `charge_id` is there once it was charged."""

    quote_id: UUID
    order_id: UUID
    lines: Sequence[Line]
    total_fen: int
    prepaid: bool
    state: QuoteState
    quoted_by: UUID
    quoted_at: datetime
    answered_at: datetime | None = None
    charge_id: UUID | None = None


def line(price: Price, quantity_hundredths: int) -> Line:
    """The line for so many hundredths of a unit; its amount is rounded half up to a fen."""
    amount_fen = (price.price_fen * quantity_hundredths + 50) // 100
    return Line(price.code, price.version, price.name_zh, price.name_en, price.unit, quantity_hundredths, price.price_fen, amount_fen)


def total_fen(lines: Sequence[Line]) -> int:
    """What the lines add up to: each is rounded, the sum is not."""
    return sum(each.amount_fen for each in lines)
