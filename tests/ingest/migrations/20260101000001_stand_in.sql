-- The stand-in for parking keeps nothing but its outbox and inbox.

-- migrate:up

SELECT 1;

-- migrate:down
