-- Others hear who holds which role.

-- migrate:up

-- One row for each account that holds a role for its whole community, or did. Those of an earlier time come when they are told again.
CREATE TABLE staff (
    account_id uuid PRIMARY KEY REFERENCES accounts (account_id),
    community_id uuid NOT NULL REFERENCES communities (community_id),
    -- Grows with every event of the account's roles.
    version bigint NOT NULL,
    -- When others were last told. There is no index on it, which every event would change: staff are few.
    told_at timestamptz NOT NULL
);
SELECT wall('staff');

-- migrate:down
