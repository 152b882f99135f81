"""SQL of the rules, of what was earned, of trips and grants. The ledger's is its own; the catalogue's, pooling's and others' are beside.

In the platform scope these statements see every community's rows, so those that take ids from outside also name the community.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import asyncpg
import msgspec

from servicekit.database import Transaction
from servicekit.listing import Listing
from services.points.earning import Claim, Reason, Used
from services.points.rulebook import Rule, RuleBook, Source, Terms, in_force
from services.points.travel import Trip

# Rule books.


class _Content(msgspec.Struct):
    """What of a rule book is kept as one document."""

    rules: list[Rule]
    terms: Terms


INSERT_BOOK = """
INSERT INTO rule_books (community_id, version, effective_from, book, changes_zh, changes_en, published_at, published_by)
VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
"""


async def insert_book(tx: Transaction, book: RuleBook) -> bool:
    """Keeps a version; False when there is one with this number."""
    content = msgspec.json.encode(_Content(list(book.rules), book.terms)).decode()
    arguments = (book.version, book.effective_from, content, book.changes_zh, book.changes_en, book.published_at, book.published_by)
    return bool(await tx.execute(INSERT_BOOK, tx.community_id, *arguments))


SELECT_BOOKS = """
SELECT community_id, version, effective_from, book, changes_zh, changes_en, published_at, published_by
FROM rule_books AS book WHERE community_id = ANY($1::uuid[]) AND NOT EXISTS (
    SELECT FROM rule_books AS later
    WHERE later.community_id = book.community_id AND later.effective_from > book.effective_from AND later.effective_from <= $2
)
"""


async def books(tx: Transaction, community_ids: Collection[UUID], since: datetime) -> dict[UUID, list[RuleBook]]:
    """The versions of these communities' rules that are in force at an instant or later. A community without rules has none."""
    found: dict[UUID, list[RuleBook]] = {community_id: [] for community_id in community_ids}
    for row in await tx.fetch(SELECT_BOOKS, list(community_ids), since):
        found[row["community_id"]].append(_book(row))
    return found


BOOKS = Listing(
    select="SELECT version, effective_from, book, changes_zh, changes_en, published_at, published_by FROM rule_books",
    where="community_id = {}",
    key=("version",),
    descending=True,
)


async def list_books(tx: Transaction, before: int | None, limit: int) -> list[RuleBook]:
    """Versions, newest first, after a cursor."""
    return [_book(row) for row in await BOOKS.fetch(tx, [tx.community_id], before, limit)]


def _book(row: asyncpg.Record) -> RuleBook:
    content = msgspec.json.decode(row["book"], type=_Content)
    return RuleBook(
        version=row["version"],
        effective_from=row["effective_from"],
        rules=tuple(content.rules),
        terms=content.terms,
        changes_zh=row["changes_zh"],
        changes_en=row["changes_en"],
        published_at=row["published_at"],
        published_by=row["published_by"],
    )


async def book_at(tx: Transaction, at: datetime) -> RuleBook | None:
    """The rules of the community that are in force at an instant; None before the first."""
    return in_force((await books(tx, [tx.community_id], at))[tx.community_id], at)


async def find_book(tx: Transaction, version: int) -> RuleBook | None:
    """One version of the community's rules."""
    return next((book for book in await list_books(tx, version + 1, 1) if book.version == version), None)


async def terms_at(tx: Transaction, at: datetime) -> Terms | None:
    """The terms that are in force at an instant; None before the first rules."""
    book = await book_at(tx, at)
    return None if book is None else book.terms


# Who lives here.


SELECT_HOUSEMATES = """
SELECT DISTINCT own.account_id, other.account_id AS housemate_id
FROM known_residents AS own JOIN known_residents AS other USING (household_id) WHERE own.account_id = ANY($1::uuid[])
"""


async def find_housemates(tx: Transaction, account_ids: Collection[UUID]) -> dict[UUID, set[UUID]]:
    """Each account with all that live with it, itself included: what one of them gains is the others' as well."""
    found = {account_id: {account_id} for account_id in account_ids}
    for row in await tx.fetch(SELECT_HOUSEMATES, list(account_ids)):
        found[row["account_id"]].add(row["housemate_id"])
    return found


SELECT_MEMBERS = """
SELECT household_id, account_id FROM known_households LEFT JOIN known_residents USING (household_id) WHERE household_id = ANY($1::uuid[])
"""


async def find_members(tx: Transaction, holder_ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
    """Who lives in those of these holders that are households. Residents are absent."""
    found: dict[UUID, list[UUID]] = {}
    for row in await tx.fetch(SELECT_MEMBERS, list(holder_ids)):
        members = found.setdefault(row["household_id"], [])
        if row["account_id"] is not None:
            members.append(row["account_id"])
    return found


# Holders.

INSERT_HOLDERS = """
INSERT INTO holders (community_id, holder_id) SELECT * FROM unnest($1::uuid[], $2::uuid[]) ON CONFLICT DO NOTHING
"""


async def insert_holders(tx: Transaction, holders: Sequence[tuple[UUID, UUID]]) -> None:
    """Remembers holders, each a community and an id."""
    await tx.execute(INSERT_HOLDERS, [community_id for community_id, _ in holders], [holder_id for _, holder_id in holders])


LIST_UNEXPIRED = """
SELECT holder_id FROM holders WHERE community_id = $1 AND expired_year < $2 AND holder_id > $3 ORDER BY holder_id LIMIT $4
"""


async def list_unexpired(tx: Transaction, year: int, after: UUID, limit: int) -> list[UUID]:
    """Holders of the community, after a cursor, of whom points earned up to a year may not have expired."""
    return [row["holder_id"] for row in await tx.fetch(LIST_UNEXPIRED, tx.community_id, year, after, limit)]


MARK_EXPIRED = "UPDATE holders SET expired_year = $2 WHERE holder_id = ANY($1::uuid[])"


async def mark_expired(tx: Transaction, holder_ids: Sequence[UUID], year: int) -> None:
    """Notes that nothing is left of what these holders earned up to a year."""
    await tx.execute(MARK_EXPIRED, list(holder_ids), year)


LIST_UNWARNED = """
SELECT holder_id FROM holders WHERE community_id = $1 AND warned_year < $2 AND holder_id > $3 ORDER BY holder_id LIMIT $4
"""


async def list_unwarned(tx: Transaction, year: int, after: UUID, limit: int) -> list[UUID]:
    """Holders of the community, after a cursor, who were not told yet what expires when a year begins."""
    return [row["holder_id"] for row in await tx.fetch(LIST_UNWARNED, tx.community_id, year, after, limit)]


MARK_WARNED = "UPDATE holders SET warned_year = $2 WHERE holder_id = ANY($1::uuid[]) AND warned_year < $2 RETURNING holder_id"


async def mark_warned(tx: Transaction, holder_ids: Sequence[UUID], year: int) -> list[UUID]:
    """Notes that these holders were told, and returns those who had not been."""
    return [row["holder_id"] for row in await tx.fetch(MARK_WARNED, list(holder_ids), year)]


# What was earned.


@dataclass(frozen=True, slots=True)
class Earning:
    """What became of a claim. `rule_id` is empty when no rule was found, `reason` when the rule gave all that it gives."""

    transfer_id: UUID
    claim: Claim
    earner_id: UUID
    holder_id: UUID
    rule_id: str
    rules_version: int
    day: date
    points: int
    reason: Reason
    text_zh: str
    text_en: str
    is_taken_back: bool = False


INSERT_EARNINGS = """
INSERT INTO earnings (
    transfer_id, community_id, claim_id, source, source_id, category, title, account_id, measure, occurred_at, earner_id, holder_id,
    rule_id, rules_version, day, points, reason, text_zh, text_en, is_taken_back, recorded_at
)
SELECT *, false, $20
FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::uuid[], $9::bigint[], $10::timestamptz[],
    $11::uuid[], $12::uuid[], $13::text[], $14::bigint[], $15::date[], $16::bigint[], $17::text[], $18::text[], $19::text[]
)
"""


async def insert_earnings(tx: Transaction, earnings: Sequence[Earning]) -> None:
    """Keeps what became of claims."""
    rows = [
        (
            earning.transfer_id,
            earning.claim.community_id,
            earning.claim.claim_id,
            earning.claim.source,
            earning.claim.source_id,
            earning.claim.category,
            earning.claim.title,
            earning.claim.account_id,
            earning.claim.measure,
            earning.claim.occurred_at,
            earning.earner_id,
            earning.holder_id,
            earning.rule_id,
            earning.rules_version,
            earning.day,
            earning.points,
            earning.reason,
            earning.text_zh,
            earning.text_en,
        )
        for earning in earnings
    ]
    if rows:
        await tx.execute(INSERT_EARNINGS, *(list(column) for column in zip(*rows, strict=True)), tx.now)


# Of a claim that was corrected, the earning that stands, or the last one.
SELECT_CLAIMS = """
SELECT DISTINCT ON (claim_id) transfer_id, community_id, claim_id, source, source_id, category, title, account_id, measure, occurred_at,
    earner_id, holder_id, rule_id, rules_version, day, points, reason, text_zh, text_en, is_taken_back
FROM earnings WHERE claim_id = ANY($1::uuid[]) ORDER BY claim_id, is_taken_back, recorded_at DESC
"""


async def find_claims(tx: Transaction, claim_ids: Collection[UUID]) -> dict[UUID, Earning]:
    """What has become of these claims, as it stands now; a claim that was never told is absent."""
    return {row["claim_id"]: _earning(row) for row in await tx.fetch(SELECT_CLAIMS, list(claim_ids))}


SELECT_EARNING = """
SELECT transfer_id, community_id, claim_id, source, source_id, category, title, account_id, measure, occurred_at, earner_id, holder_id,
    rule_id, rules_version, day, points, reason, text_zh, text_en, is_taken_back
FROM earnings WHERE transfer_id = $1
"""


async def find_earning(tx: Transaction, transfer_id: UUID) -> Earning | None:
    """What one transfer gave."""
    row = await tx.fetchrow(SELECT_EARNING, transfer_id)
    return None if row is None else _earning(row)


def _earning(row: asyncpg.Record) -> Earning:
    return Earning(
        transfer_id=row["transfer_id"],
        claim=Claim(
            community_id=row["community_id"],
            claim_id=row["claim_id"],
            source=Source(row["source"]),
            source_id=row["source_id"],
            account_id=row["account_id"],
            measure=row["measure"],
            occurred_at=row["occurred_at"],
            category=row["category"],
            title=row["title"],
        ),
        earner_id=row["earner_id"],
        holder_id=row["holder_id"],
        rule_id=row["rule_id"],
        rules_version=row["rules_version"],
        day=row["day"],
        points=row["points"],
        reason=Reason(row["reason"]),
        text_zh=row["text_zh"],
        text_en=row["text_en"],
        is_taken_back=row["is_taken_back"],
    )


MARK_TAKEN_BACK = "UPDATE earnings SET is_taken_back = true WHERE transfer_id = ANY($1::uuid[])"


async def mark_taken_back(tx: Transaction, transfer_ids: Sequence[UUID]) -> None:
    """Notes that what these transfers gave was taken back."""
    await tx.execute(MARK_TAKEN_BACK, list(transfer_ids))


# What the residents whose households became known since then had done before.
LIST_LATE = """
SELECT community_id, transfer_id FROM earnings
WHERE reason = 'points.not_a_resident' AND recorded_at > $1
    AND EXISTS (
        SELECT FROM known_residents AS resident
        WHERE resident.account_id = earnings.account_id AND resident.community_id = earnings.community_id
    )
LIMIT $2
"""


async def list_late(tx: Transaction, since: datetime, limit: int) -> list[tuple[UUID, UUID]]:
    """The communities and transfers of claims of people who live here after all, told since an instant."""
    return [(row["community_id"], row["transfer_id"]) for row in await tx.fetch(LIST_LATE, since, limit)]


DELETE_LATE = """
DELETE FROM earnings WHERE transfer_id = ANY($1::uuid[]) AND reason = 'points.not_a_resident'
RETURNING transfer_id, community_id, claim_id, source, source_id, category, title, account_id, measure, occurred_at, earner_id, holder_id,
    rule_id, rules_version, day, points, reason, text_zh, text_en, is_taken_back
"""


async def delete_late(tx: Transaction, transfer_ids: Sequence[UUID]) -> list[Claim]:
    """Forgets what became of these claims, so that they are judged again, and returns them."""
    return [_earning(row).claim for row in await tx.fetch(DELETE_LATE, list(transfer_ids))]


# Points by day.


@dataclass(frozen=True, slots=True)
class DailyEarning:
    """Points that somebody earned on a day under a rule; less than 0 where they were taken back."""

    community_id: UUID
    earner_id: UUID
    holder_id: UUID
    rule_id: str
    day: date
    points: int


ADD_DAILY_EARNINGS = """
INSERT INTO daily_earnings AS known (community_id, earner_id, holder_id, rule_id, day, points)
SELECT community_id, earner_id, holder_id, rule_id, day, sum(points)
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::date[], $6::bigint[])
    AS added (community_id, earner_id, holder_id, rule_id, day, points)
GROUP BY community_id, earner_id, holder_id, rule_id, day
ON CONFLICT (community_id, earner_id, rule_id, day, holder_id) DO UPDATE SET points = known.points + excluded.points
"""


async def add_daily_earnings(tx: Transaction, earnings: Iterable[DailyEarning]) -> None:
    """Adds to what was earned by day."""
    rows = [(each.community_id, each.earner_id, each.holder_id, each.rule_id, each.day, each.points) for each in earnings if each.points]
    if rows:
        await tx.execute(ADD_DAILY_EARNINGS, *(list(column) for column in zip(*rows, strict=True)))


SELECT_USED = """
SELECT earner_id, rule_id, asked.day, coalesce(sum(points) FILTER (WHERE earned.day = asked.day), 0)::bigint AS on_day,
    sum(points)::bigint AS in_month
FROM (SELECT DISTINCT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::date[], $5::date[]))
    AS asked (community_id, earner_id, rule_id, day, month)
JOIN daily_earnings AS earned USING (community_id, earner_id, rule_id)
WHERE earned.day >= month AND earned.day < month + interval '1 month'
GROUP BY earner_id, rule_id, asked.day
"""


async def find_used(tx: Transaction, asked: Sequence[tuple[UUID, UUID, str, date]]) -> Used:
    """What earners had under rules on some days and in their months; asked by community, earner, rule and day."""
    used = Used()
    if not asked:
        return used
    community_ids, earner_ids, rule_ids, days = zip(*asked, strict=True)
    months = [day.replace(day=1) for day in days]
    for row in await tx.fetch(SELECT_USED, list(community_ids), list(earner_ids), list(rule_ids), list(days), months):
        used.know(row["earner_id"], row["rule_id"], row["day"], row["on_day"], row["in_month"])
    return used


SELECT_EARNED_BY_YEAR = """
SELECT holder_id, extract(year FROM day)::int AS year, sum(points)::bigint AS points
FROM daily_earnings WHERE holder_id = ANY($1::uuid[]) AND day >= $2
GROUP BY holder_id, year
"""


async def earned_by_year(tx: Transaction, holder_ids: Sequence[UUID], since: date) -> dict[UUID, Mapping[int, int]]:
    """What each holder earned in each year, from a day on."""
    earned: dict[UUID, dict[int, int]] = {holder_id: {} for holder_id in holder_ids}
    for row in await tx.fetch(SELECT_EARNED_BY_YEAR, list(holder_ids), since):
        earned[row["holder_id"]][row["year"]] = row["points"]
    return dict(earned)


# Trips.

SELECT_TRIPS = """
SELECT trip_id, source, started_at, ended_at, distance_m, steps, device
FROM trips WHERE account_id = $1 AND (trip_id = ANY($2::uuid[]) OR (ended_at > $3 AND started_at < $4))
"""


async def find_trips(tx: Transaction, account_id: UUID, trip_ids: Sequence[UUID], since: datetime, until: datetime) -> list[Trip]:
    """A resident's trips that counted: those with these ids, and those that share time with a period."""
    rows = await tx.fetch(SELECT_TRIPS, account_id, list(trip_ids), since, until)
    return [
        Trip(
            trip_id=row["trip_id"],
            source=Source(row["source"]),
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            distance_m=row["distance_m"],
            steps=row["steps"],
            device=row["device"],
        )
        for row in rows
    ]


INSERT_TRIPS = """
INSERT INTO trips (community_id, account_id, trip_id, source, started_at, ended_at, distance_m, steps, device)
SELECT $1, $2, * FROM unnest($3::uuid[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::bigint[], $8::bigint[], $9::text[])
"""


async def insert_trips(tx: Transaction, account_id: UUID, trips: Sequence[Trip]) -> None:
    """Keeps trips that count."""
    rows = [(each.trip_id, each.source, each.started_at, each.ended_at, each.distance_m, each.steps, each.device) for each in trips]
    if rows:
        await tx.execute(INSERT_TRIPS, tx.community_id, account_id, *(list(column) for column in zip(*rows, strict=True)))


DELETE_TRIPS_BEFORE = "DELETE FROM trips WHERE ended_at < $1"


async def delete_trips_before(tx: Transaction, before: datetime) -> None:
    """Forgets trips that ended before an instant."""
    await tx.execute(DELETE_TRIPS_BEFORE, before)
