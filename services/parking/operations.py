"""What happens at a lot's lanes: a plate is read, a guard opens, a payment arrives, a passage is reviewed. One function for each.

Every one locks the lot, loads the books around a plate, replays them with what is new, and keeps what changed: see `books.py` and
`bookkeeping.py`. Lots and tariffs are in `lot_operations.py`, permits and passes in `pass_operations.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from linli.billing.v1.events_pb2 import ChargeRaised
from linli.parking.v1.events_pb2 import GateOpenRequested, VehicleHeld
from servicekit.commands import CommandSigner, next_counter
from servicekit.communities import zone_of
from servicekit.database import Transaction
from servicekit.errors import Conflict, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.parking import bookkeeping, charges, record_store, sessions, store
from services.parking.bookkeeping import Arrived
from services.parking.books import Arrival, Read, Replay, Step, replay
from services.parking.charges import yuan
from services.parking.holidays import HOLIDAYS
from services.parking.lanes import (
    DECISION_AGE_MAX,
    LATE,
    Action,
    Decision,
    Direction,
    ExitTimeVerdict,
    LotFacts,
    Reason,
    judge_exit_time,
    judge_read_time,
)
from services.parking.plates import (
    KIND_BY_VIID_PLATE_CLASS,
    KIND_BY_VIID_PLATE_COLOUR,
    NotAPlate,
    Plate,
    lookalike_key,
    normalise,
    parse,
)
from services.parking.record_store import Review
from services.parking.sessions import Calendar, Movement, RaisedCharge, Session, SessionState
from services.parking.store import NO_RECORD, GateOpening, LockedLane, Record, Situation

# Whose charges are ours.
ORIGIN: Final = "parking"
_INSTANT: Final = timedelta(microseconds=1)
_UNREAD_TEXT_LENGTH_MAX: Final = 64
_BY_HAND: Final = "by_hand"


@dataclass(frozen=True, slots=True)
class QuoteValidity:
    """How long a quoted price holds: at least the time that a payment takes, even when it rises meanwhile; at most so that it is fresh."""

    at_least: timedelta
    at_most: timedelta


@dataclass(frozen=True, slots=True)
class Abandonment:
    """After how long a car that was not seen again is taken to have left."""

    after: timedelta

    @property
    def longest(self) -> timedelta:
        """No stay is longer: the timer has closed it."""
        return self.after + timedelta(days=1)


# A camera's read.


@dataclass(frozen=True, slots=True)
class Seen:
    """What a camera says: the plate as it wrote it, its colour and class as GA/T 1400 codes, and the times of the record."""

    record: Record
    plate: str
    plate_colour: str
    plate_class: str
    occurred_at: datetime
    received_at: datetime


async def decide_lane(tx: Transaction, seen: Seen, lane_number: int) -> None:
    """Decides on a vehicle that a camera read, and answers once: the gate is to open, or the vehicle is held.

    A read of a camera that watches no lane is ignored. One that is too old for its car to stand there is booked, and opens nothing.
    """
    lane = await store.lock_lane_of_camera(tx, seen.record.camera_device_id, lane_number)
    if lane is None:
        return
    time = judge_read_time(seen.occurred_at, seen.received_at)
    plate, kind = _plate_in(seen)
    situation = await store.load_situation(tx, lane.lot_id, plate, time.at, record=seen.record, lane_id=lane.lane_id)
    is_late = time.is_late or tx.now - seen.received_at > DECISION_AGE_MAX or situation.overtaken_at is not None
    read = _read_of(situation, lane, plate, kind, time.at if is_late else _after_entry(situation, lane, plate, time.at))
    if read is None or (read.opened and read.reason is Reason.LATE_READ):
        # A person has dealt with it, or the lane's offline rule has.
        _hold(tx, lane, seen.record, LATE)
        return
    arrival = _arrival(lane, situation, read, is_late=is_late)
    await _decide(tx, lane, situation, arrival, Arrived(seen.record, seen.occurred_at))


async def record_offline_opening(tx: Transaction, lane_id: UUID, seen: Seen) -> None:
    """Books a vehicle for which a lane's offline rule opened the barrier, whatever it owed; a person looks at it later."""
    lane = await store.lock_lane(tx, lane_id)
    if lane is None:
        return
    time = judge_read_time(seen.occurred_at, seen.received_at)
    plate, kind = _plate_in(seen)
    situation = await store.load_situation(tx, lane.lot_id, plate, time.at, record=seen.record, lane_id=lane.lane_id)
    read = _read_of(situation, lane, plate, kind, time.at)
    if read is None:
        return
    read = replace(read, opened=True, reason=Reason.LATE_READ)
    arrival = _arrival(lane, situation, read, is_late=True, passes_anyway=True)
    books = _replayed(tx, situation, arrival)
    read = next(step.read for step in books.steps if step.read.read_id == read.read_id)
    arrived = Arrived(seen.record, seen.occurred_at)
    await bookkeeping.keep(tx, lane.lot_id, situation, books, arrived=arrived, opened_offline=read)


def _plate_in(seen: Seen) -> tuple[str, Plate | None]:
    """The text to go by, empty when unread, and the plate that it is, None when it is none."""
    hint = KIND_BY_VIID_PLATE_CLASS.get(seen.plate_class) or KIND_BY_VIID_PLATE_COLOUR.get(seen.plate_colour)
    try:
        plate = parse(seen.plate, hint)
        return ("", None) if plate is None else (plate.text, plate)
    except NotAPlate:
        text = "".join(character for character in seen.plate if character.isprintable())[:_UNREAD_TEXT_LENGTH_MAX]
        return normalise(text) or "", None


def _after_entry(situation: Situation, lane: LockedLane, plate: str, at: datetime) -> datetime:
    """When a car that stands at an exit now was read there: not before it came in, if the cameras' clocks differ a little."""
    if lane.direction is Direction.EXIT:
        for session in situation.sessions:
            if session.plate == plate and session.state is SessionState.OPEN:
                judged = judge_exit_time(session.entered_at, at)
                return at if judged.verdict is ExitTimeVerdict.BEFORE_ENTRY else judged.left_at
    return at


def _read_of(situation: Situation, lane: LockedLane, plate: str, kind: Plate | None, passed_at: datetime) -> Read | None:
    """The read that a record is: the one in the books, or a new one; None when a person has since said what it was."""
    if situation.known_read_id is not None:
        return next((read for read in situation.reads if read.read_id == situation.known_read_id and not read.is_assigned), None)
    return Read(
        read_id=new_id(),
        lane_id=lane.lane_id,
        direction=lane.direction,
        plate=plate,
        plate_kind=None if kind is None else kind.kind,
        passed_at=passed_at,
        reason=Reason.UNREAD_PLATE,
        overtaken_at=situation.overtaken_at,
    )


def _arrival(lane: LockedLane, situation: Situation, read: Read, *, is_late: bool = False, passes_anyway: bool = False) -> Arrival:
    permit, visitor_pass, tariff = situation.permit, situation.visitor_pass, situation.tariff
    vehicle = next((vehicle for vehicle in situation.vehicles if vehicle.plate == read.plate), None)
    household_id = permit.household_id if permit is not None else None
    return Arrival(
        read=read,
        lot=LotFacts(situation.capacity, lane.inside, lane.full_lot_admits_permits, lane.admits_temporary),
        is_late=is_late,
        passes_anyway=passes_anyway,
        is_denied=situation.is_denied,
        permit_id=permit.permit_id if permit is not None else None,
        visitor_pass_id=visitor_pass.visitor_pass_id if visitor_pass is not None else None,
        free_minutes=visitor_pass.free_minutes if visitor_pass is not None else 0,
        household_id=vehicle.household_id if vehicle is not None else household_id,
        is_resident=vehicle is not None,
        tariff_id=tariff.tariff_id if tariff is not None else None,
        tariff=tariff.document if tariff is not None else None,
    )


def _replayed(tx: Transaction, situation: Situation, arrival: Arrival | None = None, known: Sequence[Session] | None = None) -> Replay:
    reads = list(situation.reads)
    if arrival is not None:
        reads = [*(read for read in reads if read.read_id != arrival.read.read_id), arrival.read]
    return replay(
        situation.sessions if known is None else known,
        reads,
        since=situation.since if arrival is None else min(situation.since, arrival.read.passed_at),
        now=tx.now,
        calendar=_calendar(situation.time_zone),
        permit_ids=situation.permit_ids,
        arrival=arrival,
    )


def _calendar(time_zone: str | None) -> Calendar:
    return Calendar(zone_of(time_zone), HOLIDAYS)


async def _decide(tx: Transaction, lane: LockedLane, situation: Situation, arrival: Arrival, arrived: Arrived) -> None:
    books = _replayed(tx, situation, arrival)
    inside, steps = dict(books.sessions), list(books.steps)
    at = next(index for index, step in enumerate(steps) if step.read.read_id == arrival.read.read_id)
    read, decision = steps[at].read, steps[at].decision
    if decision.reason is Reason.PAYMENT_DUE and read.session_id is not None:
        owing = _with_charge(tx, inside[read.session_id], read.passed_at, _calendar(situation.time_zone))
        inside[read.session_id] = owing
    orders = _Orders(tx)
    if decision.action is Action.OPEN:
        orders.open(lane, decision.reason, read=read, record=arrived.record, texts=(decision.zh, decision.en))
    else:
        _hold(tx, lane, arrived.record, decision)
    steps[at] = replace(steps[at], read=replace(read, opened=read.opened or decision.action is Action.OPEN, reason=decision.reason))
    steps = await _release_waiting(tx, situation, steps, orders)
    await bookkeeping.keep(tx, lane.lot_id, situation, Replay(inside, steps), arrived=arrived, openings=orders.openings)


def _hold(tx: Transaction, lane: LockedLane, record: Record, decision: Decision) -> None:
    held = VehicleHeld(
        lane_id=str(lane.lane_id),
        camera_device_id=record.camera_device_id,
        record_id=record.record_id,
        reason=decision.reason,
        amount_due_fen=decision.amount_due_fen,
        text_zh=decision.zh,
        text_en=decision.en,
    )
    tx.publish(held)


class _Orders:
    """The openings that one transaction orders, with their events; each gate counts its own."""

    def __init__(self, tx: Transaction) -> None:
        self.openings: list[GateOpening] = []
        self._tx = tx
        self._counters: dict[str, int] = {}

    def open(
        self,
        lane: LockedLane,
        reason_code: str,
        *,
        read: Read | None,
        record: Record = NO_RECORD,
        texts: tuple[str, str],
        reason: str = "",
        opened_by: UUID | None = None,
    ) -> GateOpening:
        tx, gate = self._tx, lane.gate_device_id
        counter = self._counters[gate] = next_counter(self._counters.get(gate, lane.commands), tx.now)
        command_id = new_id()
        requested = GateOpenRequested(
            lane_id=str(lane.lane_id),
            gate_device_id=gate,
            camera_device_id=record.camera_device_id,
            record_id=record.record_id,
            command=tx.resource(CommandSigner).open(command_id, gate, counter, tx.now),
            text_zh=texts[0],
            text_en=texts[1],
        )
        tx.publish(requested)
        opening = GateOpening(
            command_id=command_id,
            lane_id=lane.lane_id,
            gate_device_id=gate,
            counter=counter,
            reason_code=reason_code,
            reason=reason,
            opened_by=opened_by,
            session_id=None if read is None else read.session_id,
            read_id=None if read is None else read.read_id,
            requested_at=tx.now,
        )
        self.openings.append(opening)
        return opening


async def _release_waiting(tx: Transaction, situation: Situation, steps: Sequence[Step], orders: _Orders) -> list[Step]:
    """Opens for the cars that were held, still stand before their barriers, and may leave after what has become known."""
    known = {read.read_id: read for read in situation.reads}
    released = []
    for step in steps:
        before = known.get(step.read.read_id)
        if before is not None and step.read.left and not before.left and before.waits(tx.now) and not step.read.opened:
            lane = await store.lock_lane(tx, step.read.lane_id)
            assert lane is not None
            orders.open(lane, step.decision.reason, read=step.read, texts=(step.decision.zh, step.decision.en))
            step = replace(step, read=replace(step.read, opened=True))
        released.append(step)
    return released


# A guard.


async def open_gate(tx: Transaction, lane_id: UUID, reason: str, plate: Plate | None) -> GateOpening:
    """A guard opens a gate. The stay of the car begins or ends with it, when its plate is given. Raises NotFound."""
    lane = await store.lock_lane(tx, lane_id)
    if lane is None:
        raise NotFound("parking.lane_not_found", "没有找到该车道", "There is no such lane")
    orders, texts = _Orders(tx), ("请通行", "Please proceed")
    opened_by = tx.caller.account_id
    if plate is None:
        opening = orders.open(lane, _BY_HAND, read=None, texts=texts, reason=reason, opened_by=opened_by)
        await store.write(tx, store.Changes(lane.lot_id, openings=orders.openings))
        return opening
    situation = await store.load_situation(tx, lane.lot_id, plate.text, tx.now, lane_id=lane_id)
    read = _read_of(situation, lane, plate.text, plate, tx.now)
    assert read is not None
    arrival = _arrival(lane, situation, replace(read, by_hand=True, opened=True), passes_anyway=True)
    books = _replayed(tx, situation, arrival)
    read = next(step.read for step in books.steps if step.read.read_id == arrival.read.read_id)
    opening = orders.open(lane, _BY_HAND, read=read, texts=texts, reason=reason, opened_by=opened_by)
    arrived = Arrived(Record("", str(read.read_id)), tx.now)
    await bookkeeping.keep(tx, lane.lot_id, situation, books, arrived=arrived, openings=orders.openings)
    return opening


async def record_gate_outcome(tx: Transaction, gate_device_id: str, command_id: UUID, outcome: str) -> None:
    """A gate says what became of a command."""
    await record_store.set_outcome(tx, gate_device_id, command_id, outcome)


# Money.


async def quote_stay(tx: Transaction, lot_id: UUID, plate: str) -> tuple[Session, charges.Quote, datetime]:
    """What a parked car owes now: its session with the charge to pay, the quote, and until when the car may leave once that is paid.

    A quote that is still valid is given again, with the same charge; one that is not is replaced. Raises NotFound for a car not inside.
    """
    if not await store.lock_lot(tx, lot_id):
        raise NotFound("parking.lot_not_found", "没有找到该停车场", "There is no such car park")
    situation = await store.load_situation(tx, lot_id, plate, tx.now)
    session = next((s for s in situation.sessions if s.plate == plate and s.state is SessionState.OPEN), None)
    if session is None:
        raise NotFound("parking.session_not_found", "没有找到在场车辆", "This car is not inside")
    calendar = _calendar(situation.time_zone)
    quoted = _quoted(tx, session, tx.now, calendar)
    owing = _with_charge(tx, session, tx.now, calendar, account_id=tx.caller.account_id)
    if owing != session:
        await store.write(tx, store.Changes(lot_id, [replace(owing, version=session.version + 1)]))
    if owing.charge is not None and quoted.amount_fen:
        promised = replace(quoted, amount_fen=owing.charge.amount_fen, valid_until=owing.charge.valid_until)
        return owing, promised, tx.now + sessions.grace(session)
    grace_ends_at = sessions.grace_ends_at(session)
    leave_by = quoted.valid_until if grace_ends_at is None or grace_ends_at < tx.now else grace_ends_at
    return owing, quoted, leave_by


def _quoted(tx: Transaction, session: Session, at: datetime, calendar: Calendar) -> charges.Quote:
    validity = tx.resource(QuoteValidity)
    return sessions.quote(session, at, calendar, valid_for_at_least=validity.at_least, valid_for_at_most=validity.at_most)


def _with_charge(tx: Transaction, session: Session, at: datetime, calendar: Calendar, account_id: UUID | None = None) -> Session:
    """The session with a charge for what it owes: the one that is still valid, else a new one in its place; as it is if it owes nothing."""
    if session.charge is not None and session.charge.valid_until >= tx.now:
        return session
    quoted = _quoted(tx, session, at, calendar)
    if quoted.amount_fen == 0:
        return session
    charge = RaisedCharge(new_id(), quoted.amount_fen, quoted.valid_until)
    raised = ChargeRaised(
        charge_id=str(charge.charge_id),
        origin=ORIGIN,
        origin_id=str(session.session_id),
        amount_fen=charge.amount_fen,
        text_zh=f"停车费（车牌尾号{session.plate[-3:]}）{yuan(charge.amount_fen)}元",
        text_en=f"Parking fee (plate ending in {session.plate[-3:]}) ¥{yuan(charge.amount_fen)}",
        account_id="" if account_id is None else str(account_id),
        payable_until=to_timestamp(charge.valid_until),
        replaces_charge_id="" if session.charge is None else str(session.charge.charge_id),
    )
    tx.publish(raised)
    return replace(session, charge=charge)


async def book_movement(tx: Transaction, session_id: UUID, charge_id: UUID, movement_id: UUID, movement: Movement) -> None:
    """Books what was paid for a session, or went back, and lets its car out if that still waits at an exit for it.

    Raises NotFound for a session that does not exist: somebody's money would have no place in the books.
    """
    lot_id = await store.lock_lot_of_session(tx, session_id)
    session = await record_store.session(tx, session_id)
    if lot_id is None or session is None:
        raise NotFound("parking.session_not_found", "没有找到停车记录", "There is no such stay")
    situation = await store.load_situation(tx, lot_id, session.plate, session.entered_at + _INSTANT)
    if not await store.insert_movement(tx, lot_id, session_id, movement_id, charge_id, movement):
        return
    known = [_moved(s, charge_id, movement) if s.session_id == session_id else s for s in situation.sessions]
    books = _replayed(tx, situation, known=known)
    orders = _Orders(tx)
    steps = await _release_waiting(tx, situation, books.steps, orders)
    await bookkeeping.keep(tx, lot_id, situation, replace(books, steps=steps), openings=orders.openings)


def _moved(session: Session, charge_id: UUID, movement: Movement) -> Session:
    paid = session.charge is not None and session.charge.charge_id == charge_id
    movements = sorted([*session.movements, movement], key=lambda m: m.at)
    return replace(session, movements=tuple(movements), charge=None if paid else session.charge)


# Reviews.


async def resolve_review(tx: Transaction, review_id: UUID, session_id: UUID | None, note: str) -> Review:
    """A person says which stay a passage at an exit ended, or none, and why.

    Raises NotFound, and Conflict when it is resolved already, is no passage at an exit, or the stay cannot have ended with it.
    """
    review = await record_store.review(tx, review_id)
    if review is None:
        raise NotFound("parking.review_not_found", "没有找到该待核记录", "There is no such review")
    await store.lock_lot(tx, review.lot_id)
    if not await record_store.resolve_review(tx, review_id, session_id, note):
        raise Conflict("parking.review_resolved", "该记录已核实", "This review is resolved already")
    read = await record_store.read(tx, review.about_id)
    if read is None or read.direction is Direction.ENTRY:
        if session_id is not None:
            raise Conflict("parking.review_ends_no_stay", "该记录不是出场记录", "This is no passage at an exit")
    elif review.kind != bookkeeping.OPENED_OFFLINE or session_id is not None:
        await _assign(tx, review.lot_id, read, session_id)
    resolved = await record_store.review(tx, review_id)
    assert resolved is not None
    return resolved


async def _assign(tx: Transaction, lot_id: UUID, read: Read, session_id: UUID | None) -> None:
    """Takes a passage from the session that it was thought to end, if any, and gives it to another, if any."""
    target = None if session_id is None else await record_store.session(tx, session_id)
    if session_id is not None and (target is None or target.lot_id != lot_id):
        raise NotFound("parking.session_not_found", "没有找到停车记录", "There is no such stay")
    if target is None or lookalike_key(target.plate) != lookalike_key(read.plate):
        await _reckon_with(tx, lot_id, read.plate, replace(read, counts=False, left=False, session_id=None, is_assigned=True))
    if target is not None:
        plate, kind = target.plate, target.plate_kind
        given = replace(read, plate=plate, plate_kind=kind, counts=True, left=True, session_id=session_id, is_assigned=True)
        books = await _reckon_with(tx, lot_id, plate, given)
        assert session_id is not None
        ended = books.sessions.get(session_id)
        if ended is None or ended.state is not SessionState.LEFT or ended.out_at != read.passed_at:
            raise Conflict("parking.session_not_inside", "该车当时不在场内", "This car was not inside then")


async def _reckon_with(tx: Transaction, lot_id: UUID, plate: str, read: Read) -> Replay:
    """Replays the books of a plate with a read as a person has described it."""
    situation = await store.load_situation(tx, lot_id, plate, read.passed_at)
    others = [other for other in situation.reads if other.read_id != read.read_id]
    books = _replayed(tx, replace(situation, reads=(*others, read)))
    await record_store.update_read(tx, read)
    await bookkeeping.keep(tx, lot_id, replace(situation, reads=(*others, read)), books)
    return books


# Timers.


async def close_abandoned_sessions(tx: Transaction) -> None:
    """Closes as missed the sessions of cars that were not seen for so long that they must have left."""
    before = tx.now - tx.resource(Abandonment).after
    await record_store.lock_lots_with_open_sessions(tx, before)
    await record_store.close_open_sessions(tx, before)
