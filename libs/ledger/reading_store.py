"""All SQL that only reads what the ledger holds, without a turn."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from ledger.transfers import Balance, Details
from servicekit.database import Transaction


@dataclass(frozen=True, slots=True)
class Entry:
    """What one transfer changed in one account, in the account's normal side. `details` of a posted pending transfer hold those of both."""

    account_id: UUID
    version: int
    transfer_id: UUID
    kind: str
    details: Details
    change: int
    previous_balance: int
    balance: int
    occurred_at: datetime
    recorded_at: datetime


SELECT_BALANCE = "SELECT balance, held, version FROM ledger_accounts WHERE account_id = $1"


async def select_balance(tx: Transaction, account_id: UUID) -> Balance | None:
    """The balance now, None when there is no such account."""
    row = await tx.fetchrow(SELECT_BALANCE, account_id)
    return None if row is None else Balance(*row)


SELECT_BALANCES = "SELECT account_id, balance, held, version FROM ledger_accounts WHERE account_id = ANY($1::uuid[])"


async def select_balances(tx: Transaction, account_ids: Iterable[UUID]) -> dict[UUID, Balance]:
    """The balances now of those accounts that exist."""
    return {account_id: Balance(*rest) for account_id, *rest in await tx.fetch(SELECT_BALANCES, list(account_ids))}


# The instants of an account never go back as its versions go on, so the key is as good as an index by time.
SELECT_VERSION_BEFORE = """
WITH RECURSIVE search AS (
    SELECT 0::bigint AS low, version AS high FROM ledger_accounts WHERE account_id = $1
    UNION ALL
    SELECT CASE WHEN entry.recorded_at < $2 THEN middle ELSE low END, CASE WHEN entry.recorded_at < $2 THEN high ELSE middle - 1 END
    FROM (SELECT low, high, (low + high + 1) / 2 AS middle FROM search WHERE low < high) AS halves
    JOIN ledger_entries AS entry ON entry.account_id = $1 AND entry.version = middle
)
SELECT low FROM search WHERE low = high
"""


async def select_version_before(tx: Transaction, account_id: UUID, before: datetime) -> int:
    """The version of the newest entry that was recorded before an instant; 0 when there is none."""
    return await tx.fetchval(SELECT_VERSION_BEFORE, account_id, before) or 0


SELECT_BALANCE_OF_VERSION = "SELECT balance FROM ledger_entries WHERE account_id = $1 AND version = $2"


async def select_balance_of_version(tx: Transaction, account_id: UUID, version: int) -> int:
    """The balance that an entry left; 0 before the first."""
    return await tx.fetchval(SELECT_BALANCE_OF_VERSION, account_id, version) or 0


SELECT_ENTRIES = """
SELECT account_id, version, transfer_id, kind, CASE WHEN resolves_id IS NULL THEN details ELSE details || (
        SELECT pending.details FROM ledger_transfers AS pending WHERE pending.transfer_id = transfer.resolves_id
    ) END AS details,
    entry.balance - previous_balance AS change, previous_balance, entry.balance, coalesce(occurred_at, entry.recorded_at) AS occurred_at,
    entry.recorded_at
FROM ledger_entries AS entry JOIN ledger_transfers AS transfer USING (transfer_id)
WHERE account_id = $1 AND version > $2 AND version <= $3
ORDER BY version DESC
LIMIT $4
"""


async def select_entries(tx: Transaction, account_id: UUID, above: int, until: int, limit: int) -> list[Entry]:
    """The newest entries with a version above `above`, up to and with `until`."""
    rows = await tx.fetch(SELECT_ENTRIES, account_id, above, until, limit)
    return [
        Entry(account_id, version, transfer_id, kind, msgspec.json.decode(details), *rest)
        for account_id, version, transfer_id, kind, details, *rest in rows
    ]


SELECT_EXPIRED = "SELECT community_id, pending_id FROM ledger_holds WHERE pending_until <= $1 ORDER BY pending_until, pending_id LIMIT $2"


async def select_expired(tx: Transaction, now: datetime, limit: int) -> list[tuple[UUID, UUID]]:
    """Communities and ids of the pending transfers whose time has passed and that nothing has resolved, the oldest first."""
    return [(row[0], row[1]) for row in await tx.fetch(SELECT_EXPIRED, now, limit)]
