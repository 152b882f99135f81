"""What is found in what happened at doors, and what accuses nobody."""

from datetime import timedelta
from itertools import permutations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.identifiers import new_id
from services.access.deciding import PRESENCE_HOLDS
from services.access.detection import Move, Spot, Use, bursts, clones, corrected, follow
from services.access.doors import AntiPassback, Direction
from tests.access.arrange import MONDAY_9

HERE, ZONE, CARD, SOMEBODY = new_id(), new_id(), (new_id(), b"12345678"), new_id()
DOORS = [new_id() for _ in range(3)]
BUILDINGS = [None, new_id(), new_id()]


def spot(seconds: float, door: int = 0) -> Spot:
    return Spot(HERE, f"terminal-{door}", DOORS[door], "门", ZONE, MONDAY_9 + timedelta(seconds=seconds), str(seconds))


def use(seconds: float, door: int, card: tuple[UUID, bytes] = CARD) -> Use:
    """A use of a card at the gate (0) or at the entrance of one of two buildings (1 and 2)."""
    return Use(spot(seconds, door), card, BUILDINGS[door])


@pytest.mark.parametrize(
    ("uses", "found"),
    [
        ([use(0, 0), use(1, 1)], 1),
        ([use(0, 0), use(0, 1)], 1),
        ([use(0, 0), use(5, 1)], 0),
        ([use(0, 1), use(19, 2)], 1),
        ([use(0, 1), use(20, 2)], 0),
        ([use(0, 0), use(1, 0)], 0),
        ([use(0, 0), use(1, 1, (new_id(), b"12345678"))], 0),
    ],
    ids=["gate and entrance in a second", "in one instant", "walked on", "ran over", "walked over", "one door twice", "another card"],
)
def test_a_card_that_is_at_two_doors_too_soon_is_two_cards(uses: list[Use], found: int) -> None:
    for order in permutations(uses):
        assert len(clones(order)) == found


def test_five_refusals_in_a_minute_are_found_once_in_a_minute() -> None:
    def at(*seconds: int) -> list[int]:
        return [round((each - MONDAY_9).total_seconds()) for each in bursts([MONDAY_9 + timedelta(seconds=each) for each in seconds])]

    assert at(0, 10, 20, 30) == []
    assert at(0, 20, 40, 60, 80) == []
    assert at(0, 10, 20, 30, 40) == [40]
    assert at(*range(20)) == [4]
    assert at(*range(0, 200, 5)) == [20, 85, 150]


def move(seconds: float, direction: Direction, anti_passback: AntiPassback = AntiPassback.REPORT) -> Move:
    return Move(spot(seconds), SOMEBODY, direction, anti_passback)


def test_who_comes_in_twice_without_leaving_is_found_where_a_door_minds() -> None:
    come, go = Direction.IN, Direction.OUT
    assert follow({}, [move(0, come), move(60, come)])[1] == [move(60, come)]
    assert follow({}, [move(0, come), move(30, go), move(60, come)])[1] == []
    assert follow({}, [move(0, come), move(60, come, AntiPassback.OFF)])[1] == []
    assert follow({}, [move(0, come), move(PRESENCE_HOLDS.total_seconds(), come)])[1] == []


def test_what_is_heard_late_accuses_nobody() -> None:
    known, _ = follow({}, [move(0, Direction.IN), move(100, Direction.OUT)])
    after, found = follow(known, [move(50, Direction.IN)])
    assert (after, found) == ({}, [])


@given(st.permutations([move(0, Direction.IN), move(30, Direction.OUT), move(60, Direction.IN), move(90, Direction.IN)]))
def test_in_which_order_it_is_told_does_not_matter(moves: list[Move]) -> None:
    after, found = follow({}, moves)
    assert [each.spot.at for each in found] == [MONDAY_9 + timedelta(seconds=90)]
    assert after[ZONE, SOMEBODY].since == MONDAY_9 + timedelta(seconds=90)


def test_a_clock_that_is_wrong_is_put_right_and_nothing_comes_from_the_future() -> None:
    an_hour, received_at = timedelta(hours=1), MONDAY_9
    assert corrected(MONDAY_9 - 3 * an_hour, an_hour, received_at) == MONDAY_9 - 2 * an_hour
    assert corrected(MONDAY_9, an_hour, received_at) == MONDAY_9
    assert corrected(MONDAY_9, timedelta(days=3_000_000), received_at) == MONDAY_9
