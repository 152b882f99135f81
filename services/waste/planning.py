"""Planning a night: gathers what is known, has the forecast and the search work in a thread, and keeps the plan.

A night is from noon to noon: a shift that begins before noon is of the next morning.
"""

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from servicekit import telemetry
from servicekit.communities import find_time_zone
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, Exhausted, ServiceError
from servicekit.rpc import Call
from services.waste import collection_store, forecast, rounds
from services.waste.collection_store import PlannedNight, Standing, Truck
from services.waste.forecast import History, Reading
from services.waste.rounds import Compartment, Night, Plan

# What people bring on the way home from work is known, and no crew has left yet.
_EVENING: Final = time(20)
_NOON_MINUTE: Final = 12 * 60
_DAY: Final = timedelta(days=1)
_MINUTE: Final = timedelta(minutes=1)
# A plan knows nothing of the nights before its own: tomorrow's is a first look, and the evening plans it again.
_DAYS_AHEAD_MAX: Final = 1
# Eight weeks of a bin are up to some thousand readings, and others are served between one part and the next.
_BINS_READ_AT_ONCE: Final = 5
# Each takes a core for a second or a few.
_AT_ONCE_MAX: Final = 2
_at_once = threading.BoundedSemaphore(_AT_ONCE_MAX)
# Of a compartment whose bin has told nothing and that nobody has emptied.
_UNKNOWN_FILL_PERMILLE: Final = 500


@dataclass(frozen=True, slots=True)
class _Known:
    """What a plan is made from."""

    now: datetime
    zone: ZoneInfo
    trucks: Sequence[rounds.Truck]
    standing: Sequence[Standing]
    readings: Mapping[tuple[UUID, str], Sequence[Reading]]


async def plan_collection(call: Call, community_id: UUID, day: date | None, older_than: datetime | None = None) -> PlannedNight:
    """Plans a night of a community, today's when no day is named, and keeps the plan in place of one that is older than that, or of any.

    Raises Conflict when the day is further away than tomorrow or no truck has a shift left in its night, and Exhausted when too many plans
    are being made.
    """
    async with call.transaction(community_id) as tx:
        zone = await find_time_zone(tx)
        today = call.now.astimezone(zone).date()
        day = day or today
        if day > today + _DAY * _DAYS_AHEAD_MAX:
            raise Conflict("waste.day_too_far", "最多提前一天规划收运", "A night is planned at most one day ahead")
        trucks = _tonight(await collection_store.trucks_in_use(tx), day, zone, call.now)
        if not trucks:
            raise Conflict("waste.no_truck", "当晚没有可用的收运车班次", "No truck has a shift left in that night")
        standing = await collection_store.list_compartments(tx)
        readings: dict[tuple[UUID, str], list[Reading]] = {}
        bin_ids = list(dict.fromkeys(each.bin_id for each in standing))
        for first in range(0, len(bin_ids), _BINS_READ_AT_ONCE):
            part = bin_ids[first : first + _BINS_READ_AT_ONCE]
            readings |= await collection_store.list_readings(tx, part, call.now - forecast.WINDOW)
    plan = await asyncio.to_thread(_plan, _Known(call.now, zone, trucks, standing, readings))
    night = PlannedNight(day, call.now, plan)
    async with call.transaction(community_id) as tx:
        await collection_store.upsert_plan(tx, night, older_than)
    return night


async def plan_tonight(call: Call) -> None:
    """Plans the present night of every community with trucks, once evening has come, unless it has been planned since.

    A community whose night cannot be planned keeps no other from its plan.
    """
    async with call.transaction(PLATFORM) as tx:
        zones = await collection_store.communities_with_trucks(tx)
    for community_id, zone in zones.items():
        night = (call.now.astimezone(zone) - _DAY / 2).date()
        evening = datetime.combine(night, _EVENING, zone)
        if call.now < evening:
            continue
        async with call.transaction(community_id) as tx:
            plan = await collection_store.find_plan(tx, night)
        if plan is not None and plan.planned_at >= evening:
            continue
        try:
            await plan_collection(call, community_id, night, evening)
        except ServiceError as error:
            telemetry.log.warning("night_not_planned", community_id=str(community_id), error=str(error))


def _tonight(trucks: Iterable[Truck], day: date, zone: ZoneInfo, now: datetime) -> list[rounds.Truck]:
    """The trucks of which some of their shift in that night is left, with what is left of it."""
    # Whole minutes, so that the search and the simulation, which count seconds, agree.
    earliest = now.replace(second=0, microsecond=0) + _MINUTE
    tonight = []
    for truck in trucks:
        first_day = day if truck.shift_start_minute >= _NOON_MINUTE else day + _DAY
        last_day = first_day if truck.shift_end_minute > truck.shift_start_minute else first_day + _DAY
        begins_at = max(earliest, _instant(first_day, truck.shift_start_minute, zone))
        ends_at = _instant(last_day, truck.shift_end_minute, zone)
        if begins_at < ends_at:
            shift = (begins_at, ends_at)
            tonight.append(rounds.Truck(truck.truck_id, truck.category, truck.capacity_grams, truck.depot, *shift, truck.fixed_round))
    return tonight


def _instant(day: date, minute: int, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(minute // 60, minute % 60), zone).astimezone(UTC)


def _plan(known: _Known) -> Plan:
    """Learns, looks ahead and searches. Raises Exhausted when enough others do."""
    if not _at_once.acquire(blocking=False):
        zh, en = "正在规划的收运过多，请稍后再试", "Too many nights are being planned; please try again"
        raise Exhausted("waste.planning_busy", zh, en, retry_after_s=5)
    try:
        begins_at, ends_at = min(truck.begins_at for truck in known.trucks), max(truck.ends_at for truck in known.trucks)
        horizon = ends_at + _DAY
        histories = {(each.bin_id, each.compartment.name): _history(each, known) for each in known.standing}
        habits = forecast.learn(histories, known.now, known.zone)
        compartments = []
        for each in known.standing:
            fill_permille, known_at = _last_known(each, known.now)
            habit = habits[each.bin_id, each.compartment.name]
            outlook = forecast.look_ahead(habit, fill_permille, known_at, horizon, known.zone)
            part = each.compartment
            compartments.append(Compartment(each.bin_id, part.name, part.category, part.capacity_grams, each.place, outlook))
        return rounds.plan_night(Night(begins_at, ends_at, horizon, known.trucks, compartments))
    finally:
        _at_once.release()


def _history(each: Standing, known: _Known) -> History:
    readings = known.readings.get((each.bin_id, each.compartment.name), ())
    return History(each.compartment.category, readings, each.last_heard_at or known.now)


def _last_known(each: Standing, now: datetime) -> tuple[int, datetime]:
    """How full a compartment was when that was last known: a bin that is heard and tells no change has none."""
    part = each.compartment
    if part.fill_permille is not None and part.fill_at is not None and (part.emptied_at is None or part.emptied_at <= part.fill_at):
        fill_permille, known_at = part.fill_permille, part.fill_at
    elif part.emptied_at is not None:
        fill_permille, known_at = 0, part.emptied_at
    else:
        return _UNKNOWN_FILL_PERMILLE, now
    # No habit reaches further back than the readings that it was learned from.
    return fill_permille, min(now, max(known_at, each.last_heard_at or known_at, now - forecast.WINDOW))
