"""SQL of grants."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.listing import Listing, one_of


class GrantState(StrEnum):
    """What has become of a grant."""

    WAITING = "waiting"
    GRANTED = "granted"
    REJECTED = "rejected"


# What a second person may make of a grant.
DECISIONS: Final = {GrantState.WAITING: (GrantState.GRANTED, GrantState.REJECTED)}


@dataclass(frozen=True, slots=True)
class Grant:
    """Points that somebody grants by hand. `decided_by` is the second person, nobody when none was needed."""

    community_id: UUID
    grant_id: UUID
    account_id: UUID
    points: int
    reason: str
    state: GrantState
    requested_by: UUID
    requested_at: datetime
    decided_by: UUID | None
    decided_at: datetime | None

    @property
    def key(self) -> tuple[UUID, UUID]:
        """What names the grant: whoever asks for it chooses its id, and ids of two communities may be alike."""
        return self.community_id, self.grant_id


INSERT_GRANTS = """
INSERT INTO grants (community_id, grant_id, account_id, points, reason, state, requested_by, requested_at, decided_by, decided_at)
SELECT * FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::uuid[], $8::timestamptz[], $9::uuid[], $10::timestamptz[]
)
"""


async def insert_grants(tx: Transaction, grants: Sequence[Grant]) -> None:
    """Keeps new grants."""
    rows = [
        (
            grant.community_id,
            grant.grant_id,
            grant.account_id,
            grant.points,
            grant.reason,
            grant.state,
            grant.requested_by,
            grant.requested_at,
            grant.decided_by,
            grant.decided_at,
        )
        for grant in grants
    ]
    if rows:
        await tx.execute(INSERT_GRANTS, *(list(column) for column in zip(*rows, strict=True)))


GRANT: Final = """
SELECT community_id, grant_id, account_id, points, reason, state, requested_by, requested_at, decided_by, decided_at
FROM grants
"""
SELECT_GRANTS = GRANT + "JOIN unnest($1::uuid[], $2::uuid[]) AS asked (community_id, grant_id) USING (community_id, grant_id)"


async def find_grants(tx: Transaction, asked: Sequence[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], Grant]:
    """The grants with these ids, each in its community; whoever grants chooses the id."""
    rows = await tx.fetch(SELECT_GRANTS, [community_id for community_id, _ in asked], [grant_id for _, grant_id in asked])
    return {(row["community_id"], row["grant_id"]): _grant(row) for row in rows}


DECIDE_GRANT = """
UPDATE grants SET state = $3, decided_by = $4, decided_at = $5 WHERE community_id = $1 AND grant_id = $2
"""


async def decide_grant(tx: Transaction, grant: Grant) -> None:
    """Keeps what a second person decided."""
    await tx.execute(DECIDE_GRANT, grant.community_id, grant.grant_id, grant.state, grant.decided_by, grant.decided_at)


GRANTS = Listing(
    select=GRANT,
    where="community_id = {}",
    filters={"state": one_of("state", GrantState)},
    key=("requested_at", "grant_id"),
    descending=True,
)


async def list_grants(tx: Transaction, state: GrantState | None, after: tuple[datetime, UUID] | None, limit: int) -> list[Grant]:
    """Grants of the community, newest first, after a cursor."""
    return [_grant(row) for row in await GRANTS.fetch(tx, [tx.community_id], after, limit, state=state)]


def _grant(row: asyncpg.Record) -> Grant:
    return Grant(
        community_id=row["community_id"],
        grant_id=row["grant_id"],
        account_id=row["account_id"],
        points=row["points"],
        reason=row["reason"],
        state=GrantState(row["state"]),
        requested_by=row["requested_by"],
        requested_at=row["requested_at"],
        decided_by=row["decided_by"],
        decided_at=row["decided_at"],
    )
