"""The methods of linli.insights.v1.InsightsService."""

from datetime import datetime
from functools import partial

from google.protobuf.timestamp_pb2 import Timestamp

from linli.insights.v1.insights_pb2 import (
    ListObservedObjectsRequest,
    ListObservedObjectsResponse,
    ObservedObject,
    Point,
    ReadTelemetryRequest,
    Telemetry,
)
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.times import to_datetime, to_timestamp
from services.insights import operations
from services.insights.steps import SECOND_US


async def read_telemetry(tx: Transaction, request: ReadTelemetryRequest) -> Telemetry:
    """Readings of one metric of one device, in steps."""
    since = to_datetime(getattr(request, "from"), "from")  # a keyword of the language is no attribute of it
    until = to_datetime(request.until, "until")
    points = await operations.read_telemetry(tx, request.device_id, request.metric, since, until, request.step_s)
    return Telemetry(
        points=[
            Point(
                at=Timestamp(seconds=point.at_us // SECOND_US, nanos=point.at_us % SECOND_US * 1000),
                average=point.average,
                minimum=point.minimum,
                maximum=point.maximum,
                readings=point.readings,
            )
            for point in points
        ]
    )


async def list_observed_objects(tx: Transaction, request: ListObservedObjectsRequest) -> ListObservedObjectsResponse:
    """Objects that a camera reported, newest first."""
    fetch = partial(operations.list_objects, tx, request.device_id)
    objects, token = await page(request, tuple[datetime, str], fetch, lambda seen: (seen.occurred_at, seen.record_id))
    return ListObservedObjectsResponse(
        objects=[
            ObservedObject(record_id=seen.record_id, kind=seen.kind, occurred_at=to_timestamp(seen.occurred_at), images=seen.images)
            for seen in objects
        ],
        next_page_token=token,
    )
