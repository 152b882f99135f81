"""All SQL of ingest."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import asyncpg

from servicekit.database import Transaction
from servicekit.identifiers import derived_id
from services.ingest.devices import Device, KnownDevice, Lane

INSERT_DEVICE = """
INSERT INTO devices (device_id, community_id, name, kind, secret_hash, sealed_digest_key, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING
RETURNING device_id, community_id, name, kind, disabled, last_seen_at, online, irregular_records, version
"""


async def insert_device(
    tx: Transaction, *, device_id: str, name: str, kind: int, secret_hash: bytes, sealed_digest_key: bytes
) -> Device | None:
    """A new device; None when its id is taken, in whichever community."""
    row = await tx.fetchrow(INSERT_DEVICE, device_id, tx.community_id, name, kind, secret_hash, sealed_digest_key, tx.now)
    return None if row is None else _device(row)


SELECT_DEVICE = """
SELECT device_id, community_id, name, kind, disabled, last_seen_at, online, irregular_records, version FROM devices WHERE device_id = $1
"""


async def select_device(tx: Transaction, device_id: str) -> Device | None:
    """A device of the community."""
    row = await tx.fetchrow(SELECT_DEVICE, device_id)
    return None if row is None else _device(row)


SELECT_DEVICES = """
SELECT device_id, community_id, name, kind, disabled, last_seen_at, online, irregular_records, version
FROM devices WHERE community_id = $1 AND device_id > coalesce($2::text, '') ORDER BY device_id LIMIT $3
"""


async def select_devices(tx: Transaction, after: str | None, limit: int) -> list[Device]:
    """The community's devices by id, from the one after `after`."""
    return [_device(row) for row in await tx.fetch(SELECT_DEVICES, tx.community_id, after, limit)]


UPDATE_CREDENTIAL = """
UPDATE devices SET secret_hash = $2, sealed_digest_key = $3, registered_address = NULL, version = version + 1 WHERE device_id = $1
RETURNING device_id, community_id, name, kind, disabled, last_seen_at, online, irregular_records, version
"""


async def update_credential(tx: Transaction, device_id: str, secret_hash: bytes, sealed_digest_key: bytes) -> Device | None:
    """Gives a device another secret and forgets where it registered from; None when there is no such device."""
    row = await tx.fetchrow(UPDATE_CREDENTIAL, device_id, secret_hash, sealed_digest_key)
    return None if row is None else _device(row)


DISABLE_DEVICE = """
UPDATE devices SET disabled = true, registered_address = NULL, version = version + 1 WHERE device_id = $1
RETURNING device_id, community_id, name, kind, disabled, last_seen_at, online, irregular_records, version
"""


async def disable_device(tx: Transaction, device_id: str) -> Device | None:
    """Disables a device; None when there is no such device."""
    row = await tx.fetchrow(DISABLE_DEVICE, device_id)
    return None if row is None else _device(row)


def _device(row: asyncpg.Record) -> Device:
    return Device(
        device_id=row["device_id"],
        community_id=row["community_id"],
        name=row["name"],
        kind=row["kind"],
        disabled=row["disabled"],
        last_seen_at=row["last_seen_at"],
        online=row["online"],
        irregular_records=row["irregular_records"],
        version=row["version"],
    )


# A camera has one lane; if two claim it, the one that was configured last.
SELECT_KNOWN_DEVICES = """
SELECT d.device_id, d.community_id, d.kind, d.disabled, d.secret_hash, d.sealed_digest_key, d.registered_address, d.last_seen_at,
    c.time_zone, l.lane_id, l.gate_device_id, l.decision_limit_ms, l.opens_offline
FROM devices d
LEFT JOIN known_communities c ON c.community_id = d.community_id
LEFT JOIN LATERAL (
    SELECT lane_id, gate_device_id, decision_limit_ms, opens_offline FROM lanes
    WHERE camera_device_id = d.device_id AND community_id = d.community_id ORDER BY lane_id DESC LIMIT 1
) l ON true
WHERE d.device_id = ANY($1::text[])
"""


async def select_known_devices(tx: Transaction, device_ids: Sequence[str]) -> list[KnownDevice]:
    """Devices of any community with all that answering them takes; some may be none. For the platform scope."""
    return [_known_device(row) for row in await tx.fetch(SELECT_KNOWN_DEVICES, device_ids)]


def _known_device(row: asyncpg.Record) -> KnownDevice:
    lane = None
    if row["lane_id"] is not None:
        lane = Lane(row["lane_id"], row["gate_device_id"], row["decision_limit_ms"], row["opens_offline"])
    return KnownDevice(
        device_id=row["device_id"],
        community_id=row["community_id"],
        kind=row["kind"],
        disabled=row["disabled"],
        secret_hash=row["secret_hash"],
        sealed_digest_key=row["sealed_digest_key"],
        registered_address=row["registered_address"],
        last_seen_at=row["last_seen_at"],
        time_zone=row["time_zone"],
        lane=lane,
    )


UPDATE_REGISTRATION = """
UPDATE devices SET registered_address = $2, last_seen_at = greatest(last_seen_at, $3) WHERE device_id = $1
"""


async def update_registration(tx: Transaction, device_id: str, address: str | None) -> None:
    """Notes where a device registered from, or that it has signed off."""
    await tx.execute(UPDATE_REGISTRATION, device_id, address, tx.now)


INSERT_DIGEST_USE = """
INSERT INTO digest_uses (community_id, nonce, count, used_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
"""


async def insert_digest_use(tx: Transaction, nonce: str, count: int) -> bool:
    """Uses a nonce's count up; False when it was used before."""
    return await tx.execute(INSERT_DIGEST_USE, tx.community_id, nonce, count, tx.now) == 1


DELETE_DIGEST_USES = "DELETE FROM digest_uses WHERE used_at < $1"


async def delete_digest_uses(tx: Transaction, before: datetime) -> None:
    """Forgets the uses of nonces that have expired. For the platform scope."""
    await tx.execute(DELETE_DIGEST_USES, before)


# Rows are locked in one order first, so that two processes that write at once wait for each other instead of dead-locking.
UPDATE_CONTACTS = """
WITH locked AS MATERIALIZED (SELECT device_id FROM devices WHERE device_id = ANY($1::text[]) ORDER BY device_id FOR UPDATE)
UPDATE devices d SET last_seen_at = greatest(d.last_seen_at, c.seen_at), irregular_records = d.irregular_records + c.irregular
FROM unnest($1::text[], $2::timestamptz[], $3::bigint[]) AS c (device_id, seen_at, irregular), locked
WHERE d.device_id = c.device_id AND d.device_id = locked.device_id
"""


async def update_contacts(tx: Transaction, device_ids: Sequence[str], seen_at: Sequence[datetime | None], irregular: Sequence[int]) -> None:
    """Notes when devices were last heard, and counts their irregular records. For the platform scope."""
    await tx.execute(UPDATE_CONTACTS, list(device_ids), list(seen_at), list(irregular))


SELECT_CHANGED_STATUS = """
SELECT device_id, community_id, name, kind, disabled, last_seen_at, online, irregular_records, version
FROM devices WHERE online <> (last_seen_at IS NOT NULL AND last_seen_at >= $1 AND NOT disabled)
ORDER BY community_id, device_id LIMIT $2 FOR UPDATE
"""


async def select_changed_status(tx: Transaction, heard_since: datetime, limit: int) -> list[Device]:
    """Locks the devices whose status is no longer what it was last said to be, by community. For the platform scope."""
    return [_device(row) for row in await tx.fetch(SELECT_CHANGED_STATUS, heard_since, limit)]


TURN_STATUS = "UPDATE devices SET online = NOT online, version = version + 1 WHERE device_id = ANY($1::text[])"


async def turn_status(tx: Transaction, device_ids: Sequence[str]) -> None:
    """Notes that these devices came or went. For the platform scope."""
    await tx.execute(TURN_STATUS, list(device_ids))


COUNT_DEVICES = "SELECT kind, online, count(*) AS devices FROM devices WHERE NOT disabled GROUP BY kind, online"


async def count_devices(tx: Transaction) -> dict[tuple[int, bool], int]:
    """How many devices of each kind are online, and how many are not. For the platform scope."""
    return {(row["kind"], row["online"]): row["devices"] for row in await tx.fetch(COUNT_DEVICES)}


UPSERT_LANE = """
INSERT INTO lanes (community_id, lane_id, camera_device_id, gate_device_id, decision_limit_ms, opens_offline, version)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (community_id, lane_id) DO UPDATE SET camera_device_id = EXCLUDED.camera_device_id, gate_device_id = EXCLUDED.gate_device_id,
    decision_limit_ms = EXCLUDED.decision_limit_ms, opens_offline = EXCLUDED.opens_offline, version = EXCLUDED.version
WHERE lanes.version <= EXCLUDED.version
"""


async def upsert_lane(tx: Transaction, camera_device_id: str, lane: Lane, version: int) -> None:
    """Keeps a lane's rule, unless a newer one is known."""
    await tx.execute(
        UPSERT_LANE,
        tx.community_id,
        lane.lane_id,
        camera_device_id,
        lane.gate_device_id,
        lane.decision_limit_ms,
        lane.opens_offline,
        version,
    )


# The same once, and so many of a device: it must not fill the disk.
_LETTERS_PER_DEVICE_MAX = 200
INSERT_DEAD_LETTERS = """
INSERT INTO dead_letters (dead_letter_id, community_id, consumer, event_id, subject, headers, body, error)
SELECT dead_letter_id, $1, $2, dead_letter_id::text, $3, '{}', body, error
FROM unnest($4::uuid[], $5::bytea[], $6::text[]) AS letter (dead_letter_id, body, error)
WHERE (SELECT count(*) FROM dead_letters WHERE subject = $3 AND replayed_at IS NULL) < $7
ON CONFLICT (dead_letter_id) DO UPDATE SET error = excluded.error, failed_at = excluded.failed_at, replayed_at = NULL
"""


async def insert_dead_letters(tx: Transaction, consumer: str, subject: str, errors: Mapping[bytes, str]) -> None:
    """Keeps messages of a device that could not be read, each with its error; some hundreds of a device, and no more."""
    letter_ids = [derived_id(consumer, subject, body.hex()) for body in errors]
    limit = _LETTERS_PER_DEVICE_MAX
    await tx.execute(INSERT_DEAD_LETTERS, tx.community_id, consumer, subject, letter_ids, list(errors), list(errors.values()), limit)
