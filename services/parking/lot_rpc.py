"""The methods of linli.parking.v1.ParkingService about lots, lanes, tariffs and figures."""

from functools import partial
from typing import Final
from uuid import UUID

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct, Value

from linli.parking.v1 import parking_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_datetime, to_day, to_timestamp
from services.parking import lot_operations, lot_store
from services.parking.lanes import Direction
from services.parking.lot_store import Area, Lane, Lot, Space, TariffVersion

_DIRECTIONS: Final = {pb.DIRECTION_ENTRY: Direction.ENTRY, pb.DIRECTION_EXIT: Direction.EXIT}
_DIRECTION_NUMBERS: Final = {direction: number for number, direction in _DIRECTIONS.items()}


async def create_lot(tx: Transaction, request: pb.CreateLotRequest) -> pb.Lot:
    """Adds a lot."""
    lot = await lot_operations.create_lot(
        tx,
        text(request.name, "name"),
        full_lot_admits_permits=request.full_lot_admits_permits,
        admits_temporary=request.admits_temporary,
    )
    return _lot(lot)


async def get_lot(tx: Transaction, request: pb.GetLotRequest) -> pb.Lot:
    """A lot with its areas and lanes."""
    return _lot(await lot_operations.get_lot(tx, UUID(request.lot_id)))


async def list_lots(tx: Transaction, request: pb.ListLotsRequest) -> pb.ListLotsResponse:
    """The community's lots."""
    lots, token = await page(request, UUID, partial(lot_store.list_lots, tx), lambda lot: lot.lot_id)
    return pb.ListLotsResponse(lots=[_lot(lot) for lot in lots], next_page_token=token)


def _lot(lot: Lot) -> pb.Lot:
    return pb.Lot(
        lot_id=str(lot.lot_id),
        name=lot.name,
        full_lot_admits_permits=lot.full_lot_admits_permits,
        admits_temporary=lot.admits_temporary,
        areas=[_area(area) for area in lot.areas],
        lanes=[_lane(lane) for lane in lot.lanes],
    )


async def create_area(tx: Transaction, request: pb.CreateAreaRequest) -> pb.Area:
    """Adds an area with its capacity to a lot."""
    return _area(await lot_operations.create_area(tx, UUID(request.lot_id), text(request.name, "name"), request.capacity))


def _area(area: Area) -> pb.Area:
    return pb.Area(area_id=str(area.area_id), lot_id=str(area.lot_id), name=area.name, capacity=area.capacity)


async def create_space(tx: Transaction, request: pb.CreateSpaceRequest) -> pb.Space:
    """Adds a numbered space to an area."""
    return _space(await lot_operations.create_space(tx, UUID(request.area_id), text(request.label, "label")))


async def list_spaces(tx: Transaction, request: pb.ListSpacesRequest) -> pb.ListSpacesResponse:
    """The spaces of an area, by label."""
    area_id = UUID(request.area_id)
    await lot_operations.check_area(tx, area_id)
    spaces, token = await page(request, str, partial(lot_store.list_spaces, tx, area_id), lambda space: space.label)
    return pb.ListSpacesResponse(spaces=[_space(space) for space in spaces], next_page_token=token)


def _space(space: Space) -> pb.Space:
    return pb.Space(space_id=str(space.space_id), area_id=str(space.area_id), label=space.label)


async def create_lane(tx: Transaction, request: pb.CreateLaneRequest) -> pb.Lane:
    """Adds a lane with its camera and its gate."""
    lane = await lot_operations.create_lane(
        tx,
        UUID(request.lot_id),
        name=text(request.name, "name"),
        direction=_DIRECTIONS[request.direction],
        camera_device_id=request.camera_device_id,
        lane_number=request.lane_number,
        gate_device_id=request.gate_device_id,
        opens_offline=request.offline_rule == pb.OFFLINE_RULE_OPEN,
        decision_limit_ms=request.decision_limit_ms,
    )
    return _lane(lane)


async def update_lane(tx: Transaction, request: pb.UpdateLaneRequest) -> pb.Lane:
    """Changes what a lane does when a decision does not come in time."""
    lane = await lot_operations.update_lane(
        tx,
        UUID(request.lane_id),
        opens_offline=request.offline_rule == pb.OFFLINE_RULE_OPEN,
        decision_limit_ms=request.decision_limit_ms,
    )
    return _lane(lane)


def _lane(lane: Lane) -> pb.Lane:
    return pb.Lane(
        lane_id=str(lane.lane_id),
        lot_id=str(lane.lot_id),
        name=lane.name,
        direction=_DIRECTION_NUMBERS[lane.direction],
        camera_device_id=lane.camera_device_id,
        lane_number=lane.lane_number,
        gate_device_id=lane.gate_device_id,
        offline_rule=pb.OFFLINE_RULE_OPEN if lane.opens_offline else pb.OFFLINE_RULE_STAY_SHUT,
        decision_limit_ms=lane.decision_limit_ms,
    )


# Tariffs.


async def publish_tariff(tx: Transaction, request: pb.PublishTariffRequest) -> pb.Tariff:
    """Publishes a tariff version."""
    rules = {name: _json(value) for name, value in request.rules.fields.items()}
    effective_from = to_datetime(request.effective_from, "effective_from")
    return _tariff(await lot_operations.publish_tariff(tx, UUID(request.lot_id), effective_from, rules))


async def list_tariffs(tx: Transaction, request: pb.ListTariffsRequest) -> pb.ListTariffsResponse:
    """The versions of a lot's tariff, newest first."""
    lot_id = UUID(request.lot_id)
    await lot_operations.get_lot(tx, lot_id)
    tariffs, token = await page(
        request, lot_store.VersionNumber, partial(lot_store.list_tariffs, tx, lot_id), lambda tariff: tariff.version
    )
    return pb.ListTariffsResponse(tariffs=[_tariff(tariff) for tariff in tariffs], next_page_token=token)


def _json(value: Value) -> object:
    """A decoded JSON value whose whole numbers are integers: a Struct knows only doubles."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return {name: _json(entry) for name, entry in value.struct_value.fields.items()}
        case "list_value":
            return [_json(entry) for entry in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _tariff(tariff: TariffVersion) -> pb.Tariff:
    return pb.Tariff(
        tariff_id=str(tariff.tariff_id),
        lot_id=str(tariff.lot_id),
        version=tariff.version,
        effective_from=to_timestamp(tariff.effective_from),
        rules=ParseDict(lot_operations.rules_of(tariff), Struct()),
    )


# Figures.


async def get_occupancy(tx: Transaction, request: pb.GetOccupancyRequest) -> pb.Occupancy:
    """How full a lot is now."""
    occupancy = await lot_operations.get_occupancy(tx, UUID(request.lot_id))
    return pb.Occupancy(lot_id=request.lot_id, capacity=occupancy.capacity, inside=occupancy.inside)


async def list_hourly_occupancy(tx: Transaction, request: pb.ListHourlyOccupancyRequest) -> pb.ListHourlyOccupancyResponse:
    """Cars inside at the end of each hour of a local calendar day."""
    hours = await lot_operations.hourly_occupancy(tx, UUID(request.lot_id), to_day(request.day, "day"))
    return pb.ListHourlyOccupancyResponse(hours=[pb.HourlyOccupancy(hour=hour, inside=inside) for hour, inside in hours])


async def list_daily_figures(tx: Transaction, request: pb.ListDailyFiguresRequest) -> pb.ListDailyFiguresResponse:
    """Entries, exits, turnover and revenue for each local calendar day."""
    first, last = to_day(request.first_day, "first_day"), to_day(request.last_day, "last_day")
    capacity, days = await lot_operations.daily_figures(tx, UUID(request.lot_id), first, last)
    return pb.ListDailyFiguresResponse(
        days=[
            pb.DailyFigures(
                day=day.day.isoformat(),
                entries=day.entries,
                exits=day.exits,
                turnover_percent=day.exits * 100 // capacity if capacity else 0,
                revenue_fen=day.revenue_fen,
            )
            for day in days
        ]
    )
