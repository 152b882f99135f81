"""The methods of linli.access.v1.AccessService about alarms, their rules and figures."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from linli.access.v1 import alarms_pb2 as pb
from servicekit.blobs import Blobs
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_day, to_timestamp
from services.access import alarm_operations, alarm_rule_operations, alarm_rule_store, alarm_store
from services.access.alarm_operations import SEVERITY_MESSAGE
from services.access.alarm_rules import Rule, texts_of
from services.access.alarm_store import SourceFigures
from services.access.alarms import Alarm, AlarmState, Severity, permille
from services.access.door_rpc import window_messages, windows_of

_STATE_MESSAGE: Final = {state: pb.AlarmState.Value(f"ALARM_STATE_{state.name}") for state in AlarmState}
_STATE: Final = {message: state for state, message in _STATE_MESSAGE.items()}
_PICTURES_LAST: Final = timedelta(minutes=10)


async def list_alarms(tx: Transaction, request: pb.ListAlarmsRequest) -> pb.ListAlarmsResponse:
    """Alarms, newest first."""
    fetch = partial(
        alarm_store.list_alarms,
        tx,
        _STATE.get(request.state),
        request.kind or None,
        request.source_id or None,
        Severity(request.severity_min) if request.severity_min else None,
    )
    alarms, token = await page(request, tuple[datetime, UUID], fetch, lambda alarm: (alarm.told_at, alarm.alarm_id))
    return pb.ListAlarmsResponse(alarms=[_alarm(alarm) for alarm in alarms], next_page_token=token)


async def get_alarm(tx: Transaction, request: pb.GetAlarmRequest) -> pb.Alarm:
    """An alarm with its evidence."""
    alarm, blobs = await alarm_operations.get_alarm(tx, UUID(request.alarm_id)), tx.resource(Blobs)
    # A blob's key begins with its community: nobody is shown another's, whatever an event says.
    own = [key for key in alarm.image_keys if key.startswith(f"{tx.community_id}/")]
    return _alarm(alarm, [blobs.download(key, now=tx.now, lasts=_PICTURES_LAST) for key in own])


async def acknowledge_alarm(tx: Transaction, request: pb.AcknowledgeAlarmRequest) -> pb.Alarm:
    """Says that the caller deals with an alarm."""
    return _alarm(await alarm_operations.acknowledge_alarm(tx, UUID(request.alarm_id)))


async def close_alarm(tx: Transaction, request: pb.CloseAlarmRequest) -> pb.Alarm:
    """Closes an alarm with its cause, or as a false one."""
    note = text(request.note, "note", lines=True) if request.note else ""
    alarm_id, false_alarm = UUID(request.alarm_id), request.false_alarm
    return _alarm(await alarm_operations.close_alarm(tx, alarm_id, request.cause, note, false_alarm=false_alarm))


def _alarm(alarm: Alarm, picture_urls: Sequence[str] = ()) -> pb.Alarm:
    texts = texts_of(alarm.kind, alarm.place)
    return pb.Alarm(
        alarm_id=str(alarm.alarm_id),
        kind=alarm.kind,
        severity=SEVERITY_MESSAGE[alarm.severity],
        state=_STATE_MESSAGE[alarm.state],
        source_id=alarm.source_id,
        place=alarm.place,
        zone_id=str(alarm.zone_id or ""),
        door_id=str(alarm.door_id or ""),
        raised_at=to_timestamp(alarm.raised_at),
        last_observed_at=to_timestamp(alarm.last_observed_at),
        observations=alarm.observations,
        picture_urls=picture_urls,
        acknowledged_by_account_id=str(alarm.acknowledged_by or ""),
        acknowledged_at=to_timestamp(alarm.acknowledged_at),
        escalations=alarm.escalations,
        closed_at=to_timestamp(alarm.closed_at),
        closed_by_account_id=str(alarm.closed_by or ""),
        cause=alarm.cause,
        false_alarm=alarm.false_alarm,
        note=alarm.note,
        work_order_id=alarm.work_order_id,
        text_zh=texts.zh,
        text_en=texts.en,
    )


async def set_alarm_rule(tx: Transaction, request: pb.SetAlarmRuleRequest) -> pb.AlarmRule:
    """Sets what becomes of one kind of observation, everywhere or in one zone."""
    rule = Rule(
        kind=request.kind,
        zone_id=UUID(request.zone_id) if request.zone_id else None,
        enabled=request.enabled,
        severity=Severity(request.severity),
        window_s=request.window_s,
        confidence_min_permille=request.confidence_min_permille,
        windows=windows_of(request.windows),
        work_order_category=request.work_order_category,
        escalate_after_s=request.escalate_after_s,
        customised=True,
    )
    return _rule(await alarm_rule_operations.set_rule(tx, rule))


async def list_alarm_rules(tx: Transaction, request: pb.ListAlarmRulesRequest) -> pb.ListAlarmRulesResponse:
    """The rules in force, those that nobody has set among them."""
    return pb.ListAlarmRulesResponse(rules=[_rule(rule) for rule in (await alarm_rule_store.load_rulebook(tx)).listed()])


def _rule(rule: Rule) -> pb.AlarmRule:
    return pb.AlarmRule(
        kind=rule.kind,
        zone_id=str(rule.zone_id or ""),
        enabled=rule.enabled,
        severity=SEVERITY_MESSAGE[rule.severity],
        window_s=rule.window_s,
        confidence_min_permille=rule.confidence_min_permille,
        windows=window_messages(rule.windows),
        work_order_category=rule.work_order_category,
        escalate_after_s=rule.escalate_after_s,
        customised=rule.customised,
    )


async def get_alarm_figures(tx: Transaction, request: pb.GetAlarmFiguresRequest) -> pb.AlarmFigures:
    """How many alarms each camera raised and how many of them were false."""
    first, last = to_day(request.from_day, "from_day"), to_day(request.until_day, "until_day")
    return pb.AlarmFigures(sources=[_figures(each) for each in await alarm_operations.sum_up(tx, first, last)])


def _figures(each: SourceFigures) -> pb.SourceFigures:
    after = each.acknowledged_after
    return pb.SourceFigures(
        source_id=each.source_id,
        name=each.name,
        kind=each.kind,
        raised=each.raised,
        closed=each.closed,
        false_alarms=each.false_alarms,
        false_permille=permille(each.false_alarms, each.closed),
        acknowledged_s_p50=-1 if after is None else after // timedelta(seconds=1),
    )
