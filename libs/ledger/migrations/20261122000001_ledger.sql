-- A double-entry ledger: accounts, transfers, entries, open holds. Transfers and entries are never changed; what corrects one is another.
-- Every write is made by the one who has the turn of the communities' shard (turn.py); no foreign key is checked for what that proves.

-- migrate:up

CREATE TABLE ledger_accounts (
    account_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    unit text NOT NULL,
    -- The normal side. The balance is kept in it: an account that is normally in credit grows by credits.
    is_credit boolean NOT NULL,
    -- What the balance less what is held never goes below; without one there is no bound.
    floor bigint,
    balance bigint NOT NULL DEFAULT 0,
    -- What open pending transfers would take.
    held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    -- The version of the newest entry, which is how many there are.
    version bigint NOT NULL DEFAULT 0,
    -- Counts every change of the row: who writes proves by it that nobody wrote since it was read.
    revision bigint NOT NULL DEFAULT 0,
    -- When the newest entry was recorded, or the account opened.
    recorded_at timestamptz NOT NULL,
    closed_at timestamptz
-- Room for the next versions of a row in its own page (HOT), so that a change of balance touches no index.
) WITH (fillfactor = 50);
SELECT wall('ledger_accounts');

CREATE TABLE ledger_transfers (
    transfer_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    kind text NOT NULL,
    -- The postings: the n-th elements are one; debits are positive, credits negative. Empty for what releases a hold.
    account_ids uuid[] NOT NULL,
    amounts bigint[] NOT NULL,
    details jsonb NOT NULL,
    -- When it happened, where the caller knew it.
    occurred_at timestamptz,
    recorded_at timestamptz NOT NULL,
    -- A pending transfer takes effect only by the transfer that resolves it, and that not after this instant.
    pending_until timestamptz,
    reverses_id uuid,
    resolves_id uuid,
    -- What became of the pending transfer that this one resolves.
    outcome text CHECK (outcome IN ('posted', 'voided', 'expired')),
    CHECK ((resolves_id IS NULL) = (outcome IS NULL))
);
-- A transfer is reversed at most once, and a pending one resolved at most once.
CREATE UNIQUE INDEX ledger_transfers_reversal ON ledger_transfers (reverses_id) WHERE reverses_id IS NOT NULL;
CREATE UNIQUE INDEX ledger_transfers_resolution ON ledger_transfers (resolves_id) WHERE resolves_id IS NOT NULL;
SELECT wall('ledger_transfers');

-- The key is also how entries are read: those of an account by version, and by binary search those before an instant, because the
-- instants of an account never go back.
CREATE TABLE ledger_entries (
    account_id uuid NOT NULL,
    version bigint NOT NULL,
    community_id uuid NOT NULL,
    transfer_id uuid NOT NULL,
    previous_balance bigint NOT NULL,
    balance bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, version)
);
SELECT wall('ledger_entries');

-- The pending transfers that nothing has resolved.
CREATE TABLE ledger_holds (
    pending_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    pending_until timestamptz NOT NULL
);
-- The timer asks which have expired.
CREATE INDEX ledger_holds_until ON ledger_holds (pending_until);
SELECT wall('ledger_holds');

-- How many turns each community's accounts have had. A writer that finds the number one above the one it left knows that nobody has
-- written since, and that what it remembers of the accounts still holds.
CREATE TABLE ledger_turns (
    community_id uuid PRIMARY KEY,
    number bigint NOT NULL
) WITH (fillfactor = 50);
SELECT wall('ledger_turns');

-- migrate:down
