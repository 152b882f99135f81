"""Ed25519 signatures and keys, as the sandbox provider's protocol wants them."""

import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_AGE_S_MAX = 300


def generate_key() -> tuple[str, str]:
    """A new private key and its public key, each as base64 of its 32 bytes."""
    key = Ed25519PrivateKey.generate()
    return b64encode(key.private_bytes_raw()).decode(), b64encode(key.public_key().public_bytes_raw()).decode()


class Signer:
    """Signs what the provider says. `key` is `id:key`, the private key in base64. Raises ValueError for anything else."""

    def __init__(self, key: str) -> None:
        self._key_id, _, encoded = key.partition(":")
        self._key = Ed25519PrivateKey.from_private_bytes(b64decode(encoded, validate=True))

    def headers(self, body: bytes, now: datetime) -> dict[str, str]:
        """The headers that sign a body."""
        timestamp, nonce = str(int(now.timestamp())), secrets.token_hex(16)
        signature = self._key.sign(f"{timestamp}\n{nonce}\n".encode() + body + b"\n")
        return {
            "Sandbox-Serial": self._key_id,
            "Sandbox-Timestamp": timestamp,
            "Sandbox-Nonce": nonce,
            "Sandbox-Signature": b64encode(signature).decode(),
        }


class Verifier:
    """Verifies what the merchant says. `keys` are `id:key,id:key`, public keys in base64. Raises ValueError for anything else."""

    def __init__(self, keys: str) -> None:
        parts = [part.strip().partition(":") for part in keys.split(",")]
        self._keys = {key_id: Ed25519PublicKey.from_public_bytes(b64decode(encoded, validate=True)) for key_id, _, encoded in parts}

    def accepts(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: datetime) -> bool:
        """Whether the merchant signed this request, lately."""
        timestamp, nonce = headers.get("sandbox-timestamp", ""), headers.get("sandbox-nonce", "")
        key = self._keys.get(headers.get("sandbox-serial", ""))
        try:
            if key is None or abs(now.timestamp() - int(timestamp)) > _AGE_S_MAX:
                return False
            signature = b64decode(headers.get("sandbox-signature", ""), validate=True)
            key.verify(signature, f"{method}\n{path}\n{timestamp}\n{nonce}\n".encode() + body + b"\n")
        except (ValueError, InvalidSignature):
            return False
        return True
