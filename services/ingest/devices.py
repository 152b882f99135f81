"""What a device is to ingest: its registration, its community's clock, the lane it watches. Pure; rows come from `store`."""

import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from zoneinfo import ZoneInfo

from servicekit.communities import zone_of

DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# A device says that it is alive about every 90 s; when three of these are missing it is offline.
SILENCE_MAX = timedelta(seconds=3 * 90)
# GB 50396 asks for an answer within two seconds.
DECISION_LIMIT_MS = 2000


class Kind(IntEnum):
    """What a device is, numbered as in the contract."""

    PLATE_CAMERA = 1
    VIID = 2
    GATE = 3
    EDGE_BOX = 4
    BIN = 5
    TERMINAL = 6
    SENSOR = 7


@dataclass(frozen=True, slots=True)
class Device:
    """One registered device."""

    device_id: str
    community_id: uuid.UUID
    name: str
    kind: int
    disabled: bool
    last_seen_at: datetime | None
    online: bool
    irregular_records: int
    version: int


@dataclass(frozen=True, slots=True)
class Lane:
    """The lane that a camera watches."""

    lane_id: str
    gate_device_id: str
    decision_limit_ms: int
    opens_offline: bool


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device with what it takes to recognise it and to answer it."""

    device_id: str
    community_id: uuid.UUID
    kind: int
    disabled: bool
    secret_hash: bytes
    sealed_digest_key: bytes
    registered_address: str | None
    last_seen_at: datetime | None
    # The IANA name; None when identity has not said.
    time_zone: str | None
    lane: Lane | None

    @property
    def zone(self) -> ZoneInfo:
        """Where times without a zone are from."""
        return zone_of(self.time_zone)
