"""The methods of linli.workorders.v1.WorkOrdersService about photos."""

from uuid import UUID

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.database import Transaction
from servicekit.rpc import Call, outside_transaction
from servicekit.times import to_timestamp
from services.workorders import photo_operations, photos
from services.workorders.order_rpc import order_message


async def create_photo_upload(tx: Transaction, request: pb.CreatePhotoUploadRequest) -> pb.PhotoUpload:
    """Where to send a photo."""
    photo_id, upload = await photo_operations.create_upload(tx, request.bytes)
    return pb.PhotoUpload(
        photo_id=str(photo_id), method=upload.method, url=upload.url, headers=upload.headers, expires_at=to_timestamp(upload.expires_at)
    )


@outside_transaction
async def attach_photo(call: Call, request: pb.AttachPhotoRequest) -> pb.Order:
    """Shows a photo with an order. Outside, because it is looked at first; doing it twice changes nothing."""
    order_id = UUID(request.order_id)
    async with call.transaction() as tx:
        await photo_operations.check_may_attach(tx, order_id)
    looked_at = await photos.look_at(call, [UUID(request.photo_id)])
    async with call.transaction() as tx:
        order = await photo_operations.check_may_attach(tx, order_id)
        await photo_operations.attach(tx, order, looked_at)
        return await order_message(tx, order)
