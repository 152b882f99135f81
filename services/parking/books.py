"""The books: which sessions a vehicle's reads at a lot's lanes make up, replayed in the order in which things happened.

Cameras re-send, queues deliver twice and out of order. So a session is never patched by what arrives; it follows from all
reads of the plates that could be taken for each other, in the order in which they were made. A read that arrives in time is
the last of them, and nothing before it is looked at; one that arrives late is put into its place, and what came after it is
replayed. What a barrier did is never replayed: a car that was turned away has not come in, one that went out has gone.

Pure. What a lane answers is in `lanes.py`, what a stay costs in `sessions.py`; `bookkeeping.py` keeps what changes here.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

from services.parking.lanes import (
    SAME_PASSAGE_MAX,
    WAIT_MAX,
    Action,
    Admission,
    Decision,
    Direction,
    EntryFacts,
    ExitFacts,
    ExitTimeVerdict,
    LotFacts,
    PermitFacts,
    Reason,
    SessionFacts,
    decide_entry,
    decide_exit,
)
from services.parking.plates import Match, MatchKind, PlateKind, match_exit
from services.parking.sessions import Calendar, Session, SessionState, charged, due, price

# Whether there was room, and who was denied, was decided when the car stood there.
_ROOM: Final = LotFacts(capacity=1, occupied=0, full_admits_permits=True)


@dataclass(frozen=True, slots=True)
class Read:
    """A vehicle that a camera read, or a guard saw, at a lane."""

    read_id: UUID
    lane_id: UUID
    direction: Direction
    plate: str
    """Normalised; empty when unread. A misread may be no plate."""
    plate_kind: PlateKind | None
    passed_at: datetime
    reason: Reason
    """Why the lane answered as it did."""
    counts: bool = True
    """False for a car that was turned away, or of which a person said that it belongs to no stay."""
    opened: bool = False
    """Whether the barrier opened for it."""
    left: bool = False
    """At an exit: whether the car went out, whatever turns out to have been owed."""
    session_id: UUID | None = None
    by_hand: bool = False
    is_assigned: bool = False
    """Whether a person said which session it ends."""
    overtaken_at: datetime | None = None
    """When another vehicle was first read at the lane after it: it does not stand there any more."""

    def waits(self, now: datetime) -> bool:
        """Whether the car may still stand before the barrier."""
        return not self.opened and self.overtaken_at is None and now <= self.passed_at + WAIT_MAX


@dataclass(frozen=True, slots=True)
class Arrival:
    """The read at hand, with what is known of its plate and its lot now."""

    read: Read
    lot: LotFacts
    is_late: bool = False
    passes_anyway: bool = False
    """The barrier opened whatever the rules say: by hand, or by the lane's offline rule."""
    is_denied: bool = False
    permit_id: UUID | None = None
    visitor_pass_id: UUID | None = None
    free_minutes: int = 0
    household_id: UUID | None = None
    is_resident: bool = False
    tariff_id: UUID | None = None
    tariff: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What one read turned out to be, and what its lane would answer now."""

    read: Read
    decision: Decision
    match: MatchKind | None = None
    candidates: tuple[UUID, ...] = ()
    """The session taken, or those it could be."""
    is_repeated: bool = False
    """Whether the read before it is of the same vehicle passing once."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The books after a replay. Sessions that were known and are not here began with what is now a repeated read."""

    sessions: Mapping[UUID, Session]
    steps: Sequence[Step]


def replay(
    known: Iterable[Session],
    reads: Iterable[Read],
    *,
    since: datetime,
    now: datetime,
    calendar: Calendar,
    permit_ids: Collection[UUID] = (),
    arrival: Arrival | None = None,
) -> Replay:
    """The sessions that follow from `reads` since an instant, in whichever order reads and sessions are given.

    `reads` are all of these plates since `SAME_PASSAGE_MAX` before `since`, with the one at hand among them. `known` are the sessions as
    they are kept: those inside at `since` or later, and those of the reads. `permit_ids` are the month passes all of whose cars are among
    them: whether there was room on another pass is not looked at again.
    """
    books = _Books(known, since, now, calendar, permit_ids, arrival)
    steps = []
    for read in sorted(reads, key=lambda read: (read.passed_at, read.direction is Direction.EXIT, read.read_id)):
        if read.passed_at >= since and (read.counts or (arrival is not None and arrival.read is read)):
            steps.append(books.enter(read) if read.direction is Direction.ENTRY else books.leave(read))
        else:
            books.remember(read)
    return Replay(books.closed(), books.renamed(steps))


class _Books:
    def __init__(
        self,
        known: Iterable[Session],
        since: datetime,
        now: datetime,
        calendar: Calendar,
        permit_ids: Collection[UUID],
        arrival: Arrival | None,
    ) -> None:
        self._known = {session.session_id: session for session in known}
        self._sessions = {s.session_id: _rewound(s, since) for s in self._known.values() if s.entered_at < since}
        self._inside = {s.plate: s.session_id for s in self._sessions.values() if s.state is SessionState.OPEN}
        self._latest: dict[tuple[UUID, str], Read] = {}
        self._adoptions: dict[UUID, UUID] = {}
        self._now = now
        self._calendar = calendar
        self._permit_ids = permit_ids
        self._arrival = arrival

    def remember(self, read: Read) -> None:
        self._latest[read.lane_id, read.plate] = read

    def closed(self) -> dict[UUID, Session]:
        for session in self._known.values():
            kept = self._sessions.get(session.session_id)
            if kept is not None and kept.state is SessionState.OPEN and session.is_abandoned:
                self._sessions[session.session_id] = session
            elif kept is None and (session.movements or session.charge is not None):
                # Somebody may pay for it, or has: it must not vanish.
                missed = replace(session, state=SessionState.EXIT_MISSED, out_at=session.entered_at, amount_fen=0)
                self._sessions[session.session_id] = missed
        return self._sessions

    # At an entrance.

    def enter(self, read: Read) -> Step:
        here = self._session_inside(read.plate)
        arrival = self._arrival if self._arrival is not None and self._arrival.read is read else None
        before = self._known.get(read.session_id) if read.session_id is not None else None
        decision = decide_entry(self._entry_facts(read, here, arrival, before))
        if arrival is not None and decision.admission is None:
            return self._noted(replace(read, counts=False, session_id=None), decision)
        if here is not None and self._repeated(read) == here.session_id:
            here = self._adopted(here, before)
            return self._noted(replace(read, counts=True, session_id=here.session_id), decision)
        if here is not None:
            self._put(replace(here, state=SessionState.EXIT_MISSED, out_at=read.passed_at))
        session = self._begun(read, decision, arrival, before)
        self._put(session)
        return self._noted(replace(read, counts=True, session_id=session.session_id), decision)

    def _entry_facts(self, read: Read, here: Session | None, arrival: Arrival | None, before: Session | None) -> EntryFacts:
        lot, is_denied, is_resident = _ROOM, False, False
        permit_id, visitor_pass_id = (None, None) if before is None else (before.permit_id, before.visitor_pass_id)
        if arrival is not None and before is None:
            permit_id, visitor_pass_id, is_resident = arrival.permit_id, arrival.visitor_pass_id, arrival.is_resident
            if not arrival.passes_anyway:
                lot, is_denied = arrival.lot, arrival.is_denied
        return EntryFacts(
            plate_kind=read.plate_kind,
            lot=lot,
            is_late=arrival is not None and arrival.is_late,
            is_denied=is_denied,
            permit=None if permit_id is None else PermitFacts(others_inside=self._others_on(permit_id, read.plate)),
            has_visitor_pass=visitor_pass_id is not None,
            is_resident=is_resident,
            has_open_session=here is not None,
        )

    def _others_on(self, permit_id: UUID, plate: str) -> int:
        inside = (self._sessions[session_id] for session_id in self._inside.values())
        return sum(s.permit_id == permit_id and s.admission is Admission.PERMIT and s.plate != plate for s in inside)

    def _begun(self, read: Read, decision: Decision, arrival: Arrival | None, before: Session | None) -> Session:
        assert read.plate_kind is not None
        admission = decision.admission or Admission.TEMPORARY
        if arrival is not None and before is None:
            return Session(
                session_id=self._unused_id(read),
                plate=read.plate,
                plate_kind=read.plate_kind,
                admission=admission,
                entered_at=read.passed_at,
                permit_id=arrival.permit_id,
                visitor_pass_id=arrival.visitor_pass_id,
                free_minutes=arrival.free_minutes,
                household_id=arrival.household_id,
                tariff_id=arrival.tariff_id,
                tariff=arrival.tariff,
            )
        assert before is not None
        # What could change is whether its month pass had room; what else it was let in as was true then.
        admission = admission if before.permit_id in self._permit_ids else before.admission
        begun = replace(before, admission=admission, entered_at=read.passed_at, state=SessionState.OPEN, out_at=None, amount_fen=0)
        if before.session_id in self._sessions:
            # It was taken for a repeated read of that stay.
            return replace(begun, session_id=self._unused_id(read), movements=(), charge=None, is_abandoned=False, version=0)
        return begun

    def _unused_id(self, read: Read) -> UUID:
        session_id = read.read_id
        while session_id in self._sessions or session_id in self._known:
            session_id = uuid5(session_id, "another session")
        return session_id

    def _adopted(self, here: Session, before: Session | None) -> Session:
        """The session inside, as which one that began with a read of the same passage is known already."""
        if before is None or before.session_id in self._sessions or here.session_id in self._known:
            return here
        del self._sessions[here.session_id]
        adopted = replace(here, session_id=before.session_id, movements=before.movements, charge=before.charge, version=before.version)
        self._put(adopted)
        self._adoptions[here.session_id] = adopted.session_id
        self._latest = {key: self._renamed(read) for key, read in self._latest.items()}
        return adopted

    def _renamed(self, read: Read) -> Read:
        adopted = None if read.session_id is None else self._adoptions.get(read.session_id)
        return read if adopted is None else replace(read, session_id=adopted)

    def renamed(self, steps: Iterable[Step]) -> list[Step]:
        """The steps with the session ids that were settled on after them."""
        return [replace(step, read=self._renamed(step.read)) for step in steps] if self._adoptions else list(steps)

    # At an exit.

    def leave(self, read: Read) -> Step:
        arrival = self._arrival if self._arrival is not None and self._arrival.read is read else None
        if read.is_assigned:
            match, session = Match(MatchKind.EXACT, read.plate, ()), self._sessions.get(read.session_id) if read.session_id else None
        else:
            match = self._matched(read)
            session = self._session_inside(match.plate) if match.plate is not None else None
            gone = self._sessions.get(self._repeated(read) or read.read_id)
            if match.kind is not MatchKind.EXACT and gone is not None and gone.state is SessionState.LEFT:
                decision = decide_exit(self._exit_facts(read, MatchKind.EXACT, gone, arrival, goes=True))
                return self._noted(replace(read, session_id=gone.session_id), decision, MatchKind.EXACT, (gone.session_id,))
        goes = session is not None and self._goes(read, session, arrival)
        decision = decide_exit(self._exit_facts(read, match.kind, session, arrival, goes=goes))
        candidates = tuple(self._inside[plate] for plate in match.candidates)
        if session is None or session.state is not SessionState.OPEN:
            left = read.left or (arrival is not None and (arrival.passes_anyway or decision.action is Action.OPEN))
            return self._noted(replace(read, session_id=None, left=left), decision, match.kind, candidates)
        if goes:
            left_at = max(read.passed_at, session.entered_at)
            self._put(replace(session, state=SessionState.LEFT, out_at=left_at, amount_fen=price(session, left_at, self._calendar)))
        return self._noted(replace(read, session_id=session.session_id, left=goes), decision, match.kind, candidates)

    def _matched(self, read: Read) -> Match:
        if not read.by_hand:
            return match_exit(read.plate, self._inside)
        # A person does not take one character for another.
        if read.plate in self._inside:
            return Match(MatchKind.EXACT, read.plate, (read.plate,))
        return Match(MatchKind.UNMATCHED, None, ())

    def _goes(self, read: Read, session: Session, arrival: Arrival | None) -> bool:
        """Whether the car went out with this read, or may go now."""
        if arrival is not None and arrival.passes_anyway:
            return True
        # That it went as another car, for which it was taken, says nothing of this one.
        if read.left and (read.is_assigned or session.plate == read.plate or session.session_id == read.session_id):
            return True
        if arrival is None and self._stayed(read, session):
            return False
        if due(session, read.passed_at, self._calendar) == 0:
            return True
        # Or paid while it stood there.
        latest = read.passed_at + WAIT_MAX
        if read.overtaken_at is not None:
            latest = min(latest, read.overtaken_at)
        paid_there = (m.at for m in session.movements if read.passed_at < m.at <= latest)
        return any(due(session, at, self._calendar) == 0 for at in paid_there)

    def _stayed(self, read: Read, session: Session) -> bool:
        """Whether a car that was held to pay is known not to have gone with this read, whatever has become known since."""
        if read.reason is not Reason.PAYMENT_DUE or read.session_id != session.session_id:
            return False
        known = self._known.get(session.session_id, session)
        went_with_another = known.state is SessionState.LEFT and known.out_at is not None and known.out_at >= read.passed_at
        return went_with_another or self._now > read.passed_at + WAIT_MAX

    def _exit_facts(self, read: Read, match: MatchKind, session: Session | None, arrival: Arrival | None, *, goes: bool) -> ExitFacts:
        facts = None
        if session is not None:
            owed = 0 if goes else self._owed(read, session)
            amount_fen = charged(session, max(read.passed_at, session.entered_at), self._calendar)
            facts = SessionFacts(session.admission, owed, amount_fen, session.paid_fen)
        elif any(s.plate == read.plate and s.state is SessionState.OPEN and s.entered_at > read.passed_at for s in self._known.values()):
            facts = SessionFacts(Admission.TEMPORARY, 0, 0, 0, ExitTimeVerdict.BEFORE_ENTRY)
        return ExitFacts(
            match=match if read.plate else None,
            plate_kind=read.plate_kind if session is None else session.plate_kind,
            session=facts,
            is_late=arrival is not None and arrival.is_late,
            has_permit=arrival is not None and arrival.permit_id is not None,
        )

    def _owed(self, read: Read, session: Session) -> int:
        """What to ask for at the barrier: the price that was quoted, while it is valid."""
        if session.charge is not None and session.charge.valid_until >= self._now:
            return session.charge.amount_fen
        return due(session, read.passed_at, self._calendar)

    # At either.

    def _session_inside(self, plate: str) -> Session | None:
        session_id = self._inside.get(plate)
        return None if session_id is None else self._sessions[session_id]

    def _repeated(self, read: Read) -> UUID | None:
        """The session of the read before this one, when it is of the same vehicle passing once."""
        previous = self._previous(read)
        return None if previous is None else previous.session_id

    def _previous(self, read: Read) -> Read | None:
        previous = self._latest.get((read.lane_id, read.plate))
        return previous if previous is not None and read.passed_at - previous.passed_at <= SAME_PASSAGE_MAX else None

    def _put(self, session: Session) -> None:
        self._sessions[session.session_id] = session
        if session.state is SessionState.OPEN:
            self._inside[session.plate] = session.session_id
        elif self._inside.get(session.plate) == session.session_id:
            del self._inside[session.plate]

    def _noted(self, read: Read, decision: Decision, match: MatchKind | None = None, candidates: tuple[UUID, ...] = ()) -> Step:
        is_repeated = self._previous(read) is not None
        self.remember(read)
        return Step(read, decision, match, candidates, is_repeated)


def _rewound(session: Session, since: datetime) -> Session:
    """A session as it was just before an instant after its beginning."""
    if session.out_at is None or session.out_at < since:
        return session
    return replace(session, state=SessionState.OPEN, out_at=None, amount_fen=0)
