"""What happens with care plans: they start and stop, sensors and wearables tell, timers judge a quiet."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from linli.notification.v1.events_pb2 import Notified
from servicekit.communities import find_time_zone
from servicekit.database import PLATFORM, Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.households import live_together
from servicekit.identifiers import derived_id, new_id
from servicekit.timers import Due, cancel_timers, set_timers
from services.access import alarm_operations, alarm_store, care_store, consent_store, watch_store
from services.access.alarm_rules import LEFT_SAFE_AREA, SENSOR_SILENT, STILL_PERSON
from services.access.alarms import BACK_AGAIN, Alarm, Observation
from services.access.areas import Position, is_area
from services.access.care import (
    ACTIVE_AGAIN,
    ACTIVITY,
    AFTER_SILENCE,
    BACK_INSIDE,
    CARE_STOPPED,
    FIRST_SIGN,
    LOOK_AGAIN,
    PERSON_WELL,
    POSITION,
    CareKind,
    CarePlan,
    Sign,
    locate,
    notice,
)
from services.access.consents import ConsentKind
from services.access.credential_operations import person_unknown
from services.access.rhythm import Rhythm

# The kind of the timer that judges a quiet. A worry only ever moves later, so the timer looks when it was first due and is set anew.
QUIET: Final = "care_quiet"
_CONSENT: Final = {CareKind.ACTIVITY: ConsentKind.CARE_ACTIVITY, CareKind.SAFE_AREA: ConsentKind.CARE_LOCATION}
_LINK: Final = "/v1/me/care-plans"


# Plans.


async def start(
    tx: Transaction,
    kind: CareKind,
    account_id: UUID | None,
    guardian_ids: Iterable[UUID],
    source_ids: Sequence[str],
    area: Sequence[Position],
) -> CarePlan:
    """Begins care for the caller or, with them as guardian, for a member of their household; whoever it concerns is told.

    Raises NotFound for somebody in another household; Invalid without a guardian, for corners that make no area, and for cameras and door
    terminals as sources; Conflict without the person's consent, for a second plan of a kind, and for sources that care for strangers.
    """
    caller_id = tx.caller.account_id
    person_id = account_id or caller_id
    if person_id != caller_id and not await live_together(tx, caller_id, person_id):
        raise person_unknown()
    guardians = {*guardian_ids, caller_id} - {person_id}
    if not guardians:
        raise _invalid("guardian_account_ids", "access.care_guardian", "请至少指定一位紧急联系人", "Somebody else has to be told")
    if (kind is CareKind.SAFE_AREA) != bool(area) or (area and not is_area(area)):
        raise _invalid(
            "safe_area", "access.care_area", "安全区域须为有效的多边形", "The safe area must be an area, and is for no other care"
        )
    if await care_store.is_unfit(tx, source_ids):
        raise _invalid(
            "source_ids", "access.care_source", "摄像头和门禁设备不能用于关怀", "Cameras and door terminals cannot be used for care"
        )
    if not await consent_store.lock_live(tx, person_id, [_CONSENT[kind]]):
        raise Conflict("access.care_consent", "尚未取得本人或监护人的同意", "There is no consent for this care")
    if await care_store.is_strangers(tx, source_ids, person_id):
        raise Conflict("access.care_source_taken", "设备已用于他人的关怀", "A sensor cares for somebody else already")
    plan = CarePlan(new_id(), tx.community_id, kind, person_id, tuple(sorted(guardians)), tuple(source_ids), tuple(area), tx.now)
    if not await care_store.insert_plan(tx, plan):
        raise Conflict("access.care_exists", "已有同类关怀", "There is care of this kind for this person")
    if kind is CareKind.ACTIVITY:
        await _set_timer(tx, plan, tx.now + FIRST_SIGN)
    others = {*plan.guardian_ids, person_id} - {caller_id}
    _tell(tx, others, "access.care_started", "关怀服务已开启", "Care has begun")
    return plan


def _invalid(field: str, code: str, zh: str, en: str) -> Invalid:
    return Invalid(code, zh, en, fields=[FieldViolation(field, code, en)])


def _tell(tx: Transaction, account_ids: Iterable[UUID], kind: str, zh: str, en: str) -> None:
    for account_id in sorted(account_ids):
        tx.publish(Notified(account_id=str(account_id), kind=kind, text_zh=zh, text_en=en, link=_LINK))


async def _set_timer(tx: Transaction, plan: CarePlan, at: datetime) -> None:
    await set_timers(tx, [Due(QUIET, plan.care_plan_id, "worry", at)])


async def _lock_own(tx: Transaction, care_plan_id: UUID) -> CarePlan:
    """A plan that concerns the caller, locked. Raises NotFound for any other."""
    plan = await care_store.lock_plan(tx, care_plan_id)
    if plan is None or tx.caller.account_id not in (plan.account_id, *plan.guardian_ids):
        raise NotFound("access.care_plan_unknown", "没有找到该关怀", "There is no such care plan")
    return plan


async def stop(tx: Transaction, care_plan_id: UUID) -> CarePlan:
    """The person or a guardian ends care; one that has ended stays as it is. Raises NotFound."""
    plan = await _lock_own(tx, care_plan_id)
    return plan if plan.stopped_at is not None else await _end(tx, plan)


async def end_for_consents(tx: Transaction, account_id: UUID, kinds: Collection[ConsentKind]) -> None:
    """Ends the care for a person that consents allowed which hold no more."""
    for care_kind, needed in _CONSENT.items():
        if needed in kinds and (plan := await care_store.lock_live(tx, account_id, care_kind)) is not None:
            await _end(tx, plan)


async def part_households(tx: Transaction, account_id: UUID) -> None:
    """Ends what somebody's care, and their caring, had from a household that is theirs no more.

    A guardian who began care for another, or was named by one who did, is one as long as they live together. When none is left who does,
    nobody speaks for the person any more, and care ends.
    """
    for plan in await care_store.lock_plans_around(tx, account_id):
        gone, is_left = await care_store.part_guardians(tx, plan.care_plan_id)
        if gone and not is_left:
            await _end(tx, plan)
        elif gone:
            _tell(tx, {plan.account_id, *gone}, "access.care_guardian_left", "一位紧急联系人已移除", "A guardian has left the care plan")


async def _end(tx: Transaction, plan: CarePlan) -> CarePlan:
    await _close_alarms(tx, [plan], CARE_STOPPED, tell=False)
    await cancel_timers(tx, plan.care_plan_id)
    await care_store.stop_plan(tx, plan.care_plan_id, tx.now)
    others = {*plan.guardian_ids, plan.account_id} - ({tx.principal.account_id} if tx.principal else set())
    _tell(tx, others, "access.care_stopped", "关怀服务已停止", "Care has ended")
    return CarePlan(
        plan.care_plan_id, plan.community_id, plan.kind, plan.account_id, plan.guardian_ids, (), (), plan.started_at, stopped_at=tx.now
    )


async def report_wellbeing(tx: Transaction, care_plan_id: UUID) -> CarePlan:
    """Somebody looked after the person: what alarm there is is over. Raises NotFound, and Conflict when care has ended."""
    plan = await _lock_own(tx, care_plan_id)
    if plan.stopped_at is not None:
        raise Conflict("access.care_over", "该关怀已停止", "This care has ended")
    await _close_alarms(tx, [plan], PERSON_WELL, closed_by=tx.caller.account_id)
    if plan.kind is CareKind.ACTIVITY and (plan.worries or plan.worry_at is not None):
        return await _begin_anew(tx, plan)
    return plan


async def _begin_anew(tx: Transaction, plan: CarePlan) -> CarePlan:
    """As if something had been noticed now, from which nothing is learned: it was no sensor that noticed it."""
    rhythm = (await care_store.find_rhythms(tx, [plan.care_plan_id]))[plan.care_plan_id]
    worry_at = max(rhythm.worry_at(plan.worry_at, tx.now, await find_time_zone(tx)), plan.learned_at)
    plan = replace(plan, worry_at=worry_at, worries=False, is_quiet_doubtful=True)
    await care_store.update_plans(tx, [plan])
    await _set_timer(tx, plan, worry_at)
    return plan


async def _close_alarms(
    tx: Transaction, plans: Collection[CarePlan], cause: str, *, closed_by: UUID | None = None, kind: str | None = None, tell: bool = True
) -> list[Alarm]:
    """Closes what alarms are open about the persons of locked plans, or those of one kind, and tells their guardians that all is well."""
    guardians = {plan.care_plan_id: plan.guardian_ids for plan in plans}
    closed = []
    for alarm in await alarm_store.lock_open_of_care(tx, guardians):
        if kind in (None, alarm.kind):
            closed.append(await alarm_operations.close(tx, replace(alarm, closed_by=closed_by), cause))
            if tell and alarm.care_plan_id is not None:
                others = set(guardians[alarm.care_plan_id]) - {closed_by}
                _tell(tx, {each for each in others if each}, "access.alarm_closed", "已恢复正常", "All is well again")
    return closed


# What sensors and wearables tell.


async def hear(tx: Transaction, signs: Sequence[Sign]) -> set[tuple[UUID, str]]:
    """Takes in what sources told, of all communities together, in the platform scope.

    Returns the sources that care for somebody, each with its community: what they tell of activity and place is for nothing else.
    """
    if not signs:
        return set()
    found = await care_store.lock_plans_of_sources(tx, {(sign.community_id, sign.source_id) for sign in signs})
    if not found:
        return set()
    cared = {(plan.community_id, source_id) for plan, _ in found for source_id in plan.source_ids}
    by_source = defaultdict[tuple[UUID, str], list[Sign]](list)
    for sign in signs:
        by_source[sign.community_id, sign.source_id].append(sign)
    await care_store.note_speakers(tx, [sign for source in cared for sign in by_source.get(source, ())])
    rhythms = await care_store.find_rhythms(tx, [plan.care_plan_id for plan, _ in found])
    changed: list[tuple[CarePlan, CarePlan, Rhythm]] = []
    for plan, zone in found:
        own = [sign for source_id in plan.source_ids for sign in by_source.get((plan.community_id, source_id), ())]
        rhythm = rhythms[plan.care_plan_id]
        if plan.kind is CareKind.ACTIVITY:
            after, rhythm = notice(plan, [sign.at for sign in own if sign.kind in ACTIVITY], rhythm, tx.now, zone)
        else:
            after = locate(plan, [(s.at, s.position) for s in own if s.kind == POSITION and s.position is not None], tx.now)
        if after != plan:
            changed.append((plan, after, rhythm))
    await care_store.update_plans(tx, [after for _, after, _ in changed])
    await care_store.write_rhythms(tx, [(after, rhythm) for _, after, rhythm in changed], rhythms)
    turned = [after for before, after, _ in changed if before.worries != after.worries]
    for plan in sorted(turned, key=lambda plan: plan.community_id):
        await tx.enter(plan.community_id)
        await _turn(tx, plan)
    if turned:
        await tx.enter(PLATFORM)
    return cared


async def _turn(tx: Transaction, plan: CarePlan) -> None:
    """Raises the alarm of a locked plan that began to worry by a position, or closes those of one that ceased."""
    if plan.worries:
        await _raise(tx, plan, LEFT_SAFE_AREA)
    elif plan.kind is CareKind.SAFE_AREA:
        await _close_alarms(tx, [plan], BACK_INSIDE)
    else:
        await _close_alarms(tx, [plan], ACTIVE_AGAIN)
        await _set_timer(tx, plan, plan.worry_at or tx.now)


async def _raise(tx: Transaction, plan: CarePlan, kind: str) -> None:
    points = await watch_store.find_watch_points(tx, [(plan.community_id, source_id) for source_id in plan.source_ids])
    seen = Observation(
        observation_id=derived_id(kind, str(plan.care_plan_id), str(plan.last_activity_at), str(plan.worry_at)),
        community_id=plan.community_id,
        kind=kind,
        source_id=plan.source_ids[0],
        occurred_at=tx.now,
        track_id=str(plan.care_plan_id),
        care_plan_id=plan.care_plan_id,
    )
    for point in points.values():
        seen = seen.placed(point.name, point.zone_id)
    await alarm_operations.observe(tx, [seen])


async def judge_quiet(tx: Transaction, due: Due) -> None:
    """Looks whether a quiet has lasted too long, and whether it is the person's or the sensors'.

    Then looks now and then whether somebody has closed the alarm: whoever did has looked after the person, and the worry begins anew.
    """
    plan = await care_store.lock_plan(tx, due.subject_id)
    if plan is None or plan.stopped_at is not None:
        return
    if plan.worries:
        if await care_store.find_open_alarms(tx, [plan.care_plan_id]):
            await _set_timer(tx, plan, tx.now + LOOK_AGAIN)
        else:
            await _begin_anew(tx, plan)
        return
    worry_at, is_heard = plan.worry_at or plan.learned_at, await care_store.is_heard(tx, plan.care_plan_id)
    if tx.now < worry_at and (is_heard or plan.first_activity_at is not None):
        await _set_timer(tx, plan, worry_at)
        return
    plan = replace(plan, worries=True)
    await care_store.update_plans(tx, [plan])
    await _raise(tx, plan, STILL_PERSON if is_heard else SENSOR_SILENT)
    await _set_timer(tx, plan, tx.now + LOOK_AGAIN)


async def note_silence(tx: Transaction, device_id: str) -> None:
    """Nothing is learned from a quiet in which a sensor was silent."""
    plans = await care_store.lock_plans_of_device(tx, device_id)
    await care_store.update_plans(tx, [replace(plan, is_quiet_doubtful=True) for plan in plans])


async def note_return(tx: Transaction, device_id: str) -> None:
    """Sensors that are heard again are no alarm; what the person did meanwhile nobody knows, so they get time to move."""
    for plan in await care_store.lock_plans_of_device(tx, device_id):
        if plan.kind is not CareKind.ACTIVITY or not plan.worries:
            continue
        await _close_alarms(tx, [plan], BACK_AGAIN, kind=SENSOR_SILENT)
        if await care_store.find_open_alarms(tx, [plan.care_plan_id]):
            continue  # It was the person whom we worried about, and do.
        plan = replace(plan, worries=False, worry_at=max(plan.worry_at or tx.now, tx.now + AFTER_SILENCE))
        await care_store.update_plans(tx, [plan])
        await _set_timer(tx, plan, plan.worry_at or tx.now)
