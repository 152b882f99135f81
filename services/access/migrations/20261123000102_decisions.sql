-- What each terminal is to know, what happened at doors, and the terminals' journals.

-- migrate:up

-- What a terminal is to know of a subject. Whoever changes rows has the community's turn, and raises the terminal's wanted_version.
CREATE TABLE terminal_entries (
    device_id text NOT NULL,
    subject_id uuid NOT NULL,
    community_id uuid NOT NULL,
    -- The terminal's version that brought the entry as it is.
    version bigint NOT NULL,
    -- The newest version that took something from the subject: such entries are sent first.
    narrowed_version bigint NOT NULL,
    -- As it is sent, JSON; absent when the terminal is to forget the subject. Such a row stays until the terminal has confirmed its version.
    body text,
    -- Whether the terminal may know the subject's face, because it is to, or has not confirmed yet that it forgot it.
    holds_face boolean NOT NULL,
    PRIMARY KEY (community_id, device_id, subject_id)
);
-- What changed since a version.
CREATE INDEX terminal_entries_changed ON terminal_entries (community_id, device_id, version);
-- What terminals know of a subject.
CREATE INDEX terminal_entries_of_subject ON terminal_entries (community_id, subject_id);
SELECT wall('terminal_entries');

-- What happened at doors, as terminals asked or told. The rows are deleted when they are old.
-- A terminal that was away tells ten thousand at once, so nothing is checked here that was known before, and each index must be worth it.
CREATE TABLE passages (
    passage_id uuid NOT NULL,
    community_id uuid NOT NULL,
    door_id uuid NOT NULL,
    device_id text NOT NULL,
    direction text NOT NULL CHECK (direction IN ('in', 'out')),
    -- The terminal's id of what was shown, or that of the command when a door was opened from afar. What a terminal tells that is neither
    -- has one made of its place in the journal.
    presentation_id text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('opened', 'refused', 'requested', 'released')),
    reason text NOT NULL,
    kind text,
    account_id uuid,
    pass_id uuid,
    -- Who sees it as their own: the account, or who invited the visitor.
    owner_id uuid,
    opened_by uuid,
    -- Why somebody opened from afar.
    note text NOT NULL,
    -- The beginning of a card's digest, to tell cards of one person apart.
    card bytea,
    occurred_at timestamptz NOT NULL,
    offline boolean NOT NULL,
    -- A decision and the journal's word for it are one row.
    PRIMARY KEY (community_id, device_id, presentation_id)
);
-- Lists, newest first: all, a door's, and a person's, which also tells where else a card was shown.
CREATE INDEX passages_newest ON passages (community_id, occurred_at DESC, passage_id DESC);
CREATE INDEX passages_of_door ON passages (door_id, occurred_at DESC, passage_id DESC);
CREATE INDEX passages_of_owner ON passages (owner_id, occurred_at DESC, passage_id DESC) WHERE owner_id IS NOT NULL;
-- A pass's passages, and the few that are no openings: also how often somebody was refused lately.
CREATE INDEX passages_of_pass ON passages (pass_id, occurred_at DESC, passage_id DESC) WHERE pass_id IS NOT NULL;
CREATE INDEX passages_not_opened ON passages (community_id, outcome, occurred_at DESC, passage_id DESC) WHERE outcome <> 'opened';
-- The oldest are forgotten.
CREATE INDEX passages_oldest ON passages USING brin (occurred_at);
SELECT wall('passages');

-- Who came into a zone or left it last, where a door of the zone minds. Forgotten when it means nothing any more.
CREATE TABLE presences (
    zone_id uuid NOT NULL REFERENCES zones,
    subject_id uuid NOT NULL,
    community_id uuid NOT NULL,
    inside boolean NOT NULL,
    since timestamptz NOT NULL,
    PRIMARY KEY (zone_id, subject_id)
);
SELECT wall('presences');

-- The nonces of dynamic codes that opened a door, until no terminal takes them any more; those that opened offline come later, with journals.
CREATE TABLE used_codes (
    nonce bytea NOT NULL,
    community_id uuid NOT NULL,
    door_id uuid NOT NULL REFERENCES doors,
    device_id text NOT NULL,
    presentation_id text NOT NULL,
    used_at timestamptz NOT NULL,
    PRIMARY KEY (community_id, nonce)
);
-- The oldest are forgotten.
CREATE INDEX used_codes_oldest ON used_codes USING brin (used_at);
SELECT wall('used_codes');

-- How far we have come with a terminal's journal. Whoever takes in a part locks the row.
CREATE TABLE journals (
    device_id text NOT NULL,
    community_id uuid NOT NULL,
    -- Grows when the terminal begins anew.
    epoch bigint NOT NULL DEFAULT 0,
    -- The newest record that it has told of, and how many we hold.
    told_sequence bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    -- When the newest part came.
    held_at timestamptz,
    broken_at timestamptz,
    -- Since when more is missing than staff were told of, and of how much they were.
    gap_since timestamptz,
    lost bigint NOT NULL DEFAULT 0,
    -- What has to be added to the terminal's clock, in microseconds, as its last report showed.
    clock_error_us bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (community_id, device_id)
);
SELECT wall('journals');

-- Which records of a journal we hold, each stretch without a gap.
CREATE TABLE journal_segments (
    device_id text NOT NULL,
    epoch bigint NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence bigint NOT NULL,
    community_id uuid NOT NULL,
    previous_hash bytea NOT NULL,
    last_hash bytea NOT NULL,
    PRIMARY KEY (community_id, device_id, epoch, first_sequence)
);
SELECT wall('journal_segments');

-- The records themselves, as they came: a JSON array of texts. Deleted when they are old.
CREATE TABLE journal_parts (
    device_id text NOT NULL,
    epoch bigint NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence bigint NOT NULL,
    last_hash bytea NOT NULL,
    community_id uuid NOT NULL,
    previous_hash bytea NOT NULL,
    -- Whether it contradicts what we held when it came.
    contradicts boolean NOT NULL,
    received_at timestamptz NOT NULL,
    records text NOT NULL,
    PRIMARY KEY (community_id, device_id, epoch, first_sequence, last_hash)
);
-- The oldest are forgotten.
CREATE INDEX journal_parts_oldest ON journal_parts USING brin (received_at);
SELECT wall('journal_parts');

-- migrate:down
