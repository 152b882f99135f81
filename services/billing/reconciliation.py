"""Reconciliation. Pure: compares our books of a day with the provider's, line by line."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from services.billing.payments import Outcome


class EntryKind(StrEnum):
    """What a line of a provider's books is about."""

    PAYMENT = "payment"
    REFUND = "refund"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a reconciliation file. `attachment` is what the order carried."""

    kind: EntryKind
    reference: str
    transaction_id: str
    amount_fen: int
    outcome: Outcome
    at: datetime
    attachment: str


class DifferenceKind(StrEnum):
    """How two books differ: the provider has what we have not, we have what it has not, or both have it and disagree."""

    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    AMOUNT = "amount"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class OurEntry:
    """One line of our own books. `transaction_id` is empty while the provider took nothing. `expected` lines must be in the file."""

    kind: EntryKind
    reference: str
    transaction_id: str
    amount_fen: int
    outcome: Outcome
    expected: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. An amount is 0 on the side where the line is missing."""

    kind: DifferenceKind
    reference: str
    our_amount_fen: int
    provider_amount_fen: int


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference with the lines that it was found in."""

    difference: Difference
    ours: OurEntry | None
    theirs: Entry | None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What came of comparing one day."""

    reconciliation_id: uuid.UUID
    provider: str
    day: date
    matched: int
    differences: Sequence[Difference]
    run_at: datetime


def compare(ours: Sequence[OurEntry], theirs: Sequence[Entry]) -> tuple[int, list[Finding]]:
    """How many lines match, and everything that differs. Lines of the provider that moved no money and that we do not know are nothing."""
    known = {_key(entry): entry for entry in ours if entry.kind is EntryKind.REFUND or entry.transaction_id}
    seen: set[tuple[EntryKind, str, str]] = set()
    matched, findings = 0, []
    for line in theirs:
        key = _key(line)
        entry = None if key in seen else known.get(key)
        seen.add(key)
        found = _differences(entry, line)
        findings += [Finding(difference, entry, line) for difference in found]
        if entry is not None and not found:
            matched += 1
    for entry in ours:
        if entry.expected and _key(entry) not in seen:
            missing = Difference(DifferenceKind.MISSING_THERE, entry.reference, entry.amount_fen, 0)
            findings.append(Finding(missing, entry, None))
    return matched, findings


def _key(entry: OurEntry | Entry) -> tuple[EntryKind, str, str]:
    # A provider may take money twice for one order, and each is a line; a refund is one line by its own number.
    return entry.kind, entry.reference, entry.transaction_id if entry.kind is EntryKind.PAYMENT else ""


def _differences(ours: OurEntry | None, theirs: Entry) -> list[Difference]:
    if ours is None:
        if theirs.outcome is not Outcome.SUCCEEDED:
            return []
        return [Difference(DifferenceKind.MISSING_HERE, theirs.reference, 0, theirs.amount_fen)]
    kinds = []
    if ours.amount_fen != theirs.amount_fen:
        kinds.append(DifferenceKind.AMOUNT)
    if ours.outcome is not theirs.outcome:
        kinds.append(DifferenceKind.STATE)
    return [Difference(kind, theirs.reference, ours.amount_fen, theirs.amount_fen) for kind in kinds]


def bounds(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The instants between which a local calendar day lies: from the first until before the second, in UTC."""
    start = datetime.combine(day, time(), zone).astimezone(UTC)
    return start, datetime.combine(day + timedelta(days=1), time(), zone).astimezone(UTC)


def days_between(start: datetime, end: datetime, zone: ZoneInfo) -> list[date]:
    """The calendar days in a zone that the time from `start` until before `end` touches."""
    first = start.astimezone(zone).date()
    last = (end - timedelta(microseconds=1)).astimezone(zone).date()
    return [first + timedelta(days=count) for count in range((last - first).days + 1)]
