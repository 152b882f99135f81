"""All SQL that writes to the ledger, and that loads what decisions are made on. Questions are in `reading_store.py`."""

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import asyncpg
import msgspec

from ledger.decide import Book, Decision, stored_from
from ledger.transfers import Account, Posting, Side, State, StoredTransfer, Transfer
from servicekit.database import Transaction

# Half of the two-part keys of advisory locks; the other half is the shard. Nobody else in a service's database uses two-part keys.
_LOCKS = 0x6C656467


class TurnLost(asyncpg.SerializationError):
    """Somebody wrote without the turn, so what was decided may be wrong. One of GIVE_WAY: doing the whole transaction again is right."""


# Who vanishes in its turn, machine and all, is cut off after five seconds without a statement, which ends the turn; a process that ends
# takes its connection with it. Statements here touch as many rows as their arrays hold, which a plan for ten rows fits and one for
# thousands, made anew each time, does not: it would read whole tables. Nor may a plan that was made while they were empty, which the
# session keeps.
TAKE_TURN = """
WITH taken AS MATERIALIZED (
    SELECT set_config('idle_in_transaction_session_timeout', '5s', true), set_config('plan_cache_mode', 'force_generic_plan', true),
        set_config('enable_seqscan', 'off', true),
        (SELECT count(pg_advisory_xact_lock($1::int, shard)) FROM (SELECT shard FROM unnest($2::int[]) AS shard ORDER BY shard) AS ordered)
)
INSERT INTO ledger_turns AS turn (community_id, number)
SELECT community_id, 1 FROM taken, unnest($3::uuid[]) AS community_id ORDER BY community_id
ON CONFLICT (community_id) DO UPDATE SET number = turn.number + 1
RETURNING community_id, number
"""


async def take_turn(tx: Transaction, shards: Iterable[int], community_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, int]:
    """Waits until nobody else writes to these shards, and keeps them until the transaction ends. Always in one order: nobody deadlocks.

    Returns the number of each community's turn.
    """
    return {row[0]: row[1] for row in await tx.fetch(TAKE_TURN, _LOCKS, sorted(shards), list(community_ids))}


INSERT_ACCOUNTS = """
INSERT INTO ledger_accounts (account_id, community_id, unit, is_credit, floor, recorded_at)
SELECT account_id, community_id, unit, is_credit, floor, $6
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bool[], $5::bigint[]) AS opened (account_id, community_id, unit, is_credit, floor)
ON CONFLICT DO NOTHING
"""


async def insert_accounts(tx: Transaction, accounts: Sequence[Account]) -> int:
    """Opens those accounts that do not exist, and says how many."""
    columns = (
        [account.account_id for account in accounts],
        [account.community_id for account in accounts],
        [account.unit for account in accounts],
        [account.side is Side.CREDIT for account in accounts],
        [account.floor for account in accounts],
    )
    return await tx.execute(INSERT_ACCOUNTS, *columns, tx.now)


SELECT_BOOKS = """
SELECT account_id, community_id, unit, CASE WHEN is_credit THEN -1 ELSE 1 END AS sign, floor, balance, held, version, revision, recorded_at,
    closed_at IS NOT NULL AS is_closed
FROM ledger_accounts
WHERE account_id = ANY($1::uuid[])
"""


async def select_books(tx: Transaction, account_ids: Collection[uuid.UUID]) -> list[Book]:
    """The accounts with these ids, in no order."""
    return [Book(*row) for row in await tx.fetch(SELECT_BOOKS, list(account_ids))]


CLOSE_ACCOUNT = "UPDATE ledger_accounts SET closed_at = $2, revision = revision + 1 WHERE account_id = $1 AND closed_at IS NULL"
IS_HELD = """
SELECT EXISTS (SELECT FROM ledger_holds JOIN ledger_transfers ON transfer_id = pending_id WHERE account_ids @> ARRAY[$1::uuid])
"""


async def has_holds(tx: Transaction, account_id: uuid.UUID) -> bool:
    """Whether an open pending transfer names the account."""
    found: bool = await tx.fetchval(IS_HELD, account_id)
    return found


async def close_account(tx: Transaction, account_id: uuid.UUID) -> None:
    """Marks an account as closed."""
    await tx.execute(CLOSE_ACCOUNT, account_id, tx.now)


SELECT_TRANSFERS = """
SELECT transfer_id, community_id, kind, account_ids, amounts, details, occurred_at, recorded_at, pending_until, reverses_id, resolves_id,
    CASE WHEN pending_until IS NULL THEN coalesce(outcome, 'posted') ELSE coalesce(
        (SELECT resolution.outcome FROM ledger_transfers AS resolution WHERE resolution.resolves_id = transfer.transfer_id), 'pending'
    ) END AS state,
    (SELECT reversal.transfer_id FROM ledger_transfers AS reversal WHERE reversal.reverses_id = transfer.transfer_id) AS reversed_by_id
FROM ledger_transfers AS transfer
WHERE transfer_id = ANY($1::uuid[])
"""


async def select_transfers(tx: Transaction, transfer_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, StoredTransfer]:
    """The transfers with these ids, as they stand."""
    return {row[0]: _stored_transfer(row) for row in await tx.fetch(SELECT_TRANSFERS, list(transfer_ids))}


def _stored_transfer(row: asyncpg.Record) -> StoredTransfer:
    transfer_id, community_id, kind, account_ids, amounts, details, occurred_at, *rest, state, reversed_by_id = row
    recorded_at, pending_until, reverses_id, resolves_id = rest
    return StoredTransfer(
        transfer_id=transfer_id,
        community_id=community_id,
        kind=kind,
        postings=tuple(map(Posting, account_ids, amounts)),
        details=msgspec.json.decode(details),
        occurred_at=occurred_at,
        recorded_at=recorded_at,
        pending_until=pending_until,
        reverses_id=reverses_id,
        resolves_id=resolves_id,
        state=State(state),
        reversed_by_id=reversed_by_id,
    )


# Everything that a decision changes, in one statement. Transfers differ in how many postings they have, which arrays of arrays cannot, so
# the postings of all come in flat arrays of which each transfer is a slice; a posting without a version is only held. What few transfers
# have comes in arrays that are empty when none has it. An account changes only where it is as it was loaded.
WRITE = """
WITH written AS (
    INSERT INTO ledger_transfers (
        transfer_id, community_id, kind, details, occurred_at, pending_until, reverses_id, resolves_id, outcome,
        account_ids, amounts, recorded_at
    )
    SELECT transfer_id, community_id, kind, details::jsonb, occurred_at, pending_until, reverses_id, resolves_id, outcome,
        ($12::uuid[])[first:last], ($13::bigint[])[first:last], $23::timestamptz
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::uuid[], $8::uuid[], $9::text[],
        $10::bigint[], $11::bigint[]
    ) AS new (transfer_id, community_id, kind, details, occurred_at, pending_until, reverses_id, resolves_id, outcome, first, last)
), entered AS (
    INSERT INTO ledger_entries (account_id, version, community_id, transfer_id, previous_balance, balance, recorded_at)
    SELECT account_id, version, ($2::uuid[])[nth], ($1::uuid[])[nth], previous_balance, balance, $23::timestamptz
    FROM unnest($12::uuid[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[])
        AS new (account_id, version, previous_balance, balance, nth)
    WHERE version IS NOT NULL
), opened AS (
    INSERT INTO ledger_holds (pending_id, community_id, pending_until) SELECT * FROM unnest($24::uuid[], $25::uuid[], $26::timestamptz[])
), closed AS (
    DELETE FROM ledger_holds WHERE pending_id = ANY($27::uuid[]) RETURNING pending_id
), changed AS (
    UPDATE ledger_accounts AS account
    SET balance = new.balance, held = new.held, version = new.version, recorded_at = $23::timestamptz, revision = new.revision + 1
    FROM unnest($18::uuid[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[])
        AS new (account_id, balance, held, version, revision)
    WHERE account.account_id = new.account_id AND account.revision = new.revision
    RETURNING 1
)
SELECT (SELECT count(*) FROM changed) AS changed, (SELECT count(*) FROM closed) AS closed
"""


@dataclass(frozen=True, slots=True)
class Write:
    """A decision as the statement takes it."""

    arguments: Sequence[object]
    changed: int
    closed: int


def prepare_write(decision: Decision) -> Write:
    """Turns a decision into the statement's columns. From here on its accounts count as changed."""
    books = decision.changed
    holds = decision.opened.values()
    arguments = (
        *_columns(decision),
        [book.account_id for book in books],
        [book.balance for book in books],
        [book.held for book in books],
        [book.version for book in books],
        [book.revision for book in books],
        decision.recorded_at,
        [hold.transfer_id for hold in holds],
        [hold.community_id for hold in holds],
        [hold.pending_until for hold in holds],
        decision.closed,
    )
    for book in books:
        book.revision += 1
    return Write(arguments, len(books), len(decision.closed))


async def write(tx: Transaction, prepared: Write) -> None:
    """Stores what was decided. Raises TurnLost when an account or a hold is not as it was loaded."""
    row = await tx.fetchrow(WRITE, *prepared.arguments)
    if row is None or row["changed"] != prepared.changed or row["closed"] != prepared.closed:
        raise TurnLost("somebody wrote to the ledger without its turn")


def _columns(decision: Decision) -> tuple[Sequence[object], ...]:
    """The columns of the transfers, then those of their postings."""
    rows: list[tuple[object, ...]] = []
    numbers: list[int] = []
    last = 0
    for number, new in enumerate(decision.transfers, start=1):
        request, postings, _ = new
        resolves_id = outcome = None
        if isinstance(request, Transfer):
            transfer: Transfer | StoredTransfer = request
        else:
            transfer = stored = stored_from(new, decision.recorded_at)
            resolves_id, outcome = stored.resolves_id, stored.state.value
        details = msgspec.json.encode(transfer.details).decode() if transfer.details else "{}"
        seldom = (transfer.occurred_at, transfer.pending_until, transfer.reverses_id, resolves_id, outcome)
        rows.append((transfer.transfer_id, transfer.community_id, transfer.kind, details, *seldom, last + 1, last + postings))
        numbers += (number,) * postings
        last += postings
    columns = list(zip(*rows, strict=True))
    columns[4:9] = [column if any(column) else () for column in columns[4:9]]
    return (*columns, *(zip(*decision.postings, strict=True) if decision.postings else [()] * 5), numbers)
