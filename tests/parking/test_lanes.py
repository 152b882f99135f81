"""What a lane decides: who comes in and goes out, when a read counts, and what the screen says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.parking.lanes import (
    Action,
    Admission,
    Decision,
    EntryFacts,
    ExitFacts,
    ExitTimeVerdict,
    LotFacts,
    PermitFacts,
    ReadTimeVerdict,
    Reason,
    SessionFacts,
    decide_entry,
    decide_exit,
    judge_exit_time,
    judge_read_time,
)
from services.parking.plates import MatchKind, PlateKind

ROOMY = LotFacts(capacity=100, occupied=40, full_admits_permits=False)
FULL = LotFacts(capacity=100, occupied=100, full_admits_permits=False)
FULL_BUT_FOR_PERMITS = LotFacts(capacity=100, occupied=100, full_admits_permits=True)
PASSES_ONLY = LotFacts(capacity=100, occupied=40, full_admits_permits=False, admits_temporary=False)
PASS = PermitFacts(others_inside=0)
PASS_IN_USE = PermitFacts(others_inside=1)
STRANGER = EntryFacts(PlateKind.SMALL, ROOMY)
ON_DUTY = [PlateKind.POLICE, PlateKind.ARMED_POLICE, PlateKind.MILITARY, PlateKind.EMERGENCY]


def outcome(decision: Decision) -> tuple[Action, Reason, Admission | None]:
    return decision.action, decision.reason, decision.admission


# At the entrance.


@pytest.mark.parametrize(
    ("facts", "reason", "admission"),
    [
        (STRANGER, Reason.TEMPORARY, Admission.TEMPORARY),
        (replace(STRANGER, is_resident=True), Reason.RESIDENT, Admission.RESIDENT),
        (replace(STRANGER, has_visitor_pass=True), Reason.VISITOR_PASS, Admission.VISITOR_PASS),
        (replace(STRANGER, permit=PASS), Reason.PERMIT, Admission.PERMIT),
        (replace(STRANGER, permit=PASS, has_visitor_pass=True, is_resident=True), Reason.PERMIT, Admission.PERMIT),
        # Several cars on one space: the second car inside pays.
        (replace(STRANGER, permit=PASS_IN_USE, is_resident=True), Reason.SECOND_CAR_ON_PASS, Admission.TEMPORARY),
        (replace(STRANGER, permit=PermitFacts(others_inside=1, spaces=2)), Reason.PERMIT, Admission.PERMIT),
        (
            replace(STRANGER, permit=PermitFacts(others_inside=2, spaces=2)),
            Reason.SECOND_CAR_ON_PASS,
            Admission.TEMPORARY,
        ),
        (replace(STRANGER, permit=PASS_IN_USE, has_visitor_pass=True), Reason.VISITOR_PASS, Admission.VISITOR_PASS),
        # A full lot keeps the spaces of permit holders, where it is so configured.
        (replace(STRANGER, lot=FULL_BUT_FOR_PERMITS, permit=PASS), Reason.PERMIT, Admission.PERMIT),
        # Its own missed exit does not keep a car out.
        (replace(STRANGER, lot=FULL, has_open_session=True), Reason.TEMPORARY, Admission.TEMPORARY),
        # A lot for pass holders and residents.
        (replace(STRANGER, lot=PASSES_ONLY, is_resident=True), Reason.RESIDENT, Admission.RESIDENT),
        (replace(STRANGER, lot=PASSES_ONLY, permit=PASS_IN_USE), Reason.SECOND_CAR_ON_PASS, Admission.TEMPORARY),
    ],
)
def test_a_car_is_let_in_as_what_it_is(facts: EntryFacts, reason: Reason, admission: Admission) -> None:
    assert outcome(decide_entry(facts)) == (Action.OPEN, reason, admission)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (EntryFacts(None, ROOMY), Reason.UNREAD_PLATE),
        (replace(STRANGER, is_denied=True), Reason.DENIED),
        (replace(STRANGER, is_denied=True, permit=PASS), Reason.DENIED),
        (replace(STRANGER, is_denied=True, lot=FULL), Reason.DENIED),
        (replace(STRANGER, lot=FULL), Reason.LOT_FULL),
        (replace(STRANGER, lot=FULL, permit=PASS), Reason.LOT_FULL),
        (replace(STRANGER, lot=FULL, has_visitor_pass=True), Reason.LOT_FULL),
        (replace(STRANGER, lot=FULL_BUT_FOR_PERMITS), Reason.LOT_FULL),
        (replace(STRANGER, lot=FULL_BUT_FOR_PERMITS, permit=PASS_IN_USE), Reason.LOT_FULL),
        (replace(STRANGER, lot=LotFacts(100, 102, False), has_open_session=True), Reason.LOT_FULL),
        (replace(STRANGER, lot=PASSES_ONLY), Reason.NO_PASS),
    ],
)
def test_a_car_is_held_at_the_entrance_for_a_reason(facts: EntryFacts, reason: Reason) -> None:
    decision = decide_entry(facts)
    assert outcome(decision) == (Action.HOLD, reason, None)


@pytest.mark.parametrize("kind", ON_DUTY)
def test_vehicles_on_duty_are_never_held_at_the_entrance(kind: PlateKind) -> None:
    decision = decide_entry(EntryFacts(kind, FULL, is_denied=True))
    assert outcome(decision) == (Action.OPEN, Reason.FREE, Admission.ON_DUTY)


def test_a_late_read_at_the_entrance_is_recorded_and_opens_nothing() -> None:
    decision = decide_entry(replace(STRANGER, permit=PASS, has_open_session=True, is_late=True))
    assert outcome(decision) == (Action.HOLD, Reason.LATE_READ, Admission.PERMIT)


def test_how_full_the_lot_is_now_says_nothing_about_a_late_read() -> None:
    decision = decide_entry(replace(STRANGER, lot=FULL, is_late=True))
    assert outcome(decision) == (Action.HOLD, Reason.LATE_READ, Admission.TEMPORARY)


# At the exit.

PARKED = SessionFacts(Admission.TEMPORARY, amount_due_fen=0, charge_fen=0, paid_fen=0)
LEAVING = ExitFacts(MatchKind.EXACT, PlateKind.SMALL, PARKED)


def leaving(session: SessionFacts, match: MatchKind = MatchKind.EXACT) -> ExitFacts:
    return ExitFacts(match, PlateKind.SMALL, session)


@pytest.mark.parametrize(
    ("facts", "reason", "admission"),
    [
        (LEAVING, Reason.FREE, Admission.TEMPORARY),
        (leaving(replace(PARKED, admission=Admission.PERMIT)), Reason.PERMIT, Admission.PERMIT),
        (leaving(replace(PARKED, admission=Admission.VISITOR_PASS)), Reason.VISITOR_PASS, Admission.VISITOR_PASS),
        (
            leaving(replace(PARKED, admission=Admission.VISITOR_PASS, charge_fen=500, paid_fen=500)),
            Reason.PAID,
            Admission.VISITOR_PASS,
        ),
        (leaving(replace(PARKED, charge_fen=500, paid_fen=500)), Reason.PAID, Admission.TEMPORARY),
        (leaving(replace(PARKED, charge_fen=700, paid_fen=500)), Reason.WITHIN_GRACE, Admission.TEMPORARY),
        (ExitFacts(MatchKind.UNMATCHED, PlateKind.SMALL, has_permit=True), Reason.PERMIT, Admission.PERMIT),
    ],
)
def test_a_car_that_owes_nothing_leaves(facts: ExitFacts, reason: Reason, admission: Admission) -> None:
    assert outcome(decide_exit(facts)) == (Action.OPEN, reason, admission)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (ExitFacts(None), Reason.UNREAD_PLATE),
        (ExitFacts(MatchKind.UNMATCHED, PlateKind.SMALL), Reason.UNMATCHED),
        (ExitFacts(MatchKind.UNMATCHED), Reason.UNMATCHED),
        (leaving(replace(PARKED, exit_time=ExitTimeVerdict.BEFORE_ENTRY)), Reason.EXIT_BEFORE_ENTRY),
        (leaving(replace(PARKED, charge_fen=1200, amount_due_fen=1200)), Reason.PAYMENT_DUE),
        # A pass that ran out during the stay.
        (leaving(replace(PARKED, admission=Admission.PERMIT, amount_due_fen=1200)), Reason.PAYMENT_DUE),
    ],
)
def test_a_car_is_held_at_the_exit_for_a_reason(facts: ExitFacts, reason: Reason) -> None:
    decision = decide_exit(facts)
    assert (decision.action, decision.reason) == (Action.HOLD, reason)


def test_a_car_that_owes_is_told_how_much_in_both_languages() -> None:
    decision = decide_exit(leaving(replace(PARKED, charge_fen=1250, amount_due_fen=1250)))
    assert (decision.amount_due_fen, decision.zh, decision.en) == (1250, "请缴费12.50元", "Please pay ¥12.50")


@pytest.mark.parametrize("kind", ON_DUTY)
def test_vehicles_on_duty_leave_free_even_when_nobody_saw_them_come(kind: PlateKind) -> None:
    owing = replace(PARKED, amount_due_fen=9900)
    assert decide_exit(ExitFacts(MatchKind.EXACT, kind, owing)).reason is Reason.FREE
    assert decide_exit(ExitFacts(MatchKind.UNMATCHED, kind)).action is Action.OPEN


def test_a_late_read_at_the_exit_is_recorded_with_what_is_owed_and_opens_nothing() -> None:
    decision = decide_exit(replace(leaving(replace(PARKED, amount_due_fen=1200)), is_late=True))
    assert outcome(decision) == (Action.HOLD, Reason.LATE_READ, Admission.TEMPORARY)
    assert decision.amount_due_fen == 1200


# Whatever the facts.

entry_facts = st.builds(
    EntryFacts,
    st.none() | st.sampled_from(PlateKind),
    st.builds(LotFacts, st.integers(0, 3), st.integers(0, 3), st.booleans()),
    st.booleans(),
    st.booleans(),
    st.none() | st.builds(PermitFacts, st.integers(0, 2), st.integers(1, 2)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
amounts = st.integers(0, 2)
exit_facts = st.builds(
    ExitFacts,
    st.none() | st.sampled_from(MatchKind),
    st.none() | st.sampled_from(PlateKind),
    st.none() | st.builds(SessionFacts, st.sampled_from(Admission), amounts, amounts, amounts, st.sampled_from(ExitTimeVerdict)),
    st.booleans(),
    st.booleans(),
)


@given(entry_facts, exit_facts)
@settings(max_examples=300, deadline=None)
def test_every_decision_has_a_text_for_the_screen_and_no_late_read_opens(entry: EntryFacts, leaving: ExitFacts) -> None:
    for facts, decision in ((entry, decide_entry(entry)), (leaving, decide_exit(leaving))):
        assert 0 < len(decision.zh) <= 16
        assert 0 < len(decision.en) <= 40
        assert not (facts.is_late and decision.action is Action.OPEN)


@given(exit_facts)
@settings(max_examples=300, deadline=None)
def test_no_car_leaves_that_owes_unless_it_is_on_duty(facts: ExitFacts) -> None:
    decision = decide_exit(facts)
    if decision.action is Action.OPEN and decision.admission is not Admission.ON_DUTY:
        assert decision.amount_due_fen == 0


# When a read counts.

NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.mark.parametrize(
    ("occurred_at", "verdict", "at"),
    [
        (NOON, ReadTimeVerdict.TRUSTED, NOON),
        (NOON - seconds(2), ReadTimeVerdict.TRUSTED, NOON - seconds(2)),
        (NOON + seconds(5), ReadTimeVerdict.TRUSTED, NOON + seconds(5)),
        (NOON + seconds(5.1), ReadTimeVerdict.CLOCK_AHEAD, NOON),
        (NOON + timedelta(days=365), ReadTimeVerdict.CLOCK_AHEAD, NOON),
        (NOON - seconds(30), ReadTimeVerdict.TRUSTED, NOON - seconds(30)),
        (NOON - seconds(30.1), ReadTimeVerdict.STALE, NOON - seconds(30.1)),
        (NOON - timedelta(days=6), ReadTimeVerdict.STALE, NOON - timedelta(days=6)),
        (NOON - timedelta(days=365), ReadTimeVerdict.STALE, NOON),
        (datetime(1970, 1, 1, tzinfo=UTC), ReadTimeVerdict.STALE, NOON),
    ],
)
def test_the_time_of_a_read_is_judged_by_when_it_arrived(occurred_at: datetime, verdict: ReadTimeVerdict, at: datetime) -> None:
    judged = judge_read_time(occurred_at, received_at=NOON)
    assert (judged.verdict, judged.at) == (verdict, at)
    assert judged.is_late is (verdict is ReadTimeVerdict.STALE)


@pytest.mark.parametrize(
    ("passed_at", "verdict", "left_at"),
    [
        (NOON, ExitTimeVerdict.AFTER_ENTRY, NOON),
        (NOON + seconds(1), ExitTimeVerdict.AFTER_ENTRY, NOON + seconds(1)),
        (NOON - seconds(60), ExitTimeVerdict.CLOCKS_DISAGREE, NOON),
        (NOON - seconds(61), ExitTimeVerdict.BEFORE_ENTRY, NOON),
    ],
)
def test_an_exit_before_its_entry_ends_no_stay_unless_clocks_differ_a_little(
    passed_at: datetime, verdict: ExitTimeVerdict, left_at: datetime
) -> None:
    judged = judge_exit_time(entered_at=NOON, passed_at=passed_at)
    assert (judged.verdict, judged.left_at) == (verdict, left_at)
