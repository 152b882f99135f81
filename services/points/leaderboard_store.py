"""The SQL of leaderboards, and of how residents appear on them.

Gifts count for nobody: who gives has earned them, and who gets them has not.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from servicekit.database import Transaction


@dataclass(frozen=True, slots=True)
class Ranked:
    """A building, or a resident with the nickname that they chose, and how they stand. Who has as many points has the same rank."""

    subject_id: UUID
    nickname: str
    points: int
    rank: int


# A household's own earnings count for its building, a resident's for the building of their oldest home. Homes are looked up one by one, by
# key: behind the walls the planner takes every table for nearly empty, and would join ten thousand earners with as many homes in a loop.
_RANK_BUILDINGS = """
WITH placed AS MATERIALIZED (
    SELECT points, coalesce(
        (
            SELECT building_id FROM known_residents JOIN known_households USING (household_id)
            WHERE account_id = earner_id ORDER BY household_id LIMIT 1
        ),
        (SELECT building_id FROM known_households WHERE household_id = earner_id)
    ) AS building_id
    FROM (
        SELECT earner_id, sum(points) AS points FROM daily_earnings
        WHERE community_id = $1 AND day >= $2 AND day < $3 AND rule_id <> 'gift' GROUP BY earner_id
    ) AS earned
)
SELECT building_id AS subject_id, '' AS nickname, sum(points)::bigint AS points, rank() OVER (ORDER BY sum(points) DESC) AS rank
FROM placed WHERE building_id IS NOT NULL GROUP BY building_id HAVING sum(points) > 0 ORDER BY rank, building_id LIMIT $4
"""


async def rank_buildings(tx: Transaction, since: date, until: date, limit: int) -> list[Ranked]:
    """The buildings whose residents and households earned most from `since` until the day before `until`."""
    return [Ranked(**row) for row in await tx.fetch(_RANK_BUILDINGS, tx.community_id, since, until, limit)]


_RANK_RESIDENTS = """
SELECT earner_id AS subject_id, coalesce(nickname, '') AS nickname, sum(points)::bigint AS points,
    rank() OVER (ORDER BY sum(points) DESC) AS rank
FROM daily_earnings LEFT JOIN preferences ON account_id = earner_id
WHERE daily_earnings.community_id = $1 AND earner_id = ANY($2::uuid[]) AND day >= $3 AND day < $4 AND rule_id <> 'gift'
    AND on_leaderboards IS NOT FALSE
GROUP BY earner_id, nickname HAVING sum(points) > 0 ORDER BY rank, earner_id LIMIT $5
"""


async def rank_residents(tx: Transaction, account_ids: Collection[UUID], since: date, until: date, limit: int) -> list[Ranked]:
    """Of these residents, those who earned most from `since` until the day before `until`, without those who have opted out."""
    return [Ranked(**row) for row in await tx.fetch(_RANK_RESIDENTS, tx.community_id, list(account_ids), since, until, limit)]


@dataclass(frozen=True, slots=True)
class Preferences:
    """How somebody appears on leaderboards: with a nickname, without a name when it is empty, or not at all."""

    on_leaderboards: bool = True
    nickname: str = ""


_UPSERT_PREFERENCES = """
INSERT INTO preferences AS kept (account_id, community_id, on_leaderboards, nickname)
VALUES ($1, $2, coalesce($3, true), coalesce($4, ''))
ON CONFLICT (account_id) DO UPDATE SET on_leaderboards = coalesce($3, kept.on_leaderboards), nickname = coalesce($4, kept.nickname)
RETURNING on_leaderboards, nickname
"""


async def save_preferences(tx: Transaction, on_leaderboards: bool | None, nickname: str | None) -> Preferences:
    """Keeps what is given of the caller's preferences; None leaves as it is."""
    row = await tx.fetchrow(_UPSERT_PREFERENCES, tx.caller.account_id, tx.community_id, on_leaderboards, nickname)
    assert row is not None
    return Preferences(**row)
