"""What smart bins say over MQTT: what was put in, and how they are. Pure. `docs/devices/bins.md` is for their makers.

A deposit is passed on however odd its values are, for waste judges those. Only what cannot be a deposit at all is unusable: what is no
JSON object, has no id, or has something else where a number or a text belongs.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from linli.device.v1.events_pb2 import BinDeposited, BinReported
from servicekit.identifiers import derived_id, new_id
from services.ingest import loose
from services.ingest.devices import KnownDevice

COMPARTMENTS_MAX: Final = 16
UNKNOWN_FILL: Final = -1
# A sensor that is a little off says less than nothing or more than all; further off it says nothing.
_FILL_SLACK: Final = 0.5
_INT64_MAX: Final = 2**63 - 1
# No oven and no winter, but a broken sensor.
_TEMPERATURE_MAX_C: Final = 1000


def read_deposit(known: KnownDevice, said: Mapping[str, Any], received_at: datetime) -> tuple[UUID, BinDeposited]:
    """A deposit, and the event's id. Raises Unusable.

    The id is made of what the bin said: the same record sent again is the same event, and a record whose id was used for another is an
    event of its own, so that waste hears of it.
    """
    deposited = BinDeposited(
        device_id=known.device_id,
        record_id=loose.record_id(said),
        card_number=loose.field_text(said, "card"),
        code=loose.field_text(said, "code"),
        compartment=loose.field_text(said, "compartment"),
        grams=_grams(said),
        fill_permille=_permille(said.get("fill")),
    )
    # Absent when the bin says none: our time in its place would differ each time that the record is sent, and pass for the bin's clock.
    at = loose.clock_time(said.get("at"), known.zone)
    if at is not None:
        deposited.occurred_at.FromDatetime(at)
    event_id = derived_id("deposited", deposited.SerializeToString().hex())
    deposited.received_at.FromDatetime(received_at)
    return event_id, deposited


def read_status(known: KnownDevice, said: Mapping[str, Any], received_at: datetime) -> tuple[UUID, BinReported]:
    """How a bin is, and the event's id. What cannot be read is left out."""
    reported = BinReported(device_id=known.device_id, smoke=loose.flag(said.get("smoke"), False))
    fill = said.get("fill")
    if isinstance(fill, dict):
        for name, level in list(fill.items())[:COMPARTMENTS_MAX]:
            permille = _permille(level)
            if permille != UNKNOWN_FILL:
                reported.fill_permille[loose.text(name)] = permille
    temperature = loose.number(said.get("temperature_c"))
    if temperature is not None and abs(temperature) <= _TEMPERATURE_MAX_C:
        reported.temperature_c = round(temperature)
    at = loose.clock_time(said.get("at"), known.zone)
    if at is not None:
        reported.occurred_at.FromDatetime(at)
    reported.received_at.FromDatetime(received_at)
    return new_id(), reported


def _grams(said: Mapping[str, Any]) -> int:
    grams = loose.number(said.get("grams"))
    if grams is None:
        raise loose.Unusable("grams")
    return round(max(-_INT64_MAX, min(_INT64_MAX, grams)))


def _permille(level: object) -> int:
    share = loose.number(level)
    if share is None or not -_FILL_SLACK <= share <= 1 + _FILL_SLACK:
        return UNKNOWN_FILL
    return round(1000 * max(0, min(1, share)))
