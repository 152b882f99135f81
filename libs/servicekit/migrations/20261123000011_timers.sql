-- What is to be done at an instant that a business action has set: deadlines, warnings before them, expiries.

-- migrate:up

CREATE TABLE timers (
    community_id uuid NOT NULL,
    -- What the timer is about; the same subject may have several.
    subject_id uuid NOT NULL,
    -- Which handler judges it.
    kind text NOT NULL,
    -- Tells the timers of one kind and subject apart, such as the warnings at a half and at four fifths of a target.
    name text NOT NULL,
    due_at timestamptz NOT NULL,
    -- When it is taken up: when it is due, and after a failure later.
    try_at timestamptz NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    -- The community first: whoever chooses a subject's id must not meet another community's timers.
    PRIMARY KEY (community_id, subject_id, kind, name)
);
-- What is due is found by its first entries, however many are pending.
CREATE INDEX timers_due ON timers (try_at);
-- A fired timer leaves a dead entry at the very place where the next one is looked for, so cleaning begins after a few thousand of them
-- and not after a fifth of what is pending.
ALTER TABLE timers SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
SELECT wall('timers');

-- migrate:down
