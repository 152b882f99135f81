"""Points expire at the end of a calendar year, the oldest first."""

from datetime import UTC, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linli.notification.v1.events_pb2 import Notified
from linli.points.v1 import points_pb2 as pb
from servicekit.identifiers import new_id
from services.points import expiring
from services.points.expiry import last_year_expired, left_of, new_year, next_expiry
from tests.community import Town
from tests.points.arrange import Community, rule

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHANGHAI = ZoneInfo("Asia/Shanghai")


@given(moves=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.integers(0, 60)), max_size=30), years_kept=st.integers(1, 3))
async def test_what_is_left_of_old_points_is_what_lots_spent_oldest_first_would_leave(
    moves: list[tuple[int, int, int]], years_kept: int
) -> None:
    year, lots = 2020, {2020: 0}
    for step, earned, spent in moves:
        for _ in range(step):
            year += 1
            lots[year] = 0
            last_year = last_year_expired(year, years_kept)
            assert last_year is not None
            balance, later = (
                sum(lots.values()),
                {earned_in: points for earned_in, points in _earned(moves, year).items() if earned_in > last_year},
            )
            assert left_of(last_year, balance, later) == sum(points for earned_in, points in lots.items() if earned_in <= last_year)
            lots.update((earned_in, 0) for earned_in in lots if earned_in <= last_year)
        lots[year] += earned
        for earned_in in sorted(lots):
            taken = min(lots[earned_in], spent)
            lots[earned_in] -= taken
            spent -= taken
    later = {earned_in: points for earned_in, points in _earned(moves, year + 1).items() if earned_in > year - years_kept}
    oldest = min((earned_in for earned_in, points in lots.items() if points), default=None)
    expected = None if oldest is None else (lots[oldest], oldest + years_kept + 1)
    assert next_expiry(year, years_kept, sum(lots.values()), later) == expected


def _earned(moves: list[tuple[int, int, int]], before: int) -> dict[int, int]:
    """What was earned in each year before one."""
    year = 2020
    earned: dict[int, int] = {}
    for step, points, _ in moves:
        year += step
        if year < before:
            earned[year] = earned.get(year, 0) + points
    return earned


async def test_points_without_an_end_never_expire() -> None:
    assert last_year_expired(2030, 0) is None
    assert next_expiry(2030, 0, 100, {}) is None


async def test_a_year_begins_at_midnight_of_the_community() -> None:
    assert new_year(2027, SHANGHAI) == datetime(2026, 12, 31, 16, tzinfo=UTC)


async def test_what_is_left_of_the_year_before_last_expires_at_new_year_and_newer_points_stay(community: Community, points: Town) -> None:
    anna = await _prepare(community)
    await community.give(anna, 100)
    await _spend(community, anna, 30)
    points.clock.now = datetime(2027, 6, 1, tzinfo=UTC)
    await community.give(anna, 40)
    standing = await community.points_of(anna)
    assert (standing.points, standing.expiring) == (110, 70)
    assert standing.expires_at.ToDatetime(UTC) == datetime(2027, 12, 31, 16, tzinfo=UTC)
    points.clock.now = datetime(2027, 12, 31, 15, 59, tzinfo=UTC)
    await _expire(points)
    assert (await community.points_of(anna)).points == 110
    points.clock.now = datetime(2027, 12, 31, 16, 1, tzinfo=UTC)
    for _ in range(2):
        await _expire(points)
    standing = await community.points_of(anna)
    assert (standing.points, standing.expiring) == (40, 40)
    newest = (await community.entries(anna))[0]
    assert (newest.kind, newest.change, newest.rules_version, newest.text_zh) == ("expiry", -70, 1, "2026 年及以前获得的积分到期")


async def test_points_that_are_held_for_a_reservation_expire_when_it_is_given_up(community: Community, points: Town) -> None:
    anna = await _prepare(community, hold_hours=720)
    await community.give(anna, 100)
    points.clock.now = datetime(2027, 12, 31, 12, tzinfo=UTC)
    redemption = await _reserve(community, anna, 60)
    points.clock.now = datetime(2027, 12, 31, 17, tzinfo=UTC)
    await _expire(points)
    standing = await community.points_of(anna)
    assert (standing.points, standing.held) == (60, 60)
    await community.call("CancelRedemption", pb.CancelRedemptionRequest(redemption_id=redemption.redemption_id), account_id=anna)
    await _expire(points)
    assert (await community.points_of(anna)).points == 0
    assert [entry.change for entry in await community.entries(anna)] == [-60, -40, 100]


async def test_a_household_loses_what_its_members_pooled_in_time(community: Community, points: Town) -> None:
    anna = await _prepare(community)
    household_id = await community.household(anna, household_id=next(iter(community.households)))
    who = {"account_id": anna, "household": {household_id: ["points.household.read"]}}
    await community.call("SetPooling", pb.SetPoolingRequest(household_id=str(household_id), pools=True), **who)
    await community.give(anna, 100)
    points.clock.now = datetime(2027, 12, 10, tzinfo=UTC)
    await _warn(points)
    assert "100" in (await community.notified(anna, "points.expiring_soon")).message.text_zh
    points.clock.now = datetime(2028, 1, 2, tzinfo=UTC)
    await _expire(points)
    request = pb.GetHouseholdPointsRequest(household_id=str(household_id))
    assert (await community.call("GetHouseholdPoints", request, **who)).points == 0


async def test_a_household_in_which_nobody_pools_is_told_too_that_its_points_expire(community: Community, points: Town) -> None:
    await community.keep_calendar()
    await community.publish_rules([rule("waste", pb.SOURCE_WASTE_DEPOSIT, 1, 100, beneficiary=pb.BENEFICIARY_HOUSEHOLD)])
    anna, ben = new_id(), new_id()
    household_id = await community.household(anna, ben)
    await community.earned(await community.deposit(anna, 4_200))
    points.clock.now = datetime(2027, 12, 10, tzinfo=UTC)
    await _warn(points)
    for account_id in (anna, ben):
        told = (await community.notified(account_id, "points.expiring_soon")).message
        assert ("42" in told.text_zh, str(household_id) in told.link) == (True, True)


async def test_residents_are_told_once_thirty_days_before_their_points_expire(community: Community, points: Town) -> None:
    anna, ben = await _prepare(community), await community.resident()
    await community.give(anna, 100)
    points.clock.now = datetime(2027, 11, 20, tzinfo=UTC)
    await community.give(ben, 5)
    await _warn(points)
    points.clock.now = datetime(2027, 12, 2, tzinfo=UTC)
    for _ in range(2):
        await _warn(points)
    await community.notified(anna, "points.expiring_soon")
    told = [event.message.account_id for event in points.running.events(Notified) if event.message.kind == "points.expiring_soon"]
    assert told.count(str(anna)) == 1
    assert str(ben) not in told


async def test_the_rules_in_force_at_new_year_decide_and_a_change_in_the_year_takes_nobodys_points_at_once(
    community: Community, points: Town
) -> None:
    anna = await _prepare(community, years_kept=3)
    await community.give(anna, 100)
    points.clock.now = datetime(2029, 3, 1, tzinfo=UTC)
    await community.publish_rules(years_kept=1)
    await _expire(points)
    assert (await community.points_of(anna)).points == 100
    points.clock.now = datetime(2030, 1, 1, tzinfo=UTC)
    await _expire(points)
    assert (await community.points_of(anna)).points == 0


async def _prepare(community: Community, years_kept: int = 1, hold_hours: int = 48) -> UUID:
    """A resident of a community that the service knows, under rules."""
    await community.keep_calendar()
    await community.publish_rules(years_kept=years_kept, hold_hours=hold_hours, gift_daily_points_max=1_000, gift_monthly_points_max=1_000)
    return await community.resident()


async def _spend(community: Community, account_id: UUID, points: int) -> None:
    neighbour = await community.resident()
    await community.call("GiftPoints", pb.GiftPointsRequest(to_account_id=str(neighbour), points=points), account_id=account_id)


async def _reserve(community: Community, account_id: UUID, points: int) -> pb.Redemption:
    item = await community.call("CreateItem", pb.CreateItemRequest(name_zh="咖啡", points=points, stock=1))
    reserved: pb.Redemption = await community.call("Redeem", pb.RedeemRequest(item_id=item.item_id, quantity=1), account_id=account_id)
    return reserved


async def _expire(points: Town) -> None:
    await expiring.expire_points(points.running.host.running[0].call())


async def _warn(points: Town) -> None:
    await expiring.warn_of_expiry(points.running.host.running[0].call())
