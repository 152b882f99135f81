-- What points are spent on, and who has them together: the catalogue, redemptions, gifts, pools, and how residents appear on leaderboards.
-- How much stock an item has is on the ledger, beside the points that pay for it; whoever changes redemptions or gifts has the turn there.

-- migrate:up

CREATE TABLE items (
    item_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    name_zh text NOT NULL,
    name_en text NOT NULL,
    description text NOT NULL,
    points bigint NOT NULL CHECK (points > 0),
    valid_from timestamptz NOT NULL,
    -- NULL when there is no end.
    valid_until timestamptz,
    -- 0 is no limit.
    per_resident_max bigint NOT NULL CHECK (per_resident_max >= 0),
    pickup_place text NOT NULL,
    listed boolean NOT NULL DEFAULT true,
    CHECK (valid_from < valid_until)
);
-- The catalogue, newest first.
CREATE INDEX items_newest ON items (community_id, item_id DESC);
SELECT wall('items');

CREATE TABLE redemptions (
    -- Also the id of the pending transfer that holds the points and the stock.
    redemption_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    item_id uuid NOT NULL REFERENCES items,
    account_id uuid NOT NULL,
    -- Whose pooled points pay; NULL when it is the resident's own.
    household_id uuid,
    quantity bigint NOT NULL CHECK (quantity > 0),
    -- For all of it, as it was when it was reserved.
    points bigint NOT NULL CHECK (points > 0),
    state text NOT NULL CHECK (state IN ('reserved', 'picked_up', 'cancelled', 'expired')),
    -- The clerk scans it. A bearer secret of 80 bits, so nobody meets one by chance.
    pickup_code text NOT NULL UNIQUE,
    reserved_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    -- The clerk who handed it over.
    confirmed_by uuid,
    CHECK ((state = 'reserved') = (ended_at IS NULL)),
    CHECK ((state = 'picked_up') = (confirmed_by IS NOT NULL))
);
-- Lists, newest first: a resident's, the community's, and those in one state.
CREATE INDEX redemptions_of_account ON redemptions (account_id, redemption_id DESC);
CREATE INDEX redemptions_newest ON redemptions (community_id, redemption_id DESC);
CREATE INDEX redemptions_in_state ON redemptions (community_id, state, redemption_id DESC);
-- How many of an item a resident has had.
CREATE INDEX redemptions_had ON redemptions (item_id, account_id) WHERE state IN ('reserved', 'picked_up');
SELECT wall('redemptions');

CREATE TABLE gifts (
    transfer_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    giver_id uuid NOT NULL,
    -- The account or the household that received it.
    receiver_id uuid NOT NULL,
    points bigint NOT NULL CHECK (points > 0),
    -- The community's calendar day.
    day date NOT NULL
);
-- What somebody has given on a day and in a month.
CREATE INDEX gifts_given ON gifts (giver_id, day);
SELECT wall('gifts');

-- Who consents that what they earn is their household's. Holds only while they live in it.
CREATE TABLE pools (
    account_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    household_id uuid NOT NULL,
    since timestamptz NOT NULL
);
-- The members who pool.
CREATE INDEX pools_of_household ON pools (household_id);
SELECT wall('pools');

-- How somebody appears on leaderboards. Without a row: listed, without a name.
CREATE TABLE preferences (
    account_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    on_leaderboards boolean NOT NULL,
    nickname text NOT NULL
);
SELECT wall('preferences');

-- migrate:down
