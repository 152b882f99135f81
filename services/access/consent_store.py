"""The SQL of consents: their texts, who gave which, and which terminals have yet to forget what was withdrawn."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.listing import Listing, one_of
from services.access.consents import ConsentChannel, ConsentKind

# Texts.


@dataclass(frozen=True, slots=True)
class ConsentText:
    """A version of what somebody agrees to."""

    kind: ConsentKind
    version: int
    text_zh: str
    text_en: str
    published_at: datetime


_LOCK_TEXTS = "SELECT pg_advisory_xact_lock(hashtextextended('access.consent_texts ' || $1, 0))"
_INSERT_TEXT = """
INSERT INTO consent_texts (community_id, kind, version, text_zh, text_en, published_by, published_at)
SELECT $1, $2, coalesce(max(version), 0) + 1, $3, $4, $5, $6 FROM consent_texts WHERE community_id = $1 AND kind = $2
RETURNING version
"""


async def insert_text(tx: Transaction, kind: ConsentKind, text_zh: str, text_en: str) -> ConsentText:
    """Adds the next version of a text."""
    await tx.execute(_LOCK_TEXTS, str(tx.community_id))
    version = await tx.fetchval(_INSERT_TEXT, tx.community_id, kind, text_zh, text_en, tx.caller.account_id, tx.now)
    return ConsentText(kind, version, text_zh, text_en, tx.now)


_SELECT_TEXTS = """
SELECT DISTINCT ON (kind) kind, version, text_zh, text_en, published_at FROM consent_texts
WHERE community_id = $1 ORDER BY kind, version DESC
"""


async def newest_texts(tx: Transaction) -> list[ConsentText]:
    """The newest text of each kind that has one."""
    return [ConsentText(ConsentKind(kind), *rest) for kind, *rest in await tx.fetch(_SELECT_TEXTS, tx.community_id)]


# Consents.


@dataclass(frozen=True, slots=True)
class Consent:
    """That somebody agreed, or somebody for them."""

    consent_id: UUID
    kind: ConsentKind
    account_id: UUID
    given_by: UUID
    text_version: int
    channel: ConsentChannel
    given_at: datetime
    withdrawn_at: datetime | None = None


_INSERT_CONSENT = """
INSERT INTO consents (consent_id, community_id, kind, account_id, given_by, text_version, channel, recorded_by, given_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (community_id, account_id, kind, text_version) WHERE withdrawn_at IS NULL DO NOTHING
"""
_CONSENT: Final = "SELECT consent_id, kind, account_id, given_by, text_version, channel, given_at, withdrawn_at FROM consents"
_FIND_SAME = _CONSENT + " WHERE community_id = $1 AND account_id = $2 AND kind = $3 AND text_version = $4 AND withdrawn_at IS NULL"


async def insert_consent(tx: Transaction, consent: Consent, recorded_by: UUID | None) -> Consent:
    """Adds a consent, or returns the one to the same text that holds already."""
    row = (consent.consent_id, tx.community_id, consent.kind, consent.account_id, consent.given_by, consent.text_version)
    if await tx.execute(_INSERT_CONSENT, *row, consent.channel, recorded_by, consent.given_at):
        return consent
    return _consent(await tx.fetchrow(_FIND_SAME, tx.community_id, consent.account_id, consent.kind, consent.text_version))


_FIND_CONSENT = _CONSENT + " WHERE consent_id = $1"
_LOCK_LIVE = _CONSENT + " WHERE account_id = $1 AND kind = ANY($2::text[]) AND withdrawn_at IS NULL ORDER BY consent_id FOR UPDATE"


async def find_consent(tx: Transaction, consent_id: UUID) -> Consent | None:
    """A consent."""
    row = await tx.fetchrow(_FIND_CONSENT, consent_id)
    return None if row is None else _consent(row)


async def lock_live(tx: Transaction, account_id: UUID, kinds: Collection[ConsentKind]) -> list[Consent]:
    """The consents of these kinds about an account that hold, locked until the transaction ends."""
    return [_consent(row) for row in await tx.fetch(_LOCK_LIVE, account_id, list(kinds))]


_WITHDRAW = "UPDATE consents SET withdrawn_at = $2, withdrawn_by = $3 WHERE consent_id = ANY($1::uuid[])"


async def withdraw(tx: Transaction, consent_ids: Iterable[UUID], by: UUID | None) -> None:
    """Notes who withdrew these, which the transaction has locked; None when nobody had to."""
    await tx.execute(_WITHDRAW, list(consent_ids), tx.now, by)


_UNCONFIRMED: Final = """EXISTS (
    SELECT FROM consent_removals WHERE consent_removals.consent_id = consents.consent_id AND confirmed_at IS NULL
)"""
_CONSENTS = Listing(
    select=_CONSENT,
    key=("consent_id",),
    descending=True,
    where="community_id = {}",
    filters={
        "account_id": "account_id = {}",
        "kind": one_of("kind", ConsentKind),
        "unconfirmed": _UNCONFIRMED,
        "concerning": "(account_id = {} OR given_by = {})",
    },
)


async def list_consents(
    tx: Transaction, account_id: UUID | None, kind: ConsentKind | None, unconfirmed: bool, after: UUID | None, limit: int
) -> list[Consent]:
    """Consents, newest first; only those about an account, of a kind, those whose removal some terminal has not confirmed."""
    asked = {"account_id": account_id, "kind": kind, "unconfirmed": unconfirmed}
    return [_consent(row) for row in await _CONSENTS.fetch(tx, [tx.community_id], after, limit, **asked)]


async def list_consents_concerning(tx: Transaction, account_id: UUID, after: UUID | None, limit: int) -> list[Consent]:
    """Consents about an account or given by it, newest first."""
    return [_consent(row) for row in await _CONSENTS.fetch(tx, [tx.community_id], after, limit, concerning=(account_id, account_id))]


def _consent(row: asyncpg.Record | None) -> Consent:
    assert row is not None
    return Consent(
        consent_id=row["consent_id"],
        kind=ConsentKind(row["kind"]),
        account_id=row["account_id"],
        given_by=row["given_by"],
        text_version=row["text_version"],
        channel=ConsentChannel(row["channel"]),
        given_at=row["given_at"],
        withdrawn_at=row["withdrawn_at"],
    )


# What terminals have to forget.


@dataclass(frozen=True, slots=True)
class Removal:
    """A terminal that had to forget something, and when it confirmed that."""

    device_id: str
    door_name: str
    confirmed_at: datetime | None


_INSERT_REMOVALS = """
INSERT INTO consent_removals (consent_id, device_id, community_id, version, confirmed_at)
SELECT consent_id, device_id, $1, version, CASE WHEN confirmed_version >= version THEN $5::timestamptz END
FROM unnest($2::uuid[]) AS consent_id, unnest($3::text[], $4::bigint[]) AS removal (device_id, version)
JOIN terminals USING (device_id) WHERE community_id = $1 ON CONFLICT DO NOTHING
"""


async def insert_removals(tx: Transaction, consent_ids: Iterable[UUID], versions: Mapping[str, int]) -> None:
    """Notes that these terminals forget what these consents allowed, each with a version of what it knows."""
    await tx.execute(_INSERT_REMOVALS, tx.community_id, list(consent_ids), list(versions), list(versions.values()), tx.now)


_CONFIRM_REMOVALS = """
UPDATE consent_removals SET confirmed_at = $4
WHERE community_id = $1 AND device_id = $2 AND version <= $3 AND confirmed_at IS NULL
"""


async def confirm_removals(tx: Transaction, device_id: str, confirmed_version: int) -> None:
    """Notes that a terminal knows nothing any more that a version of what it knows, or an earlier one, has removed."""
    await tx.execute(_CONFIRM_REMOVALS, tx.community_id, device_id, confirmed_version, tx.now)


_LIST_REMOVALS = """
SELECT consent_id, device_id, name, confirmed_at
FROM consent_removals JOIN terminals USING (community_id, device_id) JOIN doors USING (door_id)
WHERE consent_id = ANY($1::uuid[]) ORDER BY consent_id, name, device_id
"""


async def list_removals(tx: Transaction, consent_ids: Iterable[UUID]) -> dict[UUID, list[Removal]]:
    """What terminals had to forget of each of these consents."""
    found: dict[UUID, list[Removal]] = {}
    for consent_id, *rest in await tx.fetch(_LIST_REMOVALS, list(consent_ids)):
        found.setdefault(consent_id, []).append(Removal(*rest))
    return found
