"""Walks and rides that residents' phones report."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from servicekit.database import Transaction
from servicekit.households import is_resident
from servicekit.identifiers import derived_id
from services.points import earning_operations, holders, store, travel
from services.points.earning import Claim, Reason
from services.points.rule_operations import not_a_resident
from services.points.store import Earning
from services.points.travel import Trip

# Longer than any trip may be reported after its end.
_KEPT: Final = travel.AGE_MAX + travel.DURATION_MAX + timedelta(days=1)


async def report_travel(tx: Transaction, trips: Sequence[Trip]) -> list[Earning]:
    """What each of the caller's trips earns, in order; one that was reported before has its first answer.

    Raises Conflict when the caller is no resident.
    """
    turn = await holders.take_turn(tx, [tx.community_id])
    account_id = tx.caller.account_id
    if not await is_resident(tx, account_id):
        raise not_a_resident()
    since, until = min(trip.started_at for trip in trips), max(trip.ended_at for trip in trips)
    counted = await store.find_trips(tx, account_id, [trip.trip_id for trip in trips], since, until)
    known = {trip.trip_id: trip for trip in counted}
    fresh: list[Trip] = []
    reasons: list[Reason] = []
    for trip in trips:
        reason = _judge(tx, trip, known)
        if reason is Reason.NONE and trip.trip_id not in known:
            known[trip.trip_id] = trip
            fresh.append(trip)
        reasons.append(reason)
    await store.insert_trips(tx, account_id, fresh)
    return await earning_operations.earn_sound(tx, turn, [_claim(tx, account_id, trip) for trip in trips], reasons)


def _judge(tx: Transaction, trip: Trip, known: dict[UUID, Trip]) -> Reason:
    """Why a trip earns nothing, whatever the rules are; NONE also for one that counted before."""
    told = known.get(trip.trip_id)
    if told is not None:
        return Reason.NONE if told == trip else Reason.DIFFERS
    reason = travel.judge(trip, tx.now)
    if reason is Reason.NONE and travel.overlaps(trip, known.values()):
        return Reason.TRIP_OVERLAPS
    return reason


def _claim(tx: Transaction, account_id: UUID, trip: Trip) -> Claim:
    return Claim(
        community_id=tx.community_id,
        # A phone chooses the id: another resident's may choose the same.
        claim_id=derived_id("points.trip", str(account_id), str(trip.trip_id)),
        source=trip.source,
        source_id=str(trip.trip_id),
        account_id=account_id,
        measure=trip.distance_m,
        occurred_at=trip.ended_at,
    )


async def forget_trips(tx: Transaction) -> None:
    """Forgets trips that nothing can overlap any more: when people move about is nobody's business. What they earned stays."""
    await store.delete_trips_before(tx, tx.now - _KEPT)
