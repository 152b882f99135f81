-- Who does orders and who was asked, what work costs, how it was rated, and what is inspected again and again.

-- migrate:up

CREATE TABLE teams (
    team_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    name text NOT NULL,
    foreman_account_id uuid,
    -- The list goes by name.
    UNIQUE (community_id, name)
);
SELECT wall('teams');

CREATE TABLE technicians (
    account_id uuid NOT NULL,
    community_id uuid NOT NULL,
    name text NOT NULL,
    team_id uuid NOT NULL REFERENCES teams (team_id),
    skills text [] NOT NULL,
    -- The buildings they look after; none are all.
    building_ids uuid [] NOT NULL,
    -- [weekday, from minute, until minute] each, in the community's time. Read and written as a whole.
    shifts jsonb NOT NULL,
    in_use boolean NOT NULL,
    PRIMARY KEY (community_id, account_id)
);
-- The list goes by name.
CREATE INDEX technicians_by_name ON technicians (community_id, name, account_id);
SELECT wall('technicians');

-- Where technicians said that they were. Kept for an hour, the last of each.
CREATE TABLE technician_positions (
    account_id uuid NOT NULL,
    community_id uuid NOT NULL,
    -- Degrees, WGS 84.
    latitude double precision NOT NULL,
    longitude double precision NOT NULL,
    reported_at timestamptz NOT NULL,
    PRIMARY KEY (community_id, account_id)
);
-- The oldest are forgotten.
CREATE INDEX technician_positions_oldest ON technician_positions (reported_at);
SELECT wall('technician_positions');

CREATE TABLE building_positions (
    building_id uuid NOT NULL,
    community_id uuid NOT NULL,
    -- Degrees, WGS 84.
    latitude double precision NOT NULL,
    longitude double precision NOT NULL,
    PRIMARY KEY (community_id, building_id)
);
SELECT wall('building_positions');

-- Who was asked since an order was last dispatched, so that nobody is asked twice. What became of it is in the order's steps.
CREATE TABLE offers (
    order_id uuid NOT NULL REFERENCES orders (order_id),
    account_id uuid NOT NULL,
    community_id uuid NOT NULL,
    offered_at timestamptz NOT NULL,
    PRIMARY KEY (order_id, account_id)
);
SELECT wall('offers');

-- Every version of every price; the newest of a code is in force. Never changed: quotes name theirs.
CREATE TABLE prices (
    community_id uuid NOT NULL,
    code text NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    name_zh text NOT NULL,
    name_en text NOT NULL,
    unit text NOT NULL CHECK (unit IN ('piece', 'metre', 'hour', 'visit')),
    price_fen bigint NOT NULL CHECK (price_fen >= 0),
    labour boolean NOT NULL,
    in_use boolean NOT NULL,
    set_by uuid NOT NULL,
    set_at timestamptz NOT NULL,
    -- Also finds the newest of each, in the order of the list.
    PRIMARY KEY (community_id, code, version)
);
SELECT wall('prices');

CREATE TABLE quotes (
    quote_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    order_id uuid NOT NULL REFERENCES orders (order_id),
    -- Code, version, names, unit, hundredths of a unit, price and amount of each. Read and written as a whole.
    lines jsonb NOT NULL,
    total_fen bigint NOT NULL CHECK (total_fen >= 0),
    prepaid boolean NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'agreed', 'refused', 'replaced')),
    quoted_by uuid NOT NULL,
    quoted_at timestamptz NOT NULL,
    answered_at timestamptz,
    answered_by uuid,
    -- The charge for it in billing, once it was raised.
    charge_id uuid
);
-- An order's quotes go newest first, and identifiers sort by age.
CREATE INDEX quotes_by_order ON quotes (order_id, quote_id DESC);
-- One waits for an answer at a time, and one is agreed.
CREATE UNIQUE INDEX quotes_open ON quotes (order_id) WHERE state = 'open';
CREATE UNIQUE INDEX quotes_agreed ON quotes (order_id) WHERE state = 'agreed';
SELECT wall('quotes');

-- How each completion of an order was rated: one that failed and was done again is rated again.
CREATE TABLE ratings (
    order_id uuid NOT NULL REFERENCES orders (order_id),
    -- How often the order had been reopened before.
    reopened bigint NOT NULL,
    community_id uuid NOT NULL,
    stars bigint NOT NULL CHECK (stars BETWEEN 1 AND 5),
    rating_text text NOT NULL,
    rated_by uuid NOT NULL,
    rated_at timestamptz NOT NULL,
    PRIMARY KEY (order_id, reopened)
);
SELECT wall('ratings');

CREATE TABLE inspections (
    inspection_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    name text NOT NULL,
    category_id uuid NOT NULL REFERENCES categories (category_id),
    building_id uuid,
    place text NOT NULL,
    -- A local date and time, such as 2026-01-05T09:00: an instant only in the community's zone of the day.
    starts_at text NOT NULL,
    -- RFC 5545 §3.3.10.
    recurrence text NOT NULL,
    checklist text [] NOT NULL,
    -- Null when it does not come any more.
    next_at timestamptz,
    ended_at timestamptz,
    created_by uuid NOT NULL,
    created_at timestamptz NOT NULL
);
-- The list goes by name.
CREATE INDEX inspections_by_name ON inspections (community_id, name, inspection_id);
SELECT wall('inspections');

-- migrate:down
