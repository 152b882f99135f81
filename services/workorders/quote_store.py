"""The SQL of the price list and of quotes. Money is whole fen."""

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from servicekit.database import Transaction
from services.workorders.quotes import Line, Price, Quote, QuoteState, Unit

# Prices.

_PRICE: Final = "SELECT DISTINCT ON (code) code, version, name_zh, name_en, unit, price_fen, labour, in_use FROM prices "
_LIST_PRICES = _PRICE + "WHERE community_id = $1 AND code > $2 ORDER BY code, version DESC LIMIT $3"
_FIND_PRICES = _PRICE + "WHERE community_id = $1 AND code = ANY($2::text[]) ORDER BY code, version DESC"
_INSERT_PRICE = """
INSERT INTO prices (community_id, code, version, name_zh, name_en, unit, price_fen, labour, in_use, set_by, set_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (community_id, code, version) DO NOTHING
"""


async def list_prices(tx: Transaction, after: str | None, limit: int) -> list[Price]:
    """The newest version of each price, by code."""
    return [_price(row) for row in await tx.fetch(_LIST_PRICES, tx.community_id, after or "", limit)]


async def find_prices(tx: Transaction, codes: Collection[str]) -> dict[str, Price]:
    """The newest version of these prices, by code; unknown ones are absent."""
    return {row["code"]: _price(row) for row in await tx.fetch(_FIND_PRICES, tx.community_id, list(codes))}


async def insert_price(tx: Transaction, price: Price) -> bool:
    """Adds a version; False when somebody else has added it."""
    values = (price.name_zh, price.name_en, price.unit, price.price_fen, price.labour, price.in_use, tx.caller.account_id, tx.now)
    return await tx.execute(_INSERT_PRICE, tx.community_id, price.code, price.version, *values) == 1


def _price(row: asyncpg.Record) -> Price:
    return Price(**(dict(row) | {"unit": Unit(row["unit"])}))


# Quotes.

_INSERT_QUOTE = """
INSERT INTO quotes (quote_id, community_id, order_id, lines, total_fen, prepaid, state, quoted_by, quoted_at)
VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, $8, $9)
"""
_QUOTE: Final = """
SELECT quote_id, order_id, lines, total_fen, prepaid, state, quoted_by, quoted_at, answered_at, charge_id FROM quotes WHERE order_id = $1
"""
_FIND_QUOTE = _QUOTE + "AND quote_id = $2"
_FIND_IN_STATE = _QUOTE + "AND state = $2"
_LIST_QUOTES = _QUOTE + "AND ($2::uuid IS NULL OR quote_id < $2) ORDER BY quote_id DESC LIMIT $3"
_ANSWER = "UPDATE quotes SET state = $2, answered_at = $3, answered_by = $4 WHERE quote_id = $1"
_REPLACE = "UPDATE quotes SET state = 'replaced' WHERE order_id = $1 AND state = $2"
_IS_CHARGED = "SELECT EXISTS (SELECT FROM quotes WHERE order_id = $1 AND charge_id = $2)"
_CHARGE = "UPDATE quotes SET charge_id = $2 WHERE quote_id = $1"


async def insert_quote(tx: Transaction, quote: Quote) -> None:
    """Adds a quote; the order's row is locked."""
    lines = msgspec.json.encode(quote.lines).decode()
    values = (quote.total_fen, quote.prepaid, quote.state, quote.quoted_by, quote.quoted_at)
    await tx.execute(_INSERT_QUOTE, quote.quote_id, tx.community_id, quote.order_id, lines, *values)


async def find_quote(tx: Transaction, order_id: UUID, quote_id: UUID) -> Quote | None:
    """A quote of an order; one of another order is none."""
    row = await tx.fetchrow(_FIND_QUOTE, order_id, quote_id)
    return None if row is None else _read(row)


async def find_quote_in(tx: Transaction, order_id: UUID, state: QuoteState) -> Quote | None:
    """The quote of an order that is open, or the one that is agreed: there is one at most."""
    row = await tx.fetchrow(_FIND_IN_STATE, order_id, state)
    return None if row is None else _read(row)


async def list_quotes(tx: Transaction, order_id: UUID, after: UUID | None, limit: int) -> list[Quote]:
    """The quotes of an order, newest first."""
    return [_read(row) for row in await tx.fetch(_LIST_QUOTES, order_id, after, limit)]


async def answer_quote(tx: Transaction, quote_id: UUID, state: QuoteState) -> None:
    """Writes what the caller answered."""
    await tx.execute(_ANSWER, quote_id, state, tx.now, tx.caller.account_id)


async def replace_quote(tx: Transaction, order_id: UUID, state: QuoteState) -> None:
    """A newer quote takes the place of the order's one in this state, if there is one."""
    await tx.execute(_REPLACE, order_id, state)


async def is_charged(tx: Transaction, order_id: UUID, charge_id: UUID) -> bool:
    """Whether a charge is that of one of an order's quotes, be it replaced by now."""
    return bool(await tx.fetchval(_IS_CHARGED, order_id, charge_id))


async def set_charge(tx: Transaction, quote_id: UUID, charge_id: UUID) -> None:
    """Notes the charge for a quote."""
    await tx.execute(_CHARGE, quote_id, charge_id)


def _read(row: asyncpg.Record) -> Quote:
    columns: dict[str, Any] = dict(row)
    return Quote(**(columns | {"lines": msgspec.json.decode(row["lines"], type=list[Line]), "state": QuoteState(row["state"])}))
