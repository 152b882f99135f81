"""Sessions: a vehicle's stay in a lot, what it costs, what was paid for it, and what is still owed.

Pure. Which sessions there are follows from what was read at the lanes: `books.py`. Tariffs are charged in `charges.py`.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import Final
from uuid import UUID

from services.parking import charges
from services.parking.charges import Quote
from services.parking.lanes import Admission
from services.parking.plates import PlateKind
from services.parking.tariff import Discount, DiscountUnit, Holidays, Tariff
from services.parking.tariff_document import read_tariff

_FREE: Final = frozenset({Admission.PERMIT, Admission.ON_DUTY})


class SessionState(StrEnum):
    OPEN = "open"
    LEFT = "left"
    EXIT_MISSED = "exit_missed"


@dataclass(frozen=True, slots=True)
class Movement:
    """Money for a session: what was paid or, below zero, what went back. In fen."""

    at: datetime
    amount_fen: int


@dataclass(frozen=True, slots=True)
class RaisedCharge:
    """The charge that is to be paid for a session, as long as it is not."""

    charge_id: UUID
    amount_fen: int
    valid_until: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """A stay in the lot."""

    session_id: UUID
    plate: str
    plate_kind: PlateKind
    admission: Admission
    entered_at: datetime
    state: SessionState = SessionState.OPEN
    out_at: datetime | None = None
    """When it was read at the exit or, when that was missed, when it was known to be out."""
    amount_fen: int = 0
    """The price of the whole stay, once it has ended."""
    permit_id: UUID | None = None
    """The month pass that the plate was bound to at the entrance, whether or not there was room on it."""
    visitor_pass_id: UUID | None = None
    free_minutes: int = 0
    """What the visitor's pass gives."""
    household_id: UUID | None = None
    tariff: str | None = None
    """The tariff's JSON document; parking is free where none was in force."""
    tariff_id: UUID | None = None
    movements: tuple[Movement, ...] = ()
    charge: RaisedCharge | None = None
    is_abandoned: bool = False
    """Not seen for so long that it was closed as missed."""
    version: int = 0

    @property
    def paid_fen(self) -> int:
        """What was paid and did not go back."""
        return sum(movement.amount_fen for movement in self.movements)

    @property
    def settled_at(self) -> datetime | None:
        """When a payment last left nothing owed; the grace time runs from here."""
        payments = [m.at for m in self.movements if m.amount_fen > 0]
        refunds = [m.at for m in self.movements if m.amount_fen < 0]
        latest = max(payments, default=None)
        return None if latest is None or any(at >= latest for at in refunds) else latest


@dataclass(frozen=True, slots=True)
class Calendar:
    """Whose days and holidays the tariff's are."""

    zone: tzinfo
    holidays: Holidays


# Money.


def due(session: Session, at: datetime, calendar: Calendar) -> int:
    """What has to be paid for the car to leave at `at`, in fen, with what was paid by then."""
    tariff = _tariff(session)
    if tariff is None:
        return 0
    paid_by_then = tuple(m for m in session.movements if m.at <= at)
    return charges.due(tariff, _stay(replace(session, movements=paid_by_then), calendar), max(at, session.entered_at))


def charged(session: Session, at: datetime, calendar: Calendar) -> int:
    """What a stay that ends at `at` costs by the tariff, in fen, whatever was paid."""
    tariff = _tariff(session)
    return 0 if tariff is None else charges.charge(tariff, _stay(session, calendar), at).amount_fen


def price(session: Session, left_at: datetime, calendar: Calendar) -> int:
    """What a stay that ended at `left_at` cost, in fen: by the tariff, less what fell into the grace time after a payment."""
    tariff = _tariff(session)
    if tariff is None:
        return 0
    owed = charges.due(tariff, _stay(session, calendar), left_at)
    return min(charged(session, left_at, calendar), session.paid_fen + owed)


def quote(session: Session, at: datetime, calendar: Calendar, *, valid_for_at_least: timedelta, valid_for_at_most: timedelta) -> Quote:
    """What is to be paid at `at`, and until when that is the price."""
    tariff = _tariff(session)
    if tariff is None:
        return Quote(0, at + valid_for_at_most, charges.Charge(0, ()))
    stay = _stay(session, calendar)
    at = max(at, session.entered_at)
    return charges.quote(tariff, stay, at, valid_for_at_least=valid_for_at_least, valid_for_at_most=valid_for_at_most)


def grace_ends_at(session: Session) -> datetime | None:
    """Until when a car that has paid may leave for nothing more; None when it has not paid."""
    tariff, settled_at = _tariff(session), session.settled_at
    return None if tariff is None or settled_at is None else settled_at + timedelta(minutes=tariff.grace_minutes)


def grace(session: Session) -> timedelta:
    """The time that a payment gives to reach the exit."""
    tariff = _tariff(session)
    return timedelta(0) if tariff is None else timedelta(minutes=tariff.grace_minutes)


def _tariff(session: Session) -> Tariff | None:
    return None if session.tariff is None or session.admission in _FREE else _parsed(session.tariff)


@lru_cache(maxsize=512)
def _parsed(document: str) -> Tariff:
    return read_tariff(json.loads(document))


def _stay(session: Session, calendar: Calendar) -> charges.Stay:
    discounts: tuple[Discount, ...] = ()
    if session.admission is Admission.VISITOR_PASS and session.free_minutes:
        discounts = (Discount("访客优惠", session.free_minutes, DiscountUnit.MINUTES),)
    return charges.Stay(
        entered_at=session.entered_at,
        plate_kind=session.plate_kind,
        zone=calendar.zone,
        holidays=calendar.holidays,
        discounts=discounts,
        paid_fen=session.paid_fen,
        settled_at=session.settled_at,
    )
