"""Who fits an order best, and why: skill, area, shift, load and distance. Pure.

A skill is a condition; all else is weighed in metres, so that the reason can be told. How offers go on is in `dispatch_operations.py`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from math import asin, cos, radians, sin, sqrt
from typing import Final
from uuid import UUID

from services.workorders.targets import Hours

# What a technician's other work and another's area weigh beside a walk: a job takes as long as a walk of several hundred metres.
_JOB_M: Final = 300
_OTHER_AREA_M: Final = 1000
# Somebody of whom nobody knows where they are is somewhere in the community.
_UNKNOWN_M: Final = 500
_EARTH_RADIUS_M: Final = 6_371_000


class Way(StrEnum):
    """How an order came to somebody."""

    # Offered to whoever fits best.
    OFFERED = "offered"
    # Given by a person (派单).
    GIVEN = "given"
    # Open to everybody with the skill (抢单): nobody who was asked has taken it, or nobody with the skill works now.
    OPEN = "open"
    OPEN_OFF_SHIFT = "open_off_shift"


@dataclass(frozen=True, slots=True)
class Position:
    """Degrees, WGS 84."""

    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True)
class Technician:
    """Somebody who does orders, and what they do now. No buildings are all; `offers` wait for their answer."""

    account_id: UUID
    name: str
    team_id: UUID
    skills: Sequence[str]
    building_ids: Sequence[UUID]
    shifts: Sequence[Hours]
    in_use: bool
    open_jobs: int = 0
    offers: int = 0
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What an order takes; an empty skill is any. On the grounds there is no building, and no position where none is known."""

    skill: str
    building_id: UUID | None
    position: Position | None


@dataclass(frozen=True, slots=True)
class Reason:
    """The facts of a choice. `in_area` is None on the grounds, and everything about the technician is when the order is open to all."""

    way: Way
    skill: str
    in_area: bool | None = None
    on_shift: bool | None = None
    open_jobs: int | None = None
    distance_m: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A technician for an order, and why."""

    technician: Technician
    reason: Reason


def rank(need: Need, technicians: Iterable[Technician], local: datetime) -> list[Candidate]:
    """Those who can, the best first; whoever does not work at this local time comes after all who do."""
    candidates = [Candidate(technician, weigh(need, technician, local)) for technician in technicians if has_skill(technician, need.skill)]
    return sorted(candidates, key=_order)


def has_skill(technician: Technician, skill: str) -> bool:
    """Whether somebody can do it: a skill is never made up for by anything else."""
    return technician.in_use and (not skill or skill in technician.skills)


def weigh(need: Need, technician: Technician, local: datetime, way: Way = Way.OFFERED) -> Reason:
    """The facts about a technician and an order."""
    in_area = None if need.building_id is None else not technician.building_ids or need.building_id in technician.building_ids
    apart_m = None if need.position is None or technician.position is None else distance_m(need.position, technician.position)
    return Reason(way, need.skill, in_area, is_on_shift(technician.shifts, local), technician.open_jobs, apart_m)


def _order(candidate: Candidate) -> tuple[bool, int, int, UUID]:
    reason, technician = candidate.reason, candidate.technician
    jobs = technician.open_jobs + technician.offers
    cost_m = _UNKNOWN_M if reason.distance_m is None else reason.distance_m
    cost_m += _JOB_M * jobs + (_OTHER_AREA_M if reason.in_area is False else 0)
    return not reason.on_shift, cost_m, jobs, technician.account_id


def is_on_shift(shifts: Iterable[Hours], local: datetime) -> bool:
    """Whether somebody with these shifts works at a local time."""
    weekday, minute = local.isoweekday(), local.hour * 60 + local.minute
    return any(shift.weekday == weekday and shift.from_minute <= minute < shift.until_minute for shift in shifts)


def distance_m(one: Position, other: Position) -> int:
    """Metres between two places, on a great circle."""
    north, east = radians(other.latitude - one.latitude), radians(other.longitude - one.longitude)
    chord = sin(north / 2) ** 2 + cos(radians(one.latitude)) * cos(radians(other.latitude)) * sin(east / 2) ** 2
    return round(2 * _EARTH_RADIUS_M * asin(min(1.0, sqrt(chord))))


def to_facts(reason: Reason) -> str:
    """The reason as an order keeps it."""
    return json.dumps({name: value for name, value in asdict(reason).items() if value is not None}, ensure_ascii=False)


def explain(facts: str) -> tuple[str, str]:
    """What `to_facts` wrote, for people: in Chinese and in English. Empty stays empty."""
    if not facts:
        return "", ""
    reason = Reason(**json.loads(facts))
    zh, en = ([f"技能 {reason.skill}"], [f"skill {reason.skill}"]) if reason.skill else ([], [])
    if reason.way in (Way.OPEN, Way.OPEN_OFF_SHIFT):
        nobody = reason.way == Way.OPEN_OFF_SHIFT
        zh.append("当前无人在班，开放抢单" if nobody else "已询问的人员均未接单，开放抢单")
        en.append("nobody is on shift, open to all" if nobody else "nobody who was asked has taken it, open to all")
        return "，".join(zh), ", ".join(en)
    if reason.way == Way.GIVEN:
        zh.insert(0, "人工派单")
        en.insert(0, "given by a dispatcher")
    if reason.in_area is not None:
        zh.append("负责本楼" if reason.in_area else "不负责本楼")
        en.append("looks after the building" if reason.in_area else "looks after other buildings")
    zh += ["在班" if reason.on_shift else "不在班", f"手上 {reason.open_jobs} 单"]
    en += ["on shift" if reason.on_shift else "not on shift", f"{reason.open_jobs} open jobs"]
    if reason.distance_m is not None:
        zh.append(f"相距 {reason.distance_m} 米")
        en.append(f"{reason.distance_m} m away")
    return "，".join(zh), ", ".join(en)
