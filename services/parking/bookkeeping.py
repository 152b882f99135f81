"""Keeps what a replay of the books changed: writes it, raises reviews, and tells the world and the vehicle's people.

What the sessions are is decided in `books.py`, what a lane does in `operations.py`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from linli.notification.v1.events_pb2 import Notified
from linli.parking.v1.events_pb2 import VehicleEntered, VehicleExited
from servicekit.database import Transaction
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.parking import store
from services.parking.books import Read, Replay, Step
from services.parking.lanes import Direction
from services.parking.plates import MatchKind
from services.parking.sessions import Session, SessionState
from services.parking.store import Changes, GateOpening, NewRead, NewReview, Record, Situation

CONFUSABLE: Final = "confusable"
UNMATCHED: Final = "unmatched"
UNREAD_PLATE: Final = "unread_plate"
EXIT_MISSED: Final = "exit_missed"
OPENED_OFFLINE: Final = "opened_offline"


@dataclass(frozen=True, slots=True)
class Arrived:
    """What identifies the read at hand, when the books did not have it."""

    record: Record
    occurred_at: datetime


async def keep(
    tx: Transaction,
    lot_id: UUID,
    situation: Situation,
    books: Replay,
    *,
    arrived: Arrived | None = None,
    openings: Sequence[GateOpening] = (),
    opened_offline: Read | None = None,
) -> None:
    """Writes all in which the books differ from the situation before, and publishes it."""
    before = {session.session_id: session for session in situation.sessions}
    changed = [replace(s, version=s.version + 1) for s in books.sessions.values() if s != before.get(s.session_id)]
    # What is inside no more makes room for the same plate before it is inside again.
    changed.sort(key=lambda session: session.state is SessionState.OPEN)
    gone = before.keys() - books.sessions.keys()
    if gone:
        await store.delete_sessions(tx, gone)
    known = {read.read_id: read for read in situation.reads}
    new = [step.read for step in books.steps if step.read.read_id not in known]
    assert len(new) <= (arrived is not None)
    reviews, moot = _reviews(books, before, known, gone)
    if opened_offline is not None:
        reviews.append(_review(OPENED_OFFLINE, opened_offline, () if opened_offline.session_id is None else (opened_offline.session_id,)))
    changes = Changes(
        lot_id=lot_id,
        sessions=changed,
        inside_by=_inside(books.sessions.values()) - _inside(before.values()),
        new_read=NewRead(new[0], arrived.record, arrived.occurred_at) if new and arrived is not None else None,
        reads=[step.read for step in books.steps if known.get(step.read.read_id, step.read) != step.read],
        openings=openings,
        reviews=reviews,
        moot_reviews=moot,
    )
    await store.write(tx, changes)
    for session in changed:
        _announce(tx, lot_id, situation, before.get(session.session_id), session)


def _inside(sessions: Iterable[Session]) -> int:
    return sum(session.state is SessionState.OPEN for session in sessions)


def _reviews(
    books: Replay, before: Mapping[UUID, Session], known: Collection[UUID], gone: Iterable[UUID]
) -> tuple[list[NewReview], set[tuple[UUID, str]]]:
    """What must be looked at, and what need not be any more."""
    reviews: list[NewReview] = []
    moot = {(session_id, EXIT_MISSED) for session_id in gone}
    for step in books.steps:
        kind = _review_kind(step)
        if step.read.read_id in known:
            moot |= {(step.read.read_id, other) for other in (CONFUSABLE, UNMATCHED) if other != kind}
        if kind is not None:
            reviews.append(_review(kind, step.read, step.candidates))
    for session in books.sessions.values():
        old = before.get(session.session_id)
        was_missed = old is not None and old.state is SessionState.EXIT_MISSED
        is_missed = session.state is SessionState.EXIT_MISSED
        if is_missed and not was_missed:
            reviews.append(missed_exit(session))
        elif was_missed and not is_missed:
            moot.add((session.session_id, EXIT_MISSED))
    return reviews, moot


def _review_kind(step: Step) -> str | None:
    read = step.read
    if step.is_repeated or read.by_hand or read.is_assigned:
        return None
    if read.plate_kind is None and (read.direction is Direction.ENTRY or not read.plate):
        return UNREAD_PLATE
    if step.match is MatchKind.CONFUSABLE:
        return CONFUSABLE
    return UNMATCHED if step.match is MatchKind.UNMATCHED else None


def _review(kind: str, read: Read, session_ids: tuple[UUID, ...]) -> NewReview:
    return NewReview(new_id(), kind, read.read_id, read.lane_id, read.plate, session_ids, read.passed_at)


def missed_exit(session: Session) -> NewReview:
    """The review of a session whose exit was missed."""
    occurred_at = session.out_at or session.entered_at
    return NewReview(new_id(), EXIT_MISSED, session.session_id, None, session.plate, (session.session_id,), occurred_at)


def _announce(tx: Transaction, lot_id: UUID, situation: Situation, old: Session | None, session: Session) -> None:
    told = [vehicle for vehicle in situation.vehicles if vehicle.plate == session.plate and vehicle.household_id == session.household_id]
    accounts = [(vehicle.household_id, account_id) for vehicle in told for account_id in vehicle.account_ids]
    if old is None or (old.entered_at, old.admission) != (session.entered_at, session.admission):
        entered = VehicleEntered(
            session_id=str(session.session_id),
            lot_id=str(lot_id),
            plate=session.plate,
            admission=session.admission,
            entered_at=to_timestamp(session.entered_at),
        )
        tx.publish(entered, version=session.version, occurred_at=session.entered_at)
    if old is None:
        _notify(tx, accounts, "parking.vehicle_entered", f"您的车辆（尾号{session.plate[-3:]}）已驶入", "has come in", session.plate)
    if session.state is SessionState.LEFT and (old is None or _ending(old) != _ending(session)):
        exited = VehicleExited(
            session_id=str(session.session_id),
            lot_id=str(lot_id),
            plate=session.plate,
            entered_at=to_timestamp(session.entered_at),
            left_at=to_timestamp(session.out_at),
            amount_fen=session.amount_fen,
            paid_fen=session.paid_fen,
        )
        tx.publish(exited, version=session.version, occurred_at=session.out_at)
    if session.state is SessionState.LEFT and (old is None or old.state is SessionState.OPEN):
        _notify(tx, accounts, "parking.vehicle_exited", f"您的车辆（尾号{session.plate[-3:]}）已驶出", "has left", session.plate)


def _ending(session: Session) -> tuple[object, ...]:
    return session.state, session.out_at, session.amount_fen, session.paid_fen


def _notify(tx: Transaction, accounts: Iterable[tuple[UUID, UUID]], kind: str, zh: str, what: str, plate: str) -> None:
    # The plate's end tells a household's cars apart, and tells a stranger who sees the phone nothing.
    for household_id, account_id in accounts:
        notified = Notified(
            account_id=str(account_id),
            kind=kind,
            text_zh=zh,
            text_en=f"Your vehicle ending in {plate[-3:]} {what}",
            link=f"/v1/households/{household_id}/parking-sessions",
        )
        tx.publish(notified)
