"""Payments and refunds. Pure: their states, and how long an order at a provider is good for."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

# An order is closed after this, and paying later takes a new one, so that open orders are few and soon settled or gone.
ORDER_VALIDITY = timedelta(minutes=30)


class PaymentState(StrEnum):
    """`RETURNED` is money that was not owed: the provider took it, and it goes back by itself."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    CLOSED = "closed"
    RETURNED = "returned"


class Outcome(StrEnum):
    """How far a refund, or a line of a provider's books, has come."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Payment:
    """One attempt of one account to pay one charge. Amounts in fen; `text` is what is paid for.

    `order_id` is the order at the provider: the payment's own id, or another payment's when the provider took money twice for its order.
    """

    payment_id: uuid.UUID
    community_id: uuid.UUID
    charge_id: uuid.UUID
    provider: str
    account_id: uuid.UUID
    order_id: uuid.UUID
    state: PaymentState
    amount_fen: int
    pay_url: str
    created_at: datetime
    expires_at: datetime
    paid_at: datetime | None
    provider_payment_id: str | None
    refunded_fen: int
    text: str

    @property
    def reference(self) -> str:
        """The order as the provider knows it: 32 characters, which is what providers allow."""
        return self.order_id.hex


@dataclass(frozen=True, slots=True)
class Refund:
    """Money of one payment on its way back, in fen."""

    refund_id: uuid.UUID
    payment_id: uuid.UUID
    amount_fen: int
    reason: str
    state: Outcome
    created_at: datetime

    @property
    def reference(self) -> str:
        """The refund as the provider knows it."""
        return self.refund_id.hex


@dataclass(frozen=True, slots=True)
class DueRefund:
    """A refund that the provider must be asked about, with what it is a refund of."""

    refund: Refund
    community_id: uuid.UUID
    payment: Payment
    # How often the provider was asked before.
    attempts: int


def order_expiry(now: datetime, payable_until: datetime) -> datetime:
    """Until when an order made now is good."""
    return min(payable_until, now + ORDER_VALIDITY)


def yuan(fen: int) -> str:
    """An amount as people read it: 1250 fen is `12.50`."""
    return f"{fen // 100}.{fen % 100:02}"
