"""The books: however late and however often reads become known, the same sessions follow from them."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from services.parking.books import Arrival, Read, Replay, replay
from services.parking.lanes import (
    DECISION_AGE_MAX,
    SAME_PASSAGE_MAX,
    Action,
    Direction,
    LotFacts,
    Reason,
)
from services.parking.plates import lookalike_key, parse
from services.parking.sessions import Calendar, Movement, Session, SessionState, due
from services.parking.tariff import Holidays
from tests.parking.days import LATE_S_MAX, Day, News, Seen, a_day

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
LANES = {"east_in": UUID(int=11), "west_in": UUID(int=12), "east_out": UUID(int=21), "west_out": UUID(int=22)}


@dataclass
class Lot:
    """The books of one lot, kept as the store keeps them."""

    permits: Mapping[str, UUID]
    sessions: dict[UUID, Session] = field(default_factory=dict)
    reads: dict[UUID, Read] = field(default_factory=dict)

    def hears(self, seen: Seen, now: datetime) -> None:
        """A read becomes known, perhaps not for the first time."""
        plate = parse(seen.plate)
        assert plate is not None
        passed_at = at(seen.second)
        read_id = UUID(int=1000 + seen.number)
        arriving = self.reads.get(read_id) or Read(
            read_id=read_id,
            lane_id=LANES[seen.lane],
            direction=Direction.ENTRY if seen.lane.endswith("in") else Direction.EXIT,
            plate=plate.text,
            plate_kind=plate.kind,
            passed_at=passed_at,
            reason=Reason.UNREAD_PLATE,
        )
        arriving = self._overtaken(arriving)
        is_late = now - passed_at > DECISION_AGE_MAX or arriving.overtaken_at is not None
        arrival = Arrival(arriving, ROOMY, is_late=is_late, permit_id=self.permits.get(plate.text), tariff=TARIFF)
        books = self._replayed(plate.text, passed_at, now, arrival)
        for step in books.steps:
            if step.read.read_id == read_id:
                opened = step.read.opened or step.decision.action is Action.OPEN
                self.reads[read_id] = replace(step.read, opened=opened, reason=step.decision.reason)

    def is_paid(self, session_id: UUID, movement: Movement, now: datetime) -> None:
        """A payment becomes known."""
        session = self.sessions[session_id]
        self.sessions[session_id] = replace(session, movements=(*session.movements, movement))
        self._replayed(session.plate, session.entered_at + timedelta(microseconds=1), now)

    def inside(self, plate: str) -> Session | None:
        """The plate's open session."""
        return next((s for s in self.sessions.values() if s.plate == plate and s.state is SessionState.OPEN), None)

    def _replayed(self, plate: str, since: datetime, now: datetime, arrival: Arrival | None = None) -> Replay:
        permits = {permit for other, permit in self.permits.items() if lookalike_key(other) == lookalike_key(plate)}
        keys = {lookalike_key(plate)} | {lookalike_key(other) for other, permit in self.permits.items() if permit in permits}
        reads = {
            read.read_id: self._overtaken(read)
            for read in self.reads.values()
            if lookalike_key(read.plate) in keys and read.passed_at >= since - SAME_PASSAGE_MAX
        }
        if arrival is not None:
            reads[arrival.read.read_id] = arrival.read
        linked = {read.session_id for read in reads.values()}
        loaded = {
            s.session_id: s
            for s in self.sessions.values()
            if s.session_id in linked or (lookalike_key(s.plate) in keys and (s.out_at is None or s.out_at >= since))
        }
        books = replay(loaded.values(), reads.values(), since=since, now=now, calendar=CALENDAR, permit_ids=permits, arrival=arrival)
        for session_id in loaded.keys() - books.sessions.keys():
            del self.sessions[session_id]
        self.sessions.update(books.sessions)
        self.reads.update({step.read.read_id: replace(step.read, overtaken_at=None) for step in books.steps})
        return books

    def _overtaken(self, read: Read) -> Read:
        others = (other for other in self.reads.values() if other.lane_id == read.lane_id and other.plate != read.plate)
        return replace(read, overtaken_at=min((o.passed_at for o in others if o.passed_at > read.passed_at), default=None))

    def state(self) -> list[tuple[object, ...]]:
        """What must not depend on the order in which news came."""
        return sorted(
            (s.plate, s.entered_at.isoformat(), str(s.state), str(s.out_at), str(s.admission), s.amount_fen, s.paid_fen)
            for s in self.sessions.values()
        )


def at(second: int) -> datetime:
    return NOON + timedelta(seconds=second)


def after(day: Day, news: Sequence[News], chance: random.Random | None = None, books: type[Lot] = Lot) -> Lot:
    """The books once all the news has come; payments are late where there is a chance of it, and reported twice."""
    lot = books({plate: UUID(int=number + 1) for number, plates in enumerate(day.permits) for plate in plates})
    payments: list[tuple[int, UUID, Movement]] = []
    for one in [*news, News(10**6, Seen(10**6, 10**6, "京A00000", "east_in"))]:
        for due_second, session_id, movement in sorted(payments, key=lambda payment: payment[0]):
            if due_second <= one.second:
                lot.is_paid(session_id, movement, at(due_second))
        payments = [payment for payment in payments if payment[0] > one.second]
        happening, now = one.happening, at(one.second)
        if isinstance(happening, Seen):
            lot.hears(happening, now)
            continue
        session = lot.inside(happening.plate)
        owed = 0 if session is None else due(session, now, CALENDAR)
        if session is not None and owed:
            paid_second = one.second + happening.pays_after_s
            delay_s = chance.randint(0, LATE_S_MAX) if chance is not None else 0
            payments.append((paid_second + delay_s, session.session_id, Movement(at(paid_second), owed)))
    return lot


# A few cars that behave as no car does: read anywhere at any time.

WILD_PLATES = ["京A12B45", "沪C99999", "京A12845"]
wild_reads = st.tuples(st.integers(0, 900), st.sampled_from(WILD_PLATES), st.sampled_from(list(LANES)), st.integers(0, LATE_S_MAX))


@given(st.lists(wild_reads, min_size=2, max_size=8), st.integers(0, LATE_S_MAX))
@settings(max_examples=400, deadline=None)
def test_the_same_sessions_follow_however_late_and_however_often_reads_become_known(
    reads: list[tuple[int, str, str, int]], again_after_s: int
) -> None:
    seen = [Seen(second, number, plate, lane) for number, (second, plate, lane, _) in enumerate(reads)]
    seen.sort(key=lambda one: (one.second, one.lane.endswith("out"), one.number))
    day = Day(seen, [WILD_PLATES[:2]])
    once = [News(one.second + reads[one.number][3], one) for one in seen]
    twice = [*once, *(News(news.second + again_after_s, news.happening) for news in once)]
    late = after(day, sorted(twice, key=lambda news: (news.second, news.happening.number)))
    assert late.state() == after(day, day.in_time()).state()


@given(st.integers(0, 10**9))
@settings(max_examples=30, deadline=None)
def test_a_day_whose_news_comes_late_and_twice_ends_like_the_same_day_in_time(seed: int) -> None:
    chance = random.Random(seed)
    day = a_day(chance, vehicles=12)
    assert after(day, day.late_and_twice(chance), chance).state() == after(day, day.in_time()).state()


class HastyLot(Lot):
    """Books that take everything to happen when it becomes known."""

    def hears(self, seen: Seen, now: datetime) -> None:
        super().hears(replace(seen, second=round((now - NOON).total_seconds())), now)


def test_the_comparison_sees_books_that_go_by_when_news_comes() -> None:
    chance = random.Random(7)
    day = a_day(chance, vehicles=12)
    news = day.late_and_twice(chance)
    assert after(day, news, chance, HastyLot).state() != after(day, day.in_time()).state()
