"""Events from one service's transaction to another's handler."""

import uuid
from pathlib import Path

from linli.parking.v1.events_pb2 import LaneConfigured, VehicleEntered
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.messaging import on
from servicekit.service import Service
from tests.support import Servers, eventually, platform

MIGRATIONS = Path(__file__).parent / "migrations"
_INSERT = "INSERT INTO heard (community_id, text) VALUES ($1, $2)"


async def note_vehicle(tx: Transaction, event: Received[VehicleEntered]) -> None:
    await tx.execute(_INSERT, tx.community_id, event.message.plate)
    tx.publish(LaneConfigured(lane_id=event.message.session_id))


TOY = Service(name="toy", migrations=MIGRATIONS, publishes=[LaneConfigured, VehicleEntered], consumes=[on(VehicleEntered, note_vehicle)])


async def test_an_event_delivered_twice_is_handled_once(servers: Servers) -> None:
    community = uuid.uuid4()
    async with platform(servers, TOY) as running:
        event = VehicleEntered(session_id="s1", plate="京A12345")
        identifier = await running.publish(event, community)
        client = running.host.running[0].nats
        await client.jetstream().publish(
            f"linli.parking.VehicleEntered.{community}",
            event.SerializeToString(),
            headers={
                "ce-id": identifier,
                "ce-type": "linli.parking.v1.VehicleEntered",
                "ce-subject": "s1",
                "ce-time": "2026-01-01T00:00:00+00:00",
                "ce-community": str(community),
            },
        )
        await running.publish(VehicleEntered(session_id="s1", plate="京B00000"), community)
        await running.event(LaneConfigured)

        async def both() -> bool:
            return len(running.events(LaneConfigured)) >= 2

        await eventually(both)
        async with running.transaction("toy", community) as tx:
            assert [row["text"] for row in await tx.fetch("SELECT text FROM heard ORDER BY heard_at")] == ["京A12345", "京B00000"]
        async with running.transaction("toy", uuid.uuid4()) as tx:
            assert await tx.fetchval("SELECT count(*) FROM heard") == 0
