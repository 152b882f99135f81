"""What workorders does when it hears of something."""

from typing import Final

from linli.access.v1 import events_pb2 as access
from linli.billing.v1.events_pb2 import PaymentRefunded, PaymentSucceeded
from linli.waste.v1 import events_pb2 as waste
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.identifiers import parse_id, to_id
from servicekit.times import to_datetime_or
from services.workorders import report_operations, work_operations
from services.workorders.orders import Priority
from services.workorders.report_operations import Alarm

ORIGIN: Final = "workorders"
_UNREADABLE: Final = "workorders.event_unreadable"
_PRIORITIES: Final = {
    access.SEVERITY_NOTICE: Priority.NORMAL,
    access.SEVERITY_WARNING: Priority.URGENT,
    access.SEVERITY_CRITICAL: Priority.EMERGENCY,
}
# By the kind of a bin's alarm: the category, the title in both languages, and whether every community wants an order for it.
_BIN_ALARMS: Final = {
    waste.ALARM_KIND_FIRE: ("waste.fire", "垃圾箱着火 Bin on fire"),
    waste.ALARM_KIND_FULL: ("waste.full", "垃圾箱已满 Bin full"),
    waste.ALARM_KIND_SILENT: ("waste.silent", "垃圾箱失联 Bin not heard any more"),
    waste.ALARM_KIND_CLOCK: ("waste.clock", "垃圾箱时钟异常 Bin's clock wrong"),
}
_TITLE_LENGTH_MAX: Final = 100


async def report_order_on_alarm_raised(tx: Transaction, event: Received[access.AlarmRaised]) -> None:
    """An alarm for which the community's rule wants somebody becomes an order, however often it is heard."""
    told = event.message
    if not told.work_order_category:
        return
    alarm = Alarm(
        origin="access",
        origin_id=str(to_id(told.alarm_id, "alarm_id", _UNREADABLE)),
        category=told.work_order_category,
        priority=_PRIORITIES.get(told.severity),
        title=_text(told.text_zh)[:_TITLE_LENGTH_MAX] or told.kind,
        description=_text(told.text_en),
        building_id=parse_id(told.building_id),
        place=_text(told.place),
        raised_at=to_datetime_or(told.raised_at, event.occurred_at),
    )
    await report_operations.add_alarm(tx, alarm)


async def end_order_on_alarm_closed(tx: Transaction, event: Received[access.AlarmClosed]) -> None:
    """An alarm that is over needs nobody any more who has not set out."""
    alarm_id = str(to_id(event.message.alarm_id, "alarm_id", _UNREADABLE))
    note = "告警已关闭：误报 The alarm is closed: false" if event.message.false_alarm else "告警已关闭 The alarm is closed"
    await report_operations.end_alarm(tx, "access", alarm_id, note)


async def report_order_on_bin_alarm_raised(tx: Transaction, event: Received[waste.BinAlarmRaised]) -> None:
    """A fire always becomes an order; a bin that is full, silent or wrong does where the community has a category for that."""
    told = event.message
    if told.kind not in _BIN_ALARMS:
        return
    category, title = _BIN_ALARMS[told.kind]
    is_fire = told.kind == waste.ALARM_KIND_FIRE
    alarm = Alarm(
        origin="waste",
        origin_id=str(to_id(told.alarm_id, "alarm_id", _UNREADABLE)),
        category=category,
        priority=Priority.EMERGENCY if is_fire else None,
        title=title,
        description=f"bin {told.bin_id}",
        building_id=None,
        place=_text(told.compartment),
        raised_at=to_datetime_or(told.raised_at, event.occurred_at),
        only_known=not is_fire,
    )
    await report_operations.add_alarm(tx, alarm)


async def end_order_on_bin_alarm_cleared(tx: Transaction, event: Received[waste.BinAlarmCleared]) -> None:
    """What a bin needed somebody for is over."""
    alarm_id = str(to_id(event.message.alarm_id, "alarm_id", _UNREADABLE))
    await report_operations.end_alarm(tx, "waste", alarm_id, "告警已解除 The alarm is cleared")


async def note_payment_on_payment_succeeded(tx: Transaction, event: Received[PaymentSucceeded]) -> None:
    """An order is paid."""
    told = event.message
    if told.origin == ORIGIN:
        order_id, charge_id = to_id(told.origin_id, "origin_id", _UNREADABLE), to_id(told.charge_id, "charge_id", _UNREADABLE)
        await work_operations.note_payment(tx, order_id, charge_id, told.amount_fen)


async def note_refund_on_payment_refunded(tx: Transaction, event: Received[PaymentRefunded]) -> None:
    """Money for an order went back."""
    told = event.message
    if told.origin == ORIGIN:
        order_id, charge_id = to_id(told.origin_id, "origin_id", _UNREADABLE), to_id(told.charge_id, "charge_id", _UNREADABLE)
        await work_operations.note_refund(tx, order_id, charge_id, told.amount_fen, is_owed_again=told.reopened_charge)


def _text(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
