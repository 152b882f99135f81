"""Inside or outside of a safe area, and when leaving it is an alarm."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from servicekit.identifiers import new_id
from services.access.areas import Position, is_area, is_position, metres_outside
from services.access.care import CareKind, CarePlan, locate

NOW = datetime(2026, 1, 5, 16, tzinfo=UTC)
# About 200 m east to west and 220 m south to north.
GARDEN = [Position(31.2300, 121.4700), Position(31.2300, 121.4721), Position(31.2320, 121.4721), Position(31.2320, 121.4700)]
MIDDLE = Position(31.2310, 121.4710)
M_OF_LATITUDE = 111_195.0

shares = st.floats(0.05, 1)
latitudes = st.floats(-60, 60)
longitudes = st.floats(-180, 180)


def east(metres: float) -> Position:
    """So far east of the garden's eastern fence; west of it when negative."""
    return Position(31.2310, 121.4721 + metres / (M_OF_LATITUDE * math.cos(math.radians(31.2310))))


def plan() -> CarePlan:
    started_at = NOW - timedelta(days=1)
    return CarePlan(new_id(), new_id(), CareKind.SAFE_AREA, new_id(), (new_id(),), ("watch",), tuple(GARDEN), started_at)


def walk(*positions: Position, every_s: float = 20, since: datetime = NOW) -> list[tuple[datetime, Position]]:
    return [(since + timedelta(seconds=every_s * step), position) for step, position in enumerate(positions)]


def test_metres_are_metres() -> None:
    assert metres_outside(GARDEN, MIDDLE) == 0
    assert metres_outside(GARDEN, east(-1)) == 0
    assert metres_outside(GARDEN, east(50)) == pytest.approx(50, rel=0.01)
    assert metres_outside(GARDEN, Position(31.2330, 121.4710)) == pytest.approx(111.2, rel=0.01)


def test_a_yard_inside_a_horseshoe_is_outside() -> None:
    horseshoe = [*GARDEN[:2], GARDEN[2], Position(31.2320, 121.4714), Position(31.2304, 121.4714), Position(31.2304, 121.4707)]
    horseshoe += [Position(31.2320, 121.4707), GARDEN[3]]
    assert metres_outside(horseshoe, Position(31.2315, 121.4710)) > 0
    assert metres_outside(horseshoe, Position(31.2302, 121.4710)) == 0


def test_an_island_across_the_180th_meridian_is_one_island() -> None:
    island = [Position(-17.0, 179.99), Position(-17.0, -179.99), Position(-16.98, -179.99), Position(-16.98, 179.99)]
    assert is_area(island)
    assert metres_outside(island, Position(-16.99, 180.0)) == 0
    assert metres_outside(island, Position(-16.99, -179.97)) == pytest.approx(2126, rel=0.02)


@pytest.mark.parametrize(
    "corners",
    [
        [],
        GARDEN[:2],
        [GARDEN[0]] * 5,
        [GARDEN[0], MIDDLE, Position(31.2320, 121.4720)],  # a line
        [Position(31.23, 121.47), Position(31.23, 122.47), Position(32.23, 122.47)],  # a province
        [Position(31.23, 121.47), Position(31.23001, 121.47), Position(31.23, 121.47001)],  # a step
    ],
)
def test_what_nobody_can_be_inside_of_is_no_area(corners: Sequence[Position]) -> None:
    assert not is_area(corners)


@pytest.mark.parametrize("degrees", [(math.nan, 0), (0, math.inf), (90.1, 0), (0, -180.5)])
def test_there_are_places_that_are_none(degrees: tuple[float, float]) -> None:
    assert not is_position(*degrees)


@given(latitudes, longitudes, st.floats(0, 2 * math.pi), shares, shares)
def test_whatever_lies_between_the_corners_of_a_triangle_is_inside_whichever_way_round_it_is_told(
    latitude: float, longitude: float, turn: float, one: float, other: float
) -> None:
    corners = [
        Position(latitude + 0.01 * math.cos(angle), (longitude + 0.01 * math.sin(angle) + 180) % 360 - 180)
        for angle in (turn, turn + 2.1, turn + 4.2)
    ]
    assume(max(corner.longitude for corner in corners) - min(corner.longitude for corner in corners) < 1)
    third = 0.5
    whole = one + other + third
    inside = Position(
        sum(share * corner.latitude for share, corner in zip((one, other, third), corners, strict=True)) / whole,
        sum(share * corner.longitude for share, corner in zip((one, other, third), corners, strict=True)) / whole,
    )
    for told in (corners, corners[::-1], [*corners[1:], corners[0]]):
        assert metres_outside(told, inside) == 0


@given(latitudes, longitudes)
def test_whoever_is_far_from_all_corners_is_far_outside(latitude: float, longitude: float) -> None:
    assume(abs(latitude - 31.23) > 1 or 1 < abs(longitude - 121.47) < 179)
    assert metres_outside(GARDEN, Position(latitude, longitude)) > 10_000


def test_two_positions_in_a_row_well_outside_are_needed() -> None:
    assert not locate(plan(), walk(MIDDLE, east(100)), NOW).worries
    assert not locate(plan(), walk(east(100), east(10), east(100)), NOW).worries
    assert not locate(plan(), walk(east(20), east(29), east(25), east(28)), NOW).worries
    assert locate(plan(), walk(east(100), east(40)), NOW).worries


def test_somebody_who_walks_along_the_fence_is_neither_lost_nor_found() -> None:
    lost = locate(plan(), walk(east(100), east(100)), NOW)
    later = NOW + timedelta(minutes=1)
    assert locate(lost, walk(east(10), east(20), east(10), since=later), later).worries
    assert not locate(lost, walk(east(10), east(-1), since=later), later).worries


def test_where_somebody_was_before_says_nothing() -> None:
    old = NOW - timedelta(minutes=6)
    assert not locate(plan(), walk(east(100), east(100), since=old), NOW).worries
    known = locate(plan(), walk(MIDDLE, since=NOW), NOW)
    assert locate(known, walk(east(100), east(100), since=NOW - timedelta(minutes=2)), NOW) == known


@given(st.permutations(walk(MIDDLE, east(100), east(200), MIDDLE, east(50), east(60))), st.data())
def test_one_batch_says_the_same_in_any_order_and_twice(told: list[tuple[datetime, Position]], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(told), max_size=4))
    assert locate(start := plan(), [*told, *again], NOW) == locate(start, sorted(told, key=lambda each: each[0]), NOW)
