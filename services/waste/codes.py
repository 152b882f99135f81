"""The short signed text that a resident's phone shows to a bin as a QR code.

43 characters: the account, until when it may be shown, and a keyed digest of both and the community. Nobody can make one without the key; a
code of another community is no code here. It is judged at the time of the deposit, so that one that is delivered late still counts.
"""

import base64
import binascii
import hmac
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from services.waste.deposits import CLOCK_SLACK

LIFE: Final = timedelta(minutes=5)
_KEY_BYTES: Final = 32
# 96 of the digest's 256 bits: no bin tries as many.
_DIGEST_BYTES: Final = 12
_SECONDS_BYTES: Final = 4
_CONTENT_BYTES: Final = 16 + _SECONDS_BYTES
_PURPOSE: Final = b"linli.waste.code\0"


class CodeSigner:
    """Makes and reads codes."""

    def __init__(self, key: str) -> None:
        """Takes 32 bytes in base64. Raises ValueError."""
        self._key = base64.b64decode(key, validate=True)
        if len(self._key) != _KEY_BYTES:
            raise ValueError("the key must have 32 bytes")

    def sign(self, community_id: UUID, account_id: UUID, expires_at: datetime) -> str:
        """A code of an account, which may be shown until then."""
        content = account_id.bytes + int(expires_at.timestamp()).to_bytes(_SECONDS_BYTES, "big")
        return self._signed(community_id, content)

    def read(self, code: str, community_id: UUID, shown_at: datetime) -> UUID | None:
        """The account of a code that was shown to a bin at that time; None when it is none of this community's, or was not valid then."""
        try:
            content = base64.urlsafe_b64decode(code.encode("ascii") + b"=")[:-_DIGEST_BYTES]
        except (UnicodeEncodeError, binascii.Error):
            return None
        # Base64 can be read in several ways, and written in one.
        if len(content) != _CONTENT_BYTES or not hmac.compare_digest(code, self._signed(community_id, content)):
            return None
        expires_at = datetime.fromtimestamp(int.from_bytes(content[16:], "big"), UTC)
        is_valid = expires_at - LIFE - CLOCK_SLACK <= shown_at <= expires_at + CLOCK_SLACK
        return UUID(bytes=content[:16]) if is_valid else None

    def _signed(self, community_id: UUID, content: bytes) -> str:
        digest = hmac.digest(self._key, _PURPOSE + community_id.bytes + content, "sha256")[:_DIGEST_BYTES]
        return base64.urlsafe_b64encode(content + digest).decode("ascii").rstrip("=")
