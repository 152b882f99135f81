-- Others hear of households, and of everything again before the streams forget it.

-- migrate:up

-- There is no index on `told_at`, which every event would change: to look through all households once a minute takes milliseconds.
-- `version` grows with every event of the household. `told_at` is when others were last told of it: never, for those of an earlier time.
ALTER TABLE households ADD COLUMN version bigint NOT NULL DEFAULT 1, ADD COLUMN told_at timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE communities ADD COLUMN told_at timestamptz NOT NULL DEFAULT '-infinity';

-- migrate:down
