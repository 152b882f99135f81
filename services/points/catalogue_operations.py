"""The catalogue: items, and their stock on the ledger.

Each item is a unit of the ledger. Its `stock` never goes below zero, so the ledger decides about the last one, and in the same transfer
about the points that pay for it. What came in is `supplied`, what residents have picked up `handed_out`.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

import ledger
from ledger import Account, Balance, Posting, Side, Transfer
from servicekit.auth import denied
from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound, ServiceError
from servicekit.identifiers import derived_id, new_id
from services.points import catalogue_store, holders
from services.points.catalogue_store import Item
from services.points.holders import NOTHING

_WRITE: Final = "points.items.write"


async def create_item(tx: Transaction, item: Item, stock: int) -> tuple[Item, Balance]:
    """Adds an item with its first stock. Raises Invalid for dates in the wrong order."""
    _check_dates(item.valid_from, item.valid_until)
    turn = await holders.take_turn(tx, [tx.community_id])
    await catalogue_store.insert_item(tx, item)
    await turn.open_accounts(_accounts(tx.community_id, item.item_id))
    if stock:
        await _supply(turn, tx, item.item_id, stock, "")
    return item, Balance(stock, 0, 0)


async def update_item(
    tx: Transaction, item_id: UUID, *, points: int | None, description: str | None, valid_until: datetime | None, listed: bool | None
) -> tuple[Item, Balance]:
    """Changes what is given; what is reserved already stays as it was reserved.

    Raises NotFound, and Invalid for an end that is not after the beginning.
    """
    item = await catalogue_store.find_item(tx, item_id, for_change=True)
    if item is None:
        raise item_not_found()
    changed = replace(
        item,
        points=item.points if points is None else points,
        description=item.description if description is None else description,
        valid_until=item.valid_until if valid_until is None else valid_until,
        listed=item.listed if listed is None else listed,
    )
    _check_dates(changed.valid_from, changed.valid_until)
    await catalogue_store.update_item(tx, changed)
    return changed, await _stock_of(tx, item_id)


def _check_dates(valid_from: datetime, valid_until: datetime | None) -> None:
    if valid_until is not None and valid_until <= valid_from:
        violation = FieldViolation("valid_until", "points.item_dates", "must be after valid_from")
        raise Invalid("points.item_dates", "有效期有误", "The validity is not possible", fields=[violation])


async def adjust_stock(tx: Transaction, item_id: UUID, change: int, reason: str) -> tuple[Item, Balance]:
    """Adds to an item's stock, or takes from it. Raises NotFound, and Conflict when less is there that nobody has reserved."""
    item = await catalogue_store.find_item(tx, item_id)
    if item is None:
        raise item_not_found()
    turn = await holders.take_turn(tx, [tx.community_id])
    await _supply(turn, tx, item_id, change, reason)
    return item, (await turn.balances([stock_id(item_id)]))[stock_id(item_id)]


async def _supply(turn: ledger.Turn, tx: Transaction, item_id: UUID, change: int, reason: str) -> None:
    postings = (Posting(_supplied_id(item_id), change), Posting(stock_id(item_id), -change))
    details = {"reason": reason, "by": str(tx.caller.account_id)}
    (answer,) = await turn.apply([Transfer(new_id(), tx.community_id, "stock", postings, details)])
    if not isinstance(answer, ServiceError):
        return
    if answer.code == "ledger.insufficient":
        zh, en = "可用库存不足，已预约的不能减少", "There is less in stock that nobody has reserved"
        raise Conflict("points.stock_insufficient", zh, en)
    raise answer


async def get_item(tx: Transaction, item_id: UUID) -> tuple[Item, Balance]:
    """An item and its stock. Raises NotFound, also for one that is not listed, unless the caller may change items."""
    item = await catalogue_store.find_item(tx, item_id)
    if item is None or not (item.listed or tx.caller.may(_WRITE)):
        raise item_not_found()
    return item, await _stock_of(tx, item_id)


async def list_items(tx: Transaction, is_all: bool, after: UUID | None, limit: int) -> list[tuple[Item, Balance]]:
    """The catalogue with its stock, newest first. Raises Denied when somebody who may not change items asks for all."""
    if is_all and not tx.caller.may(_WRITE):
        raise denied(_WRITE)
    items = await catalogue_store.list_items(tx, is_all, after, limit)
    stocks = await ledger.balances(tx, [stock_id(item.item_id) for item in items])
    return [(item, stocks.get(stock_id(item.item_id), NOTHING)) for item in items]


async def _stock_of(tx: Transaction, item_id: UUID) -> Balance:
    return await ledger.balance(tx, stock_id(item_id)) or NOTHING


def item_not_found() -> NotFound:
    """The error for an item that is not there, or not for this caller."""
    return NotFound("points.item_not_found", "没有找到该兑换品", "There is no such item")


# Accounts. The side of each is the one on which it grows; an item's id in hexadecimal is its unit.


def stock_id(item_id: UUID) -> UUID:
    """The account of what there is of an item."""
    return derived_id("points.stock", str(item_id))


def handed_out_id(item_id: UUID) -> UUID:
    """The account of what has been picked up of an item."""
    return derived_id("points.handed_out", str(item_id))


def _supplied_id(item_id: UUID) -> UUID:
    return derived_id("points.supplied", str(item_id))


def _accounts(community_id: UUID, item_id: UUID) -> list[Account]:
    return [
        Account(_supplied_id(item_id), community_id, item_id.hex, Side.DEBIT),
        Account(stock_id(item_id), community_id, item_id.hex, Side.CREDIT, 0),
        Account(handed_out_id(item_id), community_id, item_id.hex, Side.CREDIT),
    ]
