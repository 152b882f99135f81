-- Trucks with the fixed rounds that they drive, and the nights that were planned. Weights are grams, ways are metres.

-- migrate:up

CREATE TABLE trucks (
    truck_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    name text NOT NULL,
    category text NOT NULL CHECK (category IN ('recyclable', 'kitchen', 'hazardous', 'other')),
    capacity_grams bigint NOT NULL CHECK (capacity_grams > 0),
    -- Degrees, WGS 84.
    depot_latitude double precision NOT NULL,
    depot_longitude double precision NOT NULL,
    -- Minutes after midnight in the community's time; an end before the start is on the next day.
    shift_start_minute bigint NOT NULL CHECK (shift_start_minute BETWEEN 0 AND 1439),
    shift_end_minute bigint NOT NULL CHECK (shift_end_minute BETWEEN 0 AND 1439 AND shift_end_minute <> shift_start_minute),
    -- The bins of its fixed round, in order.
    fixed_round uuid [] NOT NULL,
    in_use boolean NOT NULL DEFAULT true,
    -- The list goes by name.
    UNIQUE (community_id, name)
);
SELECT wall('trucks');

-- One plan for each night, replaced when it is planned again.
CREATE TABLE collection_plans (
    community_id uuid NOT NULL,
    -- The day in whose evening the night begins.
    day date NOT NULL,
    planned_at timestamptz NOT NULL,
    planned_distance_m bigint NOT NULL,
    planned_emptyings bigint NOT NULL,
    planned_overflow_minutes bigint NOT NULL,
    fixed_distance_m bigint NOT NULL,
    fixed_emptyings bigint NOT NULL,
    fixed_overflow_minutes bigint NOT NULL,
    -- Read and written as a whole, by those who look at one night.
    rounds jsonb NOT NULL,
    left_out jsonb NOT NULL,
    -- Also lists the nights, newest first.
    PRIMARY KEY (community_id, day)
);
SELECT wall('collection_plans');

-- migrate:down
