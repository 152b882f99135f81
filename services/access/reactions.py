"""What access does when who lives or works here changes, and with work orders that contractors come for."""

from linli.identity.v1.events_pb2 import HouseholdChanged, StaffChanged
from linli.workorders.v1.events_pb2 import WorkOrderChanged
from servicekit import households, staff
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.identifiers import to_id
from servicekit.times import to_datetime
from services.access import entry_store, pass_operations, pass_store, snapshot_operations, tie_operations
from services.access.pass_store import WorkOrder

_MALFORMED = "access.event_malformed"


async def refresh_doors_on_household_changed(tx: Transaction, event: Received[HouseholdChanged]) -> None:
    """Doors open to who lives here now. What somebody who has moved away gave out for the household ends."""
    household_id = to_id(event.message.household_id, "household_id", _MALFORMED)
    await entry_store.take_turn(tx, household_id)
    before = await entry_store.find_household(tx, household_id)
    await households.remember_household_on_household_changed(tx, event)
    after = await entry_store.find_household(tx, household_id)
    if before == after:
        return
    gone = before.account_ids - after.account_ids
    await tie_operations.watch(tx, gone)
    await pass_operations.end_passes_of_inviters(tx, household_id, gone)
    visitors = await pass_store.list_confirmed(tx, household_id) if before.building_id != after.building_id else []
    await snapshot_operations.refresh(tx, {*before.account_ids, *after.account_ids, *visitors})


async def refresh_doors_on_staff_changed(tx: Transaction, event: Received[StaffChanged]) -> None:
    """Doors open to who works here now."""
    account_id = to_id(event.message.account_id, "account_id", _MALFORMED)
    await entry_store.take_turn(tx, account_id)
    before = await staff.roles_of(tx, [account_id])
    await staff.remember_staff_on_staff_changed(tx, event)
    after = await staff.roles_of(tx, [account_id])
    if before == after:
        return
    if not after[account_id]:
        await tie_operations.watch(tx, [account_id])
    await snapshot_operations.refresh(tx, [account_id])


async def follow_visit_on_work_order_changed(tx: Transaction, event: Received[WorkOrderChanged]) -> None:
    """Contractors' passes go with the visit that was agreed, and end with the order."""
    order = event.message
    known = WorkOrder(
        order_id=to_id(order.order_id, "order_id", _MALFORMED),
        closed=order.closed,
        visit_from=to_datetime(order.visit_from, "visit_from") if order.HasField("visit_from") else None,
        visit_until=to_datetime(order.visit_until, "visit_until") if order.HasField("visit_until") else None,
    )
    await pass_operations.hear_work_order(tx, known, event.version)
