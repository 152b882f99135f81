-- migrate:up
CREATE TABLE heard (
    heard_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    community_id uuid NOT NULL,
    text text NOT NULL,
    heard_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
SELECT wall('heard');

-- migrate:down
