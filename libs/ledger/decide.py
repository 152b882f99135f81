"""Decides each request in order, exactly as if one came after the other, on what was loaded. No I/O and no clock.

Accounts change in place as requests are accepted, so that the next one sees what the last one left; a refused one changes nothing.
"""

from collections.abc import Mapping, Sequence
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
    is_changed: bool = False


# An accepted request, how many postings it has stored, and of a resolution the pending transfer that it resolves.
NewTransfer = tuple[Request, int, StoredTransfer | None]
# Account, amount, and where it is posted the version, the previous balance and the balance of its entry.
NewPosting = tuple[UUID, int, int | None, int | None, int | None]


@dataclass(slots=True)
class Decision:
    """What is to be stored: new transfers with their postings, the accounts that changed, holds that open and close."""

    recorded_at: datetime
    transfers: list[NewTransfer] = field(default_factory=list)
    postings: list[NewPosting] = field(default_factory=list)
    changed: list[Book] = field(default_factory=list)
    opened: dict[UUID, Transfer] = field(default_factory=dict)
    closed: list[UUID] = field(default_factory=list)


class Deciding:
    """One pass over requests. `books` are the accounts that they touch, by their ids' integers: a UUID takes long to hash. `stored` are the
    transfers that they name, their own ids included. All that is accepted is recorded at `recorded_at`, now or later.
    """

    def __init__(self, books: Mapping[int, Book], stored: Mapping[UUID, StoredTransfer], now: datetime, recorded_at: datetime) -> None:
        self._books = books
        self._stored = stored
        self._now = now
        self._recorded_at = recorded_at
        self._new: dict[UUID, NewTransfer] = {}
        # What became in this pass of pending transfers, stored or new, and which transfers it reversed.
        self._outcomes: dict[UUID, State] = {}
        self._reversed: set[UUID] = set()
        self._decision = Decision(recorded_at)

    def take(self) -> Decision:
        """What was decided since the last time, which the caller now stores."""
        decision, self._decision = self._decision, Decision(self._recorded_at)
        for book in decision.changed:
            book.is_changed = False
        return decision

    def decide(self, request: Request) -> Receipt | Refusal:
        """Accepts a request that `transfers.check` found well-formed, or refuses it."""
        transfer_id = request.transfer_id
        if transfer_id in self._new or transfer_id in self._stored:
            return self._repeat(request)
        if isinstance(request, Transfer):
            return self._transfer(request)
        return self._resolve(request)

    def _transfer(self, transfer: Transfer) -> Receipt | Refusal:
        postings, is_pending = transfer.postings, transfer.pending_until is not None
        books = self._find(transfer.community_id, postings)
        if isinstance(books, Refusal):
            return books
        if is_pending and transfer.pending_until <= self._now:  # type: ignore[operator]
            return Refusal.PENDING_EXPIRED
        if transfer.reverses_id is not None:
            refusal = self._check_reversal(transfer.reverses_id, transfer.community_id)
            if refusal is not None:
                return refusal
        for posting, book in zip(postings, books, strict=True):
            change = posting.amount * book.sign
            if change < 0 and book.floor is not None and book.balance - book.held + change < book.floor:
                return Refusal.INSUFFICIENT
            if (change < 0 and book.held - change > AMOUNT_MAX) if is_pending else not -AMOUNT_MAX <= book.balance + change <= AMOUNT_MAX:
                return Refusal.OVERFLOW
        if transfer.reverses_id is not None:
            self._reversed.add(transfer.reverses_id)
        if is_pending:
            for posting, book in zip(postings, books, strict=True):
                self._hold(book, -posting.amount * book.sign)
                self._decision.postings.append((book.account_id, posting.amount, None, None, None))
            self._decision.opened[transfer.transfer_id] = transfer
        else:
            self._post(postings, books)
        return self._record(transfer, len(postings), None)

    def _resolve(self, request: Resolution | Expiry) -> Receipt | Refusal:
        pending = self.find(request.pending_id, request.community_id)
        if pending is None or pending.pending_until is None:
            return Refusal.PENDING_NOT_FOUND
        if pending.state is not State.PENDING:
            return Refusal.PENDING_EXPIRED if pending.state is State.EXPIRED else Refusal.PENDING_RESOLVED
        is_posted = isinstance(request, Resolution) and request.is_posted
        if is_posted and pending.pending_until <= self._now:
            return Refusal.PENDING_EXPIRED
        if isinstance(request, Expiry) and pending.pending_until > self._now:
            return Refusal.PENDING_NOT_FOUND  # It has not expired.
        books = [self._books[posting.account_id.int] for posting in pending.postings]
        if is_posted:
            for posting, book in zip(pending.postings, books, strict=True):
                if not -AMOUNT_MAX <= book.balance + posting.amount * book.sign <= AMOUNT_MAX:
                    return Refusal.OVERFLOW
        for posting, book in zip(pending.postings, books, strict=True):
            self._release(book, -posting.amount * book.sign)
        self._outcomes[pending.transfer_id] = outcome_of(request)
        if self._decision.opened.pop(pending.transfer_id, None) is None:
            self._decision.closed.append(pending.transfer_id)
        if is_posted:
            self._post(pending.postings, books)
        return self._record(request, len(books) if is_posted else 0, pending)

    def _find(self, community_id: UUID, postings: Sequence[Posting]) -> list[Book] | Refusal:
        """The open accounts of postings that balance."""
        books = []
        unit = None
        for posting in postings:
            book = self._books.get(posting.account_id.int)
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
        original = self.find(transfer_id, community_id)
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
        before = self.find(request.transfer_id, request.community_id)
        if before is None or not is_same(request, before):
            return Refusal.TRANSFER_DIFFERS
        return Receipt(before.transfer_id, before.recorded_at, False)

    def find(self, transfer_id: UUID, community_id: UUID) -> StoredTransfer | None:
        """A transfer, stored or new, as it stands now."""
        new = self._new.get(transfer_id)
        found = self._stored.get(transfer_id) if new is None else stored_from(new, self._recorded_at)
        if found is None or found.community_id != community_id:
            return None
        outcome = self._outcomes.get(transfer_id)
        return found if outcome is None else replace(found, state=outcome)

    def _hold(self, book: Book, taken: int) -> None:
        """Holds what a posting would take from its account; one that would give holds nothing."""
        if taken > 0:
            book.held += taken
            self._mark(book)

    def _release(self, book: Book, taken: int) -> None:
        if taken > 0:
            book.held -= taken
            self._mark(book)

    def _post(self, postings: Sequence[Posting], books: Sequence[Book]) -> None:
        rows = self._decision.postings
        for posting, book in zip(postings, books, strict=True):
            amount, previous = posting.amount, book.balance
            book.balance = balance = previous + amount * book.sign
            book.version += 1
            rows.append((book.account_id, amount, book.version, previous, balance))
            self._mark(book)

    def _mark(self, book: Book) -> None:
        if not book.is_changed:
            book.is_changed = True
            book.recorded_at = self._recorded_at
            self._decision.changed.append(book)

    def _record(self, request: Request, postings: int, resolved: StoredTransfer | None) -> Receipt:
        self._new[request.transfer_id] = new = (request, postings, resolved)
        self._decision.transfers.append(new)
        return Receipt(request.transfer_id, self._recorded_at, True)


def outcome_of(request: Resolution | Expiry) -> State:
    """What a request makes of the pending transfer that it resolves."""
    if isinstance(request, Expiry):
        return State.EXPIRED
    return State.POSTED if request.is_posted else State.VOIDED


def stored_from(new: NewTransfer, recorded_at: datetime) -> StoredTransfer:
    """The transfer that an accepted request became."""
    request, _, resolved = new
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
