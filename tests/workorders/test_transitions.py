"""Orders from their report to their end: what follows what, who may do it, and who is told."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.message import Message

from linli.billing.v1.events_pb2 import PaymentRefunded, PaymentSucceeded
from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.workorders import order_operations, report_operations
from services.workorders.orders import State
from tests.support import eventually
from tests.workorders.arrange import Community, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_repair_goes_from_its_report_to_its_confirmation(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    leak = await community.category("water.leak", skill="plumbing")
    order = await reporter.report(leak, description="水槽下面", contact_phone="13800000001")
    assert (order.number, order.state, order.building_id) == (1, pb.ORDER_STATE_DISPATCHED, str(reporter.building_id))
    assert order.technician_account_id == str(plumber.account_id)
    done = await plumber.finish(await plumber.see(order))
    assert (done.state, done.cause, done.resolution) == (pb.ORDER_STATE_DONE, "seal_worn", "换了密封圈")
    confirmed = await reporter.call("ConfirmOrder", pb.ConfirmOrderRequest(order_id=order.order_id))
    assert confirmed.state == pb.ORDER_STATE_CONFIRMED
    assert await community.actions(order) == ["reported", "triaged", "offered", "accepted", "arrived", "done", "confirmed"]
    await reporter.is_told("done")
    assert await reporter.notices() == ["offered", "accepted", "arrived", "done"]
    await plumber.is_told("confirmed")
    assert await plumber.notices() == ["offered", "confirmed"]
    heard = await community.changed(order, "confirmed")
    assert (heard.category, heard.closed, heard.cause) == ("water.leak", True, "seal_worn")


def steps_of(order: pb.Order) -> dict[str, tuple[str, Message]]:
    """A request for each step that somebody can ask for, and who asks."""
    order_id = order.order_id
    return {
        "ArriveOnSite": ("plumber", pb.ArriveOnSiteRequest(order_id=order_id)),
        "PauseOrder": ("plumber", pb.PauseOrderRequest(order_id=order_id, waits_for=pb.WAITS_FOR_PART, reason="等配件")),
        "ResumeOrder": ("plumber", pb.ResumeOrderRequest(order_id=order_id)),
        "CompleteOrder": ("plumber", pb.CompleteOrderRequest(order_id=order_id, cause="x", resolution="修好了")),
        "ConfirmOrder": ("reporter", pb.ConfirmOrderRequest(order_id=order_id)),
        "ReopenOrder": ("reporter", pb.ReopenOrderRequest(order_id=order_id, reason="还在漏")),
        "CancelOrder": ("reporter", pb.CancelOrderRequest(order_id=order_id, reason="不用了")),
        "TriageOrder": ("manager", pb.TriageOrderRequest(order_id=order_id, note="已看")),
        "DispatchOrder": ("manager", pb.DispatchOrderRequest(order_id=order_id)),
    }


# What may be asked for in each state that an order of a repair rests in.
ALLOWED = {
    pb.ORDER_STATE_ACCEPTED: {"ArriveOnSite", "PauseOrder", "CancelOrder", "TriageOrder", "DispatchOrder"},
    pb.ORDER_STATE_ON_SITE: {"PauseOrder", "CompleteOrder", "CancelOrder", "TriageOrder", "DispatchOrder"},
    pb.ORDER_STATE_WAITING: {"ArriveOnSite", "ResumeOrder", "CancelOrder", "TriageOrder", "DispatchOrder"},
    pb.ORDER_STATE_DONE: {"ConfirmOrder", "ReopenOrder"},
    pb.ORDER_STATE_CONFIRMED: {"ReopenOrder"},
    pb.ORDER_STATE_CANCELLED: set[str](),
}


@pytest.mark.parametrize("state", ALLOWED, ids=pb.OrderState.Name)
async def test_a_transition_that_is_not_allowed_is_refused_and_changes_nothing(community: Community, state: Any) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    people = {"reporter": reporter, "plumber": plumber, "manager": community.manager}
    order = await plumber.accept(await reporter.report())
    path = {
        pb.ORDER_STATE_ACCEPTED: [],
        pb.ORDER_STATE_ON_SITE: ["ArriveOnSite"],
        pb.ORDER_STATE_WAITING: ["PauseOrder"],
        pb.ORDER_STATE_DONE: ["ArriveOnSite", "CompleteOrder"],
        pb.ORDER_STATE_CONFIRMED: ["ArriveOnSite", "CompleteOrder", "ConfirmOrder"],
        pb.ORDER_STATE_CANCELLED: ["CancelOrder"],
    }
    for method in path[state]:
        who, request = steps_of(order)[method]
        await people[who].call(method, request)
    before = await reporter.see(order)
    assert before.state == state
    for method, (who, request) in steps_of(order).items():
        if method not in ALLOWED[state]:
            with pytest.raises(Conflict) as refused:
                await people[who].call(method, request)
            assert refused.value.code == "workorders.transition_not_allowed", method
            assert refused.value.details["state"] == pb.OrderState.Name(state).removeprefix("ORDER_STATE_").lower()
    assert await reporter.see(order) == before


async def test_nobody_but_its_technician_works_on_an_order_and_nobody_but_its_reporter_answers_for_it(community: Community) -> None:
    reporter, plumber, other = await community.resident(), await community.technician(), await community.technician("electrics")
    family, neighbour = await community.resident(others=[reporter]), await community.resident(building_id=reporter.building_id)
    order = await reporter.report(await community.category(skill="plumbing"), visibility=pb.VISIBILITY_NEIGHBOURS)
    arrive = pb.ArriveOnSiteRequest(order_id=order.order_id)
    with pytest.raises(Conflict) as not_yet:
        await plumber.call("ArriveOnSite", arrive)
    assert not_yet.value.code == "workorders.not_yours"
    await plumber.accept(order)
    with pytest.raises(NotFound):
        await other.call("ArriveOnSite", arrive)
    done = await plumber.finish(await plumber.see(order))
    for stranger in (neighbour, plumber):
        with pytest.raises(NotFound):
            await stranger.call("ConfirmOrder", pb.ConfirmOrderRequest(order_id=order.order_id))
    with pytest.raises(Denied):
        await neighbour.call("CancelOrder", pb.CancelOrderRequest(order_id=order.order_id, reason="太吵"))
    assert (await family.call("ConfirmOrder", pb.ConfirmOrderRequest(order_id=done.order_id))).state == pb.ORDER_STATE_CONFIRMED


async def test_work_that_waits_goes_on_where_it_was(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.accept(await reporter.report())
    steps = {name: request for name, (_, request) in steps_of(order).items()}
    waiting = await plumber.call("PauseOrder", steps["PauseOrder"])
    assert (waiting.state, waiting.waits_for) == (pb.ORDER_STATE_WAITING, pb.WAITS_FOR_PART)
    assert (await plumber.call("ResumeOrder", steps["ResumeOrder"])).state == pb.ORDER_STATE_ACCEPTED
    await plumber.call("ArriveOnSite", steps["ArriveOnSite"])
    await plumber.call("PauseOrder", steps["PauseOrder"])
    resumed = await plumber.call("ResumeOrder", steps["ResumeOrder"])
    assert (resumed.state, resumed.waits_for) == (pb.ORDER_STATE_ON_SITE, pb.WAITS_FOR_UNSPECIFIED)
    notes = {step.action: step.note for step in await community.steps(order)}
    assert notes["paused"] == "等配件"


async def test_a_visit_is_agreed_for_a_time_to_come(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.accept(await reporter.report())
    now = community.clock.now

    async def plan(from_hours: float, until_hours: float) -> pb.Order:
        visit_from, visit_until = (to_timestamp(now + timedelta(hours=hours)) for hours in (from_hours, until_hours))
        request = pb.PlanVisitRequest(order_id=order.order_id, visit_from=visit_from, visit_until=visit_until)
        planned: pb.Order = await plumber.call("PlanVisit", request)
        return planned

    for hours in ((2, 1), (-3, -1), (1, 14), (1, 1)):
        with pytest.raises(Invalid) as refused:
            await plan(*hours)
        assert refused.value.code == "workorders.visit_time"
    planned = await plan(1, 3)
    assert planned.visit_from == to_timestamp(now + timedelta(hours=1))
    await reporter.is_told("planned")
    heard = await community.event(type(await community.changed(order, "accepted")), order_id=order.order_id, visit_from=planned.visit_from)
    assert heard.message.technician_account_id == str(plumber.account_id)


async def test_what_is_not_done_is_opened_again_with_new_promises_and_given_out_anew(community: Community) -> None:
    targets = [pb.Targets(priority=pb.PRIORITY_NORMAL, response_minutes=15, done_minutes=60, round_the_clock=True)]
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.finish(await reporter.report(await community.category(targets=targets)))
    community.clock.advance(days=6)
    reopened = await reporter.call("ReopenOrder", pb.ReopenOrderRequest(order_id=order.order_id, reason="还在漏"))
    assert (reopened.state, reopened.reopened) == (pb.ORDER_STATE_DISPATCHED, 1)
    assert not reopened.HasField("done_at")
    assert reopened.done_due_at == to_timestamp(community.clock.now + timedelta(hours=1))
    assert [step.note for step in await community.steps(order) if step.action == "reopened"] == ["还在漏"]
    await plumber.is_told("reopened")
    done = await plumber.finish(await plumber.see(order))
    community.clock.advance(days=7, seconds=1)
    await community.changed(done, "confirmed")
    with pytest.raises(Conflict) as refused:
        await reporter.call("ReopenOrder", pb.ReopenOrderRequest(order_id=order.order_id, reason="还在漏"))
    assert refused.value.code == "workorders.reopen_too_late"


async def test_what_nobody_complains_of_confirms_itself(community: Community) -> None:
    await community.terms(reopen_days=2)
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.finish(await reporter.report())
    community.clock.advance(days=2)
    await community.changed(order, "confirmed")
    assert (await community.steps(order))[-1].account_id == ""
    await reporter.is_told("confirmed")


async def test_who_does_not_need_it_any_more_takes_it_back_and_the_technician_is_told(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.accept(await reporter.report())
    cancelled = await reporter.call("CancelOrder", pb.CancelOrderRequest(order_id=order.order_id, reason="自己修好了"))
    assert cancelled.state == pb.ORDER_STATE_CANCELLED
    assert cancelled.HasField("closed_at")
    await plumber.is_told("cancelled")
    assert (await plumber.call("ListMyJobs", pb.ListMyJobsRequest())).jobs == []


async def test_a_complaint_waits_for_somebody_who_looks_at_it_and_an_answer_is_its_response(community: Community) -> None:
    foreman, reporter = await community.staff("foreman"), await community.resident()
    noise = await community.category(kind=pb.ORDER_KIND_COMPLAINT)
    order = await reporter.report(noise, visibility=pb.VISIBILITY_NEIGHBOURS)
    assert (order.state, order.visibility) == (pb.ORDER_STATE_REPORTED, pb.VISIBILITY_REPORTER)
    assert order.HasField("response_due_at")
    await foreman.is_told("reported")
    request = pb.TriageOrderRequest(order_id=order.order_id, note="今晚去处理", priority=pb.PRIORITY_URGENT, place="3 号楼")
    triaged = await community.call("TriageOrder", request)
    assert (triaged.state, triaged.priority, triaged.place) == (pb.ORDER_STATE_TRIAGED, pb.PRIORITY_URGENT, "3 号楼")
    assert not triaged.HasField("response_due_at")
    await reporter.is_told("triaged")
    community.clock.advance(minutes=30)
    assert (await reporter.see(order)).missed == []


async def test_a_complaint_that_is_opened_again_waits_for_a_person_like_a_new_one(community: Community) -> None:
    foreman, reporter = await community.staff("foreman"), await community.resident()
    guard, plumber = await community.technician("guarding"), await community.technician("plumbing")
    order = await reporter.report(await community.category(kind=pb.ORDER_KIND_COMPLAINT))
    await community.call("TriageOrder", pb.TriageOrderRequest(order_id=order.order_id, note="已安排"))
    given = pb.DispatchOrderRequest(order_id=order.order_id, technician_account_id=str(guard.account_id))
    await guard.finish(await community.call("DispatchOrder", given))
    reopened = await reporter.call("ReopenOrder", pb.ReopenOrderRequest(order_id=order.order_id, reason="还是吵"))
    assert (reopened.state, reopened.cause, reopened.resolution) == (pb.ORDER_STATE_REOPENED, "", "")
    await foreman.is_told("reported", 2)
    answered = await community.call("TriageOrder", pb.TriageOrderRequest(order_id=order.order_id, note="今晚再去"))
    assert not answered.HasField("response_due_at")
    assert (await community.call("DispatchOrder", given)).technician_account_id == str(guard.account_id)
    assert await plumber.notices() == []


async def test_a_visit_that_was_agreed_before_is_none_when_the_order_is_opened_again(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.accept(await reporter.report())
    now = community.clock.now
    visit = {name: to_timestamp(now + timedelta(hours=hours)) for name, hours in (("visit_from", 1), ("visit_until", 2))}
    await plumber.call("PlanVisit", pb.PlanVisitRequest(order_id=order.order_id, **visit))
    await plumber.finish(order)
    reopened = await reporter.call("ReopenOrder", pb.ReopenOrderRequest(order_id=order.order_id, reason="还在漏"))
    assert not reopened.HasField("visit_from")
    assert not (await community.changed(order, "reopened")).HasField("visit_until")


async def test_triage_puts_a_complaint_that_is_a_repair_right_and_it_is_given_out(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    order = await reporter.report(await community.category(kind=pb.ORDER_KIND_COMPLAINT))
    leak = await community.category(skill="plumbing", default_priority=pb.PRIORITY_LOW)
    moved = await community.call("TriageOrder", pb.TriageOrderRequest(order_id=order.order_id, category_id=leak))
    assert (moved.kind, moved.state, moved.category_id) == (pb.ORDER_KIND_REPAIR, pb.ORDER_STATE_DISPATCHED, leak)
    assert [job.order_id for job in (await plumber.call("ListMyJobs", pb.ListMyJobsRequest())).jobs] == [order.order_id]


async def test_a_report_that_is_sent_again_with_its_key_is_one_order(community: Community) -> None:
    reporter = await community.resident()
    request = pb.ReportOrderRequest(category_id=await community.category(), title="灯坏了")
    first = await reporter.call("ReportOrder", request, idempotency_key="once")
    again = await reporter.call("ReportOrder", request, idempotency_key="once")
    assert first.order_id == again.order_id
    assert len((await reporter.call("ListMyOrders", pb.ListMyOrdersRequest())).orders) == 1


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"household_id": str(new_id())}, NotFound, "workorders.household_unknown"),
        ({"category": str(new_id())}, NotFound, "workorders.category_unknown"),
        ({"title": " \t "}, Invalid, "request.invalid"),
        ({"title": "a\0b"}, Invalid, "request.invalid"),
        ({"contact_phone": "call me"}, Invalid, "request.invalid"),
        ({"photo_ids": [str(new_id())]}, NotFound, "workorders.photo_unknown"),
    ],
)
async def test_a_report_that_cannot_be_is_refused(community: Community, fields: dict[str, Any], error: type[Exception], code: str) -> None:
    reporter = await community.resident()
    with pytest.raises(error) as refused:
        await reporter.report(**fields)
    assert getattr(refused.value, "code", "") == code


async def test_who_writes_down_what_others_call_about_has_no_limit_and_a_resident_has(
    community: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_operations, "_OPEN_MAX", 2)
    category, clerk, reporter = await community.category(), await community.staff("property_staff"), await community.resident()
    for _ in range(3):
        await clerk.report(category, household_id="")
    for _ in range(2):
        await reporter.report(category)
    with pytest.raises(Exhausted, match=r"workorders.too_many_open"):
        await reporter.report(category)


async def test_who_neither_lives_nor_works_here_reports_nothing(community: Community) -> None:
    category = await community.category()
    with pytest.raises(Denied):
        await Person(community).report(category, household_id="")
    guard = await community.staff("property_staff")
    assert (await guard.report(category, household_id="", priority=pb.PRIORITY_EMERGENCY)).priority == pb.PRIORITY_NORMAL
    assert (await community.manager.report(category, household_id="", priority=pb.PRIORITY_EMERGENCY)).priority == pb.PRIORITY_EMERGENCY


async def test_an_order_that_waits_for_a_payment_goes_on_by_itself_when_it_is_paid(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    order = await plumber.accept(await reporter.report())
    charge_id = new_id()
    pause = pb.PauseOrderRequest(order_id=order.order_id, waits_for=pb.WAITS_FOR_PAYMENT, reason="等付款")
    await plumber.call("PauseOrder", pause)
    async with community.town.running.transaction("workorders", community.community_id) as tx:
        held = await order_operations.lock_any(tx, UUID(order.order_id))
        assert held.state is State.WAITING
        await order_operations.amend(tx, held, "agreed", charge_id=charge_id, amount_fen=12_000)
    with pytest.raises(Conflict) as unpaid:
        await plumber.call("ResumeOrder", pb.ResumeOrderRequest(order_id=order.order_id))
    assert unpaid.value.code == "workorders.unpaid"
    paid: dict[str, Any] = {"origin": "workorders", "origin_id": order.order_id, "amount_fen": 12_000, "payment_id": str(new_id())}
    await community.publish(PaymentSucceeded(charge_id=str(new_id()), **paid))
    await community.publish(PaymentSucceeded(charge_id=str(charge_id), **paid))

    async def goes_on() -> bool:
        seen = await reporter.see(order)
        return bool(seen.paid and seen.state == pb.ORDER_STATE_ACCEPTED)

    await eventually(goes_on, "the order goes on")
    refund = {name: value for name, value in paid.items() if name != "payment_id"}
    await community.publish(
        PaymentRefunded(charge_id=str(charge_id), payment_id=str(new_id()), refund_id=str(new_id()), reopened_charge=True, **refund)
    )

    async def is_refunded() -> bool:
        return not (await reporter.see(order)).paid

    await eventually(is_refunded, "the refund is noted")
    assert (await community.steps(order))[-1].note == "120.00 CNY"


async def test_what_was_said_is_read_by_all_who_see_the_order_and_names_nobody_to_neighbours(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    neighbour = await community.resident(building_id=reporter.building_id)
    order = await plumber.accept(await reporter.report(visibility=pb.VISIBILITY_NEIGHBOURS))
    await neighbour.call("CommentOrder", pb.CommentOrderRequest(order_id=order.order_id, text="我家也是"))
    await reporter.is_told("commented")
    await plumber.is_told("commented")
    steps = (await neighbour.call("ListOrderSteps", pb.ListOrderStepsRequest(order_id=order.order_id))).steps
    assert [(step.note, step.account_id) for step in steps if step.action == "commented"] == [("我家也是", "")]
    assert not any(step.account_id for step in steps)
    seal = pb.SetPriceRequest(code="seal", name_zh="密封圈", name_en="Seal", unit=pb.PRICE_UNIT_PIECE, price_fen=1500, in_use=True)
    await community.call("SetPrice", seal)
    items = [pb.QuoteItem(code="seal", quantity_hundredths=100)]
    quote = await plumber.call("QuoteOrder", pb.QuoteOrderRequest(order_id=order.order_id, items=items))
    await reporter.call("RefuseQuote", pb.RefuseQuoteRequest(order_id=order.order_id, quote_id=quote.quote_id, reason="下岗了，没钱"))
    steps = (await neighbour.call("ListOrderSteps", pb.ListOrderStepsRequest(order_id=order.order_id))).steps
    assert [step.note for step in steps if step.note] == ["我家也是"]
    own = (await reporter.call("ListOrderSteps", pb.ListOrderStepsRequest(order_id=order.order_id, page_size=100))).steps
    assert own[-1].note == "下岗了，没钱"
    own = [step for step in own if step.action == "commented"]
    assert own[-1].account_id == str(neighbour.account_id)
    with pytest.raises(NotFound):
        await (await community.resident()).call("CommentOrder", pb.CommentOrderRequest(order_id=order.order_id, text="路过"))
