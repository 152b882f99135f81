"""Inspections that come again and again, and the orders that they make."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from linli.identity.v1.events_pb2 import CommunityChanged
from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.communities import find_time_zone
from servicekit.errors import Conflict, Denied, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_datetime
from tests.support import eventually
from tests.workorders.arrange import Community, WorkTown

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def inspection(community: Community, name: str = "消防通道巡检", **fields: Any) -> pb.Inspection:
    """Something that is looked at every day at eleven, of a category of its own, unless the fields say otherwise."""
    values: dict[str, Any] = {"starts_at": "2026-01-05T11:00", "recurrence": "FREQ=DAILY"} | fields
    if "category_id" not in values:
        values["category_id"] = await community.category(kind=pb.ORDER_KIND_INSPECTION, skill="patrol")
    made: pb.Inspection = await community.call("CreateInspection", pb.CreateInspectionRequest(name=name, **values))
    return made


async def listed(community: Community) -> list[pb.Inspection]:
    return list((await community.call("ListInspections", pb.ListInspectionsRequest())).inspections)


async def orders(community: Community) -> list[pb.Order]:
    """The orders of the community, newest first."""
    return list((await community.call("ListOrders", pb.ListOrdersRequest())).orders)


async def has_orders(community: Community, count: int) -> list[pb.Order]:
    async def there() -> bool:
        return len(await orders(community)) >= count

    await eventually(there, f"{count} orders of inspections")
    found = await orders(community)
    assert len(found) == count
    return found


def instant(timestamp: Any) -> datetime:
    return to_datetime(timestamp, "")


async def test_each_time_becomes_an_order_that_is_given_out(community: Community) -> None:
    guard = await community.technician("patrol")
    made = await inspection(community, place="1 号楼", checklist=["灭火器", "疏散指示灯"])
    eleven = community.clock.now + timedelta(hours=1)
    assert (instant(made.next_at), made.HasField("ended_at")) == (eleven, False)
    assert not await orders(community)
    community.clock.advance(hours=1)
    (order,) = await has_orders(community, 1)
    assert (order.kind, order.title, order.place) == (pb.ORDER_KIND_INSPECTION, "消防通道巡检", "1 号楼")
    assert (order.description, order.reporter_account_id) == ("- 灭火器\n- 疏散指示灯", "")
    assert order.technician_account_id == str(guard.account_id)
    assert instant(order.reported_at) == eleven
    assert [instant(each.next_at) for each in await listed(community)] == [eleven + timedelta(days=1)]
    community.clock.advance(days=1)
    await has_orders(community, 2)


async def test_what_was_due_while_nobody_looked_makes_one_order_and_goes_on(community: Community) -> None:
    await inspection(community)
    eleven = community.clock.now + timedelta(hours=1)
    community.clock.advance(days=9)
    (order,) = await has_orders(community, 1)
    assert instant(order.reported_at) == eleven
    assert [instant(each.next_at) for each in await listed(community)] == [eleven + timedelta(days=9)]


async def test_the_hour_is_that_of_the_communitys_clock(community: Community) -> None:
    await community.publish(
        CommunityChanged(community_id=str(community.community_id), name="Riverside", time_zone="America/New_York"), version=1
    )

    async def is_known() -> bool:
        async with community.town.running.transaction("workorders", community.community_id) as tx:
            return (await find_time_zone(tx)).key == "America/New_York"

    await eventually(is_known, "the time zone is known")
    made = await inspection(community, recurrence="FREQ=MONTHLY;BYDAY=2SU")
    # The clocks go forward on the second Sunday of March.
    assert instant(made.next_at) == datetime(2026, 3, 8, 15, 0, tzinfo=UTC)


async def test_an_inspection_that_has_ended_does_not_come_any_more(community: Community) -> None:
    by_hand, by_rule = await inspection(community, "乙"), await inspection(community, "甲", recurrence="FREQ=DAILY;UNTIL=20260302")
    request = pb.EndInspectionRequest(inspection_id=by_hand.inspection_id)
    ended = await community.call("EndInspection", request)
    assert (ended.HasField("next_at"), instant(ended.ended_at)) == (False, community.clock.now)
    assert await community.call("EndInspection", request) == ended
    community.clock.advance(days=3)
    (order,) = await has_orders(community, 1)
    assert order.title == "甲"
    by_name = {each.inspection_id: each for each in await listed(community)}
    assert not by_name[by_rule.inspection_id].HasField("next_at")


async def test_while_its_category_is_out_of_use_an_inspection_makes_no_order_and_goes_on(community: Community) -> None:
    made = await inspection(community)
    await community.call("UpdateCategory", pb.UpdateCategoryRequest(category_id=made.category_id, in_use=False))
    community.clock.advance(hours=1)

    async def is_past() -> bool:
        (found,) = await listed(community)
        return instant(found.next_at) > instant(made.next_at)

    await eventually(is_past, "the next time is set")
    assert not await orders(community)
    with pytest.raises(Conflict, match=r"workorders.category_out_of_use"):
        await inspection(community, category_id=made.category_id)


async def test_an_inspection_that_cannot_be_is_refused(workorders: WorkTown, community: Community) -> None:
    category_id = await community.category(kind=pb.ORDER_KIND_INSPECTION)
    for recurrence in ("FREQ=HOURLY", "every day", "FREQ=DAILY;UNTIL=20260101", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"):
        with pytest.raises(Invalid, match=r"workorders.recurrence") as refused:
            await inspection(community, category_id=category_id, recurrence=recurrence)
        assert [field.field for field in refused.value.fields] == ["recurrence"]
    for starts_at in ("2026-02-30T11:00", "0001-01-01T00:00", "2026-01-01T24:00"):
        with pytest.raises(Invalid, match=r"workorders.starts_at"):
            await inspection(community, category_id=category_id, starts_at=starts_at)
    neighbour = Community(workorders)
    with pytest.raises(NotFound, match=r"workorders.category_unknown"):
        await inspection(neighbour, category_id=category_id)
    made = await inspection(community, category_id=category_id)
    with pytest.raises(NotFound, match=r"workorders.inspection_unknown"):
        await neighbour.call("EndInspection", pb.EndInspectionRequest(inspection_id=made.inspection_id))
    with pytest.raises(NotFound, match=r"workorders.inspection_unknown"):
        await community.call("EndInspection", pb.EndInspectionRequest(inspection_id=str(new_id())))
    assert not await listed(neighbour)
    with pytest.raises(Denied):
        await (await community.resident()).call("EndInspection", pb.EndInspectionRequest(inspection_id=made.inspection_id))
