"""What is wrong with what happened at doors: found by rules over passages in the order in which they happened. Pure.

Terminals tell late, so a rule goes by when things happened, by clocks that were corrected: that something is heard late accuses nobody.
What sensors of a terminal find by themselves (a door forced or held open, tailgating, tampering) is a record of its journal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final
from uuid import UUID

from services.access.deciding import PRESENCE_HOLDS
from services.access.doors import AntiPassback, Direction

# Somebody who forgot their card tries it three times. Five refusals in a minute are somebody who tries cards, codes or numbers.
REFUSALS_MAX: Final = 5
REFUSALS_WITHIN: Final = timedelta(minutes=1)
# Nobody is at two doors sooner, the gate and the entrance behind it among them.
NEXT_DOOR: Final = timedelta(seconds=5)
# Nobody who has just come into one building is in another one sooner, at a run.
NEXT_BUILDING: Final = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where and when something happened. `key` tells it from all else at the same terminal."""

    community_id: UUID
    device_id: str
    door_id: UUID
    door_name: str
    zone_id: UUID
    at: datetime
    key: str


@dataclass(frozen=True, slots=True)
class Use:
    """A door let somebody in on a card, which is told by its holder and its digest."""

    spot: Spot
    card: tuple[UUID, bytes]
    building_id: UUID | None


def clones(uses: Iterable[Use]) -> list[tuple[Use, Use]]:
    """Pairs of uses of one card, the later second, of which a single card cannot have made both."""
    by_card: dict[tuple[UUID, bytes], list[Use]] = {}
    for use in uses:
        by_card.setdefault(use.card, []).append(use)
    return [pair for its in by_card.values() for pair in pairwise(sorted(its, key=_when)) if _too_soon(*pair)]


def _when(use: Use) -> tuple[datetime, str, str]:
    return use.spot.at, use.spot.device_id, use.spot.key


def _too_soon(one: Use, other: Use) -> bool:
    if one.spot.door_id == other.spot.door_id:
        return False
    are_far = None not in (one.building_id, other.building_id) and one.building_id != other.building_id
    return other.spot.at - one.spot.at < (NEXT_BUILDING if are_far else NEXT_DOOR)


def bursts(refusals: Sequence[datetime]) -> list[datetime]:
    """When refusals at one terminal, in order, were at least `REFUSALS_MAX` within `REFUSALS_WITHIN`: once in such a time."""
    found: list[datetime] = []
    for first, last in zip(refusals, refusals[REFUSALS_MAX - 1 :], strict=False):
        if last - first <= REFUSALS_WITHIN and not (found and last - found[-1] <= REFUSALS_WITHIN):
            found.append(last)
    return found


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether somebody is in a zone, as the newest that happened says."""

    inside: bool
    since: datetime


@dataclass(frozen=True, slots=True)
class Move:
    """Somebody was let through a door."""

    spot: Spot
    subject_id: UUID
    direction: Direction
    anti_passback: AntiPassback


Presences = Mapping[tuple[UUID, UUID], Presence]


def follow(before: Presences, moves: Iterable[Move]) -> tuple[dict[tuple[UUID, UUID], Presence], list[Move]]:
    """Where everybody of these moves is after them, by zone and subject, and the moves of those who came in twice without having left.

    A move that is older than what is known changes nothing and accuses nobody.
    """
    after: dict[tuple[UUID, UUID], Presence] = {}
    found: list[Move] = []
    for move in sorted(moves, key=lambda each: (each.spot.at, each.spot.device_id, each.spot.key)):
        place, at = (move.spot.zone_id, move.subject_id), move.spot.at
        known = after.get(place) or before.get(place)
        if known is not None and at <= known.since:
            continue
        if is_inside(known, at) and move.direction is Direction.IN and move.anti_passback is not AntiPassback.OFF:
            found.append(move)
        after[place] = Presence(move.direction is Direction.IN, at)
    return after, found


def is_inside(known: Presence | None, at: datetime) -> bool:
    """Whether somebody is inside, as far as what is known still says anything at an instant."""
    return known is not None and known.inside and at - known.since < PRESENCE_HOLDS


def corrected(at: datetime, error: timedelta, received_at: datetime) -> datetime:
    """When something happened, by a clock to which `error` has to be added; never after we received it."""
    try:
        return min(at + error, received_at)
    except OverflowError:
        return received_at
