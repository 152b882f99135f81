"""A device's secret: how it is made, recognised and kept. How it is used in digest authentication is in `digest`.

We make the secret, show it once and keep it nowhere. Two things derived from it are kept. A hash recognises it in HTTP Basic and MQTT; a
fast one is right, because a secret of 118 random bits cannot be guessed. Digest authentication needs MD5(id:realm:secret), which is as
good as the secret itself, so it is encrypted under the installation's key and bound to its device.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from servicekit.sealing import DataKeys, Sealed
from services.ingest.digest import key_of

# What installers type into cameras: no letter or digit that looks like another, and short enough for the narrowest field.
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
_SECRET_LENGTH: Final = 24
_UNNAMED: Final = ""
# Compared with when there is no device, so that an unknown one takes as long as a wrong secret.
_NOBODY: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Credential:
    """What is kept of a secret."""

    secret_hash: bytes
    sealed_digest_key: bytes


def new_secret() -> str:
    """A new secret."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))


def is_secret(secret: str, secret_hash: bytes | None) -> bool:
    """Whether `secret` is the one that was hashed; never when there is no hash."""
    given = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
    return hmac.compare_digest(given, secret_hash or _NOBODY) and secret_hash is not None


class Vault:
    """Holds the installation's key for credentials."""

    def __init__(self, key: bytes) -> None:
        # One key, which has no name: the ciphertexts of earlier installations stand alone in their column.
        self._keys = DataKeys({_UNNAMED: key})

    def credential(self, device_id: str, secret: str) -> Credential:
        """What to keep of a device's secret."""
        sealed = self._keys.seal(key_of(device_id, secret).encode(), device_id)
        return Credential(hashlib.sha256(secret.encode()).digest(), sealed.data)

    def digest_key(self, device_id: str, sealed: bytes) -> str:
        """The key of a device's digests. Raises SealBrokenError."""
        return self._keys.open(Sealed(_UNNAMED, sealed), device_id).decode()
