"""Alarms: what somebody has to look at, and which observations are one alarm. What each kind is for is in `alarm_rules.py`.

Observations of one source, kind and track are one alarm as long as none is further from the next than the rule's window. Devices send
late, twice and in any order, so that is a matter of when they observed and not of when we heard: one that lies between two alarms makes
them one. A closed alarm keeps what was observed until it was closed; one that was closed as false keeps what follows within the window
too, because whoever closed it has just looked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Final
from uuid import UUID

# The first pictures of an alarm are kept, of which one alone tells most.
PICTURES_MAX: Final = 20
# A camera that gives every frame a track of its own must not raise an alarm for each: what comes on top of these joins the nearest.
ALARMS_OF_SOURCE_MAX: Final = 20
# Why alarms close of which no person says it.
BACK_AGAIN: Final = "back_again"
MERGED: Final = "merged"
ORDER_DONE: Final = "work_order_done"
# How a work order says that there had been nothing.
FALSE_ALARM: Final = "false_alarm"


class AlarmState(StrEnum):
    """What became of an alarm."""

    RAISED = "raised"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"


FOLLOWS: Final[Mapping[AlarmState, frozenset[AlarmState]]] = {
    AlarmState.RAISED: frozenset({AlarmState.ACKNOWLEDGED, AlarmState.CLOSED}),
    AlarmState.ACKNOWLEDGED: frozenset({AlarmState.CLOSED}),
}


class Severity(IntEnum):
    """How bad it is, numbered as in the contract."""

    NOTICE = 1
    WARNING = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Observation:
    """Something that a device noticed, or that was found in what devices told.

    `observation_id` is the same each time that the same thing is told. `occurred_at` is not in the future. `place` is for people, and may
    be empty as the ids may be None. `track_id` tells one person or thing that is followed from another; empty when nobody does.
    `confidence_permille` is -1 when the device does not say. `is_judged` is False for a mere sighting, such as a person whom a camera saw:
    most are no reason for anything. `care_plan_id` is for what concerns the person of a care plan.
    """

    observation_id: UUID
    community_id: UUID
    kind: str
    source_id: str
    occurred_at: datetime
    place: str = ""
    zone_id: UUID | None = None
    door_id: UUID | None = None
    track_id: str = ""
    confidence_permille: int = -1
    image_keys: tuple[str, ...] = ()
    is_judged: bool = True
    care_plan_id: UUID | None = None

    def placed(self, place: str, zone_id: UUID) -> "Observation":
        """With where it was made."""
        return replace(self, place=place, zone_id=zone_id)


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm as it is kept. `raised_at` and `last_observed_at` are when its observations were made, `told_at` is when we raised it."""

    alarm_id: UUID
    kind: str
    severity: Severity
    state: AlarmState
    source_id: str
    place: str
    zone_id: UUID | None
    door_id: UUID | None
    building_id: UUID | None
    raised_at: datetime
    last_observed_at: datetime
    observations: int
    image_keys: tuple[str, ...]
    told_at: datetime
    escalate_after_s: int
    escalations: int = 0
    acknowledged_by: UUID | None = None
    acknowledged_at: datetime | None = None
    closed_by: UUID | None = None
    closed_at: datetime | None = None
    cause: str = ""
    false_alarm: bool = False
    note: str = ""
    work_order_id: str = ""
    work_order_version: int = 0
    care_plan_id: UUID | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Work in a zone, or on one source in it, from `starts_at` until just before `ends_at`."""

    maintenance_id: UUID
    zone_id: UUID
    source_id: str
    starts_at: datetime
    ends_at: datetime
    reason: str
    suppressed: int

    def explains(self, seen: Observation) -> bool:
        """Whether an observation is no wonder because of it."""
        return seen.zone_id == self.zone_id and self.source_id in ("", seen.source_id) and self.starts_at <= seen.occurred_at < self.ends_at


@dataclass(frozen=True, slots=True)
class Episode:
    """An alarm as far as telling which observations belong to it goes. One that is new has the id of the observation that raised it."""

    alarm_id: UUID
    track_id: str
    first_at: datetime
    last_at: datetime
    observations: int
    image_keys: tuple[str, ...] = ()
    # When we raised it; None for one that is new.
    told_at: datetime | None = None
    is_acknowledged: bool = False
    closed_at: datetime | None = None
    was_false: bool = False
    # The alarm that this one turned out to be part of.
    merged_into: UUID | None = None

    def reaches(self, at: datetime, window: timedelta) -> bool:
        """Whether an observation of its track at this instant is part of it."""
        if at < self.first_at - window:
            return False
        if self.closed_at is None:
            return at <= self.last_at + window
        if self.was_false and self.closed_at < at <= self.closed_at + window:
            return True
        return at <= min(self.last_at + window, self.closed_at)

    def joined(self, seen: Observation) -> "Episode":
        """With one observation more."""
        return replace(
            self,
            first_at=min(self.first_at, seen.occurred_at),
            last_at=max(self.last_at, seen.occurred_at),
            observations=self.observations + 1,
            image_keys=(*self.image_keys, *seen.image_keys)[:PICTURES_MAX],
        )

    def united(self, other: "Episode") -> "Episode":
        """With all that belonged to another."""
        return replace(
            self,
            first_at=min(self.first_at, other.first_at),
            last_at=max(self.last_at, other.last_at),
            observations=self.observations + other.observations,
            image_keys=(*self.image_keys, *other.image_keys)[:PICTURES_MAX],
        )


@dataclass(frozen=True, slots=True)
class Correlation:
    """What observations of one source and kind change: the alarms that are new or not as they were, and which alarm each belongs to."""

    changed: Sequence[Episode]
    alarm_of: Mapping[UUID, UUID]


def correlate(episodes: Iterable[Episode], seen: Iterable[Observation], window: timedelta) -> Correlation:
    """Tells which observations belong to which alarm.

    `seen` are observations of one source and kind, each for the first time, in any order. `episodes` are the alarms of this source and
    kind that reach into the window around them. However the observations are cut into calls, the alarms that are not merged are the same
    at the end, unless one is closed in between.
    """
    known = {each.alarm_id: each for each in episodes}
    before = dict(known)
    alarm_of: dict[UUID, UUID] = {}
    for one in sorted(seen, key=lambda each: (each.occurred_at, each.observation_id)):
        reaching = [each for each in known.values() if each.merged_into is None and each.reaches(one.occurred_at, window)]
        own = sorted((each for each in reaching if each.track_id == one.track_id), key=_rank)
        if not own and sum(each.closed_at is None for each in reaching) >= ALARMS_OF_SOURCE_MAX:
            own = [max((each for each in reaching if each.closed_at is None), key=lambda each: (each.last_at, each.alarm_id))]
        if not own:
            images = one.image_keys[:PICTURES_MAX]
            episode = Episode(one.observation_id, one.track_id, one.occurred_at, one.occurred_at, 1, images)
        else:
            episode = own[0].joined(one)
            for other in own[1:] if episode.closed_at is None else ():
                if other.closed_at is None:
                    episode = episode.united(other)
                    known[other.alarm_id] = replace(other, merged_into=episode.alarm_id)
        known[episode.alarm_id] = episode
        alarm_of[one.observation_id] = episode.alarm_id
    changed = [each for alarm_id, each in known.items() if before.get(alarm_id) != each]
    return Correlation(changed, {one: _final(known, alarm_id) for one, alarm_id in alarm_of.items()})


def _rank(episode: Episode) -> tuple[bool, bool, bool, datetime, UUID]:
    """What an observation joins comes first: what was closed since; else what somebody deals with; else what is known longest."""
    is_new = episode.told_at is None
    return (episode.closed_at is None, not episode.is_acknowledged, is_new, episode.told_at or episode.first_at, episode.alarm_id)


def _final(known: Mapping[UUID, Episode], alarm_id: UUID) -> UUID:
    into = known[alarm_id].merged_into
    return alarm_id if into is None else _final(known, into)


def permille(part: int, whole: int) -> int:
    """A part of a whole in thousandths, rounded; -1 when there is no whole."""
    return (2000 * part + whole) // (2 * whole) if whole else -1
