"""Ingest: the register of devices, and what they send, over HTTP and MQTT, on its way to JetStream."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated

import msgspec

from linli.access.v1.events_pb2 import DoorOpenRequested, EntryRefused
from linli.device.v1.events_pb2 import (
    BinDeposited,
    BinReported,
    CredentialPresented,
    DeviceChanged,
    DeviceOffline,
    DeviceOnline,
    DoorAcknowledged,
    GateAcknowledged,
    JournalUploaded,
    ObjectObserved,
    ObservationMade,
    OpenedOffline,
    PlateRead,
    ReadingBatch,
    TerminalReported,
)
from linli.ingest.v1 import ingest_pb2
from linli.parking.v1.events_pb2 import GateOpenRequested, LaneConfigured, VehicleHeld
from servicekit import communities
from servicekit.blobs import BlobSettings, open_blobs
from servicekit.commands import CommandKeys
from servicekit.config import SettingsError
from servicekit.events import event_type
from servicekit.messaging import listen, on, on_outside
from servicekit.service import Asgi, Running, Service, contract, every, every_outside
from services.ingest import batches, device_messages, mqtt_auth, observing, operations, plate_push, reactions, registry, rpc, viid
from services.ingest.credentials import Vault
from services.ingest.decisions import Decisions
from services.ingest.device_http import Network, application, networks
from services.ingest.device_messages import DeviceMessages
from services.ingest.devices import Kind
from services.ingest.digest import Nonces
from services.ingest.images import Images
from services.ingest.intake import Intake
from services.ingest.limits import Limits
from services.ingest.metrics import DoorQuestions
from services.ingest.mqtt_auth import MqttSignIn
from services.ingest.nkeys import AccountKey
from services.ingest.openings import Openings

_DRAIN_S = 2.0
Base64Key = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{43}=$")]
Base64Keys = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9+/]{43}=(,[A-Za-z0-9+/]{43}=)*$")]


class Settings(BlobSettings, frozen=True, kw_only=True):
    """What an installation must say of its devices."""

    # Encrypts devices' credentials: base64 of 32 random bytes. Without it no device can sign in with a digest any more.
    credentials_key: Base64Key
    # What parking signs open commands with: base64 of the 32 bytes of an Ed25519 public key; two, with a comma, while it changes.
    gate_public_key: Base64Keys
    # What access signs commands to door terminals with, of the same form as the key for gates.
    door_public_key: Base64Keys
    # The account seed that signs devices' permits for MQTT, `SA...`; empty when the broker does not ask us.
    mqtt_issuer_seed: str = ""
    # Faces stay on the camera unless the community has the consents that PIPL art. 29 asks for.
    keep_face_pictures: bool = False
    # Comma-separated networks of load balancers whose X-Forwarded-For is believed. GA/T 1400 devices are known by their address.
    trusted_proxies: str = ""
    # How we are called in GA/T 1400.
    viid_server_id: Annotated[str, msgspec.Meta(pattern=r"^\d{20}$")] = "00000000002030000001"


@asynccontextmanager
async def open_resources(running: Running) -> AsyncIterator[Sequence[object]]:
    """What devices' requests stand on, and the ears for MQTT."""
    settings: Settings = running.settings
    assert running.database is not None
    key = base64.b64decode(settings.credentials_key)
    devices = registry.Registry(running.database, running.clock)
    intake = Intake(
        clock=running.clock,
        database=running.database,
        publisher=running.publisher,
        registry=devices,
        vault=Vault(key),
        nonces=Nonces(key),
        images=Images(open_blobs(settings)),
        decisions=Decisions(),
        limits=Limits(monotonic),
        keep_face_pictures=settings.keep_face_pictures,
        viid_server_id=settings.viid_server_id,
    )
    keys = {Kind.GATE: _keys("GATE", settings.gate_public_key), Kind.TERMINAL: _keys("DOOR", settings.door_public_key)}
    openings = Openings(keys, devices, running.publisher, running.clock)
    questions = DoorQuestions()
    messages = DeviceMessages(intake, openings, questions, running.nats, running.process.stream_replicas)
    sign_in = None
    if settings.mqtt_issuer_seed:
        sign_in = MqttSignIn(intake, running.nats, _account_key(settings.mqtt_issuer_seed), messages.keep)
        await sign_in.start()
    hearing = asyncio.create_task(messages.run())
    try:
        yield [intake, devices, openings, questions, messages, intake.vault, intake.decisions]
    finally:
        if sign_in is not None:
            await sign_in.stop()
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
        await openings.close()
        await intake.background.stop(_DRAIN_S)
        await devices.write_contacts()


def _keys(name: str, text: str) -> CommandKeys:
    try:
        return CommandKeys(text)
    except ValueError:
        raise SettingsError(f"LINLI_INGEST_{name}_PUBLIC_KEY is wrong: it holds no Ed25519 public key") from None


def _account_key(seed: str) -> AccountKey:
    try:
        return AccountKey(seed)
    except ValueError:
        raise SettingsError("LINLI_INGEST_MQTT_ISSUER_SEED is wrong: it is no account seed") from None


def devices_http(running: Running) -> Asgi:
    """The HTTP of devices. Decisions of the last seconds are read again first: cameras that waited when we went away push again."""
    intake = running.resources.get(Intake)
    intake.background.start(reactions.recall_decisions(running))
    routes = {**plate_push.routes(intake), **viid.routes(intake), **batches.routes(intake), **observing.routes(intake)}
    return application(routes, intake.background.start, _proxies(running.settings.trusted_proxies))


def _proxies(text: str) -> Sequence[Network]:
    try:
        return networks(text)
    except ValueError:
        raise SettingsError("LINLI_INGEST_TRUSTED_PROXIES is wrong: it must be a comma-separated list of networks") from None


_RECALLED = [event_type(GateOpenRequested), event_type(VehicleHeld)]

SERVICE = Service(
    name="ingest",
    settings=Settings,
    migrations=[Path(__file__).parent / "migrations"],
    api=contract(ingest_pb2.DESCRIPTOR, "IngestService", rpc),
    publishes=[
        PlateRead,
        ObjectObserved,
        ReadingBatch,
        GateAcknowledged,
        DoorAcknowledged,
        OpenedOffline,
        BinDeposited,
        BinReported,
        CredentialPresented,
        TerminalReported,
        JournalUploaded,
        ObservationMade,
        DeviceChanged,
        DeviceOnline,
        DeviceOffline,
    ],
    consumes=[
        listen(GateOpenRequested, reactions.answer_camera_on_gate_open_requested),
        listen(VehicleHeld, reactions.answer_camera_on_vehicle_held),
        listen(DoorOpenRequested, reactions.measure_door_on_door_open_requested),
        listen(EntryRefused, reactions.measure_door_on_entry_refused),
        on_outside(GateOpenRequested, reactions.send_command_on_gate_open_requested),
        on_outside(DoorOpenRequested, reactions.send_command_on_door_open_requested),
        on_outside(EntryRefused, reactions.tell_terminal_on_entry_refused),
        listen(GateAcknowledged, reactions.stop_sending_on_gate_acknowledged),
        listen(DoorAcknowledged, reactions.stop_sending_on_door_acknowledged),
        listen(DeviceChanged, reactions.forget_device_on_device_changed),
        on(LaneConfigured, reactions.keep_lane_on_lane_configured),
        communities.FOLLOWED,
    ],
    jobs=[
        every(seconds=5, run=operations.tell_who_came_and_went),
        every(minutes=1, run=operations.forget_old_nonces),
        every_outside(seconds=2, run=registry.write_contacts),
        every_outside(seconds=15, run=device_messages.sample_messages),
        every_outside(seconds=60, run=operations.count_devices),
    ],
    resources=open_resources,
    http=devices_http,
    nats_publishes=[
        "devices.*.commands",
        mqtt_auth.REPLIES,
        *device_messages.NATS_PUBLISHES,
        *(f"$JS.API.CONSUMER.CREATE.{kind.stream}.*.{kind.filter_subject}" for kind in _RECALLED),
    ],
    nats_subscribes=[mqtt_auth.SUBJECT, *device_messages.NATS_SUBSCRIBES],
    always_on=True,
)
