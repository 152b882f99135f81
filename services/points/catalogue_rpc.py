"""The methods of linli.points.v1.PointsService about the catalogue."""

from functools import partial
from uuid import UUID

from ledger import Balance
from linli.points.v1 import points_pb2 as pb
from servicekit.database import Transaction
from servicekit.identifiers import new_id
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_datetime, to_timestamp
from services.points import catalogue_operations
from services.points.catalogue_store import Item


async def create_item(tx: Transaction, request: pb.CreateItemRequest) -> pb.Item:
    """Adds an item to the catalogue, with its first stock."""
    item = Item(
        item_id=new_id(),
        name_zh=text(request.name_zh, "name_zh"),
        name_en=text(request.name_en, "name_en") if request.name_en else "",
        description=text(request.description, "description", lines=True) if request.description else "",
        points=request.points,
        valid_from=to_datetime(request.valid_from, "valid_from") if request.HasField("valid_from") else tx.now,
        valid_until=to_datetime(request.valid_until, "valid_until") if request.HasField("valid_until") else None,
        per_resident_max=request.per_resident_max,
        pickup_place=text(request.pickup_place, "pickup_place") if request.pickup_place else "",
        listed=True,
    )
    return _item(*await catalogue_operations.create_item(tx, item, request.stock))


async def update_item(tx: Transaction, request: pb.UpdateItemRequest) -> pb.Item:
    """Changes an item."""
    description = text(request.description, "description", lines=True) if request.description else request.description
    item, stock = await catalogue_operations.update_item(
        tx,
        UUID(request.item_id),
        points=request.points if request.HasField("points") else None,
        description=description if request.HasField("description") else None,
        valid_until=to_datetime(request.valid_until, "valid_until") if request.HasField("valid_until") else None,
        listed=request.listed if request.HasField("listed") else None,
    )
    return _item(item, stock)


async def adjust_stock(tx: Transaction, request: pb.AdjustStockRequest) -> pb.Item:
    """Adds to an item's stock, or takes from it."""
    reason = text(request.reason, "reason")
    return _item(*await catalogue_operations.adjust_stock(tx, UUID(request.item_id), request.change, reason))


async def get_item(tx: Transaction, request: pb.GetItemRequest) -> pb.Item:
    """An item of the catalogue."""
    return _item(*await catalogue_operations.get_item(tx, UUID(request.item_id)))


async def list_items(tx: Transaction, request: pb.ListItemsRequest) -> pb.ListItemsResponse:
    """The catalogue, newest first."""
    fetch = partial(catalogue_operations.list_items, tx, request.all)
    rows, token = await page(request, UUID, fetch, lambda row: row[0].item_id)
    return pb.ListItemsResponse(items=[_item(*row) for row in rows], next_page_token=token)


def _item(item: Item, stock: Balance) -> pb.Item:
    return pb.Item(
        item_id=str(item.item_id),
        name_zh=item.name_zh,
        name_en=item.name_en,
        description=item.description,
        points=item.points,
        stock=stock.available,
        reserved=stock.held,
        valid_from=to_timestamp(item.valid_from),
        valid_until=to_timestamp(item.valid_until),
        per_resident_max=item.per_resident_max,
        pickup_place=item.pickup_place,
        listed=item.listed,
    )
