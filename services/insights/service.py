"""Insights: what the community's devices measured and saw. Read this first."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from linli.device.v1.events_pb2 import ObjectObserved, ReadingBatch
from linli.insights.v1 import insights_pb2
from servicekit import communities
from servicekit.messaging import on, on_batch
from servicekit.service import Running, Service, contract, every
from services.insights import operations, reactions, rpc
from services.insights.chunks import Retention


class InsightsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long telemetry and observed objects are kept: whole days before today."""

    retention_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 90


@asynccontextmanager
async def resources(running: Running) -> AsyncIterator[Sequence[object]]:
    """What the operations find in their transactions."""
    yield [Retention(days=running.settings.retention_days)]


SERVICE = Service(
    name="insights",
    settings=InsightsSettings,
    migrations=[Path(__file__).parent / "migrations"],
    api=contract(insights_pb2.DESCRIPTOR, "InsightsService", rpc),
    consumes=[
        on_batch(ReadingBatch, reactions.write_readings_on_batch),
        on(ObjectObserved, reactions.keep_object_on_observation),
        communities.FOLLOWED,
    ],
    jobs=[
        every(minutes=30, run=operations.create_days_ahead),
        every(minutes=30, run=operations.forget_old),
    ],
    resources=resources,
)
