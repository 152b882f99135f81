"""Dynamic codes: the signed text in a QR code, which a terminal checks alone. Who may have one, and who signs, is not here.

130 bytes, 174 characters of base64url without padding, which a QR code of version 9 holds. Numbers are big-endian:

    offset  bytes
    0       1     the format, 1
    1       16    the community
    17      16    the subject: an account or a visitor's pass
    33      16    the only door that it opens; zeros for any
    49      12    the nonce: a code opens once
    61      4     from when it is good, in seconds since the Unix epoch
    65      1     for how many seconds
    66      64    an Ed25519 signature of `linli.access.code`, a zero byte and the 66 bytes before
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

# What codes are signed for.
PURPOSE: Final = "access.code"
LIFE: Final = timedelta(seconds=60)
# By so much clocks of phones, terminals and ours may differ.
SLACK: Final = timedelta(seconds=30)
NONCE_BYTES: Final = 12
LENGTH: Final = 174
_FORMAT: Final = 1
_CONTENT_BYTES: Final = 66
_ANY_DOOR: Final = UUID(int=0)


class CodeFault(StrEnum):
    """What is wrong with a genuine code. The texts are stable: they are reasons of refusals."""

    # Genuine, and of another community: nothing is told of that.
    STRANGE = "unknown"
    NOT_YET = "code_not_yet"
    EXPIRED = "code_expired"
    OTHER_DOOR = "code_other_door"


@dataclass(frozen=True, slots=True)
class Code:
    """What a code says. `door_id` is None for one that opens any door of its subject. Good for `LIFE`, by whole seconds."""

    community_id: UUID
    subject_id: UUID
    door_id: UUID | None
    nonce: bytes
    not_before: datetime

    @property
    def expires_at(self) -> datetime:
        """When it is good no more."""
        return self.not_before + LIFE

    @property
    def forgotten_at(self) -> datetime:
        """From when on no terminal takes it, however its clock goes, so that its nonce need not be remembered any more."""
        return self.expires_at + 2 * SLACK

    def fault(self, community_id: UUID, door_id: UUID, at: datetime) -> CodeFault | None:
        """What keeps it from opening a door at an instant; None when nothing does. Whether it was used is not known here."""
        if self.community_id != community_id:
            return CodeFault.STRANGE
        if self.door_id not in (None, door_id):
            return CodeFault.OTHER_DOOR
        if at < self.not_before - SLACK:
            return CodeFault.NOT_YET
        return CodeFault.EXPIRED if at >= self.expires_at + SLACK else None


def write(code: Code, sign: Callable[[bytes], bytes]) -> str:
    """The text of a code. `sign` returns the signature, 64 bytes, of what it gets, for the purpose of codes. Raises ValueError."""
    if len(code.nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    content = b"".join(
        (
            bytes([_FORMAT]),
            code.community_id.bytes,
            code.subject_id.bytes,
            (code.door_id or _ANY_DOOR).bytes,
            code.nonce,
            int(code.not_before.timestamp()).to_bytes(4, "big"),
            bytes([int(LIFE.total_seconds())]),
        )
    )
    return base64.urlsafe_b64encode(content + sign(content)).decode("ascii").rstrip("=")


def read(text: str, has_signed: Callable[[bytes, bytes], bool]) -> Code | None:
    """What a genuine code says, valid or not; None for everything else.

    `has_signed` says of bytes and a signature whether we signed them for the purpose of codes.
    """
    if len(text) != LENGTH:
        return None
    try:
        data = base64.urlsafe_b64decode(text + "==")
    except (ValueError, binascii.Error):
        return None
    # Base64 can be read in several ways and is written in one, and no bit of a code may be another.
    if base64.urlsafe_b64encode(data).decode("ascii").rstrip("=") != text:
        return None
    content, signature = data[:_CONTENT_BYTES], data[_CONTENT_BYTES:]
    if content[0] != _FORMAT or content[65] != LIFE.total_seconds() or not has_signed(content, signature):
        return None
    door_id = UUID(bytes=content[33:49])
    return Code(
        community_id=UUID(bytes=content[1:17]),
        subject_id=UUID(bytes=content[17:33]),
        door_id=None if door_id == _ANY_DOOR else door_id,
        nonce=content[49:61],
        not_before=datetime.fromtimestamp(int.from_bytes(content[61:65], "big"), UTC),
    )
