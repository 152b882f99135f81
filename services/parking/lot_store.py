"""The SQL of lots: their areas, spaces, lanes and tariffs, and the community's time zone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from servicekit.database import Transaction
from servicekit.listing import Listing
from services.parking.lanes import Direction

# Lots.


@dataclass(frozen=True, slots=True)
class Area:
    area_id: UUID
    lot_id: UUID
    name: str
    capacity: int


@dataclass(frozen=True, slots=True)
class Lane:
    lane_id: UUID
    lot_id: UUID
    name: str
    direction: Direction
    camera_device_id: str
    lane_number: int
    gate_device_id: str
    opens_offline: bool
    decision_limit_ms: int
    version: int


@dataclass(frozen=True, slots=True)
class Lot:
    lot_id: UUID
    name: str
    full_lot_admits_permits: bool
    admits_temporary: bool
    areas: Sequence[Area] = ()
    lanes: Sequence[Lane] = ()


_INSERT_LOT = """
INSERT INTO lots (lot_id, community_id, name, full_lot_admits_permits, admits_temporary) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (community_id, name) DO NOTHING
"""


async def insert_lot(tx: Transaction, lot: Lot) -> bool:
    """Adds a lot; False when one has its name."""
    arguments = (lot.lot_id, tx.community_id, lot.name, lot.full_lot_admits_permits, lot.admits_temporary)
    return await tx.execute(_INSERT_LOT, *arguments) == 1


_LOTS = Listing(
    select="SELECT lot_id, name, full_lot_admits_permits, admits_temporary FROM lots",
    where="community_id = {}",
    filters={"lot_id": "lot_id = {}"},
    key=("lot_id",),
)
_AREAS_OF_LOTS = "SELECT area_id, lot_id, name, capacity FROM areas WHERE lot_id = ANY($1::uuid[]) ORDER BY name"
_LANE: Final = """
SELECT lane_id, lot_id, name, direction, camera_device_id, lane_number, gate_device_id, opens_offline, decision_limit_ms, version
FROM lanes
"""
_LANES_OF_LOTS = _LANE + "WHERE lot_id = ANY($1::uuid[]) ORDER BY name"


async def list_lots(tx: Transaction, after: UUID | None, limit: int, *, lot_id: UUID | None = None) -> list[Lot]:
    """The community's lots with their areas and lanes, oldest first; only the one that is named."""
    rows = await _LOTS.fetch(tx, [tx.community_id], after, limit, lot_id=lot_id)
    lot_ids = [row["lot_id"] for row in rows]
    areas = [Area(**row) for row in await tx.fetch(_AREAS_OF_LOTS, lot_ids)]
    lanes = [_lane(row) for row in await tx.fetch(_LANES_OF_LOTS, lot_ids)]
    return [
        Lot(**row, areas=[a for a in areas if a.lot_id == row["lot_id"]], lanes=[n for n in lanes if n.lot_id == row["lot_id"]])
        for row in rows
    ]


def _lane(row: Any) -> Lane:
    return Lane(**{**row, "direction": Direction(row["direction"])})


_INSERT_AREA = """
INSERT INTO areas (area_id, community_id, lot_id, name, capacity) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (lot_id, name) DO NOTHING
"""


async def insert_area(tx: Transaction, area: Area) -> bool:
    """Adds an area; False when the lot has one of its name."""
    return await tx.execute(_INSERT_AREA, area.area_id, tx.community_id, area.lot_id, area.name, area.capacity) == 1


# Spaces.


@dataclass(frozen=True, slots=True)
class Space:
    space_id: UUID
    area_id: UUID
    label: str


_SELECT_LOT_OF_AREA = "SELECT lot_id FROM areas WHERE area_id = $1"


async def lot_of_area(tx: Transaction, area_id: UUID) -> UUID | None:
    """The lot that an area is in; None when there is no such area."""
    lot_id: UUID | None = await tx.fetchval(_SELECT_LOT_OF_AREA, area_id)
    return lot_id


_INSERT_SPACE = """
INSERT INTO spaces (space_id, community_id, area_id, label) VALUES ($1, $2, $3, $4) ON CONFLICT (area_id, label) DO NOTHING
"""


async def insert_space(tx: Transaction, space: Space) -> bool:
    """Adds a space; False when the area has one of its label."""
    return await tx.execute(_INSERT_SPACE, space.space_id, tx.community_id, space.area_id, space.label) == 1


_SPACES = Listing(select="SELECT space_id, area_id, label FROM spaces", where="area_id = {}", key=("label",))


async def list_spaces(tx: Transaction, area_id: UUID, after: str | None, limit: int) -> list[Space]:
    """An area's spaces by label."""
    return [Space(**row) for row in await _SPACES.fetch(tx, [area_id], after, limit)]


_SELECT_LOT_OF_SPACE = "SELECT lot_id FROM spaces JOIN areas USING (area_id) WHERE space_id = $1"


async def lot_of_space(tx: Transaction, space_id: UUID) -> UUID | None:
    """The lot that a space is in; None when there is no such space."""
    lot_id: UUID | None = await tx.fetchval(_SELECT_LOT_OF_SPACE, space_id)
    return lot_id


# Lanes.

_INSERT_GATE = "INSERT INTO gates (community_id, gate_device_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_INSERT_LANE = """
INSERT INTO lanes
    (lane_id, community_id, lot_id, name, direction, camera_device_id, lane_number, gate_device_id, opens_offline, decision_limit_ms,
     version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING
"""


async def insert_lane(tx: Transaction, lane: Lane) -> bool:
    """Adds a lane; False when the lot has one of its name, or its camera watches one of its number."""
    await tx.execute(_INSERT_GATE, tx.community_id, lane.gate_device_id)
    arguments = (lane.lane_id, tx.community_id, lane.lot_id, lane.name, lane.direction, lane.camera_device_id, lane.lane_number)
    return await tx.execute(_INSERT_LANE, *arguments, lane.gate_device_id, lane.opens_offline, lane.decision_limit_ms, lane.version) == 1


_UPDATE_LANE = """
UPDATE lanes SET opens_offline = $2, decision_limit_ms = $3, version = version + 1 WHERE lane_id = $1
RETURNING lane_id, lot_id, name, direction, camera_device_id, lane_number, gate_device_id, opens_offline, decision_limit_ms, version
"""


async def update_lane(tx: Transaction, lane_id: UUID, opens_offline: bool, decision_limit_ms: int) -> Lane | None:
    """Changes what a lane does when its decision is late; None when there is no such lane."""
    row = await tx.fetchrow(_UPDATE_LANE, lane_id, opens_offline, decision_limit_ms)
    return None if row is None else _lane(row)


# Tariffs.

VersionNumber = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


@dataclass(frozen=True, slots=True)
class TariffVersion:
    """A version of a lot's tariff. The document is JSON, as docs/tariffs.md describes it."""

    tariff_id: UUID
    lot_id: UUID
    version: int
    effective_from: datetime
    effective_until: datetime | None
    document: str


_SELECT_LATEST_VERSION = "SELECT coalesce(max(version), 0) FROM tariffs WHERE lot_id = $1"


async def latest_tariff_version(tx: Transaction, lot_id: UUID) -> int:
    """The number of a lot's newest tariff version; 0 when it has none."""
    version: int = await tx.fetchval(_SELECT_LATEST_VERSION, lot_id)
    return version


_INSERT_TARIFF = """
INSERT INTO tariffs (tariff_id, community_id, lot_id, version, effective_from, effective_until, document, published_by, published_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""


async def insert_tariff(tx: Transaction, tariff: TariffVersion) -> None:
    """Adds a version of a lot's tariff. The lot is locked."""
    arguments = (tariff.tariff_id, tx.community_id, tariff.lot_id, tariff.version, tariff.effective_from, tariff.effective_until)
    await tx.execute(_INSERT_TARIFF, *arguments, tariff.document, tx.caller.account_id, tx.now)


_TARIFFS = Listing(
    select="SELECT tariff_id, lot_id, version, effective_from, effective_until, document::text AS document FROM tariffs",
    where="lot_id = {}",
    key=("version",),
    descending=True,
)


async def list_tariffs(tx: Transaction, lot_id: UUID, after: int | None, limit: int) -> list[TariffVersion]:
    """The versions of a lot's tariff, newest first."""
    return [TariffVersion(**row) for row in await _TARIFFS.fetch(tx, [lot_id], after, limit)]
