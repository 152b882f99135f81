"""Commands to gates and doors: what a device obeys, once, before it expires. Whoever decides signs them, ingest checks and sends them.

Each kind of device has its own keys: parking's open gates, access's open doors, never the other way round.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.message import DecodeError

from linli.device.v1.commands_pb2 import DeviceCommand, SignedCommand
from servicekit.errors import ServiceError
from servicekit.signing import BARE, PublicKeys, Signer
from servicekit.times import to_datetime, to_timestamp

# A command that is late is dropped: a gate never opens for a car that has left.
LIFETIME: Final = timedelta(seconds=10)
_NONCE_BYTES: Final = 16


def next_counter(last: int, now: datetime) -> int:
    """The counter of the next command to a device: above the last, and never below the milliseconds since 1970.

    A device refuses what is not above the last command that it obeyed, and does not go back in time with our database: after a restore
    from an older state the clock is above every counter that was given out since, as long as no device gets a thousand commands a second.
    """
    return max(last + 1, int(now.timestamp() * 1000))


class CommandSigner:
    """Signs commands, bare: devices check exactly the bytes that they get. A serialized command begins with the byte 0x0a."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def open(self, command_id: UUID, device_id: str, counter: int, now: datetime) -> SignedCommand:
        """An order to open one gate or door. `counter` must be above that of every order to it before."""
        command = DeviceCommand(
            command_id=str(command_id),
            device_id=device_id,
            action="open",
            nonce=secrets.token_bytes(_NONCE_BYTES),
            counter=counter,
            expires_at=to_timestamp(now + LIFETIME),
        ).SerializeToString()
        return SignedCommand(command=command, signature=self._signer.sign(BARE, command), key_id=self._signer.key_id)


@dataclass(frozen=True, slots=True)
class OpenCommand:
    """A genuine order to open one gate or door. It is void after `expires_at`."""

    command_id: str
    device_id: str
    expires_at: datetime


class CommandKeys:
    """The public keys that commands to one kind of device are signed with."""

    def __init__(self, text: str) -> None:
        """`text` is as `PublicKeys` takes it. Raises ValueError."""
        self._keys = PublicKeys(text)

    def read(self, signed: SignedCommand) -> OpenCommand | None:
        """The command, or None when nobody we trust has signed it or it is no order to open."""
        if not self._keys.has_signed(BARE, signed.command, signed.signature):
            return None
        try:
            command = DeviceCommand.FromString(signed.command)
            expires_at = to_datetime(command.expires_at, "expires_at")
        except (DecodeError, ServiceError):
            return None
        if command.action != "open":
            return None
        return OpenCommand(command.command_id, command.device_id, expires_at.astimezone(UTC))
