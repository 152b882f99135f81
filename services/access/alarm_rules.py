"""What becomes of each kind of observation: the rules that are built in, and those that a community sets for itself or for one zone.

Which observations are one alarm is in `alarms.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from enum import StrEnum
from typing import Final
from uuid import UUID

from services.access.alarms import Observation, Severity
from services.access.windows import Window, is_open

INTRUSION: Final = "intrusion"
TERMINAL_SILENT: Final = "terminal_silent"
STILL_PERSON: Final = "still_person"
SENSOR_SILENT: Final = "sensor_silent"
LEFT_SAFE_AREA: Final = "left_safe_area"
# What no rule switches off and no maintenance explains: fire, a call for help, and a person who is cared for.
ALWAYS_ARMED: Final = frozenset({"smoke", "fire_release", "sos", STILL_PERSON, SENSOR_SILENT, LEFT_SAFE_AREA})


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of observations of a kind. `zone_id` is None for one that is for everywhere. Without windows it is always armed."""

    kind: str
    severity: Severity
    window_s: int
    escalate_after_s: int = 0
    work_order_category: str = ""
    zone_id: UUID | None = None
    enabled: bool = True
    confidence_min_permille: int = 0
    windows: Sequence[Window] = ()
    customised: bool = False


@dataclass(frozen=True, slots=True)
class Texts:
    """What a kind of alarm is called."""

    zh: str
    en: str


_NOTICE, _WARNING, _CRITICAL = Severity.NOTICE, Severity.WARNING, Severity.CRITICAL
_DAY_S: Final = 86_400
_KINDS: Final[Sequence[tuple[Rule, Texts]]] = (
    (Rule("smoke", _CRITICAL, 600, 180, "security.fire"), Texts("烟雾报警", "Smoke")),
    (Rule("fire_release", _CRITICAL, 600, 180, "security.fire"), Texts("消防联动，门已释放", "Doors released by the fire system")),
    (Rule("sos", _CRITICAL, 300, 180, "security.sos"), Texts("紧急求助", "Call for help")),
    (Rule("fall", _CRITICAL, 300, 300, "security.fall"), Texts("有人摔倒", "Somebody fell")),
    (Rule(INTRUSION, _CRITICAL, 300, 300, "security.intrusion"), Texts("有人闯入", "Intrusion")),
    (Rule("door_forced", _CRITICAL, 300, 300, "security.door_forced"), Texts("门被强行打开", "A door was forced")),
    (Rule("tamper", _CRITICAL, 600, 300, "security.tamper"), Texts("设备被拆动", "A device is being tampered with")),
    (Rule("fire_lane_blocked", _WARNING, 1800, 900, "security.fire_lane"), Texts("消防通道被占用", "The fire lane is blocked")),
    (Rule("door_held", _WARNING, 600, 900), Texts("门长时间未关", "A door is held open")),
    (Rule("too_many_refusals", _WARNING, 600, 900), Texts("门口多次被拒", "Many refusals at a door")),
    (Rule("card_cloned", _WARNING, 3600, 900), Texts("门卡疑似被复制", "A card may have been copied")),
    (Rule("code_reused", _WARNING, 600), Texts("通行码被重复使用", "A code was used again")),
    (Rule("passback", _NOTICE, 60), Texts("未出先入", "Somebody came in twice without leaving")),
    (Rule("tailgating", _NOTICE, 60), Texts("有人尾随进入", "Tailgating")),
    (Rule("loitering", _NOTICE, 600), Texts("有人长时间徘徊", "Loitering")),
    (Rule("journal_gap", _WARNING, _DAY_S), Texts("门禁记录有缺失", "Records of a door are missing")),
    (Rule("journal_broken", _CRITICAL, _DAY_S, 900, "security.terminal"), Texts("门禁记录被改动", "The records of a door were altered")),
    (Rule(TERMINAL_SILENT, _WARNING, 600, 3600, "security.terminal"), Texts("门禁设备离线", "A door terminal is silent")),
    (Rule(STILL_PERSON, _CRITICAL, 60, 600), Texts("家中较长时间没有活动", "No activity at home for long")),
    (Rule(SENSOR_SILENT, _WARNING, 60), Texts("关怀传感器没有信号", "The care sensors say nothing")),
    (Rule(LEFT_SAFE_AREA, _CRITICAL, 60, 600), Texts("已离开安全区域", "Left the safe area")),
)
BUILT_IN: Final[Mapping[str, Rule]] = {rule.kind: rule for rule, _ in _KINDS}
_TEXTS: Final = {rule.kind: texts for rule, texts in _KINDS}


def texts_of(kind: str, place: str) -> Texts:
    """What an alarm is, for people; `place` may be empty."""
    named = _TEXTS.get(kind, Texts(f"告警 {kind}", f"Alarm: {kind}"))
    return Texts(f"{named.zh}：{place}", f"{named.en}: {place}") if place else named


class Verdict(StrEnum):
    """Whether an observation may raise an alarm, or why it may not."""

    ARMED = "armed"
    UNKNOWN_KIND = "unknown_kind"
    DISABLED = "disabled"
    NOT_ARMED_NOW = "not_armed_now"
    UNSURE = "unsure"


class Rulebook:
    """The rules in force in a community, whose own are given. A zone's wins over the community's, and that one over what is built in."""

    def __init__(self, own: Iterable[Rule], zone: tzinfo) -> None:
        self._rules = {(rule.kind, rule.zone_id): rule for rule in own}
        self._zone = zone

    def find(self, kind: str, zone_id: UUID | None) -> Rule | None:
        """The rule for a kind in a zone; None for a kind that nobody knows."""
        return self._rules.get((kind, zone_id)) or self._rules.get((kind, None)) or BUILT_IN.get(kind)

    def listed(self) -> list[Rule]:
        """All rules by kind, the one for everywhere before those of zones."""
        everywhere = {kind: rule for kind, rule in BUILT_IN.items() if (kind, None) not in self._rules}
        return sorted(
            [*everywhere.values(), *self._rules.values()], key=lambda rule: (rule.kind, rule.zone_id is not None, str(rule.zone_id))
        )

    def judge(self, seen: Observation) -> Verdict:
        """Whether an observation may raise an alarm where and when it was made."""
        rule = self.find(seen.kind, seen.zone_id)
        if rule is None:
            return Verdict.UNKNOWN_KIND
        # A camera reports everybody who walks by; that one of them is an intruder somebody has to have said by a rule.
        if not rule.enabled or not (seen.is_judged or rule.customised):
            return Verdict.DISABLED
        if not is_open(rule.windows, seen.occurred_at, self._zone):
            return Verdict.NOT_ARMED_NOW
        if 0 <= seen.confidence_permille < rule.confidence_min_permille:
            return Verdict.UNSURE
        return Verdict.ARMED


# Who is told when nobody takes an alarm, step by step; the first at once.
CHAIN: Final[Sequence[Sequence[str]]] = (("property_staff",), ("foreman", "property_manager"), ("residents_committee_member",))
