-- What every service's database holds besides its own tables: the walls between communities, and the tables of servicekit.

-- migrate:up

-- Whether a row of this community may be seen in the present transaction. `*` is the platform scope: relays, timers and look-ups by device.
CREATE FUNCTION in_scope(community uuid) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN current_setting('linli.community', true) = '*' OR community::text = current_setting('linli.community', true);

-- Puts a table behind the wall. Every table that a migration creates is put behind it in the same migration.
CREATE FUNCTION wall(walled regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', walled);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', walled);
    EXECUTE format('CREATE POLICY community ON %s USING (in_scope(community_id)) WITH CHECK (in_scope(community_id))', walled);
END
$$;

CREATE TABLE outbox (
    event_id uuid PRIMARY KEY,
    -- Orders the events of one aggregate: its row is locked while they are written. Says nothing about other aggregates.
    position bigint GENERATED ALWAYS AS IDENTITY,
    community_id uuid NOT NULL,
    subject text NOT NULL,
    type text NOT NULL,
    aggregate text NOT NULL,
    version bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    traceparent text NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at timestamptz
);
-- The relay reads what is unsent, in order; a sent row leaves the index.
CREATE INDEX outbox_unsent ON outbox (position) WHERE sent_at IS NULL;
-- Whoever writes an event asks whether an earlier one of its aggregate waits.
CREATE INDEX outbox_unsent_of_aggregate ON outbox (aggregate) WHERE sent_at IS NULL;
-- Pruning and replay go by age.
CREATE INDEX outbox_created ON outbox USING brin (created_at);
SELECT wall('outbox');

CREATE TABLE inbox (
    consumer text NOT NULL,
    event_id text NOT NULL,
    community_id uuid NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);
CREATE INDEX inbox_handled ON inbox USING brin (handled_at);
SELECT wall('inbox');

CREATE TABLE dead_letters (
    dead_letter_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    consumer text NOT NULL,
    event_id text NOT NULL,
    subject text NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    error text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    replayed_at timestamptz
);
-- `linli deadletters list` reads what waits for a person.
CREATE INDEX dead_letters_waiting ON dead_letters (failed_at) WHERE replayed_at IS NULL;
SELECT wall('dead_letters');

CREATE TABLE idempotency_keys (
    community_id uuid NOT NULL,
    account_id uuid NOT NULL,
    key text NOT NULL,
    method text NOT NULL,
    request_hash bytea NOT NULL,
    response bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (community_id, account_id, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys USING brin (created_at);
SELECT wall('idempotency_keys');

-- The calendars of communities, from identity's events. The newest version wins.
CREATE TABLE known_communities (
    community_id uuid PRIMARY KEY,
    time_zone text NOT NULL,
    version bigint NOT NULL,
    known_since timestamptz NOT NULL
);
SELECT wall('known_communities');

-- migrate:down
