"""Safe areas: whether somebody is inside, and how far outside if not. Degrees are WGS 84, lengths are metres.

On the plane that touches the earth in the area's middle: over the few kilometres of an area that is exact to centimetres.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_EARTH_M: Final = 6_371_008.8
# Smaller than a room is a mistake, and a province is no area to be safe in.
AREA_MIN_M2: Final = 100.0
SPAN_MAX_M: Final = 50_000.0


@dataclass(frozen=True, slots=True)
class Position:
    """Where something is."""

    latitude: float
    longitude: float


def is_position(latitude: float, longitude: float) -> bool:
    """Whether there is such a place; what is no number is none."""
    return -90 <= latitude <= 90 and -180 <= longitude <= 180


def is_area(corners: Sequence[Position]) -> bool:
    """Whether corners enclose an area that somebody can be inside of: at least 100 m², at most 50 km across."""
    if len(set(corners)) < 3:
        return False
    points = _on_plane(corners, corners)
    span = max(math.dist(point, points[0]) for point in points)
    doubled = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in _edges(points))
    return span <= SPAN_MAX_M and abs(doubled) / 2 >= AREA_MIN_M2


def metres_outside(corners: Sequence[Position], position: Position) -> float:
    """How far a position lies outside of an area; 0 inside and on its edge. A corner where the edge crosses itself is outside."""
    *points, at = _on_plane(corners, [*corners, position])
    if _is_inside(points, at):
        return 0.0
    return min(_distance(at, begin, end) for begin, end in _edges(points))


_Point = tuple[float, float]


def _on_plane(corners: Sequence[Position], positions: Sequence[Position]) -> list[_Point]:
    """Metres east and north of the first corner. Across the 180th meridian too: of two ways around the shorter is meant."""
    origin = corners[0]
    middle = sum(corner.latitude for corner in corners) / len(corners)
    scale = _EARTH_M * math.cos(math.radians(middle))
    return [
        (
            scale * math.radians((each.longitude - origin.longitude + 180) % 360 - 180),
            _EARTH_M * math.radians(each.latitude - origin.latitude),
        )
        for each in positions
    ]


def _edges(points: Sequence[_Point]) -> list[tuple[_Point, _Point]]:
    return list(zip(points, [*points[1:], points[0]], strict=True))


def _is_inside(points: Sequence[_Point], at: _Point) -> bool:
    """Whether a line from here to the east crosses the edge an odd number of times."""
    x, y = at
    crossings = 0
    for (x1, y1), (x2, y2) in _edges(points):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            crossings += 1
    return crossings % 2 == 1


def _distance(at: _Point, begin: _Point, end: _Point) -> float:
    (x, y), (x1, y1), (x2, y2) = at, begin, end
    length = (x2 - x1) ** 2 + (y2 - y1) ** 2
    along = 0.0 if length == 0 else max(0.0, min(1.0, ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length))
    return math.dist(at, (x1 + along * (x2 - x1), y1 + along * (y2 - y1)))
