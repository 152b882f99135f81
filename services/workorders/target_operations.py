"""Promises of orders while they are worked on: when they are due, their timers, clocks that stand still. Writes timers, never an order.

What timers do when they fire is in `timer_operations.py`.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from servicekit import communities
from servicekit.database import Transaction
from servicekit.holidays import HOLIDAYS
from servicekit.timers import Due, cancel_timers, set_timers
from services.workorders import terms_store
from services.workorders.orders import STOPS_THE_CLOCK, Order, State, Target, told_name
from services.workorders.targets import Clock, Terms, due, level_of, moments

# The kind and name of the timer at which an order that is done confirms itself.
CONFIRM: Final = "confirm"


async def _clock_of(tx: Transaction, order: Order, terms: Terms) -> Clock:
    """The clock of an order's promises."""
    if order.promise.round_the_clock:
        return Clock()
    zone = await communities.find_time_zone(tx)
    if not terms.follows_holidays:
        return Clock(zone, terms.working_hours)
    return Clock(zone, terms.working_hours, HOLIDAYS.days, HOLIDAYS.working_days)


async def promise(tx: Transaction, order: Order) -> Order:
    """The order with its promises counted from `clock_from`, but for those that are kept; timers are set for what was not told of them."""
    terms = await terms_store.find_terms(tx, order.terms_id)
    clock = await _clock_of(tx, order, terms)
    now = order.clock_stopped_at or tx.now
    dues = {
        target: order.due_at(target) if order.kept_at(target) else due(clock, order.clock_from, order.promise.minutes(target))
        for target in Target
    }
    order = replace(order, response_due_at=dues[Target.RESPONSE], on_site_due_at=dues[Target.ON_SITE], done_due_at=dues[Target.DONE])
    timers = []
    for target in filter(order.awaits, Target):
        for moment in moments(clock, order.clock_from, order.promise.minutes(target), terms.escalation_roles):
            # A warning that would have come already is no use to anybody; a miss is news, however late.
            if told_name(target, moment.name) not in order.told and (moment.at > now or level_of(moment.name)):
                timers.append(Due(target, order.order_id, moment.name, moment.at))
    await set_timers(tx, timers)
    return order


async def follow(tx: Transaction, before: Order, after: Order) -> Order:
    """The order after a step, its promises with it: timers of those that were kept are taken back, clocks stop and go on."""
    if after.state is State.REOPENED and before.state is not State.REOPENED:
        await cancel_timers(tx, after.order_id)
        return after if after.duplicate_of_order_id else await promise(tx, after)
    if not after.is_open or after.duplicate_of_order_id:
        if before.state is not after.state or before.duplicate_of_order_id != after.duplicate_of_order_id:
            await _end(tx, after)
        return replace(after, clock_stopped_at=None)
    is_anew = before.promise != after.promise or before.duplicate_of_order_id is not None
    for target in Target:
        if before.awaits(target) and (is_anew or not after.awaits(target)):
            await cancel_timers(tx, after.order_id, target)
    stands_still = after.state is State.WAITING and after.waits_for in STOPS_THE_CLOCK
    if stands_still and after.clock_stopped_at is None:
        # What is due later is told of when the clock has gone on, so its timers may fire in vain.
        after = replace(after, clock_stopped_at=tx.now)
    elif after.clock_stopped_at is not None and not stands_still:
        after, is_anew = await _go_on(tx, after, after.clock_stopped_at), True
    return await promise(tx, after) if is_anew else after


async def _end(tx: Transaction, order: Order) -> None:
    await cancel_timers(tx, order.order_id)
    if order.state is State.DONE and order.done_at is not None and order.duplicate_of_order_id is None:
        terms = await terms_store.find_terms(tx, order.terms_id)
        await set_timers(tx, [Due(CONFIRM, order.order_id, CONFIRM, terms.reopens_until(order.done_at))])


async def _go_on(tx: Transaction, order: Order, stopped_at: datetime) -> Order:
    """Gives promises back the time for which they stood still."""
    clock = await _clock_of(tx, order, await terms_store.find_terms(tx, order.terms_id))
    clock_from = clock.after(order.clock_from, clock.between(stopped_at, tx.now))
    return replace(order, clock_from=clock_from, clock_stopped_at=None)
