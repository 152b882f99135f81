"""When which key signs access tokens: the schedule of rotation. Making keys and tokens is elsewhere.

A key is published before it signs, so that every verifier has it by then, and until the last token it signed has expired.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

ACCESS_TOKEN_LIFE: Final = timedelta(minutes=10)
# Verifiers fetch the keys every five minutes; a token's life beyond that covers one that could not for a while.
PUBLISHED_AHEAD: Final = timedelta(minutes=15)
# Clocks of replicas and verifiers differ a little.
_CLOCK_SKEW: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A key and the instant from which it signs."""

    key_id: UUID
    signs_from: datetime


def signer(keys: Collection[Scheduled], now: datetime) -> Scheduled | None:
    """The key that signs now: the newest whose time has come. None only when there is none at all."""
    return max((key for key in keys if key.signs_from <= now), key=lambda key: key.signs_from, default=None)


def successor_signs_from(keys: Collection[Scheduled], now: datetime, life: timedelta) -> datetime | None:
    """From when a new key signs, when it is time to make one: at once when there is none, else as the newest one's life ends."""
    newest = max((key.signs_from for key in keys), default=None)
    if newest is None:
        return now - _CLOCK_SKEW
    due = newest + life
    return max(due, now + PUBLISHED_AHEAD) if due - PUBLISHED_AHEAD <= now else None


def retired(keys: Collection[Scheduled], now: datetime) -> list[Scheduled]:
    """The keys whose last token has expired: another took over long enough ago."""
    current = signer(keys, now)
    if current is None or now < current.signs_from + ACCESS_TOKEN_LIFE + _CLOCK_SKEW:
        # The last tokens of the one before may still be out; those before it go with it, a few minutes later.
        return []
    return [key for key in keys if key.signs_from < current.signs_from]
