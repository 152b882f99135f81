"""Signed orders to gates: what a gate obeys, once, before it expires."""

import base64
import binascii
import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from linli.parking.v1.events_pb2 import GateCommand, SignedCommand
from servicekit.times import to_timestamp

# A command that is late is dropped: a gate never opens for a car that has left.
LIFETIME: Final = timedelta(seconds=10)
_NONCE_BYTES: Final = 16


class GateSigner:
    """Signs commands with parking's Ed25519 key (RFC 8032). The key's id is derived from its public part."""

    def __init__(self, key: str) -> None:
        """`key` is base64 of the 32-byte private key. Raises ValueError."""
        try:
            self._key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(key, validate=True))
        except binascii.Error:
            raise ValueError("not base64") from None
        self.public_key: Final = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._key_id = hashlib.sha256(self.public_key).hexdigest()[:16]

    def open(self, command_id: UUID, gate_device_id: str, counter: int, now: datetime) -> SignedCommand:
        """An order to open one gate. `counter` must be above that of every order before it."""
        command = GateCommand(
            command_id=str(command_id),
            device_id=gate_device_id,
            action="open",
            nonce=secrets.token_bytes(_NONCE_BYTES),
            counter=counter,
            expires_at=to_timestamp(now + LIFETIME),
        ).SerializeToString()
        return SignedCommand(command=command, signature=self._key.sign(command), key_id=self._key_id)
