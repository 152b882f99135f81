"""What a lane does with a car: open the barrier or hold the car, why, and what its screen says.

Pure decisions over facts that others have looked up. What the stay costs is in `charges.py`, which plate a misread
stands for in `plates.py`; a gate command's signature and expiry are not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.parking.charges import yuan
from services.parking.plates import ON_DUTY_KINDS, MatchKind, PlateKind

# When was it: the times that cameras give.

CLOCK_AHEAD_MAX: Final = timedelta(seconds=5)
READ_AGE_MAX: Final = timedelta(seconds=30)
# A camera back-fills what it could not send. Beyond this, its clock has lost the date.
BACKFILL_AGE_MAX: Final = timedelta(days=7)
# How far the clocks of two cameras may differ before their order in time means something.
CLOCKS_APART_MAX: Final = timedelta(minutes=1)
# A read that waited longer than this to be decided on is of a car that may have gone; as long as a gate command lives at most.
DECISION_AGE_MAX: Final = timedelta(seconds=10)
# A plate that is read again at its lane within this, and nowhere else meanwhile, is of the same vehicle passing once.
SAME_PASSAGE_MAX: Final = timedelta(minutes=3)
# For so long a car is taken to stand before a barrier that did not open for it, unless another one is read there.
WAIT_MAX: Final = timedelta(minutes=3)


class ReadTimeVerdict(StrEnum):
    TRUSTED = "trusted"
    CLOCK_AHEAD = "clock_ahead"
    STALE = "stale"  # recorded, but the car is no longer in front of the barrier


@dataclass(frozen=True, slots=True)
class ReadTime:
    verdict: ReadTimeVerdict
    at: datetime
    """The time to reckon with."""

    @property
    def is_late(self) -> bool:
        return self.verdict is ReadTimeVerdict.STALE


def judge_read_time(occurred_at: datetime, received_at: datetime) -> ReadTime:
    """What to make of the time a camera gives. Durations come from it, unless it cannot be true.

    A read from the future is of a camera whose clock is ahead: it happened when it arrived, at the latest. One that is
    far older than any back-fill says nothing about when it happened, nor whether the car is still there.
    """
    if occurred_at > received_at + CLOCK_AHEAD_MAX:
        return ReadTime(ReadTimeVerdict.CLOCK_AHEAD, received_at)
    if occurred_at >= received_at - READ_AGE_MAX:
        return ReadTime(ReadTimeVerdict.TRUSTED, occurred_at)
    credible = occurred_at >= received_at - BACKFILL_AGE_MAX
    return ReadTime(ReadTimeVerdict.STALE, occurred_at if credible else received_at)


class ExitTimeVerdict(StrEnum):
    AFTER_ENTRY = "after_entry"
    CLOCKS_DISAGREE = "clocks_disagree"  # a stay of no length
    BEFORE_ENTRY = "before_entry"  # of an earlier stay: it does not close this one


@dataclass(frozen=True, slots=True)
class ExitTime:
    verdict: ExitTimeVerdict
    left_at: datetime
    """Never before the entry."""


def judge_exit_time(entered_at: datetime, passed_at: datetime) -> ExitTime:
    """Whether a read at an exit can end the stay that began at `entered_at`, and when that stay then ended."""
    if passed_at >= entered_at:
        return ExitTime(ExitTimeVerdict.AFTER_ENTRY, passed_at)
    if passed_at >= entered_at - CLOCKS_APART_MAX:
        return ExitTime(ExitTimeVerdict.CLOCKS_DISAGREE, entered_at)
    return ExitTime(ExitTimeVerdict.BEFORE_ENTRY, entered_at)


# The decision.


class Direction(StrEnum):
    ENTRY = "entry"
    EXIT = "exit"


class Action(StrEnum):
    OPEN = "open"
    HOLD = "hold"


class Reason(StrEnum):
    # the barrier opens
    FREE = "free"
    PERMIT = "permit"
    SECOND_CAR_ON_PASS = "second_car_on_pass"  # noqa: S105 - a month pass
    VISITOR_PASS = "visitor_pass"  # noqa: S105
    RESIDENT = "resident"
    TEMPORARY = "temporary"
    PAID = "paid"
    WITHIN_GRACE = "within_grace"
    # the car is held
    UNREAD_PLATE = "unread_plate"
    DENIED = "denied"
    NO_PASS = "no_pass"  # noqa: S105
    LOT_FULL = "lot_full"
    UNMATCHED = "unmatched"
    EXIT_BEFORE_ENTRY = "exit_before_entry"
    PAYMENT_DUE = "payment_due"
    LATE_READ = "late_read"


class Admission(StrEnum):
    """As what a car is inside, which decides what it will owe."""

    ON_DUTY = "on_duty"
    PERMIT = "permit"
    VISITOR_PASS = "visitor_pass"  # noqa: S105
    RESIDENT = "resident"  # known to the community, without a space of its own: pays
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    reason: Reason
    zh: str
    en: str
    """For the lane's screen."""
    admission: Admission | None = None
    """At an entry: as what the car comes in, also when only the lateness of the read keeps the barrier shut.
    At an exit: as what it was in."""
    amount_due_fen: int = 0


@dataclass(frozen=True, slots=True)
class LotFacts:
    capacity: int
    occupied: int
    full_admits_permits: bool
    """Whether permit holders, who have a space waiting for them, come in when all others are turned away."""
    admits_temporary: bool = True
    """Whether a car comes in that has no pass of any kind and belongs to no household."""


@dataclass(frozen=True, slots=True)
class PermitFacts:
    """A month pass that is valid at the time and bound to the plate, among others perhaps (一位多车)."""

    others_inside: int
    """Cars of the same pass, this one left out, that are inside on it."""
    spaces: int = 1

    @property
    def has_room(self) -> bool:
        return self.others_inside < self.spaces


@dataclass(frozen=True, slots=True)
class EntryFacts:
    plate_kind: PlateKind | None
    """None when the camera read no plate, or something that is no plate."""
    lot: LotFacts
    is_late: bool = False
    is_denied: bool = False
    permit: PermitFacts | None = None
    has_visitor_pass: bool = False
    is_resident: bool = False
    has_open_session: bool = False


def decide_entry(facts: EntryFacts) -> Decision:
    """Whether a car may come in, and as what.

    Vehicles on duty before all else: nobody may hold up the police, the army or the fire brigade (Road Traffic Safety
    Law art. 53). Then the deny list, which no permit outweighs.
    """
    if facts.plate_kind is None:
        return _decision(Direction.ENTRY, Reason.UNREAD_PLATE)
    reason, admission = _admitted(facts)
    if facts.is_denied and admission is not Admission.ON_DUTY:
        return _decision(Direction.ENTRY, Reason.DENIED)
    if reason is Reason.TEMPORARY and not facts.lot.admits_temporary:
        return _decision(Direction.ENTRY, Reason.NO_PASS)
    if _is_full_for(admission, facts):
        return _decision(Direction.ENTRY, Reason.LOT_FULL)
    return _unless_late(_decision(Direction.ENTRY, reason, admission), facts.is_late)


def _admitted(facts: EntryFacts) -> tuple[Reason, Admission]:
    if facts.plate_kind in ON_DUTY_KINDS:
        return Reason.FREE, Admission.ON_DUTY
    if facts.permit is not None and facts.permit.has_room:
        return Reason.PERMIT, Admission.PERMIT
    if facts.has_visitor_pass:
        return Reason.VISITOR_PASS, Admission.VISITOR_PASS
    if facts.permit is not None:
        return Reason.SECOND_CAR_ON_PASS, Admission.TEMPORARY
    if facts.is_resident:
        return Reason.RESIDENT, Admission.RESIDENT
    return Reason.TEMPORARY, Admission.TEMPORARY


def _is_full_for(admission: Admission, facts: EntryFacts) -> bool:
    # How full the lot is now says nothing about when a late read was made.
    if facts.is_late:
        return False
    # A car whose exit was missed still counts as inside, though it is here.
    occupied = facts.lot.occupied - facts.has_open_session
    if occupied < facts.lot.capacity or admission is Admission.ON_DUTY:
        return False
    return not (admission is Admission.PERMIT and facts.lot.full_admits_permits)


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """The stay inside that the read at the exit stands for."""

    admission: Admission
    amount_due_fen: int
    """To leave now, with the grace time after a payment taken into account (`charges.due`)."""
    charge_fen: int
    """For the whole stay."""
    paid_fen: int
    exit_time: ExitTimeVerdict = ExitTimeVerdict.AFTER_ENTRY


@dataclass(frozen=True, slots=True)
class ExitFacts:
    match: MatchKind | None
    """None when the camera read no plate."""
    plate_kind: PlateKind | None = None
    """Of the plate matched, else of the plate read; None when what was read is no plate."""
    session: SessionFacts | None = None
    """None when unmatched."""
    is_late: bool = False
    has_permit: bool = False
    """Whether a valid month pass is bound to the plate."""


def decide_exit(facts: ExitFacts) -> Decision:
    """Whether a car may leave. A car on the deny list may: it is to stay out, not in.

    A permit holder whose entry was missed leaves too, for there is nothing to pay.
    """
    if facts.match is None:
        return _decision(Direction.EXIT, Reason.UNREAD_PLATE)
    session = facts.session
    if facts.plate_kind in ON_DUTY_KINDS:
        decision = _decision(Direction.EXIT, Reason.FREE, Admission.ON_DUTY)
    elif session is not None and session.exit_time is not ExitTimeVerdict.BEFORE_ENTRY:
        decision = _decision(Direction.EXIT, _settled(session), session.admission, session.amount_due_fen)
    elif facts.has_permit:
        decision = _decision(Direction.EXIT, Reason.PERMIT, Admission.PERMIT)
    else:
        reason = Reason.UNMATCHED if session is None else Reason.EXIT_BEFORE_ENTRY
        return _decision(Direction.EXIT, reason)
    return _unless_late(decision, facts.is_late)


def _settled(session: SessionFacts) -> Reason:
    """Why nothing has to be paid for a stay, or that something has."""
    if session.amount_due_fen > 0:
        return Reason.PAYMENT_DUE
    if session.admission is Admission.PERMIT:
        return Reason.PERMIT
    if session.paid_fen > 0:
        return Reason.PAID if session.charge_fen <= session.paid_fen else Reason.WITHIN_GRACE
    return Reason.VISITOR_PASS if session.admission is Admission.VISITOR_PASS else Reason.FREE


def _unless_late(decision: Decision, is_late: bool) -> Decision:
    """A gate never opens for a car that has left, now or when it pays; what the car was and owed is still recorded."""
    if not is_late:
        return decision
    zh, en = _SCREEN_LATE
    return replace(decision, action=Action.HOLD, reason=Reason.LATE_READ, zh=zh, en=en)


_HOLDING: Final = frozenset(
    {
        Reason.UNREAD_PLATE,
        Reason.DENIED,
        Reason.NO_PASS,
        Reason.LOT_FULL,
        Reason.UNMATCHED,
        Reason.EXIT_BEFORE_ENTRY,
        Reason.PAYMENT_DUE,
        Reason.LATE_READ,
    }
)

_SCREEN_LATE: Final = ("请稍候", "Please wait")
_SCREENS: Final[Mapping[Direction, Mapping[Reason, tuple[str, str]]]] = {
    Direction.ENTRY: {
        Reason.FREE: ("请通行", "Please proceed"),
        Reason.PERMIT: ("欢迎回家", "Welcome home"),
        Reason.SECOND_CAR_ON_PASS: ("车位已占用 按临停计费", "Space in use, visitor rate"),
        Reason.VISITOR_PASS: ("访客 欢迎光临", "Welcome, visitor"),
        Reason.RESIDENT: ("欢迎回家 按临停计费", "Welcome home, visitor rate"),
        Reason.TEMPORARY: ("欢迎光临", "Welcome"),
        Reason.UNREAD_PLATE: ("未识别车牌 请联系保安", "Plate not read, ask the guard"),
        Reason.DENIED: ("禁止驶入 请联系保安", "No entry, ask the guard"),
        Reason.NO_PASS: ("非本小区车辆 请联系保安", "No pass, ask the guard"),
        Reason.LOT_FULL: ("车位已满", "Car park full"),
    },
    Direction.EXIT: {
        Reason.FREE: ("一路平安", "Have a good trip"),
        Reason.PERMIT: ("一路平安", "Have a good trip"),
        Reason.VISITOR_PASS: ("访客 一路平安", "Goodbye, visitor"),
        Reason.PAID: ("已缴费 一路平安", "Paid, have a good trip"),
        Reason.WITHIN_GRACE: ("已缴费 一路平安", "Paid, have a good trip"),
        Reason.UNREAD_PLATE: ("未识别车牌 请联系保安", "Plate not read, ask the guard"),
        Reason.UNMATCHED: ("无入场记录 请联系保安", "No record of entry, ask the guard"),
        Reason.EXIT_BEFORE_ENTRY: ("入场记录有误 请联系保安", "Wrong record of entry, ask the guard"),
        Reason.PAYMENT_DUE: ("请缴费{yuan}元", "Please pay ¥{yuan}"),
    },
}


# The answer to a read that nothing more can be said of: somebody or something else has dealt with its car.
LATE: Final = Decision(Action.HOLD, Reason.LATE_READ, *_SCREEN_LATE)


def _decision(direction: Direction, reason: Reason, admission: Admission | None = None, amount_due_fen: int = 0) -> Decision:
    zh, en = (text.format(yuan=yuan(amount_due_fen)) for text in _SCREENS[direction][reason])
    action = Action.HOLD if reason in _HOLDING else Action.OPEN
    return Decision(action, reason, zh, en, admission, amount_due_fen=amount_due_fen)
