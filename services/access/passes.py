"""Visitors' passes: their kinds and states, how long each may be good, and the links that visitors get."""

import base64
import binascii
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

# Before and after an agreed visit a contractor may come early and leave late.
VISIT_MARGIN: Final = timedelta(minutes=30)
_SECRET_BYTES: Final = 16
_LINK_LENGTH: Final = 64


class PassKind(StrEnum):
    """What a visitor comes for."""

    VISIT = "visit"
    DELIVERY = "delivery"
    CONTRACTOR = "contractor"


class PassState(StrEnum):
    """What has become of a pass."""

    # The visitor has not confirmed yet: it opens nothing.
    INVITED = "invited"
    CONFIRMED = "confirmed"
    # Taken back, or its work order is closed.
    ENDED = "ended"
    # Its time has passed, or its entries are used up.
    EXPIRED = "expired"


LONGEST: Final[Mapping[PassKind, timedelta]] = {PassKind.VISIT: timedelta(days=31), PassKind.DELIVERY: timedelta(hours=1)}


@dataclass(frozen=True, slots=True)
class Pass:
    """Lets a visitor in, between two instants. `household_id` is None for a contractor, `work_order_id` for everybody else."""

    pass_id: UUID
    kind: PassKind
    household_id: UUID | None
    work_order_id: UUID | None
    visitor_name: str
    # Normalised; empty when the visitor walks.
    plate: str
    valid_from: datetime
    valid_until: datetime
    # How often each door lets in on it; 0 is any number of times.
    entries_max: int
    zone_ids: tuple[UUID, ...]
    invited_by: UUID
    confirmed_at: datetime | None = None
    ended_at: datetime | None = None
    used_up_at: datetime | None = None
    last_used_at: datetime | None = None
    version: int = 1

    def state(self, now: datetime) -> PassState:
        """What has become of it by now."""
        if self.ended_at is not None:
            return PassState.ENDED
        if self.used_up_at is not None or now >= self.valid_until:
            return PassState.EXPIRED
        return PassState.INVITED if self.confirmed_at is None else PassState.CONFIRMED


def is_possible(kind: PassKind, valid_from: datetime, valid_until: datetime, now: datetime) -> bool:
    """Whether a household may invite for this time."""
    return timedelta(0) < valid_until - valid_from <= LONGEST[kind] and now < valid_until


@dataclass(frozen=True, slots=True)
class Link:
    """What a visitor's link says. The secret is the visitor's, and kept nowhere."""

    community_id: UUID
    pass_id: UUID
    secret: bytes

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(self.community_id.bytes + self.pass_id.bytes + self.secret).decode("ascii")


def read_link(text: str) -> Link | None:
    """What a link says; None for what has not the form of one."""
    if len(text) != _LINK_LENGTH:
        return None
    try:
        data = base64.b64decode(text, altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    return Link(UUID(bytes=data[:16]), UUID(bytes=data[16:32]), data[32:])


_SEPARATORS: Final = re.compile(r"[\s_.\-·•‧∙⋅・‐-―−﹣]+")
# Wider than the forms of GA 36-2018, which parking judges: letters and digits with a Chinese character or two letters in front or behind.
_PLATE: Final = re.compile(r"(?=.*(?:[一-鿿]|[A-Z]{2}))(?=.*[0-9])[A-Z0-9一-鿿]{5,10}")


def normal_plate(typed: str) -> str | None:
    """A number plate in upper case and half width, without separators; None when it is none."""
    plain = _SEPARATORS.sub("", unicodedata.normalize("NFKC", typed)).upper()
    return plain if _PLATE.fullmatch(plain) else None
