-- Communities, homes, the people in them, what they may do, and how they sign in.

-- migrate:up

CREATE TABLE communities (
    community_id uuid PRIMARY KEY,
    name text NOT NULL,
    time_zone text NOT NULL,
    modules text[] NOT NULL,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL
);
-- The public list goes by name.
CREATE INDEX communities_by_name ON communities (name, community_id);
SELECT wall('communities');

CREATE TABLE buildings (
    building_id uuid PRIMARY KEY,
    community_id uuid NOT NULL REFERENCES communities (community_id),
    name text NOT NULL,
    -- No two buildings of one name; the list goes by it.
    UNIQUE (community_id, name)
);
SELECT wall('buildings');

CREATE TABLE units (
    unit_id uuid PRIMARY KEY,
    community_id uuid NOT NULL REFERENCES communities (community_id),
    building_id uuid NOT NULL REFERENCES buildings (building_id),
    label text NOT NULL,
    exclusive_area_cm2 bigint NOT NULL CHECK (exclusive_area_cm2 > 0),
    -- No two units of one label in a building; the list of a building goes by it.
    UNIQUE (building_id, label)
);
SELECT wall('units');

CREATE TABLE households (
    household_id uuid PRIMARY KEY,
    community_id uuid NOT NULL REFERENCES communities (community_id),
    unit_id uuid NOT NULL REFERENCES units (unit_id)
);
-- The list of a community goes newest first, and identifiers sort by age.
CREATE INDEX households_by_age ON households (community_id, household_id);
SELECT wall('households');

CREATE TABLE accounts (
    account_id uuid PRIMARY KEY,
    community_id uuid NOT NULL REFERENCES communities (community_id),
    -- A keyed digest of community and phone: finds the account without holding the phone.
    phone_index bytea NOT NULL,
    -- The phone, encrypted under the data key that `phone_key_id` names.
    phone bytea NOT NULL,
    phone_key_id text NOT NULL,
    -- Empty until somebody says it.
    name text NOT NULL,
    -- Argon2id, in PHC string format; only accounts with a role of a party have one.
    password_hash text,
    created_at timestamptz NOT NULL,
    UNIQUE (community_id, phone_index)
);
-- Phones under older data keys are looked for every minute, and mostly there are none.
CREATE INDEX accounts_by_phone_key ON accounts (phone_key_id);
SELECT wall('accounts');

CREATE TABLE members (
    household_id uuid NOT NULL REFERENCES households (household_id),
    account_id uuid NOT NULL REFERENCES accounts (account_id),
    community_id uuid NOT NULL REFERENCES communities (community_id),
    kind text NOT NULL CHECK (kind IN ('owner', 'family', 'tenant')),
    -- What the household calls the person. The account's own name is not shown to whoever happens to know a phone.
    name text NOT NULL,
    added_at timestamptz NOT NULL,
    PRIMARY KEY (household_id, account_id)
);
-- Every sign-in and every refresh reads the households of one account.
CREATE INDEX members_by_account ON members (account_id);
SELECT wall('members');

CREATE TABLE role_grants (
    role_grant_id uuid PRIMARY KEY,
    community_id uuid NOT NULL REFERENCES communities (community_id),
    account_id uuid NOT NULL REFERENCES accounts (account_id),
    role text NOT NULL,
    -- NULL when the role covers the whole community.
    building_id uuid REFERENCES buildings (building_id),
    granted_at timestamptz NOT NULL,
    -- Every sign-in and every refresh reads the roles of one account.
    UNIQUE NULLS NOT DISTINCT (account_id, role, building_id)
);
-- The list of a community goes newest first.
CREATE INDEX role_grants_by_age ON role_grants (community_id, role_grant_id);
SELECT wall('role_grants');

CREATE TABLE vehicles (
    vehicle_id uuid PRIMARY KEY,
    community_id uuid NOT NULL REFERENCES communities (community_id),
    household_id uuid NOT NULL REFERENCES households (household_id),
    plate text NOT NULL,
    -- Grows with every event of the vehicle.
    version bigint NOT NULL,
    -- A plate belongs to one household.
    UNIQUE (community_id, plate)
);
-- The list of a household, and its events when its members change.
CREATE INDEX vehicles_by_household ON vehicles (household_id, plate);
SELECT wall('vehicles');

-- The newest one-time code of a phone, until it is used. A new one takes its place.
CREATE TABLE sign_in_codes (
    phone_index bytea PRIMARY KEY,
    community_id uuid NOT NULL REFERENCES communities (community_id),
    -- A keyed digest: six digits behind a plain one are found in a moment.
    code_digest bytea NOT NULL,
    wrong_tries bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
SELECT wall('sign_in_codes');

-- How much of each limit is taken in its present window. The subjects are keyed digests of phones and addresses, counted over all communities,
-- so the rows belong to the platform's own community.
CREATE TABLE limits (
    name text NOT NULL,
    subject bytea NOT NULL,
    community_id uuid NOT NULL,
    taken bigint NOT NULL,
    ends_at timestamptz NOT NULL,
    PRIMARY KEY (name, subject)
);
SELECT wall('limits');

-- One device that is signed in. Its refresh token names the row and holds a secret, of which only the newest works.
CREATE TABLE sign_ins (
    sign_in_id uuid PRIMARY KEY,
    community_id uuid NOT NULL REFERENCES communities (community_id),
    account_id uuid NOT NULL REFERENCES accounts (account_id),
    secret_digest bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
-- Ends every sign-in of an account.
CREATE INDEX sign_ins_by_account ON sign_ins (account_id);
SELECT wall('sign_ins');

-- The keys that sign access tokens; the rows belong to the platform's own community. All of them are published.
CREATE TABLE signing_keys (
    key_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    public_key bytea NOT NULL,
    -- Encrypted under the data key that `private_key_key_id` names.
    private_key bytea NOT NULL,
    private_key_key_id text NOT NULL,
    signs_from timestamptz NOT NULL
);
SELECT wall('signing_keys');

-- migrate:down
