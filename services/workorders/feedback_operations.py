"""What people say of an order afterwards, and of orders that are about the same thing: ratings, follow-ups, duplicates."""

from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict
from services.workorders import (
    dispatch_operations,
    feedback_store,
    notices,
    order_operations,
    order_store,
    technician_operations,
    terms_store,
    work_operations,
)
from services.workorders.orders import Order, State
from services.workorders.similar import LIKENESS_MIN, WITHIN, Report, likeness

_BAD_STARS_MAX: Final = 2
# What is over may be spoken about.
_OVER: Final = frozenset({State.DONE, State.CONFIRMED})
# An order that somebody works on is no duplicate: it is the original, or is given back first.
_LINKABLE: Final = frozenset({State.REPORTED, State.TRIAGED, State.DISPATCHED, State.REOPENED})


async def rate(tx: Transaction, order_id: UUID, stars: int, rating_text: str) -> Order:
    """The reporter, or somebody of the household, rates a completion, once. One or two stars open the order again and tell the foreman.

    After the time for reopening the foremen are only told. Raises NotFound, and Conflict for an order that is not done, or is rated.
    """
    account_id = tx.caller.account_id
    order = await order_operations.lock_own(tx, order_id)
    if order.state not in _OVER:
        raise Conflict("workorders.not_done", "工单尚未完成", "The order is not done yet")
    if not await feedback_store.insert_rating(tx, order, stars, rating_text):
        raise Conflict("workorders.already_rated", "该工单已评价", "The order is rated already")
    order = await order_operations.amend(tx, order, "rated", account_id=account_id, stars=stars, rating_text=rating_text)
    if stars > _BAD_STARS_MAX:
        return order
    foremen = await technician_operations.list_foremen(tx, order.team_id)
    notices.tell(tx, foremen, order, "rated_badly", (f"被评为 {stars} 星", f"was rated with {stars} of 5 stars"))
    terms = await terms_store.find_terms(tx, order.terms_id)
    assert order.done_at is not None
    return order if tx.now > terms.reopens_until(order.done_at) else await work_operations.reopen(tx, order, rating_text)


async def follow_up(tx: Transaction, order_id: UUID, note: str) -> Order:
    """Notes what staff heard from the reporter afterwards; no neighbour reads it.

    Raises NotFound, and Conflict for an order that is not done.
    """
    order = await order_operations.lock_any(tx, order_id)
    if order.state not in _OVER:
        raise Conflict("workorders.not_done", "工单尚未完成", "The order is not done yet")
    return await order_operations.amend(tx, order, "followed_up", account_id=tx.caller.account_id, note=note)


# Duplicates.


async def list_similar(tx: Transaction, order_id: UUID) -> list[tuple[int, Order]]:
    """Orders that may be about the same thing, and how alike they are in thousandths; the likeliest first. Raises NotFound."""
    order = await order_operations.find_visible(tx, order_id)
    near = await feedback_store.list_near(tx, order, order.reported_at - WITHIN, order.reported_at + WITHIN)
    alike = [(likeness(_report(order), _report(other)), other) for other in near]
    return sorted((pair for pair in alike if pair[0] >= LIKENESS_MIN), key=lambda pair: (-pair[0], pair[1].order_id))


def _report(order: Order) -> Report:
    words = f"{order.title} {order.description}"
    return Report(order.order_id, order.category, order.building_id, order.household_id, order.place, words, order.reported_at)


async def link(tx: Transaction, order_id: UUID, original_order_id: UUID) -> Order:
    """Says that an order is about the same thing as another, whose end is its own.

    Raises NotFound for either, and Conflict when somebody works on it, when it is an original itself, or the other is a duplicate or over.
    """
    if order_id == original_order_id:
        raise Conflict("workorders.linked_to_itself", "工单不能并入自身", "An order cannot be a duplicate of itself")
    # Both are held, in one order, so that nobody links the other one elsewhere meanwhile.
    locked = {each: await order_operations.lock_any(tx, each) for each in sorted((order_id, original_order_id))}
    order, original = locked[order_id], locked[original_order_id]
    if order.duplicate_of_order_id == original_order_id:
        return order
    if original.duplicate_of_order_id is not None or not original.is_open:
        raise Conflict(
            "workorders.original_unfit", "目标工单已结束或已并入其他工单", "The other order is over, or goes on with another itself"
        )
    if order.duplicate_of_order_id is not None or order.state not in _LINKABLE or await feedback_store.has_linked(tx, order_id):
        raise Conflict("workorders.not_linkable", "该工单已在处理、已结束或已有关联", "The order is worked on, over, or linked already")
    changes = {"offered_to_account_id": None, "offer_until": None, "is_open_to_all": False, "technician_account_id": None, "team_id": None}
    note = f"#{original.number}"
    caller = tx.caller.account_id
    return await order_operations.amend(
        tx, order, "linked", account_id=caller, note=note, duplicate_of_order_id=original_order_id, **changes
    )


async def unlink(tx: Transaction, order_id: UUID) -> Order:
    """Says that it is not; somebody is found for an order that is open still. Raises NotFound, and Conflict when it is not linked."""
    order = await order_store.lock_order(tx, order_id)
    if order is None:
        raise order_operations.order_unknown()
    if order.duplicate_of_order_id is None:
        raise Conflict("workorders.not_linked", "该工单未并入其他工单", "The order is not linked to another")
    return await dispatch_operations.unlink(tx, order)
