"""What something earns: the rule's points within its limits, in the order in which things are told."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from services.points.rulebook import Rule, Source

NOBODY: Final = UUID(int=0)


class Reason(StrEnum):
    """Why something earned nothing, or less than its measure. The value is a stable name for programs."""

    NONE = ""
    NO_RULES = "points.no_rules"
    NO_RULE = "points.no_rule"
    NOT_A_RESIDENT = "points.not_a_resident"
    TOO_LITTLE = "points.too_little"
    DAILY_LIMIT = "points.daily_limit"
    MONTHLY_LIMIT = "points.monthly_limit"
    WITHDRAWN = "points.withdrawn"
    NOT_BOOKED = "points.not_booked"
    DIFFERS = "points.differs"
    OWN_CONTRIBUTION = "points.own_contribution"
    MEASURE_NOT_ONE = "points.measure_not_one"
    IN_FUTURE = "points.in_future"
    TOO_OLD = "points.too_old"
    TRIP_OVERLAPS = "points.trip_overlaps"
    TRIP_SHORT = "points.trip_short"
    TRIP_LONG = "points.trip_long"
    TRIP_SPEED = "points.trip_speed"
    TRIP_STEPS = "points.trip_steps"

    @property
    def texts(self) -> tuple[str, str]:
        """For people, in Chinese and English."""
        return _TEXTS[self]


_TEXTS: Final = {
    Reason.NONE: ("", ""),
    Reason.NO_RULES: ("当时尚未公布积分规则", "No rules were in force then"),
    Reason.NO_RULE: ("积分规则中没有此项", "The rules do not reward this"),
    Reason.NOT_A_RESIDENT: ("不是本小区居民", "Not a resident of this community"),
    Reason.TOO_LITTLE: ("未达到积分的最低标准", "Too little to earn points"),
    Reason.DAILY_LIMIT: ("已达到当日积分上限", "The limit of the day is reached"),
    Reason.MONTHLY_LIMIT: ("已达到当月积分上限", "The limit of the month is reached"),
    Reason.WITHDRAWN: ("该记录已撤销", "It was withdrawn"),
    Reason.NOT_BOOKED: ("积分未能入账", "The points could not be booked"),
    Reason.DIFFERS: ("同一编号的内容不同", "It was told before under the same id with other content"),
    Reason.OWN_CONTRIBUTION: ("不能为自己确认", "Nobody confirms their own"),
    Reason.MEASURE_NOT_ONE: ("该来源的数量只能为 1", "The measure of this is 1"),
    Reason.IN_FUTURE: ("时间晚于当前", "It is in the future"),
    Reason.TOO_OLD: ("时间过早，已不能计分", "It is too long ago"),
    Reason.TRIP_OVERLAPS: ("与已计分的出行时间重叠", "It overlaps a trip that counted already"),
    Reason.TRIP_SHORT: ("出行时间过短", "It is too short"),
    Reason.TRIP_LONG: ("出行时间过长", "It is too long"),
    Reason.TRIP_SPEED: ("速度与出行方式不符", "The speed does not fit the mode"),
    Reason.TRIP_STEPS: ("步数与时间或距离不符", "The steps do not fit the time or the distance"),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that may earn points. `claim_id` is derived from what it is, so that it is the same however often it is told.

    `measure` is in the source's own unit. `title` says which of its kind it was, such as an activity's name.
    """

    community_id: UUID
    claim_id: UUID
    source: Source
    source_id: str
    account_id: UUID
    measure: int
    occurred_at: datetime
    category: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """A claim for which there is a rule and somebody to give points to. `transfer_id` is the claim's own, or a correction's."""

    claim: Claim
    transfer_id: UUID
    rule: Rule
    rules_version: int
    # Whose limits count, and who gets the points.
    earner_id: UUID
    holder_id: UUID
    day: date


@dataclass(slots=True)
class Used:
    """What each earner has had under each rule, by day and by month."""

    by_day: Counter[tuple[UUID, str, date]] = field(default_factory=Counter)
    by_month: Counter[tuple[UUID, str, int, int]] = field(default_factory=Counter)

    def know(self, earner_id: UUID, rule_id: str, day: date, on_day: int, in_month: int) -> None:
        """Notes what was earned on a day and in its month before."""
        self.by_day[earner_id, rule_id, day] = on_day
        self.by_month[earner_id, rule_id, day.year, day.month] = in_month

    def add(self, earner_id: UUID, rule_id: str, day: date, points: int) -> None:
        """Counts points that were earned."""
        self.by_day[earner_id, rule_id, day] += points
        self.by_month[earner_id, rule_id, day.year, day.month] += points


@dataclass(frozen=True, slots=True)
class Award:
    """What a case earns."""

    case: Case
    points: int
    reason: Reason


def award(cases: Iterable[Case], used: Used) -> list[Award]:
    """What each case earns, one after the other. `used` counts on, so that the next sees what the last one took of a limit."""
    awards = []
    for case in cases:
        earner_id, rule_id, day = case.earner_id, case.rule.rule_id, case.day
        points, reason = _limit(
            case.rule,
            case.rule.points_for(case.claim.measure),
            used.by_day[earner_id, rule_id, day],
            used.by_month[earner_id, rule_id, day.year, day.month],
        )
        used.add(earner_id, rule_id, day, points)
        awards.append(Award(case, points, reason))
    return awards


def _limit(rule: Rule, points: int, used_today: int, used_this_month: int) -> tuple[int, Reason]:
    if points == 0:
        return 0, Reason.TOO_LITTLE
    reason = Reason.NONE
    for limit, used, name in (
        (rule.daily_points_max, used_today, Reason.DAILY_LIMIT),
        (rule.monthly_points_max, used_this_month, Reason.MONTHLY_LIMIT),
    ):
        if limit and points > limit - used:
            points, reason = max(0, limit - used), name
    return points, reason
