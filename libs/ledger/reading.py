"""What people and services ask of a ledger; none of it needs a turn. Instants are when things were recorded, which never changes again."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from ledger import reading_store, store
from ledger.reading_store import Entry
from ledger.refusals import error_of
from ledger.transfers import AMOUNT_MAX, Balance, Refusal, StoredTransfer
from servicekit.database import Transaction

STATEMENT_ENTRIES_MAX: Final = 10_000
_JUST_AFTER: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Statement:
    """A period of an account: the balance before it, its entries in order, the balance at its end."""

    opening: int
    entries: tuple[Entry, ...]
    closing: int


async def balance(tx: Transaction, account_id: UUID) -> Balance | None:
    """The balance now; None when there is no such account."""
    return await reading_store.select_balance(tx, account_id)


async def balances(tx: Transaction, account_ids: Iterable[UUID]) -> dict[UUID, Balance]:
    """The balances now of those accounts that exist."""
    return await reading_store.select_balances(tx, account_ids)


async def balance_at(tx: Transaction, account_id: UUID, at: datetime) -> int:
    """The balance after all that was recorded up to and at an instant; 0 for an account that is unknown or had no entry."""
    version = await reading_store.select_version_before(tx, account_id, at + _JUST_AFTER)
    return await reading_store.select_balance_of_version(tx, account_id, version)


async def entries(tx: Transaction, account_id: UUID, before_version: int | None, limit: int) -> list[Entry]:
    """At most `limit` entries, newest first, those before a version where one is given: the cursor of a list."""
    until = AMOUNT_MAX if before_version is None else before_version - 1
    return await reading_store.select_entries(tx, account_id, 0, until, limit)


async def statement(tx: Transaction, account_id: UUID, since: datetime, until: datetime) -> Statement:
    """The statement of what was recorded from `since` until just before `until`.

    Raises Invalid `ledger.statement_too_long` above STATEMENT_ENTRIES_MAX entries.
    """
    before = await reading_store.select_version_before(tx, account_id, since)
    last = await reading_store.select_version_before(tx, account_id, until)
    if last - before > STATEMENT_ENTRIES_MAX:
        raise error_of(Refusal.STATEMENT_TOO_LONG)
    opening = await reading_store.select_balance_of_version(tx, account_id, before)
    found = await reading_store.select_entries(tx, account_id, before, last, STATEMENT_ENTRIES_MAX)
    return Statement(opening, tuple(reversed(found)), found[0].balance if found else opening)


async def find_transfer(tx: Transaction, transfer_id: UUID) -> StoredTransfer | None:
    """A transfer as it stands: its postings, kind, details, and what has become of it; None when there is none."""
    return (await store.select_transfers(tx, [transfer_id])).get(transfer_id)


async def expired_holds(tx: Transaction, now: datetime, limit: int) -> list[UUID]:
    """The ids of pending transfers that are past their time and still hold, the oldest first."""
    return [pending_id for _, pending_id in await reading_store.select_expired(tx, now, limit)]
