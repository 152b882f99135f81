"""The adapter of the sandbox provider, whose protocol `infra/sandbox_provider/__init__.py` describes.

It shows how adapters are written: nothing outside of this file knows a path, a header or a state of the provider.
"""

import csv
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Final, TypeVar
from urllib.parse import quote
from zoneinfo import ZoneInfo

import httpx
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from servicekit.clock import Clock
from servicekit.config import SettingsError
from servicekit.database import forbid_in_transaction
from services.billing.payments import Outcome
from services.billing.providers import (
    Notification,
    Order,
    OrderStatus,
    RefundOrder,
    RefundStatus,
    Refusal,
    Refused,
    Taking,
    bad_signature,
    malformed_notification,
    unavailable,
)
from services.billing.reconciliation import Entry, EntryKind

T = TypeVar("T")
NAME: Final = "sandbox"
# A message whose timestamp is further away is refused: somebody may have recorded it.
_SIGNATURE_AGE_S = 300
_TIMEOUT_S = 5.0
_TEXT_LENGTH_MAX = 127
_REFUSALS = {
    "ORDER_PAID": Refusal.PAID,
    "ORDER_CLOSED": Refusal.CLOSED,
    "ORDER_NOT_EXIST": Refusal.UNKNOWN,
    "REFUND_NOT_EXIST": Refusal.UNKNOWN,
}
_OUTCOMES = {"PROCESSING": Outcome.PENDING, "SUCCESS": Outcome.SUCCEEDED, "ABNORMAL": Outcome.FAILED}
_BILL_HEADER = ["kind", "merchant_id", "reference", "transaction_id", "amount_fen", "state", "time", "attach"]

_Fen = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_NUMBER = r"\A[!-~]{1,64}\Z"
_Number = Annotated[str, msgspec.Meta(pattern=_NUMBER)]
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class _Prepaid(msgspec.Struct):
    pay_url: str


class _Transaction(msgspec.Struct):
    transaction_id: _Number
    amount_fen: _Fen
    success_time: _Instant


class _OrderState(msgspec.Struct):
    trade_state: str
    transactions: list[_Transaction]


class _RefundState(msgspec.Struct):
    out_refund_no: _Number
    state: str
    amount_fen: _Fen
    success_time: _Instant | None = None


class _PaymentResource(msgspec.Struct):
    merchant_id: _Number
    out_trade_no: _Number
    transaction_id: _Number
    amount_fen: _Fen
    success_time: _Instant


class _RefundResource(msgspec.Struct):
    merchant_id: _Number
    out_refund_no: _Number
    state: str
    amount_fen: _Fen
    success_time: _Instant | None = None


class _Event(msgspec.Struct):
    event_type: str
    resource: msgspec.Raw


class _Failure(msgspec.Struct):
    code: str = ""


def keys(text: str, setting: str) -> dict[str, bytes]:
    """Raw Ed25519 keys by their ids, from `id:base64,id:base64`. Raises SettingsError, which names the setting."""
    found = {}
    for part in filter(None, text.split(",")):
        key_id, _, encoded = part.strip().partition(":")
        try:
            key = b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if not key_id or len(key) != 32:
            raise SettingsError(f"{setting} is wrong: expected id:key, each key 32 bytes in base64, separated by commas")
        found[key_id] = key
    if not found:
        raise SettingsError(f"{setting} is not set")
    return found


def only_key(text: str, setting: str) -> tuple[str, bytes]:
    """The one key of a setting that holds one, with its id. Raises SettingsError."""
    found = list(keys(text, setting).items())
    if len(found) > 1:
        raise SettingsError(f"{setting} is wrong: expected one key")
    return found[0]


class Sandbox:
    """One merchant at the sandbox provider. `merchant_key` signs our requests, the provider's keys verify what comes from it."""

    name = NAME
    zone = ZoneInfo("Asia/Shanghai")
    acknowledgement = ("application/json", b'{"code":"SUCCESS"}')

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        *,
        merchant_id: str,
        merchant_key: tuple[str, bytes],
        provider_keys: Mapping[str, bytes],
        notify_url: str,
        clock: Clock,
    ) -> None:
        self.merchant_id = merchant_id
        self._client = client
        self._url = url.rstrip("/")
        self._key_id = merchant_key[0]
        self._key = Ed25519PrivateKey.from_private_bytes(merchant_key[1])
        self._provider_keys = {key_id: Ed25519PublicKey.from_public_bytes(key) for key_id, key in provider_keys.items()}
        self._notify_url = notify_url
        self._clock = clock

    async def prepay(self, order: Order) -> str:
        """Orders, and returns the page where the payer pays."""
        content = {
            "out_trade_no": order.reference,
            "amount_fen": order.amount_fen,
            "description": order.text[:_TEXT_LENGTH_MAX],
            "attach": order.attachment,
            "time_expire": order.expires_at,
            "notify_url": self._notify_url,
        }
        return self._read(await self._call("POST", "/v3/orders", content), _Prepaid).pay_url

    async def query(self, reference: str) -> OrderStatus:
        """What became of an order."""
        state = self._read(await self._call("GET", f"/v3/orders/{quote(reference, safe='')}"), _OrderState)
        takings = [Taking(reference, t.transaction_id, t.amount_fen, t.success_time) for t in state.transactions]
        return OrderStatus(takings, closed=state.trade_state == "CLOSED")

    async def close(self, reference: str) -> None:
        """Closes an order."""
        await self._call("POST", f"/v3/orders/{quote(reference, safe='')}/close", {})

    async def refund(self, order: RefundOrder) -> RefundStatus:
        """Gives money back."""
        content = {
            "out_refund_no": order.reference,
            "out_trade_no": order.order_reference,
            "transaction_id": order.transaction_id,
            "amount_fen": order.amount_fen,
            "total_fen": order.taken_fen,
            "reason": order.reason,
            "notify_url": self._notify_url,
        }
        return self._refund_status(self._read(await self._call("POST", "/v3/refunds", content), _RefundState))

    async def query_refund(self, reference: str) -> RefundStatus:
        """What became of a refund."""
        return self._refund_status(self._read(await self._call("GET", f"/v3/refunds/{quote(reference, safe='')}"), _RefundState))

    async def reconciliation_file(self, day: date) -> Sequence[Entry]:
        """The books of one day. A file that is cut short is no file yet."""
        lines = list(csv.reader((await self._call("GET", f"/v3/bills/{day.isoformat()}")).decode().splitlines()))
        if len(lines) < 2 or lines[0] != _BILL_HEADER or lines[-1] != ["total", str(len(lines) - 2)]:
            raise unavailable(NAME)
        try:
            return [self._entry(line) for line in lines[1:-1]]
        except (ValueError, KeyError):
            raise unavailable(NAME) from None

    def _entry(self, line: list[str]) -> Entry:
        kind, _, reference, transaction_id, amount, state, at, attachment = line
        if not (re.match(_NUMBER, reference) and re.match(_NUMBER, transaction_id)):
            raise ValueError(line)
        return Entry(
            EntryKind(kind),
            reference,
            transaction_id,
            int(amount),
            _OUTCOMES[state],
            datetime.fromisoformat(at).astimezone(UTC),
            attachment,
        )

    def parse_notification(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Notification:
        """Verifies and reads a notification."""
        if not self._is_signed(headers, body, now):
            raise bad_signature()
        try:
            event = msgspec.json.decode(body, type=_Event)
            if event.event_type.startswith("REFUND."):
                refund = msgspec.json.decode(event.resource, type=_RefundResource)
                status = RefundStatus(refund.out_refund_no, _OUTCOMES[refund.state], refund.amount_fen, refund.success_time)
                return Notification(refund.merchant_id, status)
            paid = msgspec.json.decode(event.resource, type=_PaymentResource)
            taking = Taking(paid.out_trade_no, paid.transaction_id, paid.amount_fen, paid.success_time.astimezone(UTC))
            return Notification(paid.merchant_id, taking)
        except (msgspec.DecodeError, ValueError, KeyError, OverflowError):
            raise malformed_notification() from None

    def _is_signed(self, headers: Mapping[str, str], body: bytes, now: datetime) -> bool:
        key = self._provider_keys.get(headers.get("sandbox-serial", ""))
        timestamp, nonce = headers.get("sandbox-timestamp", ""), headers.get("sandbox-nonce", "")
        try:
            if key is None or abs(now.timestamp() - int(timestamp)) > _SIGNATURE_AGE_S:
                return False
            signature = b64decode(headers.get("sandbox-signature", ""), validate=True)
            key.verify(signature, f"{timestamp}\n{nonce}\n".encode() + body + b"\n")
        except (ValueError, InvalidSignature, OverflowError):
            return False
        return True

    async def _call(self, method: str, path: str, content: object = None) -> bytes:
        """The body of the provider's answer, verified. Raises Refused for a definite no, and Unavailable for everything else."""
        forbid_in_transaction("a call to a payment provider")
        body = b"" if content is None else msgspec.json.encode(content)
        timestamp, nonce = str(int(self._clock().timestamp())), secrets.token_hex(16)
        signature = self._key.sign(f"{method}\n{path}\n{timestamp}\n{nonce}\n".encode() + body + b"\n")
        headers = {
            "content-type": "application/json",
            "sandbox-merchant": self.merchant_id,
            "sandbox-serial": self._key_id,
            "sandbox-timestamp": timestamp,
            "sandbox-nonce": nonce,
            "sandbox-signature": b64encode(signature).decode(),
        }
        try:
            response = await self._client.request(method, self._url + path, content=body, headers=headers, timeout=_TIMEOUT_S)
        except httpx.HTTPError:
            raise unavailable(NAME) from None
        if not self._is_signed(response.headers, response.content, self._clock()):
            raise unavailable(NAME)
        if response.is_success:
            return response.content
        if response.status_code in (400, 404, 409):
            code = self._read(response.content, _Failure).code
            raise Refused(_REFUSALS.get(code, Refusal.OTHER), code)
        # Its own failure, or it does not take our signature: neither says anything about the order.
        raise unavailable(NAME)

    def _read(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError:
            raise unavailable(NAME) from None

    def _refund_status(self, state: _RefundState) -> RefundStatus:
        outcome = _OUTCOMES.get(state.state)
        if outcome is None:
            raise unavailable(NAME)
        return RefundStatus(state.out_refund_no, outcome, state.amount_fen, state.success_time)
