"""The SQL of care plans, of what is learned of a person's rhythm, and of which devices are silent."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from servicekit.communities import zone_of
from servicekit.database import Transaction
from servicekit.listing import Listing
from services.access.areas import Position
from services.access.care import CareKind, CarePlan, Sign
from services.access.rhythm import Rhythm

_PLAN: Final = """
SELECT care_plan_id, community_id, kind, account_id, started_at, stopped_at, safe_area, first_activity_at, last_activity_at, worry_at,
    worries, is_quiet_doubtful, outside_in_row, time_zone,
    ARRAY (SELECT guardian.account_id FROM care_guardians AS guardian WHERE guardian.care_plan_id = care_plans.care_plan_id ORDER BY 1)
        AS guardian_ids,
    ARRAY (SELECT source_id FROM care_sources WHERE care_sources.care_plan_id = care_plans.care_plan_id ORDER BY 1) AS source_ids
FROM care_plans LEFT JOIN known_communities USING (community_id)"""
_LOCK: Final = " ORDER BY care_plan_id FOR UPDATE OF care_plans"


def _plan(row: asyncpg.Record) -> CarePlan:
    degrees = row["safe_area"]
    return CarePlan(
        care_plan_id=row["care_plan_id"],
        community_id=row["community_id"],
        kind=CareKind(row["kind"]),
        account_id=row["account_id"],
        guardian_ids=tuple(row["guardian_ids"]),
        source_ids=tuple(row["source_ids"]),
        safe_area=tuple(map(Position, degrees[::2], degrees[1::2])),
        started_at=row["started_at"],
        stopped_at=row["stopped_at"],
        first_activity_at=row["first_activity_at"],
        last_activity_at=row["last_activity_at"],
        worry_at=row["worry_at"],
        worries=row["worries"],
        is_quiet_doubtful=row["is_quiet_doubtful"],
        outside_in_row=row["outside_in_row"],
    )


# Plans.

_INSERT_PLAN = """
INSERT INTO care_plans (care_plan_id, community_id, kind, account_id, started_at, safe_area) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (community_id, account_id, kind) WHERE stopped_at IS NULL DO NOTHING
"""
_INSERT_GUARDIANS = """
INSERT INTO care_guardians (care_plan_id, account_id, community_id, of_household)
SELECT $1::uuid, account_id, $2::uuid, $5::boolean AND EXISTS (
    SELECT FROM known_residents AS one JOIN known_residents AS other USING (household_id)
    WHERE one.account_id = guardian.account_id AND other.account_id = $4
)
FROM unnest($3::uuid[]) AS guardian (account_id)
"""
_INSERT_SOURCES = """
INSERT INTO care_sources (care_plan_id, source_id, community_id) SELECT $1::uuid, source_id, $2::uuid FROM unnest($3::text[]) AS source_id
"""


async def insert_plan(tx: Transaction, plan: CarePlan) -> bool:
    """Adds a plan that the caller begins; False when the person has one of this kind that goes on."""
    degrees = [degree for corner in plan.safe_area for degree in (corner.latitude, corner.longitude)]
    row = (plan.care_plan_id, plan.community_id, plan.kind, plan.account_id, plan.started_at, degrees)
    if not await tx.execute(_INSERT_PLAN, *row):
        return False
    is_for_another = plan.account_id != tx.caller.account_id
    await tx.execute(_INSERT_GUARDIANS, plan.care_plan_id, plan.community_id, list(plan.guardian_ids), plan.account_id, is_for_another)
    await tx.execute(_INSERT_SOURCES, plan.care_plan_id, plan.community_id, list(plan.source_ids))
    return True


_LOCK_PLAN = _PLAN + " WHERE care_plan_id = $1" + _LOCK
_LOCK_LIVE = _PLAN + " WHERE community_id = $1 AND account_id = $2 AND kind = $3 AND stopped_at IS NULL" + _LOCK
_OF_SOURCES: Final = """ WHERE stopped_at IS NULL AND care_plan_id IN (
    SELECT care_plan_id FROM care_sources WHERE (community_id, source_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
)"""
_LOCK_OF_SOURCES = _PLAN + _OF_SOURCES + _LOCK
_OF_DEVICE: Final = """ WHERE stopped_at IS NULL AND care_plan_id IN (
    SELECT care_plan_id FROM care_sources WHERE community_id = $1 AND source_id = $2
    UNION SELECT care_plan_id FROM care_sources WHERE community_id = $1 AND device_id = $2 AND device_id <> ''
)"""
_LOCK_OF_DEVICE = _PLAN + _OF_DEVICE + _LOCK
_AROUND: Final = """ WHERE stopped_at IS NULL AND care_plan_id IN (
    SELECT care_plan_id FROM care_plans WHERE account_id = $1 UNION SELECT care_plan_id FROM care_guardians WHERE account_id = $1
)"""
_LOCK_AROUND = _PLAN + _AROUND + _LOCK
_PLANS = Listing(
    select=_PLAN,
    key=("care_plan_id",),
    descending=True,
    where="""community_id = {} AND care_plan_id IN (
        SELECT care_plan_id FROM care_plans WHERE account_id = {} UNION SELECT care_plan_id FROM care_guardians WHERE account_id = {}
    )""",
)


async def lock_plan(tx: Transaction, care_plan_id: UUID) -> CarePlan | None:
    """A plan, locked until the transaction ends."""
    row = await tx.fetchrow(_LOCK_PLAN, care_plan_id)
    return None if row is None else _plan(row)


async def lock_live(tx: Transaction, account_id: UUID, kind: CareKind) -> CarePlan | None:
    """The plan of a kind that goes on for a person, locked."""
    row = await tx.fetchrow(_LOCK_LIVE, tx.community_id, account_id, kind)
    return None if row is None else _plan(row)


async def lock_plans_of_sources(tx: Transaction, sources: Collection[tuple[UUID, str]]) -> list[tuple[CarePlan, ZoneInfo]]:
    """The plans that go on with any of these sources, each named by its community and its id, in any scope; locked, with their zones."""
    communities, source_ids = zip(*sources, strict=True)
    rows = await tx.fetch(_LOCK_OF_SOURCES, list(communities), list(source_ids))
    return [(_plan(row), zone_of(row["time_zone"])) for row in rows]


async def lock_plans_of_device(tx: Transaction, device_id: str) -> list[CarePlan]:
    """The plans that go on with a device as a source, or as what speaks for one; locked."""
    return [_plan(row) for row in await tx.fetch(_LOCK_OF_DEVICE, tx.community_id, device_id)]


async def lock_plans_around(tx: Transaction, account_id: UUID) -> list[CarePlan]:
    """The plans that go on for a person or have them as guardian; locked."""
    return [_plan(row) for row in await tx.fetch(_LOCK_AROUND, account_id)]


async def list_plans_concerning(tx: Transaction, account_id: UUID, after: UUID | None, limit: int) -> list[CarePlan]:
    """The plans for an account and those whose guardian it is, newest first."""
    return [_plan(row) for row in await _PLANS.fetch(tx, [tx.community_id, account_id, account_id], after, limit)]


_UPDATE_PLANS = """
UPDATE care_plans AS plan SET first_activity_at = changed.first_activity_at, last_activity_at = changed.last_activity_at,
    worry_at = changed.worry_at, worries = changed.worries, is_quiet_doubtful = changed.is_quiet_doubtful,
    outside_in_row = changed.outside_in_row
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::boolean[], $6::boolean[], $7::bigint[])
    AS changed (care_plan_id, first_activity_at, last_activity_at, worry_at, worries, is_quiet_doubtful, outside_in_row)
WHERE plan.care_plan_id = changed.care_plan_id
"""


async def update_plans(tx: Transaction, plans: Collection[CarePlan]) -> None:
    """Writes what was noticed of locked plans."""
    if not plans:
        return
    rows = [
        (
            *(plan.care_plan_id, plan.first_activity_at, plan.last_activity_at, plan.worry_at, plan.worries, plan.is_quiet_doubtful),
            plan.outside_in_row,
        )
        for plan in plans
    ]
    await tx.execute(_UPDATE_PLANS, *(list(column) for column in zip(*rows, strict=True)))


_STOP_PLAN = """
UPDATE care_plans SET stopped_at = $2, safe_area = '{}', first_activity_at = NULL, last_activity_at = NULL, worry_at = NULL,
    worries = false, is_quiet_doubtful = false, outside_in_row = 0
WHERE care_plan_id = $1
"""
_DELETE_SOURCES = "DELETE FROM care_sources WHERE care_plan_id = $1"
_DELETE_DAYS = "DELETE FROM care_days WHERE care_plan_id = $1"
_PART_ALARMS = "UPDATE alarms SET care_plan_id = NULL, track_id = '', source_id = '', place = '' WHERE care_plan_id = $1"


async def stop_plan(tx: Transaction, care_plan_id: UUID, at: datetime) -> None:
    """Ends a locked plan and deletes what was learned of the person; the alarms that there were say no more whose they are."""
    await tx.execute(_STOP_PLAN, care_plan_id, at)
    for sql in (_DELETE_SOURCES, _DELETE_DAYS, _PART_ALARMS):
        await tx.execute(sql, care_plan_id)


_LIST_GUARDIANS = "SELECT account_id FROM care_guardians WHERE care_plan_id = $1 ORDER BY account_id"


async def list_guardians(tx: Transaction, care_plan_id: UUID) -> list[UUID]:
    """Who is told about the person of a plan."""
    return [row["account_id"] for row in await tx.fetch(_LIST_GUARDIANS, care_plan_id)]


_PART_GUARDIANS = """
DELETE FROM care_guardians AS guardian USING care_plans AS plan
WHERE guardian.care_plan_id = $1 AND plan.care_plan_id = $1 AND of_household AND NOT EXISTS (
    SELECT FROM known_residents AS one JOIN known_residents AS other USING (household_id)
    WHERE one.account_id = guardian.account_id AND other.account_id = plan.account_id
)
RETURNING guardian.account_id
"""
_IS_ANY_OF_HOUSEHOLD = "SELECT EXISTS (SELECT FROM care_guardians WHERE care_plan_id = $1 AND of_household)"


async def part_guardians(tx: Transaction, care_plan_id: UUID) -> tuple[set[UUID], bool]:
    """Takes from a locked plan the guardians who were so by a household that they do not share with the person any more.

    Returns them, and whether any is left who lives with the person.
    """
    gone = {row["account_id"] for row in await tx.fetch(_PART_GUARDIANS, care_plan_id)}
    return gone, bool(await tx.fetchval(_IS_ANY_OF_HOUSEHOLD, care_plan_id))


_FIND_OPEN_ALARMS = "SELECT care_plan_id, alarm_id FROM alarms WHERE care_plan_id = ANY($1::uuid[]) AND state <> 'closed' ORDER BY told_at"


async def find_open_alarms(tx: Transaction, care_plan_ids: Collection[UUID]) -> dict[UUID, UUID]:
    """The newest open alarm of each of these plans that has one."""
    return {row["care_plan_id"]: row["alarm_id"] for row in await tx.fetch(_FIND_OPEN_ALARMS, list(care_plan_ids))}


# Sources.

_IS_UNFIT = """
SELECT EXISTS (SELECT FROM terminals WHERE community_id = $1 AND device_id = ANY($2::text[]) AND removed_at IS NULL)
    OR EXISTS (SELECT FROM watch_points WHERE community_id = $1 AND source_id = ANY($2::text[]) AND kind = 'camera')
"""
_IS_STRANGERS = """
SELECT EXISTS (
    SELECT FROM care_sources JOIN care_plans USING (care_plan_id)
    WHERE care_sources.community_id = $1 AND source_id = ANY($2::text[]) AND stopped_at IS NULL AND account_id <> $3 AND NOT EXISTS (
        SELECT FROM known_residents AS one JOIN known_residents AS other USING (household_id)
        WHERE one.account_id = care_plans.account_id AND other.account_id = $3
    )
)
"""
_UPDATE_SPOKE = """
UPDATE care_sources AS source SET device_id = spoke.device_id
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS spoke (community_id, source_id, device_id)
WHERE source.community_id = spoke.community_id AND source.source_id = spoke.source_id AND source.device_id <> spoke.device_id
"""
# One that never spoke was never set up, or its first sign is still to come.
_IS_HEARD = """
SELECT EXISTS (
    SELECT FROM care_sources AS source
    WHERE care_plan_id = $1 AND device_id <> '' AND NOT EXISTS (
        SELECT FROM device_statuses AS status
        WHERE status.community_id = source.community_id AND status.device_id IN (source.source_id, source.device_id)
            AND silent_since IS NOT NULL
    )
)
"""


async def is_unfit(tx: Transaction, source_ids: Collection[str]) -> bool:
    """Whether any of these is a camera or a door terminal, which watches everybody."""
    return bool(await tx.fetchval(_IS_UNFIT, tx.community_id, list(source_ids)))


async def is_strangers(tx: Transaction, source_ids: Collection[str], account_id: UUID) -> bool:
    """Whether any of these already cares for somebody who does not live with the account."""
    return bool(await tx.fetchval(_IS_STRANGERS, tx.community_id, list(source_ids), account_id))


async def note_speakers(tx: Transaction, signs: Collection[Sign]) -> None:
    """Notes which devices spoke for sources of plans that are locked."""
    spoke = {(sign.community_id, sign.source_id): sign.device_id for sign in sorted(signs, key=lambda sign: sign.at)}
    columns = zip(*((*key, device_id) for key, device_id in spoke.items()), strict=True)
    await tx.execute(_UPDATE_SPOKE, *(list(column) for column in columns))


async def is_heard(tx: Transaction, care_plan_id: UUID) -> bool:
    """Whether any of a plan's sources has ever spoken and is not known to be silent."""
    return bool(await tx.fetchval(_IS_HEARD, care_plan_id))


# Rhythms.

_FIND_DAYS = "SELECT care_plan_id, day, quiet_minutes FROM care_days WHERE care_plan_id = ANY($1::uuid[])"
_UPSERT_DAYS = """
INSERT INTO care_days (care_plan_id, day, community_id, quiet_minutes)
SELECT care_plan_id, day, community_id, string_to_array(quiet_minutes, ' ')::bigint[]
FROM unnest($1::uuid[], $2::date[], $3::uuid[], $4::text[]) AS learned (care_plan_id, day, community_id, quiet_minutes)
ON CONFLICT (care_plan_id, day) DO UPDATE SET quiet_minutes = excluded.quiet_minutes
"""
_DELETE_DAYS_BEFORE = (
    "DELETE FROM care_days USING unnest($1::uuid[], $2::date[]) AS old (plan_id, first) WHERE care_plan_id = plan_id AND day < first"
)


async def find_rhythms(tx: Transaction, care_plan_ids: Collection[UUID]) -> dict[UUID, Rhythm]:
    """The rhythm of each of these plans."""
    days: dict[UUID, dict[date, tuple[int, ...]]] = {care_plan_id: {} for care_plan_id in care_plan_ids}
    for row in await tx.fetch(_FIND_DAYS, list(care_plan_ids)):
        days[row["care_plan_id"]][row["day"]] = tuple(row["quiet_minutes"])
    return {care_plan_id: Rhythm(its) for care_plan_id, its in days.items()}


async def write_rhythms(tx: Transaction, changed: Sequence[tuple[CarePlan, Rhythm]], before: Mapping[UUID, Rhythm]) -> None:
    """Writes the days of locked plans' rhythms that are not as they were, and deletes those that are forgotten."""
    learned = [
        (plan.care_plan_id, day, plan.community_id, " ".join(map(str, minutes)))
        for plan, rhythm in changed
        for day, minutes in rhythm.days.items()
        if before[plan.care_plan_id].days.get(day) != minutes
    ]
    if learned:
        await tx.execute(_UPSERT_DAYS, *(list(column) for column in zip(*learned, strict=True)))
    forgotten = [
        (plan.care_plan_id, min(rhythm.days)) for plan, rhythm in changed if before[plan.care_plan_id].days.keys() - rhythm.days.keys()
    ]
    if forgotten:
        await tx.execute(_DELETE_DAYS_BEFORE, *(list(column) for column in zip(*forgotten, strict=True)))
