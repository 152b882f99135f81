-- Who works for the parties of a community, from identity's events.

-- migrate:up

-- The newest version wins. Who holds no role any more stays, with none: what is told late of an earlier time must find the newer version.
CREATE TABLE known_staff (
    account_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    -- The roles held for the whole community.
    roles text[] NOT NULL,
    version bigint NOT NULL
);
-- Who holds a role is looked for among the staff of one community. The roles are not in the index: the wall lets none on arrays through.
CREATE INDEX known_staff_by_community ON known_staff (community_id);
SELECT wall('known_staff');

-- migrate:down
