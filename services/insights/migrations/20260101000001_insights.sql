-- Telemetry in chunks, a partition for each UTC day; objects that cameras reported; the communities' time zones.
-- The service's role cannot create or drop tables, so two functions of the owner do it, for this one table and within limits.

-- migrate:up

-- A chunk holds the readings that one batch brought of one device on one UTC day, sorted by metric. The key makes writing it again change
-- nothing, and begins with what a read asks for.
CREATE TABLE telemetry_chunks (
    community_id uuid NOT NULL,
    device_id text NOT NULL,
    day date NOT NULL,
    batch_id text NOT NULL,
    -- The earliest and the latest instant in the chunk: microseconds since the Unix epoch, as in `at_us`.
    first_us bigint NOT NULL,
    last_us bigint NOT NULL,
    -- The metrics, and where the readings of each end in the arrays below; they begin where those of the one before end.
    metrics text[] NOT NULL,
    ends integer[] NOT NULL, -- squawk-ignore prefer-bigint-over-int
    -- The readings, side by side: the n-th elements of the three arrays are one reading. `sequence` is empty where all are 0.
    at_us bigint[] NOT NULL,
    value double precision[] NOT NULL,
    sequence bigint[] NOT NULL,
    PRIMARY KEY (community_id, device_id, day, batch_id)
) PARTITION BY RANGE (day);
SELECT wall('telemetry_chunks');

-- The readings one by one. A reading that two batches brought is here twice; the three instants narrow down what has to be looked into.
CREATE VIEW telemetry_readings WITH (security_invoker = true) AS
SELECT community_id, device_id, day, batch_id, first_us, last_us, metric, reading.at_us, reading.value, coalesce(reading.sequence, 0) AS sequence
FROM telemetry_chunks AS chunk
CROSS JOIN LATERAL unnest(metrics) WITH ORDINALITY AS named (metric, nth)
CROSS JOIN LATERAL (SELECT coalesce(ends[nth - 1], 0) + 1 AS first, ends[nth] AS last) AS part
CROSS JOIN LATERAL unnest(chunk.at_us[first:last], chunk.value[first:last], chunk.sequence[first:last]) AS reading (at_us, value, sequence);

-- Makes the partition of a day unless it exists. Attaching a table that is empty lets readers and writers go on, where
-- CREATE TABLE ... PARTITION OF would wait for all of them.
CREATE FUNCTION ensure_telemetry_day(asked date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    partition text := 'telemetry_chunks_' || to_char(asked, 'YYYYMMDD');
BEGIN
    IF to_regclass('public.' || partition) IS NOT NULL THEN
        RETURN;
    END IF;
    IF asked IS NULL OR NOT asked BETWEEN current_date - 4000 AND current_date + 400 THEN
        RAISE EXCEPTION 'no telemetry is kept for %', asked USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Whoever comes second waits here and then sees what the first has made. It is the lock that attaching takes anyway.
    LOCK TABLE ONLY public.telemetry_chunks IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass('public.' || partition) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.telemetry_chunks INCLUDING ALL)', partition);
    -- What goes through the parent is walled by the parent's policy; this one is for whoever names the partition.
    PERFORM wall(format('public.%I', partition)::regclass);
    EXECUTE format(
        'ALTER TABLE public.telemetry_chunks ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)', partition, asked, asked + 1
    );
END
$$;

-- Drops the partitions of the days before `first_kept` and says how many. One that is in use stays until the next time: waiting for it would
-- stop every reader and writer behind us.
CREATE FUNCTION drop_telemetry_before(first_kept date) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    partition text;
    dropped integer := 0;
BEGIN
    IF first_kept IS NULL OR first_kept >= current_date THEN
        RAISE EXCEPTION 'the telemetry of % is kept', first_kept USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR partition IN
        SELECT child.relname
        FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
        WHERE inhparent = 'public.telemetry_chunks'::regclass
            AND child.relname < 'telemetry_chunks_' || to_char(first_kept, 'YYYYMMDD')
        ORDER BY child.relname
    LOOP
        BEGIN
            EXECUTE format('DROP TABLE public.%I', partition);
        EXCEPTION WHEN lock_not_available THEN
            EXIT;
        END;
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

REVOKE EXECUTE ON FUNCTION ensure_telemetry_day(date), drop_telemetry_before(date) FROM PUBLIC;

CREATE TABLE observed_objects (
    community_id uuid NOT NULL,
    device_id text NOT NULL,
    -- The camera's own id of the record, by which one that it sends again is known.
    record_id text NOT NULL,
    kind text NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    -- Keys in the blob store.
    image_keys text[] NOT NULL,
    -- The camera's record without its pictures, as it wrote it.
    record_json text NOT NULL,
    PRIMARY KEY (community_id, device_id, record_id)
);
-- A device's objects are listed newest first.
CREATE INDEX observed_objects_newest ON observed_objects (community_id, device_id, occurred_at DESC, record_id DESC);
-- Retention goes by age, and rows arrive in the order of their age.
CREATE INDEX observed_objects_received ON observed_objects USING brin (received_at);
SELECT wall('observed_objects');

-- migrate:down
