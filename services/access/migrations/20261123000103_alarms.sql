-- Alarms, what raises them and what explains them; care for people who asked for it.

-- migrate:up

-- Where cameras and sensors are.
CREATE TABLE watch_points (
    watch_point_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    source_id text NOT NULL,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('camera', 'sensor')),
    zone_id uuid NOT NULL REFERENCES zones,
    in_use boolean NOT NULL DEFAULT true,
    -- Also finds the place of what a source observes.
    UNIQUE (community_id, source_id)
);
-- Lists by name: all, and a zone's.
CREATE INDEX watch_points_by_name ON watch_points (community_id, name, watch_point_id);
CREATE INDEX watch_points_of_zone ON watch_points (zone_id, name, watch_point_id);
SELECT wall('watch_points');

-- The rules that a community has set; `zone_id` is null for everywhere.
CREATE TABLE alarm_rules (
    alarm_rule_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    kind text NOT NULL,
    zone_id uuid REFERENCES zones,
    enabled boolean NOT NULL,
    severity bigint NOT NULL CHECK (severity BETWEEN 1 AND 3),
    window_s bigint NOT NULL CHECK (window_s > 0),
    confidence_min_permille bigint NOT NULL,
    -- As [weekdays as bits, from, until] in minutes; at any time without one.
    windows jsonb NOT NULL,
    work_order_category text NOT NULL,
    escalate_after_s bigint NOT NULL,
    set_by uuid NOT NULL,
    set_at timestamptz NOT NULL,
    -- Also reads a community's rules, which are few, all together.
    UNIQUE NULLS NOT DISTINCT (community_id, kind, zone_id)
);
SELECT wall('alarm_rules');

CREATE TABLE maintenances (
    maintenance_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    zone_id uuid NOT NULL REFERENCES zones,
    -- Empty for the whole zone.
    source_id text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    reason text NOT NULL,
    planned_by uuid NOT NULL,
    -- Observations that raised no alarm because of it.
    suppressed bigint NOT NULL DEFAULT 0
);
-- Lists, newest first.
CREATE INDEX maintenances_newest ON maintenances (community_id, maintenance_id DESC);
-- What explains an observation in a zone.
CREATE INDEX maintenances_of_zone ON maintenances (zone_id, ends_at);
SELECT wall('maintenances');

-- Each observation that was counted, once. Kept for longer than anything is sent again.
CREATE TABLE counted_observations (
    observation_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    counted_at timestamptz NOT NULL
);
-- Rows come in the order of their age, and go by it.
CREATE INDEX counted_observations_counted ON counted_observations USING brin (counted_at);
SELECT wall('counted_observations');

CREATE TABLE alarms (
    alarm_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    kind text NOT NULL,
    severity bigint NOT NULL CHECK (severity BETWEEN 1 AND 3),
    state text NOT NULL DEFAULT 'raised' CHECK (state IN ('raised', 'acknowledged', 'closed')),
    source_id text NOT NULL,
    -- What tells one person or thing from another; empty when the source does not.
    track_id text NOT NULL,
    place text NOT NULL,
    zone_id uuid,
    door_id uuid,
    building_id uuid,
    -- The first and the last of its observations, by when they were made, and how many there are.
    raised_at timestamptz NOT NULL,
    last_observed_at timestamptz NOT NULL,
    observations bigint NOT NULL,
    -- Keys in the blob store.
    image_keys text[] NOT NULL,
    -- When we raised it.
    told_at timestamptz NOT NULL,
    -- By the rule that was in force then.
    escalate_after_s bigint NOT NULL,
    escalations bigint NOT NULL DEFAULT 0,
    acknowledged_by uuid,
    acknowledged_at timestamptz,
    closed_by uuid,
    closed_at timestamptz,
    cause text NOT NULL DEFAULT '',
    false_alarm boolean NOT NULL DEFAULT false,
    note text NOT NULL DEFAULT '',
    work_order_id text NOT NULL DEFAULT '',
    work_order_version bigint NOT NULL DEFAULT 0,
    -- The care plan whose person it is about, until care ends.
    care_plan_id uuid,
    -- The alarm that it turned out to be part of.
    merged_into uuid,
    version bigint NOT NULL DEFAULT 1,
    CHECK ((state = 'closed') = (closed_at IS NOT NULL))
);
-- Lists, newest first: all, those in a state, of a kind, of a source. Figures of some days read the first.
CREATE INDEX alarms_newest ON alarms (community_id, told_at DESC, alarm_id DESC);
CREATE INDEX alarms_in_state ON alarms (community_id, state, told_at DESC, alarm_id DESC);
CREATE INDEX alarms_of_kind ON alarms (community_id, kind, told_at DESC, alarm_id DESC);
CREATE INDEX alarms_of_source ON alarms (community_id, source_id, told_at DESC, alarm_id DESC);
-- Which alarms an observation may belong to.
CREATE INDEX alarms_near ON alarms (community_id, source_id, kind, (greatest(last_observed_at, closed_at))) WHERE merged_into IS NULL;
-- The alarm that is open for a person.
CREATE INDEX alarms_of_care ON alarms (care_plan_id) WHERE care_plan_id IS NOT NULL;
SELECT wall('alarms');

-- What ingest said last of a device: since when it is silent, null when it is heard. The newest version wins.
CREATE TABLE device_statuses (
    community_id uuid NOT NULL,
    device_id text NOT NULL,
    silent_since timestamptz,
    version bigint NOT NULL,
    PRIMARY KEY (community_id, device_id)
);
SELECT wall('device_statuses');

-- Care for a person. Of one that has stopped only who, for whom and when is left.
CREATE TABLE care_plans (
    care_plan_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('activity', 'safe_area')),
    account_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    stopped_at timestamptz,
    -- Latitude and longitude of each corner, one after the other; empty for activity.
    safe_area double precision[] NOT NULL,
    -- When something was noticed first and last, when we worry unless something is, and whether we do.
    first_activity_at timestamptz,
    last_activity_at timestamptz,
    worry_at timestamptz,
    worries boolean NOT NULL DEFAULT false,
    -- Whether a sensor was silent since the last activity, so that nothing is learned from the quiet.
    is_quiet_doubtful boolean NOT NULL DEFAULT false,
    -- How many positions in a row were outside. Where they were is kept nowhere.
    outside_in_row bigint NOT NULL DEFAULT 0
);
-- One of a kind for each person.
CREATE UNIQUE INDEX care_plans_live ON care_plans (community_id, account_id, kind) WHERE stopped_at IS NULL;
-- Lists.
CREATE INDEX care_plans_of_account ON care_plans (account_id, care_plan_id DESC);
SELECT wall('care_plans');

CREATE TABLE care_guardians (
    care_plan_id uuid NOT NULL REFERENCES care_plans,
    account_id uuid NOT NULL,
    community_id uuid NOT NULL,
    -- Whether they are one because they live with the person, who did not name them: then they are until they do not.
    of_household boolean NOT NULL,
    PRIMARY KEY (care_plan_id, account_id)
);
-- The plans of a guardian.
CREATE INDEX care_guardians_by_account ON care_guardians (account_id, care_plan_id DESC);
SELECT wall('care_guardians');

-- The sensors and wearables of plans that go on.
CREATE TABLE care_sources (
    care_plan_id uuid NOT NULL REFERENCES care_plans,
    source_id text NOT NULL,
    community_id uuid NOT NULL,
    -- The device that spoke for it last; empty until it has.
    device_id text NOT NULL DEFAULT '',
    PRIMARY KEY (care_plan_id, source_id)
);
-- Whose a source is.
CREATE INDEX care_sources_by_source ON care_sources (community_id, source_id);
CREATE INDEX care_sources_by_device ON care_sources (community_id, device_id) WHERE device_id <> '';
SELECT wall('care_sources');

-- A person's rhythm: of one local day, the longest quiet that began in each hour, in minutes; 0 when none did.
CREATE TABLE care_days (
    care_plan_id uuid NOT NULL REFERENCES care_plans,
    day date NOT NULL,
    community_id uuid NOT NULL,
    quiet_minutes bigint[] NOT NULL CHECK (cardinality(quiet_minutes) = 24),
    PRIMARY KEY (care_plan_id, day)
);
SELECT wall('care_days');

-- migrate:down
