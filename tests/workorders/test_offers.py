"""Finding somebody for an order: offers one after the other, open to all, given by hand; and who technicians are."""

import asyncio
from typing import Any

import pytest

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.errors import Conflict, Denied, Invalid, NotFound
from servicekit.identifiers import new_id
from tests.support import eventually
from tests.workorders.arrange import TECHNICIAN, Community, Person, WorkTown

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Monday at ten in the morning is none of these hours.
NIGHT = (pb.WorkingHours(weekday=1, from_minute=0, until_minute=480),)


async def leak(community: Community) -> tuple[Person, pb.Order]:
    """A resident who has reported something for plumbers, and the order."""
    reporter = await community.resident()
    return reporter, await reporter.report(await community.category(skill="plumbing"))


async def offered_to(community: Community, order: pb.Order) -> str:
    return str((await community.manager.see(order)).technician_account_id)


async def is_offered_to(community: Community, order: pb.Order, technician: Person) -> None:
    """Waits until an order is offered to somebody."""

    async def offered() -> bool:
        return await offered_to(community, order) == str(technician.account_id)

    await eventually(offered, "the next is asked")


async def open_jobs(technician: Person) -> list[str]:
    listed = await technician.call("ListOpenJobs", pb.ListOpenJobsRequest())
    return [job.order_id for job in listed.jobs]


async def pass_on(technician: Person, order: pb.Order, reason: str = "手上有急修") -> None:
    await technician.call("PassOnOrder", pb.PassOnOrderRequest(order_id=order.order_id, reason=reason))


async def dispatch(community: Community, order: pb.Order, technician: Person | None = None) -> pb.Order:
    account_id = str(technician.account_id) if technician else ""
    given: pb.Order = await community.call(
        "DispatchOrder", pb.DispatchOrderRequest(order_id=order.order_id, technician_account_id=account_id, note="尽快")
    )
    return given


async def at(community: Community, technician: Person, latitude: float, longitude: float = 121.5) -> None:
    await technician.call("ReportMyPosition", pb.ReportMyPositionRequest(latitude=latitude, longitude=longitude))


# Offers.


async def test_who_does_not_answer_is_passed_over_until_the_job_is_open_to_all(community: Community) -> None:
    await community.terms(offer_s=120)
    first, second, electrician = await community.technician(), await community.technician(), await community.technician("electrics")
    _, order = await leak(community)
    names = {str(first.account_id): first, str(second.account_id): second}
    asked = names.pop(await offered_to(community, order))
    (other,) = names.values()
    await asked.is_told("offered")
    community.clock.advance(seconds=119)
    assert await offered_to(community, order) == str(asked.account_id)
    community.clock.advance(seconds=1)
    await is_offered_to(community, order, other)
    assert not await open_jobs(other)
    community.clock.advance(seconds=120)
    await asked.is_told("open")
    await other.is_told("open")
    assert await open_jobs(asked) == await open_jobs(other) == [order.order_id]
    assert not await open_jobs(electrician)
    assert not await electrician.notices()
    seen = await other.see(order)
    assert (seen.technician_account_id, seen.dispatch_reason) == ("", "技能 plumbing，已询问的人员均未接单，开放抢单")
    assert await community.actions(order) == ["reported", "triaged", "offered", "offered", "opened"]
    accepted = await asked.accept(order)
    assert (accepted.state, accepted.technician_account_id) == (pb.ORDER_STATE_ACCEPTED, str(asked.account_id))
    assert not await open_jobs(other)


async def test_of_two_who_take_a_job_at_once_one_gets_it(community: Community) -> None:
    technicians = [await community.technician(shifts=NIGHT) for _ in range(2)]
    _, order = await leak(community)
    answers: list[Any] = await asyncio.gather(*(each.accept(order) for each in technicians), return_exceptions=True)
    (taken,) = [each for each in answers if isinstance(each, Conflict)]
    (got,) = [each for each in answers if isinstance(each, pb.Order)]
    assert taken.code == "workorders.taken"
    assert (await community.actions(order)).count("accepted") == 1
    winner = next(each for each in technicians if str(each.account_id) == got.technician_account_id)
    assert (await winner.accept(order)).technician_account_id == got.technician_account_id
    assert (await community.actions(order)).count("accepted") == 1


async def test_an_offer_that_is_passed_on_goes_to_the_next_with_the_reason(community: Community) -> None:
    first, second = await community.technician(), await community.technician()
    _, order = await leak(community)
    if await offered_to(community, order) != str(first.account_id):
        first, second = second, first
    await pass_on(first, order)
    assert await offered_to(community, order) == str(second.account_id)
    step = (await community.steps(order))[3]
    assert (step.action, step.account_id, step.note) == ("passed_on", str(first.account_id), "手上有急修")
    with pytest.raises(Conflict, match=r"workorders.not_offered"):
        await first.accept(order)
    await second.accept(order)
    await pass_on(second, order, "需要另一专业")
    seen = await community.manager.see(order)
    assert (seen.state, seen.technician_account_id, seen.team_id) == (pb.ORDER_STATE_DISPATCHED, "", "")
    assert (await community.actions(order))[-2:] == ["passed_on", "opened"]
    with pytest.raises(Conflict, match=r"workorders.not_yours"):
        await pass_on(second, order)


async def test_when_nobody_works_now_the_job_is_open_and_the_foremen_are_told(community: Community) -> None:
    foreman, sleeper = await community.staff("foreman"), await community.technician(shifts=NIGHT)
    reporter, order = await leak(community)
    await foreman.is_told("nobody_on_shift")
    await sleeper.is_told("open")
    assert (await sleeper.see(order)).dispatch_reason == "技能 plumbing，当前无人在班，开放抢单"
    assert (await sleeper.accept(order)).state == pb.ORDER_STATE_ACCEPTED
    await reporter.is_told("accepted")


async def test_when_nobody_is_left_to_ask_the_foremen_are_told_though_the_first_response_was_in_time(community: Community) -> None:
    foreman, plumber = await community.staff("foreman"), await community.technician()
    _, order = await leak(community)
    await plumber.accept(order)
    await pass_on(plumber, order)
    await foreman.is_told("nobody_took_it")


async def test_two_orders_of_one_moment_are_offered_to_two(community: Community) -> None:
    technicians = [await community.technician(), await community.technician()]
    orders = [(await leak(community))[1] for _ in range(2)]
    assert {await offered_to(community, order) for order in orders} == {str(each.account_id) for each in technicians}


# Given by hand.


async def test_an_order_is_given_by_hand_and_waits_for_the_one_it_was_given_to(community: Community) -> None:
    await community.terms(offer_s=60)
    asked = await community.technician()
    _, order = await leak(community)
    chosen, electrician = await community.technician(shifts=NIGHT), await community.technician("electrics")
    given = await dispatch(community, order, chosen)
    assert (given.state, given.technician_account_id) == (pb.ORDER_STATE_DISPATCHED, str(chosen.account_id))
    assert given.dispatch_reason == "人工派单，技能 plumbing，负责本楼，不在班，手上 0 单"
    await chosen.is_told("dispatched")
    with pytest.raises(Conflict, match=r"workorders.not_offered"):
        await asked.accept(order)
    with pytest.raises(NotFound, match=r"workorders.order_unknown"):
        await electrician.accept(order)
    with pytest.raises(NotFound, match=r"workorders.order_unknown"):
        await Person(community, permissions=TECHNICIAN).accept(order)
    # Another order's offer lapses meanwhile; this one, which a person gave, does not.
    _, other = await leak(community)
    community.clock.advance(seconds=61)

    async def lapsed() -> bool:
        return "opened" in await community.actions(other)

    await eventually(lapsed, "the other offer lapses")
    assert await offered_to(community, order) == str(chosen.account_id)
    assert (await chosen.accept(order)).team_id == community.team_id


async def test_only_who_can_do_it_is_given_an_order_and_only_while_it_is_open(community: Community) -> None:
    plumber, electrician = await community.technician(), await community.technician("electrics")
    _, order = await leak(community)
    with pytest.raises(Conflict, match=r"workorders.skill_missing"):
        await dispatch(community, order, electrician)
    with pytest.raises(NotFound, match=r"workorders.technician_unknown"):
        await dispatch(community, order, Person(community))
    done = await plumber.finish(order)
    with pytest.raises(Conflict, match=r"workorders.transition_not_allowed"):
        await dispatch(community, done, plumber)
    with pytest.raises(Denied):
        await plumber.call("DispatchOrder", pb.DispatchOrderRequest(order_id=order.order_id))


async def test_an_order_that_is_taken_away_is_offered_anew_and_who_had_it_is_told(community: Community) -> None:
    first = await community.technician()
    _, order = await leak(community)
    await first.accept(order)
    second = await community.technician()
    again = await dispatch(community, order)
    # Who has an open job is farther away than who has none.
    assert (again.state, again.technician_account_id) == (pb.ORDER_STATE_DISPATCHED, str(second.account_id))
    await first.is_told("passed_on")
    step = (await community.steps(order))[-1]
    assert (step.action, step.account_id, step.note) == ("offered", str(community.account_id), "尽快")


# Candidates.


async def test_candidates_are_listed_with_the_reason_in_the_callers_language(community: Community) -> None:
    reporter = await community.resident()
    building = str(reporter.building_id)
    await community.call("SetBuildingPosition", pb.SetBuildingPositionRequest(building_id=building, latitude=31.2, longitude=121.5))
    far, near = await community.technician(), await community.technician(building_ids=[building])
    off, stranger = await community.technician(shifts=NIGHT, building_ids=[str(new_id())]), await community.technician("electrics")
    await at(community, far, 31.21)
    await at(community, near, 31.201)
    order = await reporter.report(await community.category(skill="plumbing"))
    request = pb.ListCandidatesRequest(order_id=order.order_id)
    listed = (await community.call("ListCandidates", request)).candidates
    assert [each.account_id for each in listed] == [str(each.account_id) for each in (near, far, off)]
    assert [(each.on_shift, each.distance_m) for each in listed] == [(True, 111), (True, 1112), (False, -1)]
    assert listed[0].reason == "技能 plumbing，负责本楼，在班，手上 0 单，相距 111 米"
    english = (await community.call("ListCandidates", request, accept_language="en")).candidates
    assert english[2].reason == "skill plumbing, looks after other buildings, not on shift, 0 open jobs"
    assert str(stranger.account_id) not in {each.account_id for each in listed}
    await near.accept(order)
    community.clock.advance(minutes=59)
    nearest = (await community.call("ListCandidates", request)).candidates[0]
    assert (nearest.account_id, nearest.open_jobs, nearest.distance_m) == (str(near.account_id), 1, 111)
    community.clock.advance(minutes=1)
    # What somebody said an hour ago is forgotten; who works in a building is there.
    listed = (await community.call("ListCandidates", request)).candidates
    assert {each.account_id: each.distance_m for each in listed}[str(near.account_id)] == 0
    assert {each.account_id: each.distance_m for each in listed}[str(far.account_id)] == -1


# Who technicians are.


async def test_technicians_are_entered_changed_and_listed_with_what_they_do_now(community: Community) -> None:
    on, off = await community.technician(), await community.technician(shifts=NIGHT)
    _, order = await leak(community)
    await on.accept(order)
    first = await community.call("ListTechnicians", pb.ListTechniciansRequest(page_size=1))
    rest = await community.call("ListTechnicians", pb.ListTechniciansRequest(team_id=community.team_id, page_token=first.next_page_token))
    listed = [*first.technicians, *rest.technicians]
    assert [each.name for each in listed] == sorted(each.name for each in listed)
    assert {each.account_id: (each.on_shift, each.open_jobs) for each in listed} == {
        str(on.account_id): (True, 1),
        str(off.account_id): (False, 0),
    }
    values = pb.SetTechnicianRequest(account_id=str(on.account_id), name="甲", team_id=community.team_id, skills=["roofing"])
    left = await community.call("SetTechnician", values)
    assert (left.skills, left.in_use, left.open_jobs) == (["roofing"], False, 1)
    with pytest.raises(Denied, match=r"workorders.not_a_technician"):
        await at(community, on, 31.2)
    assert not await open_jobs(on)


async def test_a_register_that_cannot_be_is_refused(workorders: WorkTown, community: Community) -> None:
    team = await community.call("CreateTeam", pb.CreateTeamRequest(name="水电班", foreman_account_id=str(new_id())))
    with pytest.raises(Conflict, match=r"workorders.team_exists"):
        await community.call("CreateTeam", pb.CreateTeamRequest(name="水电班"))
    values: dict[str, Any] = {"account_id": str(new_id()), "name": "丙", "skills": ["roofing"], "in_use": True}
    request = pb.SetTechnicianRequest(
        team_id=team.team_id, shifts=[pb.WorkingHours(weekday=1, from_minute=600, until_minute=600)], **values
    )
    with pytest.raises(Invalid, match=r"workorders.shift_empty"):
        await community.call("SetTechnician", request)
    neighbour = Community(workorders)
    with pytest.raises(NotFound, match=r"workorders.team_unknown"):
        await neighbour.call("SetTechnician", pb.SetTechnicianRequest(team_id=team.team_id, **values))
    assert not (await neighbour.call("ListTeams", pb.ListTeamsRequest())).teams
    assert [each.foreman_account_id for each in (await community.call("ListTeams", pb.ListTeamsRequest())).teams] == [
        team.foreman_account_id
    ]
