"""Work orders: repairs, complaints, inspections and alarms, answered in the time that the community promises. Read this first."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from linli.access.v1.events_pb2 import AlarmClosed, AlarmRaised
from linli.billing.v1.events_pb2 import ChargeRaised, ChargeWithdrawn, PaymentRefunded, PaymentSucceeded
from linli.notification.v1.events_pb2 import Notified
from linli.waste.v1.events_pb2 import BinAlarmCleared, BinAlarmRaised
from linli.workorders.v1 import workorders_pb2
from linli.workorders.v1.events_pb2 import TargetMissed, WorkOrderChanged
from servicekit import communities, households, staff
from servicekit.blobs import BlobSettings, open_blobs
from servicekit.config import SettingsError
from servicekit.messaging import on
from servicekit.sealing import DATA_KEYS_PATTERN, data_keys
from servicekit.service import Running, Service, contract, every, every_outside
from servicekit.timers import timer
from services.workorders import (
    dispatch_operations,
    inspection_operations,
    order_operations,
    photos,
    reactions,
    rpc,
    target_operations,
    technician_store,
    timer_operations,
)
from services.workorders.orders import Target


class Settings(BlobSettings, frozen=True, kw_only=True):
    """The keys that seal the phones of who opens the door, and where photos are."""

    # `id:key,id:key`, each of 32 bytes in base64: the first seals, older ones still open.
    data_keys: Annotated[str, msgspec.Meta(pattern=DATA_KEYS_PATTERN)]


@asynccontextmanager
async def open_resources(running: Running) -> AsyncIterator[Sequence[object]]:
    """What the operations find in their transactions. Raises SettingsError."""
    settings: Settings = running.settings
    try:
        keys = data_keys(settings.data_keys)
    except ValueError as error:
        raise SettingsError(f"LINLI_WORKORDERS_DATA_KEYS is wrong: {error}") from None
    yield [keys, open_blobs(settings)]


SERVICE = Service(
    name="workorders",
    settings=Settings,
    migrations=[Path(__file__).parent / "migrations"],
    api=contract(workorders_pb2.DESCRIPTOR, "WorkOrdersService", rpc),
    resources=open_resources,
    publishes=[WorkOrderChanged, TargetMissed, ChargeRaised, ChargeWithdrawn, Notified],
    consumes=[
        on(AlarmRaised, reactions.report_order_on_alarm_raised),
        on(AlarmClosed, reactions.end_order_on_alarm_closed),
        on(BinAlarmRaised, reactions.report_order_on_bin_alarm_raised),
        on(BinAlarmCleared, reactions.end_order_on_bin_alarm_cleared),
        on(PaymentSucceeded, reactions.note_payment_on_payment_succeeded),
        on(PaymentRefunded, reactions.note_refund_on_payment_refunded),
        communities.FOLLOWED,
        households.FOLLOWED,
        staff.FOLLOWED,
    ],
    jobs=[
        every(minutes=60, run=order_operations.forget_old),
        every(minutes=5, run=technician_store.forget_positions),
        every_outside(minutes=30, run=photos.delete_unattached),
    ],
    timers=[
        *(timer(target, timer_operations.judge_promise) for target in Target),
        timer(target_operations.CONFIRM, timer_operations.confirm_by_itself),
        timer(dispatch_operations.OFFER, dispatch_operations.lapse_offer),
        timer(inspection_operations.INSPECTION, inspection_operations.begin_inspection),
    ],
)
