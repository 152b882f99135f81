"""What an `AlarmInfoPlate` body says. Pure.

Colours and classes are the camera's own numbers; they become the codes of GA/T 1400, so that one vocabulary reaches parking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from services.ingest import loose

_COLOURS = {1: "5", 2: "6", 3: "2", 4: "1", 5: "9", 6: "9"}
_CLASSES = {
    1: "02",
    2: "02",
    3: "01",
    4: "01",
    5: "23",
    6: "31",
    8: "32",
    9: "32",
    11: "26",
    13: "16",
    14: "27",
    15: "31",
    16: "31",
    17: "31",
}
_PICTURES = ("imageFile", "imageFragmentFile", "full_image_content", "small_image_content")
# A record without a time is one record for as long as cameras push it again.
_REPEAT_S = 10


@dataclass(frozen=True, slots=True)
class Frame:
    """One plate that a camera read, or did not."""

    serial: str
    channel: int
    message_id: str
    # What identifies the record: pushed again, it is the same.
    record: tuple[str, ...]
    plate: str
    colour: str
    plate_class: str
    # 0 to 100; -1 when the camera does not say.
    confidence: int
    # None when the camera does not say, or its clock was never set.
    occurred_at: datetime | None
    # Base64.
    pictures: Sequence[str]


def is_heartbeat(body: Mapping[str, Any]) -> bool:
    """Whether the body only says that the camera is alive."""
    return "heartbeat" in body and "AlarmInfoPlate" not in body


def serial_of(heartbeat: Mapping[str, Any]) -> str:
    """The serial number in a keep-alive; empty when it carries none."""
    inner = heartbeat["heartbeat"]
    return loose.text(inner.get("serialno")) if isinstance(inner, dict) else loose.text(heartbeat.get("serialno"))


def read(body: Mapping[str, Any], received_at: datetime) -> Frame:
    """Reads a push. Raises Unusable when it holds no plate result."""
    alarm = loose.needed(body, "AlarmInfoPlate", "")
    path = "AlarmInfoPlate.result"
    result = loose.needed(loose.needed(alarm, "result", "AlarmInfoPlate"), "PlateResult", path)
    stamp = result.get("timeStamp")
    value = stamp.get("Timeval") if isinstance(stamp, dict) else None
    moment = value if isinstance(value, dict) else {}
    plate = loose.plate(result.get("license"))
    seconds, microseconds = loose.text(moment.get("sec")), loose.text(moment.get("usec"))
    if not seconds:
        seconds = str(int(received_at.timestamp()) // _REPEAT_S * _REPEAT_S)
    return Frame(
        serial=loose.text(alarm.get("serialno")),
        channel=loose.integer(alarm.get("channel"), 0, least=0),
        message_id=loose.text(alarm.get("msgId")),
        # The camera numbers its plates, but begins anew when it is reset: the number alone would swallow records.
        record=(seconds, microseconds, loose.text(result.get("plateid")) or plate),
        plate=plate,
        colour=_COLOURS.get(loose.integer(result.get("colorType"), 0), ""),
        plate_class=_CLASSES.get(loose.integer(result.get("type"), 0), ""),
        confidence=loose.integer(result.get("confidence"), -1, least=0, most=100),
        occurred_at=_instant(moment),
        pictures=[picture for name in _PICTURES if isinstance(picture := result.get(name), str) and picture],
    )


def _instant(moment: Mapping[str, Any]) -> datetime | None:
    seconds = loose.integer(moment.get("sec"), -1, least=0, most=2**40)
    if seconds < 0:
        return None
    microseconds = loose.integer(moment.get("usec"), 0, least=0, most=999_999)
    try:
        return loose.within_range(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, microseconds=microseconds))
    except OverflowError:
        return None
