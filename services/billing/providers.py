"""What a payment provider is to billing, shaped after WeChat Pay's APIv3 and Alipay. The adapters are beside it: `sandbox.py`.

A reference is our number for an order or a refund (out_trade_no, out_refund_no); the provider repeats, but never doubles, what carries the
same one. Every method that uses the network raises Unavailable when the provider's answer is not known, and Refused when it said no.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Protocol
from zoneinfo import ZoneInfo

from servicekit.errors import Conflict, Invalid, NotFound, Unauthenticated, Unavailable
from services.billing.payments import Outcome
from services.billing.reconciliation import Entry


class Refusal(StrEnum):
    """Why a provider said no."""

    PAID = "paid"
    CLOSED = "closed"
    # No such order or refund.
    UNKNOWN = "unknown"
    OTHER = "other"


class Refused(Exception):
    """The provider said no, and will say no again. `code` is its own word for why."""

    def __init__(self, refusal: Refusal, code: str) -> None:
        super().__init__(f"refused: {refusal} ({code})")
        self.refusal = refusal
        self.code = code


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be paid. `attachment` comes back in the reconciliation file. The provider takes nothing after `expires_at`."""

    reference: str
    amount_fen: int
    text: str
    attachment: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Taking:
    """The provider took money for an order. `transaction_id` is its own number, `taken_at` its own clock."""

    reference: str
    transaction_id: str
    amount_fen: int
    taken_at: datetime


@dataclass(frozen=True, slots=True)
class OrderStatus:
    """What the provider knows of an order. More than one taking is its mistake, and ours to give back."""

    takings: Sequence[Taking]
    closed: bool


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """What is to go back: `amount_fen` of the `taken_fen` of one taking."""

    reference: str
    order_reference: str
    transaction_id: str
    amount_fen: int
    taken_fen: int
    reason: str


@dataclass(frozen=True, slots=True)
class RefundStatus:
    """What became of a refund. `finished_at` is the provider's clock, None while it is pending."""

    reference: str
    outcome: Outcome
    amount_fen: int
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Notification:
    """What the provider reported, after its signature was verified."""

    merchant_id: str
    event: Taking | RefundStatus


class Provider(Protocol):
    """One merchant's account at one payment provider."""

    @property
    def name(self) -> str:
        """What the contract and the tables call it."""

    @property
    def merchant_id(self) -> str:
        """Whose money it is, to the provider."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the days of its reconciliation files."""

    @property
    def acknowledgement(self) -> tuple[str, bytes]:
        """The content type and body that tell it that a notification has arrived and is committed."""

    async def prepay(self, order: Order) -> str:
        """Orders and returns where the payer goes to pay; the same order again returns the same."""

    def parse_notification(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notification:
        """Verifies and reads a notification. Header names are lower case. Raises Unauthenticated for a signature that is wrong or too old,
        Invalid for a signed body that cannot be read."""

    async def query(self, reference: str) -> OrderStatus:
        """What became of an order."""

    async def close(self, reference: str) -> None:
        """Closes an order, which can then never be paid. Closing it again is fine."""

    async def refund(self, order: RefundOrder) -> RefundStatus:
        """Gives money back; the same order again returns what became of it."""

    async def query_refund(self, reference: str) -> RefundStatus:
        """What became of a refund."""

    async def reconciliation_file(self, day: date) -> Sequence[Entry]:
        """The merchant's books of one day in the provider's zone. Raises Unavailable while there is none yet."""


@dataclass(frozen=True, slots=True)
class Providers:
    """The configured providers."""

    by_name: Mapping[str, Provider]

    def named(self, name: str) -> Provider:
        """The provider of this name. Raises NotFound."""
        provider = self.by_name.get(name)
        if provider is None:
            raise NotFound("billing.provider_unknown", "不支持该支付方式", "There is no such payment provider", details={"provider": name})
        return provider


def unavailable(provider: str) -> Unavailable:
    """The provider's answer is not known."""
    return Unavailable(
        "billing.provider_unavailable",
        "支付渠道暂时不可用，请稍后再试",
        "The payment provider does not answer; please try again",
        details={"provider": provider},
        retry_after_s=2,
    )


def refused(provider: str, refusal: Refused) -> Conflict:
    """The provider said no to an order."""
    return Conflict(
        "billing.provider_refused",
        "支付渠道拒绝了该订单",
        "The payment provider refused the order",
        details={"provider": provider, "provider_code": refusal.code},
    )


def bad_signature() -> Unauthenticated:
    """A notification that the provider did not sign, or not lately."""
    return Unauthenticated("billing.notification_signature", "通知签名无效", "The notification's signature is not valid")


def malformed_notification() -> Invalid:
    """A notification that the provider signed and that says nothing we understand."""
    return Invalid("billing.notification_malformed", "通知内容无法识别", "The notification cannot be read")
