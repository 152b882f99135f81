"""Keyed digests of what people hold and type, so that neither we nor a terminal keeps the number of a card or the digits of a PIN.

Each community has a key of its own, which follows from the installation's. A community's terminals have it too, or they could decide
nothing alone. So the digests keep numbers from whoever reads a database, a log or an event, and not from whoever opens a terminal with a
screwdriver: a PIN has few digits, and who has the key can try them all.
"""

import base64
import hashlib
import hmac
from functools import lru_cache
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_KEY_BYTES: Final = 32


class MatchingKeys:
    """The keys of all communities."""

    def __init__(self, key: str) -> None:
        """Takes the installation's key: 32 bytes in base64. It never changes, or no card opens anything. Raises ValueError."""
        secret = base64.b64decode(key, validate=True)
        if len(secret) != _KEY_BYTES:
            raise ValueError("the key must have 32 bytes")
        self._of = lru_cache(maxsize=1024)(lambda community_id: _derive(secret, community_id))

    def of(self, community_id: UUID) -> bytes:
        """A community's key, 32 bytes."""
        return self._of(community_id)


def _derive(secret: bytes, community_id: UUID) -> bytes:
    info = b"linli.access.matching\0" + community_id.bytes
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(secret)


def spell_card(card_number: str) -> str:
    """A card's number as we write it: readers differ in how they write hexadecimal digits."""
    return card_number.strip().upper()


def card_digest(key: bytes, card_number: str) -> bytes:
    """The digest, 32 bytes, of a card's number, however a reader writes it."""
    return hmac.digest(key, b"card\0" + spell_card(card_number).encode(), hashlib.sha256)


def pin_digest(key: bytes, typed: str) -> bytes:
    """The digest, 32 bytes, of what is typed at a door: somebody's number, and their PIN behind it."""
    return hmac.digest(key, b"pin\0" + typed.encode(), hashlib.sha256)
