"""What gates and door terminals answer to commands over MQTT. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from linli.device.v1.events_pb2 import DoorAcknowledged, GateAcknowledged
from servicekit.identifiers import derived_id
from servicekit.times import to_timestamp
from services.ingest import loose
from services.ingest.devices import Kind, KnownDevice

_COMMAND_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_OUTCOMES: Final = {
    "opened": GateAcknowledged.OUTCOME_OPENED,
    "expired": GateAcknowledged.OUTCOME_EXPIRED,
    "refused": GateAcknowledged.OUTCOME_REFUSED,
    "failed": GateAcknowledged.OUTCOME_FAILED,
}


def read_acknowledgement(
    known: KnownDevice, said: Mapping[str, Any], received_at: datetime
) -> tuple[UUID, GateAcknowledged | DoorAcknowledged]:
    """What a device did with a command, and the event's id. Raises Unusable.

    The first answer counts: a device that gets its command again refuses the repetition, which changes nothing.
    """
    command_id, outcome = said.get("command_id"), said.get("outcome")
    if not isinstance(command_id, str) or not _COMMAND_ID.fullmatch(command_id):
        raise loose.Unusable("command_id")
    if not isinstance(outcome, str) or outcome not in _OUTCOMES:
        raise loose.Unusable("outcome")
    event = DoorAcknowledged if known.kind == Kind.TERMINAL else GateAcknowledged
    acknowledged = event(
        device_id=known.device_id,
        command_id=command_id,
        outcome=_OUTCOMES[outcome],
        occurred_at=to_timestamp(min(loose.time(said.get("at"), UTC) or received_at, received_at)),
    )
    return derived_id("acknowledged", known.device_id, command_id), acknowledged
