"""The methods of linli.workorders.v1.WorkOrdersService about what work costs: prices and quotes."""

from functools import partial
from uuid import UUID

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_timestamp
from services.workorders import order_operations, quote_operations, quote_store
from services.workorders.order_store import find_order
from services.workorders.photo_operations import is_party
from services.workorders.quotes import Price, Quote, QuoteState, Unit

_UNITS = {
    pb.PRICE_UNIT_PIECE: Unit.PIECE,
    pb.PRICE_UNIT_METRE: Unit.METRE,
    pb.PRICE_UNIT_HOUR: Unit.HOUR,
    pb.PRICE_UNIT_VISIT: Unit.VISIT,
}
_UNIT_NUMBERS = {unit: number for number, unit in _UNITS.items()}
_STATE_NUMBERS = {
    QuoteState.OPEN: pb.QUOTE_STATE_OPEN,
    QuoteState.AGREED: pb.QUOTE_STATE_AGREED,
    QuoteState.REFUSED: pb.QUOTE_STATE_REFUSED,
    QuoteState.REPLACED: pb.QUOTE_STATE_REPLACED,
}


async def set_price(tx: Transaction, request: pb.SetPriceRequest) -> pb.PriceItem:
    """Adds a version of a price."""
    price = Price(
        code=request.code,
        version=0,
        name_zh=text(request.name_zh, "name_zh"),
        name_en=text(request.name_en, "name_en"),
        unit=_UNITS[request.unit],
        price_fen=request.price_fen,
        labour=request.labour,
        in_use=request.in_use,
    )
    return _price(await quote_operations.set_price(tx, price))


async def list_prices(tx: Transaction, request: pb.ListPricesRequest) -> pb.ListPricesResponse:
    """The price list by code."""
    prices, token = await page(request, str, partial(quote_store.list_prices, tx), lambda price: price.code)
    return pb.ListPricesResponse(prices=[_price(price) for price in prices], next_page_token=token)


def _price(price: Price) -> pb.PriceItem:
    return pb.PriceItem(
        code=price.code,
        name_zh=price.name_zh,
        name_en=price.name_en,
        unit=_UNIT_NUMBERS[price.unit],
        price_fen=price.price_fen,
        labour=price.labour,
        in_use=price.in_use,
        version=price.version,
    )


async def quote_order(tx: Transaction, request: pb.QuoteOrderRequest) -> pb.Quote:
    """Quotes materials and labour."""
    items = [(item.code, item.quantity_hundredths) for item in request.items]
    return _quote(await quote_operations.quote_order(tx, UUID(request.order_id), items, prepaid=request.prepaid))


async def list_quotes(tx: Transaction, request: pb.ListQuotesRequest) -> pb.ListQuotesResponse:
    """The quotes of an order, newest first, for all who see it but the neighbours: what it costs is none of their business."""
    order_id = UUID(request.order_id)
    order, who = await find_order(tx, order_id), await order_operations.viewer(tx)
    if order is None or not is_party(order, who):
        raise order_operations.order_unknown()
    quotes, token = await page(request, UUID, partial(quote_store.list_quotes, tx, order_id), lambda quote: quote.quote_id)
    return pb.ListQuotesResponse(quotes=[_quote(quote) for quote in quotes], next_page_token=token)


async def agree_to_quote(tx: Transaction, request: pb.AgreeToQuoteRequest) -> pb.Quote:
    """The reporter agrees."""
    return _quote(await quote_operations.agree(tx, UUID(request.order_id), UUID(request.quote_id)))


async def refuse_quote(tx: Transaction, request: pb.RefuseQuoteRequest) -> pb.Quote:
    """The reporter does not agree."""
    reason = text(request.reason, "reason", lines=True) if request.reason else ""
    return _quote(await quote_operations.refuse(tx, UUID(request.order_id), UUID(request.quote_id), reason))


def _quote(quote: Quote) -> pb.Quote:
    return pb.Quote(
        quote_id=str(quote.quote_id),
        order_id=str(quote.order_id),
        lines=[
            pb.QuoteLine(
                code=line.code,
                name_zh=line.name_zh,
                name_en=line.name_en,
                unit=_UNIT_NUMBERS[line.unit],
                quantity_hundredths=line.quantity_hundredths,
                price_fen=line.price_fen,
                amount_fen=line.amount_fen,
            )
            for line in quote.lines
        ],
        total_fen=quote.total_fen,
        prepaid=quote.prepaid,
        state=_STATE_NUMBERS[quote.state],
        quoted_at=to_timestamp(quote.quoted_at),
        answered_at=to_timestamp(quote.answered_at),
    )
