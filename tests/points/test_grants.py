"""Points that somebody grants by hand: with a reason, a limit, and a second person above it."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from linli.points.v1 import points_pb2 as pb
from servicekit.errors import Conflict, Denied, NotFound
from servicekit.identifiers import new_id
from tests.community import Town
from tests.points.arrange import Community

pytestmark = pytest.mark.asyncio(loop_scope="module")


def request(account_id: UUID, points: int, **more: Any) -> pb.GrantPointsRequest:
    return pb.GrantPointsRequest(**{"grant_id": str(new_id()), "account_id": str(account_id), "points": points, "reason": "慰问", **more})


async def decide(community: Community, method: str, grant: pb.Grant, who: UUID) -> pb.Grant:
    """Somebody approves or rejects a grant."""
    message = pb.ApproveGrantRequest if method == "ApproveGrant" else pb.RejectGrantRequest
    decided: pb.Grant = await community.call(method, message(grant_id=grant.grant_id), "points.grants.approve", account_id=who)
    return decided


async def test_a_grant_within_the_limit_is_given_at_once_and_asked_for_again_is_the_same_one(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    asked = request(anna, 30)
    grants = await asyncio.gather(*(community.call("GrantPoints", asked) for _ in range(4)))
    assert all(grant == grants[0] for grant in grants)
    assert (grants[0].state, grants[0].requested_by, grants[0].decided_by) == (pb.GRANT_STATE_GRANTED, str(community.account_id), "")
    (entry,) = await community.entries(anna)
    assert (entry.kind, entry.change, entry.rule_id, entry.rules_version, entry.source_id) == ("grant", 30, "grant", 1, asked.grant_id)
    assert entry.text_zh == "人工发放：慰问"
    assert "30" in (await community.notified(anna, "points.granted")).message.text_en
    with pytest.raises(Conflict, match=r"points\.grant_differs"):
        await community.call("GrantPoints", request(anna, 31, grant_id=asked.grant_id))


async def test_all_grants_of_a_day_together_above_the_limit_need_a_second_person(community: Community, points: Town) -> None:
    anna, second = await community.resident(), new_id()
    await community.publish_rules(grant_points_max=100)
    await community.give(anna, 60)
    waiting = await community.give(anna, 60)
    assert waiting.state == pb.GRANT_STATE_WAITING
    assert (await community.give(anna, 40)).state == pb.GRANT_STATE_GRANTED
    with pytest.raises(Denied, match=r"points\.own_grant"):
        await decide(community, "ApproveGrant", waiting, community.account_id)
    with pytest.raises(Denied, match=r"points\.own_grant"):
        await decide(community, "ApproveGrant", waiting, anna)
    approved = await decide(community, "ApproveGrant", waiting, second)
    assert (approved.state, approved.decided_by) == (pb.GRANT_STATE_GRANTED, str(second))
    assert (await community.points_of(anna)).points == 160
    for method in ("ApproveGrant", "RejectGrant"):
        with pytest.raises(Conflict, match=r"points\.grant_decided"):
            await decide(community, method, waiting, second)
    points.clock.advance(days=1)
    assert (await community.give(anna, 100)).state == pb.GRANT_STATE_GRANTED


async def test_a_rejected_grant_gives_nothing_and_lists_show_what_became_of_each(community: Community, points: Town) -> None:
    anna, second = await community.resident(), new_id()
    await community.publish_rules(grant_points_max=0)
    first = await community.give(anna, 5)
    points.clock.advance(minutes=1)
    later = await community.give(anna, 6)
    rejected = await decide(community, "RejectGrant", first, second)
    assert (rejected.state, (await community.points_of(anna)).points) == (pb.GRANT_STATE_REJECTED, 0)
    waiting = await community.call("ListGrants", pb.ListGrantsRequest(state=pb.GRANT_STATE_WAITING))
    assert list(waiting.grants) == [later]
    newest = await community.call("ListGrants", pb.ListGrantsRequest(page_size=1))
    older = await community.call("ListGrants", pb.ListGrantsRequest(page_size=1, page_token=newest.next_page_token))
    assert [*newest.grants, *older.grants] == [later, rejected]
    with pytest.raises(NotFound, match=r"points\.grant_not_found"):
        await decide(Community(points), "ApproveGrant", later, second)


async def test_each_grant_of_a_batch_is_answered_on_its_own_in_the_order_of_the_request(community: Community, points: Town) -> None:
    anna = await community.resident()
    stranger = await Community(points).resident()
    await community.publish_rules(grant_points_max=50)
    first = request(anna, 10)
    batch = [
        first,
        request(new_id(), 1),
        request(stranger, 1),
        request(community.account_id, 1),
        request(anna, 11, grant_id=first.grant_id),
        request(anna, 1, reason="\t\t"),
        request(anna, 41),
        request(anna, 40),
        first,
    ]
    answer = await community.call("GrantPointsInBatch", pb.GrantPointsInBatchRequest(grants=batch))
    codes = [
        "",
        "points.resident_not_found",
        "points.resident_not_found",
        "points.grant_to_oneself",
        "points.grant_differs",
        "request.invalid",
    ]
    assert [outcome.code for outcome in answer.outcomes] == [*codes, "", "", ""]
    assert [outcome.grant.state for outcome in answer.outcomes[6:]] == [
        pb.GRANT_STATE_WAITING,
        pb.GRANT_STATE_GRANTED,
        pb.GRANT_STATE_GRANTED,
    ]
    assert (await community.points_of(anna)).points == 50


async def test_a_thousand_grants_in_a_batch_are_each_given(community: Community) -> None:
    people = [new_id() for _ in range(50)]
    await community.household(*people)
    await community.publish_rules()
    grants = [request(people[number % 50], number + 1) for number in range(1_000)]
    answer = await community.call("GrantPointsInBatch", pb.GrantPointsInBatchRequest(grants=grants))
    assert all(outcome.grant.state == pb.GRANT_STATE_GRANTED for outcome in answer.outcomes)
    assert [outcome.grant.grant_id for outcome in answer.outcomes] == [grant.grant_id for grant in grants]
    assert (await community.points_of(people[0])).points == sum(range(1, 1_001, 50))


async def test_before_there_are_rules_nothing_is_granted(community: Community) -> None:
    with pytest.raises(Conflict, match=r"points\.no_rules"):
        await community.give(await community.resident(), 5)


async def test_a_grant_to_who_has_moved_away_meanwhile_is_not_approved(community: Community) -> None:
    anna = new_id()
    household_id = await community.household(anna)
    await community.publish_rules(grant_points_max=0)
    waiting = await community.give(anna, 5)
    await community.household(household_id=household_id)
    with pytest.raises(Conflict, match=r"points\.not_a_resident"):
        await decide(community, "ApproveGrant", waiting, new_id())


async def test_who_may_not_grant_grants_nothing(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    with pytest.raises(Denied):
        await community.call("GrantPoints", request(anna, 5), "points.rules.write")


async def test_nobody_grants_to_those_they_live_with_or_approves_it(community: Community) -> None:
    anna, ben = new_id(), new_id()
    await community.household(anna, ben)
    await community.publish_rules(grant_points_max=0)
    with pytest.raises(Denied, match=r"points\.grant_to_oneself"):
        await community.call("GrantPoints", request(ben, 5), "points.grants.write", account_id=anna)
    waiting = await community.give(ben, 5)
    with pytest.raises(Denied, match=r"points\.own_grant"):
        await decide(community, "ApproveGrant", waiting, anna)
    assert (await decide(community, "ApproveGrant", waiting, await community.resident())).state == pb.GRANT_STATE_GRANTED
