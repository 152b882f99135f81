"""The turn: who has it writes alone to the accounts of the communities in its shards, until its transaction ends."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from ledger import reading_store, store
from ledger.decide import Book, Deciding
from ledger.refusals import error_of
from ledger.transfers import (
    Account,
    Balance,
    Expiry,
    Receipt,
    Refusal,
    Request,
    Side,
    State,
    StoredTransfer,
    Transfer,
    check,
    check_account,
)
from servicekit.database import PLATFORM, Transaction
from servicekit.errors import ServiceError
from servicekit.identifiers import derived_id

EXPIRED_AT_ONCE: Final = 1000
# How many requests are written at once, while the next ones are decided.
STEP: Final = 128
# How many accounts a writer remembers, a kilobyte each, before it begins anew.
REMEMBERED_MAX: Final = 100_000


def shard_of(community_id: UUID, shards: int) -> int:
    """The shard that a community's accounts are in. A community's ids are random at their end, so communities spread evenly."""
    return community_id.int % shards


class Memory:
    """What one writer knows of accounts, from one turn to the next. Whoever fails in a turn forgets it all."""

    def __init__(self) -> None:
        self.books: dict[int, Book] = {}
        self._latest: datetime | None = None
        self._numbers: dict[UUID, int] = {}

    def recall(self, numbers: Mapping[UUID, int]) -> None:
        """Keeps only what still holds in a turn with these numbers: the accounts of communities where nobody else has had a turn since."""
        stale = {community_id for community_id, number in numbers.items() if self._numbers.get(community_id) != number - 1}
        if len(self.books) > REMEMBERED_MAX:
            self.forget()
        elif stale and self.books:
            self.books = {key: book for key, book in self.books.items() if book.community_id not in stale}
        self._numbers.update(numbers)

    def see(self, instant: datetime) -> datetime:
        """Takes notice of an instant at which an account was changed or is going to be; returns the latest of all."""
        if self._latest is None or instant > self._latest:
            self._latest = instant
        return self._latest

    def forget(self) -> None:
        """Everything."""
        self.books.clear()
        self._numbers.clear()


class Turn:
    """One transaction's turn, see `take_turn`. Not for two tasks at once."""

    def __init__(self, tx: Transaction, community_ids: Collection[UUID], memory: Memory) -> None:
        self.tx = tx
        self._community_ids = community_ids
        # What was loaded, as it is after all that was applied: nobody else changes it.
        self._memory = memory
        self._books = memory.books

    async def open_accounts(self, accounts: Sequence[Account]) -> None:
        """Opens accounts; one that is open already stays as it is.

        Raises Invalid `ledger.account_invalid`, and Conflict `ledger.account_differs` when one exists with other content, closed or not.
        """
        for account in accounts:
            self._require(account.community_id)
            refusal = check_account(account)
            if refusal is not None:
                raise error_of(refusal)
        ids = [account.account_id for account in accounts]
        await self._load(ids)
        if not all(account_id.int in self._books for account_id in ids):
            await store.insert_accounts(self.tx, accounts)
            await self._load(ids)
        for account in accounts:
            book = self._find(account.account_id)
            if book is None or not _is_same_account(account, book):
                raise error_of(Refusal.ACCOUNT_DIFFERS)

    async def balances(self, account_ids: Collection[UUID]) -> dict[UUID, Balance]:
        """The balances of those accounts that exist, in this turn's communities."""
        await self._load(account_ids)
        books = [book for account_id in account_ids if (book := self._find(account_id)) is not None]
        return {book.account_id: Balance(book.balance, book.held, book.version) for book in books}

    async def apply(self, requests: Sequence[Request]) -> list[Receipt | ServiceError]:
        """Decides each request on its own, in order, and stores what it accepts. Answers stand in the order of the requests.

        A refused request changes nothing and is not remembered: the same id may come again. What was applied before is answered again, with
        `is_new` false. Raises TurnLost, one of GIVE_WAY, when somebody wrote without the turn.
        """
        refusals = [check(request) for request in requests]
        stored = await self._load_for([request for request, refusal in zip(requests, refusals, strict=True) if refusal is None])
        deciding = Deciding(self._books, stored, self.tx.now, self._memory.see(self.tx.now))
        answers: list[Receipt | ServiceError] = []
        writing: asyncio.Task[None] | None = None
        try:
            for first in range(0, len(requests), STEP):
                for place in range(first, min(first + STEP, len(requests))):
                    answer = refusals[place] or deciding.decide(requests[place])
                    answers.append(answer if isinstance(answer, Receipt) else error_of(answer))
                decision = deciding.take()
                if decision.transfers:
                    prepared = store.prepare_write(decision)
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(self._write(prepared))
                    await asyncio.sleep(0)  # It is on its way to PostgreSQL while the next ones are decided.
        finally:
            if writing is not None:
                await writing
        return answers

    async def close_account(self, account_id: UUID) -> None:
        """Closes an account for good; closing it again changes nothing.

        Raises NotFound `ledger.account_not_found`, and Conflict `ledger.account_not_empty` unless its balance is zero and no open pending
        transfer names it.
        """
        await self._load([account_id])
        book = self._find(account_id)
        if book is None:
            raise error_of(Refusal.ACCOUNT_NOT_FOUND)
        if book.is_closed:
            return
        if book.balance or await store.has_holds(self.tx, account_id):
            raise error_of(Refusal.ACCOUNT_NOT_EMPTY)
        await store.close_account(self.tx, account_id)
        book.is_closed = True
        book.revision += 1

    def _find(self, account_id: UUID) -> Book | None:
        """A loaded account of this turn's communities: a writer's memory holds others, which may have changed since."""
        book = self._books.get(account_id.int)
        return book if book is not None and book.community_id in self._community_ids else None

    async def _load(self, account_ids: Iterable[UUID]) -> None:
        missing = {account_id for account_id in account_ids if account_id.int not in self._books}
        if missing:
            for book in await store.select_books(self.tx, missing):
                # Of another community's accounts nothing is known for sure, and nothing may be told.
                if book.community_id in self._community_ids:
                    self._books[book.account_id.int] = book
                    self._memory.see(book.recorded_at)

    async def _load_for(self, requests: Sequence[Request]) -> dict[UUID, StoredTransfer]:
        """Loads the accounts that requests touch, and returns the stored transfers that they name."""
        transfer_ids: list[UUID] = []
        account_ids: list[UUID] = []
        for request in requests:
            self._require(request.community_id)
            transfer_ids.append(request.transfer_id)
            if isinstance(request, Transfer):
                for posting in request.postings:
                    account_ids.append(posting.account_id)
                if request.reverses_id is not None:
                    transfer_ids.append(request.reverses_id)
            else:
                transfer_ids.append(request.pending_id)
        stored = await store.select_transfers(self.tx, transfer_ids) if transfer_ids else {}
        for transfer in stored.values():
            if transfer.state is State.PENDING:
                account_ids += [posting.account_id for posting in transfer.postings]
        await self._load(account_ids)
        return stored

    async def _write(self, prepared: store.Write) -> None:
        try:
            await store.write(self.tx, prepared)
        except asyncpg.UniqueViolationError as error:
            if self.tx.scope != PLATFORM and error.constraint_name == "ledger_transfers_pkey":
                # Another community's transfer, which this transaction cannot see.
                raise error_of(Refusal.TRANSFER_DIFFERS) from error
            raise store.TurnLost("somebody wrote to the ledger without its turn") from error

    def _require(self, community_id: UUID) -> None:
        if community_id not in self._community_ids:
            raise ValueError("the turn does not cover this community")


async def take_turn(tx: Transaction, community_ids: Iterable[UUID], *, shards: int = 1, memory: Memory | None = None) -> Turn:
    """Waits for the turn of the shards that these communities are in; it ends with the transaction.

    `shards` is one number for all who write to the same ledger. Take all the turns that a transaction needs at once, and before anything
    is locked that somebody in his turn may wait for. `memory` is that of a writer.
    """
    communities = frozenset(community_ids)
    numbers = await store.take_turn(tx, {shard_of(community_id, shards) for community_id in communities}, communities)
    memory = memory or Memory()
    memory.recall(numbers)
    return Turn(tx, communities, memory)


def _is_same_account(account: Account, book: Book) -> bool:
    sign = -1 if account.side is Side.CREDIT else 1
    return (account.community_id, account.unit, sign, account.floor) == (book.community_id, book.unit, book.sign, book.floor)


async def expire_holds(tx: Transaction, *, limit: int = EXPIRED_AT_ONCE, shards: int = 1) -> list[StoredTransfer]:
    """For a service's timer, in the platform scope: releases what pending transfers hold whose time has passed, the oldest first.

    Returns those that it expired, at most `limit`. Each is expired by a transfer of its own, whose id is derived from the pending one's.
    """
    due = await reading_store.select_expired(tx, tx.now, limit)
    if not due:
        return []
    turn = await take_turn(tx, {community_id for community_id, _ in due}, shards=shards)
    requests = [Expiry(derived_id("ledger.expiry", str(pending_id)), community_id, pending_id) for community_id, pending_id in due]
    # One that was posted or voided before the turn came is refused, and left out.
    answers = await turn.apply(requests)
    expired = [request.pending_id for request, answer in zip(requests, answers, strict=True) if isinstance(answer, Receipt)]
    found = await store.select_transfers(tx, expired)
    return [found[pending_id] for pending_id in expired]
