"""The methods of linli.waste.v1.WasteService about bins and their alarms."""

from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from linli.waste.v1 import waste_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_timestamp
from services.waste import operations, store
from services.waste.bin_operations import ALARM_KIND_MESSAGE
from services.waste.bins import Alarm, Bin, Compartment, Place
from services.waste.deposit_operations import CATEGORY_MESSAGE

CATEGORY: Final = {message: category for category, message in CATEGORY_MESSAGE.items()}
_UNKNOWN_PERMILLE: Final = -1


async def create_bin(tx: Transaction, request: pb.CreateBinRequest) -> pb.Bin:
    """Enters a bin."""
    building_id = UUID(request.building_id) if request.building_id else None
    compartments = [Compartment(each.name, CATEGORY[each.category], each.capacity_grams) for each in request.compartments]
    created = await operations.create_bin(
        tx, text(request.name, "name"), request.device_id, building_id, place_of(request.place), compartments
    )
    return bin_message(created)


async def update_bin(tx: Transaction, request: pb.UpdateBinRequest) -> pb.Bin:
    """Changes a bin."""
    changed = await operations.update_bin(
        tx,
        UUID(request.bin_id),
        name=text(request.name, "name") if request.HasField("name") else None,
        place=place_of(request.place) if request.HasField("place") else None,
        in_use=request.in_use if request.HasField("in_use") else None,
    )
    return bin_message(changed)


async def get_bin(tx: Transaction, request: pb.GetBinRequest) -> pb.Bin:
    """A bin."""
    return bin_message(await operations.get_bin(tx, UUID(request.bin_id)))


async def list_bins(tx: Transaction, request: pb.ListBinsRequest) -> pb.ListBinsResponse:
    """The community's bins by name."""
    bins, token = await page(request, str, partial(store.list_bins, tx), lambda found: found.name)
    return pb.ListBinsResponse(bins=[bin_message(found) for found in bins], next_page_token=token)


async def list_bin_alarms(tx: Transaction, request: pb.ListBinAlarmsRequest) -> pb.ListBinAlarmsResponse:
    """The community's alarms, newest first."""
    fetch = partial(store.list_alarms, tx, request.open_only)
    alarms, token = await page(request, tuple[datetime, UUID], fetch, lambda alarm: (alarm.raised_at, alarm.alarm_id))
    return pb.ListBinAlarmsResponse(alarms=[_alarm_message(alarm) for alarm in alarms], next_page_token=token)


def bin_message(found: Bin) -> pb.Bin:
    """A bin as the contract says it."""
    return pb.Bin(
        bin_id=str(found.bin_id),
        name=found.name,
        device_id=found.device_id,
        building_id=str(found.building_id or ""),
        place=place_message(found.place),
        compartments=[_compartment_message(each) for each in found.compartments.values()],
        alarms=[_alarm_message(alarm) for alarm in found.alarms],
        in_use=found.in_use,
        last_heard_at=to_timestamp(found.last_heard_at),
    )


def _compartment_message(compartment: Compartment) -> pb.Compartment:
    return pb.Compartment(
        name=compartment.name,
        category=CATEGORY_MESSAGE[compartment.category],
        capacity_grams=compartment.capacity_grams,
        fill_permille=_UNKNOWN_PERMILLE if compartment.fill_permille is None else compartment.fill_permille,
        emptied_at=to_timestamp(compartment.emptied_at),
    )


def _alarm_message(alarm: Alarm) -> pb.BinAlarm:
    return pb.BinAlarm(
        alarm_id=str(alarm.alarm_id),
        bin_id=str(alarm.bin_id),
        kind=ALARM_KIND_MESSAGE[alarm.kind],
        compartment=alarm.compartment,
        raised_at=to_timestamp(alarm.raised_at),
        cleared_at=to_timestamp(alarm.cleared_at),
    )


def place_of(place: pb.Place) -> Place:
    """A place that somebody named."""
    return Place(place.latitude, place.longitude)


def place_message(place: Place) -> pb.Place:
    """A place as the contract says it."""
    return pb.Place(latitude=place.latitude, longitude=place.longitude)
