"""The SQL of passages: what happened at doors, as terminals asked and as their journals tell."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from servicekit.commands import next_counter
from servicekit.database import Transaction
from servicekit.listing import Listing
from services.access.detection import Presence, Presences, Spot, Use
from services.access.doors import CredentialKind, Direction


class Outcome(StrEnum):
    """What came of it."""

    OPENED = "opened"
    REFUSED = "refused"
    # Decided to open; the terminal has not said yet that it did.
    REQUESTED = "requested"
    # By the fire system.
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Passage:
    """Something that happened at a door. `card` is the beginning of a card's digest; `owner_id` sees the passage as their own."""

    passage_id: UUID
    community_id: UUID
    door_id: UUID
    device_id: str
    direction: Direction
    presentation_id: str
    outcome: Outcome
    reason: str
    kind: CredentialKind | None
    account_id: UUID | None
    pass_id: UUID | None
    owner_id: UUID | None
    occurred_at: datetime
    offline: bool = False
    card: bytes | None = None
    opened_by: UUID | None = None
    note: str = ""


# A decision that is repeated changes nothing, and neither does one that comes after the journal's word for it.
_INSERT_DECISION = """
INSERT INTO passages (
    passage_id, community_id, door_id, device_id, direction, presentation_id, outcome, reason, kind, account_id, pass_id, owner_id,
    occurred_at, offline, card, opened_by, note
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT (community_id, device_id, presentation_id) DO NOTHING
"""


async def insert_decision(tx: Transaction, passage: Passage) -> bool:
    """Adds a decision; False when there is one on the same presentation."""
    return await tx.execute(_INSERT_DECISION, *_values(passage)) == 1


_INSERT_OPENING = """
WITH counted AS (
    UPDATE terminals SET command_counter = greatest(command_counter + 1, $18) WHERE community_id = $2 AND device_id = $4
    RETURNING command_counter
)
INSERT INTO passages (
    passage_id, community_id, door_id, device_id, direction, presentation_id, outcome, reason, kind, account_id, pass_id, owner_id,
    occurred_at, offline, card, opened_by, note
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT (community_id, device_id, presentation_id) DO NOTHING
RETURNING (SELECT command_counter FROM counted)
"""


async def insert_opening(tx: Transaction, passage: Passage) -> int | None:
    """Adds a decision to open, and returns the number of the command to its terminal; None when there is one on the same presentation."""
    counter: int | None = await tx.fetchval(_INSERT_OPENING, *_values(passage), next_counter(0, tx.now))
    return counter


def _values(passage: Passage) -> list[Any]:
    return [getattr(passage, name) for name in passage.__slots__]


# What a journal tells, happened: it wins over what was decided, whose other columns stay where the journal has none. When it was decided
# we know by our own clock.
_MERGE_TOLD = """
INSERT INTO passages AS known (
    passage_id, community_id, door_id, device_id, direction, presentation_id, outcome, reason, kind, account_id, pass_id, owner_id,
    occurred_at, offline, card, opened_by, note
)
SELECT passage_id, community_id, door_id, device_id, direction, presentation_id, outcome, reason, kind, account_id, pass_id, owner_id,
    occurred_at, offline, card, NULL, ''
FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::uuid[], $11::uuid[],
    $12::uuid[], $13::timestamptz[], $14::boolean[], $15::bytea[]
) AS told (
    passage_id, community_id, door_id, device_id, direction, presentation_id, outcome, reason, kind, account_id, pass_id, owner_id,
    occurred_at, offline, card
)
ON CONFLICT (community_id, device_id, presentation_id) DO UPDATE SET
    outcome = excluded.outcome, reason = excluded.reason, offline = excluded.offline,
    kind = coalesce(excluded.kind, known.kind), account_id = coalesce(excluded.account_id, known.account_id),
    pass_id = coalesce(excluded.pass_id, known.pass_id), owner_id = coalesce(excluded.owner_id, known.owner_id),
    card = coalesce(excluded.card, known.card)
"""
# So many rows in a statement: one that is longer may not end in time on a slow disk.
_MERGED_AT_ONCE: Final = 10_000
_MERGED_COLUMNS: Final = 15


async def merge_told(tx: Transaction, passages: Sequence[Passage]) -> None:
    """Adds what journals tell, each presentation once, or puts it over what was decided on the same presentation."""
    names = Passage.__slots__[:_MERGED_COLUMNS]
    for begin in range(0, len(passages), _MERGED_AT_ONCE):
        some = passages[begin : begin + _MERGED_AT_ONCE]
        await tx.execute(_MERGE_TOLD, *([getattr(passage, name) for passage in some] for name in names))


_FIND_OPENED = """
SELECT community_id, device_id, presentation_id FROM passages
JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS asked (community_id, device_id, presentation_id)
USING (community_id, device_id, presentation_id)
WHERE outcome IN ('opened', 'requested')
"""


async def find_opened(tx: Transaction, asked: Collection[tuple[UUID, str, str]]) -> set[tuple[UUID, str, str]]:
    """Of these communities', terminals' and presentations' passages those that were openings already."""
    rows = await tx.fetch(_FIND_OPENED, *(list(column) for column in zip(*asked, strict=True))) if asked else []
    return {(row["community_id"], row["device_id"], row["presentation_id"]) for row in rows}


# Codes that opened.

_USE_CODES = """
WITH used AS (
    SELECT DISTINCT ON (community_id, nonce) * FROM unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[])
        AS used (community_id, nonce, door_id, device_id, presentation_id, used_at)
    ORDER BY community_id, nonce, used_at
)
INSERT INTO used_codes (community_id, nonce, door_id, device_id, presentation_id, used_at) SELECT * FROM used
ON CONFLICT (community_id, nonce) DO NOTHING
"""
_FIND_USED = """
SELECT community_id, nonce, door_id, device_id, presentation_id FROM used_codes
JOIN unnest($1::uuid[], $2::bytea[]) AS asked (community_id, nonce) USING (community_id, nonce)
"""


@dataclass(frozen=True, slots=True)
class CodeUse:
    """A door opened for a dynamic code."""

    community_id: UUID
    nonce: bytes
    door_id: UUID
    device_id: str
    presentation_id: str
    used_at: datetime


async def use_code(tx: Transaction, use: CodeUse) -> UUID | None:
    """Uses a code up, or returns the door that it has opened before."""
    row = [[getattr(use, name)] for name in CodeUse.__slots__]
    if await tx.execute(_USE_CODES, *row) == 1:
        return None
    used = await tx.fetchrow(_FIND_USED, *row[:2])
    assert used is not None
    return UUID(str(used["door_id"]))


async def use_codes(tx: Transaction, uses: Sequence[CodeUse]) -> list[CodeUse]:
    """Uses codes up, each at the first of its doors, and returns the uses at another door than that."""
    if not uses:
        return []
    columns = [[getattr(use, name) for use in uses] for name in CodeUse.__slots__]
    await tx.execute(_USE_CODES, *columns)
    first = {(row["community_id"], row["nonce"]): row["door_id"] for row in await tx.fetch(_FIND_USED, *columns[:2])}
    return [use for use in uses if first.get((use.community_id, use.nonce), use.door_id) != use.door_id]


# What detection needs to know.

# Of the many cards that are shown few are shown at another door about then, and only those leave the database. OFFSET 0 leaves PostgreSQL
# no way but by each owner's passages about then: it takes `unnest` for ten rows, and would compare thousands of cards with all passages.
_FIND_USES = """
SELECT DISTINCT used.community_id, device_id, door_id, doors.name AS door_name, zone_id, building_id, occurred_at, presentation_id,
    owner_id, card
FROM (
    SELECT DISTINCT community, owner, shown, at
    FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::timestamptz[], $5::uuid[]) AS asked (community, owner, shown, at, door)
    JOIN LATERAL (
        SELECT community_id, card, door_id FROM passages
        WHERE owner_id = asked.owner AND occurred_at BETWEEN at - $6::interval AND at + $6::interval OFFSET 0
    ) AS elsewhere ON elsewhere.card = asked.shown AND elsewhere.door_id <> asked.door AND elsewhere.community_id = asked.community
) AS suspect
JOIN LATERAL (
    SELECT community_id, device_id, door_id, occurred_at, presentation_id, owner_id, card, direction, outcome FROM passages
    WHERE owner_id = suspect.owner AND occurred_at BETWEEN at - $6::interval AND at + $6::interval OFFSET 0
) AS used ON used.card = suspect.shown AND used.community_id = suspect.community
JOIN doors USING (door_id) JOIN zones USING (zone_id)
WHERE used.direction = 'in' AND used.outcome IN ('opened', 'requested')
"""


async def find_uses(tx: Transaction, passages: Sequence[Passage], within: timedelta) -> list[Use]:
    """All uses, in pairs or more, of the cards of these passages near them and at several doors, they themselves among them."""
    if not passages:
        return []
    columns = (
        [passage.community_id for passage in passages],
        [passage.owner_id for passage in passages],
        [passage.card for passage in passages],
        [passage.occurred_at for passage in passages],
        [passage.door_id for passage in passages],
    )
    return [
        Use(
            spot=Spot(
                community_id=row["community_id"],
                device_id=row["device_id"],
                door_id=row["door_id"],
                door_name=row["door_name"],
                zone_id=row["zone_id"],
                at=row["occurred_at"],
                key=row["presentation_id"],
            ),
            card=(row["owner_id"], row["card"]),
            building_id=row["building_id"],
        )
        for row in await tx.fetch(_FIND_USES, *columns, within)
    ]


_FIND_REFUSALS = """
SELECT community_id, device_id, occurred_at FROM passages
JOIN unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[]) AS asked (community, device, since, until)
    ON passages.community_id = asked.community AND passages.device_id = asked.device AND occurred_at BETWEEN asked.since AND asked.until
WHERE outcome = 'refused' ORDER BY occurred_at
"""


async def find_refusals(tx: Transaction, asked: Sequence[tuple[UUID, str, datetime, datetime]]) -> dict[tuple[UUID, str], list[datetime]]:
    """When each of these communities' terminals refused somebody, in order, from an instant until another."""
    found: dict[tuple[UUID, str], list[datetime]] = {}
    for row in await tx.fetch(_FIND_REFUSALS, *(list(column) for column in zip(*asked, strict=True))) if asked else []:
        found.setdefault((row["community_id"], row["device_id"]), []).append(row["occurred_at"])
    return found


_FIND_PRESENCES = """
SELECT zone_id, subject_id, inside, since FROM presences
JOIN unnest($1::uuid[], $2::uuid[]) AS asked (zone_id, subject_id) USING (zone_id, subject_id)
"""
_WRITE_PRESENCES = """
INSERT INTO presences AS known (zone_id, subject_id, community_id, inside, since)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::boolean[], $5::timestamptz[])
ON CONFLICT (zone_id, subject_id) DO UPDATE SET inside = excluded.inside, since = excluded.since WHERE known.since < excluded.since
"""


async def find_presences(tx: Transaction, asked: Collection[tuple[UUID, UUID]]) -> Presences:
    """Where these are, by zone and subject; absent when nothing is known."""
    rows = await tx.fetch(_FIND_PRESENCES, *(list(column) for column in zip(*asked, strict=True))) if asked else []
    return {(row["zone_id"], row["subject_id"]): Presence(row["inside"], row["since"]) for row in rows}


async def write_presences(tx: Transaction, community_of: dict[UUID, UUID], presences: Presences) -> None:
    """Writes where people are, by zone and subject, unless something newer is known. `community_of` is by zone."""
    rows = sorted((*place, community_of[place[0]], presence.inside, presence.since) for place, presence in presences.items())
    if rows:
        await tx.execute(_WRITE_PRESENCES, *(list(column) for column in zip(*rows, strict=True)))


# Lists.

_PASSAGES = Listing(
    select="""
    SELECT passage_id, community_id, door_id, device_id, direction, presentation_id, outcome, reason, kind, account_id, pass_id, owner_id,
        occurred_at, offline, card, opened_by, note
    FROM passages
    """,
    key=("occurred_at", "passage_id"),
    descending=True,
    where="community_id = {}",
    filters={
        "door_id": "door_id = {}",
        "account_id": "owner_id = {} AND account_id = {}",
        "pass_id": "pass_id = {}",
        "outcome": "outcome = {}",
        "owner_id": "owner_id = {}",
    },
)
# Where the last page ended.
Cursor = tuple[datetime, UUID]


async def list_passages(tx: Transaction, after: Cursor | None, limit: int, **asked: object) -> list[Passage]:
    """The community's passages, newest first; only of one `door_id`, `account_id`, `pass_id` or `outcome`, only one `owner_id`'s own."""
    if asked.get("account_id") is not None:
        asked["account_id"] = (asked["account_id"], asked["account_id"])
    rows = await _PASSAGES.fetch(tx, [tx.community_id], after, limit, **asked)
    return [_passage(row) for row in rows]


def _passage(row: Any) -> Passage:
    kind = None if row["kind"] is None else CredentialKind(row["kind"])
    return Passage(**{**row, "direction": Direction(row["direction"]), "outcome": Outcome(row["outcome"]), "kind": kind})


# What is forgotten.

# So many at once as a busy installation has in minutes: all that came to be old while nothing was deleted would not be gone in time.
_FORGOTTEN_AT_ONCE: Final = 100_000
_FORGET_PASSAGES = "DELETE FROM passages WHERE ctid = ANY (ARRAY (SELECT ctid FROM passages WHERE occurred_at < $1 LIMIT $2))"
_FORGET_CODES = "DELETE FROM used_codes WHERE used_at < $1"
_FORGET_PRESENCES = "DELETE FROM presences WHERE since < $1"


async def forget(tx: Transaction, passages_before: datetime, codes_before: datetime, presences_before: datetime) -> None:
    """Deletes what is older, in all communities; of passages the rest the next time."""
    await tx.execute(_FORGET_PASSAGES, passages_before, _FORGOTTEN_AT_ONCE)
    await tx.execute(_FORGET_CODES, codes_before)
    await tx.execute(_FORGET_PRESENCES, presences_before)
