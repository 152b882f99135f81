-- Devices and their credentials, and what ingest remembers of communities and lanes.

-- migrate:up

-- Rows change each time a device is heard: room on the page keeps those updates off the indexes.
CREATE TABLE devices (
    -- Unique in the whole installation: a device signs in by it before its community is known.
    device_id text PRIMARY KEY,
    community_id uuid NOT NULL,
    name text NOT NULL,
    kind bigint NOT NULL,
    -- SHA-256 of the secret, for HTTP Basic and MQTT.
    secret_hash bytea NOT NULL,
    -- MD5(id:realm:secret) for digest authentication, encrypted: whoever reads it could sign in with it.
    sealed_digest_key bytea NOT NULL,
    disabled boolean NOT NULL DEFAULT false,
    -- Where a GA/T 1400 device registered from; the calls after it carry no proof but this.
    registered_address text,
    last_seen_at timestamptz,
    online boolean NOT NULL DEFAULT false,
    -- Records whose own id was unusable.
    irregular_records bigint NOT NULL DEFAULT 0,
    -- Grows with each event about the device.
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL
) WITH (fillfactor = 70);
-- The list of a community goes by id. There is none on last_seen_at: every contact would change it, and the table is small.
CREATE INDEX devices_by_community ON devices (community_id, device_id);
SELECT wall('devices');

-- What a lane does when its decision is late, from parking's events.
CREATE TABLE lanes (
    community_id uuid NOT NULL,
    lane_id text NOT NULL,
    camera_device_id text NOT NULL,
    gate_device_id text NOT NULL,
    decision_limit_ms bigint NOT NULL,
    opens_offline boolean NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (community_id, lane_id)
);
-- A camera's lane is looked up with its credential.
CREATE INDEX lanes_by_camera ON lanes (camera_device_id);
SELECT wall('lanes');

-- Digest answers that were used, so that none works twice; kept for as long as their nonce is valid.
CREATE TABLE digest_uses (
    community_id uuid NOT NULL,
    nonce text NOT NULL,
    count bigint NOT NULL,
    used_at timestamptz NOT NULL,
    PRIMARY KEY (nonce, count)
);
SELECT wall('digest_uses');

-- migrate:down
