"""The SQL of the ledger's audit: each question is one statement, so it sees one moment, and none locks anything."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servicekit.database import Connection

# Sorting and hashing millions of entries in the default 4 MB takes many times as long.
_PREPARE = "SELECT set_config('linli.community', '*', true), set_config('work_mem', '256MB', true), set_config('jit', 'off', true)"

POSTINGS_SUM_TO_ZERO = """
SELECT transfer_id::text FROM ledger_transfers AS transfer
WHERE cardinality(account_ids) <> cardinality(amounts) OR 0 = ANY(amounts)
    OR (account_ids = '{}') <> (coalesce(outcome, 'posted') <> 'posted')
    OR EXISTS (
        SELECT FROM unnest(account_ids, amounts) AS posting (account_id, amount)
        LEFT JOIN ledger_accounts AS account ON account.account_id = posting.account_id AND account.community_id = transfer.community_id
        GROUP BY unit HAVING sum(amount) <> 0 OR unit IS NULL OR count(DISTINCT posting.account_id) <> count(*)
    )
LIMIT 10
"""
BALANCES_ARE_SUMS = """
SELECT account_id::text
FROM ledger_accounts FULL JOIN (
    SELECT account_id, sum(balance::numeric - previous_balance) AS total FROM ledger_entries GROUP BY account_id
) AS entries USING (account_id)
WHERE balance IS DISTINCT FROM coalesce(total, 0)
LIMIT 10
"""
VERSIONS_HAVE_NO_GAP = """
SELECT account_id::text
FROM ledger_accounts FULL JOIN (
    SELECT account_id, count(*) AS count, count(DISTINCT version) AS versions, min(version) AS first, max(version) AS last
    FROM ledger_entries GROUP BY account_id
) AS entries USING (account_id)
WHERE version IS DISTINCT FROM coalesce(last, 0) OR count <> last OR versions <> last OR first <> 1
LIMIT 10
"""
FLOORS_HOLD = """
SELECT account_id::text FROM ledger_accounts AS account
WHERE floor IS NOT NULL AND (
    balance::numeric - held < floor
    OR EXISTS (SELECT FROM ledger_entries AS entry WHERE entry.account_id = account.account_id AND entry.balance < floor)
)
LIMIT 10
"""
BALANCES_CHAIN = """
SELECT account_id || ' ' || version
FROM (
    SELECT account_id, version, previous_balance, coalesce(lag(balance) OVER (PARTITION BY account_id ORDER BY version), 0) AS before
    FROM ledger_entries
) AS entries
WHERE previous_balance <> before
LIMIT 10
"""
INSTANTS_NEVER_GO_BACK = """
SELECT account_id || ' ' || version
FROM (
    SELECT account_id, version, recorded_at, lag(recorded_at) OVER (PARTITION BY account_id ORDER BY version) AS before FROM ledger_entries
) AS entries
WHERE recorded_at < before
LIMIT 10
"""
# A posted posting and its entry cancel each other out, two rows of one account and one transfer.
ENTRIES_ARE_POSTINGS = """
SELECT transfer_id || ' ' || account_id
FROM (
    SELECT transfer_id, account_id, amount::numeric * CASE WHEN is_credit THEN -1 ELSE 1 END AS change, community_id
    FROM (
        SELECT transfer_id, community_id, posting.account_id, amount
        FROM ledger_transfers, unnest(account_ids, amounts) AS posting (account_id, amount) WHERE pending_until IS NULL
    ) AS postings JOIN ledger_accounts USING (account_id, community_id)
    UNION ALL
    SELECT transfer_id, account_id, previous_balance::numeric - balance, community_id FROM ledger_entries
) AS both_sides
GROUP BY transfer_id, account_id, community_id HAVING sum(change) <> 0 OR count(*) <> 2
LIMIT 10
"""
TRANSFERS_EXIST_ONCE = """
(SELECT transfer_id::text FROM ledger_transfers GROUP BY transfer_id HAVING count(*) > 1)
UNION ALL (SELECT reverses_id::text FROM ledger_transfers WHERE reverses_id IS NOT NULL GROUP BY reverses_id HAVING count(*) > 1)
UNION ALL (SELECT resolves_id::text FROM ledger_transfers WHERE resolves_id IS NOT NULL GROUP BY resolves_id HAVING count(*) > 1)
LIMIT 10
"""
HELD_IS_WHAT_HOLDS_TAKE = """
SELECT account_id::text
FROM ledger_accounts FULL JOIN (
    SELECT posting.account_id, sum(abs(amount::numeric)) AS total
    FROM ledger_holds JOIN ledger_transfers ON transfer_id = pending_id, unnest(account_ids, amounts) AS posting (account_id, amount)
    JOIN ledger_accounts AS account ON account.account_id = posting.account_id
    WHERE (amount > 0) = is_credit GROUP BY posting.account_id
) AS holds USING (account_id)
WHERE held IS DISTINCT FROM coalesce(total, 0)
LIMIT 10
"""
HOLDS_ARE_UNRESOLVED = """
SELECT coalesce(pending.transfer_id, hold.pending_id)::text
FROM (
    SELECT * FROM ledger_transfers AS transfer
    WHERE pending_until IS NOT NULL AND NOT EXISTS (SELECT FROM ledger_transfers WHERE resolves_id = transfer.transfer_id)
) AS pending FULL JOIN ledger_holds AS hold ON pending_id = transfer_id
WHERE transfer_id IS NULL OR pending_id IS NULL OR hold.pending_until <> pending.pending_until OR hold.community_id <> pending.community_id
LIMIT 10
"""
REFERENCES_LEAD_SOMEWHERE = """
SELECT transfer_id::text FROM ledger_transfers AS transfer
WHERE coalesce(reverses_id, resolves_id) IS NOT NULL AND NOT EXISTS (
    SELECT FROM ledger_transfers AS other
    WHERE other.transfer_id = coalesce(transfer.reverses_id, transfer.resolves_id) AND other.community_id = transfer.community_id
        AND (other.pending_until IS NOT NULL) = (transfer.resolves_id IS NOT NULL)
)
LIMIT 10
"""
CLOSED_ACCOUNTS_ARE_EMPTY = """
SELECT account_id::text FROM ledger_accounts WHERE closed_at IS NOT NULL AND (balance <> 0 OR held <> 0) LIMIT 10
"""


async def find_broken(connection: "Connection", invariant: str) -> tuple[str, ...]:
    """What breaks an invariant, at most ten."""
    async with connection.transaction(readonly=True):
        await connection.execute(_PREPARE)
        return tuple(row[0] for row in await connection.fetch(invariant))
