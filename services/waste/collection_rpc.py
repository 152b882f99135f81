"""The methods of linli.waste.v1.WasteService about collection: trucks, emptyings, and plans of nights."""

from datetime import date
from functools import partial
from uuid import UUID

from linli.waste.v1 import waste_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.rpc import Call, outside_transaction
from servicekit.texts import text
from servicekit.times import to_datetime, to_day, to_timestamp
from services.waste import collection_operations, collection_store, planning
from services.waste.bin_rpc import CATEGORY, bin_message, place_message, place_of
from services.waste.collection_store import PlannedNight, Truck
from services.waste.deposit_operations import CATEGORY_MESSAGE
from services.waste.rounds import Figures, ForecastFill, Round

# Trucks.


async def create_truck(tx: Transaction, request: pb.CreateTruckRequest) -> pb.Truck:
    """Enters a truck."""
    truck = await collection_operations.create_truck(
        tx,
        name=text(request.name, "name"),
        category=CATEGORY[request.category],
        capacity_grams=request.capacity_grams,
        depot=place_of(request.depot),
        shift_start_minute=request.shift_start_minute,
        shift_end_minute=request.shift_end_minute,
        fixed_round=[UUID(bin_id) for bin_id in request.fixed_round_bin_ids],
    )
    return _truck(truck)


async def update_truck(tx: Transaction, request: pb.UpdateTruckRequest) -> pb.Truck:
    """Changes a truck, or takes it out of use."""
    truck = await collection_operations.update_truck(
        tx,
        UUID(request.truck_id),
        in_use=request.in_use if request.HasField("in_use") else None,
        fixed_round=[UUID(bin_id) for bin_id in request.fixed_round.bin_ids] if request.HasField("fixed_round") else None,
    )
    return _truck(truck)


async def list_trucks(tx: Transaction, request: pb.ListTrucksRequest) -> pb.ListTrucksResponse:
    """Trucks by name."""
    trucks, token = await page(request, str, partial(collection_store.list_trucks, tx), lambda truck: truck.name)
    return pb.ListTrucksResponse(trucks=[_truck(truck) for truck in trucks], next_page_token=token)


def _truck(truck: Truck) -> pb.Truck:
    return pb.Truck(
        truck_id=str(truck.truck_id),
        name=truck.name,
        category=CATEGORY_MESSAGE[truck.category],
        capacity_grams=truck.capacity_grams,
        depot=place_message(truck.depot),
        shift_start_minute=truck.shift_start_minute,
        shift_end_minute=truck.shift_end_minute,
        fixed_round_bin_ids=[str(bin_id) for bin_id in truck.fixed_round],
        in_use=truck.in_use,
    )


# Emptyings.


async def record_emptying(tx: Transaction, request: pb.RecordEmptyingRequest) -> pb.Bin:
    """Notes that compartments were emptied."""
    emptied_at = to_datetime(request.emptied_at, "emptied_at") if request.HasField("emptied_at") else None
    return bin_message(await collection_operations.record_emptying(tx, UUID(request.bin_id), list(request.compartments), emptied_at))


# Plans.


@outside_transaction
async def plan_collection(call: Call, request: pb.PlanCollectionRequest) -> pb.CollectionPlan:
    """Plans a night's rounds, and compares them with today's fixed ones."""
    day = to_day(request.day, "day") if request.day else None
    return _plan(await planning.plan_collection(call, call.caller.community_id, day))


async def get_collection_plan(tx: Transaction, request: pb.GetCollectionPlanRequest) -> pb.CollectionPlan:
    """A night's plan."""
    return _plan(await collection_operations.get_plan(tx, to_day(request.day, "day")))


async def list_collection_plans(tx: Transaction, request: pb.ListCollectionPlansRequest) -> pb.ListCollectionPlansResponse:
    """The nights that were planned, with their comparisons and without their rounds."""
    nights, token = await page(request, date, partial(collection_store.list_plans, tx), lambda night: night.day)
    return pb.ListCollectionPlansResponse(plans=[_plan(night) for night in nights], next_page_token=token)


def _plan(night: PlannedNight) -> pb.CollectionPlan:
    return pb.CollectionPlan(
        day=night.day.isoformat(),
        planned_at=to_timestamp(night.planned_at),
        rounds=[_round(each) for each in night.plan.rounds],
        planned=_figures(night.plan.planned),
        fixed=_figures(night.plan.fixed),
        left_out=[_forecast_fill(each) for each in night.plan.left_out],
    )


def _round(each: Round) -> pb.Round:
    stops = [
        pb.Stop(bin_id=str(stop.bin_id), arrives_at=to_timestamp(stop.arrives_at), grams=stop.grams, fill_permille=stop.fill_permille)
        for stop in each.stops
    ]
    return pb.Round(truck_id=str(each.truck_id), stops=stops, distance_m=each.distance_m, load_grams=each.load_grams)


def _figures(figures: Figures) -> pb.RoundFigures:
    return pb.RoundFigures(distance_m=figures.distance_m, emptyings=figures.emptyings, overflow_minutes=figures.overflow_minutes)


def _forecast_fill(each: ForecastFill) -> pb.ForecastFill:
    full_at = to_timestamp(each.full_at)
    return pb.ForecastFill(bin_id=str(each.bin_id), compartment=each.compartment, fill_permille=each.fill_permille, full_at=full_at)
