"""Encryption of what must be read again, and keyed digests of what must only be recognised.

Phones and signing keys are encrypted with AES-256-GCM. The id of the data key is kept beside each ciphertext, so that keys can be changed:
a new one encrypts, older ones still decrypt. Digests are HMAC-SHA-256 under a key of their own, which never changes, or look-ups fail.
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

_NONCE_BYTES: Final = 12


class SealBrokenError(Exception):
    """A ciphertext was made with a key that we do not have, belongs to another row, or was altered."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A ciphertext and the id of the data key it was made with."""

    key_id: str
    data: bytes


class Vault:
    """Holds the keys. The first data key encrypts; all of them decrypt."""

    def __init__(self, data_keys: Mapping[str, bytes], index_key: bytes) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in data_keys.items()}
        self.key_id, *self.older_key_ids = data_keys
        self._index_key = index_key

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
            raise SealBrokenError("a ciphertext does not belong to its row, or was altered") from None

    def digest(self, purpose: str, *parts: str) -> bytes:
        """The keyed digest of these parts; the same parts have another one for another purpose."""
        return hmac.digest(self._index_key, "\x1f".join((purpose, *parts)).encode(), hashlib.sha256)


def decoded_data_keys(text: str) -> dict[str, bytes]:
    """The keys in `id:base64,id:base64`, whose form the settings have checked. Raises ValueError when two have one id."""
    keys: dict[str, bytes] = {}
    for entry in text.split(","):
        key_id, _, key = entry.partition(":")
        if key_id in keys:
            raise ValueError("two keys have one id")
        keys[key_id] = base64.b64decode(key, validate=True)
    return keys
