"""Who holds which role in a community. Each service that needs it keeps its own copy, from identity's events.

A service that needs it hears `FOLLOWED`. What a caller may do is in its token, not here: this is for whom to tell, and whom to give work.
"""

from collections.abc import Iterable
from uuid import UUID

from linli.identity.v1.events_pb2 import StaffChanged
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.messaging import on

# Nothing happens for a version that is known or older.
_REMEMBER = """
INSERT INTO known_staff AS known (account_id, community_id, roles, version) VALUES ($1, $2, $3, $4)
ON CONFLICT (account_id) DO UPDATE SET roles = excluded.roles, version = excluded.version WHERE known.version < excluded.version
"""
_SELECT_HOLDERS = "SELECT account_id FROM known_staff WHERE community_id = $1 AND $2 = ANY(roles) ORDER BY account_id"
_SELECT_ROLES = "SELECT account_id, roles FROM known_staff WHERE account_id = ANY($1::uuid[])"


async def remember_staff_on_staff_changed(tx: Transaction, event: Received[StaffChanged]) -> None:
    """Keeps the newest version. Raises ValueError for an id that is none."""
    staff = event.message
    await tx.execute(_REMEMBER, UUID(staff.account_id), tx.community_id, list(staff.roles), event.version)


FOLLOWED = on(StaffChanged, remember_staff_on_staff_changed)


async def list_staff(tx: Transaction, role: str) -> list[UUID]:
    """The accounts that hold a role for the transaction's whole community, such as "foreman"; the oldest first."""
    return [row["account_id"] for row in await tx.fetch(_SELECT_HOLDERS, tx.community_id, role)]


async def roles_of(tx: Transaction, account_ids: Iterable[UUID]) -> dict[UUID, frozenset[str]]:
    """The roles of each account. Everyone asked for is there; who is no staff in this scope holds none."""
    asked = list(account_ids)
    held = {row["account_id"]: frozenset(row["roles"]) for row in await tx.fetch(_SELECT_ROLES, asked)}
    return {account_id: held.get(account_id, frozenset()) for account_id in asked}
