"""Consents: what somebody may agree to, and what ends with it (Personal Information Protection Law art. 15, 29, 31)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class ConsentKind(StrEnum):
    """What it is that somebody agrees to; each is asked for separately."""

    # Terminals keep a template of the face.
    FACE_ON_TERMINALS = "face_on_terminals"
    # An encrypted one is kept here besides.
    FACE_ON_SERVER = "face_on_server"
    # Sensors at home watch whether there is activity.
    CARE_ACTIVITY = "care_activity"
    # A wearable tells where the person is.
    CARE_LOCATION = "care_location"


class ConsentChannel(StrEnum):
    """How it was given."""

    APP = "app"
    PAPER = "paper"


# What goes with a consent that is withdrawn: a copy here is of no use without the terminals that it is for.
WITHDRAWN_WITH: Final[Mapping[ConsentKind, frozenset[ConsentKind]]] = {
    ConsentKind.FACE_ON_TERMINALS: frozenset({ConsentKind.FACE_ON_TERMINALS, ConsentKind.FACE_ON_SERVER}),
    ConsentKind.FACE_ON_SERVER: frozenset({ConsentKind.FACE_ON_SERVER}),
    ConsentKind.CARE_ACTIVITY: frozenset({ConsentKind.CARE_ACTIVITY}),
    ConsentKind.CARE_LOCATION: frozenset({ConsentKind.CARE_LOCATION}),
}
FACE_KINDS: Final = frozenset({ConsentKind.FACE_ON_TERMINALS, ConsentKind.FACE_ON_SERVER})
