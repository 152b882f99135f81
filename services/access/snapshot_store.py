"""The SQL of what each terminal is to know, and of how far it has come with that."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from servicekit.communities import zone_of
from servicekit.database import Transaction
from services.access.deciding import Place
from services.access.doors import AntiPassback, CredentialKind, Direction
from services.access.snapshots import Settings

# A terminal that has told nothing for so long is not there: it will tell when it comes back.
_THERE: Final = timedelta(minutes=3)

_TAKE_TURN = "SELECT pg_advisory_xact_lock(hashtextextended('access.snapshots ' || $1::text, 0))"


async def take_turn(tx: Transaction) -> None:
    """Waits until nobody else changes what the community's terminals are to know; until the transaction ends nobody does."""
    await tx.execute(_TAKE_TURN, str(tx.community_id))


@dataclass(frozen=True, slots=True)
class Row:
    """What a terminal is to know of a subject: a text as `snapshots.entry_text` writes it; None when it is to forget it."""

    device_id: str
    subject_id: UUID
    body: str | None
    has_face: bool = False


_SELECT_ENTRIES = """
SELECT device_id, subject_id, body FROM terminal_entries WHERE community_id = $1 AND subject_id = ANY($2::uuid[])
"""


async def find_entries(tx: Transaction, subject_ids: Collection[UUID]) -> dict[tuple[str, UUID], str | None]:
    """What the terminals are to know of these subjects until now, by terminal and subject."""
    rows = await tx.fetch(_SELECT_ENTRIES, tx.community_id, list(subject_ids))
    return {(row["device_id"], row["subject_id"]): row["body"] for row in rows}


_SELECT_KNOWN = """
SELECT DISTINCT subject_id FROM terminal_entries
WHERE community_id = $1 AND body IS NOT NULL AND ($2::uuid IS NULL OR subject_id > $2) ORDER BY subject_id LIMIT $3
"""


async def list_known(tx: Transaction, after: UUID | None, limit: int) -> list[UUID]:
    """The subjects that some terminal is to know, in the order of their ids."""
    return [row["subject_id"] for row in await tx.fetch(_SELECT_KNOWN, tx.community_id, after, limit)]


# In the order of their ids, so that two transactions never wait for each other. What one that was just placed or taken away knew is of
# no use.
_RAISE = """
WITH changed AS (
    SELECT device_id FROM terminals WHERE community_id = $1 AND device_id = ANY($2::text[]) ORDER BY device_id FOR UPDATE
)
UPDATE terminals SET wanted_version = wanted_version + 1,
    whole_version = CASE WHEN added_at = $3 OR removed_at = $3 THEN wanted_version + 1 ELSE whole_version END
FROM changed WHERE terminals.community_id = $1 AND terminals.device_id = changed.device_id
RETURNING terminals.device_id, wanted_version
"""


async def raise_versions(tx: Transaction, device_ids: Collection[str]) -> dict[str, int]:
    """Gives each of these terminals a new version to come to, and returns it."""
    rows = await tx.fetch(_RAISE, tx.community_id, list(device_ids), tx.now)
    return {row["device_id"]: row["wanted_version"] for row in rows}


# Above every version that a terminal may have heard of: they grow by one, and this is the time in milliseconds.
_RENEW = """
UPDATE terminals SET wanted_version = greatest(wanted_version + 1, $1), whole_version = greatest(wanted_version + 1, $1)
"""


async def renew_versions(tx: Transaction, version: int) -> None:
    """Gives every terminal of every community at least this version, as a whole snapshot."""
    await tx.execute(_RENEW, version)


_CLEAR = """
UPDATE terminal_entries SET body = NULL, version = new.version, narrowed_version = new.version
FROM unnest($2::text[], $3::bigint[]) AS new (device_id, version)
WHERE community_id = $1 AND terminal_entries.device_id = new.device_id AND body IS NOT NULL
"""


async def clear(tx: Transaction, versions: dict[str, int]) -> None:
    """Has each of these terminals forget everybody, with its new version."""
    await tx.execute(_CLEAR, tx.community_id, list(versions), list(versions.values()))


_WRITE_ENTRIES = """
INSERT INTO terminal_entries AS known (device_id, subject_id, community_id, version, narrowed_version, body, holds_face)
SELECT device_id, subject_id, $1, version, CASE WHEN narrowed THEN version ELSE 0 END, body, has_face
FROM unnest($2::text[], $3::uuid[], $4::bigint[], $5::boolean[], $6::text[], $7::boolean[])
    AS new (device_id, subject_id, version, narrowed, body, has_face)
ON CONFLICT (community_id, device_id, subject_id) DO UPDATE SET
    version = excluded.version, narrowed_version = greatest(excluded.narrowed_version, known.narrowed_version), body = excluded.body,
    holds_face = known.holds_face OR excluded.holds_face
"""


async def write_entries(tx: Transaction, rows: Sequence[tuple[Row, bool]], versions: dict[str, int]) -> None:
    """Writes what terminals are to know from their new versions on, and whether that takes something from the subject."""
    columns = (
        [row.device_id for row, _ in rows],
        [row.subject_id for row, _ in rows],
        [versions[row.device_id] for row, _ in rows],
        [is_narrower for _, is_narrower in rows],
        [row.body for row, _ in rows],
        [row.has_face for row, _ in rows],
    )
    await tx.execute(_WRITE_ENTRIES, tx.community_id, *columns)


_LIST_FACE_HOLDERS = """
SELECT device_id FROM terminal_entries WHERE community_id = $1 AND subject_id = $2 AND holds_face ORDER BY device_id
"""


async def list_face_holders(tx: Transaction, account_id: UUID) -> list[str]:
    """The terminals that may know somebody's face: those that are to, and those that have not confirmed that they forgot it."""
    return [row["device_id"] for row in await tx.fetch(_LIST_FACE_HOLDERS, tx.community_id, account_id)]


_LIST_VERSIONS = "SELECT device_id, version FROM terminal_entries WHERE community_id = $1 AND subject_id = $2"


async def list_versions(tx: Transaction, subject_id: UUID) -> dict[str, int]:
    """The version of each terminal that brought what it is to know of a subject, or that it is to forget it."""
    return {row["device_id"]: row["version"] for row in await tx.fetch(_LIST_VERSIONS, tx.community_id, subject_id)}


# What one terminal is to hear.

# A terminal that has more than we ever told it, because our database was restored, goes on from there; one that has less than it had
# confirmed goes on from what it was to have. Either is told everything, once for however many reports of it. A report that a later one has
# overtaken, because it was delivered again, says nothing.
_CONFIRM = """
UPDATE terminals SET
    confirmed_version = CASE WHEN said BETWEEN before.whole_version AND before.wanted_version
        THEN greatest(before.confirmed_version, said) ELSE before.confirmed_version END,
    wanted_version = CASE
        WHEN said > before.wanted_version THEN said + 1
        WHEN said < before.confirmed_version AND before.whole_version <= before.confirmed_version THEN before.wanted_version + 1
        ELSE before.wanted_version END,
    whole_version = CASE
        WHEN said > before.wanted_version THEN said + 1
        WHEN said < before.confirmed_version AND before.whole_version <= before.confirmed_version THEN before.wanted_version + 1
        ELSE before.whole_version END,
    last_reported_at = greatest($4, least(terminals.last_reported_at, $5))
FROM (
    SELECT confirmed_version, wanted_version, whole_version,
        CASE WHEN last_reported_at > $4 AND last_reported_at <= $5 THEN confirmed_version ELSE $3 END AS said
    FROM terminals WHERE community_id = $1 AND device_id = $2 FOR UPDATE
) AS before
WHERE community_id = $1 AND device_id = $2
RETURNING terminals.confirmed_version, terminals.wanted_version, terminals.confirmed_version > before.confirmed_version AS has_advanced,
    said >= terminals.wanted_version AND said >= terminals.whole_version AS is_current
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a terminal is: the version that it has confirmed, whether this report did that, and whether it has everything."""

    confirmed_version: int
    has_advanced: bool
    is_current: bool


async def confirm(tx: Transaction, device_id: str, version: int, at: datetime) -> Progress | None:
    """Notes what a terminal said at `at` that it has; None when it is none of the community's.

    One that has less than it had confirmed was replaced or reset, and what it was to forget since may be forgotten here: it gets a whole
    snapshot.
    """
    row = await tx.fetchrow(_CONFIRM, tx.community_id, device_id, version, at, tx.now)
    return None if row is None else Progress(row["confirmed_version"], row["has_advanced"], row["is_current"])


_FORGET = """
WITH gone AS (DELETE FROM terminal_entries WHERE community_id = $1 AND device_id = $2 AND version <= $3 AND body IS NULL)
UPDATE terminal_entries SET holds_face = false
WHERE community_id = $1 AND device_id = $2 AND version <= $3 AND holds_face AND body NOT LIKE '%"face":true%'
"""


async def forget_gone(tx: Transaction, device_id: str, version: int) -> None:
    """Deletes what a terminal has confirmed to have forgotten."""
    await tx.execute(_FORGET, tx.community_id, device_id, version)


_SELECT_GOAL = """
SELECT door_id, direction, credential_kinds, anti_passback, held_open_limit_s, time_zone, removed_at, wanted_version,
    CASE WHEN confirmed_version < whole_version OR removed_at IS NOT NULL THEN 0 ELSE confirmed_version END AS from_version
FROM terminals JOIN doors USING (door_id, community_id) LEFT JOIN known_communities USING (community_id)
WHERE community_id = $1 AND device_id = $2
"""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a terminal is told of its door, without the matching key, and from which version to which it is to come."""

    settings: Settings
    from_version: int
    to_version: int


async def find_goal(tx: Transaction, device_id: str) -> Goal | None:
    """Where a terminal is to come to; None when it is none of the community's."""
    row = await tx.fetchrow(_SELECT_GOAL, tx.community_id, device_id)
    if row is None:
        return None
    zone = zone_of(row["time_zone"])
    place = Place(
        community_id=tx.community_id,
        door_id=row["door_id"],
        direction=Direction(row["direction"]),
        kinds=frozenset(map(CredentialKind, row["credential_kinds"])),
        anti_passback=AntiPassback(row["anti_passback"]),
        zone=zone,
    )
    settings = Settings(None if row["removed_at"] is not None else place, zone.key, row["held_open_limit_s"])
    return Goal(settings, row["from_version"], row["wanted_version"])


_SELECT_CHANGES = """
SELECT subject_id, body FROM terminal_entries
WHERE community_id = $1 AND device_id = $2 AND version > $3 AND ($3 > 0 OR body IS NOT NULL)
ORDER BY narrowed_version > $3 DESC, version, subject_id
"""


async def list_changes(tx: Transaction, device_id: str, from_version: int) -> tuple[list[UUID], list[str]]:
    """The subjects that a terminal is to forget since a version, and the entries that it is to learn, the most urgent first."""
    rows = await tx.fetch(_SELECT_CHANGES, tx.community_id, device_id, from_version)
    return [row["subject_id"] for row in rows if row["body"] is None], [row["body"] for row in rows if row["body"] is not None]


_MARK_SENT = "UPDATE terminals SET sent_version = $3 WHERE community_id = $1 AND device_id = $2 AND sent_version < $3"


async def mark_sent(tx: Transaction, device_id: str, version: int) -> bool:
    """Notes that a version is being sent; False when it was sent before."""
    return await tx.execute(_MARK_SENT, tx.community_id, device_id, version) == 1


_SELECT_UNSENT = """
SELECT community_id, device_id FROM terminals WHERE sent_version < wanted_version AND last_reported_at > $1 ORDER BY device_id LIMIT $2
"""


async def list_unsent(tx: Transaction, limit: int) -> list[tuple[UUID, str]]:
    """Terminals that are there and were not sent the newest, with their communities."""
    rows = await tx.fetch(_SELECT_UNSENT, tx.now - _THERE, limit)
    return [(row["community_id"], row["device_id"]) for row in rows]
