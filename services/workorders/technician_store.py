"""The SQL of teams, technicians and where things are. Positions are degrees, WGS 84."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from servicekit.database import Transaction
from servicekit.listing import Listing
from services.workorders.dispatch import Position, Technician
from services.workorders.targets import Hours

# What somebody said of where they were is true for so long, and kept no longer.
POSITION_AGE_MAX: Final = timedelta(hours=1)
# No community has more; were there one, its offers would go to the first of them by name.
_TECHNICIANS_MAX: Final = 1000

# Teams.


@dataclass(frozen=True, slots=True)
class Team:
    """Technicians and who leads them."""

    team_id: UUID
    name: str
    foreman_account_id: UUID | None


_INSERT_TEAM = """
INSERT INTO teams (team_id, community_id, name, foreman_account_id) VALUES ($1, $2, $3, $4) ON CONFLICT (community_id, name) DO NOTHING
"""
_FIND_TEAM = "SELECT team_id, name, foreman_account_id FROM teams WHERE team_id = $1"
TEAMS: Final = Listing(select="SELECT team_id, name, foreman_account_id FROM teams", where="community_id = {}", key=("name",))


async def insert_team(tx: Transaction, team: Team) -> bool:
    """Adds a team; False when one has its name."""
    return await tx.execute(_INSERT_TEAM, team.team_id, tx.community_id, team.name, team.foreman_account_id) == 1


async def find_team(tx: Transaction, team_id: UUID) -> Team | None:
    """A team."""
    row = await tx.fetchrow(_FIND_TEAM, team_id)
    return None if row is None else Team(**row)


async def list_teams(tx: Transaction, after: str | None, limit: int) -> list[Team]:
    """The teams by name."""
    return [Team(**row) for row in await TEAMS.fetch(tx, [tx.community_id], after, limit)]


# Technicians.

_UPSERT = """
INSERT INTO technicians (community_id, account_id, name, team_id, skills, building_ids, shifts, in_use)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8)
ON CONFLICT (community_id, account_id) DO UPDATE SET name = excluded.name, team_id = excluded.team_id, skills = excluded.skills,
    building_ids = excluded.building_ids, shifts = excluded.shifts, in_use = excluded.in_use
"""
# With what they said of where they are, and the building where they work or are about to.
TECHNICIANS: Final = Listing(
    select="""
SELECT technicians.account_id, name, team_id, skills, building_ids, shifts, in_use, open_jobs, given + offered AS offers,
    said.latitude, said.longitude, said.reported_at, at_work.latitude AS work_latitude, at_work.longitude AS work_longitude
FROM technicians
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE state IN ('accepted', 'on_site', 'waiting')) AS open_jobs,
        count(*) FILTER (WHERE state = 'dispatched') AS given,
        (array_agg(building_id ORDER BY state DESC, accepted_at DESC)
            FILTER (WHERE state IN ('accepted', 'on_site') AND building_id IS NOT NULL))[1] AS building_id
    FROM orders WHERE technician_account_id = technicians.account_id AND is_open
) AS jobs
CROSS JOIN LATERAL (SELECT count(*) AS offered FROM orders WHERE offered_to_account_id = technicians.account_id) AS waiting
LEFT JOIN technician_positions AS said
    ON said.community_id = technicians.community_id AND said.account_id = technicians.account_id
LEFT JOIN building_positions AS at_work
    ON at_work.community_id = technicians.community_id AND at_work.building_id = jobs.building_id""",
    key=("name", "technicians.account_id"),
    where="technicians.community_id = {}",
    filters={"account": "technicians.account_id = {}", "team": "team_id = {}", "in_use": "in_use"},
)


async def save_technician(tx: Transaction, technician: Technician) -> None:
    """Enters somebody, or writes what has changed."""
    shifts = msgspec.json.encode([(each.weekday, each.from_minute, each.until_minute) for each in technician.shifts]).decode()
    await tx.execute(
        _UPSERT,
        tx.community_id,
        technician.account_id,
        technician.name,
        technician.team_id,
        list(technician.skills),
        list(technician.building_ids),
        shifts,
        technician.in_use,
    )


async def find_technician(tx: Transaction, account_id: UUID) -> Technician | None:
    """A technician, with what they do now."""
    rows = await TECHNICIANS.fetch(tx, [tx.community_id], None, 1, account=account_id)
    return _technician(tx, rows[0]) if rows else None


async def list_technicians(tx: Transaction, team_id: UUID | None, after: tuple[str, UUID] | None, limit: int) -> list[Technician]:
    """The technicians by name; those of a team."""
    return [_technician(tx, row) for row in await TECHNICIANS.fetch(tx, [tx.community_id], after, limit, team=team_id)]


async def technicians_in_use(tx: Transaction) -> list[Technician]:
    """Everybody who may be asked."""
    return [_technician(tx, row) for row in await TECHNICIANS.fetch(tx, [tx.community_id], None, _TECHNICIANS_MAX, in_use=True)]


def _technician(tx: Transaction, row: asyncpg.Record) -> Technician:
    columns = dict(row)
    shifts = msgspec.json.decode(columns.pop("shifts"), type=list[tuple[int, int, int]])
    latitude, longitude, reported_at = (columns.pop(name) for name in ("latitude", "longitude", "reported_at"))
    at_work = columns.pop("work_latitude"), columns.pop("work_longitude")
    if reported_at is None or reported_at <= tx.now - POSITION_AGE_MAX:
        latitude, longitude = at_work
    position = None if latitude is None else Position(latitude, longitude)
    return Technician(**columns, shifts=[Hours(*each) for each in shifts], position=position)


# Where things are.

_UPSERT_POSITION = """
INSERT INTO technician_positions (community_id, account_id, latitude, longitude, reported_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (community_id, account_id)
DO UPDATE SET latitude = excluded.latitude, longitude = excluded.longitude, reported_at = excluded.reported_at
"""
_FORGET_POSITIONS = "DELETE FROM technician_positions WHERE reported_at <= $1"
_UPSERT_BUILDING = """
INSERT INTO building_positions (community_id, building_id, latitude, longitude) VALUES ($1, $2, $3, $4)
ON CONFLICT (community_id, building_id) DO UPDATE SET latitude = excluded.latitude, longitude = excluded.longitude
"""
_FIND_BUILDING = "SELECT latitude, longitude FROM building_positions WHERE community_id = $1 AND building_id = $2"


async def save_position(tx: Transaction, account_id: UUID, position: Position) -> None:
    """Notes where a technician is now."""
    await tx.execute(_UPSERT_POSITION, tx.community_id, account_id, position.latitude, position.longitude, tx.now)


async def forget_positions(tx: Transaction) -> None:
    """Deletes what is older than an hour, in the transaction's scope."""
    await tx.execute(_FORGET_POSITIONS, tx.now - POSITION_AGE_MAX)


async def save_building_position(tx: Transaction, building_id: UUID, position: Position) -> None:
    """Notes where a building is."""
    await tx.execute(_UPSERT_BUILDING, tx.community_id, building_id, position.latitude, position.longitude)


async def find_building_position(tx: Transaction, building_id: UUID) -> Position | None:
    """Where a building is; None while nobody has said it."""
    row = await tx.fetchrow(_FIND_BUILDING, tx.community_id, building_id)
    return None if row is None else Position(**row)


# Who was asked.

_ADD_ASKED = """
INSERT INTO offers (order_id, account_id, community_id, offered_at) SELECT $1, account_id, $2, $3 FROM unnest($4::uuid[]) AS account_id
ON CONFLICT DO NOTHING
"""
_SELECT_ASKED = "SELECT account_id FROM offers WHERE order_id = $1"
_FORGET_ASKED = "DELETE FROM offers WHERE order_id = $1"


async def add_asked(tx: Transaction, order_id: UUID, account_ids: Sequence[UUID]) -> None:
    """Notes who was asked to take an order."""
    await tx.execute(_ADD_ASKED, order_id, tx.community_id, tx.now, account_ids)


async def list_asked(tx: Transaction, order_id: UUID) -> set[UUID]:
    """Who was asked since the order was last dispatched."""
    return {row["account_id"] for row in await tx.fetch(_SELECT_ASKED, order_id)}


async def forget_asked(tx: Transaction, order_id: UUID) -> None:
    """Everybody may be asked again."""
    await tx.execute(_FORGET_ASKED, order_id)
