"""The SQL of the terms under which a community serves."""

import json
from typing import Any
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from services.workorders.targets import Hours, Terms

_TERMS = "SELECT terms_id, working_hours, follows_holidays, escalation_roles, offer_s, reopen_days FROM service_terms "
_FIND_TERMS = _TERMS + "WHERE terms_id = $1"
_NEWEST_TERMS = _TERMS + "WHERE community_id = $1 ORDER BY version DESC LIMIT 1"


async def find_terms(tx: Transaction, terms_id: UUID | None) -> Terms:
    """The terms of an order; None are those of a community that has set none."""
    row = None if terms_id is None else await tx.fetchrow(_FIND_TERMS, terms_id)
    return Terms() if row is None else _terms(row)


async def newest_terms(tx: Transaction) -> Terms:
    """The terms in force."""
    row = await tx.fetchrow(_NEWEST_TERMS, tx.community_id)
    return Terms() if row is None else _terms(row)


def _terms(row: asyncpg.Record) -> Terms:
    columns: dict[str, Any] = dict(row)
    hours = tuple(Hours(*each) for each in json.loads(columns["working_hours"]))
    return Terms(**(columns | {"working_hours": hours, "escalation_roles": tuple(columns["escalation_roles"])}))


_INSERT_TERMS = """
INSERT INTO service_terms (terms_id, community_id, version, set_at, set_by, working_hours, follows_holidays, escalation_roles, offer_s,
    reopen_days)
SELECT $1::uuid, $2::uuid, 1 + coalesce(max(version), 0), $3::timestamptz, $4::uuid, $5::jsonb, $6::boolean, $7::text[], $8::bigint,
    $9::bigint
FROM service_terms WHERE community_id = $2
ON CONFLICT (community_id, version) DO NOTHING
"""


async def insert_terms(tx: Transaction, terms: Terms) -> bool:
    """Puts new terms into force; False when somebody else does at the same time."""
    hours = json.dumps([[each.weekday, each.from_minute, each.until_minute] for each in terms.working_hours])
    inserted = await tx.execute(
        _INSERT_TERMS,
        terms.terms_id,
        tx.community_id,
        tx.now,
        tx.caller.account_id,
        hours,
        terms.follows_holidays,
        list(terms.escalation_roles),
        terms.offer_s,
        terms.reopen_days,
    )
    return bool(inserted)
