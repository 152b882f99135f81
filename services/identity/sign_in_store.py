"""The SQL of sign-in: codes, limits, passwords, refresh tokens and signing keys. That of people and homes is in `store.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from servicekit.database import Transaction
from servicekit.sealing import Sealed
from services.identity.limits import Limit
from services.identity.signing_keys import Scheduled
from services.identity.store import PLATFORM_COMMUNITY


@dataclass(frozen=True, slots=True)
class Code:
    """The one-time code that waits for a phone."""

    digest: bytes
    wrong_tries: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """How often a limit's subject came in the window that ends at `ends_at`."""

    name: str
    count: int
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair; the private key is encrypted, and bound to the key's id."""

    key_id: UUID
    public_key: bytes
    private_key: Sealed
    signs_from: datetime


# In order of name, so that two callers with several limits in common never wait for each other in a circle.
TAKE_LIMITS = """
INSERT INTO limits AS held (name, subject, community_id, taken, ends_at)
SELECT name, subject, $1, 1, ends_at
FROM unnest($2::text[], $3::bytea[], $4::timestamptz[]) AS asked (name, subject, ends_at) ORDER BY name
ON CONFLICT (name, subject) DO UPDATE SET
    taken = CASE WHEN held.ends_at <= $5 THEN 1 ELSE held.taken + 1 END,
    ends_at = CASE WHEN held.ends_at <= $5 THEN excluded.ends_at ELSE held.ends_at END
RETURNING name, taken, ends_at
"""


async def take_limits(tx: Transaction, limits: Sequence[Limit]) -> list[Taken]:
    """Counts one more for each limit, this one included. Needs the platform scope."""
    names = [limit.name for limit in limits]
    subjects = [limit.subject for limit in limits]
    ends = [tx.now + limit.window for limit in limits]
    rows = await tx.fetch(TAKE_LIMITS, PLATFORM_COMMUNITY, names, subjects, ends, tx.now)
    return [Taken(row["name"], row["taken"], row["ends_at"]) for row in rows]


UPSERT_CODE = """
INSERT INTO sign_in_codes (phone_index, community_id, code_digest, wrong_tries, expires_at) VALUES ($1, $2, $3, 0, $4)
ON CONFLICT (phone_index) DO UPDATE SET code_digest = excluded.code_digest, wrong_tries = 0, expires_at = excluded.expires_at
"""


async def store_code(tx: Transaction, phone_index: bytes, digest: bytes, expires_at: datetime) -> None:
    """Stores a phone's code in the place of the one before."""
    await tx.execute(UPSERT_CODE, phone_index, tx.community_id, digest, expires_at)


LOCK_CODE = "SELECT code_digest, wrong_tries, expires_at FROM sign_in_codes WHERE phone_index = $1 FOR UPDATE"


async def lock_code(tx: Transaction, phone_index: bytes) -> Code | None:
    """A phone's code, which nobody else tries until the transaction ends."""
    row = await tx.fetchrow(LOCK_CODE, phone_index)
    return None if row is None else Code(row["code_digest"], row["wrong_tries"], row["expires_at"])


COUNT_WRONG_TRY = "UPDATE sign_in_codes SET wrong_tries = wrong_tries + 1 WHERE phone_index = $1"


async def count_wrong_try(tx: Transaction, phone_index: bytes) -> None:
    """Counts a wrong try of a locked code."""
    await tx.execute(COUNT_WRONG_TRY, phone_index)


DELETE_CODE = "DELETE FROM sign_in_codes WHERE phone_index = $1"


async def delete_code(tx: Transaction, phone_index: bytes) -> None:
    """Removes a locked code, which is used."""
    await tx.execute(DELETE_CODE, phone_index)


SELECT_HASH_BY_PHONE = "SELECT password_hash FROM accounts WHERE phone_index = $1"


async def find_password_by_phone(tx: Transaction, phone_index: bytes) -> str | None:
    """The password hash of a phone's account; None when it has none, or there is none."""
    found: str | None = await tx.fetchval(SELECT_HASH_BY_PHONE, phone_index)
    return found


SELECT_HASH = "SELECT phone_index, password_hash FROM accounts WHERE account_id = $1"


async def find_password(tx: Transaction, account_id: UUID) -> tuple[bytes, str | None] | None:
    """The phone index and the password hash of an account."""
    row = await tx.fetchrow(SELECT_HASH, account_id)
    return None if row is None else (row["phone_index"], row["password_hash"])


REPLACE_HASH = """
UPDATE accounts SET password_hash = $3 WHERE account_id = $1 AND password_hash IS NOT DISTINCT FROM $2::text
"""


async def replace_password(tx: Transaction, account_id: UUID, old: str | None, new: str) -> bool:
    """Stores a password hash in the place of `old`; False when that is not what the account has."""
    return await tx.execute(REPLACE_HASH, account_id, old, new) > 0


SET_HASH = "UPDATE accounts SET password_hash = $2 WHERE account_id = $1"


async def set_password(tx: Transaction, account_id: UUID, new: str) -> None:
    """Stores a password hash, whatever was there."""
    await tx.execute(SET_HASH, account_id, new)


INSERT_SIGN_IN = """
INSERT INTO sign_ins (sign_in_id, community_id, account_id, secret_digest, expires_at) VALUES ($1, $2, $3, $4, $5)
"""


async def insert_sign_in(tx: Transaction, sign_in_id: UUID, account_id: UUID, secret_digest: bytes, expires_at: datetime) -> None:
    """Stores a device's sign-in."""
    await tx.execute(INSERT_SIGN_IN, sign_in_id, tx.community_id, account_id, secret_digest, expires_at)


# Of several callers with one secret the first finds it; the others wait for that row and then see another secret.
ROTATE_SIGN_IN = """
UPDATE sign_ins SET secret_digest = $3, expires_at = $4 WHERE sign_in_id = $1 AND secret_digest = $2 AND expires_at > $5
RETURNING community_id, account_id
"""


async def rotate_secret(tx: Transaction, sign_in_id: UUID, old: bytes, new: bytes, expires_at: datetime) -> tuple[UUID, UUID] | None:
    """Replaces a sign-in's secret and returns its community and account; None when `old` is not its secret now."""
    row = await tx.fetchrow(ROTATE_SIGN_IN, sign_in_id, old, new, expires_at, tx.now)
    return None if row is None else (row["community_id"], row["account_id"])


DELETE_SIGN_IN = "DELETE FROM sign_ins WHERE sign_in_id = $1"


async def delete_sign_in(tx: Transaction, sign_in_id: UUID) -> bool:
    """Ends a sign-in; False when there was none."""
    return await tx.execute(DELETE_SIGN_IN, sign_in_id) > 0


DELETE_SIGN_INS_OF_ACCOUNT = "DELETE FROM sign_ins WHERE account_id = $1"


async def delete_sign_ins_of(tx: Transaction, account_id: UUID) -> None:
    """Ends every sign-in of an account."""
    await tx.execute(DELETE_SIGN_INS_OF_ACCOUNT, account_id)


DELETE_SIGN_INS = "DELETE FROM sign_ins"


async def delete_sign_ins(tx: Transaction) -> None:
    """Ends every sign-in of everybody."""
    await tx.execute(DELETE_SIGN_INS)


# Whoever makes or removes keys does so alone.
LOCK_SIGNING_KEYS = "SELECT pg_advisory_xact_lock(hashtext('linli.identity.signing_keys'))"


async def lock_signing_keys(tx: Transaction) -> None:
    """Keeps others from making and removing keys until the transaction ends."""
    await tx.execute(LOCK_SIGNING_KEYS)


SELECT_SIGNING_KEYS = "SELECT key_id, public_key, private_key, private_key_key_id, signs_from FROM signing_keys"


async def list_signing_keys(tx: Transaction) -> list[SigningKey]:
    """Every key. Needs the platform scope."""
    return [
        SigningKey(row["key_id"], row["public_key"], Sealed(row["private_key_key_id"], row["private_key"]), row["signs_from"])
        for row in await tx.fetch(SELECT_SIGNING_KEYS)
    ]


INSERT_SIGNING_KEY = """
INSERT INTO signing_keys (key_id, community_id, public_key, private_key, private_key_key_id, signs_from) VALUES ($1, $2, $3, $4, $5, $6)
"""


async def insert_signing_key(tx: Transaction, key: SigningKey) -> None:
    """Stores, and so publishes, a key."""
    await tx.execute(
        INSERT_SIGNING_KEY,
        key.key_id,
        PLATFORM_COMMUNITY,
        key.public_key,
        key.private_key.data,
        key.private_key.key_id,
        key.signs_from,
    )


DELETE_SIGNING_KEYS = "DELETE FROM signing_keys WHERE key_id = ANY($1::uuid[])"


async def delete_signing_keys(tx: Transaction, keys: Sequence[Scheduled]) -> None:
    """Removes keys."""
    await tx.execute(DELETE_SIGNING_KEYS, [key.key_id for key in keys])


DELETE_EXPIRED_CODES = "DELETE FROM sign_in_codes WHERE expires_at <= $1"
# Leaves those in use for the next time rather than wait for them.
DELETE_EXPIRED_LIMITS = """
DELETE FROM limits WHERE (name, subject) IN (SELECT name, subject FROM limits WHERE ends_at <= $1 FOR UPDATE SKIP LOCKED)
"""
DELETE_EXPIRED_SIGN_INS = "DELETE FROM sign_ins WHERE expires_at <= $1"


async def delete_expired(tx: Transaction) -> None:
    """Removes codes, limits and sign-ins whose time has passed. Needs the platform scope."""
    for statement in (DELETE_EXPIRED_CODES, DELETE_EXPIRED_LIMITS, DELETE_EXPIRED_SIGN_INS):
        await tx.execute(statement, tx.now)
