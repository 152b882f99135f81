"""What every service must know of a community: its calendar. Each keeps its own copy, from identity's events.

A service that needs it hears `FOLLOWED`; until it has heard, a community is in China's one time zone.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from linli.identity.v1.events_pb2 import CommunityChanged
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.messaging import on
from servicekit.times import zone

DEFAULT_ZONE: Final = ZoneInfo("Asia/Shanghai")

_UPSERT = """
INSERT INTO known_communities AS known (community_id, time_zone, version, known_since) VALUES ($1, $2, $3, $4)
ON CONFLICT (community_id) DO UPDATE SET time_zone = excluded.time_zone, version = excluded.version WHERE known.version <= excluded.version
"""
_SELECT = "SELECT community_id, time_zone, known_since FROM known_communities ORDER BY community_id"


@dataclass(frozen=True, slots=True)
class Community:
    """A community as far as its calendar goes. `known_since` is when this service first heard of it."""

    community_id: uuid.UUID
    time_zone: ZoneInfo
    known_since: datetime


async def remember_community_on_community_changed(tx: Transaction, event: Received[CommunityChanged]) -> None:
    """Keeps the newest version. Raises Invalid for a time zone that is none."""
    zone(event.message.time_zone)
    await tx.execute(_UPSERT, tx.community_id, event.message.time_zone, event.version, tx.now)


FOLLOWED = on(CommunityChanged, remember_community_on_community_changed)


async def list_communities(tx: Transaction) -> list[Community]:
    """The communities in the transaction's scope: one, or in the platform scope all that are known."""
    return [Community(row["community_id"], zone_of(row["time_zone"]), row["known_since"]) for row in await tx.fetch(_SELECT)]


async def find_time_zone(tx: Transaction) -> ZoneInfo:
    """The time zone of the transaction's community."""
    known = await list_communities(tx)
    return known[0].time_zone if known else DEFAULT_ZONE


def zone_of(name: str | None) -> ZoneInfo:
    """The zone of a stored name, for statements that read it along with other things; None is a community that is not known yet."""
    return ZoneInfo(name) if name else DEFAULT_ZONE
