"""What parking does when something happened elsewhere: one function for each event that it consumes."""

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from linli.access.v1.events_pb2 import PassChanged
from linli.billing.v1.events_pb2 import PaymentRefunded, PaymentSucceeded
from linli.device.v1.events_pb2 import GateAcknowledged, OpenedOffline, PlateRead
from linli.identity.v1.events_pb2 import VehicleRegistered, VehicleRemoved
from servicekit.database import Transaction
from servicekit.errors import Invalid
from servicekit.events import Received
from servicekit.identifiers import parse_id, to_id
from servicekit.times import to_datetime
from services.parking import operations, pass_operations, pass_store
from services.parking.operations import ORIGIN, Seen
from services.parking.plates import NotAPlate, normalise
from services.parking.sessions import Movement
from services.parking.store import Record

_MALFORMED: Final = "parking.event_malformed"
_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)
_FAR_AHEAD: Final = datetime(2199, 1, 1, tzinfo=UTC)
_OUTCOMES: Final = {
    GateAcknowledged.OUTCOME_OPENED: "opened",
    GateAcknowledged.OUTCOME_EXPIRED: "expired",
    GateAcknowledged.OUTCOME_REFUSED: "refused",
    GateAcknowledged.OUTCOME_FAILED: "failed",
}


async def decide_lane_on_plate_read(tx: Transaction, event: Received[PlateRead]) -> None:
    """A camera read a plate: the lane opens or holds the car."""
    read = event.message
    seen = Seen(
        record=Record(read.device_id, read.record_id),
        plate=read.plate,
        plate_colour=read.plate_colour,
        plate_class=read.plate_class,
        occurred_at=_camera_time(read.occurred_at),
        received_at=to_datetime(read.received_at, "received_at"),
    )
    await operations.decide_lane(tx, seen, read.lane_number)


async def book_passage_on_opened_offline(tx: Transaction, event: Received[OpenedOffline]) -> None:
    """A lane's offline rule opened the barrier: what passed is booked and reviewed."""
    opened = event.message
    seen = Seen(
        record=Record(opened.device_id, opened.record_id),
        plate=opened.plate,
        plate_colour="",
        plate_class="",
        occurred_at=_camera_time(opened.occurred_at),
        received_at=to_datetime(opened.opened_at, "opened_at"),
    )
    await operations.record_offline_opening(tx, to_id(opened.lane_id, "lane_id", _MALFORMED), seen)


async def note_outcome_on_gate_acknowledged(tx: Transaction, event: Received[GateAcknowledged]) -> None:
    """A gate says what became of a command."""
    command_id = parse_id(event.message.command_id)
    outcome = _OUTCOMES.get(event.message.outcome)
    if command_id is not None and outcome is not None:
        await operations.record_gate_outcome(tx, event.message.device_id, command_id, outcome)


async def release_vehicle_on_payment(tx: Transaction, event: Received[PaymentSucceeded]) -> None:
    """A stay was paid for: it is credited, and a car that waits at an exit for it goes."""
    payment = event.message
    if payment.origin == ORIGIN:
        movement = Movement(to_datetime(payment.paid_at, "paid_at"), payment.amount_fen)
        session_id, charge_id = to_id(payment.origin_id, "origin_id", _MALFORMED), to_id(payment.charge_id, "charge_id", _MALFORMED)
        await operations.book_movement(tx, session_id, charge_id, to_id(payment.payment_id, "payment_id", _MALFORMED), movement)


async def debit_session_on_refund(tx: Transaction, event: Received[PaymentRefunded]) -> None:
    """What was paid for a stay went back. A refund of what was never owed, such as a second payment, was never credited."""
    refund = event.message
    if refund.origin == ORIGIN and refund.reopened_charge:
        movement = Movement(event.occurred_at, -refund.amount_fen)
        session_id, charge_id = to_id(refund.origin_id, "origin_id", _MALFORMED), to_id(refund.charge_id, "charge_id", _MALFORMED)
        await operations.book_movement(tx, session_id, charge_id, to_id(refund.refund_id, "refund_id", _MALFORMED), movement)


async def remember_vehicle_on_vehicle_registered(tx: Transaction, event: Received[VehicleRegistered]) -> None:
    """A household has a vehicle, or its people changed."""
    vehicle = event.message
    accounts = [to_id(account_id, "account_ids", _MALFORMED) for account_id in vehicle.account_ids]
    household_id = to_id(vehicle.household_id, "household_id", _MALFORMED)
    await pass_store.save_vehicle(
        tx, to_id(vehicle.vehicle_id, "vehicle_id", _MALFORMED), household_id, _plate(vehicle.plate), accounts, event.version
    )


async def forget_vehicle_on_vehicle_removed(tx: Transaction, event: Received[VehicleRemoved]) -> None:
    """A household has a vehicle no more."""
    vehicle_id = to_id(event.message.vehicle_id, "vehicle_id", _MALFORMED)
    await pass_store.save_vehicle(tx, vehicle_id, None, _plate(event.message.plate), (), event.version)


async def follow_access_pass_on_pass_changed(tx: Transaction, event: Received[PassChanged]) -> None:
    """A visitor's or contractor's pass comes with a plate, changed or ended. One without a plate is none of parking's."""
    access_pass = event.message
    plate = _plate(access_pass.plate)
    if plate:
        validity = to_datetime(access_pass.valid_from, "valid_from"), to_datetime(access_pass.valid_until, "valid_until")
        household_id = to_id(access_pass.household_id, "household_id", _MALFORMED) if access_pass.household_id else None
        ended_at = None if access_pass.active else event.occurred_at
        pass_id = to_id(access_pass.pass_id, "pass_id", _MALFORMED)
        await pass_operations.follow_access_pass(tx, pass_id, household_id, plate, validity, event.version, ended_at)


def _camera_time(said: Timestamp) -> datetime:
    """When a camera says it was; the nearest time that can be reckoned with, of a camera that has lost the date."""
    try:
        return to_datetime(said, "occurred_at")
    except Invalid:
        return _LONG_AGO if said.seconds < _LONG_AGO.timestamp() else _FAR_AHEAD


def _plate(text: str) -> str:
    """One spelling with the cameras', also of what is no plate: then no camera will read it."""
    try:
        return (normalise(text) or "").replace("\0", "")
    except NotAPlate:
        return ""
