"""What is owed. Pure: how a charge's state looks at an instant, and whether money that came settles it."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

# A thousand million yuan: beyond it is a mistake, not a charge.
AMOUNT_MAX_FEN = 100_000_000_000


class ChargeState(StrEnum):
    """`CANCELLED` is a charge that was replaced or, seen from outside, one whose time has passed."""

    DUE = "due"
    PAID = "paid"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True)
class Charge:
    """Somebody owes `amount_fen` to the community. `state` is as stored: see `state_at`."""

    charge_id: uuid.UUID
    origin: str
    origin_id: str
    amount_fen: int
    text_zh: str
    text_en: str
    state: ChargeState
    payable_until: datetime
    raised_at: datetime
    replaces_charge_id: uuid.UUID | None

    @property
    def text(self) -> str:
        """What it is for, as people read it."""
        return self.text_zh or self.text_en

    def state_at(self, now: datetime) -> ChargeState:
        """The state as it looks from outside."""
        return ChargeState.CANCELLED if self.has_expired(now) else self.state

    def has_expired(self, now: datetime) -> bool:
        """Whether its time is over before anybody paid it."""
        return self.state is ChargeState.DUE and now >= self.payable_until

    def is_owed(self, at: datetime) -> bool:
        """Whether money settles it that was taken at this instant; money taken in time settles it however late that is known."""
        return self.state is ChargeState.DUE and at <= self.payable_until
