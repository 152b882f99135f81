"""Care for one person: what their sensors and wearables tell changes of a plan, and whether a quiet is theirs or the sensors'.

How long a quiet may last is in `rhythm.py`, where a safe area ends in `areas.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final
from uuid import UUID

from services.access.areas import Position, metres_outside
from services.access.rhythm import LEARNING, Rhythm

# What says that somebody is active; and what says where they are.
ACTIVITY: Final = frozenset({"motion", "contact"})
POSITION: Final = "position"
# A position is as exact as this, so that nobody who walks along the fence is called lost; and one alone may be an echo.
OUTSIDE_M: Final = 30.0
OUTSIDE_IN_ROW: Final = 2
# Where somebody was before that says nothing of where they are.
POSITION_AGE_MAX: Final = timedelta(minutes=5)
# Sensors that say nothing from the first day on were never set up.
FIRST_SIGN: Final = timedelta(days=1)
# A person of whom nobody knows what they did while the sensors were silent is given this long to move.
AFTER_SILENCE: Final = timedelta(hours=2)
# How often we look whether an alarm about a quiet is still open.
LOOK_AGAIN: Final = timedelta(hours=1)
# Why alarms close of which no person says it.
ACTIVE_AGAIN: Final = "active_again"
BACK_INSIDE: Final = "back_inside"
PERSON_WELL: Final = "person_well"
CARE_STOPPED: Final = "care_stopped"


class CareKind(StrEnum):
    """What is watched."""

    ACTIVITY = "activity"
    SAFE_AREA = "safe_area"


@dataclass(frozen=True, slots=True)
class CarePlan:
    """Care of one kind for one person. `worries` says that we do, or did and nothing has happened since."""

    care_plan_id: UUID
    community_id: UUID
    kind: CareKind
    account_id: UUID
    guardian_ids: tuple[UUID, ...]
    source_ids: tuple[str, ...]
    safe_area: tuple[Position, ...]
    started_at: datetime
    stopped_at: datetime | None = None
    first_activity_at: datetime | None = None
    last_activity_at: datetime | None = None
    worry_at: datetime | None = None
    worries: bool = False
    # Whether a sensor was silent since the last activity, so that nothing is learned from the quiet.
    is_quiet_doubtful: bool = False
    outside_in_row: int = 0

    @property
    def learned_at(self) -> datetime:
        """When the rhythm is known well enough to worry."""
        return (self.first_activity_at or self.started_at) + LEARNING


@dataclass(frozen=True, slots=True)
class Sign:
    """What a sensor or wearable told, by its clock, but never later than when we heard it. `device_id` is what spoke for it."""

    community_id: UUID
    source_id: str
    device_id: str
    kind: str
    at: datetime
    position: Position | None = None


def notice(plan: CarePlan, instants: Iterable[datetime], rhythm: Rhythm, now: datetime, zone: tzinfo) -> tuple[CarePlan, Rhythm]:
    """The plan and the rhythm after activities, in any order. What is older than the last that is known, or than the plan, changes nothing.

    A worry ends when somebody was active so lately that we would not worry yet: sensors may tell late.
    """
    for at in sorted(instants):
        last = plan.last_activity_at
        if at <= (last or plan.started_at):
            continue
        if last is not None and not plan.is_quiet_doubtful:
            rhythm = rhythm.learned(last, at, zone)
        plan = replace(plan, first_activity_at=plan.first_activity_at or at, last_activity_at=at, is_quiet_doubtful=False)
        plan = replace(plan, worry_at=max(rhythm.worry_at(plan.worry_at, at, zone), plan.learned_at))
    is_well = plan.worry_at is not None and plan.worry_at > now
    return replace(plan, worries=plan.worries and not is_well), rhythm


def locate(plan: CarePlan, positions: Iterable[tuple[datetime, Position]], now: datetime) -> CarePlan:
    """The plan after positions, in any order: we worry after two in a row well outside, until one is inside.

    What is older than five minutes, or than the last that is known, changes nothing. No position is kept.
    """
    for at, position in sorted(positions, key=lambda each: each[0]):
        last = plan.last_activity_at
        if at <= (last or plan.started_at) or at < now - POSITION_AGE_MAX:
            continue
        metres, in_row = metres_outside(plan.safe_area, position), 0
        if metres > OUTSIDE_M:
            in_row = min(plan.outside_in_row + 1, OUTSIDE_IN_ROW)
        worries = in_row >= OUTSIDE_IN_ROW or (plan.worries and metres > 0)
        plan = replace(plan, last_activity_at=at, outside_in_row=in_row, worries=worries, first_activity_at=plan.first_activity_at or at)
    return plan
