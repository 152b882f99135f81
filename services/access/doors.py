"""Doors: the kinds there are, what lies behind them, and what opens them. Who gets in is in `entries.py`, when in `windows.py`.

A face is never the only way in (Personal Information Protection Law art. 29; GB/T 35273 §5.4). Whoever is inside gets out: exits are never
blocked (Fire Protection Law art. 28; GB 50348 on means of escape), so a terminal that lets out does so for everybody the community knows,
whatever the time, also when what let them in has ended meanwhile.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Final


class ZoneKind(StrEnum):
    """What lies behind doors."""

    # The grounds, garages and lifts: every resident enters.
    COMMUNITY = "community"
    # Those who live in it enter.
    BUILDING = "building"
    # A shared room, and the property company's: those whom a rule lets in enter.
    AMENITY = "amenity"
    STAFF = "staff"


class DoorKind(StrEnum):
    """What kind of door it is."""

    COMMUNITY_GATE = "community_gate"
    BUILDING_ENTRANCE = "building_entrance"
    LIFT = "lift"
    GARAGE = "garage"
    AMENITY = "amenity"
    STAFF = "staff"


class CredentialKind(StrEnum):
    """What opens a door."""

    FACE = "face"
    CODE = "code"
    CARD = "card"
    PIN = "pin"
    # The app of somebody who stands there; it asks us, so it opens nothing while the network is gone.
    PHONE = "phone"


class Direction(StrEnum):
    """Which way a terminal lets people through."""

    IN = "in"
    OUT = "out"


class AntiPassback(StrEnum):
    """What is done when somebody comes in twice without having left."""

    OFF = "off"
    REPORT = "report"
    REFUSE = "refuse"


# What a terminal can check alone and nobody needs a face for.
_WITHOUT_FACE: Final = frozenset({CredentialKind.CODE, CredentialKind.CARD, CredentialKind.PIN})


def needs_a_face(kinds: Collection[CredentialKind]) -> bool:
    """Whether a door that accepts these leaves somebody outside who gave no consent to their face, if only while the network is gone."""
    return CredentialKind.FACE in kinds and not _WITHOUT_FACE.intersection(kinds)
