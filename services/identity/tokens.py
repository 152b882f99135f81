"""Access tokens and the keys that sign them: JWTs with EdDSA over Ed25519 (RFC 8037), published as a JSON Web Key Set (RFC 7517).

Refresh tokens: the id of a sign-in and a secret of 256 bits, of which only a digest is stored.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from servicekit.auth import ALGORITHM, AUDIENCE, Principal, claims_of
from services.identity.signing_keys import ACCESS_TOKEN_LIFE

_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 16


def new_private_key() -> tuple[bytes, bytes]:
    """A new key pair: the private and the public key, raw, 32 bytes each."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes_raw(), key.public_key().public_bytes_raw()


def access_token(principal: Principal, issuer: str, key_id: UUID, private_key: bytes, now: datetime) -> tuple[str, datetime]:
    """A token that says what `principal` may do, and when it expires."""
    issued_at = int(now.timestamp())
    expires_at = now.replace(microsecond=0) + ACCESS_TOKEN_LIFE
    claims = {**claims_of(principal), "iss": issuer, "aud": AUDIENCE, "iat": issued_at, "exp": int(expires_at.timestamp())}
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": str(key_id)}), expires_at


def key_set(keys: Iterable[tuple[UUID, bytes]]) -> bytes:
    """The JSON Web Key Set of public keys by id. The same keys give the same bytes."""
    return msgspec.json.encode(
        {
            "keys": [
                {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": ALGORITHM, "kid": str(key_id), "x": _base64url(public_key)}
                for key_id, public_key in sorted(keys)
            ]
        }
    )


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What a refresh token says. `text` is what the caller holds; it is never stored."""

    sign_in_id: UUID
    text: str
    secret_digest: bytes


def new_refresh_token(sign_in_id: UUID) -> RefreshToken:
    """A new token of a sign-in."""
    secret = secrets.token_bytes(_SECRET_BYTES)
    return RefreshToken(sign_in_id, _base64url(sign_in_id.bytes + secret), _digest(secret))


def parse_refresh_token(text: str) -> RefreshToken | None:
    """The token that `text` is; None when it is none of ours."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"==", altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    if len(raw) != _ID_BYTES + _SECRET_BYTES:
        return None
    return RefreshToken(UUID(bytes=raw[:_ID_BYTES]), text, _digest(raw[_ID_BYTES:]))


def _digest(secret: bytes) -> bytes:
    # The secret has 256 random bits: nobody finds it behind a plain digest.
    return hashlib.sha256(secret).digest()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
