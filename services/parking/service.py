"""Parking: cars come in, park, pay and leave. Read this first."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from linli.access.v1.events_pb2 import PassChanged
from linli.billing.v1.events_pb2 import ChargeRaised, PaymentRefunded, PaymentSucceeded
from linli.device.v1.events_pb2 import GateAcknowledged, OpenedOffline, PlateRead
from linli.identity.v1.events_pb2 import VehicleRegistered, VehicleRemoved
from linli.notification.v1.events_pb2 import Notified
from linli.parking.v1 import parking_pb2
from linli.parking.v1.events_pb2 import GateOpenRequested, LaneConfigured, VehicleEntered, VehicleExited, VehicleHeld
from servicekit import communities
from servicekit.commands import CommandSigner
from servicekit.config import SettingsError
from servicekit.messaging import on
from servicekit.service import Running, Service, contract, every
from servicekit.signing import Signer
from services.parking import operations, reactions, rpc
from services.parking.operations import Abandonment, QuoteValidity
from services.parking.pass_operations import VisitorRules


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The key that signs gate commands, and what a community grants."""

    # Ed25519, 32 bytes in base64.
    gate_key: str
    # A quoted price holds for as long as a payment takes, even when it rises meanwhile, and no longer than it is fresh.
    quote_minutes_min: Annotated[int, msgspec.Meta(ge=1, le=60)] = 5
    quote_minutes_max: Annotated[int, msgspec.Meta(ge=1, le=60)] = 15
    visitor_free_minutes: Annotated[int, msgspec.Meta(ge=0, le=7 * 24 * 60)] = 120
    visitor_passes_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    abandoned_after_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 30


@asynccontextmanager
async def open_resources(running: Running) -> AsyncIterator[Sequence[object]]:
    """What the operations find in their transactions. Raises SettingsError."""
    settings: Settings = running.settings
    try:
        signer = CommandSigner(Signer(settings.gate_key))
    except ValueError:
        raise SettingsError("LINLI_PARKING_GATE_KEY is wrong: it must be 32 bytes in base64") from None
    yield [
        signer,
        QuoteValidity(timedelta(minutes=settings.quote_minutes_min), timedelta(minutes=settings.quote_minutes_max)),
        VisitorRules(settings.visitor_free_minutes, settings.visitor_passes_max),
        Abandonment(timedelta(days=settings.abandoned_after_days)),
    ]


SERVICE = Service(
    name="parking",
    settings=Settings,
    migrations=[Path(__file__).parent / "migrations"],
    api=contract(parking_pb2.DESCRIPTOR, "ParkingService", rpc),
    resources=open_resources,
    publishes=[VehicleEntered, VehicleExited, GateOpenRequested, VehicleHeld, LaneConfigured, ChargeRaised, Notified],
    consumes=[
        on(PlateRead, reactions.decide_lane_on_plate_read),
        on(OpenedOffline, reactions.book_passage_on_opened_offline),
        on(GateAcknowledged, reactions.note_outcome_on_gate_acknowledged),
        on(PaymentSucceeded, reactions.release_vehicle_on_payment),
        on(PaymentRefunded, reactions.debit_session_on_refund),
        on(PassChanged, reactions.follow_access_pass_on_pass_changed),
        communities.FOLLOWED,
        on(VehicleRegistered, reactions.remember_vehicle_on_vehicle_registered),
        on(VehicleRemoved, reactions.forget_vehicle_on_vehicle_removed),
    ],
    jobs=[every(minutes=10, run=operations.close_abandoned_sessions)],
)
