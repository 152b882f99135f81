-- Lots and lanes, who may park and at what price, what was read at the lanes, and the sessions that follow from it. Amounts are fen.
-- Whoever changes reads, sessions or gates locks the lot's row first: a lot's lanes decide one after the other.

-- migrate:up

CREATE TABLE lots (
    lot_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    name text NOT NULL,
    full_lot_admits_permits boolean NOT NULL,
    admits_temporary boolean NOT NULL,
    -- Sessions that are open; kept by whoever opens or ends one, under the lock of this row.
    inside bigint NOT NULL DEFAULT 0,
    -- Also finds a community's lots.
    UNIQUE (community_id, name)
);
SELECT wall('lots');

CREATE TABLE areas (
    area_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL REFERENCES lots,
    name text NOT NULL,
    capacity bigint NOT NULL CHECK (capacity > 0),
    -- Also sums up a lot's capacity.
    UNIQUE (lot_id, name)
);
SELECT wall('areas');

CREATE TABLE spaces (
    space_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    area_id uuid NOT NULL REFERENCES areas,
    label text NOT NULL,
    -- Also lists an area's spaces by label.
    UNIQUE (area_id, label)
);
SELECT wall('spaces');

-- A barrier. Lanes may share one, so its commands are counted here.
CREATE TABLE gates (
    community_id uuid NOT NULL,
    gate_device_id text NOT NULL,
    commands bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (community_id, gate_device_id)
);
SELECT wall('gates');

CREATE TABLE lanes (
    lane_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL REFERENCES lots,
    name text NOT NULL,
    direction text NOT NULL CHECK (direction IN ('entry', 'exit')),
    camera_device_id text NOT NULL,
    -- As the camera numbers the lanes that it watches; 0 when it watches one.
    lane_number bigint NOT NULL,
    gate_device_id text NOT NULL,
    opens_offline boolean NOT NULL,
    decision_limit_ms bigint NOT NULL,
    -- Grows with every change, so that those who deliver decisions know the newest.
    version bigint NOT NULL DEFAULT 1,
    UNIQUE (lot_id, name),
    -- A plate read names its camera.
    UNIQUE (community_id, camera_device_id, lane_number),
    FOREIGN KEY (community_id, gate_device_id) REFERENCES gates
);
SELECT wall('lanes');

-- Versions are added, never changed.
CREATE TABLE tariffs (
    tariff_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL REFERENCES lots,
    version bigint NOT NULL,
    effective_from timestamptz NOT NULL,
    effective_until timestamptz,
    -- As docs/tariffs.md describes it, with the version and the beginning that the columns say.
    document jsonb NOT NULL,
    published_by uuid NOT NULL,
    published_at timestamptz NOT NULL,
    UNIQUE (lot_id, version)
);
-- Which version is in force when a car comes in.
CREATE INDEX tariffs_in_force ON tariffs (lot_id, effective_from DESC, version DESC);
SELECT wall('tariffs');

CREATE TABLE permits (
    permit_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL REFERENCES lots,
    household_id uuid NOT NULL,
    space_id uuid NOT NULL REFERENCES spaces,
    plates text[] NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL,
    revoked_at timestamptz,
    CHECK (valid_from < valid_until)
);
-- A lot's permits, newest first.
CREATE INDEX permits_newest ON permits (lot_id, permit_id DESC);
-- One permit for a space at a time.
CREATE INDEX permits_of_space ON permits (space_id, valid_until);
SELECT wall('permits');

CREATE TABLE permit_plates (
    permit_id uuid NOT NULL REFERENCES permits,
    plate text NOT NULL,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL,
    -- The same for plates that cameras take for each other.
    lookalike text NOT NULL,
    -- The permit's, so that those of years ago are not looked at.
    valid_until timestamptz NOT NULL,
    PRIMARY KEY (permit_id, plate)
);
-- The permit of a plate that is read, and the cars that share it.
CREATE INDEX permit_plates_read ON permit_plates (lot_id, lookalike, valid_until);
SELECT wall('permit_plates');

CREATE TABLE visitor_passes (
    visitor_pass_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    household_id uuid NOT NULL,
    plate text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL,
    free_minutes bigint NOT NULL,
    created_by uuid NOT NULL,
    revoked_at timestamptz,
    CHECK (valid_from < valid_until)
);
-- The pass of a plate that is read.
CREATE INDEX visitor_passes_read ON visitor_passes (community_id, plate, valid_until);
-- A household's passes, newest first.
CREATE INDEX visitor_passes_of_household ON visitor_passes (household_id, visitor_pass_id DESC);
SELECT wall('visitor_passes');

CREATE TABLE denials (
    denial_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL REFERENCES lots,
    plate text NOT NULL,
    reason text NOT NULL,
    denied_by uuid NOT NULL,
    -- Also whether a plate that is read is denied.
    UNIQUE (lot_id, plate)
);
SELECT wall('denials');

-- Households' vehicles, copied from identity's events. The newest version wins; a removed one stays, so that an older event changes nothing.
CREATE TABLE vehicles (
    vehicle_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    household_id uuid,
    plate text NOT NULL,
    account_ids uuid[] NOT NULL,
    removed boolean NOT NULL,
    version bigint NOT NULL
);
-- Whose a plate that is read is.
CREATE INDEX vehicles_read ON vehicles (community_id, plate) WHERE NOT removed;
SELECT wall('vehicles');

CREATE TABLE sessions (
    session_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL REFERENCES lots,
    plate text NOT NULL,
    plate_kind text NOT NULL,
    lookalike text NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'left', 'exit_missed')),
    admission text NOT NULL,
    entered_at timestamptz NOT NULL,
    -- When it was read at the exit, or known to be out; infinity while it is inside.
    out_at timestamptz NOT NULL DEFAULT 'infinity',
    -- The price of the whole stay once it has ended, and what was paid and did not go back.
    amount_fen bigint NOT NULL DEFAULT 0,
    paid_fen bigint NOT NULL DEFAULT 0,
    permit_id uuid REFERENCES permits,
    visitor_pass_id uuid REFERENCES visitor_passes,
    free_minutes bigint NOT NULL DEFAULT 0,
    household_id uuid,
    -- The version in force when it came in; NULL when there was none.
    tariff_id uuid REFERENCES tariffs,
    -- What is to be paid for it now, as long as it is not.
    charge_id uuid,
    charge_fen bigint,
    charge_valid_until timestamptz,
    -- Closed as missed because it was not seen for so long.
    abandoned boolean NOT NULL DEFAULT false,
    version bigint NOT NULL DEFAULT 1,
    CHECK ((state = 'open') = (out_at = 'infinity')),
    CHECK ((charge_id IS NULL) = (charge_fen IS NULL) AND (charge_id IS NULL) = (charge_valid_until IS NULL))
);
-- What a read is decided on: the sessions of look-alike plates that are inside.
CREATE INDEX sessions_inside ON sessions (lot_id, lookalike, out_at);
-- Nothing is inside twice.
CREATE UNIQUE INDEX sessions_open ON sessions (lot_id, plate) WHERE state = 'open';
-- Figures by hour and day.
CREATE INDEX sessions_entered ON sessions (lot_id, entered_at);
CREATE INDEX sessions_out ON sessions (lot_id, out_at) WHERE state = 'left';
-- Sessions of cars that were not seen for long.
CREATE INDEX sessions_abandoned ON sessions (entered_at) WHERE state = 'open';
-- Lists, newest first.
CREATE INDEX sessions_newest ON sessions (community_id, session_id DESC);
CREATE INDEX sessions_of_plate ON sessions (community_id, plate, session_id DESC);
CREATE INDEX sessions_of_household ON sessions (household_id, session_id DESC) WHERE household_id IS NOT NULL;
SELECT wall('sessions');

-- Money for sessions, from billing's events.
CREATE TABLE movements (
    -- The payment's id, or the refund's.
    movement_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL,
    session_id uuid NOT NULL REFERENCES sessions,
    charge_id uuid NOT NULL,
    at timestamptz NOT NULL,
    -- Below zero for a refund.
    amount_fen bigint NOT NULL
);
-- What was paid for a session.
CREATE INDEX movements_of_session ON movements (session_id);
-- Revenue by day.
CREATE INDEX movements_by_day ON movements (lot_id, at);
SELECT wall('movements');

-- Every vehicle that a camera read, or a guard saw, at a lane: what sessions are made of.
CREATE TABLE reads (
    read_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL,
    lane_id uuid NOT NULL REFERENCES lanes,
    direction text NOT NULL,
    -- Empty for what a guard saw; the record is then the read itself.
    camera_device_id text NOT NULL,
    record_id text NOT NULL,
    -- Normalised; empty when unread.
    plate text NOT NULL,
    plate_kind text,
    lookalike text NOT NULL,
    -- When it was, as we reckon, and as the camera says.
    passed_at timestamptz NOT NULL,
    occurred_at timestamptz NOT NULL,
    reason text NOT NULL,
    counts boolean NOT NULL,
    opened boolean NOT NULL,
    -- Whether it went out with this read.
    went_out boolean NOT NULL,
    session_id uuid,
    by_hand boolean NOT NULL,
    assigned boolean NOT NULL,
    -- A record that is sent again is the same read.
    UNIQUE (community_id, camera_device_id, record_id)
);
-- What is replayed when a read arrives.
CREATE INDEX reads_replayed ON reads (lot_id, lookalike, passed_at);
-- Whether another vehicle has taken a waiting car's place.
CREATE INDEX reads_at_lane ON reads (lane_id, passed_at);
SELECT wall('reads');

CREATE TABLE gate_openings (
    command_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lane_id uuid NOT NULL REFERENCES lanes,
    gate_device_id text NOT NULL,
    counter bigint NOT NULL,
    reason_code text NOT NULL,
    reason text NOT NULL,
    -- NULL when a rule opened it.
    opened_by uuid,
    session_id uuid,
    read_id uuid,
    requested_at timestamptz NOT NULL,
    -- The gate's own answer; empty until it comes.
    outcome text NOT NULL DEFAULT ''
);
-- Lists, newest first.
CREATE INDEX gate_openings_newest ON gate_openings (community_id, command_id DESC);
CREATE INDEX gate_openings_of_lane ON gate_openings (lane_id, command_id DESC);
SELECT wall('gate_openings');

CREATE TABLE reviews (
    review_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    lot_id uuid NOT NULL,
    kind text NOT NULL,
    -- The read in question or, of a session whose exit was missed, the session.
    about_id uuid NOT NULL,
    lane_id uuid,
    plate_read text NOT NULL,
    session_ids uuid[] NOT NULL,
    occurred_at timestamptz NOT NULL,
    resolved_at timestamptz,
    resolved_by uuid,
    resolved_session_id uuid,
    note text,
    -- The same thing is reviewed once.
    UNIQUE (about_id, kind)
);
-- Lists, newest first, with and without those that are resolved.
CREATE INDEX reviews_newest ON reviews (community_id, review_id DESC);
CREATE INDEX reviews_waiting ON reviews (community_id, review_id DESC) WHERE resolved_at IS NULL;
SELECT wall('reviews');

-- migrate:down
