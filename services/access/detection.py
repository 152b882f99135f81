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
class Use:
    """A card that a door let in on. `key` tells uses apart."""

    card: tuple[UUID, bytes]
    door_id: UUID
    building_id: UUID | None
    at: datetime
    key: str


def clones(uses: Iterable[Use]) -> list[tuple[Use, Use]]:
    """Pairs of uses of one card, the later second, of which a single card cannot have made both."""
    by_card: dict[tuple[UUID, bytes], list[Use]] = {}
    for use in uses:
        by_card.setdefault(use.card, []).append(use)
    return [pair for its in by_card.values() for pair in pairwise(sorted(its, key=lambda use: (use.at, use.key))) if _too_soon(*pair)]


def _too_soon(one: Use, other: Use) -> bool:
    if one.door_id == other.door_id:
        return False
    are_far = None not in (one.building_id, other.building_id) and one.building_id != other.building_id
    return other.at - one.at < (NEXT_BUILDING if are_far else NEXT_DOOR)


def bursts(refusals: Sequence[datetime]) -> list[datetime]:
    """Of refusals at one terminal, in order, those that were at least the fifth within a minute."""
    return [at for nth, at in enumerate(refusals) if nth + 1 >= REFUSALS_MAX and at - refusals[nth - REFUSALS_MAX + 1] <= REFUSALS_WITHIN]


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether somebody is in a zone, as the newest that happened says."""

    inside: bool
    since: datetime


@dataclass(frozen=True, slots=True)
class Move:
    """Somebody was let through a door of a zone. `key` tells moves apart."""

    zone_id: UUID
    subject_id: UUID
    direction: Direction
    anti_passback: AntiPassback
    at: datetime
    key: str


Presences = Mapping[tuple[UUID, UUID], Presence]


def follow(before: Presences, moves: Iterable[Move]) -> tuple[dict[tuple[UUID, UUID], Presence], list[Move]]:
    """Where everybody of these moves is after them, by zone and subject, and the moves of those who came in twice without having left.

    A move that is older than what is known changes nothing and accuses nobody.
    """
    after: dict[tuple[UUID, UUID], Presence] = {}
    found: list[Move] = []
    for move in sorted(moves, key=lambda each: (each.at, each.key)):
        place = (move.zone_id, move.subject_id)
        known = after.get(place) or before.get(place)
        if known is not None and move.at <= known.since:
            continue
        if is_inside(known, move.at) and move.direction is Direction.IN and move.anti_passback is not AntiPassback.OFF:
            found.append(move)
        after[place] = Presence(move.direction is Direction.IN, move.at)
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
