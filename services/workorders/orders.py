"""Work orders: what they are, which state follows which, who may see one and speak for it.

When promises are due is in `targets.py`. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, Final
from uuid import UUID


class Kind(StrEnum):
    """What sort of work it is."""

    REPAIR = "repair"
    COMPLAINT = "complaint"
    INSPECTION = "inspection"
    ALARM = "alarm"


class Priority(IntEnum):
    """How soon; 1 is the most urgent."""

    EMERGENCY = 1
    URGENT = 2
    NORMAL = 3
    LOW = 4


class State(StrEnum):
    """How far it is."""

    REPORTED = "reported"
    TRIAGED = "triaged"
    DISPATCHED = "dispatched"
    ACCEPTED = "accepted"
    ON_SITE = "on_site"
    WAITING = "waiting"
    DONE = "done"
    CONFIRMED = "confirmed"
    REOPENED = "reopened"
    CANCELLED = "cancelled"


class WaitsFor(StrEnum):
    """Why the work cannot go on."""

    PART = "part"
    RESIDENT = "resident"
    PAYMENT = "payment"


class Visibility(StrEnum):
    """Who sees it besides staff."""

    HOUSEHOLD = "household"
    NEIGHBOURS = "neighbours"
    REPORTER = "reporter"


class Target(StrEnum):
    """What is promised: that somebody accepts it, is there, has done it."""

    RESPONSE = "response"
    ON_SITE = "on_site"
    DONE = "done"


# What follows what. To be dispatched again is the next offer; whoever has accepted may give it back at any time before it is done.
FOLLOWS: Final[Mapping[State, frozenset[State]]] = {
    State.REPORTED: frozenset({State.TRIAGED, State.CANCELLED}),
    State.TRIAGED: frozenset({State.DISPATCHED, State.CANCELLED}),
    State.DISPATCHED: frozenset({State.DISPATCHED, State.ACCEPTED, State.CANCELLED}),
    State.ACCEPTED: frozenset({State.ON_SITE, State.WAITING, State.DISPATCHED, State.CANCELLED}),
    State.ON_SITE: frozenset({State.WAITING, State.DONE, State.DISPATCHED, State.CANCELLED}),
    State.WAITING: frozenset({State.ACCEPTED, State.ON_SITE, State.DISPATCHED, State.CANCELLED}),
    State.DONE: frozenset({State.CONFIRMED, State.REOPENED}),
    State.CONFIRMED: frozenset({State.REOPENED}),
    State.REOPENED: frozenset({State.DISPATCHED, State.CANCELLED}),
}
CLOSED: Final = frozenset({State.DONE, State.CONFIRMED, State.CANCELLED})
WORKED_ON: Final = frozenset({State.ACCEPTED, State.ON_SITE, State.WAITING})
# The promise's clock stands still for what the community cannot hurry.
STOPS_THE_CLOCK: Final = frozenset({WaitsFor.RESIDENT, WaitsFor.PAYMENT})


@dataclass(frozen=True, slots=True)
class Promise:
    """What a category promises for one priority, in minutes since the report; 0 promises nothing."""

    response_minutes: int
    on_site_minutes: int
    done_minutes: int
    round_the_clock: bool

    def minutes(self, target: Target) -> int:
        """The minutes of one target."""
        return {
            Target.RESPONSE: self.response_minutes,
            Target.ON_SITE: self.on_site_minutes,
            Target.DONE: self.done_minutes,
        }[target]


@dataclass(frozen=True, slots=True)
class Order:
    """A work order. Instants are UTC.

    `category` is the category's code, `skill` what it takes, and both promise and terms are those of its report, whatever changes later.
    `dispatch_reason` holds the facts of the choice of its technician, as dispatch wrote them. `paused_in` is the state to which a waiting
    order returns. Its promises are counted from `clock_from`: from its report, or when it was opened again, later by as long as they stood
    still; `clock_stopped_at` is since when they do. `told` is what was told of them since then, such as "response.warn_50", and `missed`
    which were ever missed. `response_s` is how long the first response took, whatever came after it. A linked order ends with
    `duplicate_of_order_id`.
    """

    order_id: UUID
    community_id: UUID
    number: int
    kind: Kind
    category_id: UUID
    category: str
    skill: str
    priority: Priority
    state: State
    title: str
    description: str
    household_id: UUID | None
    building_id: UUID | None
    place: str
    reporter_account_id: UUID | None
    visibility: Visibility
    origin: str
    origin_id: str
    reported_at: datetime
    clock_from: datetime
    promise: Promise
    terms_id: UUID | None
    response_due_at: datetime | None = None
    on_site_due_at: datetime | None = None
    done_due_at: datetime | None = None
    clock_stopped_at: datetime | None = None
    told: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    missed_at: datetime | None = None
    waits_for: WaitsFor | None = None
    paused_in: State | None = None
    team_id: UUID | None = None
    technician_account_id: UUID | None = None
    offered_to_account_id: UUID | None = None
    offer_until: datetime | None = None
    is_open_to_all: bool = False
    dispatch_reason: str = ""
    visit_from: datetime | None = None
    visit_until: datetime | None = None
    responded_at: datetime | None = None
    response_s: int | None = None
    accepted_at: datetime | None = None
    on_site_at: datetime | None = None
    done_at: datetime | None = None
    closed_at: datetime | None = None
    duplicate_of_order_id: UUID | None = None
    reopened: int = 0
    stars: int = 0
    rating_text: str = ""
    cause: str = ""
    resolution: str = ""
    charge_id: UUID | None = None
    amount_fen: int = 0
    is_paid: bool = False
    version: int = 0

    @property
    def is_open(self) -> bool:
        """Whether there is something to do still."""
        return self.state not in CLOSED

    def due_at(self, target: Target) -> datetime | None:
        """When a promise is, or was, due; None when it was never made."""
        return {
            Target.RESPONSE: self.response_due_at,
            Target.ON_SITE: self.on_site_due_at,
            Target.DONE: self.done_due_at,
        }[target]

    def kept_at(self, target: Target) -> datetime | None:
        """When what was promised happened; None while it has not."""
        return {Target.RESPONSE: self.responded_at, Target.ON_SITE: self.on_site_at, Target.DONE: self.done_at}[target]

    def awaits(self, target: Target) -> bool:
        """Whether a promise is made and nobody has kept it, be it missed or not. A linked order's are those of its original."""
        made = self.due_at(target) is not None and self.duplicate_of_order_id is None
        return made and self.is_open and self.kept_at(target) is None

    def is_missed(self, target: Target) -> bool:
        """Whether the first of the chain was told of a promise, since it was made."""
        return told_name(target, "level_1") in self.told


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who looks at orders: where they live, and whether they are staff who read all, work on them, or give them out."""

    account_id: UUID
    household_ids: frozenset[UUID] = frozenset()
    building_ids: frozenset[UUID] = frozenset()
    reads_all: bool = False
    works: bool = False
    dispatches: bool = False

    @property
    def is_resident(self) -> bool:
        """Whether they live here."""
        return bool(self.household_ids)

    def speaks_for(self, order: Order) -> bool:
        """Whether they may answer for the reporter: the reporter, and their household unless it is kept from it."""
        if order.reporter_account_id == self.account_id:
            return True
        return order.visibility is not Visibility.REPORTER and order.household_id in self.household_ids

    def has_job(self, order: Order) -> bool:
        """Whether an order is offered or given to them, or theirs to take."""
        if self.account_id in (order.technician_account_id, order.offered_to_account_id):
            return True
        return self.works and order.is_open_to_all

    def may_see(self, order: Order) -> bool:
        """Whether they may know of an order."""
        if self.reads_all or self.dispatches or self.speaks_for(order) or self.has_job(order):
            return True
        if order.visibility is not Visibility.NEIGHBOURS:
            return False
        return self.is_resident if order.building_id is None else order.building_id in self.building_ids

    def may_call(self, order: Order) -> bool:
        """Whether they are shown the contact's phone."""
        if self.dispatches or self.account_id == order.reporter_account_id:
            return True
        return self.account_id == order.technician_account_id and order.state in WORKED_ON | {State.DISPATCHED}


def usual_visibility(kind: Kind, asked: Visibility | None, *, in_household: bool) -> Visibility:
    """Who sees a new order: complaints are for staff alone; in a home it is the household's, elsewhere everybody's business."""
    if kind is Kind.COMPLAINT:
        return Visibility.REPORTER
    if asked is not None:
        return asked
    if kind is Kind.REPAIR:
        return Visibility.HOUSEHOLD if in_household else Visibility.NEIGHBOURS
    return Visibility.REPORTER


def advanced(order: Order, to: State, now: datetime) -> Order:
    """The order in a state that follows its present one, with what every such step brings: instants, and whose it is not any more."""
    changes: dict[str, Any] = {"state": to}
    if order.state is State.WAITING:
        changes |= {"waits_for": None, "paused_in": None}
    if to in (State.DISPATCHED, State.REOPENED):
        changes |= {"technician_account_id": None, "accepted_at": None}
    if to is State.REOPENED:
        changes |= {"reopened": order.reopened + 1, "clock_from": now, "told": (), "cause": "", "resolution": ""}
        changes |= dict.fromkeys(("visit_from", "visit_until", "responded_at", "on_site_at", "done_at", "closed_at"))
    elif to is State.ACCEPTED and order.state is State.DISPATCHED:
        changes |= {"accepted_at": now} | responded(order, now)
    elif to is State.ON_SITE:
        changes |= {"on_site_at": order.on_site_at or now}
    elif to is State.WAITING:
        changes |= {"paused_in": order.state}
    elif to is State.DONE:
        changes |= {"done_at": now}
    if to in (State.CONFIRMED, State.CANCELLED):
        changes |= {"closed_at": now}
    # An offer is answered or void with any step.
    changes |= {"offered_to_account_id": None, "offer_until": None, "is_open_to_all": False}
    return replace(order, **changes)


def told_name(target: Target, moment: str) -> str:
    """How `Order.told` says that a moment of a promise has come."""
    return f"{target}.{moment}"


def responded(order: Order, now: datetime) -> dict[str, Any]:
    """What changes when somebody answers the reporter; nothing when somebody had."""
    if order.responded_at is not None:
        return {}
    first_s = int((now - order.reported_at).total_seconds()) if order.response_s is None else order.response_s
    return {"responded_at": now, "response_s": first_s}
