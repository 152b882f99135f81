"""Promises of orders while they are worked on: when they are due, their timers, clocks that stand still. Writes timers, never an order.

What timers do when they fire is in `timer_operations.py`.
"""

from dataclasses import replace
from typing import Final

from servicekit import communities
from servicekit.database import Transaction
from servicekit.holidays import HOLIDAYS
from servicekit.timers import Due, cancel_timers, set_timers
from services.workorders import terms_store
from services.workorders.orders import STOPS_THE_CLOCK, Order, State, Target
from services.workorders.targets import Clock, Moment, Terms, dues, left_s, level_of, moments

# The kind and name of the timer at which an order that is done confirms itself.
CONFIRM: Final = "confirm"


async def clock_of(tx: Transaction, order: Order, terms: Terms) -> Clock:
    """The clock of an order's promises."""
    if order.promise.round_the_clock:
        return Clock()
    zone = await communities.find_time_zone(tx)
    if not terms.follows_holidays:
        return Clock(zone, terms.working_hours)
    return Clock(zone, terms.working_hours, HOLIDAYS.days, HOLIDAYS.working_days)


async def begin(tx: Transaction, order: Order) -> Order:
    """The order with its promises, which begin when it was reported, or now when it is opened again; their timers are set."""
    terms = await terms_store.find_terms(tx, order.terms_id)
    clock = await clock_of(tx, order, terms)
    start = tx.now if order.reopened else order.reported_at
    due = dues(clock, start, order.promise)
    order = replace(
        order, response_due_at=due[Target.RESPONSE], on_site_due_at=due[Target.ON_SITE], done_due_at=due[Target.DONE], clock_stopped_at=None
    )
    timers = []
    for target in filter(order.awaits, Target):
        minutes = order.promise.minutes(target)
        for moment in moments(clock, target, start, minutes * 60, minutes, terms.escalation_roles):
            # Of what would have happened already only that it is missed is news, once.
            if moment.at > tx.now or (level_of(moment.name) and target not in order.missed):
                timers.append(_timer(order, moment))
    if order.version:
        await cancel_promises(tx, order)
    await set_timers(tx, timers)
    return order


async def follow(tx: Transaction, before: Order, after: Order) -> Order:
    """The order after a step, its promises with it: timers of those that were kept are taken back, clocks stop and go on."""
    if after.state is State.REOPENED:
        await cancel_timers(tx, after.order_id)
        return after if after.duplicate_of_order_id else await begin(tx, after)
    if not after.is_open or after.duplicate_of_order_id:
        if before.state is not after.state or before.duplicate_of_order_id != after.duplicate_of_order_id:
            await _end(tx, after)
        return replace(after, clock_stopped_at=None)
    for target in Target:
        if before.awaits(target) and not after.awaits(target):
            await cancel_timers(tx, after.order_id, target)
    stands_still = after.state is State.WAITING and after.waits_for in STOPS_THE_CLOCK
    if stands_still and after.clock_stopped_at is None:
        await cancel_promises(tx, after)
        return replace(after, clock_stopped_at=tx.now)
    if (after.clock_stopped_at and not stands_still) or before.duplicate_of_order_id:
        return await _go_on(tx, after)
    return after


async def _end(tx: Transaction, order: Order) -> None:
    await cancel_timers(tx, order.order_id)
    if order.state is State.DONE and order.done_at is not None and order.duplicate_of_order_id is None:
        terms = await terms_store.find_terms(tx, order.terms_id)
        await set_timers(tx, [Due(CONFIRM, order.order_id, CONFIRM, terms.reopens_until(order.done_at))])


async def _go_on(tx: Transaction, order: Order) -> Order:
    """Gives promises back the time for which they stood still, and sets their timers again."""
    terms = await terms_store.find_terms(tx, order.terms_id)
    clock, since = await clock_of(tx, order, terms), order.clock_stopped_at or tx.now
    timers, due_at = [], {target: order.due_at(target) for target in Target}
    for target in Target:
        due = due_at[target]
        if due is None or not order.awaits(target):
            continue
        left = left_s(clock, due, since)
        if left > 0:
            due_at[target] = clock.after(tx.now, left)
        minutes = order.promise.minutes(target)
        timers += [_timer(order, moment) for moment in moments(clock, target, tx.now, left, minutes, terms.escalation_roles)]
    await set_timers(tx, timers)
    return replace(order, on_site_due_at=due_at[Target.ON_SITE], done_due_at=due_at[Target.DONE], clock_stopped_at=None)


def _timer(order: Order, moment: Moment) -> Due:
    return Due(moment.target, order.order_id, moment.name, moment.at)


async def cancel_promises(tx: Transaction, order: Order) -> None:
    """Takes back the timers of all of an order's promises."""
    for target in Target:
        await cancel_timers(tx, order.order_id, target)
