"""The SQL that gathers what a decision at a door depends on, in one round trip."""

import json
from dataclasses import dataclass
from uuid import UUID

from servicekit.commands import LIFETIME
from servicekit.communities import zone_of
from servicekit.database import Transaction
from services.access.deciding import MISSES_WITHIN, Before, Place
from services.access.detection import REFUSALS_WITHIN, Presence, is_inside
from services.access.doors import AntiPassback, CredentialKind, Direction
from services.access.entries import Entry
from services.access.snapshots import entry_of

# Whom a door was to let in that has not said in time that it opened stands outside: a command may be lost, and nobody is kept out for that.
# Refusals are few, and most of those in one community's last minutes are at other terminals. The entry is asked for by its key, not joined:
# of terminals' entries there are many, and before PostgreSQL has counted them it would read all that the terminal knows.
_FIND_QUESTION = """
SELECT door_id, doors.name AS door_name, doors.zone_id, building_id, direction, credential_kinds, anti_passback, time_zone,
    shown.subject_id,
    (SELECT body FROM terminal_entries AS known
     WHERE known.community_id = $1 AND known.device_id = $2 AND known.subject_id = shown.subject_id) AS body,
    (SELECT invited_by FROM passes WHERE pass_id = shown.subject_id) AS invited_by,
    (SELECT entries FROM pass_entries WHERE pass_id = shown.subject_id AND pass_entries.door_id = doors.door_id) AS entries,
    presences.inside AND NOT EXISTS (
        SELECT FROM passages AS entering WHERE entering.community_id = $1 AND outcome IN ('requested', 'refused')
            AND entering.occurred_at = presences.since AND entering.occurred_at < $9
            AND presences.subject_id IN (entering.account_id, entering.pass_id)
    ) AS inside, presences.since,
    EXISTS (SELECT FROM doors AS other WHERE other.zone_id = doors.zone_id AND other.anti_passback <> 'off') AS minds_presence,
    (SELECT used_codes.door_id FROM used_codes WHERE used_codes.community_id = $1 AND nonce = $6) AS used_at,
    lately.misses, lately.refusals
FROM terminals JOIN doors USING (door_id, community_id) JOIN zones USING (zone_id, community_id)
LEFT JOIN known_communities USING (community_id)
LEFT JOIN LATERAL (
    SELECT account_id AS subject_id FROM credentials WHERE community_id = $1 AND kind = $3 AND digest = $4 AND revoked_at IS NULL
    UNION ALL SELECT $5::uuid WHERE $5 IS NOT NULL
    LIMIT 1
) AS shown ON true
LEFT JOIN presences ON presences.zone_id = doors.zone_id AND presences.subject_id = shown.subject_id
CROSS JOIN (
    SELECT count(*) FILTER (WHERE kind = 'pin' AND reason = 'unknown') AS misses, count(*) FILTER (WHERE occurred_at > $8) AS refusals
    FROM passages WHERE community_id = $1 AND outcome = 'refused' AND occurred_at > $7 AND device_id = $2
) AS lately
WHERE terminals.community_id = $1 AND terminals.device_id = $2 AND removed_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """What was shown to a terminal: the digest of a card or PIN, or a subject; and the nonce of a code."""

    kind: CredentialKind
    digest: bytes | None = None
    subject_id: UUID | None = None
    nonce: bytes | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A terminal's place, what it knows of whoever shows something, and what has happened until now."""

    place: Place
    door_name: str
    zone_id: UUID
    building_id: UUID | None
    entry: Entry | None
    before: Before
    # Who invited, when it is a visitor's pass.
    invited_by: UUID | None
    # Whether somebody's being inside the zone matters at any of its doors.
    minds_presence: bool
    # The door that the code has opened.
    code_used_at: UUID | None
    # How often the terminal refused somebody within `REFUSALS_WITHIN`.
    refusals: int


async def find_question(tx: Transaction, device_id: str, shown: Shown) -> Question | None:
    """What a decision depends on; None for a device that is no terminal of the community's."""
    times = (tx.now - MISSES_WITHIN, tx.now - REFUSALS_WITHIN, tx.now - LIFETIME)
    row = await tx.fetchrow(_FIND_QUESTION, tx.community_id, device_id, shown.kind, shown.digest, shown.subject_id, shown.nonce, *times)
    if row is None:
        return None
    presence = None if row["inside"] is None else Presence(row["inside"], row["since"])
    return Question(
        place=Place(
            community_id=tx.community_id,
            door_id=row["door_id"],
            direction=Direction(row["direction"]),
            kinds=frozenset(map(CredentialKind, row["credential_kinds"])),
            anti_passback=AntiPassback(row["anti_passback"]),
            zone=zone_of(row["time_zone"]),
        ),
        door_name=row["door_name"],
        zone_id=row["zone_id"],
        building_id=row["building_id"],
        entry=None if row["body"] is None else entry_of(json.loads(row["body"])),
        before=Before(
            entries=row["entries"] or 0,
            is_inside=is_inside(presence, tx.now),
            is_code_used=row["used_at"] is not None,
            misses=row["misses"],
        ),
        invited_by=row["invited_by"],
        minds_presence=row["minds_presence"],
        code_used_at=row["used_at"],
        refusals=row["refusals"],
    )


_LOCK_ENTRIES = "SELECT FROM passes WHERE pass_id = $1 FOR UPDATE"
_FIND_ENTRIES = "SELECT entries FROM pass_entries WHERE pass_id = $1 AND door_id = $2"


async def lock_entries(tx: Transaction, pass_id: UUID, door_id: UUID) -> int:
    """How often a door has let in on a pass; nobody else counts on the pass until the transaction ends."""
    await tx.execute(_LOCK_ENTRIES, pass_id)
    return await tx.fetchval(_FIND_ENTRIES, pass_id, door_id) or 0


_FIND_DOOR = """
SELECT door_id, direction FROM terminals WHERE community_id = $1 AND device_id = $2 AND removed_at IS NULL
"""


async def find_door(tx: Transaction, device_id: str) -> tuple[UUID, Direction] | None:
    """The door of a terminal of the community's, and the way it lets through there."""
    row = await tx.fetchrow(_FIND_DOOR, tx.community_id, device_id)
    return None if row is None else (row["door_id"], Direction(row["direction"]))
