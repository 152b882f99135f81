"""Decides each request in order, exactly as if one came after the other, on what was loaded. No I/O and no clock.

Accounts change in place as requests are accepted, so that the next one sees what the last one left; a refused one changes nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from ledger.transfers import AMOUNT_MAX, Expiry, Posting, Receipt, Refusal, Request, Resolution, State, StoredTransfer, Transfer


@dataclass(slots=True)
class Book:
    """An account while requests are decided. `sign` is 1 where debits make it grow, -1 where credits do; `revision` is the stored row's."""

    account_id: UUID
    community_id: UUID
    unit: str
    sign: int
    floor: int | None
    balance: int
    held: int
    version: int
    revision: int
    recorded_at: datetime
    is_closed: bool


# A row of ledger_entries: account, version, community, transfer, previous balance, balance, recorded at.
NewEntry = tuple[UUID, int, UUID, UUID, int, int, datetime]


@dataclass(slots=True)
class Decision:
    """What is to be stored: new transfers, their entries, the accounts that changed, holds that open and close."""

    transfers: dict[UUID, tuple[Request, datetime]] = field(default_factory=dict)
    # The pending transfers that new resolutions resolve, by the resolution's id.
    resolved: dict[UUID, StoredTransfer] = field(default_factory=dict)
    entries: list[NewEntry] = field(default_factory=list)
    changed: dict[UUID, Book] = field(default_factory=dict)
    opened: dict[UUID, Transfer] = field(default_factory=dict)
    closed: set[UUID] = field(default_factory=set)


class Deciding:
    """One pass over requests. `stored` are the transfers that they name, their own ids included."""

    def __init__(self, books: Mapping[UUID, Book], stored: Mapping[UUID, StoredTransfer], now: datetime) -> None:
        self.decision = Decision()
        self._books = books
        self._stored = stored
        self._now = now
        # What became of transfers, stored or new, in this pass.
        self._outcomes: dict[UUID, State] = {}
        self._reversed: set[UUID] = set()

    def decide(self, request: Request) -> Receipt | Refusal:
        """Accepts a request that `transfers.check` found well-formed, or refuses it."""
        transfer_id = request.transfer_id
        if transfer_id in self.decision.transfers or transfer_id in self._stored:
            return self._repeat(request)
        if isinstance(request, Transfer):
            return self._transfer(request)
        return self._resolve(request)

    def _transfer(self, transfer: Transfer) -> Receipt | Refusal:
        books = self._find(transfer.community_id, transfer.postings)
        if isinstance(books, Refusal):
            return books
        if transfer.reverses_id is not None:
            refusal = self._check_reversal(transfer.reverses_id, transfer.community_id)
            if refusal is not None:
                return refusal
        if transfer.pending_until is not None and transfer.pending_until <= self._now:
            return Refusal.PENDING_EXPIRED
        for posting, book in zip(transfer.postings, books, strict=True):
            change = posting.amount * book.sign
            if change < 0 and book.floor is not None and book.balance - book.held + change < book.floor:
                return Refusal.INSUFFICIENT
            if transfer.pending_until is not None:
                if change < 0 and book.held - change > AMOUNT_MAX:
                    return Refusal.OVERFLOW
            elif not -AMOUNT_MAX <= book.balance + change <= AMOUNT_MAX:
                return Refusal.OVERFLOW
        if transfer.reverses_id is not None:
            self._reversed.add(transfer.reverses_id)
        if transfer.pending_until is None:
            return self._post(transfer, transfer.postings, books)
        for posting, book in zip(transfer.postings, books, strict=True):
            self._hold(book, -posting.amount * book.sign)
        self.decision.opened[transfer.transfer_id] = transfer
        return self._record(transfer, self._recorded_at(books))

    def _resolve(self, request: Resolution | Expiry) -> Receipt | Refusal:
        pending = self._find_transfer(request.pending_id, request.community_id)
        if pending is None or pending.pending_until is None:
            return Refusal.PENDING_NOT_FOUND
        if pending.state is not State.PENDING:
            return Refusal.PENDING_EXPIRED if pending.state is State.EXPIRED else Refusal.PENDING_RESOLVED
        is_posted = isinstance(request, Resolution) and request.is_posted
        if is_posted and pending.pending_until <= self._now:
            return Refusal.PENDING_EXPIRED
        if isinstance(request, Expiry) and pending.pending_until > self._now:
            return Refusal.PENDING_NOT_FOUND  # It has not expired.
        books = [self._books[posting.account_id] for posting in pending.postings]
        if is_posted:
            for posting, book in zip(pending.postings, books, strict=True):
                if not -AMOUNT_MAX <= book.balance + posting.amount * book.sign <= AMOUNT_MAX:
                    return Refusal.OVERFLOW
        for posting, book in zip(pending.postings, books, strict=True):
            self._hold(book, posting.amount * book.sign, is_released=True)
        self._outcomes[pending.transfer_id] = outcome_of(request)
        if self.decision.opened.pop(pending.transfer_id, None) is None:
            self.decision.closed.add(pending.transfer_id)
        self.decision.resolved[request.transfer_id] = pending
        return self._post(request, pending.postings, books) if is_posted else self._record(request, self._recorded_at(books))

    def _find(self, community_id: UUID, postings: Sequence[Posting]) -> list[Book] | Refusal:
        """The open accounts of postings that balance."""
        books = []
        unit = None
        for posting in postings:
            book = self._books.get(posting.account_id)
            if book is None or book.community_id != community_id:
                return Refusal.ACCOUNT_NOT_FOUND
            if book.is_closed:
                return Refusal.ACCOUNT_CLOSED
            if unit is None:
                unit = book.unit
            elif unit != book.unit:
                unit = ""
            books.append(book)
        if unit == "":
            totals: dict[str, int] = {}
            for posting, book in zip(postings, books, strict=True):
                totals[book.unit] = totals.get(book.unit, 0) + posting.amount
            if any(totals.values()):
                return Refusal.UNBALANCED
        return books

    def _check_reversal(self, transfer_id: UUID, community_id: UUID) -> Refusal | None:
        original = self._find_transfer(transfer_id, community_id)
        if original is None:
            return Refusal.TRANSFER_NOT_FOUND
        # The transfer that posted a pending one is what moved its amounts, and what is reversed.
        if original.state is not State.POSTED or original.pending_until is not None:
            return Refusal.TRANSFER_NOT_POSTED
        if original.reversed_by_id is not None or transfer_id in self._reversed:
            return Refusal.REVERSED_ALREADY
        return None

    def _repeat(self, request: Request) -> Receipt | Refusal:
        """The receipt of a request whose id came before, if it is the same request."""
        before = self._find_transfer(request.transfer_id, request.community_id)
        if before is None or not is_same(request, before):
            return Refusal.TRANSFER_DIFFERS
        return Receipt(before.transfer_id, before.recorded_at, False)

    def _find_transfer(self, transfer_id: UUID, community_id: UUID) -> StoredTransfer | None:
        """A transfer, stored or new, as it stands now."""
        new = self.decision.transfers.get(transfer_id)
        found = self._stored.get(transfer_id) if new is None else stored_from(*new, self.decision.resolved.get(transfer_id))
        if found is None or found.community_id != community_id:
            return None
        outcome = self._outcomes.get(transfer_id)
        return found if outcome is None else replace(found, state=outcome)

    def _hold(self, book: Book, amount: int, *, is_released: bool = False) -> None:
        """Holds what a posting would take from its account, or releases it again: a posting that gives holds nothing."""
        taken = -amount if is_released else amount
        if taken > 0:
            book.held += -taken if is_released else taken
            self.decision.changed[book.account_id] = book

    def _post(self, request: Request, postings: Sequence[Posting], books: Sequence[Book]) -> Receipt:
        recorded_at = self._recorded_at(books)
        entries, changed = self.decision.entries, self.decision.changed
        for posting, book in zip(postings, books, strict=True):
            previous = book.balance
            book.balance = balance = previous + posting.amount * book.sign
            book.version += 1
            book.recorded_at = recorded_at
            account_id = book.account_id
            entries.append((account_id, book.version, request.community_id, request.transfer_id, previous, balance, recorded_at))
            changed[account_id] = book
        return self._record(request, recorded_at)

    def _recorded_at(self, books: Collection[Book]) -> datetime:
        """Now, or later where an account has a later entry: the instants of an account never go back."""
        latest = self._now
        for book in books:
            if book.recorded_at > latest:
                latest = book.recorded_at
        return latest

    def _record(self, request: Request, recorded_at: datetime) -> Receipt:
        self.decision.transfers[request.transfer_id] = (request, recorded_at)
        return Receipt(request.transfer_id, recorded_at, True)


def outcome_of(request: Resolution | Expiry) -> State:
    """What a request makes of the pending transfer that it resolves."""
    if isinstance(request, Expiry):
        return State.EXPIRED
    return State.POSTED if request.is_posted else State.VOIDED


def stored_from(request: Request, recorded_at: datetime, resolved: StoredTransfer | None) -> StoredTransfer:
    """A request that was accepted as the transfer that it became; `resolved` is the pending transfer of a resolution."""
    if isinstance(request, Transfer):
        return StoredTransfer(
            transfer_id=request.transfer_id,
            community_id=request.community_id,
            kind=request.kind,
            postings=request.postings,
            details=request.details,
            occurred_at=request.occurred_at,
            recorded_at=recorded_at,
            pending_until=request.pending_until,
            reverses_id=request.reverses_id,
            resolves_id=None,
            state=State.POSTED if request.pending_until is None else State.PENDING,
            reversed_by_id=None,
        )
    assert resolved is not None
    outcome = outcome_of(request)
    return StoredTransfer(
        transfer_id=request.transfer_id,
        community_id=request.community_id,
        kind=resolved.kind,
        postings=resolved.postings if outcome is State.POSTED else (),
        details=request.details if isinstance(request, Resolution) else {},
        occurred_at=None,
        recorded_at=recorded_at,
        pending_until=None,
        reverses_id=None,
        resolves_id=request.pending_id,
        state=outcome,
        reversed_by_id=None,
    )


def is_same(request: Request, stored: StoredTransfer) -> bool:
    """Whether a request with the id and the community of a stored transfer asks for just that. The order of postings says nothing."""
    if isinstance(request, Transfer):
        return (
            stored.resolves_id is None
            and request.kind == stored.kind
            and frozenset(request.postings) == frozenset(stored.postings)
            and dict(request.details) == dict(stored.details)
            and request.occurred_at == stored.occurred_at
            and request.pending_until == stored.pending_until
            and request.reverses_id == stored.reverses_id
        )
    details = request.details if isinstance(request, Resolution) else {}  # What expires has none.
    return request.pending_id == stored.resolves_id and outcome_of(request) is stored.state and dict(details) == dict(stored.details)
