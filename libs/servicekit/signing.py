"""Ed25519 signatures (RFC 8032) of what others must be able to check alone: commands, codes, snapshots. What is signed is their business.

Everything is signed for a purpose, which is part of what is signed: a signature of one kind of thing never passes for another's.
"""

import base64
import binascii
import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# The purpose of what devices in the field check byte for byte, as it came. It must not be able to begin like another purpose's content.
BARE: Final = ""


class Signer:
    """Holds a private key."""

    def __init__(self, key: str) -> None:
        """`key` is base64 of the 32-byte private key. Raises ValueError."""
        try:
            self._key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(key, validate=True))
        except binascii.Error:
            raise ValueError("not base64") from None
        self._own_key = self._key.public_key()
        self.public_key: Final = self._own_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        # Derived from the public key, so that whoever knows several can tell which one it is.
        self.key_id: Final = hashlib.sha256(self.public_key).hexdigest()[:16]

    def sign(self, purpose: str, content: bytes) -> bytes:
        """The signature, 64 bytes, of `content` for `purpose`, such as "access.code"."""
        return self._key.sign(_signed(purpose, content))

    def has_signed(self, purpose: str, content: bytes, signature: bytes) -> bool:
        """Whether this key has signed `content` for `purpose`."""
        return _verifies(self._own_key, _signed(purpose, content), signature)


class PublicKeys:
    """The public keys of one signer; two while it changes its key."""

    def __init__(self, text: str) -> None:
        """`text` is base64 of 32 bytes for each key, separated by commas. Raises ValueError."""
        try:
            raw = [base64.b64decode(part.strip(), validate=True) for part in text.split(",")]
        except binascii.Error:
            raise ValueError("a key is not base64") from None
        self._keys = [Ed25519PublicKey.from_public_bytes(key) for key in raw]

    def has_signed(self, purpose: str, content: bytes, signature: bytes) -> bool:
        """Whether one of these keys has signed `content` for `purpose`."""
        signed = _signed(purpose, content)
        return any(_verifies(key, signed, signature) for key in self._keys)


def _signed(purpose: str, content: bytes) -> bytes:
    return content if purpose == BARE else f"linli.{purpose}\0".encode() + content


def _verifies(key: Ed25519PublicKey, signed: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, signed)
        return True
    except InvalidSignature:
        return False
