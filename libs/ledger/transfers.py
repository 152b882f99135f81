"""What a ledger is made of: accounts, postings, transfers, and what is wrong with a transfer whatever the accounts are.

No I/O and no clock; what the state of the accounts allows is decided in `decide.py`. Amounts are whole units of the account's `unit`, such
as points or fen, and fit a signed integer of 64 bits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

AMOUNT_MAX: Final = 2**63 - 1
POSTINGS_MAX: Final = 100
DETAILS_MAX: Final = 32
_DETAIL_LENGTH_MAX = 1000
_KIND = re.compile(r"[a-z0-9][a-z0-9_.\-]{0,63}")
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,31}")
# What PostgreSQL has no place for in a text: NUL, and halves of surrogate pairs.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
Details = Mapping[str, str | int]


class Side(StrEnum):
    """The side on which an account grows: what one owns by debits, what one owes by credits."""

    DEBIT = "debit"
    CREDIT = "credit"


class State(StrEnum):
    """What has become of a transfer. Only what is posted changes balances."""

    POSTED = "posted"
    PENDING = "pending"
    VOIDED = "voided"
    EXPIRED = "expired"


class Refusal(StrEnum):
    """Why a request changed nothing. Each is the code of an error in `refusals.py`."""

    UNBALANCED = "ledger.unbalanced"
    OVERFLOW = "ledger.overflow"
    ZERO_AMOUNT = "ledger.zero_amount"
    ACCOUNT_NAMED_TWICE = "ledger.account_named_twice"
    NO_POSTINGS = "ledger.no_postings"
    TOO_MANY_POSTINGS = "ledger.too_many_postings"
    DETAILS = "ledger.details"
    REVERSAL_PENDING = "ledger.reversal_pending"
    ACCOUNT_NOT_FOUND = "ledger.account_not_found"
    PENDING_NOT_FOUND = "ledger.pending_not_found"
    TRANSFER_NOT_FOUND = "ledger.transfer_not_found"
    INSUFFICIENT = "ledger.insufficient"
    ACCOUNT_CLOSED = "ledger.account_closed"
    ACCOUNT_NOT_EMPTY = "ledger.account_not_empty"
    ACCOUNT_DIFFERS = "ledger.account_differs"
    ACCOUNT_INVALID = "ledger.account_invalid"
    TRANSFER_DIFFERS = "ledger.transfer_differs"
    TRANSFER_NOT_POSTED = "ledger.transfer_not_posted"
    PENDING_RESOLVED = "ledger.pending_resolved"
    PENDING_EXPIRED = "ledger.pending_expired"
    REVERSED_ALREADY = "ledger.reversed_already"
    STATEMENT_TOO_LONG = "ledger.statement_too_long"


@dataclass(frozen=True, slots=True)
class Account:
    """An account as it is opened. `floor`, 0 or less, is what its balance less what is held never goes below."""

    account_id: UUID
    community_id: UUID
    unit: str
    side: Side
    floor: int | None = None


@dataclass(frozen=True, slots=True)
class Posting:
    """One side of a transfer: debits are positive, credits negative."""

    account_id: UUID
    amount: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """Moves amounts between accounts of one community. Its postings sum to zero in each unit and name no account twice.

    With `pending_until` it moves nothing yet, but holds what it would take until a Resolution posts or voids it, or that instant has come.
    `reverses_id` names a posted transfer that this one corrects, in whole or in part; each is corrected so at most once, and
    never by a pending one. `kind` and
    `details` are the caller's, kept and handed back. Without `occurred_at` it happened when it was recorded.
    """

    transfer_id: UUID
    community_id: UUID
    kind: str
    postings: tuple[Posting, ...]
    details: Details = field(default_factory=dict)
    occurred_at: datetime | None = None
    pending_until: datetime | None = None
    reverses_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """Posts or voids a pending transfer, as a transfer of its own."""

    transfer_id: UUID
    community_id: UUID
    pending_id: UUID
    is_posted: bool
    details: Details = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expiry:
    """Voids a pending transfer because its time has passed."""

    transfer_id: UUID
    community_id: UUID
    pending_id: UUID


Request = Transfer | Resolution | Expiry


@dataclass(frozen=True, slots=True)
class Receipt:
    """A request was applied: now, or where `is_new` is false when it came before."""

    transfer_id: UUID
    recorded_at: datetime
    is_new: bool


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds in its normal side, what of it is held for pending transfers, and how many entries made it."""

    balance: int
    held: int
    version: int

    @property
    def available(self) -> int:
        """What is not held."""
        return self.balance - self.held


@dataclass(frozen=True, slots=True)
class StoredTransfer:
    """A transfer as the ledger keeps it. `occurred_at` is None where the caller gave none.

    One that resolves a pending transfer names it in `resolves_id`, says in `state` what became of it, and has postings only when it posts.
    """

    transfer_id: UUID
    community_id: UUID
    kind: str
    postings: tuple[Posting, ...]
    details: Details
    occurred_at: datetime | None
    recorded_at: datetime
    pending_until: datetime | None
    reverses_id: UUID | None
    resolves_id: UUID | None
    state: State
    reversed_by_id: UUID | None


def check(request: Request) -> Refusal | None:
    """What is wrong with a request whatever the accounts are. That units balance needs the accounts: `decide.py`."""
    if isinstance(request, Transfer):
        if not _KIND.fullmatch(request.kind):
            return Refusal.DETAILS
        if request.reverses_id is not None and request.pending_until is not None:
            return Refusal.REVERSAL_PENDING
        refusal = _check_postings(request.postings)
        if refusal is not None:
            return refusal
    if isinstance(request, Expiry) or not request.details:
        return None
    return _check_details(request.details)


def _check_postings(postings: tuple[Posting, ...]) -> Refusal | None:
    if len(postings) > POSTINGS_MAX:
        return Refusal.TOO_MANY_POSTINGS
    if not postings:
        return Refusal.NO_POSTINGS
    total = 0
    for posting in postings:
        amount = posting.amount
        if not -AMOUNT_MAX <= amount <= AMOUNT_MAX:
            return Refusal.OVERFLOW
        if amount == 0:
            return Refusal.ZERO_AMOUNT
        total += amount
    if total:  # Whatever the units are, amounts that sum to zero in each sum to zero.
        return Refusal.UNBALANCED
    if len(postings) == 2:
        is_named_twice = postings[0].account_id == postings[1].account_id
    else:
        is_named_twice = len({posting.account_id for posting in postings}) < len(postings)
    return Refusal.ACCOUNT_NAMED_TWICE if is_named_twice else None


def _check_details(details: Details) -> Refusal | None:
    if len(details) > DETAILS_MAX:
        return Refusal.DETAILS
    for key, value in details.items():
        if len(key) > _DETAIL_LENGTH_MAX or _UNSTORABLE.search(key):
            return Refusal.DETAILS
        if isinstance(value, str):
            if len(value) > _DETAIL_LENGTH_MAX or _UNSTORABLE.search(value):
                return Refusal.DETAILS
        elif not -AMOUNT_MAX <= value <= AMOUNT_MAX:
            return Refusal.DETAILS
    return None


def check_account(account: Account) -> Refusal | None:
    """What is wrong with an account that is to be opened."""
    if not _UNIT.fullmatch(account.unit) or not (account.floor is None or -AMOUNT_MAX <= account.floor <= 0):
        return Refusal.ACCOUNT_INVALID
    return None
