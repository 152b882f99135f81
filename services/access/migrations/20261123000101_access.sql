-- Doors and their terminals, who may pass them, with what, and what they consented to; visitors' passes.

-- migrate:up

CREATE TABLE zones (
    zone_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('community', 'building', 'amenity', 'staff')),
    building_id uuid,
    -- Also lists a community's zones by name.
    UNIQUE (community_id, name),
    CHECK ((kind = 'building') = (building_id IS NOT NULL))
);
SELECT wall('zones');

CREATE TABLE doors (
    door_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    zone_id uuid NOT NULL REFERENCES zones,
    name text NOT NULL,
    kind text NOT NULL,
    credential_kinds text[] NOT NULL,
    anti_passback text NOT NULL CHECK (anti_passback IN ('off', 'report', 'refuse')),
    held_open_limit_s bigint NOT NULL CHECK (held_open_limit_s > 0),
    in_use boolean NOT NULL DEFAULT true,
    -- Also lists a community's doors by name.
    UNIQUE (community_id, name)
);
-- The doors of a zone by name.
CREATE INDEX doors_of_zone ON doors (zone_id, name);
SELECT wall('doors');

-- A terminal at one side of a door. The row of one that was taken away stays: its versions and its counter never go back.
CREATE TABLE terminals (
    device_id text NOT NULL,
    community_id uuid NOT NULL,
    door_id uuid NOT NULL REFERENCES doors,
    direction text NOT NULL CHECK (direction IN ('in', 'out')),
    -- The newest version of what it is to know, and the one that it has confirmed.
    wanted_version bigint NOT NULL DEFAULT 0,
    confirmed_version bigint NOT NULL DEFAULT 0,
    -- The newest version that was sent to it, which it may not have heard.
    sent_version bigint NOT NULL DEFAULT 0,
    -- Until it has confirmed this version it is sent everything: what it has is not what we think.
    whole_version bigint NOT NULL DEFAULT 0,
    -- Grows with every command, under the lock of this row.
    command_counter bigint NOT NULL DEFAULT 0,
    added_at timestamptz NOT NULL,
    removed_at timestamptz,
    last_reported_at timestamptz,
    PRIMARY KEY (community_id, device_id)
);
-- A door's terminals.
CREATE INDEX terminals_of_door ON terminals (door_id) WHERE removed_at IS NULL;
-- Those that are behind.
CREATE INDEX terminals_behind ON terminals (community_id, device_id) WHERE removed_at IS NULL AND confirmed_version < wanted_version;
-- Those to which something new is to be sent; one that was taken away is to forget everything.
CREATE INDEX terminals_unsent ON terminals (community_id, device_id) WHERE sent_version < wanted_version;
SELECT wall('terminals');

CREATE TABLE access_rules (
    rule_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    zone_id uuid NOT NULL REFERENCES zones,
    whom text NOT NULL CHECK (whom IN ('residents', 'building', 'household', 'account', 'role')),
    -- The building, household or account; the role has its name.
    whom_id uuid,
    role text,
    -- As [weekdays as bits, from, until] in minutes; at any time without one.
    windows jsonb NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz,
    created_by uuid NOT NULL,
    CHECK ((whom IN ('building', 'household', 'account')) = (whom_id IS NOT NULL)),
    CHECK ((whom = 'role') = (role IS NOT NULL))
);
-- Lists, newest first; also the rules that hold.
CREATE INDEX access_rules_newest ON access_rules (community_id, rule_id DESC);
CREATE INDEX access_rules_of_zone ON access_rules (zone_id, rule_id DESC);
SELECT wall('access_rules');

-- What opens doors. Cards and PINs are kept as keyed digests, a face as a template in a table of its own or not at all.
CREATE TABLE credentials (
    credential_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    account_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('face', 'card', 'pin')),
    -- The end of a card's number, the number that is typed before a PIN.
    label text NOT NULL,
    -- Goes when the credential ends.
    digest bytea,
    issued_by uuid NOT NULL,
    issued_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CHECK ((kind = 'face' OR revoked_at IS NOT NULL) = (digest IS NULL))
);
-- Whose a card is that somebody shows; a card and a typed number are one person's at a time.
CREATE UNIQUE INDEX credentials_shown ON credentials (community_id, kind, digest) WHERE revoked_at IS NULL;
-- The number before a PIN is one person's.
CREATE UNIQUE INDEX credentials_pin_numbers ON credentials (community_id, label) WHERE kind = 'pin' AND revoked_at IS NULL;
-- One PIN and one face each.
CREATE UNIQUE INDEX credentials_single ON credentials (community_id, account_id, kind) WHERE kind <> 'card' AND revoked_at IS NULL;
-- Lists, newest first: all, or one account's; those without the revoked ones are most of them.
CREATE INDEX credentials_newest ON credentials (community_id, credential_id DESC);
CREATE INDEX credentials_of_account ON credentials (account_id, credential_id DESC);
SELECT wall('credentials');

-- Encrypted templates of faces whose owners consented to that. The row goes with the consent.
CREATE TABLE face_templates (
    credential_id uuid PRIMARY KEY REFERENCES credentials,
    community_id uuid NOT NULL,
    account_id uuid NOT NULL,
    key_id text NOT NULL,
    sealed bytea NOT NULL
);
-- What goes when somebody withdraws.
CREATE INDEX face_templates_of_account ON face_templates (account_id);
SELECT wall('face_templates');

-- Versions are added, never changed.
CREATE TABLE consent_texts (
    community_id uuid NOT NULL,
    kind text NOT NULL,
    version bigint NOT NULL,
    text_zh text NOT NULL,
    text_en text NOT NULL,
    published_by uuid NOT NULL,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (community_id, kind, version)
);
SELECT wall('consent_texts');

CREATE TABLE consents (
    consent_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    kind text NOT NULL,
    -- Whom it is about, and who gave it.
    account_id uuid NOT NULL,
    given_by uuid NOT NULL,
    text_version bigint NOT NULL,
    channel text NOT NULL CHECK (channel IN ('app', 'paper')),
    -- Who wrote down what was signed on paper.
    recorded_by uuid,
    given_at timestamptz NOT NULL,
    withdrawn_at timestamptz,
    -- Nobody, when the person neither lives nor works here any more.
    withdrawn_by uuid,
    FOREIGN KEY (community_id, kind, text_version) REFERENCES consent_texts,
    CHECK ((channel = 'paper') = (recorded_by IS NOT NULL))
);
-- Whether somebody consents now; a new version of the text adds one.
CREATE UNIQUE INDEX consents_live ON consents (community_id, account_id, kind, text_version) WHERE withdrawn_at IS NULL;
-- Lists, newest first: all, those about an account, and those that a guardian gave.
CREATE INDEX consents_newest ON consents (community_id, consent_id DESC);
CREATE INDEX consents_of_account ON consents (account_id, consent_id DESC);
CREATE INDEX consents_given ON consents (given_by, consent_id DESC);
SELECT wall('consents');

-- What a terminal still had to forget when a consent was withdrawn.
CREATE TABLE consent_removals (
    consent_id uuid NOT NULL REFERENCES consents,
    device_id text NOT NULL,
    community_id uuid NOT NULL,
    -- The version of what the terminal knows that is without it.
    version bigint NOT NULL,
    confirmed_at timestamptz,
    PRIMARY KEY (consent_id, device_id),
    FOREIGN KEY (community_id, device_id) REFERENCES terminals
);
-- What a terminal confirms with a version.
CREATE INDEX consent_removals_waiting ON consent_removals (community_id, device_id, version) WHERE confirmed_at IS NULL;
SELECT wall('consent_removals');

CREATE TABLE passes (
    pass_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('visit', 'delivery', 'contractor')),
    household_id uuid,
    work_order_id uuid,
    visitor_name text NOT NULL,
    -- Normalised; empty when the visitor walks.
    plate text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL,
    -- How often each door lets in on it; 0 is any number of times.
    entries_max bigint NOT NULL,
    zone_ids uuid[] NOT NULL,
    -- SHA-256 of the secret in the visitor's link.
    secret_hash bytea NOT NULL,
    invited_by uuid NOT NULL,
    confirmed_at timestamptz,
    ended_at timestamptz,
    -- When every door on its way had let in as often as it may.
    used_up_at timestamptz,
    last_used_at timestamptz,
    version bigint NOT NULL DEFAULT 1,
    CHECK (valid_from < valid_until),
    CHECK ((kind = 'contractor') = (work_order_id IS NOT NULL) AND (kind = 'contractor') = (household_id IS NULL))
);
-- Lists, newest first: all, and a household's; also how many of them a household has.
CREATE INDEX passes_newest ON passes (community_id, pass_id DESC);
CREATE INDEX passes_of_household ON passes (household_id, pass_id DESC) WHERE household_id IS NOT NULL;
-- Those that end with a work order, or with a resident's moving out.
CREATE INDEX passes_of_work_order ON passes (work_order_id) WHERE work_order_id IS NOT NULL AND ended_at IS NULL;
-- Those that may still open something, which terminals know.
CREATE INDEX passes_live ON passes (community_id, valid_until) WHERE confirmed_at IS NOT NULL;
-- The oldest are forgotten.
CREATE INDEX passes_oldest ON passes (valid_until);
SELECT wall('passes');

-- How often a door has let in on a pass.
CREATE TABLE pass_entries (
    pass_id uuid NOT NULL REFERENCES passes,
    door_id uuid NOT NULL REFERENCES doors,
    community_id uuid NOT NULL,
    entries bigint NOT NULL,
    PRIMARY KEY (pass_id, door_id)
);
SELECT wall('pass_entries');

-- Work orders as far as contractors' passes go, from workorders' events. The newest version wins.
CREATE TABLE known_work_orders (
    order_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    closed boolean NOT NULL,
    -- When somebody comes, as agreed.
    visit_from timestamptz,
    visit_until timestamptz,
    version bigint NOT NULL
);
SELECT wall('known_work_orders');

-- migrate:down
