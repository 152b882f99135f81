"""Whether a walk or a ride that a phone reports can have been one. No figure is exact; each lets healthy people pass and stops what a car,
a train, a shaken phone or a typed number gives.

- Walking: people choose about 5 km/h and begin to run near 7 km/h; a brisk walker or slow jogger stays below 9 km/h.
- Cadence: brisk walking is about 100 to 130 steps a minute, running 160 to 180; above 200 it is a machine.
- Stride: about 0.4 of the height, 0.6 to 0.8 m for most; a child's shuffle is above 0.3 m, a long stride below 1.3 m.
- Cycling: below 5 km/h on average nobody rides; 25 km/h is the most that electric bicycles may assist (GB 17761-2018), 35 km/h a racer's.
- Cycling again: a phone counts some steps on a ride; more than 20 a minute are a walk's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from services.points.earning import Reason
from services.points.rulebook import Source

DURATION_MIN: Final = timedelta(seconds=60)
DURATION_MAX: Final = timedelta(hours=12)
AGE_MAX: Final = timedelta(days=7)
# Clocks of phones differ from ours.
_AHEAD_MAX: Final = timedelta(minutes=2)
_WALK_METRES_PER_HOUR_MAX: Final = 9_000
_WALK_STEPS_PER_MINUTE_MAX: Final = 200
_STRIDE_CM_MIN: Final = 30
_STRIDE_CM_MAX: Final = 130
_RIDE_METRES_PER_HOUR_MIN: Final = 5_000
_RIDE_METRES_PER_HOUR_MAX: Final = 35_000
_RIDE_STEPS_PER_MINUTE_MAX: Final = 20
_HOUR_S: Final = 3600
_MINUTE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Trip:
    """A walk or a ride, as a phone counted it."""

    trip_id: UUID
    source: Source
    started_at: datetime
    ended_at: datetime
    distance_m: int
    steps: int
    device: str


def judge(trip: Trip, now: datetime) -> Reason:
    """Why a trip cannot earn anything, or NONE."""
    duration = trip.ended_at - trip.started_at
    if trip.ended_at > now + _AHEAD_MAX:
        return Reason.IN_FUTURE
    if trip.ended_at < now - AGE_MAX:
        return Reason.TOO_OLD
    if duration < DURATION_MIN:
        return Reason.TRIP_SHORT
    if duration > DURATION_MAX:
        return Reason.TRIP_LONG
    seconds = duration // timedelta(seconds=1)
    return _judge_walk(trip, seconds) if trip.source is Source.WALKING else _judge_ride(trip, seconds)


def _judge_walk(trip: Trip, seconds: int) -> Reason:
    if trip.distance_m * _HOUR_S > _WALK_METRES_PER_HOUR_MAX * seconds:
        return Reason.TRIP_SPEED
    if trip.steps * _MINUTE_S > _WALK_STEPS_PER_MINUTE_MAX * seconds:
        return Reason.TRIP_STEPS
    if not _STRIDE_CM_MIN * trip.steps <= trip.distance_m * 100 <= _STRIDE_CM_MAX * trip.steps:
        return Reason.TRIP_STEPS
    return Reason.NONE


def _judge_ride(trip: Trip, seconds: int) -> Reason:
    if not _RIDE_METRES_PER_HOUR_MIN * seconds <= trip.distance_m * _HOUR_S <= _RIDE_METRES_PER_HOUR_MAX * seconds:
        return Reason.TRIP_SPEED
    if trip.steps * _MINUTE_S > _RIDE_STEPS_PER_MINUTE_MAX * seconds:
        return Reason.TRIP_STEPS
    return Reason.NONE


def overlaps(trip: Trip, others: Iterable[Trip]) -> bool:
    """Whether a trip shares time with another: nobody makes two at once, so both are one that two devices counted."""
    return any(trip.started_at < other.ended_at and other.started_at < trip.ended_at for other in others)
