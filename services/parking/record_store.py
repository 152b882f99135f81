"""The SQL of what has been recorded: sessions, gate openings, reviews, single reads, and the figures made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.listing import Listing, one_of
from services.parking.books import Read
from services.parking.lanes import Direction, Reason
from services.parking.plates import PlateKind, lookalike_key
from services.parking.sessions import SessionState

# Sessions.


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A stay, as lists show it. Amounts are fen."""

    session_id: UUID
    lot_id: UUID
    plate: str
    plate_kind: PlateKind
    state: SessionState
    admission: str
    entered_at: datetime
    left_at: datetime | None
    amount_fen: int
    paid_fen: int


_SESSION: Final = """
SELECT session_id, lot_id, plate, plate_kind, state, admission, entered_at, CASE WHEN state = 'left' THEN out_at END AS left_at,
       amount_fen, paid_fen
FROM sessions
"""


def _session(row: Any) -> SessionRecord:
    return SessionRecord(**{**row, "plate_kind": PlateKind(row["plate_kind"]), "state": SessionState(row["state"])})


_SELECT_SESSION = _SESSION + "WHERE session_id = $1"


async def session(tx: Transaction, session_id: UUID) -> SessionRecord | None:
    """A session, or None."""
    row = await tx.fetchrow(_SELECT_SESSION, session_id)
    return None if row is None else _session(row)


_SESSIONS = Listing(
    select=_SESSION,
    where="community_id = {}",
    filters={"lot_id": "lot_id = {}", "plate": "plate = {}", "state": one_of("state", SessionState)},
    key=("session_id",),
    descending=True,
)


async def list_sessions(
    tx: Transaction, lot_id: UUID | None, plate: str | None, state: SessionState | None, after: UUID | None, limit: int
) -> list[SessionRecord]:
    """The community's sessions, newest first."""
    rows = await _SESSIONS.fetch(tx, [tx.community_id], after, limit, lot_id=lot_id, plate=plate, state=state)
    return [_session(row) for row in rows]


_HOUSEHOLD_SESSIONS = Listing(select=_SESSION, where="household_id = {}", key=("session_id",), descending=True)


async def list_household_sessions(tx: Transaction, household_id: UUID, after: UUID | None, limit: int) -> list[SessionRecord]:
    """The sessions of a household's own vehicles, newest first."""
    return [_session(row) for row in await _HOUSEHOLD_SESSIONS.fetch(tx, [household_id], after, limit)]


_LOCK_LOTS_WITH_OPEN_SESSIONS = """
SELECT lot_id FROM lots WHERE lot_id IN (SELECT lot_id FROM sessions WHERE state = 'open' AND entered_at < $1)
ORDER BY lot_id FOR NO KEY UPDATE
"""


async def lock_lots_with_open_sessions(tx: Transaction, entered_before: datetime) -> None:
    """Locks the lots that have an open session which began before an instant."""
    await tx.execute(_LOCK_LOTS_WITH_OPEN_SESSIONS, entered_before)


_CLOSE_OPEN_SESSIONS = """
WITH closed AS (
    UPDATE sessions SET state = 'exit_missed', out_at = $2, abandoned = true, version = version + 1
    WHERE state = 'open' AND entered_at < $1
    RETURNING session_id, community_id, lot_id, plate
), counted AS (
    UPDATE lots SET inside = inside - fewer.sessions
    FROM (SELECT lot_id, count(*) AS sessions FROM closed GROUP BY lot_id) AS fewer WHERE lots.lot_id = fewer.lot_id
)
INSERT INTO reviews (review_id, community_id, lot_id, kind, about_id, plate_read, session_ids, occurred_at)
SELECT uuidv7(), community_id, lot_id, 'exit_missed', session_id, plate, ARRAY[session_id], $2 FROM closed
ON CONFLICT DO NOTHING
"""


async def close_open_sessions(tx: Transaction, entered_before: datetime) -> None:
    """Closes as missed the open sessions that began before an instant, and has each reviewed. Their lots are locked."""
    await tx.execute(_CLOSE_OPEN_SESSIONS, entered_before, tx.now)


# Single reads.

_SELECT_READ = """
SELECT read_id, lane_id, direction, plate, plate_kind, passed_at, reason, counts, opened, went_out, session_id, by_hand, assigned
FROM reads WHERE read_id = $1
"""


async def read(tx: Transaction, read_id: UUID) -> Read | None:
    """A read, or None."""
    row = await tx.fetchrow(_SELECT_READ, read_id)
    if row is None:
        return None
    return Read(
        read_id=row["read_id"],
        lane_id=row["lane_id"],
        direction=Direction(row["direction"]),
        plate=row["plate"],
        plate_kind=None if row["plate_kind"] is None else PlateKind(row["plate_kind"]),
        passed_at=row["passed_at"],
        reason=Reason(row["reason"]),
        counts=row["counts"],
        opened=row["opened"],
        left=row["went_out"],
        session_id=row["session_id"],
        by_hand=row["by_hand"],
        is_assigned=row["assigned"],
    )


_UPDATE_READ = """
UPDATE reads SET plate = $2, plate_kind = $3, lookalike = $4, counts = $5, went_out = $6, session_id = $7, assigned = $8 WHERE read_id = $1
"""


async def update_read(tx: Transaction, read: Read) -> None:
    """Keeps what a person said of a read."""
    arguments = (read.plate, read.plate_kind, lookalike_key(read.plate), read.counts, read.left, read.session_id, read.is_assigned)
    await tx.execute(_UPDATE_READ, read.read_id, *arguments)


# Gate openings.


@dataclass(frozen=True, slots=True)
class OpeningRecord:
    """An opening of a gate, as lists show it."""

    command_id: UUID
    lane_id: UUID
    reason_code: str
    reason: str
    opened_by: UUID | None
    session_id: UUID | None
    requested_at: datetime
    outcome: str


_OPENINGS = Listing(
    select="SELECT command_id, lane_id, reason_code, reason, opened_by, session_id, requested_at, outcome FROM gate_openings",
    where="community_id = {}",
    filters={"lane_id": "lane_id = {}"},
    key=("command_id",),
    descending=True,
)


async def list_openings(tx: Transaction, lane_id: UUID | None, after: UUID | None, limit: int) -> list[OpeningRecord]:
    """Gate openings, newest first."""
    return [OpeningRecord(**row) for row in await _OPENINGS.fetch(tx, [tx.community_id], after, limit, lane_id=lane_id)]


_SET_OUTCOME = "UPDATE gate_openings SET outcome = $3 WHERE command_id = $1 AND gate_device_id = $2 AND outcome = ''"


async def set_outcome(tx: Transaction, gate_device_id: str, command_id: UUID, outcome: str) -> None:
    """Notes a gate's answer to a command, once."""
    await tx.execute(_SET_OUTCOME, command_id, gate_device_id, outcome)


# Reviews.


@dataclass(frozen=True, slots=True)
class Review:
    """Something that a person must look at, or has looked at."""

    review_id: UUID
    lot_id: UUID
    kind: str
    about_id: UUID
    lane_id: UUID | None
    plate_read: str
    session_ids: Sequence[UUID]
    occurred_at: datetime
    resolved_at: datetime | None


_REVIEW: Final = "SELECT review_id, lot_id, kind, about_id, lane_id, plate_read, session_ids, occurred_at, resolved_at FROM reviews "
_SELECT_REVIEW = _REVIEW + "WHERE review_id = $1"


async def review(tx: Transaction, review_id: UUID) -> Review | None:
    """A review, or None."""
    row = await tx.fetchrow(_SELECT_REVIEW, review_id)
    return None if row is None else Review(**row)


_REVIEWS = Listing(
    select=_REVIEW,
    where="community_id = {}",
    filters={"waiting": "resolved_at IS NULL"},
    key=("review_id",),
    descending=True,
)


async def list_reviews(tx: Transaction, include_resolved: bool, after: UUID | None, limit: int) -> list[Review]:
    """Reviews, newest first."""
    return [Review(**row) for row in await _REVIEWS.fetch(tx, [tx.community_id], after, limit, waiting=not include_resolved)]


_RESOLVE_REVIEW = """
UPDATE reviews SET resolved_at = $2, resolved_by = $3, resolved_session_id = $4, note = $5 WHERE review_id = $1 AND resolved_at IS NULL
"""


async def resolve_review(tx: Transaction, review_id: UUID, session_id: UUID | None, note: str) -> bool:
    """Closes a review; False when it is closed already."""
    return await tx.execute(_RESOLVE_REVIEW, review_id, tx.now, tx.caller.account_id, session_id, note) == 1


# Figures.


@dataclass(frozen=True, slots=True)
class Occupancy:
    capacity: int
    inside: int


_SELECT_OCCUPANCY = """
SELECT inside, (SELECT coalesce(sum(capacity), 0)::bigint FROM areas WHERE areas.lot_id = lots.lot_id) AS capacity
FROM lots WHERE lot_id = $1
"""


async def occupancy(tx: Transaction, lot_id: UUID) -> Occupancy | None:
    """How full a lot is now; None when there is no such lot."""
    row = await tx.fetchrow(_SELECT_OCCUPANCY, lot_id)
    return None if row is None else Occupancy(**row)


# A session that is not closed by then was abandoned long ago, so none that began earlier counts.
_COUNT_INSIDE = """
SELECT (SELECT count(*) FROM sessions
        WHERE lot_id = $1 AND entered_at >= instant - $3::interval AND entered_at <= instant AND out_at > instant)
FROM unnest($2::timestamptz[]) WITH ORDINALITY AS instants (instant, number) ORDER BY number
"""


async def count_inside(tx: Transaction, lot_id: UUID, instants: Sequence[datetime], longest: timedelta) -> list[int]:
    """How many cars were inside at each instant. No session is longer than `longest`."""
    return [row[0] for row in await tx.fetch(_COUNT_INSIDE, lot_id, list(instants), longest)]


@dataclass(frozen=True, slots=True)
class Day:
    """A local calendar day's figures; the revenue is in fen, less what went back on the day."""

    day: date
    entries: int
    exits: int
    revenue_fen: int


_SELECT_DAYS = """
SELECT day,
       (SELECT count(*) FROM sessions WHERE lot_id = $1 AND entered_at >= begins AND entered_at < ends) AS entries,
       (SELECT count(*) FROM sessions WHERE lot_id = $1 AND state = 'left' AND out_at >= begins AND out_at < ends) AS exits,
       (SELECT coalesce(sum(amount_fen), 0)::bigint FROM movements WHERE lot_id = $1 AND at >= begins AND at < ends) AS revenue_fen
FROM unnest($2::date[], $3::timestamptz[], $4::timestamptz[]) AS days (day, begins, ends) ORDER BY day
"""


async def days(tx: Transaction, lot_id: UUID, calendar: Sequence[tuple[date, datetime, datetime]]) -> list[Day]:
    """The figures of local days, each given with the instants at which it begins and ends."""
    columns = [list(column) for column in zip(*calendar, strict=True)]
    return [Day(**row) for row in await tx.fetch(_SELECT_DAYS, lot_id, *columns)]
