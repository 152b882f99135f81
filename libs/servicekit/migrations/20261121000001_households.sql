-- Who lives together, from identity's events. Earlier than the services' migrations of its time: versions are one sequence in a database.

-- migrate:up

-- The newest version wins.
CREATE TABLE known_households (
    household_id uuid PRIMARY KEY,
    community_id uuid NOT NULL,
    building_id uuid NOT NULL,
    version bigint NOT NULL
);
-- Who lives in a building.
CREATE INDEX known_households_by_building ON known_households (building_id);
SELECT wall('known_households');

-- One row for each account of a household. Not an array in the household's row: the wall lets no index on arrays through, because their
-- operators are not leakproof, and every deposit asks where its resident lives.
CREATE TABLE known_residents (
    account_id uuid NOT NULL,
    household_id uuid NOT NULL REFERENCES known_households (household_id),
    community_id uuid NOT NULL,
    PRIMARY KEY (account_id, household_id)
);
-- A new version takes out who has left.
CREATE INDEX known_residents_by_household ON known_residents (household_id);
SELECT wall('known_residents');

-- migrate:down
