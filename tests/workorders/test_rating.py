"""What reporters and staff say of an order when it is done."""

from collections.abc import Sequence

import pytest

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.errors import Conflict, Denied, NotFound
from tests.workorders.arrange import Community, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def rate(who: Person, order: pb.Order, stars: int, text: str = "") -> pb.Order:
    rated: pb.Order = await who.call("RateOrder", pb.RateOrderRequest(order_id=order.order_id, stars=stars, text=text))
    return rated


async def done(community: Community, others: Sequence[Person] = ()) -> tuple[Person, Person, pb.Order]:
    """A resident, a plumber, and an order between them that is done."""
    reporter, plumber = await community.resident(others=others), await community.technician()
    order = await reporter.report(await community.category(skill="plumbing"))
    return reporter, plumber, await plumber.finish(order)


async def test_a_good_rating_is_kept_and_the_technician_is_told(community: Community) -> None:
    reporter, plumber, order = await done(community)
    rated = await rate(reporter, order, 5, "又快又好")
    assert (rated.state, rated.stars, rated.rating_text) == (pb.ORDER_STATE_DONE, 5, "又快又好")
    await plumber.is_told("rated")
    with pytest.raises(Conflict, match=r"workorders.already_rated"):
        await rate(reporter, order, 4)
    await reporter.call("ConfirmOrder", pb.ConfirmOrderRequest(order_id=order.order_id))
    with pytest.raises(Conflict, match=r"workorders.already_rated"):
        await rate(reporter, order, 1)


async def test_a_bad_rating_opens_the_order_again_and_each_completion_is_rated_once(community: Community) -> None:
    other_foreman, foreman = await community.staff("foreman"), Person(community)
    team = await community.call("CreateTeam", pb.CreateTeamRequest(name="水电班", foreman_account_id=str(foreman.account_id)))
    community.team_id = team.team_id
    reporter, plumber, order = await done(community)
    reopened = await rate(reporter, order, 2, "还在漏")
    assert (reopened.state, reopened.reopened, reopened.stars) == (pb.ORDER_STATE_DISPATCHED, 1, 2)
    await foreman.is_told("rated_badly")
    assert (await community.actions(order))[-3:] == ["rated", "reopened", "offered"]
    with pytest.raises(Conflict, match=r"workorders.not_done"):
        await rate(reporter, order, 5)
    await plumber.finish(reopened)
    again = await rate(reporter, order, 4)
    assert (again.state, again.stars) == (pb.ORDER_STATE_DONE, 4)
    assert (await foreman.notices()).count("rated_badly") == 1
    assert "rated_badly" not in await other_foreman.notices()


async def test_a_bad_rating_that_comes_late_is_told_and_reopens_nothing(community: Community) -> None:
    await community.terms(reopen_days=3)
    foreman = await community.staff("foreman")
    reporter, _, order = await done(community)
    community.clock.advance(days=4)
    await community.changed(order, "confirmed")
    rated = await rate(reporter, order, 1)
    assert (rated.state, rated.stars) == (pb.ORDER_STATE_CONFIRMED, 1)
    await foreman.is_told("rated_badly")


async def test_only_who_reported_it_or_their_household_rates(community: Community) -> None:
    reporter, plumber, order = await done(community)
    neighbour = await community.resident(building_id=reporter.building_id)
    for stranger in (neighbour, plumber, community.manager):
        with pytest.raises(NotFound, match=r"workorders.order_unknown"):
            await rate(stranger, order, 5)
    family = await community.resident(others=[reporter])
    assert (await rate(family, order, 3)).stars == 3


async def test_a_follow_up_is_a_step_of_an_order_that_is_done(community: Community) -> None:
    reporter, plumber, order = await done(community)
    request = pb.FollowUpOrderRequest(order_id=order.order_id, note="电话回访：满意")
    await community.call("FollowUpOrder", request)
    step = (await community.steps(order))[-1]
    assert (step.action, step.note, step.state) == ("followed_up", "电话回访：满意", pb.ORDER_STATE_DONE)
    await reporter.is_told("followed_up")
    with pytest.raises(Denied):
        await plumber.call("FollowUpOrder", request)
    open_one = await reporter.report()
    with pytest.raises(Conflict, match=r"workorders.not_done"):
        await community.call("FollowUpOrder", pb.FollowUpOrderRequest(order_id=open_one.order_id, note="回访"))
