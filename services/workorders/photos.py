"""What reaches the blob store, outside of any transaction: looking at what was uploaded, deleting what nobody shows."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from servicekit.blobs import Blobs
from servicekit.database import PLATFORM
from servicekit.rpc import Call
from services.workorders import photo_operations, photo_store
from services.workorders.photo_store import Photo

_AT_ONCE: Final = 100


async def look_at(call: Call, photo_ids: Sequence[UUID]) -> list[Photo]:
    """The caller's photos, looked at: pictures, and not too large. Raises NotFound, Conflict, Invalid, and Unavailable."""
    if not photo_ids:
        return []
    async with call.transaction() as tx:
        photos = await photo_operations.find_own(tx, photo_ids)
    blobs = call.resource(Blobs)
    photo_operations.check_stored(photos, {photo.photo_id: await blobs.look(photo.key) for photo in photos})
    return photos


async def delete_unattached(call: Call) -> None:
    """Deletes photos that nobody has shown with an order within a day: first the blobs, so that none is left without its row."""
    while True:
        async with call.transaction(PLATFORM) as tx:
            photos = await photo_store.list_unattached(tx, call.now - photo_operations.DELETED_AFTER, _AT_ONCE)
        for photo in photos:
            await call.resource(Blobs).delete(photo.key)
        async with call.transaction(PLATFORM) as tx:
            await photo_store.delete_photos(tx, [photo.photo_id for photo in photos])
        if len(photos) < _AT_ONCE:
            return
