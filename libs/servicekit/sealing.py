"""Encryption of what must be read again, and keyed digests of what must only be recognised.

What is sealed is encrypted with AES-256-GCM. The id of the data key is kept beside each ciphertext, so that keys can be changed: a new one
encrypts, older ones still decrypt. Digests are HMAC-SHA-256 under a key of their own, which never changes, or look-ups fail.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# The forms of settings that hold keys of 32 bytes in base64: a single one, and data keys as `id:key,id:key`.
KEY_PATTERN: Final = "^[A-Za-z0-9+/]{43}=$"
DATA_KEYS_PATTERN: Final = "^[a-z0-9]{1,16}:[A-Za-z0-9+/]{43}=(,[a-z0-9]{1,16}:[A-Za-z0-9+/]{43}=)*$"
_NONCE_BYTES: Final = 12


class SealBrokenError(Exception):
    """A ciphertext was made with a key that we do not have, belongs to another row, or was altered."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A ciphertext and the id of the data key it was made with."""

    key_id: str
    data: bytes


class DataKeys:
    """The keys that seal, each of 32 bytes, by their ids. The first encrypts; all of them decrypt."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.key_id, *self.older_key_ids = keys

    def seal(self, plain: bytes, row: str) -> Sealed:
        """Encrypts. `row` names what the ciphertext belongs to, and is needed to open it: ciphertexts cannot change places."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return Sealed(self.key_id, nonce + self._ciphers[self.key_id].encrypt(nonce, plain, row.encode()))

    def open(self, sealed: Sealed, row: str) -> bytes:
        """Decrypts. Raises SealBrokenError."""
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise SealBrokenError(f"no data key is called {sealed.key_id}")
        try:
            return cipher.decrypt(sealed.data[:_NONCE_BYTES], sealed.data[_NONCE_BYTES:], row.encode())
        except InvalidTag:
            raise SealBrokenError(f"the ciphertext of {row} does not belong to it, or was altered") from None


def data_keys(text: str) -> DataKeys:
    """The keys in `id:base64,id:base64`, whose form the settings have checked. Raises ValueError when two have one id."""
    keys: dict[str, bytes] = {}
    for entry in text.split(","):
        key_id, _, key = entry.partition(":")
        if key_id in keys:
            raise ValueError("two keys have one id")
        keys[key_id] = base64.b64decode(key, validate=True)
    return DataKeys(keys)


class BlindIndex:
    """Finds what is sealed, by digests that nobody can make without the key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def digest(self, purpose: str, *parts: str) -> bytes:
        """The keyed digest of these parts, 32 bytes; the same parts have another one for another purpose."""
        return hmac.digest(self._key, "\x1f".join((purpose, *parts)).encode(), hashlib.sha256)
