"""What ingest does when something happens elsewhere: decisions reach their camera, gate or terminal, and what is remembered stays true."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from linli.access.v1.events_pb2 import DoorOpenRequested, EntryRefused
from linli.device.v1.events_pb2 import DeviceChanged, DoorAcknowledged, GateAcknowledged
from linli.parking.v1.events_pb2 import GateOpenRequested, LaneConfigured, VehicleHeld
from servicekit import telemetry
from servicekit.commands import OpenCommand
from servicekit.database import Transaction
from servicekit.errors import ServiceError
from servicekit.events import EventType, Received, event_type, received
from servicekit.rpc import Call
from servicekit.service import Running
from services.ingest import store
from services.ingest.decisions import Decision, Decisions
from services.ingest.devices import DECISION_LIMIT_MS, Kind, Lane
from services.ingest.metrics import DoorQuestions
from services.ingest.openings import Openings
from services.ingest.registry import Registry

# No command lives longer, so no older decision opens anything.
_RECENT = timedelta(seconds=10)
_REPLAY_S = 5.0


async def answer_camera_on_gate_open_requested(call: Call, event: Received[GateOpenRequested]) -> None:
    """The camera whose read was decided on is answered, if it opens the barrier itself and the command is genuine."""
    message = event.message
    call.resource(Openings).note_trace(Kind.GATE, message.gate_device_id, message.command)
    record = (event.community_id, message.camera_device_id, message.record_id)
    if not message.camera_device_id or not message.record_id:
        return
    if message.gate_device_id != message.camera_device_id:
        decision = Decision("gate", event.occurred_at, is_elsewhere=True)
    else:
        decision = _opening(call.resource(Openings).read(Kind.GATE, message.camera_device_id, message.command), event)
    call.resource(Decisions).make(record, decision)


def _opening(command: OpenCommand | None, event: Received[GateOpenRequested]) -> Decision:
    if command is None:
        telemetry.log.warning("command_not_genuine", camera=event.message.camera_device_id)
        return Decision("refused", event.occurred_at)
    return Decision("ok", event.occurred_at, command.expires_at, command.command_id)


async def answer_camera_on_vehicle_held(call: Call, event: Received[VehicleHeld]) -> None:
    """The camera is told why its barrier stays shut."""
    message = event.message
    # Whatever the reason is called, it must not be the word that opens.
    info = "held" if message.reason in ("", "ok") else message.reason
    call.resource(Decisions).make((event.community_id, message.camera_device_id, message.record_id), Decision(info, event.occurred_at))


async def measure_door_on_door_open_requested(call: Call, event: Received[DoorOpenRequested]) -> None:
    """A terminal's question is answered: the door opens."""
    message = event.message
    call.resource(Openings).note_trace(Kind.TERMINAL, message.device_id, message.command)
    call.resource(DoorQuestions).decided((event.community_id, message.device_id, message.presentation_id), "opened")


async def measure_door_on_entry_refused(call: Call, event: Received[EntryRefused]) -> None:
    """A terminal's question is answered: the door stays shut."""
    message = event.message
    call.resource(DoorQuestions).decided((event.community_id, message.device_id, message.presentation_id), "refused")


async def send_command_on_gate_open_requested(call: Call, event: Received[GateOpenRequested]) -> None:
    """A gate on MQTT gets its command, as long as that is worth something."""
    message = event.message
    if message.gate_device_id == message.camera_device_id:
        return  # The answer to the camera is the only way.
    await call.resource(Openings).open(Kind.GATE, event.community_id, message.gate_device_id, message.command, {})


async def send_command_on_door_open_requested(call: Call, event: Received[DoorOpenRequested]) -> None:
    """A door terminal gets its command, with what tells it which question that answers."""
    message = event.message
    said = {"text_zh": message.text_zh, "text_en": message.text_en}
    if message.presentation_id:
        said["presentation"] = message.presentation_id
    await call.resource(Openings).open(Kind.TERMINAL, event.community_id, message.device_id, message.command, said)


async def tell_terminal_on_entry_refused(call: Call, event: Received[EntryRefused]) -> None:
    """A door terminal hears why it is to stay shut."""
    message = event.message
    said = {
        "presentation": message.presentation_id,
        "refused": message.reason,
        "text_zh": message.text_zh,
        "text_en": message.text_en,
    }
    await call.resource(Openings).refuse(Kind.TERMINAL, event.community_id, message.device_id, event.occurred_at, said)


async def stop_sending_on_gate_acknowledged(call: Call, event: Received[GateAcknowledged]) -> None:
    """A command that was answered is not sent again."""
    call.resource(Openings).answered(event.message.device_id, event.message.command_id)


async def stop_sending_on_door_acknowledged(call: Call, event: Received[DoorAcknowledged]) -> None:
    """The same for a door."""
    call.resource(Openings).answered(event.message.device_id, event.message.command_id)


async def forget_device_on_device_changed(call: Call, event: Received[DeviceChanged]) -> None:
    """A credential that was changed or withdrawn works nowhere from now on."""
    call.resource(Registry).forget(event.message.device_id)


async def keep_lane_on_lane_configured(tx: Transaction, event: Received[LaneConfigured]) -> None:
    """Keeps what a lane does when its decision is late."""
    message = event.message
    limit_ms = message.decision_limit_ms if 0 < message.decision_limit_ms <= DECISION_LIMIT_MS else DECISION_LIMIT_MS
    lane = Lane(message.lane_id, message.gate_device_id, limit_ms, message.opens_offline)
    await store.upsert_lane(tx, message.camera_device_id, lane, event.version)


async def recall_decisions(running: Running) -> None:
    """Reads the decisions of the last seconds, so that a camera that pushes again after a restart is answered as before."""
    await asyncio.gather(
        _recall(running, event_type(GateOpenRequested), answer_camera_on_gate_open_requested),
        _recall(running, event_type(VehicleHeld), answer_camera_on_vehicle_held),
    )


async def _recall(running: Running, kind: EventType, handler: Callable[[Call, Received[Any]], Awaitable[None]]) -> None:
    call, done = running.call(), asyncio.Event()
    inbox = running.nats.new_inbox()

    async def take(message: Msg) -> None:
        headers = message.headers or {}
        try:
            if headers.get("ce-type") == kind.name:
                await handler(call, received(headers, message.data, kind.message))
        except (ValueError, ServiceError) as error:
            telemetry.log.warning("decision_not_recalled", error=type(error).__name__)
        if message.metadata.num_pending == 0:
            done.set()

    subscription = await running.nats.subscribe(inbox, cb=take)
    config = ConsumerConfig(
        name=f"ingest-recall-{secrets.token_hex(8)}",
        deliver_subject=inbox,
        deliver_policy=DeliverPolicy.BY_START_TIME,
        opt_start_time=call.now - _RECENT,
        ack_policy=AckPolicy.NONE,
        filter_subject=kind.filter_subject,
        inactive_threshold=_REPLAY_S,
        mem_storage=True,
    )
    try:
        information = await running.nats.jetstream(timeout=_REPLAY_S).add_consumer(kind.stream, config)
        if information.num_pending:
            await asyncio.wait_for(done.wait(), _REPLAY_S)
    except (NatsError, TimeoutError, OSError) as error:
        telemetry.log.warning("decisions_not_recalled", error=str(error) or type(error).__name__)
    finally:
        await subscription.unsubscribe()
