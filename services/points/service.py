"""Points: earned under published rules, kept on a ledger, redeemed for services and goods. Read this first."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec

import ledger
from linli.notification.v1.events_pb2 import Notified
from linli.points.v1 import points_pb2
from linli.waste.v1.events_pb2 import DepositCounted, DepositWithdrawn
from servicekit import communities, households
from servicekit.messaging import on_batch
from servicekit.service import Running, Service, contract, every, every_outside
from services.points import earning_operations, expiring, reactions, redemption_operations, rpc, travel_operations
from services.points.grant_operations import GrantWriter
from services.points.holders import Shards


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the ledger is written."""

    # Writers of the ledger beside each other. Every process has the same number, and all stop before it is changed.
    ledger_shards: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


@asynccontextmanager
async def open_resources(running: Running) -> AsyncIterator[Sequence[object]]:
    """What the operations find in their transactions and calls."""
    assert running.database is not None
    shards = running.settings.ledger_shards
    grants = GrantWriter.of(running.database, shards)
    try:
        yield [Shards(shards), grants]
    finally:
        await grants.writer.close()


SERVICE = Service(
    name="points",
    settings=Settings,
    migrations=[ledger.MIGRATIONS, Path(__file__).parent / "migrations"],
    api=contract(points_pb2.DESCRIPTOR, "PointsService", rpc),
    resources=open_resources,
    publishes=[Notified],
    consumes=[
        on_batch(DepositCounted, reactions.earn_on_deposit_counted),
        on_batch(DepositWithdrawn, reactions.take_back_on_deposit_withdrawn),
        communities.FOLLOWED,
        households.FOLLOWED,
    ],
    jobs=[
        every(seconds=10, run=earning_operations.judge_late),
        every(minutes=60, run=travel_operations.forget_trips),
        every_outside(minutes=1, run=expiring.expire_points),
        every_outside(minutes=1, run=expiring.warn_of_expiry),
        every(minutes=1, run=redemption_operations.expire_reservations),
    ],
)
