"""How wrong a bin's clock is, and when a deposit really was. Pure.

A bin sends its reports once and at once, so what its clock says in one, against when we received it, is its error. Deposits are sent
again after a lost connection, perhaps days later and in any order, and bear the time of the clock as it was then: so what is kept is a
history, of stretches in which the error stayed about the same. Times of a bin's clock are microseconds since the Unix epoch: without power
it says 1970, and it may say anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

SECOND_US: Final = 1_000_000
# Errors that differ by less are one: far finer than a deposit has to be dated, and coarser than a network's delays.
_SAME_US: Final = 5 * SECOND_US
# Reports come about every 30 seconds. What lies this near to a stretch is as good as in it.
_NEAR_US: Final = 120 * SECOND_US
# An error is believed of times as far as this from a report. Quartz drifts by seconds a day.
_FAR_US: Final = 7 * 86_400 * SECOND_US
# A deposit that seems to be from this soon is from now; from later on its date is wrong.
_EARLY: Final = timedelta(minutes=2)
# Bins keep what they could not send for days. What says that it is older says it by a clock that was reset.
_OLDEST: Final = timedelta(days=30)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# 0001 to 9999, as far as datetime goes; a day less, so that arithmetic on it stays inside.
_LEAST_US, _MOST_US = -62_135_510_400 * SECOND_US, 253_402_214_400 * SECOND_US


@dataclass(frozen=True, slots=True)
class Stretch:
    """From when until when reports were received whose clock was wrong by about `error_us`, which has to be added to what it said."""

    heard_from: datetime
    heard_until: datetime
    said_from_us: int
    said_until_us: int
    error_us: int


@dataclass(frozen=True, slots=True)
class Dating:
    """When a deposit was. `is_wrong` when the bin's date cannot be, and the time of receipt is taken."""

    at: datetime
    is_wrong: bool = False


def microseconds(instant: datetime) -> int:
    """An instant as microseconds since the Unix epoch."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def possible(said_us: int) -> int | None:
    """What a clock said, or None when no calendar holds it."""
    return said_us if _LEAST_US <= said_us <= _MOST_US else None


def listen(newest: Stretch | None, said_us: int, heard_at: datetime) -> Stretch:
    """The stretch that a report belongs to: the newest one, longer now, or one that it begins. `heard_at` is after the newest's end."""
    error_us = microseconds(heard_at) - said_us
    if newest is None or abs(error_us - newest.error_us) > _SAME_US or said_us < newest.said_until_us:
        return Stretch(heard_at, heard_at, said_us, said_us, error_us)
    return replace(newest, heard_until=heard_at, said_until_us=said_us)


def date(said_us: int | None, received_at: datetime, stretches: Iterable[Stretch]) -> Dating:
    """When a deposit was that bears the time `said_us`; None for one that bears none.

    Its clock's error is that of the stretch which is nearest to it, the newest of several; no deposit is from after its receipt.
    """
    if said_us is None:
        return Dating(received_at)
    received_us = microseconds(received_at)
    fitting = [
        (
            max(0, stretch.said_from_us - said_us - _NEAR_US, said_us - stretch.said_until_us - _NEAR_US),
            -microseconds(stretch.heard_from),
            stretch,
        )
        for stretch in stretches
        # A clock that was put back says the same time twice; what would be from the future is from the first.
        if said_us + stretch.error_us <= received_us + _SAME_US
    ]
    near = [fit for fit in fitting if fit[0] <= _FAR_US]
    error_us = min(near, key=lambda fit: fit[:2])[2].error_us if near else 0
    at_us = said_us + error_us
    if not received_us - _OLDEST // timedelta(microseconds=1) <= at_us <= received_us + _EARLY // timedelta(microseconds=1):
        return Dating(received_at, is_wrong=True)
    return Dating(_EPOCH + timedelta(microseconds=min(at_us, received_us)))
