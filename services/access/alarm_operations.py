"""What happens with alarms: observations raise them or join them, people and work orders take them and close them."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID

import prometheus_client

from linli.access.v1.events_pb2 import AlarmClosed, AlarmRaised
from linli.access.v1.events_pb2 import Severity as SeverityMessage
from linli.notification.v1.events_pb2 import Notified
from servicekit.communities import find_time_zone
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid, NotFound
from servicekit.identifiers import derived_id
from servicekit.staff import list_staff
from servicekit.states import advance
from servicekit.timers import Due, cancel_timers, set_timers
from servicekit.times import span, to_timestamp
from services.access import alarm_rule_store, alarm_store, care_store, watch_store
from services.access.alarm_rules import ALWAYS_ARMED, CHAIN, TERMINAL_SILENT, Rule, Rulebook, Verdict, texts_of
from services.access.alarm_store import SourceFigures, Span
from services.access.alarms import (
    BACK_AGAIN,
    FALSE_ALARM,
    FOLLOWS,
    ORDER_DONE,
    Alarm,
    AlarmState,
    Correlation,
    Episode,
    Observation,
    Severity,
    correlate,
)

SEVERITY_MESSAGE: Final = {severity: SeverityMessage.Value(f"SEVERITY_{severity.name}") for severity in Severity}
# The kind of the timer that tells the next of the chain.
ESCALATION: Final = "alarm_escalation"
_OBSERVATIONS: Final = prometheus_client.Counter(
    "linli_access_observations_total", "Observations by what became of them; those that were taken in before are not in it", ["outcome"]
)
# Longer than the broker keeps anything, and than devices send it again.
_KEPT: Final = timedelta(days=30)
_FORGOTTEN_AT_ONCE: Final = 20_000
_FIGURES_DAYS_MAX: Final = 366
_FIGURES_MAX: Final = 1000


# Observations.


async def observe(tx: Transaction, observations: Sequence[Observation]) -> list[UUID | None]:
    """Takes in observations of one or several communities, in any scope, and returns to it.

    Returns the alarm that each raised or joined; None for one that raises none, and for one that was taken in before.
    """
    scope, by_community = tx.scope, defaultdict[UUID, dict[UUID, Observation]](dict)
    for seen in observations:
        by_community[seen.community_id].setdefault(seen.observation_id, seen)
    alarm_of: dict[UUID, UUID] = {}
    # In one order, so that two transactions which lock the same sources cannot wait for each other.
    for community_id in sorted(by_community):
        if tx.scope != community_id:
            await tx.enter(community_id)
        alarm_of |= await _observe(tx, list(by_community[community_id].values()))
    if tx.scope != scope:
        await tx.enter(scope)
    return [alarm_of.get(seen.observation_id) for seen in observations]


async def _observe(tx: Transaction, observations: Sequence[Observation]) -> Mapping[UUID, UUID]:
    rulebook, armed = await alarm_rule_store.load_rulebook(tx), list[Observation]()
    for seen in observations:
        verdict = rulebook.judge(seen)
        if verdict is Verdict.ARMED:
            armed.append(seen)
        else:
            _OBSERVATIONS.labels(verdict).inc()
    if not armed:
        return {}
    fresh = await alarm_store.count_observations(tx, [seen.observation_id for seen in armed])
    rest = await _without_explained(tx, [seen for seen in armed if seen.observation_id in fresh])
    groups = defaultdict[tuple[str, str], list[Observation]](list)
    for seen in rest:
        groups[seen.kind, seen.source_id].append(seen)
    if not groups:
        return {}
    windows = {key: timedelta(seconds=_rule(rulebook, group[-1]).window_s) for key, group in groups.items()}
    spans = [Span(*key, *_around([seen.occurred_at for seen in group], windows[key])) for key, group in groups.items()]
    episodes = await alarm_store.lock_episodes(tx, spans)
    correlations = {key: correlate(episodes[key], group, windows[key]) for key, group in groups.items()}
    known = {episode.alarm_id for found in episodes.values() for episode in found}
    await _write(tx, rulebook, {seen.observation_id: seen for seen in rest}, known, list(correlations.values()))
    return {one: alarm_id for each in correlations.values() for one, alarm_id in each.alarm_of.items()}


def _rule(rulebook: Rulebook, seen: Observation) -> Rule:
    rule = rulebook.find(seen.kind, seen.zone_id)
    assert rule is not None  # It was judged by it.
    return rule


def _around(instants: Collection[datetime], window: timedelta) -> tuple[datetime, datetime]:
    return min(instants) - window, max(instants) + window


async def _without_explained(tx: Transaction, fresh: Sequence[Observation]) -> list[Observation]:
    """Those that no maintenance explains; the others are counted in it."""
    placed = [seen for seen in fresh if seen.zone_id is not None and seen.kind not in ALWAYS_ARMED]
    if not placed:
        return list(fresh)
    since, until = _around([seen.occurred_at for seen in placed], timedelta(0))
    maintenances = await watch_store.find_maintenances(tx, {seen.zone_id for seen in placed if seen.zone_id is not None}, since, until)
    explained = {seen.observation_id: each.maintenance_id for seen in placed for each in maintenances if each.explains(seen)}
    await watch_store.add_suppressed(tx, Counter(explained.values()))
    _OBSERVATIONS.labels("suppressed").inc(len(explained))
    return [seen for seen in fresh if seen.observation_id not in explained]


async def _write(
    tx: Transaction,
    rulebook: Rulebook,
    seen: Mapping[UUID, Observation],
    known: Collection[UUID],
    correlations: Sequence[Correlation],
) -> None:
    changed = [episode for correlation in correlations for episode in correlation.changed]
    await alarm_store.update_episodes(tx, [each for each in changed if each.alarm_id in known])
    merged = {each.alarm_id: each.merged_into for each in changed if each.alarm_id in known and each.merged_into is not None}
    for alarm_id, version in (await alarm_store.merge(tx, merged)).items():
        await cancel_timers(tx, alarm_id, ESCALATION)
        _publish_closed(tx, alarm_id, false_alarm=False, version=version)
    raised = [each for each in changed if each.alarm_id not in known and each.merged_into is None]
    _OBSERVATIONS.labels("raised").inc(len(raised))
    _OBSERVATIONS.labels("joined").inc(sum(len(each.alarm_of) for each in correlations) - len(raised))
    if raised:
        await _raise(tx, [(episode, seen[episode.alarm_id], _rule(rulebook, seen[episode.alarm_id])) for episode in raised])


async def _raise(tx: Transaction, raised: Sequence[tuple[Episode, Observation, Rule]]) -> None:
    buildings = await alarm_store.find_buildings(tx, {seen.zone_id for _, seen, _ in raised if seen.zone_id is not None})
    alarms = [
        Alarm(
            alarm_id=episode.alarm_id,
            kind=seen.kind,
            severity=rule.severity,
            state=AlarmState.RAISED,
            source_id=seen.source_id,
            place=seen.place,
            zone_id=seen.zone_id,
            door_id=seen.door_id,
            building_id=None if seen.zone_id is None else buildings.get(seen.zone_id),
            raised_at=episode.first_at,
            last_observed_at=episode.last_at,
            observations=episode.observations,
            image_keys=episode.image_keys,
            told_at=tx.now,
            escalate_after_s=rule.escalate_after_s,
            care_plan_id=seen.care_plan_id,
        )
        for episode, seen, rule in raised
    ]
    await alarm_store.insert_alarms(tx, [(alarm, episode.track_id) for alarm, (episode, _, _) in zip(alarms, raised, strict=True)])
    for alarm, (_, _, rule) in zip(alarms, raised, strict=True):
        texts = texts_of(alarm.kind, alarm.place)
        event = AlarmRaised(
            alarm_id=str(alarm.alarm_id),
            kind=alarm.kind,
            severity=SEVERITY_MESSAGE[alarm.severity],
            place=alarm.place,
            building_id=str(alarm.building_id or ""),
            raised_at=to_timestamp(alarm.raised_at),
            work_order_category=rule.work_order_category,
            text_zh=texts.zh,
            text_en=texts.en,
        )
        tx.publish(event, version=alarm.version)
        await _tell_from(tx, alarm, 0)


# Telling people.


async def _tell_from(tx: Transaction, alarm: Alarm, step: int) -> None:
    """Tells a step of the chain of an alarm that is locked, or the next in which there is anybody, and sets the timer for the one after."""
    last = len(CHAIN) - (alarm.care_plan_id is None)
    accounts = await _audience(tx, alarm, step)
    while not accounts and step < last and alarm.escalate_after_s:
        step += 1
        accounts = await _audience(tx, alarm, step)
    is_care = alarm.care_plan_id is not None
    # Whose home it is where nothing moves is nothing for a lock screen.
    texts = texts_of(alarm.kind, "" if is_care else alarm.place)
    link = "/v1/me/care-plans" if is_care and step == 0 else f"/v1/alarms/{alarm.alarm_id}"
    for account_id in accounts:
        tx.publish(Notified(account_id=str(account_id), kind="access.alarm_raised", text_zh=texts.zh, text_en=texts.en, link=link))
    if step != alarm.escalations:
        await alarm_store.update_alarm(tx, replace(alarm, escalations=step))
    if alarm.escalate_after_s and step < last:
        await set_timers(tx, [Due(ESCALATION, alarm.alarm_id, str(step + 1), tx.now + timedelta(seconds=alarm.escalate_after_s))])


async def _audience(tx: Transaction, alarm: Alarm, step: int) -> list[UUID]:
    """Who is told in a step. Of a person's alarm their guardians are told before anybody else."""
    if alarm.care_plan_id is not None:
        if step == 0:
            return await care_store.list_guardians(tx, alarm.care_plan_id)
        step -= 1
    accounts = [account_id for role in CHAIN[step] for account_id in await list_staff(tx, role)]
    return list(dict.fromkeys(accounts))


async def escalate(tx: Transaction, due: Due) -> None:
    """Tells the next of the chain that nobody has taken an alarm; each once."""
    alarm, step = await alarm_store.find_alarm(tx, due.subject_id, lock=True), int(due.name)
    if alarm is not None and alarm.state is AlarmState.RAISED and alarm.escalations < step:
        await _tell_from(tx, alarm, step)


# What people do.


async def get_alarm(tx: Transaction, alarm_id: UUID, *, lock: bool = False) -> Alarm:
    """An alarm, locked until the transaction ends when asked for. Raises NotFound."""
    alarm = await alarm_store.find_alarm(tx, alarm_id, lock=lock)
    if alarm is None:
        raise NotFound("access.alarm_unknown", "没有找到该告警", "There is no such alarm")
    return alarm


async def acknowledge_alarm(tx: Transaction, alarm_id: UUID) -> Alarm:
    """Notes that the caller deals with an alarm; nobody further is told. Raises NotFound, and Conflict when somebody does already."""
    return await _acknowledge(tx, await get_alarm(tx, alarm_id, lock=True), tx.caller.account_id)


async def _acknowledge(tx: Transaction, alarm: Alarm, account_id: UUID) -> Alarm:
    state = _advance(alarm, AlarmState.ACKNOWLEDGED)
    alarm = replace(alarm, state=state, acknowledged_by=account_id, acknowledged_at=tx.now, version=alarm.version + 1)
    await alarm_store.update_alarm(tx, alarm)
    await cancel_timers(tx, alarm.alarm_id, ESCALATION)
    return alarm


async def close_alarm(tx: Transaction, alarm_id: UUID, cause: str, note: str, *, false_alarm: bool) -> Alarm:
    """Closes an alarm for the caller. Raises NotFound, Invalid without a cause when it was not false, and Conflict when it is closed."""
    if not cause and not false_alarm:
        field = FieldViolation("cause", "access.alarm_cause", "is empty only for a false alarm")
        raise Invalid("access.alarm_cause", "请填写原因，误报除外", "An alarm that was not false needs its cause", fields=[field])
    alarm = await get_alarm(tx, alarm_id, lock=True)
    return await close(tx, replace(alarm, closed_by=tx.caller.account_id, note=note), cause, false_alarm=false_alarm)


async def close(tx: Transaction, alarm: Alarm, cause: str, *, false_alarm: bool = False) -> Alarm:
    """Closes a locked alarm. Raises Conflict when it is closed."""
    state = _advance(alarm, AlarmState.CLOSED)
    alarm = replace(alarm, state=state, closed_at=tx.now, cause=cause, false_alarm=false_alarm, version=alarm.version + 1)
    await alarm_store.update_alarm(tx, alarm)
    await cancel_timers(tx, alarm.alarm_id, ESCALATION)
    _publish_closed(tx, alarm.alarm_id, false_alarm=false_alarm, version=alarm.version)
    return alarm


def _publish_closed(tx: Transaction, alarm_id: UUID, *, false_alarm: bool, version: int) -> None:
    tx.publish(AlarmClosed(alarm_id=str(alarm_id), false_alarm=false_alarm, closed_at=to_timestamp(tx.now)), version=version)


def _advance(alarm: Alarm, to: AlarmState) -> AlarmState:
    return advance(
        alarm.state,
        to,
        FOLLOWS,
        code="access.alarm_state",
        zh="该告警已有人处理或已关闭",
        en="Somebody deals with this alarm already, or it is closed",
    )


# What work orders and devices tell.


@dataclass(frozen=True, slots=True)
class Order:
    """The work order that an alarm became, as far as the alarm follows it."""

    order_id: str
    version: int
    technician: UUID | None
    is_done: bool
    cause: str


async def follow_order(tx: Transaction, alarm_id: UUID, order: Order) -> None:
    """Links an alarm to its order: whoever takes the order has taken the alarm, and when it is done the alarm is over."""
    alarm = await alarm_store.find_alarm(tx, alarm_id, lock=True)
    if alarm is None or (alarm.work_order_id == order.order_id and alarm.work_order_version >= order.version):
        return
    alarm = replace(alarm, work_order_id=order.order_id, work_order_version=order.version)
    if order.is_done and alarm.state is not AlarmState.CLOSED:
        is_false = order.cause == FALSE_ALARM
        await close(tx, replace(alarm, closed_by=order.technician), "" if is_false else order.cause or ORDER_DONE, false_alarm=is_false)
    elif order.technician is not None and alarm.state is AlarmState.RAISED:
        await _acknowledge(tx, alarm, order.technician)
    else:
        await alarm_store.update_alarm(tx, alarm)


async def note_silence(tx: Transaction, device_id: str, key: str) -> None:
    """A terminal that is silent is an alarm. `key` is the same each time that the same silence is told."""
    place = await alarm_store.find_terminal_place(tx, device_id)
    if place is not None:
        seen = Observation(
            observation_id=derived_id(TERMINAL_SILENT, str(tx.community_id), device_id, key),
            community_id=tx.community_id,
            kind=TERMINAL_SILENT,
            source_id=device_id,
            occurred_at=tx.now,
            place=place.name,
            zone_id=place.zone_id,
            door_id=place.door_id,
        )
        await observe(tx, [seen])


async def note_return(tx: Transaction, device_id: str) -> None:
    """One that is heard again is none."""
    for alarm in await alarm_store.lock_open_of_source(tx, device_id, TERMINAL_SILENT):
        await close(tx, alarm, BACK_AGAIN)


async def end_explanation(tx: Transaction, due: Due) -> None:
    """A maintenance is over: terminals in its zone that are still silent are not explained by it any more, and are alarms."""
    over = await watch_store.lock_maintenance(tx, due.subject_id)
    if over is not None and over.ends_at <= tx.now:
        for device_id in await alarm_store.list_silent_terminals(tx, over.zone_id):
            await note_silence(tx, device_id, str(over.maintenance_id))


# Figures.


async def sum_up(tx: Transaction, first: date, last: date) -> list[SourceFigures]:
    """What came of the alarms that were raised on these days of the community, the last one included.

    At most a thousand sources and kinds, those that raised most. Raises Invalid for days in the wrong order, or more than 366.
    """
    if not first <= last < first + timedelta(days=_FIGURES_DAYS_MAX):
        field = FieldViolation("until_day", "access.alarm_days", "must not lie before the first day, nor more than 365 days after it")
        raise Invalid("access.alarm_days", "日期范围须为 1 至 366 天", "The days must be 1 to 366, in order", fields=[field])
    zone = await find_time_zone(tx)
    return await alarm_store.sum_up(tx, *span(first, last, zone), _FIGURES_MAX)


async def forget_observations(tx: Transaction) -> None:
    """Forgets which observations were counted, when none of them is sent again."""
    await alarm_store.forget_observations(tx, tx.now - _KEPT, _FORGOTTEN_AT_ONCE)
