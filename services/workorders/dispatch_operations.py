"""Finding somebody for an order: offers one after the other, open to all (抢单), given by hand (派单); accepting and passing on.

Whom to prefer is in `dispatch.py`.
"""

from datetime import timedelta
from typing import Final
from uuid import UUID

from servicekit import communities
from servicekit.database import Transaction
from servicekit.errors import Conflict
from servicekit.staff import list_staff
from servicekit.timers import Due, cancel_timers, set_timers
from services.workorders import notices, order_operations, order_store, technician_operations, technician_store, terms_store
from services.workorders.dispatch import Candidate, Need, Reason, Way, has_skill, rank, to_facts, weigh
from services.workorders.orders import WORKED_ON, Kind, Order, State

# The kind and name of the timer at which an offer lapses.
OFFER: Final = "offer"


async def list_candidates(tx: Transaction, order: Order) -> list[Candidate]:
    """Everybody who can do an order, the best first."""
    local = tx.now.astimezone(await communities.find_time_zone(tx))
    return rank(await _need(tx, order), await technician_store.technicians_in_use(tx), local)


async def _need(tx: Transaction, order: Order) -> Need:
    position = None if order.building_id is None else await technician_store.find_building_position(tx, order.building_id)
    return Need(order.skill, order.building_id, position)


async def begin(tx: Transaction, order: Order) -> Order:
    """Finds somebody for an order, whose row is locked. A complaint waits for a person to choose, and the first of the chain is told."""
    if order.kind is not Kind.COMPLAINT:
        return await offer(tx, order)
    terms = await terms_store.find_terms(tx, order.terms_id)
    notices.tell(tx, await list_staff(tx, terms.escalation_roles[0]), order, "reported", ("待受理", "waits to be looked at"))
    return order


async def unlink(tx: Transaction, order: Order) -> Order:
    """A linked order, whose row is locked, on its own again; somebody is found for it while it is open."""
    order = await order_operations.amend(tx, order, "unlinked", account_id=tx.caller.account_id, duplicate_of_order_id=None)
    return await begin(tx, order) if order.is_open else order


async def offer(tx: Transaction, order: Order, *, account_id: UUID | None = None, note: str = "") -> Order:
    """Offers an order, whose row is locked, to whoever fits best of everybody. `account_id` is who asked for it, None when nobody had to.

    Raises Conflict for an order that cannot be dispatched.
    """
    await technician_store.forget_asked(tx, order.order_id)
    return await _offer_next(tx, order, account_id, note)


async def _offer_next(tx: Transaction, order: Order, account_id: UUID | None = None, note: str = "") -> Order:
    """Offers it to the best who works now and was not asked yet; opens it to all with the skill when there is nobody."""
    candidates = await list_candidates(tx, order)
    on_shift = [each for each in candidates if each.reason.on_shift]
    asked = await technician_store.list_asked(tx, order.order_id)
    best = next((each for each in on_shift if each.technician.account_id not in asked), None)
    if best is None:
        return await _open_to_all(tx, order, candidates, account_id, note, is_somebody_on_shift=bool(on_shift))
    technician = best.technician
    terms = await terms_store.find_terms(tx, order.terms_id)
    until = tx.now + timedelta(seconds=terms.offer_s)
    await technician_store.add_asked(tx, order.order_id, [technician.account_id])
    await set_timers(tx, [Due(OFFER, order.order_id, OFFER, until)])
    return await _dispatch(
        tx,
        order,
        "offered",
        account_id,
        note,
        offered_to_account_id=technician.account_id,
        offer_until=until,
        dispatch_reason=to_facts(best.reason),
    )


async def _open_to_all(
    tx: Transaction, order: Order, candidates: list[Candidate], account_id: UUID | None, note: str, *, is_somebody_on_shift: bool
) -> Order:
    await cancel_timers(tx, order.order_id, OFFER)
    reason = Reason(Way.OPEN if is_somebody_on_shift else Way.OPEN_OFF_SHIFT, order.skill)
    opened = await _dispatch(tx, order, "opened", account_id, note, is_open_to_all=True, dispatch_reason=to_facts(reason))
    everybody = [each.technician.account_id for each in candidates]
    notices.tell(tx, everybody, opened, "open", ("可抢单，先到先得", "is open to whoever takes it first"))
    if is_somebody_on_shift:
        kind, texts = "nobody_took_it", ("无人接单，请安排", "was taken by nobody who was asked, please see to it")
    else:
        kind, texts = "nobody_on_shift", ("当前无人在班，请安排", "finds nobody on shift, please see to it")
    notices.tell(tx, await technician_operations.list_foremen(tx, None), opened, kind, texts)
    return opened


async def _dispatch(tx: Transaction, order: Order, action: str, account_id: UUID | None, note: str, **changes: object) -> Order:
    """Dispatches an order; whoever had it is told that they have it no more, and no team has it until somebody does."""
    changes = {"team_id": None, **changes}
    dispatched = await order_operations.move(tx, order, State.DISPATCHED, action, account_id=account_id, note=note, **changes)
    if order.technician_account_id not in (None, account_id, dispatched.technician_account_id):
        assert order.technician_account_id is not None
        notices.tell(tx, [order.technician_account_id], dispatched, "passed_on", ("已转给他人", "has gone to somebody else"))
    return dispatched


async def lapse_offer(tx: Transaction, due: Due) -> None:
    """Nobody has answered an offer: the next is asked."""
    order = await order_store.lock_order(tx, due.subject_id)
    if order is not None and order.offer_until is not None and order.offer_until <= tx.now:
        await _offer_next(tx, order)


async def dispatch_order(tx: Transaction, order_id: UUID, technician_account_id: UUID | None, note: str) -> Order:
    """Gives an order to a technician (派单), who must still accept it, or offers it to whoever fits best when none is named.

    Raises NotFound for either, and Conflict for an order that cannot be dispatched, or a technician who cannot do it.
    """
    order = await order_operations.lock_any(tx, order_id)
    if technician_account_id is None:
        return await offer(tx, order, account_id=tx.caller.account_id, note=note)
    technician = await technician_operations.get_technician(tx, technician_account_id)
    if not has_skill(technician, order.skill):
        raise Conflict(
            "workorders.skill_missing", "该人员不具备所需技能或已停用", "The technician lacks the skill, or is not in use any more"
        )
    await cancel_timers(tx, order_id, OFFER)
    await technician_store.add_asked(tx, order_id, [technician_account_id])
    local = tx.now.astimezone(await communities.find_time_zone(tx))
    return await _dispatch(
        tx,
        order,
        "dispatched",
        tx.caller.account_id,
        note,
        technician_account_id=technician_account_id,
        team_id=technician.team_id,
        dispatch_reason=to_facts(weigh(await _need(tx, order), technician, local, Way.GIVEN)),
    )


async def accept(tx: Transaction, order_id: UUID) -> Order:
    """The caller takes an order that is offered or was given to them, or is open to all. Of two at once the first gets it.

    Raises NotFound for an order that is none of theirs, and Conflict when somebody else has it, or is asked now.
    """
    account_id = tx.caller.account_id
    order = await order_store.lock_order(tx, order_id)
    technician = await technician_store.find_technician(tx, account_id)
    if order is None or technician is None:
        raise order_operations.order_unknown()
    is_theirs = account_id in (order.offered_to_account_id, order.technician_account_id)
    if is_theirs and order.state in WORKED_ON:
        return order
    if is_theirs or (order.is_open_to_all and has_skill(technician, order.skill)):
        await cancel_timers(tx, order_id, OFFER)
        return await order_operations.move(
            tx,
            order,
            State.ACCEPTED,
            "accepted",
            account_id=account_id,
            technician_account_id=account_id,
            team_id=technician.team_id,
        )
    if not has_skill(technician, order.skill):
        raise order_operations.order_unknown()
    if order.state in WORKED_ON:
        raise Conflict("workorders.taken", "该工单已被他人接单", "Somebody else has taken this order")
    raise Conflict("workorders.not_offered", "该工单目前未派给您", "This order is not offered to you now")


async def pass_on(tx: Transaction, order_id: UUID, reason: str) -> Order:
    """The caller passes an offer on, or gives back what they took; the next is asked. Raises NotFound, and Conflict for who has neither."""
    account_id = tx.caller.account_id
    order = await order_operations.lock_visible(tx, order_id)
    if not order.is_open or account_id not in (order.offered_to_account_id, order.technician_account_id):
        raise Conflict("workorders.not_yours", "该工单未派给您", "This order is not yours")
    await technician_store.add_asked(tx, order_id, [account_id])
    passed_on = await order_operations.move(tx, order, State.DISPATCHED, "passed_on", account_id=account_id, note=reason, team_id=None)
    return await _offer_next(tx, passed_on)
