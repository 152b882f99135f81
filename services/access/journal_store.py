"""The SQL of terminals' journals: how far we have come with each, which records we hold, and the records themselves."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from servicekit.database import Transaction
from services.access.doors import AntiPassback, Direction
from services.access.journal import Segment

# A community and a device of it.
Key = tuple[UUID, str]


@dataclass(frozen=True, slots=True)
class JournalState:
    """What staff see: the newest record, how many have not come, and whether the chain was found broken."""

    sequence: int
    missing: int
    broken: bool


_SELECT_STATES = """
SELECT device_id, told_sequence, greatest(told_sequence - held, 0) AS missing, broken_at IS NOT NULL AS broken FROM journals
WHERE community_id = $1 AND device_id = ANY($2::text[])
"""


async def states_of(tx: Transaction, device_ids: Collection[str]) -> dict[str, JournalState]:
    """The journals of these terminals; absent for those that have told nothing."""
    rows = await tx.fetch(_SELECT_STATES, tx.community_id, list(device_ids))
    return {row["device_id"]: JournalState(row["told_sequence"], row["missing"], row["broken"]) for row in rows}


@dataclass(frozen=True, slots=True)
class TerminalAt:
    """A terminal and where it is, one that was taken away too."""

    community_id: UUID
    device_id: str
    door_id: UUID
    door_name: str
    direction: Direction
    anti_passback: AntiPassback
    zone_id: UUID
    # Whether somebody's being inside the zone matters at any of its doors.
    minds_presence: bool


_FIND_TERMINALS = """
SELECT community_id, device_id, door_id, doors.name AS door_name, direction, anti_passback, zone_id,
    EXISTS (SELECT FROM doors AS other WHERE other.zone_id = doors.zone_id AND other.anti_passback <> 'off') AS minds_presence
FROM terminals JOIN unnest($1::uuid[], $2::text[]) AS asked (community_id, device_id) USING (community_id, device_id)
JOIN doors USING (door_id, community_id)
"""


async def find_terminals(tx: Transaction, keys: Collection[Key]) -> dict[Key, TerminalAt]:
    """Those of these devices that are, or were, terminals."""
    rows = await tx.fetch(_FIND_TERMINALS, *_columns(keys)) if keys else []
    return {
        (row["community_id"], row["device_id"]): TerminalAt(
            **{**row, "direction": Direction(row["direction"]), "anti_passback": AntiPassback(row["anti_passback"])}
        )
        for row in rows
    }


def _columns(rows: Collection[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


@dataclass(frozen=True, slots=True)
class Journal:
    """How far we have come with a terminal's journal. `clock_error` has to be added to the terminal's clock.

    `lost` is how many of the records that are missing staff were told of.
    """

    epoch: int
    told_sequence: int
    held: int
    held_at: datetime | None
    broken_at: datetime | None
    gap_since: datetime | None
    lost: int
    clock_error: timedelta

    @property
    def missing(self) -> int:
        """How many records have not come."""
        return max(self.told_sequence - self.held, 0)


_ADD_JOURNALS = """
INSERT INTO journals (community_id, device_id) SELECT * FROM unnest($1::uuid[], $2::text[]) ON CONFLICT DO NOTHING
"""
_LOCK_JOURNALS = """
SELECT community_id, device_id, epoch, told_sequence, held, held_at, broken_at, gap_since, lost,
    clock_error_us * interval '1 microsecond' AS error
FROM journals JOIN unnest($1::uuid[], $2::text[]) AS asked (community_id, device_id) USING (community_id, device_id)
ORDER BY community_id, device_id FOR UPDATE OF journals
"""


async def lock_journals(tx: Transaction, keys: Collection[Key]) -> dict[Key, Journal]:
    """The journals of these terminals, locked until the transaction ends."""
    columns = _columns(sorted(keys))
    await tx.execute(_ADD_JOURNALS, *columns)
    return {(row[0], row[1]): Journal(*row[2:]) for row in await tx.fetch(_LOCK_JOURNALS, *columns)}


_UPDATE_JOURNALS = """
UPDATE journals SET epoch = new.epoch, told_sequence = new.told_sequence, held = new.held, held_at = new.held_at,
    broken_at = new.broken_at, gap_since = new.gap_since, lost = new.lost, clock_error_us = extract(epoch FROM new.error) * 1000000
FROM unnest(
    $1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[],
    $9::bigint[], $10::interval[]
) AS new (community_id, device_id, epoch, told_sequence, held, held_at, broken_at, gap_since, lost, error)
WHERE journals.community_id = new.community_id AND journals.device_id = new.device_id
"""


async def update_journals(tx: Transaction, journals: Mapping[Key, Journal]) -> None:
    """Writes journals that the transaction has locked."""
    rows = [(*key, *(getattr(journal, name) for name in Journal.__slots__)) for key, journal in journals.items()]
    if rows:
        await tx.execute(_UPDATE_JOURNALS, *_columns(rows))


# Which records we hold.

_FIND_SEGMENTS = """
SELECT community_id, device_id, first_sequence, last_sequence, previous_hash, last_hash FROM journal_segments
JOIN unnest($1::uuid[], $2::text[], $3::bigint[]) AS asked (community_id, device_id, epoch) USING (community_id, device_id, epoch)
ORDER BY community_id, device_id, first_sequence
"""


async def find_segments(tx: Transaction, journals: Mapping[Key, Journal]) -> dict[Key, list[Segment]]:
    """The segments of each journal, in order."""
    found: dict[Key, list[Segment]] = {key: [] for key in journals}
    for row in await tx.fetch(_FIND_SEGMENTS, *_columns([(*key, journal.epoch) for key, journal in journals.items()])):
        found[(row[0], row[1])].append(Segment(*row[2:]))
    return found


_DELETE_SEGMENTS = """
DELETE FROM journal_segments USING unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[])
    AS gone (community_id, device_id, epoch, first_sequence)
WHERE journal_segments.community_id = gone.community_id AND journal_segments.device_id = gone.device_id
    AND journal_segments.epoch = gone.epoch AND journal_segments.first_sequence = gone.first_sequence
"""
_INSERT_SEGMENTS = """
INSERT INTO journal_segments (community_id, device_id, epoch, first_sequence, last_sequence, previous_hash, last_hash)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[])
"""


async def replace_segments(
    tx: Transaction, epochs: Mapping[Key, int], before: Mapping[Key, Sequence[Segment]], after: Mapping[Key, Sequence[Segment]]
) -> None:
    """Writes what changed of the segments of these journals."""
    gone = [(*key, epochs[key], each.first) for key in after for each in set(before[key]) - set(after[key])]
    new = [(*key, epochs[key], *_values(each)) for key in after for each in set(after[key]) - set(before[key])]
    if gone:
        await tx.execute(_DELETE_SEGMENTS, *_columns(gone))
    if new:
        await tx.execute(_INSERT_SEGMENTS, *_columns(new))


def _values(segment: Segment) -> tuple[int, int, bytes, bytes]:
    return segment.first, segment.last, segment.previous_hash, segment.last_hash


# The records themselves.


@dataclass(frozen=True, slots=True)
class KeptPart:
    """A part as it came; `records` is a JSON array of texts."""

    community_id: UUID
    device_id: str
    epoch: int
    first_sequence: int
    last_sequence: int
    previous_hash: bytes
    last_hash: bytes
    contradicts: bool
    received_at: datetime
    records: str


_INSERT_PARTS = """
INSERT INTO journal_parts (
    community_id, device_id, epoch, first_sequence, last_sequence, previous_hash, last_hash, contradicts, received_at, records
)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[], $8::boolean[], $9::timestamptz[],
    $10::text[]
)
ON CONFLICT DO NOTHING
"""


async def insert_parts(tx: Transaction, parts: Sequence[KeptPart]) -> None:
    """Keeps parts that are not kept already."""
    if parts:
        await tx.execute(_INSERT_PARTS, *([getattr(part, name) for part in parts] for name in KeptPart.__slots__))


# A part that ends at the record is told from others by its hash alone.
_FIND_COVERING = """
SELECT DISTINCT ON (nth) nth, first_sequence, previous_hash, last_hash,
    CASE WHEN last_sequence = sequence THEN NULL ELSE records END AS records
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS asked (community_id, device_id, epoch, sequence, nth)
JOIN journal_parts USING (community_id, device_id, epoch)
WHERE first_sequence <= sequence AND last_sequence >= sequence AND first_sequence > sequence - 1000 AND NOT contradicts
ORDER BY nth, last_sequence <> sequence
"""


@dataclass(frozen=True, slots=True)
class Covering:
    """A kept part in which a record lies. `records` is None when it is its last."""

    first_sequence: int
    previous_hash: bytes
    last_hash: bytes
    records: str | None


async def find_covering(tx: Transaction, asked: Sequence[tuple[UUID, str, int, int]]) -> list[Covering | None]:
    """For each community, device, epoch and sequence number a part that holds the record, while one is kept."""
    if not asked:
        return []
    found = {row["nth"]: Covering(*row[1:]) for row in await tx.fetch(_FIND_COVERING, *_columns(asked))}
    return [found.get(nth + 1) for nth in range(len(asked))]


_FORGET_PARTS = "DELETE FROM journal_parts WHERE received_at < $1"


async def forget(tx: Transaction, before: datetime) -> None:
    """Deletes parts that are older, in all communities."""
    await tx.execute(_FORGET_PARTS, before)


_FIND_INVITERS = "SELECT pass_id, invited_by FROM passes WHERE pass_id = ANY($1::uuid[])"


async def find_inviters(tx: Transaction, pass_ids: Collection[UUID]) -> dict[UUID, UUID]:
    """Who invited on each of these passes."""
    rows = await tx.fetch(_FIND_INVITERS, list(pass_ids)) if pass_ids else []
    return {row["pass_id"]: row["invited_by"] for row in rows}
