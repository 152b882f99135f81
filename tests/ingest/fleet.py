"""Devices for the tests of this folder: registered through the contract, and speaking HTTP as devices do; and a stand-in for parking."""

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import nats
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import Message

from linli.device.v1.commands_pb2 import DeviceCommand, SignedCommand
from linli.device.v1.events_pb2 import PlateRead
from linli.identity.v1.events_pb2 import CommunityChanged
from linli.ingest.v1.ingest_pb2 import Device, GetDeviceRequest, RegisterDeviceRequest
from linli.parking.v1.events_pb2 import GateOpenRequested, LaneConfigured, VehicleHeld
from servicekit.auth import Principal
from servicekit.config import ProcessSettings, load
from servicekit.database import PLATFORM, Transaction
from servicekit.events import Received, envelope
from servicekit.identifiers import new_id
from servicekit.messaging import Publisher, on
from servicekit.service import Host, Service
from servicekit.times import to_timestamp
from services.ingest import operations, store
from services.ingest.devices import Kind
from services.ingest.registry import Registry
from services.ingest.service import SERVICE
from tests.support import Caller, Platform, Servers, environment, eventually, free_address, platform, principal

INGEST = "linli.ingest.v1.IngestService"
CAMERA = "a1b2c3d4-e5f60718"
VIID_CAMERA = "33010299011190000253"
EDGE_BOX = "box-1"
GATE = "gate-1"
KINDS = {CAMERA: Kind.PLATE_CAMERA, VIID_CAMERA: Kind.VIID, EDGE_BOX: Kind.EDGE_BOX, GATE: Kind.GATE}
JPEG = b"\xff\xd8\xff\xe0" + b"a picture of a car" * 10
PNG = b"\x89PNG\r\n\x1a\n" + b"another picture"

_gate_key = Ed25519PrivateKey.generate()
# What access signs with.
DOOR_KEY = Ed25519PrivateKey.generate()
_counter = iter(range(1, 1_000_000))


def signed_command(
    gate: str, now: datetime, *, key: Ed25519PrivateKey = _gate_key, lives_s: float = 10, action: str = "open"
) -> SignedCommand:
    """An order to a gate, as parking signs it, or to another device by whoever has the key."""
    command = DeviceCommand(
        command_id=str(new_id()),
        device_id=gate,
        action=action,
        nonce=uuid.uuid4().bytes,
        counter=next(_counter),
        expires_at=to_timestamp(now + timedelta(seconds=lives_s)),
    )
    body = command.SerializeToString()
    return SignedCommand(command=body, signature=key.sign(body), key_id="test")


def command_id(signed: SignedCommand) -> str:
    return DeviceCommand.FromString(signed.command).command_id


async def decide_on_plate_read(tx: Transaction, event: Received[PlateRead]) -> None:
    """Lets 京A in through the camera's own barrier, 京G through the gate on MQTT, holds 京H, and never decides on any other plate."""
    read = event.message
    lane = f"lane-of-{read.device_id}"
    if read.plate.startswith(("京A", "京G")):
        gate = GATE if read.plate.startswith("京G") else read.device_id
        tx.publish(
            GateOpenRequested(
                lane_id=lane,
                gate_device_id=gate,
                camera_device_id=read.device_id,
                record_id=read.record_id,
                command=signed_command(gate, tx.now),
            )
        )
    elif read.plate.startswith("京H"):
        tx.publish(VehicleHeld(lane_id=lane, camera_device_id=read.device_id, record_id=read.record_id, reason="payment_due"))


PARKING = Service(
    name="parking",
    migrations=[Path(__file__).parent / "migrations"],
    publishes=[GateOpenRequested, VehicleHeld],
    consumes=[on(PlateRead, decide_on_plate_read)],
)


@dataclass(slots=True)
class Fleet:
    """A running ingest with an HTTP client at its address."""

    running: Platform
    http: httpx.AsyncClient
    images: Path
    who: Principal
    secrets: dict[str, str] = field(default_factory=dict)
    # Publishes what other services say, where ingest itself may not.
    others: Publisher | None = None

    @property
    def community_id(self) -> uuid.UUID:
        return self.who.community_id

    @property
    def caller(self) -> Caller:
        return self.running.caller(self.who)

    async def register(self, device_id: str, kind: Kind, caller: Caller | None = None) -> str:
        """Registers a device and returns its secret."""
        request = RegisterDeviceRequest(device_id=device_id, name=device_id, kind=int(kind))  # type: ignore[arg-type]
        answer = await (caller or self.caller).call(f"{INGEST}/RegisterDevice", request)
        secret: str = answer.secret
        self.secrets[device_id] = secret
        return secret

    async def publish(self, event: Message, community_id: uuid.UUID | None = None, version: int = 0) -> None:
        """Publishes an event as another service would."""
        community_id = community_id or self.community_id
        if self.others is None:
            await self.running.publish(event, community_id, version=version)
        else:
            await self.others.publish(envelope(event, community_id, event_id=str(new_id()), occurred_at=datetime.now(UTC), version=version))

    async def device(self, device_id: str) -> Device:
        answer: Device = await self.caller.call(f"{INGEST}/GetDevice", GetDeviceRequest(device_id=device_id))
        return answer

    def basic(self, device_id: str) -> httpx.BasicAuth:
        return httpx.BasicAuth(device_id, self.secrets[device_id])

    async def push(self, body: Any, device_id: str = CAMERA) -> httpx.Response:
        """Posts a plate push; bytes go as they are."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        return await self.http.post("/devices/plate", auth=self.basic(device_id), **content)

    async def configure_lane(self, camera: str, gate: str, *, limit_ms: int = 2000, opens_offline: bool = False, version: int = 1) -> None:
        """Tells ingest of a lane as parking does, and waits until it knows."""
        lane = LaneConfigured(
            lane_id=f"lane-of-{camera}",
            camera_device_id=camera,
            gate_device_id=gate,
            decision_limit_ms=limit_ms,
            opens_offline=opens_offline,
        )
        await self.publish(lane, version=version)

        async def known() -> bool:
            async with self.running.transaction("ingest", PLATFORM) as tx:
                (device,) = await store.select_known_devices(tx, [camera])
            return bool(device.lane and (device.lane.decision_limit_ms, device.lane.opens_offline) == (limit_ms, opens_offline))

        await eventually(known, "the lane")
        self.forget(camera)

    async def set_zone(self, name: str, version: int = 1) -> None:
        """Tells ingest of a community's time zone as identity does, and waits until it knows."""
        event = CommunityChanged(community_id=str(self.community_id), name="春江花园", time_zone=name, modules=["parking"])
        await self.publish(event, version=version)

        async def known() -> bool:
            async with self.running.transaction("ingest", self.community_id) as tx:
                return bool(await tx.fetchval("SELECT true FROM known_communities WHERE time_zone = $1", name))

        await eventually(known, "the time zone")
        for device_id in self.secrets:
            self.forget(device_id)

    async def turn(self) -> None:
        """Does at once what ingest's timers do every few seconds, as two processes that do it together."""

        async def tell() -> None:
            async with self.running.transaction("ingest", PLATFORM) as tx:
                await operations.tell_who_came_and_went(tx)

        await self._registry.write_contacts()
        await asyncio.gather(tell(), tell())

    def forget(self, device_id: str) -> None:
        """Has ingest look the device up again, as it does by itself after a few seconds."""
        self._registry.forget(device_id)

    @property
    def _registry(self) -> Registry:
        (ingest,) = [running for running in self.running.host.running if running.name == "ingest"]
        return ingest.resources.get(Registry)


def settings(images: Path, **more: str) -> Mapping[str, str]:
    """What ingest needs to start."""
    return {
        "LINLI_INGEST_CREDENTIALS_KEY": base64.b64encode(b"k" * 32).decode(),
        "LINLI_INGEST_GATE_PUBLIC_KEY": _public(_gate_key),
        "LINLI_INGEST_DOOR_PUBLIC_KEY": _public(DOOR_KEY),
        "LINLI_BLOBS_URL": str(images),
        **more,
    }


def _public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


@asynccontextmanager
async def fleet(
    servers: Servers, images: Path, *others: Service, clock: Callable[[], datetime] | None = None, **more: str
) -> AsyncIterator[Fleet]:
    """Runs ingest, and others beside it, for a community with a camera of each protocol, a gate and an edge box."""
    async with (
        platform(servers, SERVICE, *others, clock=clock, settings=settings(images, **more)) as running,
        httpx.AsyncClient(base_url=running.http_urls["ingest"], timeout=10, limits=httpx.Limits(max_connections=None)) as http,
    ):
        town = Fleet(running, http, images, principal("ingest.devices.read", "ingest.devices.write"))
        for device_id, kind in KINDS.items():
            await town.register(device_id, kind)
        yield town


def push_body(plate: str, at: datetime | None = None, serial: str = CAMERA, **result: Any) -> dict[str, Any]:
    """A plate push as the camera writes it."""
    at = at or datetime.now(UTC)
    read = {
        "license": plate,
        "colorType": 1,
        "type": 1,
        "confidence": 98,
        "direction": 4,
        "triggerType": 8,
        "timeStamp": {"Timeval": {"sec": int(at.timestamp()), "usec": at.microsecond}},
        **result,
    }
    alarm = {"serialno": serial, "deviceName": "east-in", "ipaddr": "10.0.0.11", "channel": 0, "result": {"PlateResult": read}}
    return {"AlarmInfoPlate": alarm}


def info(answer: httpx.Response) -> str:
    """What the camera is told."""
    assert answer.status_code == 200, answer.text
    told: str = answer.json()["Response_AlarmInfoPlate"]["info"]
    return told


async def stored(servers: Servers, stream: str = "DEVICE_PLATE") -> int:
    """How many messages a stream holds."""
    client = await nats.connect(servers.nats.url)
    try:
        return (await client.jetstream().stream_info(stream)).state.messages
    finally:
        await client.close()


@asynccontextmanager
async def second_instance(town: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    """Another process of ingest, on the same database and broker."""
    address = free_address()
    own = {name: free_address() for name in ("LINLI_GRPC_ADDRESS", "LINLI_OPS_ADDRESS")}
    with environment({**own, "LINLI_INGEST_HTTP_ADDRESS": address}):
        host = Host([SERVICE], load(ProcessSettings), verifier=town.running.host.running[0].verifier)
        await host.start()
        try:
            async with httpx.AsyncClient(base_url=f"http://{address}", timeout=10) as http:
                yield http
        finally:
            await host.stop()
