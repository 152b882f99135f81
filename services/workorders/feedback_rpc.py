"""The methods of linli.workorders.v1.WorkOrdersService about ratings, follow-ups and duplicates."""

from uuid import UUID

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from services.workorders import feedback_operations
from services.workorders.order_rpc import order_message, order_messages
from services.workorders.orders import Order


async def rate_order(tx: Transaction, request: pb.RateOrderRequest) -> pb.Order:
    """The reporter rates an order."""
    rating_text = text(request.text, "text", lines=True) if request.text else ""
    return await order_message(tx, await feedback_operations.rate(tx, UUID(request.order_id), request.stars, rating_text))


async def follow_up_order(tx: Transaction, request: pb.FollowUpOrderRequest) -> pb.Order:
    """Staff note what a follow-up found."""
    note = text(request.note, "note", lines=True)
    return await order_message(tx, await feedback_operations.follow_up(tx, UUID(request.order_id), note))


async def list_similar_orders(tx: Transaction, request: pb.ListSimilarOrdersRequest) -> pb.ListOrdersResponse:
    """Orders that may be about the same thing, the likeliest first."""
    similar = await feedback_operations.list_similar(tx, UUID(request.order_id))

    async def fetch(after: tuple[int, UUID] | None, limit: int) -> list[tuple[int, Order]]:
        return [pair for pair in similar if after is None or _key(pair) > after][:limit]

    pairs, token = await page(request, tuple[int, UUID], fetch, _key)
    return pb.ListOrdersResponse(orders=await order_messages(tx, [order for _, order in pairs]), next_page_token=token)


def _key(pair: tuple[int, Order]) -> tuple[int, UUID]:
    likeness, order = pair
    return -likeness, order.order_id


async def link_duplicate(tx: Transaction, request: pb.LinkDuplicateRequest) -> pb.Order:
    """An order is about the same thing as another."""
    return await order_message(tx, await feedback_operations.link(tx, UUID(request.order_id), UUID(request.original_order_id)))


async def unlink_duplicate(tx: Transaction, request: pb.UnlinkDuplicateRequest) -> pb.Order:
    """It is not."""
    return await order_message(tx, await feedback_operations.unlink(tx, UUID(request.order_id)))
