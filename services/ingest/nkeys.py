"""NATS nkeys: Ed25519 keys in NATS's own spelling, and the JWTs that they sign. Only what signing devices in needs.

A key is written as base32 of a prefix byte, the key and a CRC-16 (XMODEM) of both. A seed carries two prefixes: that it is one, and of
what.
"""

import base64
import binascii
import secrets

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_ACCOUNT = 0
_SEED = 18 << 3


def _spell(data: bytes) -> str:
    checked = data + binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode("ascii").rstrip("=")


def new_account_seed() -> str:
    """A new account key, as its seed `SA...`."""
    return _spell(bytes([_SEED | _ACCOUNT >> 5, (_ACCOUNT & 31) << 3]) + secrets.token_bytes(32))


class AccountKey:
    """An account's key: signs JWTs that the NATS server trusts when its configuration names the public key as issuer."""

    def __init__(self, seed: str) -> None:
        """Raises ValueError when `seed` is no account seed."""
        padded = seed + "=" * (-len(seed) % 8)
        data = base64.b32decode(padded)
        if len(data) != 36 or data[:2] != bytes([_SEED, 0]) or binascii.crc_hqx(data[:-2], 0) != int.from_bytes(data[-2:], "little"):
            raise ValueError("no account seed")
        self._key = Ed25519PrivateKey.from_private_bytes(data[2:34])
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public_key = _spell(bytes([_ACCOUNT]) + raw)

    def sign(self, claims: dict[str, object], issued_at: int) -> str:
        """A JWT with these claims; issuer, time (seconds since the epoch) and a random id are added."""
        complete = {**claims, "iss": self.public_key, "iat": issued_at, "jti": secrets.token_hex(16)}
        signed = f"{_encode({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encode(complete)}"
        return f"{signed}.{_base64(self._key.sign(signed.encode()))}"


def claims_of(token: bytes) -> bytes:
    """The JSON of a JWT's claims, unverified. Raises ValueError when it is none."""
    parts = token.split(b".")
    if len(parts) != 3:
        raise ValueError("no JWT")
    return base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4))


def _encode(value: dict[str, object]) -> str:
    return _base64(msgspec.json.encode(value))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")
