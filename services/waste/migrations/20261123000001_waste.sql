-- Bins and what they tell, the cards of residents, deposits and what they weighed. Weights are grams, fill is in thousandths.
-- Whoever changes what is known of a bin, or counts a deposit of it, locks the bin's row first, and several bins by their ids.

-- migrate:up

CREATE TABLE bins (
    bin_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    name text NOT NULL,
    device_id text NOT NULL,
    -- Absent for a bin that stands at no building.
    building_id uuid,
    -- Degrees, WGS 84.
    latitude double precision NOT NULL,
    longitude double precision NOT NULL,
    in_use boolean NOT NULL DEFAULT true,
    last_heard_at timestamptz,
    -- The newest report; an older one that comes after it says nothing.
    reported_at timestamptz,
    -- The newest that was said of whether its device is heard: a word that comes late says nothing.
    status_version bigint NOT NULL DEFAULT 0,
    -- Absent while its device is heard.
    silent_since timestamptz,
    -- Grows with every alarm that is raised or cleared, so that those who hear of them know the newest.
    version bigint NOT NULL DEFAULT 0,
    -- The list goes by name.
    UNIQUE (community_id, name),
    -- What a bin sends names its device.
    UNIQUE (community_id, device_id)
);
SELECT wall('bins');

CREATE TABLE compartments (
    bin_id uuid NOT NULL REFERENCES bins,
    name text NOT NULL,
    community_id uuid NOT NULL,
    category text NOT NULL CHECK (category IN ('recyclable', 'kitchen', 'hazardous', 'other')),
    capacity_grams bigint NOT NULL CHECK (capacity_grams > 0),
    -- How full it was when the bin last said so; absent until then.
    fill_permille bigint CHECK (fill_permille BETWEEN 0 AND 1000),
    fill_at timestamptz,
    emptied_at timestamptz,
    PRIMARY KEY (bin_id, name)
);
SELECT wall('compartments');

-- Each change of fill that a bin told, for forecasts. Kept for 60 days.
CREATE TABLE fill_levels (
    bin_id uuid NOT NULL REFERENCES bins,
    compartment text NOT NULL,
    at timestamptz NOT NULL,
    community_id uuid NOT NULL,
    fill_permille bigint NOT NULL CHECK (fill_permille BETWEEN 0 AND 1000),
    PRIMARY KEY (bin_id, compartment, at)
);
-- The oldest are forgotten.
CREATE INDEX fill_levels_oldest ON fill_levels USING brin (at);
SELECT wall('fill_levels');

CREATE TABLE emptyings (
    bin_id uuid NOT NULL REFERENCES bins,
    compartment text NOT NULL,
    emptied_at timestamptz NOT NULL,
    community_id uuid NOT NULL,
    -- A collector recorded it, or the bin's fill fell as it does only then.
    source text NOT NULL CHECK (source IN ('recorded', 'seen')),
    PRIMARY KEY (bin_id, compartment, emptied_at)
);
SELECT wall('emptyings');

-- Stretches of time in which a bin's clock was wrong by about the same, as its reports show. Kept for 60 days.
CREATE TABLE clock_stretches (
    bin_id uuid NOT NULL REFERENCES bins,
    -- When the first and the last report of the stretch were received.
    heard_from timestamptz NOT NULL,
    heard_until timestamptz NOT NULL,
    community_id uuid NOT NULL,
    -- What the bin's clock said then: microseconds since the Unix epoch, because a clock without power says 1970 and may say anything.
    said_from_us bigint NOT NULL,
    said_until_us bigint NOT NULL,
    -- What has to be added to the bin's clock.
    error_us bigint NOT NULL,
    -- Also finds a bin's newest stretch.
    PRIMARY KEY (bin_id, heard_from)
);
-- The oldest are forgotten.
CREATE INDEX clock_stretches_oldest ON clock_stretches USING brin (heard_until);
SELECT wall('clock_stretches');

CREATE TABLE alarms (
    alarm_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    bin_id uuid NOT NULL REFERENCES bins,
    kind text NOT NULL CHECK (kind IN ('full', 'fire', 'silent', 'clock')),
    -- Empty for alarms that are about the whole bin.
    compartment text NOT NULL,
    raised_at timestamptz NOT NULL,
    cleared_at timestamptz
);
-- What is wrong with a bin now; nothing is wrong twice.
CREATE UNIQUE INDEX alarms_open_of_bin ON alarms (bin_id, kind, compartment) WHERE cleared_at IS NULL;
-- The lists go newest first: of what lasts, and of everything.
CREATE INDEX alarms_open ON alarms (community_id, raised_at DESC, alarm_id DESC) WHERE cleared_at IS NULL;
CREATE INDEX alarms_newest ON alarms (community_id, raised_at DESC, alarm_id DESC);
SELECT wall('alarms');

CREATE TABLE cards (
    card_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    -- In capitals: readers differ in how they write hexadecimal digits.
    card_number text NOT NULL,
    account_id uuid NOT NULL,
    registered_by uuid NOT NULL,
    registered_at timestamptz NOT NULL,
    revoked_at timestamptz
);
-- Nobody shares a card that is in use.
CREATE UNIQUE INDEX cards_in_use ON cards (community_id, card_number) WHERE revoked_at IS NULL;
-- Whose a card was when a bin read it.
CREATE INDEX cards_read ON cards (community_id, card_number, registered_at DESC);
-- The lists of a community and of a resident go newest first, and identifiers sort by age.
CREATE INDEX cards_newest ON cards (community_id, card_id DESC) WHERE revoked_at IS NULL;
CREATE INDEX cards_of_resident ON cards (account_id, card_id DESC) WHERE revoked_at IS NULL;
SELECT wall('cards');

-- Who stood at a bin and said so. Kept for 60 days, because a deposit may be delivered late.
CREATE TABLE approaches (
    bin_id uuid NOT NULL REFERENCES bins,
    approached_at timestamptz NOT NULL,
    account_id uuid NOT NULL,
    community_id uuid NOT NULL,
    -- Also finds who was there before a deposit.
    PRIMARY KEY (bin_id, approached_at, account_id)
);
-- When somebody came to another bin.
CREATE INDEX approaches_of_resident ON approaches (account_id, approached_at);
-- The oldest are forgotten.
CREATE INDEX approaches_oldest ON approaches USING brin (approached_at);
SELECT wall('approaches');

-- Everything that bins weighed, whatever it was worth. Never deleted: that a record is here is how one that is sent again is known.
CREATE TABLE deposits (
    -- Derived from the device and its record, so that the key says that it is a repetition.
    deposit_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    device_id text NOT NULL,
    record_id text NOT NULL,
    -- A digest of all that the bin said, to tell a repetition from another deposit under the same id.
    content bytea NOT NULL,
    -- Absent when the device is no bin of the community.
    bin_id uuid REFERENCES bins,
    compartment text NOT NULL,
    -- Absent while the compartment is not known.
    category text CHECK (category IN ('recyclable', 'kitchen', 'hazardous', 'other')),
    -- As the bin said it, which may be anything while it does not count.
    grams bigint NOT NULL,
    fill_permille bigint,
    card_number text NOT NULL,
    -- Whose it is; absent when nobody can be named.
    account_id uuid,
    state text NOT NULL CHECK (state IN ('counted', 'in_review', 'refused', 'contaminated')),
    -- What is wrong, by its stable name; empty when nothing is.
    concern text NOT NULL,
    -- How often it has been counted.
    revision bigint NOT NULL,
    -- What the bin's clock said, in microseconds since the Unix epoch; absent when it said nothing that is a time.
    said_us bigint,
    -- When it was, as far as we know, and when it was received.
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    -- The first day of its month in the community's time as it was then: whose sums it is in. Another time zone later moves nothing.
    month date NOT NULL,
    -- What a reviewer or an inspector wrote, who it was, and when.
    note text NOT NULL DEFAULT '',
    judged_by uuid,
    judged_at timestamptz,
    CHECK (state NOT IN ('counted', 'contaminated') OR (grams > 0 AND category IS NOT NULL AND bin_id IS NOT NULL AND revision > 0))
);
-- The lists go newest first: of the community, of a bin, of what did not simply count; and of a resident, which also sums up a day.
CREATE INDEX deposits_newest ON deposits (community_id, occurred_at DESC, deposit_id DESC);
CREATE INDEX deposits_of_bin ON deposits (bin_id, occurred_at DESC, deposit_id DESC);
CREATE INDEX deposits_of_state ON deposits (community_id, state, occurred_at DESC, deposit_id DESC) WHERE state <> 'counted';
CREATE INDEX deposits_of_resident ON deposits (account_id, occurred_at DESC, deposit_id DESC) WHERE account_id IS NOT NULL;
SELECT wall('deposits');

-- What deposits of a month weighed, kept up to date with each of them, so that figures cost the same at a million deposits.
CREATE TABLE monthly_weights (
    community_id uuid NOT NULL,
    -- The first day of the month, in the community's time.
    month date NOT NULL,
    -- Of the bin; absent for bins that stand at no building.
    building_id uuid,
    recyclable_grams bigint NOT NULL,
    kitchen_grams bigint NOT NULL,
    hazardous_grams bigint NOT NULL,
    other_grams bigint NOT NULL,
    deposits bigint NOT NULL,
    contaminated_deposits bigint NOT NULL,
    UNIQUE NULLS NOT DISTINCT (community_id, month, building_id)
);
SELECT wall('monthly_weights');

-- migrate:down
