"""Photos: sent by the phone, looked at before they are shown, and deleted when nobody shows them."""

from pathlib import Path

import pytest

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.blobs import PATH
from servicekit.errors import Conflict, Denied, Exhausted, Invalid, NotFound, ServiceError
from services.workorders import photos
from services.workorders.photo_operations import BYTES_MAX
from tests.workorders.arrange import JPEG, Community, WorkTown

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_leak_is_reported_with_two_photos(community: Community) -> None:
    reporter = await community.resident()
    sent = [await community.photo(reporter) for _ in range(2)]
    order = await reporter.report(photo_ids=sent)
    assert sorted(photo.photo_id for photo in order.photos) == sorted(sent)
    assert all(photo.url.startswith(PATH) and photo.uploaded_by_account_id == str(reporter.account_id) for photo in order.photos)
    with pytest.raises(Conflict) as used:
        await reporter.report(photo_ids=sent)
    assert used.value.code == "workorders.photo_used"


@pytest.mark.parametrize(
    ("content", "error", "code"),
    [
        (b"<html>" + bytes(200), Invalid, "workorders.photo_not_an_image"),
        (b"", Invalid, "workorders.photo_not_an_image"),
        (JPEG + bytes(50 * 1024 * 1024), Invalid, "workorders.photo_too_large"),
        (None, Conflict, "workorders.photo_missing"),
    ],
    ids=["no image", "empty", "50 MB", "not uploaded"],
)
async def test_what_is_no_photo_makes_no_order(community: Community, content: bytes | None, error: type[ServiceError], code: str) -> None:
    reporter = await community.resident()
    upload = await reporter.call("CreatePhotoUpload", pb.CreatePhotoUploadRequest(bytes=BYTES_MAX))
    if content is not None:
        community.store(upload, content)
    with pytest.raises(error) as refused:
        await reporter.report(photo_ids=[await community.photo(reporter), upload.photo_id])
    assert (refused.value.code, refused.value.details) == (code, {"photo_id": upload.photo_id})
    assert (await reporter.call("ListMyOrders", pb.ListMyOrdersRequest())).orders == []


async def test_nobody_asks_to_send_what_is_larger_than_a_photo_or_sends_more_than_they_asked_for(community: Community) -> None:
    reporter = await community.resident()
    with pytest.raises(Invalid):
        await reporter.call("CreatePhotoUpload", pb.CreatePhotoUploadRequest(bytes=50 * 1024 * 1024))
    upload = await reporter.call("CreatePhotoUpload", pb.CreatePhotoUploadRequest(bytes=50))
    community.store(upload, JPEG)
    with pytest.raises(Invalid) as refused:
        await reporter.report(photo_ids=[upload.photo_id])
    assert refused.value.code == "workorders.photo_too_large"
    for _ in range(49):
        await reporter.call("CreatePhotoUpload", pb.CreatePhotoUploadRequest(bytes=50))
    with pytest.raises(Exhausted):
        await reporter.call("CreatePhotoUpload", pb.CreatePhotoUploadRequest(bytes=50))


async def test_a_photo_is_added_by_those_whom_the_order_concerns(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    neighbour, other = await community.resident(building_id=reporter.building_id), await community.resident()
    order = await reporter.report(visibility=pb.VISIBILITY_NEIGHBOURS)

    for person in (reporter, plumber):
        request = pb.AttachPhotoRequest(order_id=order.order_id, photo_id=await community.photo(person))
        shown = await person.call("AttachPhoto", request)
        again = await person.call("AttachPhoto", request)
        assert [photo.photo_id for photo in shown.photos] == [photo.photo_id for photo in again.photos]
    assert len(shown.photos) == 2
    theirs = await community.photo(neighbour)
    with pytest.raises(Denied):
        await neighbour.call("AttachPhoto", pb.AttachPhotoRequest(order_id=order.order_id, photo_id=theirs))
    with pytest.raises(NotFound):
        await other.call("AttachPhoto", pb.AttachPhotoRequest(order_id=order.order_id, photo_id=await community.photo(other)))
    with pytest.raises(NotFound):
        await reporter.call("AttachPhoto", pb.AttachPhotoRequest(order_id=order.order_id, photo_id=theirs))
    seen = await neighbour.see(order)
    assert [photo.uploaded_by_account_id for photo in seen.photos] == ["", ""]
    for _ in range(7):
        await reporter.call("AttachPhoto", pb.AttachPhotoRequest(order_id=order.order_id, photo_id=await community.photo(reporter)))
    with pytest.raises(Conflict) as full:
        await reporter.call("AttachPhoto", pb.AttachPhotoRequest(order_id=order.order_id, photo_id=await community.photo(reporter)))
    assert full.value.code == "workorders.too_many_photos"


async def test_what_nobody_shows_is_deleted_after_a_day(community: Community, workorders: WorkTown) -> None:
    reporter = await community.resident()
    shown, left, never_sent = await community.photo(reporter), await community.photo(reporter), await community.photo(reporter, None)
    order = await reporter.report(photo_ids=[shown])
    (running,) = workorders.running.host.running

    def kept() -> set[str]:
        return {path.name for path in (Path(workorders.blobs) / "workorders" / str(community.community_id)).iterdir()}

    await photos.delete_unattached(running.call())
    assert kept() == {shown, left}
    community.clock.advance(hours=21)
    with pytest.raises(Conflict):
        await reporter.report(photo_ids=[left])
    community.clock.advance(hours=4)
    await photos.delete_unattached(running.call())
    assert kept() == {shown}
    with pytest.raises(NotFound):
        await reporter.report(photo_ids=[never_sent])
    assert len((await reporter.see(order)).photos) == 1
