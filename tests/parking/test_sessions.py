"""The books: however late and however often reads become known, the same sessions follow from them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from services.parking.lanes import (
    DECISION_AGE_MAX,
    READ_AGE_MAX,
    SAME_PASSAGE_MAX,
    Action,
    Direction,
    LotFacts,
    Reason,
)
from services.parking.plates import lookalike_key, parse
from services.parking.sessions import Arrival, Calendar, Read, Session, replay
from services.parking.tariff import Holidays

NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
CALENDAR = Calendar(ZoneInfo("Asia/Shanghai"), Holidays())
ROOMY = LotFacts(capacity=100, occupied=0, full_admits_permits=False)
PERMIT = UUID(int=1)
TARIFF = json.dumps(
    {
        "name": "临停",
        "version": 1,
        "effective_from": "2026-01-01T00:00:00+08:00",
        "rate_unit_period": "stay",
        "free": {"minutes": 5, "kind": "all_or_nothing"},
        "bands": [{"name": "全天", "rates": [{"rate_unit": "minute", "increment_duration": 1, "increment_amount": 10}]}],
    }
)
# Two share a month pass; two of them a camera may take for each other.
PLATES = {"京A12B45": PERMIT, "沪C99999": PERMIT, "京A12845": None}
LANES = {"east": UUID(int=11), "west": UUID(int=12)}


@dataclass(frozen=True)
class Seen:
    """A camera's read, in seconds since noon, and how long it is on its way."""

    number: int
    plate: str
    direction: Direction
    lane: str
    second: int
    delay_s: int = 0

    @property
    def passed_at(self) -> datetime:
        return NOON + timedelta(seconds=self.second)


@dataclass
class Lot:
    """The books of one lot, kept as the store keeps them."""

    sessions: dict[UUID, Session] = field(default_factory=dict)
    reads: dict[UUID, Read] = field(default_factory=dict)

    def hears(self, seen: Seen, now: datetime) -> None:
        plate = parse(seen.plate)
        assert plate is not None
        known = self.reads.get(UUID(int=100 + seen.number))
        since = seen.passed_at
        keys = {lookalike_key(plate.text)}
        permits = {permit for other, permit in PLATES.items() if permit is not None and lookalike_key(other) in keys}
        keys |= {lookalike_key(other) for other, permit in PLATES.items() if permit in permits}
        lane_id = LANES[seen.lane] if seen.direction is Direction.ENTRY else UUID(int=LANES[seen.lane].int + 10)
        arriving = known or Read(
            read_id=UUID(int=100 + seen.number),
            lane_id=lane_id,
            direction=seen.direction,
            plate=plate.text,
            plate_kind=plate.kind,
            passed_at=seen.passed_at,
            reason=Reason.UNREAD_PLATE,
        )
        others = [self._overtaken(read) for read in self.reads.values() if read.read_id != arriving.read_id]
        arriving = self._overtaken(arriving)
        arrival = Arrival(
            read=arriving,
            lot=ROOMY,
            is_late=now - seen.passed_at > READ_AGE_MAX or now - seen.passed_at > DECISION_AGE_MAX or arriving.overtaken_at is not None,
            permit_id=PLATES[plate.text],
            tariff=TARIFF,
        )
        reads = [read for read in [*others, arriving] if lookalike_key(read.plate) in keys and read.passed_at >= since - SAME_PASSAGE_MAX]
        linked = {read.session_id for read in reads}
        loaded = {
            session.session_id: session
            for session in self.sessions.values()
            if session.session_id in linked
            or (lookalike_key(session.plate) in keys and (session.out_at is None or session.out_at >= since))
        }
        books = replay(loaded.values(), reads, since=since, now=now, calendar=CALENDAR, arrival=arrival)
        for session_id in loaded.keys() - books.sessions.keys():
            del self.sessions[session_id]
        self.sessions.update(books.sessions)
        for step in books.steps:
            read = step.read
            if read.read_id == arriving.read_id:
                read = replace(read, opened=read.opened or step.decision.action is Action.OPEN, reason=step.decision.reason)
            self.reads[read.read_id] = replace(read, overtaken_at=None)

    def _overtaken(self, read: Read) -> Read:
        later = [
            r.passed_at
            for r in self.reads.values()
            if (r.lane_id, True) == (read.lane_id, r.passed_at > read.passed_at) and r.plate != read.plate
        ]
        return replace(read, overtaken_at=min(later, default=None))

    def state(self) -> list[tuple[object, ...]]:
        """What must not depend on the order in which reads became known."""
        return sorted(
            (s.plate, s.entered_at.isoformat(), str(s.state), str(s.out_at), str(s.admission), s.amount_fen, s.paid_fen)
            for s in self.sessions.values()
        )


def heard_in_time(day: Sequence[Seen]) -> Lot:
    lot = Lot()
    for seen in sorted(day, key=lambda seen: (seen.second, seen.direction is Direction.EXIT, seen.number)):
        lot.hears(seen, seen.passed_at)
    return lot


def heard_late(day: Sequence[Seen], twice_after_s: int) -> Lot:
    lot = Lot()
    arrivals = [(seen.second + seen.delay_s, seen) for seen in day]
    arrivals += [(second + twice_after_s, seen) for second, seen in arrivals]
    for second, seen in sorted(arrivals, key=lambda arrival: (arrival[0], arrival[1].number)):
        lot.hears(seen, NOON + timedelta(seconds=second))
    return lot


reads = st.builds(
    Seen,
    number=st.just(0),
    plate=st.sampled_from(list(PLATES)),
    direction=st.sampled_from(Direction),
    lane=st.sampled_from(list(LANES)),
    second=st.integers(0, 900),
    delay_s=st.integers(0, 120),
)
days = st.lists(reads, min_size=2, max_size=12).map(lambda day: [replace(seen, number=number) for number, seen in enumerate(day)])


@given(days, st.integers(0, 120))
@settings(max_examples=1500, deadline=None)
def test_the_same_sessions_follow_however_late_and_however_often_reads_become_known(day: list[Seen], twice_after_s: int) -> None:
    assert heard_late(day, twice_after_s).state() == heard_in_time(day).state()
