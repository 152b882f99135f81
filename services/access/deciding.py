"""Whether a door opens for what was shown at it. The service and the reference terminal decide by this one function.

A terminal that is offline decides with less: it knows what happened at itself, and not what happened elsewhere. So it lets in who came in
by another door and did not leave, and takes a code that another terminal has taken; its journal tells, and both are found then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final
from uuid import UUID

from services.access.codes import Code, CodeFault
from services.access.doors import AntiPassback, CredentialKind, Direction
from services.access.entries import Entry

# After so many wrong PINs in this time a terminal takes none for as long: somebody is trying. Six digits last for years at this pace.
MISSES_MAX: Final = 5
MISSES_WITHIN: Final = timedelta(minutes=5)
# Somebody of whom we know that they came in, and not that they left, has left by now: through a door that somebody held open.
PRESENCE_HOLDS: Final = timedelta(hours=12)


class Reason(StrEnum):
    """Why a door stays shut; empty when it opens. The texts are stable."""

    NONE = ""
    # Nobody who may pass here: whether it is known elsewhere is not told.
    UNKNOWN = "unknown"
    KIND_NOT_TAKEN = "kind_not_taken"
    CODE_UNREADABLE = "code_unreadable"
    CODE_NOT_YET = "code_not_yet"
    CODE_EXPIRED = "code_expired"
    CODE_OTHER_DOOR = "code_other_door"
    CODE_USED = "code_used"
    NOT_YET = "not_yet"
    EXPIRED = "expired"
    # Known here, and not let through at this time of the week.
    NOT_NOW = "not_now"
    ENTRIES_USED = "entries_used"
    ALREADY_INSIDE = "already_inside"
    TOO_MANY_ATTEMPTS = "too_many_attempts"


# What a terminal's screen says.
TEXTS: Final[Mapping[Reason, tuple[str, str]]] = {
    Reason.NONE: ("请进", "Please come in"),
    Reason.UNKNOWN: ("未授权", "Not authorised"),
    Reason.KIND_NOT_TAKEN: ("此门不支持该方式", "This door takes something else"),
    Reason.CODE_UNREADABLE: ("二维码无效", "The code is not valid"),
    Reason.CODE_NOT_YET: ("二维码尚未生效", "The code is not valid yet"),
    Reason.CODE_EXPIRED: ("二维码已过期，请刷新", "The code has expired; show a new one"),
    Reason.CODE_OTHER_DOOR: ("二维码不适用于此门", "The code is for another door"),
    Reason.CODE_USED: ("二维码已使用，请刷新", "The code has been used; show a new one"),
    Reason.NOT_YET: ("尚未到有效时间", "Not valid yet"),
    Reason.EXPIRED: ("授权已过期", "No longer valid"),
    Reason.NOT_NOW: ("当前时段不可通行", "Not at this time"),
    Reason.ENTRIES_USED: ("通行次数已用完", "All entries have been used"),
    Reason.ALREADY_INSIDE: ("请先刷卡离开", "Leave before you come in again"),
    Reason.TOO_MANY_ATTEMPTS: ("尝试次数过多，请稍后再试", "Too many attempts; wait a while"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a terminal is, as far as deciding goes. `zone` is the community's time zone."""

    community_id: UUID
    door_id: UUID
    direction: Direction
    kinds: frozenset[CredentialKind]
    anti_passback: AntiPassback
    zone: tzinfo


@dataclass(frozen=True, slots=True)
class Presented:
    """What was shown. `digest` is of a card or PIN; `code` is None for a text that is no code of ours."""

    kind: CredentialKind
    digest: bytes = b""
    code: Code | None = None


@dataclass(frozen=True, slots=True)
class Before:
    """What has happened until now, as far as whoever decides knows it."""

    # How often this door let the subject in, and whether it is inside the zone and has not left.
    entries: int = 0
    is_inside: bool = False
    is_code_used: bool = False
    # Wrong PINs at this terminal within `MISSES_WITHIN`.
    misses: int = 0


def decide(place: Place, entry: Entry | None, presented: Presented, at: datetime, before: Before) -> Reason:
    """Why the door stays shut for its bearer; `Reason.NONE` when it opens.

    `entry` is what the terminal knows of the subject whose credential it is; None when it knows nothing. Who leaves is asked neither how
    often they came nor whether they are inside: exits are never blocked (Fire Protection Law art. 28).
    """
    if presented.kind not in place.kinds:
        return Reason.KIND_NOT_TAKEN
    if presented.kind is CredentialKind.CODE:
        if presented.code is None:
            return Reason.CODE_UNREADABLE
        fault = presented.code.fault(place.community_id, place.door_id, at)
        if fault is not None:
            return _OF_FAULT[fault]
    if presented.kind is CredentialKind.PIN and before.misses >= MISSES_MAX:
        return Reason.TOO_MANY_ATTEMPTS
    if entry is None or not _accepts(entry, presented):
        return Reason.UNKNOWN
    if not entry.holds(at, place.zone):
        return _why_not_now(entry, at)
    if before.is_code_used:
        return Reason.CODE_USED
    if place.direction is Direction.IN:
        if entry.entries_max and before.entries >= entry.entries_max:
            return Reason.ENTRIES_USED
        if place.anti_passback is AntiPassback.REFUSE and before.is_inside:
            return Reason.ALREADY_INSIDE
    return Reason.NONE


_OF_FAULT: Final = {fault: Reason(fault.value) for fault in CodeFault}


def _accepts(entry: Entry, presented: Presented) -> bool:
    match presented.kind:
        case CredentialKind.CARD:
            return presented.digest in entry.cards
        case CredentialKind.PIN:
            return presented.digest in entry.pins
        case CredentialKind.CODE:
            return entry.codes and presented.code is not None and presented.code.subject_id == entry.subject_id
        case CredentialKind.FACE:
            return entry.face
        case CredentialKind.PHONE:
            return entry.phone


def _why_not_now(entry: Entry, at: datetime) -> Reason:
    if all(times.valid_until is not None and at >= times.valid_until for times in entry.times):
        return Reason.EXPIRED
    if all(times.valid_from is not None and at < times.valid_from for times in entry.times):
        return Reason.NOT_YET
    return Reason.NOT_NOW
