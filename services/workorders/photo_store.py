"""The SQL of photos. The pictures themselves are blobs."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from servicekit.database import Transaction


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo that somebody sends; `order_id` is None until it is shown with an order."""

    photo_id: UUID
    community_id: UUID
    uploaded_by: UUID
    bytes: int
    created_at: datetime
    order_id: UUID | None = None

    @property
    def key(self) -> str:
        """What its blob is called."""
        return f"workorders/{self.community_id}/{self.photo_id}"


_PHOTO = "SELECT photo_id, community_id, uploaded_by, bytes, created_at, order_id FROM photos "
_INSERT_PHOTO = "INSERT INTO photos (photo_id, community_id, uploaded_by, bytes, created_at) VALUES ($1, $2, $3, $4, $5)"


async def insert_photo(tx: Transaction, photo: Photo) -> None:
    """Adds a photo that is about to come."""
    await tx.execute(_INSERT_PHOTO, photo.photo_id, photo.community_id, photo.uploaded_by, photo.bytes, photo.created_at)


_COUNT_UNATTACHED = "SELECT count(*) FROM photos WHERE order_id IS NULL AND created_at > $2 AND uploaded_by = $1 AND community_id = $3"


async def count_unattached(tx: Transaction, account_id: UUID, since: datetime) -> int:
    """How many photos somebody has asked to send since an instant and shown with nothing."""
    count: int = await tx.fetchval(_COUNT_UNATTACHED, account_id, since, tx.community_id)
    return count


_FIND_PHOTOS = _PHOTO + "WHERE photo_id = ANY($1::uuid[])"


async def find_photos(tx: Transaction, photo_ids: Collection[UUID]) -> dict[UUID, Photo]:
    """Photos by their ids; unknown ones are absent."""
    return {row["photo_id"]: _photo(row) for row in await tx.fetch(_FIND_PHOTOS, list(photo_ids))}


# In the order in which they are named.
_ATTACH = """
UPDATE photos SET order_id = $2, attached_at = $3 FROM unnest($1::uuid[]) AS named (photo_id)
WHERE photos.photo_id = named.photo_id AND photos.order_id IS NULL
"""


async def attach(tx: Transaction, photo_ids: Sequence[UUID], order_id: UUID) -> int:
    """Shows photos with an order, whose row is locked. Returns how many were shown with none before."""
    return await tx.execute(_ATTACH, list(photo_ids), order_id, tx.now)


_COUNT_ATTACHED = "SELECT count(*) FROM photos WHERE order_id = $1"


async def count_attached(tx: Transaction, order_id: UUID) -> int:
    """How many photos an order has."""
    count: int = await tx.fetchval(_COUNT_ATTACHED, order_id)
    return count


_LIST_PHOTOS = _PHOTO + "WHERE order_id = ANY($1::uuid[]) ORDER BY order_id, attached_at, photo_id"


async def list_photos(tx: Transaction, order_ids: Iterable[UUID]) -> dict[UUID, list[Photo]]:
    """The photos of orders, in the order in which they came; orders without any are absent."""
    found: dict[UUID, list[Photo]] = {}
    for row in await tx.fetch(_LIST_PHOTOS, list(order_ids)):
        found.setdefault(row["order_id"], []).append(_photo(row))
    return found


_LIST_UNATTACHED = _PHOTO + "WHERE order_id IS NULL AND created_at < $1 ORDER BY created_at LIMIT $2"


async def list_unattached(tx: Transaction, before: datetime, limit: int) -> list[Photo]:
    """Photos that were asked for before an instant and are shown with nothing, in any scope."""
    return [_photo(row) for row in await tx.fetch(_LIST_UNATTACHED, before, limit)]


_DELETE_PHOTOS = "DELETE FROM photos WHERE photo_id = ANY($1::uuid[]) AND order_id IS NULL"


async def delete_photos(tx: Transaction, photo_ids: Collection[UUID]) -> None:
    """Forgets photos that are shown with nothing."""
    await tx.execute(_DELETE_PHOTOS, list(photo_ids))


def _photo(row: asyncpg.Record) -> Photo:
    return Photo(**row)
