"""The SQL of what opens doors: cards, PINs and faces. Numbers and digits are only here as keyed digests, templates of faces only sealed."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from servicekit.database import Transaction
from servicekit.listing import Listing, one_of
from servicekit.sealing import Sealed
from services.access.doors import CredentialKind


@dataclass(frozen=True, slots=True)
class Credential:
    """Something that opens doors for an account; without what opens them."""

    credential_id: UUID
    kind: CredentialKind
    account_id: UUID
    label: str
    issued_at: datetime
    revoked_at: datetime | None = None


_INSERT_CREDENTIAL = """
INSERT INTO credentials (credential_id, community_id, account_id, kind, label, digest, issued_by, issued_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING
"""


async def insert_credential(tx: Transaction, credential: Credential, digest: bytes | None) -> bool:
    """Adds a credential; False when its card or its number is in use, or the account has one of a kind of which there is one."""
    row = (credential.credential_id, tx.community_id, credential.account_id, credential.kind, credential.label)
    return await tx.execute(_INSERT_CREDENTIAL, *row, digest, tx.caller.account_id, credential.issued_at) == 1


_CREDENTIAL: Final = "SELECT credential_id, kind, account_id, label, issued_at, revoked_at FROM credentials"
_LOCK_CREDENTIAL = _CREDENTIAL + " WHERE credential_id = $1 FOR UPDATE"
_LOCK_LIVE = _CREDENTIAL + " WHERE account_id = $1 AND kind = $2 AND revoked_at IS NULL FOR UPDATE"
_CREDENTIALS = Listing(
    select=_CREDENTIAL,
    key=("credential_id",),
    descending=True,
    where="community_id = {}",
    filters={"account_id": "account_id = {}", "kind": one_of("kind", CredentialKind), "live": "revoked_at IS NULL"},
)


async def lock_credential(tx: Transaction, credential_id: UUID) -> Credential | None:
    """A credential, locked until the transaction ends."""
    row = await tx.fetchrow(_LOCK_CREDENTIAL, credential_id)
    return None if row is None else _credential(row)


async def lock_live(tx: Transaction, account_id: UUID, kind: CredentialKind) -> Credential | None:
    """An account's PIN or face that is not revoked, locked until the transaction ends."""
    row = await tx.fetchrow(_LOCK_LIVE, account_id, kind)
    return None if row is None else _credential(row)


async def list_credentials(
    tx: Transaction, account_id: UUID | None, kind: CredentialKind | None, revoked: bool, after: UUID | None, limit: int
) -> list[Credential]:
    """Credentials, newest first; only an account's, only of a kind; the revoked ones too when asked for."""
    asked = {"account_id": account_id, "kind": kind, "live": not revoked}
    return [_credential(row) for row in await _CREDENTIALS.fetch(tx, [tx.community_id], after, limit, **asked)]


def _credential(row: asyncpg.Record) -> Credential:
    credential_id, kind, *rest = row
    return Credential(credential_id, CredentialKind(kind), *rest)


_REVOKE = "UPDATE credentials SET revoked_at = $2, digest = NULL WHERE credential_id = $1"
_REVOKE_ALL = "UPDATE credentials SET revoked_at = $2, digest = NULL WHERE account_id = $1 AND revoked_at IS NULL"


async def revoke(tx: Transaction, credential_id: UUID) -> None:
    """Ends a credential, which the transaction has locked, now."""
    await tx.execute(_REVOKE, credential_id, tx.now)


async def revoke_all(tx: Transaction, account_id: UUID) -> None:
    """Ends all credentials of an account now."""
    await tx.execute(_REVOKE_ALL, account_id, tx.now)


# Templates of faces.

_INSERT_TEMPLATE = "INSERT INTO face_templates (credential_id, community_id, account_id, key_id, sealed) VALUES ($1, $2, $3, $4, $5)"
_DELETE_TEMPLATES = "DELETE FROM face_templates WHERE account_id = $1"
_FIND_TEMPLATES = "SELECT credential_id, key_id, sealed FROM face_templates WHERE credential_id = ANY($1::uuid[])"


async def insert_template(tx: Transaction, face: Credential, template: Sealed) -> None:
    """Keeps the sealed template of a face."""
    await tx.execute(_INSERT_TEMPLATE, face.credential_id, tx.community_id, face.account_id, template.key_id, template.data)


async def delete_templates(tx: Transaction, account_id: UUID) -> bool:
    """Deletes every template of an account's face; False when there was none."""
    return await tx.execute(_DELETE_TEMPLATES, account_id) > 0


async def find_templates(tx: Transaction, credential_ids: Collection[UUID]) -> dict[UUID, Sealed]:
    """The sealed templates of these faces; those of which none is kept are absent."""
    rows = await tx.fetch(_FIND_TEMPLATES, list(credential_ids))
    return {row["credential_id"]: Sealed(row["key_id"], row["sealed"]) for row in rows}


_IS_KNOWN = """
SELECT EXISTS (SELECT FROM known_residents WHERE account_id = $1 AND community_id = $2)
    OR EXISTS (SELECT FROM known_staff WHERE account_id = $1 AND community_id = $2 AND cardinality(roles) > 0)
    OR EXISTS (SELECT FROM access_rules WHERE whom = 'account' AND whom_id = $1 AND community_id = $2
        AND (valid_until IS NULL OR valid_until > $3))
"""


async def is_known(tx: Transaction, account_id: UUID) -> bool:
    """Whether an account lives or works here, or is let in by a rule of its own."""
    return bool(await tx.fetchval(_IS_KNOWN, account_id, tx.community_id, tx.now))
