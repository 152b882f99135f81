"""What insights does when it hears of something."""

from collections.abc import Sequence

from linli.device.v1.events_pb2 import ObjectObserved, ReadingBatch
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.times import to_datetime
from services.insights import operations
from services.insights.operations import Batch
from services.insights.store import ObservedObject, Source


async def write_readings_on_batch(tx: Transaction, events: Sequence[Received[ReadingBatch]]) -> None:
    """A batch that says no id of its own goes by its event's, which stays the same however often it is delivered."""
    batches = [
        Batch(Source(event.community_id, event.message.device_id, event.message.batch_id or event.event_id), event.message.readings)
        for event in events
    ]
    await operations.write_batches(tx, batches)


async def keep_object_on_observation(tx: Transaction, event: Received[ObjectObserved]) -> None:
    """Keeps what a camera reported."""
    seen = event.message
    await operations.keep_object(
        tx,
        ObservedObject(
            device_id=seen.device_id,
            record_id=seen.record_id,
            kind=seen.kind,
            occurred_at=to_datetime(seen.occurred_at, "occurred_at"),
            received_at=to_datetime(seen.received_at, "received_at"),
            image_keys=list(seen.image_keys),
            record_json=seen.record_json,
        ),
    )
