"""The SQL of orders and their steps. Lists of orders are in `list_store.py`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.sealing import Sealed
from services.workorders.orders import Kind, Order, Priority, Promise, State, Visibility, WaitsFor

# What never changes after the report, but by triage while nobody works on it.
_REPORTED: Final = """
    order_id, community_id, number, reporter_account_id, origin, origin_id, reported_at, title, description, household_id, building_id,
    kind, category_id, category, skill, priority, place, visibility, response_minutes, on_site_minutes, done_minutes, round_the_clock,
    terms_id"""
_CHANGED: Final = """
    state, response_due_at, on_site_due_at, done_due_at, clock_from, clock_stopped_at, told, missed, missed_at, waits_for, paused_in,
    team_id, technician_account_id, offered_to_account_id, offer_until, is_open_to_all, dispatch_reason, visit_from, visit_until,
    responded_at, response_s, accepted_at, on_site_at, done_at, closed_at, duplicate_of_order_id, reopened, stars, rating_text, cause,
    resolution, charge_id, amount_fen, is_paid, version"""
ORDER: Final = f"SELECT {_REPORTED}, {_CHANGED} FROM orders "  # noqa: S608


def read_order(row: asyncpg.Record) -> Order:
    """An order from a row of `ORDER`."""
    columns: dict[str, Any] = dict(row)
    promise = Promise(
        response_minutes=columns.pop("response_minutes"),
        on_site_minutes=columns.pop("on_site_minutes"),
        done_minutes=columns.pop("done_minutes"),
        round_the_clock=columns.pop("round_the_clock"),
    )
    columns |= {
        "promise": promise,
        "kind": Kind(columns["kind"]),
        "priority": Priority(columns["priority"]),
        "state": State(columns["state"]),
        "visibility": Visibility(columns["visibility"]),
        "told": tuple(columns["told"]),
        "missed": tuple(columns["missed"]),
        "waits_for": WaitsFor(columns["waits_for"]) if columns["waits_for"] else None,
        "paused_in": State(columns["paused_in"]) if columns["paused_in"] else None,
    }
    return Order(**columns)


_NEXT_NUMBER = """
INSERT INTO order_counters AS counter (community_id, last_number) VALUES ($1, 1)
ON CONFLICT (community_id) DO UPDATE SET last_number = counter.last_number + 1 RETURNING last_number
"""


async def next_number(tx: Transaction) -> int:
    """What the community's next order is called. Held until the transaction ends, so take it last."""
    number: int = await tx.fetchval(_NEXT_NUMBER, tx.community_id)
    return number


_INSERT = f"""
INSERT INTO orders ({_REPORTED}, {_CHANGED})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28,
    $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39, $40, $41, $42, $43, $44, $45, $46, $47, $48, $49, $50, $51, $52, $53, $54, $55,
    $56, $57, $58)
"""  # noqa: S608


async def insert_order(tx: Transaction, order: Order) -> None:
    """Adds an order."""
    never_changed = (
        order.order_id,
        order.community_id,
        order.number,
        order.reporter_account_id,
        order.origin,
        order.origin_id,
        order.reported_at,
        order.title,
        order.description,
        order.household_id,
        order.building_id,
    )
    await tx.execute(_INSERT, *never_changed, *_triaged(order), *_changed(order))


_UPDATE = """
UPDATE orders SET kind = $2, category_id = $3, category = $4, skill = $5, priority = $6, place = $7, visibility = $8, response_minutes = $9,
    on_site_minutes = $10, done_minutes = $11, round_the_clock = $12, terms_id = $13, state = $14, response_due_at = $15,
    on_site_due_at = $16, done_due_at = $17, clock_from = $18, clock_stopped_at = $19, told = $20, missed = $21, missed_at = $22,
    waits_for = $23, paused_in = $24, team_id = $25, technician_account_id = $26, offered_to_account_id = $27, offer_until = $28,
    is_open_to_all = $29, dispatch_reason = $30, visit_from = $31, visit_until = $32, responded_at = $33, response_s = $34,
    accepted_at = $35, on_site_at = $36, done_at = $37, closed_at = $38, duplicate_of_order_id = $39, reopened = $40, stars = $41,
    rating_text = $42, cause = $43, resolution = $44, charge_id = $45, amount_fen = $46, is_paid = $47, version = $48
WHERE order_id = $1
"""


async def update_order(tx: Transaction, order: Order) -> None:
    """Writes what has changed. The row is locked."""
    await tx.execute(_UPDATE, order.order_id, *_triaged(order), *_changed(order))


def _triaged(order: Order) -> tuple[object, ...]:
    promise = order.promise
    return (
        order.kind,
        order.category_id,
        order.category,
        order.skill,
        order.priority,
        order.place,
        order.visibility,
        promise.response_minutes,
        promise.on_site_minutes,
        promise.done_minutes,
        promise.round_the_clock,
        order.terms_id,
    )


def _changed(order: Order) -> tuple[object, ...]:
    return (
        order.state,
        order.response_due_at,
        order.on_site_due_at,
        order.done_due_at,
        order.clock_from,
        order.clock_stopped_at,
        list(order.told),
        list(order.missed),
        order.missed_at,
        order.waits_for,
        order.paused_in,
        order.team_id,
        order.technician_account_id,
        order.offered_to_account_id,
        order.offer_until,
        order.is_open_to_all,
        order.dispatch_reason,
        order.visit_from,
        order.visit_until,
        order.responded_at,
        order.response_s,
        order.accepted_at,
        order.on_site_at,
        order.done_at,
        order.closed_at,
        order.duplicate_of_order_id,
        order.reopened,
        order.stars,
        order.rating_text,
        order.cause,
        order.resolution,
        order.charge_id,
        order.amount_fen,
        order.is_paid,
        order.version,
    )


_FIND = ORDER + "WHERE order_id = $1"
_LOCK = ORDER + "WHERE order_id = $1 FOR NO KEY UPDATE"


async def find_order(tx: Transaction, order_id: UUID) -> Order | None:
    """An order as it is now, without holding it."""
    row = await tx.fetchrow(_FIND, order_id)
    return None if row is None else read_order(row)


async def lock_order(tx: Transaction, order_id: UUID) -> Order | None:
    """An order, held until the transaction ends: the first lock of whoever changes anything about it."""
    row = await tx.fetchrow(_LOCK, order_id)
    return None if row is None else read_order(row)


_LOCK_BY_ORIGIN = ORDER + "WHERE community_id = $1 AND origin = $2 AND origin_id = $3 AND origin <> '' FOR NO KEY UPDATE"


async def lock_by_origin(tx: Transaction, origin: str, origin_id: str) -> Order | None:
    """The order that another service's news made, held."""
    row = await tx.fetchrow(_LOCK_BY_ORIGIN, tx.community_id, origin, origin_id)
    return None if row is None else read_order(row)


_LOCK_LINKED = ORDER + "WHERE duplicate_of_order_id = $1 ORDER BY order_id FOR NO KEY UPDATE"


async def lock_linked(tx: Transaction, order_id: UUID) -> list[Order]:
    """The orders that end with this one, held."""
    return [read_order(row) for row in await tx.fetch(_LOCK_LINKED, order_id)]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to an order. `account_id` is None when the clock or another service did it."""

    order_id: UUID
    version: int
    action: str
    state: State
    at: datetime
    account_id: UUID | None
    note: str


_INSERT_STEP = """
INSERT INTO order_steps (order_id, version, community_id, action, state, at, account_id, note) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def insert_step(tx: Transaction, step: Step) -> None:
    """Adds what happened; the order's row, locked, has the step's version."""
    await tx.execute(
        _INSERT_STEP, step.order_id, step.version, tx.community_id, step.action, step.state, step.at, step.account_id, step.note
    )


_LIST_STEPS = """
SELECT order_id, version, action, state, at, account_id, note FROM order_steps
WHERE order_id = $1 AND version > $2 ORDER BY version LIMIT $3
"""


async def list_steps(tx: Transaction, order_id: UUID, after: int | None, limit: int) -> list[Step]:
    """What happened to an order, oldest first."""
    rows = await tx.fetch(_LIST_STEPS, order_id, after or 0, limit)
    return [Step(**(dict(row) | {"state": State(row["state"])})) for row in rows]


_INSERT_CONTACT = "INSERT INTO order_contacts (order_id, community_id, key_id, phone) VALUES ($1, $2, $3, $4)"


async def insert_contact(tx: Transaction, order_id: UUID, phone: Sealed) -> None:
    """Keeps the phone of who opens the door."""
    await tx.execute(_INSERT_CONTACT, order_id, tx.community_id, phone.key_id, phone.data)


_CLOSE_CONTACT = "UPDATE order_contacts SET closed_at = $2 WHERE order_id = $1"
# In no transaction's way: what is locked is forgotten the next time.
_FORGET_CONTACTS = """
DELETE FROM order_contacts WHERE order_id IN (
    SELECT order_id FROM order_contacts WHERE closed_at <= $1 ORDER BY closed_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
"""


async def close_contact(tx: Transaction, order_id: UUID, closed_at: datetime | None) -> None:
    """Notes since when an order is closed, from when on its phone is kept for a while; None when it is not any more."""
    await tx.execute(_CLOSE_CONTACT, order_id, closed_at)


async def forget_contacts(tx: Transaction, closed_until: datetime, limit: int) -> None:
    """Forgets the phones of orders that were closed by then, those first that were closed first, in the transaction's scope."""
    await tx.execute(_FORGET_CONTACTS, closed_until, limit)


_SELECT_CONTACTS = "SELECT order_id, key_id, phone FROM order_contacts WHERE order_id = ANY($1::uuid[])"


async def find_contacts(tx: Transaction, order_ids: Iterable[UUID]) -> dict[UUID, Sealed]:
    """The sealed phones of orders; those without one are absent."""
    rows = await tx.fetch(_SELECT_CONTACTS, list(order_ids))
    return {row["order_id"]: Sealed(row["key_id"], row["phone"]) for row in rows}


_TELL_ORIGIN = """
INSERT INTO origins AS known (community_id, origin, origin_id, is_over, told_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (community_id, origin, origin_id) DO UPDATE SET is_over = known.is_over OR excluded.is_over, told_at = excluded.told_at
RETURNING is_over
"""


async def tell_origin(tx: Transaction, origin: str, origin_id: str, *, is_over: bool) -> bool:
    """Notes that another service told of the beginning or the end of something, and holds it. Returns whether it is known to be over."""
    known: bool = await tx.fetchval(_TELL_ORIGIN, tx.community_id, origin, origin_id, is_over, tx.now)
    return known


_FORGET_ORIGINS = "DELETE FROM origins WHERE told_at < $1"


async def forget_origins(tx: Transaction, before: datetime) -> None:
    """Forgets what was told before an instant, in the transaction's scope; orders keep their origins."""
    await tx.execute(_FORGET_ORIGINS, before)
