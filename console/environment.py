"""The settings that `linli up` gives its processes, and the secrets behind them, which are made once and kept in the data folder."""

import base64
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from services.identity import code_senders

SECRETS, ENVIRONMENT, CODES = "secrets.json", "environment.json", "codes.jsonl"


class Secrets:
    """Named secrets of one installation, made when they are first asked for. The file is its owner's alone."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / SECRETS
        self._values: dict[str, str] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def password(self, name: str) -> str:
        """A random password."""
        return self._get(name, lambda: secrets.token_urlsafe(24))

    def key(self, name: str) -> str:
        """32 random bytes in base64."""
        return self._get(name, lambda: base64.b64encode(secrets.token_bytes(32)).decode())

    def signing_key(self, name: str) -> str:
        """The seed of an Ed25519 key in base64."""
        seed = Ed25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return self._get(name, lambda: base64.b64encode(seed).decode())

    def public_key(self, name: str) -> str:
        """The public half of a signing key, in base64."""
        key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(self.signing_key(name)))
        return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()

    def other(self, name: str, make: Callable[[], str]) -> str:
        """A secret of another form."""
        return self._get(name, make)

    def _get(self, name: str, make: Callable[[], str]) -> str:
        if name not in self._values:
            self._values[name] = make()
            write_private(self._file, json.dumps(self._values, indent=1))
        return self._values[name]


def write_private(file: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    fresh = file.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    fresh.replace(file)


def stored_environment(folder: Path) -> Mapping[str, str]:
    """The settings of the last start; empty when there was none."""
    try:
        values: dict[str, str] = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        return values
    except FileNotFoundError:
        return {}


def newest_code(folder: Path, phone: str) -> str | None:
    """The newest one-time code that the development sender wrote for a phone."""
    return code_senders.newest_code(folder / CODES, phone)
