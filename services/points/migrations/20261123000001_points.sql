-- The rules of points, what was earned under them, and what is asked of a second person. Balances and entries are the ledger's.
-- Whoever changes anything that points depend on has the ledger's turn of the community, so nothing here is changed by two at once.

-- migrate:up

-- Versions of the rules. Never changed.
CREATE TABLE rule_books (
    community_id uuid NOT NULL,
    version bigint NOT NULL,
    effective_from timestamptz NOT NULL,
    -- {"rules": [...], "terms": {...}} as `rulebook.py` has them: written once, read whole.
    book jsonb NOT NULL,
    changes_zh text NOT NULL,
    changes_en text NOT NULL,
    published_at timestamptz NOT NULL,
    published_by uuid NOT NULL,
    PRIMARY KEY (community_id, version)
);
SELECT wall('rule_books');

-- Residents and households that have had points.
CREATE TABLE holders (
    holder_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    -- The year up to which what it earned has expired, and the New Year before which it was told that points will: neither is done twice.
    expired_year bigint NOT NULL DEFAULT 0,
    warned_year bigint NOT NULL DEFAULT 0
);
-- The timers' queues.
CREATE INDEX holders_by_expired_year ON holders (community_id, expired_year);
CREATE INDEX holders_by_warned_year ON holders (community_id, warned_year);
SELECT wall('holders');

-- What became of each thing that may earn points. The first answer stays: the same thing is never judged twice.
CREATE TABLE earnings (
    -- The ledger's transfer when it earned points.
    transfer_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    -- The transfer of the thing as it was first told; a correction is another earning of the same claim.
    claim_id uuid NOT NULL,
    source text NOT NULL,
    source_id text NOT NULL,
    -- The category of a deposit; empty for the rest.
    category text NOT NULL,
    -- Which of its kind it was, such as an activity's name; empty for the rest.
    title text NOT NULL,
    account_id uuid NOT NULL,
    measure bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    -- Whose limits it counts for, and who got it; the nil UUID when it earned nothing before either was known.
    earner_id uuid NOT NULL,
    holder_id uuid NOT NULL,
    rule_id text NOT NULL,
    rules_version bigint NOT NULL,
    day date NOT NULL,
    points bigint NOT NULL CHECK (points >= 0),
    -- Why it earned nothing, or less than its measure.
    reason text NOT NULL,
    text_zh text NOT NULL,
    text_en text NOT NULL,
    is_taken_back boolean NOT NULL,
    recorded_at timestamptz NOT NULL
);
-- A thing that is told again, withdrawn or corrected.
CREATE INDEX earnings_of_claim ON earnings (claim_id);
-- Deposits of people of whom nobody had told yet that they live here: they are judged again when somebody has.
CREATE INDEX earnings_without_resident ON earnings (recorded_at) WHERE reason = 'points.not_a_resident';
SELECT wall('earnings');

-- Points by day, of the community's calendar: for limits and leaderboards by who earned them, for expiry by who holds them. Gifts and
-- grants that somebody received are the rules "gift" and "grant".
CREATE TABLE daily_earnings (
    community_id uuid NOT NULL,
    -- The resident, or for a rule of households the household.
    earner_id uuid NOT NULL,
    -- Who got them: the earner, or the household for which the resident pools.
    holder_id uuid NOT NULL,
    rule_id text NOT NULL,
    day date NOT NULL,
    points bigint NOT NULL,
    PRIMARY KEY (community_id, earner_id, rule_id, day, holder_id)
);
-- What a holder earned since a year, for expiry.
CREATE INDEX daily_earnings_of_holder ON daily_earnings (holder_id, day);
-- Leaderboards of a month, on which gifts do not count. Were they in it, the planner would look for what somebody has used of a limit here,
-- among all that the community earned in the month, instead of in the key.
CREATE INDEX daily_earnings_of_month ON daily_earnings (community_id, day) WHERE rule_id <> 'gift';
SELECT wall('daily_earnings');

-- Walks and rides that counted, so that none counts twice; forgotten when they are older than any that may be reported.
CREATE TABLE trips (
    account_id uuid NOT NULL,
    trip_id uuid NOT NULL,
    community_id uuid NOT NULL,
    source text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    distance_m bigint NOT NULL,
    steps bigint NOT NULL,
    device text NOT NULL,
    PRIMARY KEY (account_id, trip_id)
);
-- What overlaps a new one, and what is forgotten.
CREATE INDEX trips_by_end ON trips (account_id, ended_at);
CREATE INDEX trips_old ON trips USING brin (ended_at);
SELECT wall('trips');

-- Points that somebody granted by hand.
CREATE TABLE grants (
    community_id uuid NOT NULL,
    grant_id uuid NOT NULL,
    account_id uuid NOT NULL,
    points bigint NOT NULL CHECK (points > 0),
    reason text NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'granted', 'rejected')),
    requested_by uuid NOT NULL,
    requested_at timestamptz NOT NULL,
    -- The second person; nobody when the limit asked for none.
    decided_by uuid,
    decided_at timestamptz,
    PRIMARY KEY (community_id, grant_id)
);
-- Lists, newest first.
CREATE INDEX grants_newest ON grants (community_id, requested_at DESC, grant_id DESC);
-- What waits or was rejected, newest first: few among all.
CREATE INDEX grants_not_granted ON grants (community_id, state, requested_at DESC, grant_id DESC) WHERE state <> 'granted';
SELECT wall('grants');

-- migrate:down
