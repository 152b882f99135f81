"""Alarms of other services: one order for each, under the nearest category, and none any more when they are over."""

from typing import Any

import pytest

from linli.access.v1 import events_pb2 as access
from linli.waste.v1 import events_pb2 as waste
from linli.workorders.v1 import workorders_pb2 as pb
from linli.workorders.v1.events_pb2 import WorkOrderChanged
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.support import eventually
from tests.workorders.arrange import MONDAY_10, Community

pytestmark = pytest.mark.asyncio(loop_scope="module")


def intrusion(**fields: Any) -> access.AlarmRaised:
    """Somebody climbs over the wall."""
    values: dict[str, Any] = {
        "alarm_id": str(new_id()),
        "kind": "intrusion",
        "severity": access.SEVERITY_CRITICAL,
        "place": "北墙",
        "building_id": str(new_id()),
        "raised_at": to_timestamp(MONDAY_10),
        "work_order_category": "alarm.intrusion",
        "text_zh": "有人翻墙",
        "text_en": "Somebody climbs over the wall",
    }
    return access.AlarmRaised(**(values | fields))


async def orders(community: Community) -> list[pb.Order]:
    return list((await community.call("ListOrders", pb.ListOrdersRequest(page_size=100))).orders)


async def test_an_alarm_is_one_order_however_often_it_is_heard_and_is_given_out_at_once(community: Community) -> None:
    guard, alarm = await community.technician("guarding"), intrusion()
    category = await community.category("alarm.intrusion", kind=pb.ORDER_KIND_ALARM, skill="guarding")
    for _ in range(3):
        await community.publish(alarm)
    heard = await community.order_of("access", alarm.alarm_id)
    assert (heard.category, heard.priority) == ("alarm.intrusion", pb.PRIORITY_EMERGENCY)
    await guard.is_told("offered")
    await community.publish(intrusion(alarm_id=str(new_id()), work_order_category=""))
    await community.publish(last := intrusion())
    await community.order_of("access", last.alarm_id)
    found = await orders(community)
    assert len(found) == 2
    order = found[1]
    assert (order.kind, order.category_id, order.title, order.place) == (pb.ORDER_KIND_ALARM, category, "有人翻墙", "北墙")
    assert (order.building_id, order.reporter_account_id, order.state) == (alarm.building_id, "", pb.ORDER_STATE_DISPATCHED)
    done = await guard.finish(await guard.see(order), cause="false_alarm")
    ended = await community.changed(done, "done")
    assert (ended.origin, ended.origin_id, ended.cause, ended.closed) == ("access", alarm.alarm_id, "false_alarm", True)


async def test_a_missing_category_falls_back_to_the_one_above_and_then_to_that_of_all_alarms(community: Community) -> None:
    await community.category("fire", kind=pb.ORDER_KIND_ALARM)
    await community.publish(near := intrusion(work_order_category="fire.lane.blocked"))
    assert (await community.order_of("access", near.alarm_id)).category == "fire"
    for _ in range(2):
        await community.publish(far := intrusion(work_order_category="camera.unknown"))
        assert (await community.order_of("access", far.alarm_id)).category == "alarm"
    categories = (await community.call("ListCategories", pb.ListCategoriesRequest())).categories
    assert [each.code for each in categories] == ["alarm", "fire"]


async def test_an_alarm_that_is_over_takes_its_order_back_unless_somebody_has_set_out(community: Community) -> None:
    guard = await community.technician("guarding")
    taken, not_taken = intrusion(), intrusion()
    for alarm in (taken, not_taken):
        await community.publish(alarm)
        await community.order_of("access", alarm.alarm_id)
    order = next(each for each in await orders(community) if each.origin_id == taken.alarm_id)
    await guard.accept(order)
    for alarm in (taken, not_taken):
        await community.publish(access.AlarmClosed(alarm_id=alarm.alarm_id, false_alarm=True, closed_at=to_timestamp(MONDAY_10)))
    await community.event(WorkOrderChanged, origin_id=not_taken.alarm_id, state="cancelled")
    await guard.is_told("commented")
    assert (await guard.see(order)).state == pb.ORDER_STATE_ACCEPTED


async def test_an_alarm_whose_end_is_heard_first_makes_no_order(community: Community) -> None:
    alarm = intrusion()
    await community.publish(access.AlarmClosed(alarm_id=alarm.alarm_id, closed_at=to_timestamp(MONDAY_10)))

    async def is_known() -> bool:
        async with community.town.running.transaction("workorders", community.community_id) as tx:
            return bool(await tx.fetchval("SELECT count(*) FROM origins"))

    await eventually(is_known, "the end is heard")
    await community.publish(alarm)
    await community.publish(last := intrusion())
    await community.order_of("access", last.alarm_id)
    assert [order.origin_id for order in await orders(community)] == [last.alarm_id]


async def test_a_fire_in_a_bin_always_calls_somebody_and_a_full_one_where_it_is_wanted(community: Community) -> None:
    def told(kind: Any) -> waste.BinAlarmRaised:
        return waste.BinAlarmRaised(
            alarm_id=str(new_id()), bin_id=str(new_id()), kind=kind, compartment="kitchen", raised_at=to_timestamp(MONDAY_10)
        )

    await community.publish(told(waste.ALARM_KIND_FULL))
    await community.publish(fire := told(waste.ALARM_KIND_FIRE))
    heard = await community.order_of("waste", fire.alarm_id)
    assert (heard.category, heard.priority) == ("alarm", pb.PRIORITY_EMERGENCY)
    await community.category("waste.full", kind=pb.ORDER_KIND_ALARM, default_priority=pb.PRIORITY_LOW)
    await community.publish(full := told(waste.ALARM_KIND_FULL))
    heard = await community.order_of("waste", full.alarm_id)
    assert (heard.category, heard.priority) == ("waste.full", pb.PRIORITY_LOW)
    assert len(await orders(community)) == 2
    cleared = waste.BinAlarmCleared(alarm_id=full.alarm_id, bin_id=full.bin_id, kind=full.kind, cleared_at=to_timestamp(MONDAY_10))
    await community.publish(cleared)
    await community.event(WorkOrderChanged, origin_id=full.alarm_id, state="cancelled")
    await community.publish(full)
    await community.publish(witness := told(waste.ALARM_KIND_FULL))
    await community.order_of("waste", witness.alarm_id)
    assert len(await orders(community)) == 3
