"""Who finds which orders in which list, and what they are shown of them."""

from collections.abc import Sequence
from typing import Any

import pytest

from linli.workorders.v1 import workorders_pb2 as pb
from linli.workorders.v1.events_pb2 import TargetMissed
from servicekit.database import PLATFORM
from servicekit.errors import Invalid, NotFound
from services.workorders.order_operations import forget_old
from tests.workorders.arrange import MANAGER, Community, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def numbers(person: Person, method: str, request: Any) -> list[int]:
    """The numbers of a list, read two at a time."""
    found: list[int] = []
    request.page_size = 2
    while True:
        answer = await person.call(method, request)
        rows: Sequence[pb.Order] = answer.jobs if method in ("ListMyJobs", "ListOpenJobs") else answer.orders
        found += [order.number for order in rows]
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


async def test_a_reporter_finds_their_own_newest_first(community: Community) -> None:
    reporter, family = await community.resident(), await community.technician()
    category = await community.category()
    orders = [await reporter.report(category) for _ in range(5)]
    await community.manager.report(category, household_id="")
    await reporter.call("CancelOrder", pb.CancelOrderRequest(order_id=orders[2].order_id, reason="不用了"))
    assert await numbers(reporter, "ListMyOrders", pb.ListMyOrdersRequest()) == [5, 4, 3, 2, 1]
    assert await numbers(reporter, "ListMyOrders", pb.ListMyOrdersRequest(open_only=True)) == [5, 4, 2, 1]
    assert await numbers(family, "ListMyOrders", pb.ListMyOrdersRequest()) == []
    with pytest.raises(Invalid):
        await reporter.call("ListMyOrders", pb.ListMyOrdersRequest(page_token="not ours"))


async def test_a_technician_finds_the_most_urgent_first(community: Community) -> None:
    await community.terms()
    plumber, locksmith = await community.technician("plumbing"), await community.technician("locks")
    leak, lost = await community.category(skill="plumbing"), await community.category(skill="locks")
    manager = community.manager
    low = await manager.report(leak, household_id="", priority=pb.PRIORITY_LOW)
    first = await manager.report(leak, household_id="", priority=pb.PRIORITY_URGENT)
    await manager.report(lost, household_id="", priority=pb.PRIORITY_EMERGENCY)
    second = await manager.report(leak, household_id="", priority=pb.PRIORITY_URGENT)
    await plumber.accept(first)
    await plumber.finish(await plumber.accept(second))
    assert await numbers(plumber, "ListMyJobs", pb.ListMyJobsRequest()) == [first.number, low.number]
    assert await numbers(locksmith, "ListMyJobs", pb.ListMyJobsRequest()) == [3]


async def test_what_nobody_was_found_for_is_open_to_those_with_the_skill(community: Community) -> None:
    plumber, locksmith = await community.technician("plumbing", shifts=[]), await community.technician("locks", shifts=[])
    order = await community.manager.report(await community.category(skill="plumbing"), household_id="")
    assert await numbers(plumber, "ListOpenJobs", pb.ListOpenJobsRequest()) == [order.number]
    assert await numbers(locksmith, "ListOpenJobs", pb.ListOpenJobsRequest()) == []
    assert (await plumber.accept(order)).state == pb.ORDER_STATE_ACCEPTED
    assert await numbers(plumber, "ListOpenJobs", pb.ListOpenJobsRequest()) == []


async def test_a_manager_finds_orders_by_what_they_ask_for(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician("plumbing")
    leak = await community.category(skill="plumbing")
    noise = await community.category(kind=pb.ORDER_KIND_COMPLAINT)
    manager = community.manager
    await reporter.report(leak)
    await reporter.report(noise)
    urgent = await manager.report(leak, household_id="", priority=pb.PRIORITY_URGENT)
    done = await plumber.finish(await manager.report(leak, household_id=""))
    asked: dict[tuple[int, ...], dict[str, Any]] = {
        (3, 2, 1): {"open_only": True},
        (2,): {"kind": pb.ORDER_KIND_COMPLAINT},
        (4, 3, 1): {"category_id": leak},
        (3,): {"priority": pb.PRIORITY_URGENT},
        (4,): {"state": pb.ORDER_STATE_DONE},
        (2, 1): {"building_id": str(reporter.building_id)},
        (1,): {"building_id": str(reporter.building_id), "category_id": leak, "state": pb.ORDER_STATE_DISPATCHED},
        (): {"missed_only": True},
    }
    for expected, fields in asked.items():
        assert await numbers(manager, "ListOrders", pb.ListOrdersRequest(**fields)) == list(expected), fields
    assert await numbers(manager, "ListOrders", pb.ListOrdersRequest(team_id=community.team_id)) == [done.number]
    with_plumber = pb.ListOrdersRequest(technician_account_id=str(plumber.account_id))
    assert await numbers(manager, "ListOrders", with_plumber) == [done.number]
    community.clock.advance(minutes=16)
    seen = await community.event(TargetMissed, order_id=urgent.order_id)
    assert seen.message.target == "response"
    assert urgent.number in await numbers(manager, "ListOrders", pb.ListOrdersRequest(missed_only=True))


async def test_neighbours_find_what_is_open_and_everybodys_without_whose_it_is(community: Community) -> None:
    reporter = await community.resident()
    neighbour, elsewhere = await community.resident(building_id=reporter.building_id), await community.resident()
    category = await community.category()
    await reporter.report(category)
    lift = await reporter.report(category, visibility=pb.VISIBILITY_NEIGHBOURS, contact_phone="13800000002", title="电梯坏了")
    lamp = await elsewhere.report(category, household_id="", title="路灯不亮")
    closed = await reporter.report(category, visibility=pb.VISIBILITY_NEIGHBOURS)
    await reporter.call("CancelOrder", pb.CancelOrderRequest(order_id=closed.order_id, reason="不用了"))
    assert await numbers(neighbour, "ListPublicOrders", pb.ListPublicOrdersRequest()) == [lamp.number, lift.number]
    assert await numbers(elsewhere, "ListPublicOrders", pb.ListPublicOrdersRequest()) == [lamp.number]
    assert await numbers(Person(community), "ListPublicOrders", pb.ListPublicOrdersRequest()) == []
    for person in (neighbour, reporter):
        shown = (await person.call("ListPublicOrders", pb.ListPublicOrdersRequest())).orders[1]
        assert (shown.title, shown.contact_phone, shown.household_id, shown.reporter_account_id) == ("电梯坏了", "", "", "")
    seen = await neighbour.see(lift)
    assert (seen.title, seen.contact_phone, seen.household_id, seen.reporter_account_id) == ("电梯坏了", "", "", "")


async def test_the_phone_is_shown_to_who_needs_it_and_stored_so_that_nobody_else_reads_it(community: Community) -> None:
    phone = "13800000003"
    reporter, plumber = await community.resident(), await community.technician()
    family = await community.resident(others=[reporter])
    order = await reporter.report(contact_phone=phone)
    reader = Person(community, permissions=["workorders.orders.read"])
    dispatcher = Person(community, permissions=MANAGER)
    assert (await plumber.see(order)).contact_phone == ""
    await plumber.accept(order)
    shown = {"reporter": reporter, "plumber": plumber, "dispatcher": dispatcher, "family": family, "reader": reader}
    assert {name: (await person.see(order)).contact_phone for name, person in shown.items()} == {
        "reporter": phone,
        "plumber": phone,
        "dispatcher": phone,
        "family": "",
        "reader": "",
    }
    jobs = (await plumber.call("ListMyJobs", pb.ListMyJobsRequest())).jobs
    assert [job.contact_phone for job in jobs] == [phone]
    async with community.town.running.transaction("workorders", community.community_id) as tx:
        for table in ("orders", "order_contacts", "order_steps", "outbox"):
            assert not any(phone in str(row) or phone.encode() in bytes(str(row), "utf-8") for row in await tx.fetch(f"TABLE {table}"))


async def test_a_phone_is_forgotten_some_time_after_its_order_is_closed(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    category = await community.category()

    async def reported() -> pb.Order:
        return await plumber.finish(await reporter.report(category, contact_phone="13800000004"))

    async def confirmed(order: pb.Order) -> None:
        await reporter.call("ConfirmOrder", pb.ConfirmOrderRequest(order_id=order.order_id))

    async def kept(**days: float) -> list[bool]:
        community.clock.advance(**days)
        async with community.town.running.transaction("workorders", PLATFORM) as tx:
            await forget_old(tx)
        return [(await reporter.see(order)).contact_phone != "" for order in (closed, reopened, still_open)]

    closed, reopened = await reported(), await reported()
    still_open = await plumber.accept(await reporter.report(category, contact_phone="13800000004"))
    for order in (closed, reopened):
        await confirmed(order)
    await reporter.call("ReopenOrder", pb.ReopenOrderRequest(order_id=reopened.order_id, reason="还在漏"))
    assert await kept(days=89) == [True, True, True]
    assert await kept(days=1, seconds=1) == [False, True, True]
    await plumber.finish(await plumber.accept(reopened))
    await confirmed(reopened)
    await reporter.call("CancelOrder", pb.CancelOrderRequest(order_id=still_open.order_id, reason="不用了"))
    assert await kept(days=91) == [False, False, False]


async def test_what_somebody_may_not_see_is_not_there_for_them(community: Community) -> None:
    reporter, stranger = await community.resident(), await community.resident()
    guest, other_technician = Person(community), await community.technician("locks")
    order = await reporter.report(await community.category(skill="plumbing"))
    for person in (stranger, guest):
        with pytest.raises(NotFound):
            await person.see(order)
        with pytest.raises(NotFound):
            await person.call("ListOrderSteps", pb.ListOrderStepsRequest(order_id=order.order_id))
    await community.technician("plumbing")
    given = await community.call("DispatchOrder", pb.DispatchOrderRequest(order_id=order.order_id))
    assert given.technician_account_id
    with pytest.raises(NotFound):
        await other_technician.see(order)
