-- Work orders: what is promised, what was reported, and everything that happened to it.

-- migrate:up

CREATE TABLE categories (
    category_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    code text NOT NULL,
    parent_id uuid REFERENCES categories (category_id),
    name_zh text NOT NULL,
    name_en text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('repair', 'complaint', 'inspection', 'alarm')),
    -- Empty takes the parent's.
    skill text NOT NULL,
    -- By priority: [response, on site, done, round the clock]. Read and written as a whole; what is missing is the parent's.
    promises jsonb NOT NULL,
    -- Null takes the parent's.
    default_priority bigint CHECK (default_priority BETWEEN 1 AND 4),
    in_use boolean NOT NULL DEFAULT true,
    -- Alarms name their category by its code, and a tree is read by code, parents first.
    UNIQUE (community_id, code)
);
SELECT wall('categories');

-- Never changed: an order keeps the terms under which it was reported. The newest are in force.
CREATE TABLE service_terms (
    terms_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    set_at timestamptz NOT NULL,
    set_by uuid NOT NULL,
    -- [weekday, from minute, until minute] each, in the community's time. Read and written as a whole.
    working_hours jsonb NOT NULL,
    follows_holidays boolean NOT NULL,
    escalation_roles text [] NOT NULL,
    offer_s bigint NOT NULL CHECK (offer_s > 0),
    reopen_days bigint NOT NULL CHECK (reopen_days > 0),
    -- The newest is found, and of two at once one is refused.
    UNIQUE (community_id, version)
);
SELECT wall('service_terms');

-- What people call the next order by.
CREATE TABLE order_counters (
    community_id uuid PRIMARY KEY,
    last_number bigint NOT NULL
);
SELECT wall('order_counters');

CREATE TABLE orders (
    order_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    number bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('repair', 'complaint', 'inspection', 'alarm')),
    category_id uuid NOT NULL REFERENCES categories (category_id),
    -- The category's code, which never changes, so that no list has to join it.
    category text NOT NULL,
    -- What it takes, from the category or those above it.
    skill text NOT NULL,
    priority bigint NOT NULL CHECK (priority BETWEEN 1 AND 4),
    state text NOT NULL CHECK (
        state IN (
            'reported', 'triaged', 'dispatched', 'accepted', 'on_site', 'waiting', 'done', 'confirmed', 'reopened', 'cancelled'
        )
    ),
    is_open boolean NOT NULL GENERATED ALWAYS AS (state NOT IN ('done', 'confirmed', 'cancelled')) STORED,
    waits_for text CHECK (waits_for IN ('part', 'resident', 'payment')),
    -- The state to which a waiting order returns.
    paused_in text,
    title text NOT NULL,
    description text NOT NULL,
    household_id uuid,
    building_id uuid,
    place text NOT NULL,
    reporter_account_id uuid,
    visibility text NOT NULL CHECK (visibility IN ('household', 'neighbours', 'reporter')),
    team_id uuid,
    -- Who has it, or to whom it was given; and to whom it is offered.
    technician_account_id uuid,
    offered_to_account_id uuid,
    offer_until timestamptz,
    -- Whose list of jobs it is in.
    worker_account_id uuid GENERATED ALWAYS AS (coalesce(offered_to_account_id, technician_account_id)) STORED,
    is_open_to_all boolean NOT NULL,
    -- The facts of the choice, as JSON; said in words when it is shown.
    dispatch_reason text NOT NULL,
    visit_from timestamptz,
    visit_until timestamptz,
    reported_at timestamptz NOT NULL,
    responded_at timestamptz,
    -- How long the first response took.
    response_s bigint,
    accepted_at timestamptz,
    on_site_at timestamptz,
    done_at timestamptz,
    closed_at timestamptz,
    -- What was promised at the report, in minutes, and under which terms: null are those of a community that has set none.
    response_minutes bigint NOT NULL,
    on_site_minutes bigint NOT NULL,
    done_minutes bigint NOT NULL,
    round_the_clock boolean NOT NULL,
    terms_id uuid REFERENCES service_terms (terms_id),
    response_due_at timestamptz,
    on_site_due_at timestamptz,
    done_due_at timestamptz,
    -- From when promises are counted: the report, or when it was opened again; later by as long as they stood still.
    clock_from timestamptz NOT NULL,
    -- Since when the promises stand still.
    clock_stopped_at timestamptz,
    -- What was told of these promises, such as response.warn_50 and done.level_1, so that nothing is told twice.
    told text [] NOT NULL,
    -- The promises that were ever missed.
    missed text [] NOT NULL,
    missed_at timestamptz,
    duplicate_of_order_id uuid REFERENCES orders (order_id),
    reopened bigint NOT NULL,
    stars bigint NOT NULL CHECK (stars BETWEEN 0 AND 5),
    rating_text text NOT NULL,
    cause text NOT NULL,
    resolution text NOT NULL,
    charge_id uuid,
    amount_fen bigint NOT NULL,
    is_paid boolean NOT NULL,
    -- The service that told of it, and the thing there; both empty when somebody reported it.
    origin text NOT NULL,
    origin_id text NOT NULL,
    -- Grows with every change; orders the events that tell of it.
    version bigint NOT NULL,
    -- All orders, newest first.
    UNIQUE (community_id, number)
);
-- The list of all orders by what managers ask for. Numbers grow, so they also are the order of time.
CREATE INDEX orders_by_state ON orders (community_id, state, number);
CREATE INDEX orders_by_category ON orders (community_id, category_id, number);
CREATE INDEX orders_by_kind ON orders (community_id, kind, number);
CREATE INDEX orders_by_priority ON orders (community_id, priority, number);
CREATE INDEX orders_by_team ON orders (team_id, number) WHERE team_id IS NOT NULL;
CREATE INDEX orders_by_technician ON orders (technician_account_id, number) WHERE technician_account_id IS NOT NULL;
CREATE INDEX orders_by_building ON orders (building_id, number) WHERE building_id IS NOT NULL;
CREATE INDEX orders_open ON orders (community_id, number) WHERE is_open;
CREATE INDEX orders_missed ON orders (community_id, number) WHERE missed_at IS NOT NULL;
-- A reporter's own.
CREATE INDEX orders_by_reporter ON orders (reporter_account_id, number) WHERE reporter_account_id IS NOT NULL;
-- A technician's jobs, the most urgent first: those they have and those offered to them; and those that anybody may take.
CREATE INDEX orders_jobs ON orders (worker_account_id, priority, number) WHERE is_open AND worker_account_id IS NOT NULL;
CREATE INDEX orders_to_take ON orders (community_id, priority, number) WHERE is_open_to_all;
-- How much somebody has to do.
CREATE INDEX orders_in_hand ON orders (technician_account_id) WHERE is_open AND technician_account_id IS NOT NULL;
CREATE INDEX orders_offered ON orders (offered_to_account_id) WHERE offered_to_account_id IS NOT NULL;
-- What neighbours see.
CREATE INDEX orders_public ON orders (community_id, number) WHERE is_open AND visibility = 'neighbours';
-- Figures go by when orders were reported.
CREATE INDEX orders_reported ON orders (community_id, reported_at);
-- Those that end with another.
CREATE INDEX orders_linked ON orders (duplicate_of_order_id) WHERE duplicate_of_order_id IS NOT NULL;
-- What is told twice is one order.
CREATE UNIQUE INDEX orders_by_origin ON orders (community_id, origin, origin_id) WHERE origin <> '';
SELECT wall('orders');

-- What happened, one row for each version of an order.
CREATE TABLE order_steps (
    order_id uuid NOT NULL REFERENCES orders (order_id),
    version bigint NOT NULL,
    community_id uuid NOT NULL,
    action text NOT NULL,
    state text NOT NULL,
    at timestamptz NOT NULL,
    -- Null when the clock or another service did it.
    account_id uuid,
    note text NOT NULL,
    PRIMARY KEY (order_id, version)
);
SELECT wall('order_steps');

-- Who opens the door to a technician. Apart, so that nothing that reads an order reads a phone number.
CREATE TABLE order_contacts (
    order_id uuid PRIMARY KEY REFERENCES orders (order_id),
    community_id uuid NOT NULL,
    key_id text NOT NULL,
    phone bytea NOT NULL,
    -- When its order was closed; null while it is not.
    closed_at timestamptz
);
-- Forgotten some time after that.
CREATE INDEX order_contacts_closed ON order_contacts (closed_at) WHERE closed_at IS NOT NULL;
SELECT wall('order_contacts');

-- What another service told of, written before its order, so that two pieces of news of one thing wait for each other.
CREATE TABLE origins (
    community_id uuid NOT NULL,
    origin text NOT NULL,
    origin_id text NOT NULL,
    -- Whether it is over: news of its beginning may come after that of its end.
    is_over boolean NOT NULL,
    told_at timestamptz NOT NULL,
    PRIMARY KEY (community_id, origin, origin_id)
);
-- Forgotten when nothing can come late any more.
CREATE INDEX origins_told ON origins (told_at);
SELECT wall('origins');

CREATE TABLE photos (
    photo_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    uploaded_by uuid NOT NULL,
    -- What the phone said that it would send.
    bytes bigint NOT NULL CHECK (bytes > 0),
    created_at timestamptz NOT NULL,
    -- Null until it is shown with an order.
    order_id uuid REFERENCES orders (order_id),
    attached_at timestamptz
);
CREATE INDEX photos_by_order ON photos (order_id, attached_at) WHERE order_id IS NOT NULL;
-- What nobody has attached is deleted after a day.
CREATE INDEX photos_unattached ON photos (created_at) WHERE order_id IS NULL;
SELECT wall('photos');

-- migrate:down
