-- How far the broker's streams and their consumers had come when this service last looked: from this it notices that the broker has lost some.

-- migrate:up

CREATE TABLE stream_marks (
    stream text NOT NULL,
    -- When the broker made the stream: one that was lost and made again is another.
    made_at timestamptz NOT NULL,
    -- Empty for the stream itself.
    consumer text NOT NULL,
    -- Streams are nobody's: the rows belong to the platform's own community.
    community_id uuid NOT NULL,
    -- The stream's last message, or that until which the consumer has handled all.
    position bigint NOT NULL,
    looked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, made_at, consumer)
);
SELECT wall('stream_marks');

-- migrate:down
