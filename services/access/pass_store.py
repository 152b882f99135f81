"""The SQL of visitors' passes, of how often doors let in on them, and of the work orders that contractors' passes are for."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.listing import Listing, one_of
from services.access.passes import Pass, PassKind, PassState

_LOCK_HOUSEHOLD = "SELECT pg_advisory_xact_lock(hashtextextended('access.passes ' || $1, 0))"
_COUNT_LIVE = """
SELECT count(*) FROM passes WHERE household_id = $1 AND ended_at IS NULL AND used_up_at IS NULL AND valid_until > $2
"""


async def count_live(tx: Transaction, household_id: UUID) -> int:
    """How many passes of a household are good now or later; nobody else adds one until the transaction ends."""
    await tx.execute(_LOCK_HOUSEHOLD, str(household_id))
    count: int = await tx.fetchval(_COUNT_LIVE, household_id, tx.now)
    return count


_INSERT = """
INSERT INTO passes (pass_id, community_id, kind, household_id, work_order_id, visitor_name, plate, valid_from, valid_until, entries_max,
    zone_ids, invited_by, secret_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""


async def insert_pass(tx: Transaction, made: Pass, secret_hash: bytes) -> None:
    """Adds a pass that the visitor has yet to confirm."""
    row = (made.pass_id, tx.community_id, made.kind, made.household_id, made.work_order_id, made.visitor_name, made.plate)
    times = (made.valid_from, made.valid_until, made.entries_max)
    await tx.execute(_INSERT, *row, *times, list(made.zone_ids), made.invited_by, secret_hash)


_COLUMNS: Final = """pass_id, kind, household_id, work_order_id, visitor_name, plate, valid_from, valid_until, entries_max, zone_ids,
    invited_by, confirmed_at, ended_at, used_up_at, last_used_at, version"""
_PASS: Final = f"SELECT {_COLUMNS} FROM passes"  # noqa: S608
_LOCK_PASS = _PASS + " WHERE pass_id = $1 FOR UPDATE"
_LOCK_OF_WORK_ORDER = _PASS + " WHERE work_order_id = $1 AND ended_at IS NULL ORDER BY pass_id FOR UPDATE"
_LOCK_OF_INVITERS = (
    _PASS
    + """
WHERE household_id = $1 AND invited_by = ANY($2::uuid[]) AND ended_at IS NULL AND valid_until > $3 ORDER BY pass_id FOR UPDATE
"""
)
_FIND_SECRET_HASH = "SELECT secret_hash FROM passes WHERE pass_id = $1"  # noqa: S105
_LIST_CONFIRMED = (
    "SELECT pass_id FROM passes WHERE household_id = $1 AND confirmed_at IS NOT NULL AND ended_at IS NULL AND valid_until > $2"
)


async def lock_pass(tx: Transaction, pass_id: UUID) -> Pass | None:
    """A pass, locked until the transaction ends."""
    row = await tx.fetchrow(_LOCK_PASS, pass_id)
    return None if row is None else _pass(row)


async def find_secret_hash(tx: Transaction, pass_id: UUID) -> bytes | None:
    """The hash of the secret in a pass's link; None when there is no such pass."""
    found: bytes | None = await tx.fetchval(_FIND_SECRET_HASH, pass_id)
    return found


async def lock_passes_of_work_order(tx: Transaction, work_order_id: UUID) -> list[Pass]:
    """The passes for a work order that have not ended, locked until the transaction ends."""
    return [_pass(row) for row in await tx.fetch(_LOCK_OF_WORK_ORDER, work_order_id)]


async def lock_passes_of_inviters(tx: Transaction, household_id: UUID, account_ids: Collection[UUID]) -> list[Pass]:
    """The passes that these accounts gave out for a household and that are good now or later, locked until the transaction ends."""
    return [_pass(row) for row in await tx.fetch(_LOCK_OF_INVITERS, household_id, list(account_ids), tx.now)]


async def list_confirmed(tx: Transaction, household_id: UUID) -> list[UUID]:
    """A household's passes that open something now or later."""
    return [row["pass_id"] for row in await tx.fetch(_LIST_CONFIRMED, household_id, tx.now)]


_UPDATE = """
UPDATE passes SET visitor_name = $2, plate = $3, valid_from = $4, valid_until = $5, confirmed_at = $6, ended_at = $7, used_up_at = $8,
    last_used_at = $9, version = $10
WHERE pass_id = $1
"""


async def update_pass(tx: Transaction, changed: Pass) -> None:
    """Changes a pass, which the transaction has locked."""
    row = (changed.pass_id, changed.visitor_name, changed.plate, changed.valid_from, changed.valid_until, changed.confirmed_at)
    await tx.execute(_UPDATE, *row, changed.ended_at, changed.used_up_at, changed.last_used_at, changed.version)


_FORGET = """
WITH old AS (SELECT pass_id FROM passes WHERE valid_until < $1 ORDER BY valid_until LIMIT $2),
    gone AS (DELETE FROM pass_entries USING old WHERE pass_entries.pass_id = old.pass_id)
DELETE FROM passes USING old WHERE passes.pass_id = old.pass_id
"""


async def forget(tx: Transaction, before: datetime, limit: int) -> None:
    """Deletes at most so many passes that were over before, in all communities."""
    await tx.execute(_FORGET, before, limit)


# A state but the last is a matter of time; braces are when it is asked.
_GOOD: Final = "ended_at IS NULL AND used_up_at IS NULL AND valid_until > {}"
_PASSES = Listing(
    select=_PASS,
    key=("pass_id",),
    descending=True,
    where="community_id = {}",
    filters={
        "kind": one_of("kind", PassKind),
        "household_id": "household_id = {}",
        PassState.INVITED: f"{_GOOD} AND confirmed_at IS NULL",
        PassState.CONFIRMED: f"{_GOOD} AND confirmed_at IS NOT NULL",
        PassState.ENDED: "ended_at IS NOT NULL",
        PassState.EXPIRED: "ended_at IS NULL AND (used_up_at IS NOT NULL OR valid_until <= {})",
    },
)


async def list_passes(
    tx: Transaction, kind: PassKind | None, state: PassState | None, household_id: UUID | None, after: UUID | None, limit: int
) -> list[Pass]:
    """Passes, newest first; only those of a kind, in a state, of a household."""
    asked: dict[str, object] = {"kind": kind, "household_id": household_id}
    if state is not None:
        asked[state.value] = True if state is PassState.ENDED else tx.now
    return [_pass(row) for row in await _PASSES.fetch(tx, [tx.community_id], after, limit, **asked)]


def _pass(row: asyncpg.Record) -> Pass:
    return Pass(**{**row, "kind": PassKind(row["kind"]), "zone_ids": tuple(row["zone_ids"])})


# Entries.

_COUNT_ENTRY = """
INSERT INTO pass_entries AS counted (pass_id, door_id, community_id, entries) VALUES ($1, $2, $3, 1)
ON CONFLICT (pass_id, door_id) DO UPDATE SET entries = counted.entries + 1
"""
_SELECT_ENTRIES = "SELECT door_id, entries FROM pass_entries WHERE pass_id = $1"


async def count_entry(tx: Transaction, pass_id: UUID, door_id: UUID) -> dict[UUID, int]:
    """Counts that a door let in on a pass, which the transaction has locked. Returns how often each door has."""
    await tx.execute(_COUNT_ENTRY, pass_id, door_id, tx.community_id)
    return await list_entries(tx, pass_id)


async def list_entries(tx: Transaction, pass_id: UUID) -> dict[UUID, int]:
    """How often each door has let in on a pass; doors that have not are absent."""
    return {row["door_id"]: row["entries"] for row in await tx.fetch(_SELECT_ENTRIES, pass_id)}


# Work orders.


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """A work order, as far as it concerns who comes for it and when. Both times are None when no visit is agreed."""

    order_id: UUID
    closed: bool
    visit_from: datetime | None
    visit_until: datetime | None


_REMEMBER_WORK_ORDER = """
INSERT INTO known_work_orders AS known (order_id, community_id, closed, visit_from, visit_until, version) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (order_id) DO UPDATE SET closed = excluded.closed, visit_from = excluded.visit_from, visit_until = excluded.visit_until,
    version = excluded.version WHERE known.version < excluded.version
"""
_LOCK_WORK_ORDER = "SELECT order_id, closed, visit_from, visit_until FROM known_work_orders WHERE order_id = $1 FOR SHARE"


async def remember_work_order(tx: Transaction, order: WorkOrder, version: int) -> bool:
    """Keeps the newest version of a work order, which is locked until the transaction ends; False for one that is known or older."""
    row = (order.order_id, tx.community_id, order.closed, order.visit_from, order.visit_until, version)
    return await tx.execute(_REMEMBER_WORK_ORDER, *row) == 1


async def lock_work_order(tx: Transaction, order_id: UUID) -> WorkOrder | None:
    """A work order, which does not change until the transaction ends."""
    row = await tx.fetchrow(_LOCK_WORK_ORDER, order_id)
    return None if row is None else WorkOrder(*row)
