"""Reports of one leak: which are suggested, and what becomes of an order that is linked to another."""

import asyncio
from contextvars import copy_context
from datetime import timedelta
from uuid import UUID

import pytest

from linli.workorders.v1 import workorders_pb2 as pb
from linli.workorders.v1.events_pb2 import TargetMissed
from servicekit.errors import Conflict, NotFound
from services.workorders import order_store
from tests.support import eventually
from tests.workorders.arrange import Community, Person, WorkTown

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def similar(community: Community, order: pb.Order, page_size: int = 100) -> list[str]:
    """The suggestions for an order, the likeliest first, page by page."""
    found: list[str] = []
    token = ""
    while token or not found:
        request = pb.ListSimilarOrdersRequest(order_id=order.order_id, page_size=page_size, page_token=token)
        listed = await community.call("ListSimilarOrders", request)
        found += [each.order_id for each in listed.orders]
        token = listed.next_page_token
        if not token:
            break
    return found


async def link(community: Community, order: pb.Order, original: pb.Order) -> pb.Order:
    request = pb.LinkDuplicateRequest(order_id=order.order_id, original_order_id=original.order_id)
    linked: pb.Order = await community.call("LinkDuplicate", request)
    return linked


async def two_reports(community: Community) -> tuple[Person, pb.Order, Person, pb.Order]:
    """Two neighbours and what each has reported about one leak."""
    leak = await community.category(skill="plumbing")
    first = await community.resident()
    second = await community.resident(building_id=first.building_id)
    original = await first.report(leak, title="走廊漏水", description="三楼走廊天花板漏水")
    return first, original, second, await second.report(leak, title="漏水", description="走廊天花板在漏水")


async def test_reports_of_one_thing_are_suggested_the_likeliest_first(workorders: WorkTown, community: Community) -> None:
    first, original, second, duplicate = await two_reports(community)
    community.clock.advance(hours=30)
    later = await second.report(await community.category(), title="走廊漏水", description="天花板漏水")
    elsewhere = await (await community.resident()).report(original.category_id, title="走廊漏水")
    community.clock.advance(days=4)
    weeks_later = await first.report(original.category_id, title="走廊漏水")
    found = await similar(community, original)
    assert found[0] == duplicate.order_id
    assert not {original.order_id, elsewhere.order_id, weeks_later.order_id} & set(found)
    assert await similar(community, original, page_size=1) == found
    assert set(found) <= {duplicate.order_id, later.order_id}
    with pytest.raises(NotFound, match=r"workorders.order_unknown"):
        await similar(Community(workorders), original)


async def test_a_linked_order_ends_with_its_original_and_its_reporter_hears_each_step(community: Community) -> None:
    plumber = await community.technician()
    _, original, second, duplicate = await two_reports(community)
    linked = await link(community, duplicate, original)
    assert linked.duplicate_of_order_id == original.order_id
    assert linked.technician_account_id == ""
    await second.is_told("linked")
    jobs = (await plumber.call("ListMyJobs", pb.ListMyJobsRequest())).jobs
    assert [job.order_id for job in jobs] == [original.order_id]
    with pytest.raises(NotFound, match=r"workorders.order_unknown"):
        await plumber.see(duplicate)
    done = await plumber.finish(original, cause="pipe_burst")
    await second.is_told("done")
    assert [kind for kind in await second.notices() if kind in ("accepted", "arrived", "done")] == ["accepted", "arrived", "done"]
    seen = await second.see(duplicate)
    assert (seen.state, seen.cause) == (pb.ORDER_STATE_DONE, "pipe_burst") == (done.state, done.cause)
    assert not await similar(community, original)


async def test_a_linked_order_promises_nothing_of_its_own(community: Community) -> None:
    await community.technician()
    _, original, second, duplicate = await two_reports(community)
    await link(community, duplicate, original)
    community.clock.advance(minutes=16)

    async def is_missed() -> bool:
        return bool(community.missed(original))

    await eventually(is_missed, "the original is late")
    await second.is_told("late")
    assert not community.missed(duplicate)
    assert "missed" not in await community.actions(duplicate)


async def test_an_order_that_is_unlinked_goes_on_by_itself(community: Community) -> None:
    plumber = await community.technician()
    _, original, second, duplicate = await two_reports(community)
    await link(community, duplicate, original)
    unlinked = await community.call("UnlinkDuplicate", pb.UnlinkDuplicateRequest(order_id=duplicate.order_id))
    assert (unlinked.duplicate_of_order_id, unlinked.technician_account_id) == ("", str(plumber.account_id))
    await second.is_told("unlinked")
    await plumber.finish(original)
    assert (await second.see(duplicate)).state == pb.ORDER_STATE_DISPATCHED
    assert unlinked.response_due_at.ToDatetime() == (duplicate.reported_at.ToDatetime() + timedelta(minutes=15))
    with pytest.raises(Conflict, match=r"workorders.not_linked"):
        await community.call("UnlinkDuplicate", pb.UnlinkDuplicateRequest(order_id=duplicate.order_id))


async def test_an_order_that_is_unlinked_when_its_time_is_over_is_late(community: Community) -> None:
    _, original, second, duplicate = await two_reports(community)
    await link(community, duplicate, original)
    community.clock.advance(hours=1)
    await community.call("UnlinkDuplicate", pb.UnlinkDuplicateRequest(order_id=duplicate.order_id))
    await second.is_told("late")
    assert (await community.event(TargetMissed, order_id=duplicate.order_id, level=1)).message.target == "response"


async def test_who_takes_back_their_own_report_takes_back_nobody_elses(community: Community) -> None:
    plumber = await community.technician()
    first, original, second, duplicate = await two_reports(community)
    await link(community, duplicate, original)
    await first.call("CancelOrder", pb.CancelOrderRequest(order_id=original.order_id, reason="看错了"))
    left = await second.see(duplicate)
    assert (left.state, left.duplicate_of_order_id) == (pb.ORDER_STATE_DISPATCHED, "")
    assert left.HasField("response_due_at")
    await second.is_told("unlinked")
    assert (await plumber.accept(duplicate)).state == pb.ORDER_STATE_ACCEPTED


async def test_what_staff_end_ends_for_all_who_reported_it(community: Community) -> None:
    _, original, second, duplicate = await two_reports(community)
    await link(community, duplicate, original)
    await community.call("CancelOrder", pb.CancelOrderRequest(order_id=original.order_id, reason="市政管道，已转报"))
    assert (await second.see(duplicate)).state == pb.ORDER_STATE_CANCELLED


async def test_who_opens_a_duplicate_again_holds_the_original_first_as_everybody_does(community: Community) -> None:
    plumber = await community.technician()
    _, original, second, duplicate = await two_reports(community)
    await link(community, duplicate, original)
    await plumber.finish(original)
    request = pb.ReopenOrderRequest(order_id=duplicate.order_id, reason="还在漏")
    outside = copy_context()
    async with community.town.running.transaction("workorders", community.community_id) as tx:
        await order_store.lock_order(tx, UUID(original.order_id))
        asked = asyncio.create_task(second.call("ReopenOrder", request), context=outside)

        async def waits() -> bool:
            return bool(await tx.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid())"))

        await eventually(waits, "the other waits for the original")
        await tx.execute("SET LOCAL lock_timeout = '100ms'")
        assert [str(each.order_id) for each in await order_store.lock_linked(tx, UUID(original.order_id))] == [duplicate.order_id]
    assert (await asked).state == pb.ORDER_STATE_REOPENED


async def test_what_cannot_be_linked_is_not(workorders: WorkTown, community: Community) -> None:
    plumber = await community.technician()
    first, original, _, duplicate = await two_reports(community)
    third = await first.report(original.category_id)
    with pytest.raises(Conflict, match=r"workorders.linked_to_itself"):
        await link(community, original, original)
    await link(community, duplicate, original)
    assert (await link(community, duplicate, original)).duplicate_of_order_id == original.order_id
    with pytest.raises(Conflict, match=r"workorders.original_unfit"):
        await link(community, third, duplicate)
    with pytest.raises(Conflict, match=r"workorders.not_linkable"):
        await link(community, original, third)
    await plumber.accept(third)
    with pytest.raises(Conflict, match=r"workorders.not_linkable"):
        await link(community, third, original)
    await plumber.finish(original)
    fourth = await first.report(original.category_id)
    with pytest.raises(Conflict, match=r"workorders.original_unfit"):
        await link(community, fourth, original)
    with pytest.raises(NotFound, match=r"workorders.order_unknown"):
        await link(Community(workorders), fourth, third)
