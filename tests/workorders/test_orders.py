"""What follows what, and who may see an order."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.identifiers import new_id
from services.workorders.categories import Category, in_tree_order, line_of
from services.workorders.orders import (
    CLOSED,
    FOLLOWS,
    Kind,
    Order,
    Priority,
    Promise,
    State,
    Viewer,
    Visibility,
    WaitsFor,
    advanced,
    usual_visibility,
)
from tests.workorders.arrange import MONDAY_10

REPORTER, HOUSEHOLD, BUILDING = new_id(), new_id(), new_id()
ORDER = Order(
    order_id=new_id(),
    community_id=new_id(),
    number=1,
    kind=Kind.REPAIR,
    category_id=new_id(),
    category="water.leak",
    skill="plumbing",
    priority=Priority.NORMAL,
    state=State.REPORTED,
    title="漏水",
    description="",
    household_id=HOUSEHOLD,
    building_id=BUILDING,
    place="",
    reporter_account_id=REPORTER,
    visibility=Visibility.HOUSEHOLD,
    origin="",
    origin_id="",
    reported_at=MONDAY_10,
    clock_from=MONDAY_10,
    promise=Promise(15, 60, 240, round_the_clock=True),
    terms_id=None,
)


def reachable(state: State) -> set[State]:
    found, ahead = set(), [state]
    while ahead:
        for following in FOLLOWS.get(ahead.pop(), ()):
            if following not in found:
                found.add(following)
                ahead.append(following)
    return found


def test_every_order_can_come_to_every_end_but_a_cancelled_one() -> None:
    assert reachable(State.REPORTED) == set(State) - {State.REPORTED}
    for state in set(State) - {State.CANCELLED}:
        assert reachable(state) >= {State.CONFIRMED, State.CANCELLED}
    assert FOLLOWS.get(State.CANCELLED) is None


@given(st.lists(st.sampled_from(State), max_size=12))
def test_however_an_order_goes_its_instants_tell_of_its_state(path: list[State]) -> None:
    order = ORDER
    for to in path:
        if to in FOLLOWS.get(order.state, ()):
            changes = {"technician_account_id": REPORTER} if to is State.ACCEPTED else {}
            order = replace(advanced(order, to, MONDAY_10), **changes)  # type: ignore[arg-type]
    assert order.is_open == (order.state not in CLOSED)
    assert (order.done_at is not None) == (order.state in (State.DONE, State.CONFIRMED))
    assert (order.closed_at is not None) == (order.state in (State.CONFIRMED, State.CANCELLED))
    assert (order.paused_in is not None) == (order.state is State.WAITING)
    if order.state in (State.ACCEPTED, State.ON_SITE, State.WAITING, State.DONE):
        assert order.accepted_at is not None
        assert order.technician_account_id == REPORTER
    assert order.offered_to_account_id is None


def test_an_offer_ends_with_any_step_and_what_was_waited_for_with_waiting() -> None:
    offered = replace(ORDER, state=State.DISPATCHED, offered_to_account_id=new_id(), is_open_to_all=True)
    accepted = advanced(offered, State.ACCEPTED, MONDAY_10)
    assert (accepted.offered_to_account_id, accepted.is_open_to_all, accepted.response_s) == (None, False, 0)
    waiting = replace(advanced(accepted, State.WAITING, MONDAY_10), waits_for=WaitsFor.PART)
    assert waiting.paused_in is State.ACCEPTED
    assert advanced(waiting, State.ACCEPTED, MONDAY_10).waits_for is None


NEIGHBOUR = Viewer(new_id(), frozenset({new_id()}), frozenset({BUILDING}))
ELSEWHERE = Viewer(new_id(), frozenset({new_id()}), frozenset({new_id()}))
FAMILY = Viewer(new_id(), frozenset({HOUSEHOLD}), frozenset({BUILDING}))
SELF = Viewer(REPORTER, frozenset({HOUSEHOLD}), frozenset({BUILDING}))
STAFF = Viewer(new_id(), reads_all=True)
TECHNICIAN = Viewer(new_id(), works=True)
GUEST = Viewer(new_id())
EVERYBODY = {
    "self": SELF,
    "family": FAMILY,
    "neighbour": NEIGHBOUR,
    "elsewhere": ELSEWHERE,
    "staff": STAFF,
    "technician": TECHNICIAN,
    "guest": GUEST,
}


@pytest.mark.parametrize(
    ("order", "seen_by"),
    [
        (ORDER, {"self", "family", "staff"}),
        (replace(ORDER, visibility=Visibility.REPORTER), {"self", "staff"}),
        (replace(ORDER, visibility=Visibility.NEIGHBOURS), {"self", "family", "neighbour", "staff"}),
        (
            replace(ORDER, visibility=Visibility.NEIGHBOURS, building_id=None, household_id=None),
            {"self", "family", "neighbour", "elsewhere", "staff"},
        ),
        (replace(ORDER, offered_to_account_id=TECHNICIAN.account_id), {"self", "family", "staff", "technician"}),
        (replace(ORDER, technician_account_id=TECHNICIAN.account_id), {"self", "family", "staff", "technician"}),
        (replace(ORDER, is_open_to_all=True), {"self", "family", "staff", "technician"}),
    ],
)
def test_an_order_is_seen_by_whom_it_concerns(order: Order, seen_by: set[str]) -> None:
    assert {name for name, viewer in EVERYBODY.items() if viewer.may_see(order)} == seen_by


def test_the_phone_is_for_who_works_on_it_and_who_gives_it_out() -> None:
    order = replace(ORDER, technician_account_id=TECHNICIAN.account_id, state=State.ACCEPTED)
    dispatcher = Viewer(new_id(), dispatches=True)
    assert [viewer.may_call(order) for viewer in (SELF, TECHNICIAN, dispatcher, STAFF, FAMILY, NEIGHBOUR)] == [True] * 3 + [False] * 3
    assert not TECHNICIAN.may_call(replace(order, state=State.CONFIRMED))
    assert not TECHNICIAN.may_call(replace(ORDER, offered_to_account_id=TECHNICIAN.account_id, state=State.DISPATCHED))


def test_complaints_are_for_staff_alone_whatever_is_asked() -> None:
    assert usual_visibility(Kind.COMPLAINT, Visibility.NEIGHBOURS, in_household=True) is Visibility.REPORTER
    assert usual_visibility(Kind.REPAIR, None, in_household=True) is Visibility.HOUSEHOLD
    assert usual_visibility(Kind.REPAIR, None, in_household=False) is Visibility.NEIGHBOURS
    assert usual_visibility(Kind.ALARM, None, in_household=False) is Visibility.REPORTER


def test_a_category_takes_what_it_does_not_say_from_those_above_it() -> None:
    root = Category(
        new_id(), "water", None, "水", "Water", Kind.REPAIR, "plumbing", {Priority.URGENT: Promise(5, 30, 0, True)}, Priority.LOW
    )
    leak = replace(root, category_id=new_id(), code="water.leak", parent_id=root.category_id, skill="", promises={}, default_priority=None)
    drip = replace(
        leak, category_id=new_id(), code="water.leak.drip", parent_id=leak.category_id, promises={Priority.LOW: Promise(0, 0, 9, False)}
    )
    known = {each.category_id: each for each in (drip, leak, root)}
    line = line_of(drip.category_id, known)
    assert line is not None
    assert (line.skill, line.priority) == ("plumbing", Priority.LOW)
    assert line.promise(Priority.URGENT) == Promise(5, 30, 0, True)
    assert line.promise(Priority.LOW) == Promise(0, 0, 9, False)
    # Nobody has said anything of these: a quarter of an hour, round the clock in danger.
    assert line.promise(Priority.EMERGENCY) == Promise(15, 0, 0, True)
    assert line.promise(Priority.NORMAL) == Promise(15, 0, 0, False)
    assert in_tree_order(known.values()) == [root, leak, drip]
