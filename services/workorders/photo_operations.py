"""Photos: where a phone sends one, and which may be shown with an order. Who reaches the blob store is `photos.py`."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from servicekit.blobs import Blobs, Stored, Upload, picture_type
from servicekit.database import Transaction
from servicekit.errors import Conflict, Denied, Exhausted, Invalid, NotFound, ServiceError
from servicekit.identifiers import new_id
from services.workorders import order_operations, photo_store
from services.workorders.orders import Order, Viewer
from services.workorders.photo_store import Photo

# The contract's: a report names at most as many, and an upload asks for at most so many bytes.
PHOTOS_MAX: Final = 9
BYTES_MAX: Final = 10 * 1024 * 1024
_UPLOAD_FOR: Final = timedelta(minutes=15)
_SHOWN_FOR: Final = timedelta(minutes=15)
# Photos that one account has sent, or is about to, and shown with nothing.
_WAITING_MAX: Final = 50
# What is shown with nothing for so long can be no more, and is deleted some hours later.
_ATTACHED_WITHIN: Final = timedelta(hours=20)
DELETED_AFTER: Final = timedelta(hours=24)


async def create_upload(tx: Transaction, size: int) -> tuple[UUID, Upload]:
    """A new photo of the caller's, and where to send it. Raises Exhausted when too many wait to be shown with an order."""
    if await photo_store.count_unattached(tx, tx.caller.account_id, tx.now - DELETED_AFTER) >= _WAITING_MAX:
        raise Exhausted("workorders.too_many_photos", "待提交的照片过多", "Too many photos wait for their order", retry_after_s=3600)
    photo = Photo(new_id(), tx.community_id, tx.caller.account_id, size, tx.now)
    await photo_store.insert_photo(tx, photo)
    return photo.photo_id, tx.resource(Blobs).upload(photo.key, bytes_max=size, now=tx.now, lasts=_UPLOAD_FOR)


async def find_own(tx: Transaction, photo_ids: Sequence[UUID]) -> list[Photo]:
    """Photos that the caller has sent, in the order of their ids. Raises NotFound for one of somebody else's."""
    found = await photo_store.find_photos(tx, photo_ids)
    photos = [found[photo_id] for photo_id in photo_ids if photo_id in found and found[photo_id].uploaded_by == tx.caller.account_id]
    if len(photos) < len(photo_ids):
        raise NotFound("workorders.photo_unknown", "没有找到该照片", "There is no such photo")
    return photos


def check_stored(photos: Collection[Photo], stored: Mapping[UUID, Stored | None]) -> None:
    """Raises Conflict for a photo that was not uploaded, and Invalid for one that is too large or no picture."""
    for photo in photos:
        found = stored[photo.photo_id]
        if found is None:
            raise _missing(photo)
        if found.size > min(photo.bytes, BYTES_MAX):
            raise _bad(Invalid, "workorders.photo_too_large", "照片过大", "A photo is larger than it may be", photo)
        if not picture_type(found.head):
            raise _bad(Invalid, "workorders.photo_not_an_image", "上传的文件不是图片", "What was uploaded is no picture", photo)


async def attach(tx: Transaction, order: Order, photos: Sequence[Photo]) -> None:
    """Shows photos, which were looked at, with an order, whose row is locked. What it shows already it shows.

    Raises Conflict for one that another order shows, that waited for too long, and when the order has too many.
    """
    there = await photo_store.find_photos(tx, [photo.photo_id for photo in photos])
    fresh = [photo for photo in photos if photo.photo_id not in there or there[photo.photo_id].order_id != order.order_id]
    for photo in fresh:
        if photo.photo_id not in there or photo.created_at < tx.now - _ATTACHED_WITHIN:
            raise _missing(photo)
    if await photo_store.count_attached(tx, order.order_id) + len(fresh) > PHOTOS_MAX:
        zh, en = f"每个工单最多 {PHOTOS_MAX} 张照片", f"An order has at most {PHOTOS_MAX} photos"
        raise Conflict("workorders.too_many_photos", zh, en)
    if await photo_store.attach(tx, [photo.photo_id for photo in fresh], order.order_id) < len(fresh):
        raise Conflict("workorders.photo_used", "照片已用于其他工单", "A photo is shown with another order")


async def check_may_attach(tx: Transaction, order_id: UUID) -> Order:
    """The order, held, when the caller may add photos to it: its reporter, who works on it, and staff.

    Raises NotFound, and Denied for a neighbour.
    """
    order, who = await order_operations.lock_any(tx, order_id), await order_operations.viewer(tx)
    if not is_party(order_operations.visible(order, who), who):
        raise Denied("workorders.not_yours", "您不是该工单的相关人员", "This order is not yours")
    return order


def is_party(order: Order, who: Viewer) -> bool:
    """Whether somebody is more to an order than a neighbour: its reporter, who works on it, and staff."""
    return who.reads_all or who.dispatches or who.speaks_for(order) or who.has_job(order)


def address(tx: Transaction, photo: Photo) -> str:
    """Where a phone fetches a photo, for some minutes."""
    return tx.resource(Blobs).download(photo.key, now=tx.now, lasts=_SHOWN_FOR)


def _missing(photo: Photo) -> ServiceError:
    return _bad(Conflict, "workorders.photo_missing", "照片尚未上传或已过期", "A photo was not uploaded, or is too old", photo)


def _bad(kind: type[ServiceError], code: str, zh: str, en: str, photo: Photo) -> ServiceError:
    return kind(code, zh, en, details={"photo_id": str(photo.photo_id)})
