"""What a holder has, what of it expires next, and the statement of a period."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from uuid import UUID

import ledger
from servicekit import households
from servicekit.communities import find_time_zone
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid
from servicekit.times import span
from services.points.expiring import find_next_expiry
from services.points.holders import NOTHING, Holder
from services.points.rule_operations import resident_not_found
from services.points.statement import Line, Statement

_DAYS_MAX: Final = 366


@dataclass(frozen=True, slots=True)
class Standing:
    """What a holder has in all, what of it is held for reservations, what it owes, and what expires next, if anything."""

    points: int
    held: int
    owed: int
    expiring: int
    expires_at: datetime | None


async def find_standing(tx: Transaction, holder_id: UUID) -> Standing:
    """A holder's points; who never had any has none."""
    holder = Holder(tx.community_id, holder_id)
    found = await ledger.balances(tx, [holder.points_id, holder.owed_id])
    points, owed = found.get(holder.points_id, NOTHING), found.get(holder.owed_id, NOTHING)
    expiring, expires_at = await find_next_expiry(tx, holder_id, points.available) or (0, None)
    return Standing(points.balance, points.held, owed.balance, expiring, expires_at)


async def check_resident(tx: Transaction, account_id: UUID) -> None:
    """Raises NotFound unless the account lives here, or has had points here."""
    if await households.is_resident(tx, account_id):
        return
    if await ledger.balance(tx, Holder(tx.community_id, account_id).points_id) is None:
        raise resident_not_found()


async def make_statement(tx: Transaction, account_id: UUID, from_day: date, until_day: date) -> Statement:
    """The statement of a resident's own points for these days of the community's calendar, by when entries were recorded.

    Raises Invalid for days in the wrong order, for more than a year, and when there are too many entries.
    """
    if not 0 <= (until_day - from_day).days < _DAYS_MAX:
        violation = FieldViolation("until_day", "points.statement_period", f"must be from_day or up to {_DAYS_MAX - 1} days later")
        raise Invalid("points.statement_period", "起止日期有误，最长一年", "The period is not possible; a year at most", fields=[violation])
    zone = await find_time_zone(tx)
    since, until = span(from_day, until_day, zone)
    found = await ledger.statement(tx, Holder(tx.community_id, account_id).points_id, since, until)
    lines = [
        Line(
            number=entry.version,
            recorded_at=entry.recorded_at.astimezone(zone),
            occurred_at=entry.occurred_at.astimezone(zone),
            text_zh=str(entry.details.get("text_zh", "")),
            text_en=str(entry.details.get("text_en", "")),
            rule_id=str(entry.details.get("rule_id", "")),
            rules_version=int(entry.details.get("rules_version", 0)),
            change=entry.change,
            points=entry.balance,
        )
        for entry in found.entries
    ]
    return Statement(account_id, zone.key, from_day, until_day, found.opening, found.closing, lines)
