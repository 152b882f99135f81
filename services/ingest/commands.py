"""Gate commands: whether one is genuine, for which gate and until when. Parking signs them; gates check them as this does."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import DecodeError

from linli.parking.v1.events_pb2 import GateCommand, SignedCommand
from servicekit.errors import ServiceError
from servicekit.times import to_datetime


@dataclass(frozen=True, slots=True)
class OpenCommand:
    """A genuine order to open one gate. It is void after `expires_at`."""

    command_id: str
    gate_device_id: str
    expires_at: datetime


class GateKeys:
    """The public keys that open commands are signed with; two while parking changes its key."""

    def __init__(self, text: str) -> None:
        """`text` is base64 of 32 bytes for each key, separated by commas. Raises ValueError."""
        try:
            raw = [base64.b64decode(part.strip(), validate=True) for part in text.split(",")]
        except binascii.Error:
            raise ValueError("a key is not base64") from None
        self._keys: Sequence[Ed25519PublicKey] = [Ed25519PublicKey.from_public_bytes(key) for key in raw]

    def read(self, signed: SignedCommand) -> OpenCommand | None:
        """The command, or None when nobody we trust has signed it or it is no order to open."""
        if not any(_has_signed(key, signed) for key in self._keys):
            return None
        try:
            command = GateCommand.FromString(signed.command)
            expires_at = to_datetime(command.expires_at, "expires_at")
        except (DecodeError, ServiceError):
            return None
        if command.action != "open":
            return None
        return OpenCommand(command.command_id, command.device_id, expires_at.astimezone(UTC))


def _has_signed(key: Ed25519PublicKey, signed: SignedCommand) -> bool:
    try:
        key.verify(signed.signature, signed.command)
        return True
    except InvalidSignature:
        return False
