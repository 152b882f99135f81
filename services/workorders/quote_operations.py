"""The price list, quotes and the resident's answer, and the charge for what was agreed."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from linli.billing.v1.events_pb2 import ChargeRaised, ChargeWithdrawn
from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.states import advance
from servicekit.times import to_timestamp
from services.workorders import order_operations, quote_store
from services.workorders.orders import WORKED_ON, Order, State, WaitsFor
from services.workorders.quotes import FOLLOWS, TOTAL_MAX_FEN, Line, Price, Quote, QuoteState, line, total_fen

_PAYABLE_FOR: Final = timedelta(days=30)


async def set_price(tx: Transaction, price: Price) -> Price:
    """Adds a version of a price, unless the newest says the same. Raises Conflict when somebody else changes it at the same time."""
    newest = (await quote_store.find_prices(tx, [price.code])).get(price.code)
    if newest is not None and newest == replace(price, version=newest.version):
        return newest
    price = replace(price, version=1 if newest is None else newest.version + 1)
    if not await quote_store.insert_price(tx, price):
        raise Conflict(
            "workorders.price_changed", "该价格刚被他人修改，请重试", "Somebody else has just changed this price; please look again"
        )
    return price


async def quote_order(tx: Transaction, order_id: UUID, items: Sequence[tuple[str, int]], *, prepaid: bool) -> Quote:
    """Quotes an order that the caller works on: codes of prices, and hundredths of a unit of each. A quote that was open is replaced.

    Raises NotFound for the order or a price, Invalid for a total that is a slip of the finger, and Conflict when nobody is there to agree,
    or what was agreed before is paid.
    """
    order = await order_operations.lock_job(tx, order_id)
    if order.state not in WORKED_ON:
        raise Conflict("workorders.not_worked_on", "该工单不在处理中", "The order is not being worked on")
    if order.reporter_account_id is None:
        raise Conflict(
            "workorders.nobody_to_agree", "该工单没有报单人，无法报价", "Nobody reported this order, so nobody can agree to a quote"
        )
    _check_unpaid(order)
    lines = await _lines(tx, items)
    total = total_fen(lines)
    if total == 0 and order.charge_id is not None:
        raise Conflict(
            "workorders.already_charged", "该工单已出账，新报价不能为零", "The order is charged already; a quote cannot take it back"
        )
    if total > TOTAL_MAX_FEN:
        field = FieldViolation("items", "workorders.quote_too_large", "must add up to a million yuan at most")
        raise Invalid("workorders.quote_too_large", "报价总额过大", "The quote is too large", fields=[field])
    quote = Quote(new_id(), order_id, lines, total, prepaid, QuoteState.OPEN, tx.caller.account_id, tx.now)
    await quote_store.replace_quote(tx, order_id, QuoteState.OPEN)
    await quote_store.insert_quote(tx, quote)
    await order_operations.amend(tx, order, "quoted", account_id=tx.caller.account_id)
    return quote


async def _lines(tx: Transaction, items: Sequence[tuple[str, int]]) -> list[Line]:
    prices = await quote_store.find_prices(tx, {code for code, _ in items})
    lines = []
    for code, quantity_hundredths in items:
        price = prices.get(code)
        if price is None or not price.in_use:
            raise NotFound("workorders.price_unknown", "价目表中没有该项目", "The price list has no such item", details={"code": code})
        lines.append(line(price, quantity_hundredths))
    return lines


async def agree(tx: Transaction, order_id: UUID, quote_id: UUID) -> Quote:
    """The reporter, or somebody of the household, agrees to a quote; one that is to be paid first is charged, and the order waits.

    One that takes the place of what was charged already is charged at once too.

    Raises NotFound, and Conflict for a quote that is answered or replaced, or an order that is over.
    """
    order, quote = await _answered(tx, order_id, quote_id, QuoteState.AGREED)
    _check_unpaid(order)
    await quote_store.replace_quote(tx, order_id, QuoteState.AGREED)
    await quote_store.answer_quote(tx, quote_id, QuoteState.AGREED)
    account_id = tx.caller.account_id
    changes: dict[str, Any] = {"amount_fen": quote.total_fen}
    if quote.prepaid or order.charge_id is not None:
        changes |= await _charge(tx, order, quote)
    order = await order_operations.amend(tx, order, "agreed", account_id=account_id, **changes)
    if quote.prepaid and order.charge_id is not None:
        await _wait_for_payment(tx, order)
    return await _get_quote(tx, order_id, quote_id)


async def refuse(tx: Transaction, order_id: UUID, quote_id: UUID, reason: str) -> Quote:
    """The same person does not. Raises NotFound, and Conflict for a quote that is answered or replaced, or an order that is over."""
    order, _ = await _answered(tx, order_id, quote_id, QuoteState.REFUSED)
    await quote_store.answer_quote(tx, quote_id, QuoteState.REFUSED)
    await order_operations.amend(tx, order, "refused", account_id=tx.caller.account_id, note=reason)
    return await _get_quote(tx, order_id, quote_id)


async def _answered(tx: Transaction, order_id: UUID, quote_id: UUID, to: QuoteState) -> tuple[Order, Quote]:
    order = await order_operations.lock_own(tx, order_id)
    quote = await _get_quote(tx, order_id, quote_id)
    zh, en = "该报价已答复或已被新报价取代", "The quote is answered, or a newer one took its place"
    advance(quote.state, to, FOLLOWS, code="workorders.quote_not_open", zh=zh, en=en)
    if order.state not in WORKED_ON:
        raise Conflict("workorders.not_worked_on", "该工单不在处理中", "The order is not being worked on")
    return order, quote


async def _get_quote(tx: Transaction, order_id: UUID, quote_id: UUID) -> Quote:
    quote = await quote_store.find_quote(tx, order_id, quote_id)
    if quote is None:
        raise NotFound("workorders.quote_unknown", "没有找到该报价", "There is no such quote")
    return quote


def _check_unpaid(order: Order) -> None:
    """One order has one charge: what comes on top of a paid one is another order."""
    if order.is_paid:
        raise Conflict(
            "workorders.already_paid", "该工单已付款，新增项目请另报工单", "The order is paid; please report what is new as another"
        )


async def _wait_for_payment(tx: Transaction, order: Order) -> None:
    if order.state is State.WAITING and order.paused_in is not None:
        order = await order_operations.move(tx, order, order.paused_in, "resumed")
    await order_operations.move(tx, order, State.WAITING, "paused", waits_for=WaitsFor.PAYMENT)


async def completion_changes(tx: Transaction, order: Order) -> dict[str, Any]:
    """What completing an order, whose row is locked, changes about its money: what was agreed and is not charged yet is charged now.

    Raises Conflict while a quote waits for its answer.
    """
    if await quote_store.find_quote_in(tx, order.order_id, QuoteState.OPEN) is not None:
        raise Conflict("workorders.quote_open", "报价尚待住户答复，不能完工", "A quote waits for the resident's answer")
    agreed = await quote_store.find_quote_in(tx, order.order_id, QuoteState.AGREED)
    return {} if agreed is None or agreed.charge_id is not None else await _charge(tx, order, agreed)


async def _charge(tx: Transaction, order: Order, quote: Quote) -> dict[str, Any]:
    """Raises the charge in billing, in place of an earlier one; nothing is raised for what costs nothing."""
    if quote.total_fen == 0:
        return {}
    charge_id = new_id()
    await quote_store.set_charge(tx, quote.quote_id, charge_id)
    raised = ChargeRaised(
        charge_id=str(charge_id),
        origin="workorders",
        origin_id=str(order.order_id),
        amount_fen=quote.total_fen,
        text_zh=f"维修工单 #{order.number}",
        text_en=f"Work order #{order.number}",
        account_id=str(order.reporter_account_id or ""),
        payable_until=to_timestamp(tx.now + _PAYABLE_FOR),
        replaces_charge_id=str(order.charge_id or ""),
    )
    tx.publish(raised)
    return {"charge_id": charge_id, "amount_fen": quote.total_fen}


def withdraw_charge(tx: Transaction, order: Order) -> None:
    """Takes back what a cancelled order was charged before anybody paid it; of what was paid, staff decide."""
    if order.charge_id is not None and not order.is_paid:
        tx.publish(ChargeWithdrawn(charge_id=str(order.charge_id)))
