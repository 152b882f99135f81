-- What is owed, the attempts to pay it, what went back, and what the provider's books say about it. Amounts are fen.
-- Whoever changes payments or refunds so that a charge's state may change locks the charge's row first.

-- migrate:up

CREATE TABLE charges (
    charge_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    -- The service that raised it, and the thing it is for there.
    origin text NOT NULL,
    origin_id text NOT NULL,
    amount_fen bigint NOT NULL CHECK (amount_fen > 0),
    text_zh text NOT NULL,
    text_en text NOT NULL,
    -- A charge whose time has passed stays `due` here: money that was taken in time may still be reported later.
    state text NOT NULL CHECK (state IN ('due', 'paid', 'cancelled', 'refunded')),
    payable_until timestamptz NOT NULL,
    raised_at timestamptz NOT NULL,
    replaces_charge_id uuid
);
-- Lists, newest first.
CREATE INDEX charges_newest ON charges (community_id, raised_at DESC, charge_id DESC);
-- Lists of one origin's charges, such as all of a parking session.
CREATE INDEX charges_origin ON charges (community_id, origin_id, raised_at DESC, charge_id DESC);
-- A replacement may arrive before the charge that it replaces, which then looks for it.
CREATE INDEX charges_replaces ON charges (replaces_charge_id) WHERE replaces_charge_id IS NOT NULL;
SELECT wall('charges');

CREATE TABLE payments (
    payment_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    charge_id uuid NOT NULL REFERENCES charges,
    provider text NOT NULL,
    -- Who started it.
    account_id uuid NOT NULL,
    -- The order at the provider: the payment's own id, or another payment's when the provider took money twice for that one's order.
    order_id uuid NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'succeeded', 'closed', 'returned')),
    amount_fen bigint NOT NULL CHECK (amount_fen > 0),
    -- Empty until the provider has confirmed the order.
    pay_url text NOT NULL,
    created_at timestamptz NOT NULL,
    -- The provider takes no money for the order after this instant.
    expires_at timestamptz NOT NULL,
    -- When the provider took the money, by its clock, and its number for that.
    paid_at timestamptz,
    provider_payment_id text,
    -- Refunds that are under way or done, and those that are done. No code can give back more than came in.
    refund_claimed_fen bigint NOT NULL DEFAULT 0 CHECK (refund_claimed_fen BETWEEN 0 AND amount_fen),
    refunded_fen bigint NOT NULL DEFAULT 0 CHECK (refunded_fen BETWEEN 0 AND refund_claimed_fen),
    -- When the provider is next asked about a pending payment.
    next_query_at timestamptz NOT NULL,
    CHECK ((state IN ('succeeded', 'returned')) = (provider_payment_id IS NOT NULL AND paid_at IS NOT NULL))
);
-- A charge is settled by one payment, ever.
CREATE UNIQUE INDEX payments_settled_once ON payments (charge_id) WHERE state = 'succeeded';
-- A payer who asks again gets the order that is open already.
CREATE UNIQUE INDEX payments_open_once ON payments (charge_id, provider, account_id) WHERE state = 'pending';
-- One taking of money is one payment, however often it is reported.
CREATE UNIQUE INDEX payments_taken_once ON payments (provider, provider_payment_id) WHERE provider_payment_id IS NOT NULL;
-- The timer's queue.
CREATE INDEX payments_to_query ON payments (next_query_at) WHERE state = 'pending';
-- Lists, newest first, of the community and of one payer.
CREATE INDEX payments_newest ON payments (community_id, payment_id DESC);
CREATE INDEX payments_of_account ON payments (account_id, payment_id DESC);
-- All payments of a charge, and all of an order for reconciliation.
CREATE INDEX payments_of_charge ON payments (charge_id);
CREATE INDEX payments_of_order ON payments (order_id);
-- The payments of a day.
CREATE INDEX payments_of_day ON payments (community_id, paid_at) WHERE paid_at IS NOT NULL;
SELECT wall('payments');

CREATE TABLE refunds (
    refund_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    payment_id uuid NOT NULL REFERENCES payments,
    amount_fen bigint NOT NULL CHECK (amount_fen > 0),
    reason text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'succeeded', 'failed')),
    created_at timestamptz NOT NULL,
    -- When the provider finished it, by its clock.
    finished_at timestamptz,
    -- When the provider is next asked to make it, or what became of it.
    next_attempt_at timestamptz NOT NULL,
    attempts bigint NOT NULL DEFAULT 0
);
-- The refunds of a payment.
CREATE INDEX refunds_of_payment ON refunds (payment_id, refund_id);
-- The timer's queue.
CREATE INDEX refunds_to_send ON refunds (next_attempt_at) WHERE state = 'pending';
-- The refunds of a day.
CREATE INDEX refunds_of_day ON refunds (community_id, finished_at) WHERE state = 'succeeded';
SELECT wall('refunds');

CREATE TABLE reconciliations (
    reconciliation_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    provider text NOT NULL,
    -- The community's calendar day.
    day date NOT NULL,
    matched bigint NOT NULL,
    -- An array of {kind, reference, our_amount_fen, provider_amount_fen}: written once, read whole.
    differences jsonb NOT NULL,
    run_at timestamptz NOT NULL
);
-- Lists, newest day first, and the timer's question whether a day is done.
CREATE INDEX reconciliations_newest ON reconciliations (community_id, day DESC, reconciliation_id DESC);
SELECT wall('reconciliations');

-- What a person must look at: money that does not fit. Its community is the nil UUID when none is known.
CREATE TABLE incidents (
    incident_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    provider text NOT NULL,
    kind text NOT NULL,
    -- The order or refund, as the provider knows it, and the provider's own number where there is one.
    reference text NOT NULL,
    transaction_id text NOT NULL,
    our_amount_fen bigint NOT NULL,
    provider_amount_fen bigint NOT NULL,
    noted_at timestamptz NOT NULL
);
-- The provider reports again what we refused; it is one incident.
CREATE UNIQUE INDEX incidents_once ON incidents (community_id, provider, kind, reference, transaction_id);
SELECT wall('incidents');

-- migrate:down
