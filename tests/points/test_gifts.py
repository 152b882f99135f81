"""Gifts within their limits, and pooling by consent."""

import asyncio
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from ledger import Posting, Transfer
from linli.points.v1 import points_pb2 as pb
from servicekit.errors import Conflict, Denied, Invalid, NotFound, ServiceError
from servicekit.identifiers import new_id
from services.points import holders
from services.points.holders import Holder
from tests.community import Town
from tests.points.arrange import Community
from tests.points.shop import Resident, family, guest, item, resident
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def street(community: Community) -> Community:
    """A community where a resident gives away up to 100 points a day and 150 a month."""
    await community.publish_rules(gift_daily_points_max=100, gift_monthly_points_max=150)
    return community


async def test_a_gift_moves_points_from_one_neighbour_to_another(street: Community) -> None:
    giver, receiver = await resident(street, 100), await resident(street)
    gift = await giver.give(40, receiver, "生日快乐")
    assert (gift.points, gift.points_left) == (40, 60)
    assert ((await giver.points()).points, (await receiver.points()).points) == (60, 40)
    (given, *_), (received,) = await giver.entries(), await receiver.entries()
    assert (given.change, received.change) == (-40, 40)
    assert given.transfer_id == received.transfer_id == gift.transfer_id
    assert (received.kind, received.rule_id, received.text_zh, received.text_en) == ("gift", "gift", "积分赠送：生日快乐", "Gift: 生日快乐")
    assert "40" in (await receiver.told("points.gift_received")).text_zh


async def test_limits_of_gifts_follow_the_communitys_own_days_and_months(street: Community) -> None:
    giver, receiver = await resident(street, 1000), await resident(street)
    street.town.clock.now = datetime(2026, 3, 30, 15, 59, tzinfo=UTC)  # one minute to midnight in Shanghai
    await giver.give(60, receiver)
    with pytest.raises(Conflict) as refused:
        await giver.give(41, receiver)
    assert (refused.value.code, refused.value.details["left"]) == ("points.gift_daily_limit", "40")
    street.town.clock.advance(minutes=1)
    await giver.give(90, receiver)
    with pytest.raises(Conflict) as refused:
        await giver.give(1, receiver)
    assert refused.value.code == "points.gift_monthly_limit"
    street.town.clock.advance(days=1)
    await giver.give(100, receiver)
    assert (await receiver.points()).points == 250


async def test_many_gifts_at_once_stay_within_the_limit(street: Community) -> None:
    giver, receiver = await resident(street, 1000), await resident(street)
    answers = await asyncio.gather(*(giver.give(30, receiver) for _ in range(16)), return_exceptions=True)
    assert sum(isinstance(answer, Conflict) for answer in answers) == 13
    assert (await receiver.points()).points == 90


async def test_a_gift_that_cannot_be_is_refused_and_changes_nothing(points: Town, street: Community) -> None:
    giver, neighbour = await resident(street, 50), await resident(street)
    elsewhere = await resident(Community(points))
    cases: list[tuple[Resident, Resident, type[ServiceError], str]] = [
        (giver, giver, Denied, "points.gift_to_self"),
        (giver, guest(street), NotFound, "points.resident_not_found"),
        (giver, elsewhere, NotFound, "points.resident_not_found"),
        (neighbour, giver, Conflict, "points.insufficient"),
        (guest(street), giver, Conflict, "points.not_a_resident"),
    ]
    for who, to, kind, code in cases:
        with pytest.raises(kind) as refused:
            await who.give(10, to)
        assert refused.value.code == code
    with pytest.raises(Conflict) as refused:
        await giver.give(51, neighbour)
    assert refused.value.code == "points.insufficient"
    for request in (
        pb.GiftPointsRequest(points=1),
        pb.GiftPointsRequest(points=1, to_account_id=str(neighbour.account_id), to_household_id=str(giver.household_id)),
        pb.GiftPointsRequest(points=0, to_account_id=str(neighbour.account_id)),
        pb.GiftPointsRequest(points=-5, to_account_id=str(neighbour.account_id)),
        pb.GiftPointsRequest(points=2**62, to_account_id=str(neighbour.account_id)),
        pb.GiftPointsRequest(points=1, to_account_id=str(neighbour.account_id), message="a\0b"),
    ):
        with pytest.raises(Invalid):
            await giver.call("GiftPoints", request)
    assert ((await giver.points()).points, (await neighbour.points()).points) == (50, 0)


@pytest.mark.parametrize(("daily", "monthly"), [(0, 100), (100, 0), (None, None)])
async def test_without_a_limit_in_the_rules_there_are_no_gifts(community: Community, daily: int | None, monthly: int | None) -> None:
    if daily is not None and monthly is not None:
        await community.publish_rules(gift_daily_points_max=daily, gift_monthly_points_max=monthly)
    giver, receiver = await resident(community), await resident(community)
    with pytest.raises(Conflict) as refused:
        await giver.give(1, receiver)
    assert refused.value.code == "points.gifts_off"


async def test_what_is_held_for_a_reservation_is_not_given_away(street: Community) -> None:
    giver, receiver = await resident(street, 50), await resident(street)
    await giver.redeem(await item(street, points=30))
    with pytest.raises(Conflict):
        await giver.give(21, receiver)
    assert (await giver.give(20, receiver)).points_left == 0


async def test_a_gift_settles_what_its_receiver_owes_first(street: Community) -> None:
    giver, receiver = await resident(street, 100), await resident(street)
    holder = Holder(street.community_id, receiver.account_id)
    async with street.town.running.transaction("points", street.community_id) as tx:
        turn = await holders.take_turn(tx, [street.community_id])
        await holders.open_holders(turn, [holder])
        await holders.open_owed(turn, [holder])
        postings = (Posting(holder.owed_id, 25), Posting(holders.issued_id(street.community_id), -25))
        await turn.apply([Transfer(new_id(), street.community_id, "reversal", postings)])
    await giver.give(20, receiver)
    assert ((await receiver.points()).points, (await receiver.points()).owed) == (0, 5)
    await giver.give(20, receiver)
    assert ((await receiver.points()).points, (await receiver.points()).owed) == (15, 0)


async def test_a_gift_to_the_household_is_there_for_those_who_pool(street: Community) -> None:
    giver, other = await family(street, 100, 0)
    stranger = await resident(street, 10)
    assert giver.household_id is not None
    household = pb.SetPoolingRequest(household_id=str(giver.household_id), pools=True)
    await other.call("SetPooling", household)
    await giver.give(30, giver.household_id)
    pooled = await giver.call("GetHouseholdPoints", pb.GetHouseholdPointsRequest(household_id=str(giver.household_id)))
    assert (pooled.points, list(pooled.pooling_account_ids)) == (30, [str(other.account_id)])
    await other.told("points.gift_received")
    listed = await other.call("ListHouseholdEntries", pb.ListHouseholdEntriesRequest(household_id=str(giver.household_id)))
    assert [(entry.kind, entry.change) for entry in listed.entries] == [("gift", 30)]
    with pytest.raises(NotFound):
        await stranger.give(1, giver.household_id)


async def test_everybody_consents_to_pooling_for_themselves_and_may_withdraw(street: Community) -> None:
    one, other = await family(street, 0, 0)
    household_id = str(one.household_id)
    pooled = await one.call("SetPooling", pb.SetPoolingRequest(household_id=household_id, pools=True))
    assert list(pooled.pooling_account_ids) == [str(one.account_id)]
    assert ((await one.points()).pooling, (await other.points()).pooling) == (True, False)
    await other.call("SetPooling", pb.SetPoolingRequest(household_id=household_id, pools=True))
    pooled = await one.call("SetPooling", pb.SetPoolingRequest(household_id=household_id, pools=False))
    assert list(pooled.pooling_account_ids) == [str(other.account_id)]
    assert not (await one.points()).pooling


async def test_who_moves_out_pools_no_more(street: Community) -> None:
    one, other = await family(street, 0, 0)
    assert one.household_id is not None
    for member in (one, other):
        await member.call("SetPooling", pb.SetPoolingRequest(household_id=str(one.household_id), pools=True))
    await street.household(other.account_id, household_id=one.household_id)

    async def moved_out() -> bool:
        return not (await one.points()).pooling

    await eventually(moved_out)
    pooled = await other.call("GetHouseholdPoints", pb.GetHouseholdPointsRequest(household_id=str(one.household_id)))
    assert list(pooled.pooling_account_ids) == [str(other.account_id)]


async def test_nobody_pools_for_a_household_that_is_not_theirs_or_looks_into_it(points: Town, street: Community) -> None:
    stranger, (member,) = await resident(street), await family(street, 0)
    household_id = str(member.household_id)
    for method, request in {
        "SetPooling": pb.SetPoolingRequest(household_id=household_id, pools=True),
        "GetHouseholdPoints": pb.GetHouseholdPointsRequest(household_id=household_id),
        "ListHouseholdEntries": pb.ListHouseholdEntriesRequest(household_id=household_id),
    }.items():
        with pytest.raises(NotFound):
            await stranger.call(method, request)
        # Staff of another community, whose permission covers all of theirs.
        with pytest.raises(NotFound):
            await Community(points).call(method, request, "points.household.read")
    # Staff may look, but do not live there.
    await street.call("GetHouseholdPoints", pb.GetHouseholdPointsRequest(household_id=household_id), "points.household.read")
    with pytest.raises(NotFound):
        await street.call("SetPooling", pb.SetPoolingRequest(household_id=household_id, pools=True), "points.household.read")
