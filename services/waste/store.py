"""The SQL of bins: the register, how full they are, their alarms and their clocks. Fill is in thousandths, weights are grams."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from servicekit.communities import zone_of
from servicekit.database import Transaction
from servicekit.listing import Listing
from services.waste.bins import Alarm, AlarmKind, Bin, Category, Compartment, Fill, Place
from services.waste.clocks import Stretch

# The register.

_INSERT_BIN = """
INSERT INTO bins (bin_id, community_id, name, device_id, building_id, latitude, longitude) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING
"""
_INSERT_COMPARTMENTS = """
INSERT INTO compartments (bin_id, community_id, name, category, capacity_grams)
SELECT $1, $2, name, category, capacity_grams
FROM unnest($3::text[], $4::text[], $5::bigint[]) AS compartment (name, category, capacity_grams)
"""


async def insert_bin(
    tx: Transaction, bin_id: UUID, name: str, device_id: str, building_id: UUID | None, place: Place, compartments: Sequence[Compartment]
) -> bool:
    """Adds a bin; False when another has its name or its device."""
    row = (bin_id, tx.community_id, name, device_id, building_id, place.latitude, place.longitude)
    if not await tx.execute(_INSERT_BIN, *row):
        return False
    columns = zip(*((each.name, each.category, each.capacity_grams) for each in compartments), strict=True)
    await tx.execute(_INSERT_COMPARTMENTS, bin_id, tx.community_id, *(list(column) for column in columns))
    return True


_BIN: Final = """
SELECT bin_id, bins.community_id, name, device_id, building_id, latitude, longitude, in_use, last_heard_at, reported_at, silent_since,
    bins.version, time_zone
FROM bins LEFT JOIN known_communities USING (community_id)
"""
_BINS = Listing(select=_BIN, where="community_id = {}", key=("name",))
_FIND_BIN = _BIN + "WHERE bin_id = $1"
_LOCK_BIN = _FIND_BIN + " FOR UPDATE OF bins"
_OF_DEVICES: Final = "WHERE (community_id, device_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[])) "
_LOCK_BINS_OF_DEVICES = _BIN + _OF_DEVICES + "ORDER BY bin_id FOR UPDATE OF bins"
_COMPARTMENTS_OF_BINS = """
SELECT bin_id, name, category, capacity_grams, fill_permille, fill_at, emptied_at FROM compartments WHERE bin_id = ANY($1::uuid[])
ORDER BY bin_id, name
"""
_ALARM: Final = "SELECT alarm_id, bin_id, kind, compartment, raised_at, cleared_at FROM alarms "
_OPEN_ALARMS_OF_BINS = _ALARM + "WHERE bin_id = ANY($1::uuid[]) AND cleared_at IS NULL ORDER BY alarm_id"


async def list_bins(tx: Transaction, after: str | None, limit: int) -> list[Bin]:
    """The community's bins by name."""
    return await _bins(tx, await _BINS.fetch(tx, [tx.community_id], after, limit))


async def find_bin(tx: Transaction, bin_id: UUID, *, lock: bool = False) -> Bin | None:
    """A bin, locked until the transaction ends when asked for."""
    found = await _bins(tx, await tx.fetch(_LOCK_BIN if lock else _FIND_BIN, bin_id))
    return found[0] if found else None


async def lock_bins_of_devices(tx: Transaction, devices: Collection[tuple[UUID, str]]) -> dict[tuple[UUID, str], Bin]:
    """The bins of these devices, each named by its community and its id; locked until the transaction ends."""
    rows = await tx.fetch(_LOCK_BINS_OF_DEVICES, [community_id for community_id, _ in devices], [device_id for _, device_id in devices])
    return {(found.community_id, found.device_id): found for found in await _bins(tx, rows)}


async def _bins(tx: Transaction, rows: Sequence[Any]) -> list[Bin]:
    if not rows:
        return []
    bin_ids = [row["bin_id"] for row in rows]
    compartments: dict[UUID, dict[str, Compartment]] = {bin_id: {} for bin_id in bin_ids}
    for row in await tx.fetch(_COMPARTMENTS_OF_BINS, bin_ids):
        bin_id, name, category, *rest = row
        compartments[bin_id][name] = Compartment(name, Category(category), *rest)
    alarms: dict[UUID, list[Alarm]] = {bin_id: [] for bin_id in bin_ids}
    for row in await tx.fetch(_OPEN_ALARMS_OF_BINS, bin_ids):
        alarms[row["bin_id"]].append(_alarm(row))
    return [
        Bin(
            row["bin_id"],
            row["community_id"],
            row["name"],
            row["device_id"],
            row["building_id"],
            Place(row["latitude"], row["longitude"]),
            row["in_use"],
            row["last_heard_at"],
            row["reported_at"],
            row["silent_since"],
            row["version"],
            zone_of(row["time_zone"]),
            compartments[row["bin_id"]],
            alarms[row["bin_id"]],
        )
        for row in rows
    ]


_UPDATE_BIN = "UPDATE bins SET name = $2, latitude = $3, longitude = $4, in_use = $5 WHERE bin_id = $1"


async def update_bin(tx: Transaction, changed: Bin) -> bool:
    """Writes a locked bin's name, place and whether it is in use; False when another has its name, which ends the transaction."""
    place = changed.place
    try:
        await tx.execute(_UPDATE_BIN, changed.bin_id, changed.name, place.latitude, place.longitude, changed.in_use)
    except asyncpg.UniqueViolationError:
        return False
    return True


# What bins tell.

_UPDATE_COMPARTMENTS = """
UPDATE compartments AS compartment SET fill_permille = told.fill_permille, fill_at = told.fill_at, emptied_at = told.emptied_at
FROM unnest(
    $1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[]
) AS told (bin_id, name, fill_permille, fill_at, emptied_at)
WHERE compartment.bin_id = told.bin_id AND compartment.name = told.name
"""


async def update_compartments(tx: Transaction, changed: Sequence[tuple[Bin, Compartment]]) -> None:
    """Writes how full compartments of locked bins are, and when they were emptied."""
    rows = [(found.bin_id, each.name, each.fill_permille, each.fill_at, each.emptied_at) for found, each in changed]
    await _execute_each(tx, _UPDATE_COMPARTMENTS, rows)


_INSERT_FILL_LEVELS = """
INSERT INTO fill_levels (bin_id, community_id, compartment, at, fill_permille)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::bigint[]) ON CONFLICT DO NOTHING
"""
_INSERT_EMPTYINGS = """
INSERT INTO emptyings (bin_id, community_id, compartment, emptied_at, source)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::text[]) ON CONFLICT DO NOTHING
"""


async def insert_fill_levels(tx: Transaction, levels: Sequence[tuple[Bin, Fill]]) -> None:
    """Adds to the history of fill."""
    rows = [(found.bin_id, found.community_id, each.compartment, each.at, each.permille) for found, each in levels]
    await _execute_each(tx, _INSERT_FILL_LEVELS, rows)


async def insert_emptyings(tx: Transaction, emptyings: Sequence[tuple[Bin, str, datetime]], source: str) -> None:
    """Adds when which compartments were emptied; `source` is "recorded" or "seen"."""
    rows = [(found.bin_id, found.community_id, compartment, at, source) for found, compartment, at in emptyings]
    await _execute_each(tx, _INSERT_EMPTYINGS, rows)


_UPDATE_HEARD = """
UPDATE bins SET last_heard_at = greatest(last_heard_at, told.heard_at), reported_at = greatest(bins.reported_at, told.reported_at),
    version = told.version
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::bigint[]) AS told (bin_id, heard_at, reported_at, version)
WHERE bins.bin_id = told.bin_id
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """When a locked bin was heard, when it reported if it did, and the version that it has now."""

    bin_id: UUID
    heard_at: datetime | None
    reported_at: datetime | None
    version: int


async def update_heard(tx: Transaction, heard: Sequence[Heard]) -> None:
    """Writes that bins were heard; nothing is moved back."""
    await _execute_each(tx, _UPDATE_HEARD, [(each.bin_id, each.heard_at, each.reported_at, each.version) for each in heard])


_UPDATE_STATUS = """
UPDATE bins SET status_version = $3, silent_since = $4 WHERE community_id = $1 AND device_id = $2 AND status_version < $3 RETURNING bin_id
"""


async def update_status(tx: Transaction, device_id: str, version: int, silent_since: datetime | None) -> UUID | None:
    """Notes the newest word about whether a device is heard, and locks its bin; None for an older word, and for what is no bin."""
    bin_id: UUID | None = await tx.fetchval(_UPDATE_STATUS, tx.community_id, device_id, version, silent_since)
    return bin_id


# Alarms.

_INSERT_ALARMS = """
INSERT INTO alarms (alarm_id, community_id, bin_id, kind, compartment, raised_at)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[])
"""
_CLEAR_ALARMS = """
UPDATE alarms SET cleared_at = over.cleared_at FROM unnest($1::uuid[], $2::timestamptz[]) AS over (alarm_id, cleared_at)
WHERE alarms.alarm_id = over.alarm_id
"""


async def write_alarms(tx: Transaction, raised: Sequence[tuple[Bin, Alarm]], cleared: Sequence[Alarm]) -> None:
    """Adds alarms of locked bins, and notes when others were over."""
    rows = [(each.alarm_id, found.community_id, each.bin_id, each.kind, each.compartment, each.raised_at) for found, each in raised]
    await _execute_each(tx, _CLEAR_ALARMS, [(each.alarm_id, each.cleared_at) for each in cleared])
    await _execute_each(tx, _INSERT_ALARMS, rows)


_ALARMS = Listing(
    select=_ALARM,
    where="community_id = {}",
    filters={"open_only": "cleared_at IS NULL"},
    key=("raised_at", "alarm_id"),
    descending=True,
)


async def list_alarms(tx: Transaction, open_only: bool, after: tuple[datetime, UUID] | None, limit: int) -> list[Alarm]:
    """The community's alarms, newest first."""
    return [_alarm(row) for row in await _ALARMS.fetch(tx, [tx.community_id], after, limit, open_only=open_only)]


def _alarm(row: Any) -> Alarm:
    return Alarm(**{**row, "kind": AlarmKind(row["kind"])})


# Clocks.

# Of each bin, the stretches that a deposit of it may belong to: those within seven days of what its clock said, and no more than a clock
# that is wrong by something else with each report makes in a day.
_STRETCHES_OF_BINS = """
SELECT asked.bin_id, stretch.heard_from, stretch.heard_until, stretch.said_from_us, stretch.said_until_us, stretch.error_us
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS asked (bin_id, from_us, until_us)
CROSS JOIN LATERAL (
    SELECT heard_from, heard_until, said_from_us, said_until_us, error_us FROM clock_stretches
    WHERE bin_id = asked.bin_id AND said_until_us >= asked.from_us - 604800000000 AND said_from_us <= asked.until_us + 604800000000
    ORDER BY heard_from DESC LIMIT 3000
) AS stretch
"""
_NEWEST_STRETCHES = """
SELECT asked AS bin_id, stretch.heard_from, stretch.heard_until, stretch.said_from_us, stretch.said_until_us, stretch.error_us
FROM unnest($1::uuid[]) AS asked
CROSS JOIN LATERAL (
    SELECT heard_from, heard_until, said_from_us, said_until_us, error_us FROM clock_stretches
    WHERE bin_id = asked ORDER BY heard_from DESC LIMIT 1
) AS stretch
"""
_WRITE_STRETCHES = """
INSERT INTO clock_stretches (bin_id, community_id, heard_from, heard_until, said_from_us, said_until_us, error_us)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bigint[])
ON CONFLICT (bin_id, heard_from) DO UPDATE SET heard_until = excluded.heard_until, said_until_us = excluded.said_until_us
"""


async def find_stretches(tx: Transaction, said_us: Mapping[UUID, Sequence[int]]) -> dict[UUID, list[Stretch]]:
    """The stretches of bins that may date what bears these times of their clocks."""
    columns = list(said_us), [min(each) for each in said_us.values()], [max(each) for each in said_us.values()]
    found: dict[UUID, list[Stretch]] = {}
    for bin_id, *stretch in await tx.fetch(_STRETCHES_OF_BINS, *columns):
        found.setdefault(bin_id, []).append(Stretch(*stretch))
    return found


async def newest_stretches(tx: Transaction, bin_ids: Collection[UUID]) -> dict[UUID, Stretch]:
    """The newest stretch of each bin that has one."""
    return {bin_id: Stretch(*stretch) for bin_id, *stretch in await tx.fetch(_NEWEST_STRETCHES, list(bin_ids))}


async def write_stretches(tx: Transaction, stretches: Sequence[tuple[Bin, Stretch]]) -> None:
    """Adds stretches, or makes them longer."""
    rows = [
        (found.bin_id, found.community_id, each.heard_from, each.heard_until, each.said_from_us, each.said_until_us, each.error_us)
        for found, each in stretches
    ]
    await _execute_each(tx, _WRITE_STRETCHES, rows)


_FORGET_FILL_LEVELS = "DELETE FROM fill_levels WHERE ctid = ANY(ARRAY(SELECT ctid FROM fill_levels WHERE at < $1 LIMIT $2))"
_FORGET_STRETCHES = """
DELETE FROM clock_stretches WHERE ctid = ANY(ARRAY(SELECT ctid FROM clock_stretches WHERE heard_until < $1 LIMIT $2))
"""
_FORGET_APPROACHES = "DELETE FROM approaches WHERE ctid = ANY(ARRAY(SELECT ctid FROM approaches WHERE approached_at < $1 LIMIT $2))"


async def forget_before(tx: Transaction, instant: datetime, limit: int) -> None:
    """Deletes at most `limit` fill levels, stretches and approaches each that are older."""
    for statement in (_FORGET_FILL_LEVELS, _FORGET_STRETCHES, _FORGET_APPROACHES):
        await tx.execute(statement, instant, limit)


async def _execute_each(tx: Transaction, statement: str, rows: Iterable[Sequence[object]]) -> None:
    """Runs a statement that takes columns once for all rows, if there are any."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    if columns:
        await tx.execute(statement, *columns)
