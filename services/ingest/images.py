"""Pictures of records: into the blob store, never into events.

A key is `<community>/<day>/<sha256>.<jpg|png>`, so that a picture that is sent again is the same object. The store is a folder or
anything that speaks S3. A picture that cannot be kept costs the record nothing but itself.
"""

import asyncio
import base64
import binascii
import hashlib
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from prometheus_client import Counter

from servicekit import telemetry

PICTURE_BYTES_MAX = 4 * 1024 * 1024
PICTURES_MAX = 10
_MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))
# Decoding and hashing more than this would hold up everybody else.
_INLINE_LENGTH_MAX = 64 * 1024

LOST = Counter("linli_ingest_pictures_lost_total", "Pictures that were not kept; their records were", ["reason"])


class Images:
    """The blob store of pictures."""

    def __init__(self, url: str) -> None:
        """`url` is a folder, or the address of a bucket such as `s3://bucket/prefix`. Raises obstore's errors when it cannot be one."""
        self._store: ObjectStore = from_url(url) if "://" in url else LocalStore(Path(url).absolute(), mkdir=True)

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
                await obstore.put_async(self._store, key, data)
            return key
        except (BaseError, OSError, TimeoutError) as error:
            LOST.labels("not_stored").inc()
            telemetry.log.warning("picture_not_stored", error=type(error).__name__)
            return ""


def _decode(picture: str) -> tuple[bytes, str] | None:
    _, _, encoded = picture.rpartition(",")  # Some write it as a data URL.
    try:
        data = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        return None
    for magic, extension in _MAGIC:
        if data.startswith(magic):
            return data, f"{hashlib.sha256(data).hexdigest()}.{extension}"
    return None
