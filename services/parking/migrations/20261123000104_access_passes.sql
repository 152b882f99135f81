-- Visitors' passes that come from access: a plate that goes with a pass for doors.

-- migrate:up

-- A contractor is no household's visitor, and what comes by an event is nobody's entry. Nobody reads either column but for one household,
-- whose rows have both.
-- squawk-ignore ban-drop-not-null
ALTER TABLE visitor_passes ALTER COLUMN household_id DROP NOT NULL;
-- squawk-ignore ban-drop-not-null
ALTER TABLE visitor_passes ALTER COLUMN created_by DROP NOT NULL;
-- The version of the pass in access, where alone it is changed; NULL for one that was made here. The newest version wins.
ALTER TABLE visitor_passes ADD COLUMN access_version bigint;

-- migrate:down
