"""The SQL on the way of a read to its decision: lock a lot, load the books around a read, keep what changed.

A decision takes three statements: the lock, the situation, the changes. The first two cannot be one: a statement sees what was
committed when it began, not when its lock was granted. All other SQL is in the other stores.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from servicekit.database import Transaction
from services.parking.books import Read
from services.parking.lanes import SAME_PASSAGE_MAX, Direction
from services.parking.plates import lookalike_key
from services.parking.sessions import Movement, Session

# Lanes and locks.


@dataclass(frozen=True, slots=True)
class LockedLane:
    """A lane of a lot that this transaction has locked, with its gate."""

    lane_id: UUID
    lot_id: UUID
    direction: Direction
    camera_device_id: str
    gate_device_id: str
    commands: int
    """The counter of the last command that the gate was given."""
    inside: int
    full_lot_admits_permits: bool
    admits_temporary: bool


_LANE: Final = """
SELECT lanes.lane_id, lanes.lot_id, lanes.direction, lanes.camera_device_id, lanes.gate_device_id, gates.commands,
       lots.inside, lots.full_lot_admits_permits, lots.admits_temporary
FROM lanes JOIN lots USING (lot_id)
JOIN gates ON gates.community_id = lanes.community_id AND gates.gate_device_id = lanes.gate_device_id
"""
_LOCK_LANE_OF_CAMERA = (
    _LANE
    + """
WHERE lanes.community_id = $1 AND lanes.camera_device_id = $2 AND lanes.lane_number IN (0, $3)
ORDER BY lanes.lane_number DESC LIMIT 1 FOR NO KEY UPDATE OF lots, gates
"""
)


async def lock_lane_of_camera(tx: Transaction, camera_device_id: str, lane_number: int) -> LockedLane | None:
    """Locks the lot that a camera watches this lane of, or its only one; None when it watches none."""
    row = await tx.fetchrow(_LOCK_LANE_OF_CAMERA, tx.community_id, camera_device_id, lane_number)
    return None if row is None else LockedLane(**{**row, "direction": Direction(row["direction"])})


_LOCK_LANE = _LANE + "WHERE lanes.lane_id = $1 FOR NO KEY UPDATE OF lots, gates"


async def lock_lane(tx: Transaction, lane_id: UUID) -> LockedLane | None:
    """Locks a lane's lot and its gate; None when there is no such lane."""
    row = await tx.fetchrow(_LOCK_LANE, lane_id)
    return None if row is None else LockedLane(**{**row, "direction": Direction(row["direction"])})


_LOCK_LOT = "SELECT lot_id FROM lots WHERE lot_id = $1 FOR NO KEY UPDATE"


async def lock_lot(tx: Transaction, lot_id: UUID) -> bool:
    """Locks a lot; False when there is no such lot."""
    return await tx.fetchval(_LOCK_LOT, lot_id) is not None


_LOCK_LOT_OF_SESSION = "SELECT lot_id FROM lots WHERE lot_id = (SELECT lot_id FROM sessions WHERE session_id = $1) FOR NO KEY UPDATE"


async def lock_lot_of_session(tx: Transaction, session_id: UUID) -> UUID | None:
    """Locks the lot that a session is in; None when there is no such session."""
    lot_id: UUID | None = await tx.fetchval(_LOCK_LOT_OF_SESSION, session_id)
    return lot_id


# The situation around a read.


@dataclass(frozen=True, slots=True)
class PermitOnPlate:
    permit_id: UUID
    household_id: UUID


@dataclass(frozen=True, slots=True)
class PassOnPlate:
    visitor_pass_id: UUID
    free_minutes: int


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A household's vehicle, and the accounts that are told of its comings and goings."""

    plate: str
    household_id: UUID
    account_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class TariffInForce:
    tariff_id: UUID
    document: str


@dataclass(frozen=True, slots=True)
class Record:
    """What identifies a read: the camera's own id of it."""

    camera_device_id: str
    record_id: str


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision needs: the books of a plate, and of all that could be taken for it or share its permit, since an instant."""

    since: datetime
    """The instant asked for or, of a record that is known already, when that read was made."""
    known_read_id: UUID | None
    """The read that the record is already."""
    permit_ids: frozenset[UUID]
    """The month passes that cover it, or what could be taken for it: all of their cars are among the books."""
    sessions: tuple[Session, ...]
    reads: tuple[Read, ...]
    vehicles: tuple[Vehicle, ...]
    overtaken_at: datetime | None
    """When another vehicle was first read at the lane after that instant."""
    time_zone: str | None
    capacity: int
    is_denied: bool
    permit: PermitOnPlate | None
    visitor_pass: PassOnPlate | None
    tariff: TariffInForce | None


# One row of JSON: a dozen small look-ups in one round trip. Rows come as text that msgspec makes dataclasses of.
_SELECT_SITUATION = """
WITH record AS MATERIALIZED (
    SELECT read_id, passed_at FROM reads WHERE community_id = $1 AND camera_device_id = $6 AND record_id = $7
), began AS MATERIALIZED (
    SELECT coalesce((SELECT passed_at FROM record), $5::timestamptz) AS at
), together AS MATERIALIZED (
    SELECT array_append(array_agg(DISTINCT mate.lookalike), $4::text) AS keys,
           coalesce(array_agg(DISTINCT mine.permit_id), '{}') AS permit_ids
    FROM permit_plates mine JOIN permit_plates mate ON mate.permit_id = mine.permit_id
    WHERE mine.lot_id = $2 AND mine.lookalike = $4 AND mine.valid_until >= $5 - interval '31 days'
), seen AS MATERIALIZED (
    SELECT read_id, lane_id, direction, plate, plate_kind, passed_at, reason, counts, opened, went_out AS left, session_id, by_hand,
           assigned AS is_assigned,
           (SELECT min(other.passed_at) FROM reads other
            WHERE other.lane_id = reads.lane_id AND other.passed_at > reads.passed_at AND other.plate <> reads.plate) AS overtaken_at
    FROM reads
    WHERE lot_id = $2 AND lookalike = ANY((SELECT keys FROM together)::text[]) AND passed_at >= (SELECT at FROM began) - $8::interval
), around AS MATERIALIZED (
    SELECT session_id, plate, plate_kind, admission, entered_at, state, nullif(out_at, 'infinity') AS out_at, amount_fen, permit_id,
           visitor_pass_id, free_minutes, household_id, tariff_id, document::text AS tariff, abandoned AS is_abandoned, sessions.version,
           CASE WHEN charge_id IS NOT NULL THEN
               json_build_object('charge_id', charge_id, 'amount_fen', charge_fen, 'valid_until', charge_valid_until)
           END AS charge,
           coalesce((SELECT json_agg(json_build_object('at', at, 'amount_fen', movements.amount_fen) ORDER BY at, movement_id)
               FROM movements WHERE movements.session_id = sessions.session_id), '[]') AS movements
    FROM sessions LEFT JOIN tariffs USING (tariff_id)
    WHERE session_id = ANY(ARRAY(
        SELECT session_id FROM sessions
        WHERE lot_id = $2 AND lookalike = ANY((SELECT keys FROM together)::text[]) AND out_at >= (SELECT at FROM began)
        UNION
        SELECT session_id FROM seen
    ))
)
SELECT json_build_object(
    'since', (SELECT at FROM began),
    'known_read_id', (SELECT read_id FROM record),
    'permit_ids', (SELECT permit_ids FROM together),
    'sessions', coalesce((SELECT json_agg(around) FROM around), '[]'),
    'reads', coalesce((SELECT json_agg(seen) FROM seen), '[]'),
    'vehicles', coalesce((SELECT json_agg(json_build_object('plate', plate, 'household_id', household_id, 'account_ids', account_ids))
        FROM vehicles WHERE community_id = $1 AND NOT removed AND (plate = $3 OR plate IN (SELECT plate FROM around))), '[]'),
    'overtaken_at', (SELECT min(passed_at) FROM reads WHERE lane_id = $9 AND passed_at > (SELECT at FROM began) AND plate <> $3),
    'time_zone', (SELECT time_zone FROM known_communities WHERE community_id = $1),
    'capacity', (SELECT coalesce(sum(capacity), 0) FROM areas WHERE lot_id = $2),
    'is_denied', EXISTS (SELECT FROM denials WHERE lot_id = $2 AND plate = $3),
    'permit', (SELECT json_build_object('permit_id', permit_id, 'household_id', household_id)
        FROM permit_plates JOIN permits USING (permit_id)
        WHERE permit_plates.lot_id = $2 AND lookalike = $4 AND plate = $3 AND permit_plates.valid_until > $5
          AND valid_from <= $5 AND $5 < least(permits.valid_until, revoked_at)
        ORDER BY permit_id LIMIT 1),
    'visitor_pass', (SELECT json_build_object('visitor_pass_id', visitor_pass_id, 'free_minutes', free_minutes) FROM visitor_passes
        WHERE community_id = $1 AND plate = $3 AND valid_from <= $5 AND $5 < least(valid_until, revoked_at)
        ORDER BY free_minutes DESC, visitor_pass_id LIMIT 1),
    'tariff', (SELECT json_build_object('tariff_id', tariff_id, 'document', document::text) FROM tariffs
        WHERE lot_id = $2 AND effective_from <= $5 AND (effective_until IS NULL OR $5 < effective_until)
        ORDER BY effective_from DESC, version DESC LIMIT 1)
)::text
"""
_situation = msgspec.json.Decoder(Situation)
NO_RECORD: Final = Record("", "")


async def load_situation(
    tx: Transaction, lot_id: UUID, plate: str, since: datetime, *, record: Record = NO_RECORD, lane_id: UUID | None = None
) -> Situation:
    """The books around `plate` in a locked lot, since an instant, and what is known of the plate and the lot at that instant."""
    key = lookalike_key(plate)
    arguments = (tx.community_id, lot_id, plate, key, since, record.camera_device_id, record.record_id, SAME_PASSAGE_MAX, lane_id)
    return _situation.decode(await tx.fetchval(_SELECT_SITUATION, *arguments))


# What has changed.


@dataclass(frozen=True, slots=True)
class NewRead:
    """A read that is not in the books yet."""

    read: Read
    record: Record
    occurred_at: datetime
    """When the camera says it was."""


@dataclass(frozen=True, slots=True)
class GateOpening:
    """An opening of a gate, as it is audited."""

    command_id: UUID
    lane_id: UUID
    gate_device_id: str
    counter: int
    reason_code: str
    reason: str
    opened_by: UUID | None
    session_id: UUID | None
    read_id: UUID | None
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class NewReview:
    """Something that a person must look at; it is there once for each kind and thing."""

    review_id: UUID
    kind: str
    about_id: UUID
    lane_id: UUID | None
    plate_read: str
    session_ids: tuple[UUID, ...]
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Changes:
    """What a decision changes in one lot."""

    lot_id: UUID
    sessions: Sequence[Session] = ()
    """As they are to be from now on. One that has ended stands before the one that follows it."""
    inside_by: int = 0
    new_read: NewRead | None = None
    reads: Sequence[Read] = ()
    openings: Sequence[GateOpening] = ()
    reviews: Sequence[NewReview] = ()
    moot_reviews: Collection[tuple[UUID, str]] = ()
    """What need not be looked at any more: the things and kinds. A review that a person has resolved stays."""


_WRITE = """
WITH written AS (
    INSERT INTO sessions (session_id, community_id, lot_id, plate, plate_kind, lookalike, permit_id, visitor_pass_id, free_minutes,
        household_id, tariff_id, state, admission, entered_at, out_at, amount_fen, paid_fen, charge_id, charge_fen, charge_valid_until,
        abandoned, version)
    SELECT session_id, $1, $2, plate, plate_kind, lookalike, permit_id, visitor_pass_id, free_minutes,
        household_id, tariff_id, state, admission, entered_at, coalesce(out_at, 'infinity'), amount_fen, paid_fen, charge_id, charge_fen,
        charge_valid_until, is_abandoned, version
    FROM jsonb_to_recordset($3::jsonb -> 'sessions') AS session (session_id uuid, plate text, plate_kind text, lookalike text,
        permit_id uuid, visitor_pass_id uuid, free_minutes bigint, household_id uuid, tariff_id uuid, state text, admission text,
        entered_at timestamptz, out_at timestamptz, amount_fen bigint, paid_fen bigint, charge_id uuid, charge_fen bigint,
        charge_valid_until timestamptz, is_abandoned boolean, version bigint)
    ON CONFLICT (session_id) DO UPDATE SET state = excluded.state, admission = excluded.admission, entered_at = excluded.entered_at,
        out_at = excluded.out_at, amount_fen = excluded.amount_fen, paid_fen = excluded.paid_fen, charge_id = excluded.charge_id,
        charge_fen = excluded.charge_fen, charge_valid_until = excluded.charge_valid_until, abandoned = excluded.abandoned,
        version = excluded.version
), arrived AS (
    INSERT INTO reads (read_id, community_id, lot_id, lane_id, direction, camera_device_id, record_id, plate, plate_kind, lookalike,
        passed_at, occurred_at, reason, counts, opened, went_out, session_id, by_hand, assigned)
    SELECT read_id, $1, $2, lane_id, direction, camera_device_id, record_id, plate, plate_kind, lookalike,
        passed_at, occurred_at, reason, counts, opened, went_out, session_id, by_hand, is_assigned
    FROM jsonb_to_recordset($3::jsonb -> 'new_reads') AS read (read_id uuid, lane_id uuid, direction text, camera_device_id text,
        record_id text, plate text, plate_kind text, lookalike text, passed_at timestamptz, occurred_at timestamptz,
        reason text, counts boolean, opened boolean, went_out boolean, session_id uuid, by_hand boolean, is_assigned boolean)
), replayed AS (
    UPDATE reads SET reason = read.reason, counts = read.counts, opened = read.opened, went_out = read.went_out,
        session_id = read.session_id, assigned = read.is_assigned, plate = read.plate, lookalike = read.lookalike
    FROM jsonb_to_recordset($3::jsonb -> 'reads') AS read (read_id uuid, reason text, counts boolean, opened boolean, went_out boolean,
        session_id uuid, is_assigned boolean, plate text, lookalike text)
    WHERE reads.read_id = read.read_id
), moot AS (
    DELETE FROM reviews USING jsonb_to_recordset($3::jsonb -> 'moot_reviews') AS gone (about_id uuid, kind text)
    WHERE reviews.about_id = gone.about_id AND reviews.kind = gone.kind AND resolved_at IS NULL
), raised AS (
    INSERT INTO reviews (review_id, community_id, lot_id, kind, about_id, lane_id, plate_read, session_ids, occurred_at)
    SELECT review_id, $1, $2, kind, about_id, lane_id, plate_read, session_ids, occurred_at
    FROM jsonb_to_recordset($3::jsonb -> 'reviews') AS review (review_id uuid, kind text, about_id uuid, lane_id uuid, plate_read text,
        session_ids uuid[], occurred_at timestamptz)
    ON CONFLICT (about_id, kind) DO UPDATE SET session_ids = excluded.session_ids WHERE reviews.resolved_at IS NULL
), opened AS (
    INSERT INTO gate_openings (command_id, community_id, lane_id, gate_device_id, counter, reason_code, reason, opened_by, session_id,
        read_id, requested_at)
    SELECT command_id, $1, lane_id, gate_device_id, counter, reason_code, reason, opened_by, session_id, read_id, requested_at
    FROM jsonb_to_recordset($3::jsonb -> 'openings') AS opening (command_id uuid, lane_id uuid, gate_device_id text, counter bigint,
        reason_code text, reason text, opened_by uuid, session_id uuid, read_id uuid, requested_at timestamptz)
    RETURNING gate_device_id, counter
), counted AS (
    UPDATE gates SET commands = latest.counter
    FROM (SELECT gate_device_id, max(counter) AS counter FROM opened GROUP BY gate_device_id) AS latest
    WHERE community_id = $1 AND gates.gate_device_id = latest.gate_device_id
)
UPDATE lots SET inside = inside + $4 WHERE lot_id = $2 AND $4::bigint <> 0
"""
_INSERT_MOVEMENT = """
INSERT INTO movements (movement_id, community_id, lot_id, session_id, charge_id, at, amount_fen) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING
"""


async def insert_movement(tx: Transaction, lot_id: UUID, session_id: UUID, movement_id: UUID, charge_id: UUID, movement: Movement) -> bool:
    """Books money for a session; False when it is booked already."""
    arguments = (movement_id, tx.community_id, lot_id, session_id, charge_id, movement.at, movement.amount_fen)
    return await tx.execute(_INSERT_MOVEMENT, *arguments) == 1


_DELETE_SESSIONS = "DELETE FROM sessions WHERE session_id = ANY($1::uuid[])"


async def delete_sessions(tx: Transaction, session_ids: Collection[UUID]) -> None:
    """Deletes sessions that turned out to be part of another; comes before `write`."""
    await tx.execute(_DELETE_SESSIONS, list(session_ids))


async def write(tx: Transaction, changes: Changes) -> None:
    """Keeps what a decision changed."""
    document = {
        "sessions": [_session_row(session) for session in changes.sessions],
        "new_reads": [] if changes.new_read is None else [_new_read_row(changes.new_read)],
        "reads": [_read_row(read) for read in changes.reads],
        "openings": changes.openings,
        "reviews": changes.reviews,
        "moot_reviews": [{"about_id": about_id, "kind": kind} for about_id, kind in changes.moot_reviews],
    }
    await tx.execute(_WRITE, tx.community_id, changes.lot_id, msgspec.json.encode(document).decode(), changes.inside_by)


def _session_row(session: Session) -> dict[str, object]:
    charge = session.charge
    return {
        "session_id": session.session_id,
        "plate": session.plate,
        "plate_kind": session.plate_kind,
        "lookalike": lookalike_key(session.plate),
        "permit_id": session.permit_id,
        "visitor_pass_id": session.visitor_pass_id,
        "free_minutes": session.free_minutes,
        "household_id": session.household_id,
        "tariff_id": session.tariff_id,
        "state": session.state,
        "admission": session.admission,
        "entered_at": session.entered_at,
        "out_at": session.out_at,
        "amount_fen": session.amount_fen,
        "paid_fen": session.paid_fen,
        "charge_id": None if charge is None else charge.charge_id,
        "charge_fen": None if charge is None else charge.amount_fen,
        "charge_valid_until": None if charge is None else charge.valid_until,
        "is_abandoned": session.is_abandoned,
        "version": session.version,
    }


def _new_read_row(new: NewRead) -> dict[str, object]:
    read = new.read
    return {
        **_read_row(read),
        "lane_id": read.lane_id,
        "direction": read.direction,
        "camera_device_id": new.record.camera_device_id,
        "record_id": new.record.record_id,
        "plate_kind": read.plate_kind,
        "passed_at": read.passed_at,
        "occurred_at": new.occurred_at,
        "by_hand": read.by_hand,
    }


def _read_row(read: Read) -> dict[str, object]:
    return {
        "read_id": read.read_id,
        "reason": read.reason,
        "counts": read.counts,
        "opened": read.opened,
        "went_out": read.left,
        "session_id": read.session_id,
        "is_assigned": read.is_assigned,
        "plate": read.plate,
        "lookalike": lookalike_key(read.plate),
    }
