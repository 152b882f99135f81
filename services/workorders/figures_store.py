"""The SQL of figures: one statement for each way of grouping, over the orders that were reported in a time and those that are open now."""

from datetime import datetime
from typing import Final

from servicekit.database import Transaction
from services.workorders.figures import Figures

# A linked order is counted as reported, and nothing else: what became of it is what became of its original.
# Found first and grouped then: otherwise PostgreSQL may read all orders there ever were, by category, to save itself the sorting.
_JUDGED: Final = """
counted AS MATERIALIZED (
    SELECT category_id, team_id, is_open, response_s, missed, on_site_at, reported_at, done_at, reopened, stars, response_minutes,
        on_site_minutes, done_minutes,
        reported_at >= $2::timestamptz AND reported_at < $3::timestamptz AS is_asked,
        duplicate_of_order_id IS NOT NULL AS is_linked
    FROM orders
    WHERE community_id = $1::uuid AND (reported_at >= $2::timestamptz AND reported_at < $3::timestamptz OR is_open)
), judged AS (
    SELECT category_id, team_id, stars, is_asked, is_linked,
        CASE WHEN is_open AND NOT is_linked THEN reported_at END AS open_since,
        CASE WHEN is_asked AND NOT is_linked THEN response_s END AS response_s,
        CASE WHEN is_asked AND NOT is_linked THEN extract(epoch FROM done_at - reported_at)::bigint END AS done_s,
        CASE WHEN is_linked OR NOT is_asked OR response_minutes = 0 THEN NULL WHEN 'response' = ANY(missed) THEN 0
            WHEN response_s IS NOT NULL THEN 1000 END AS response_kept,
        CASE WHEN is_linked OR NOT is_asked OR on_site_minutes = 0 THEN NULL WHEN 'on_site' = ANY(missed) THEN 0
            WHEN on_site_at IS NOT NULL THEN 1000 END AS on_site_kept,
        CASE WHEN is_linked OR NOT is_asked OR done_minutes = 0 THEN NULL WHEN 'done' = ANY(missed) THEN 0
            WHEN done_at IS NOT NULL THEN 1000 END AS done_kept,
        CASE WHEN is_linked OR NOT is_asked THEN NULL WHEN reopened > 0 THEN 1000 WHEN done_at IS NOT NULL THEN 0 END AS was_reopened
    FROM counted
)
"""
_AGGREGATES: Final = """
    count(*) FILTER (WHERE is_asked) AS reported,
    coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY response_s), -1)::bigint AS response_s_p50,
    coalesce(percentile_disc(0.9) WITHIN GROUP (ORDER BY response_s), -1)::bigint AS response_s_p90,
    coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY done_s), -1)::bigint AS done_s_p50,
    coalesce(percentile_disc(0.9) WITHIN GROUP (ORDER BY done_s), -1)::bigint AS done_s_p90,
    coalesce(sum(response_kept) / count(response_kept), -1)::bigint AS response_within_permille,
    coalesce(sum(on_site_kept) / count(on_site_kept), -1)::bigint AS on_site_within_permille,
    coalesce(sum(done_kept) / count(done_kept), -1)::bigint AS done_within_permille,
    count(open_since) AS open,
    coalesce(extract(epoch FROM $4::timestamptz - min(open_since)), -1)::bigint AS oldest_open_s,
    coalesce(sum(was_reopened) / count(was_reopened), -1)::bigint AS reopened_permille,
    coalesce(round(100 * avg(stars) FILTER (WHERE stars > 0 AND is_asked)), -1)::bigint AS stars_hundredths
"""
_BY_CATEGORY = f"""WITH {_JUDGED}, grouped AS (SELECT category_id AS group_id, {_AGGREGATES} FROM judged GROUP BY category_id)
SELECT grouped.*, name_zh, name_en FROM grouped JOIN categories ON category_id = group_id ORDER BY code
"""  # noqa: S608
_BY_TEAM = f"""WITH {_JUDGED}, grouped AS (SELECT team_id AS group_id, {_AGGREGATES} FROM judged GROUP BY team_id)
SELECT grouped.*, coalesce(name, '') AS name_zh, coalesce(name, '') AS name_en
FROM grouped LEFT JOIN teams ON team_id = group_id ORDER BY name NULLS LAST
"""  # noqa: S608


async def by_category(tx: Transaction, start: datetime, end: datetime) -> list[Figures]:
    """The figures of each category with orders that were reported in [start, end) or are open now, by code."""
    return [Figures(**row) for row in await tx.fetch(_BY_CATEGORY, tx.community_id, start, end, tx.now)]


async def by_team(tx: Transaction, start: datetime, end: datetime) -> list[Figures]:
    """The same by team; last those of orders that no team has had."""
    return [Figures(**row) for row in await tx.fetch(_BY_TEAM, tx.community_id, start, end, tx.now)]
