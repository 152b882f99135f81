"""Pictures of records: into the blob store, never into events.

A key is `<community>/<day>/<sha256>.<type>`, so that a picture that is sent again is the same object. A picture that cannot be kept costs
the record nothing but itself.
"""

import asyncio
import base64
import binascii
import hashlib
import uuid
from collections.abc import Sequence
from datetime import datetime

from prometheus_client import Counter

from servicekit import telemetry
from servicekit.blobs import Blobs, picture_type
from servicekit.errors import Unavailable

PICTURE_BYTES_MAX = 4 * 1024 * 1024
PICTURES_MAX = 10
# Decoding and hashing more than this would hold up everybody else.
_INLINE_LENGTH_MAX = 64 * 1024

LOST = Counter("linli_ingest_pictures_lost_total", "Pictures that were not kept; their records were", ["reason"])


class Images:
    """The pictures in the blob store."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def keep(self, community_id: uuid.UUID, day: datetime, pictures: Sequence[str], timeout_s: float) -> list[str]:
        """Keeps pictures (base64) and returns their keys. Those that are none, or cannot be kept in time, are counted and left out."""
        for _ in pictures[PICTURES_MAX:]:
            LOST.labels("too_many").inc()
        kept = await asyncio.gather(*(self._keep(community_id, day, p, timeout_s) for p in pictures[:PICTURES_MAX]))
        return [key for key in kept if key]

    async def _keep(self, community_id: uuid.UUID, day: datetime, picture: str, timeout_s: float) -> str:
        if len(picture) > PICTURE_BYTES_MAX // 3 * 4 + 100:
            LOST.labels("too_large").inc()
            return ""
        found = _decode(picture) if len(picture) <= _INLINE_LENGTH_MAX else await asyncio.to_thread(_decode, picture)
        if found is None:
            LOST.labels("not_a_picture").inc()
            return ""
        data, name = found
        key = f"{community_id}/{day:%Y-%m-%d}/{name}"
        try:
            async with asyncio.timeout(timeout_s):
                await self._blobs.put(key, data)
            return key
        except (Unavailable, TimeoutError) as error:
            LOST.labels("not_stored").inc()
            telemetry.log.warning("picture_not_stored", error=type(error).__name__)
            return ""


def _decode(picture: str) -> tuple[bytes, str] | None:
    _, _, encoded = picture.rpartition(",")  # Some write it as a data URL.
    try:
        data = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        return None
    kind = picture_type(data)
    return (data, f"{hashlib.sha256(data).hexdigest()}.{kind}") if kind else None
