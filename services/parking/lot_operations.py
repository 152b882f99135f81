"""Lots, their areas, spaces and lanes, their tariffs, and how full they are."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from uuid import UUID

from linli.parking.v1.events_pb2 import LaneConfigured
from servicekit.communities import find_time_zone
from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import span
from services.parking import lot_store, record_store, store
from services.parking.lanes import Direction
from services.parking.lot_store import Area, Lane, Lot, Space, TariffVersion
from services.parking.operations import Abandonment
from services.parking.record_store import Day
from services.parking.tariff_document import Problem, ProblemCode, TariffInvalid, read_tariff

_DECISION_LIMIT_MS: Final = 2000
_DAYS_MAX: Final = 93
# The request says them, and the version follows from those before it.
_NOT_IN_RULES: Final = ("version", "effective_from")


async def create_lot(tx: Transaction, name: str, *, full_lot_admits_permits: bool, admits_temporary: bool) -> Lot:
    """Adds a lot. Raises Conflict when the community has one of its name."""
    lot = Lot(new_id(), name, full_lot_admits_permits, admits_temporary)
    if not await lot_store.insert_lot(tx, lot):
        raise Conflict("parking.lot_exists", "已有同名停车场", "There is a car park of this name")
    return lot


async def get_lot(tx: Transaction, lot_id: UUID) -> Lot:
    """A lot with its areas and lanes. Raises NotFound."""
    lots = await lot_store.list_lots(tx, None, 1, lot_id=lot_id)
    if not lots:
        raise lot_not_found()
    return lots[0]


def lot_not_found() -> NotFound:
    """The error for a lot that does not exist, or is another community's."""
    return NotFound("parking.lot_not_found", "没有找到该停车场", "There is no such car park")


async def create_area(tx: Transaction, lot_id: UUID, name: str, capacity: int) -> Area:
    """Adds an area to a lot. Raises NotFound, and Conflict when the lot has one of its name."""
    await get_lot(tx, lot_id)
    area = Area(new_id(), lot_id, name, capacity)
    if not await lot_store.insert_area(tx, area):
        raise Conflict("parking.area_exists", "该停车场已有同名区域", "The car park has an area of this name")
    return area


async def create_space(tx: Transaction, area_id: UUID, label: str) -> Space:
    """Adds a space to an area. Raises NotFound, and Conflict when the area has one of its label."""
    await check_area(tx, area_id)
    space = Space(new_id(), area_id, label)
    if not await lot_store.insert_space(tx, space):
        raise Conflict("parking.space_exists", "该区域已有同号车位", "The area has a space of this label")
    return space


async def check_area(tx: Transaction, area_id: UUID) -> None:
    """Raises NotFound when there is no such area."""
    if await lot_store.lot_of_area(tx, area_id) is None:
        raise NotFound("parking.area_not_found", "没有找到该区域", "There is no such area")


async def create_lane(
    tx: Transaction,
    lot_id: UUID,
    *,
    name: str,
    direction: Direction,
    camera_device_id: str,
    lane_number: int,
    gate_device_id: str,
    opens_offline: bool,
    decision_limit_ms: int,
) -> Lane:
    """Adds a lane with its camera and its gate; a limit of 0 takes two seconds (GB 50396).

    Raises NotFound, and Conflict when the lot has a lane of its name or the camera watches another lane.
    """
    await get_lot(tx, lot_id)
    limit_ms = decision_limit_ms or _DECISION_LIMIT_MS
    lane = Lane(new_id(), lot_id, name, direction, camera_device_id, lane_number, gate_device_id, opens_offline, limit_ms, version=1)
    if not await lot_store.insert_lane(tx, lane):
        zh, en = "已有同名车道，或该相机已用于其他车道", "There is a lane of this name, or the camera watches another lane"
        raise Conflict("parking.lane_exists", zh, en)
    _publish_lane(tx, lane)
    return lane


async def update_lane(tx: Transaction, lane_id: UUID, *, opens_offline: bool, decision_limit_ms: int) -> Lane:
    """Changes what a lane does when a decision does not come in time. Raises NotFound."""
    lane = await lot_store.update_lane(tx, lane_id, opens_offline, decision_limit_ms)
    if lane is None:
        raise NotFound("parking.lane_not_found", "没有找到该车道", "There is no such lane")
    _publish_lane(tx, lane)
    return lane


def _publish_lane(tx: Transaction, lane: Lane) -> None:
    configured = LaneConfigured(
        lane_id=str(lane.lane_id),
        camera_device_id=lane.camera_device_id,
        gate_device_id=lane.gate_device_id,
        decision_limit_ms=lane.decision_limit_ms,
        opens_offline=lane.opens_offline,
    )
    tx.publish(configured, version=lane.version)


# Tariffs.


async def publish_tariff(tx: Transaction, lot_id: UUID, effective_from: datetime, rules: Mapping[str, object]) -> TariffVersion:
    """Adds a version of a lot's tariff: `rules` are a tariff document without its version and its beginning.

    Raises NotFound, Invalid with the path of everything that is wrong, and Conflict when it would begin in the past: a price that was shown
    is never changed. A lot's first version may, for there was no price before it.
    """
    if not await store.lock_lot(tx, lot_id):
        raise lot_not_found()
    version = await lot_store.latest_tariff_version(tx, lot_id) + 1
    if version > 1 and effective_from < tx.now:
        raise Conflict("parking.tariff_in_the_past", "新版本不能在过去生效", "A new version cannot begin in the past")
    document = {**rules, "version": version, "effective_from": effective_from.isoformat()}
    extra = (name for name in _NOT_IN_RULES if name in rules)
    problems = [Problem(name, ProblemCode.UNKNOWN_FIELD, "不属于 rules", "is not one of the rules") for name in extra]
    try:
        tariff = read_tariff(document)
    except TariffInvalid as error:
        problems += error.problems
    if problems:
        fields = [FieldViolation(f"rules.{problem.path}".rstrip("."), problem.code, problem.en) for problem in problems]
        raise Invalid(TariffInvalid.code, "收费规则有误", "These rules are no tariff", fields=fields)
    published = TariffVersion(new_id(), lot_id, version, effective_from, tariff.effective_until, json.dumps(document, ensure_ascii=False))
    await lot_store.insert_tariff(tx, published)
    return published


def rules_of(tariff: TariffVersion) -> dict[str, object]:
    """The rules as they were published."""
    document: dict[str, object] = json.loads(tariff.document)
    return {name: value for name, value in document.items() if name not in _NOT_IN_RULES}


# Figures.


async def get_occupancy(tx: Transaction, lot_id: UUID) -> record_store.Occupancy:
    """How full a lot is now. Raises NotFound."""
    occupancy = await record_store.occupancy(tx, lot_id)
    if occupancy is None:
        raise lot_not_found()
    return occupancy


async def hourly_occupancy(tx: Transaction, lot_id: UUID, day: date) -> list[tuple[int, int]]:
    """The local hours of a day that have ended, each with the cars that were inside at its end. Raises NotFound."""
    await get_occupancy(tx, lot_id)
    zone = await find_time_zone(tx)
    hours = [(hour, (datetime.combine(day, time(hour), zone).astimezone(UTC) + timedelta(hours=1))) for hour in range(24)]
    ended = [(hour, ends) for hour, ends in hours if ends <= tx.now]
    inside = await record_store.count_inside(tx, lot_id, [ends for _, ends in ended], tx.resource(Abandonment).longest)
    return [(hour, cars) for (hour, _), cars in zip(ended, inside, strict=True)]


async def daily_figures(tx: Transaction, lot_id: UUID, first: date, last: date) -> tuple[int, list[Day]]:
    """The lot's capacity, and the figures of local calendar days. Raises NotFound, and Invalid for a range that is inverted or too long."""
    occupancy = await get_occupancy(tx, lot_id)
    if not 0 <= (last - first).days < _DAYS_MAX:
        violation = FieldViolation("last_day", "parking.days", "must be from 0 to 92 days after the first")
        raise Invalid("parking.days", "日期范围有误", "The range of days is not valid", fields=[violation])
    zone = await find_time_zone(tx)
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    calendar = [(day, *span(day, day, zone)) for day in days]
    return occupancy.capacity, await record_store.days(tx, lot_id, calendar)
