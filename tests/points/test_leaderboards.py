"""Leaderboards: who earned most, and who is not named."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from linli.points.v1 import points_pb2 as pb
from servicekit.errors import Invalid
from servicekit.identifiers import new_id
from services.points import store
from services.points.store import DailyEarning
from tests.points.arrange import Community
from tests.points.shop import Resident, guest, resident

pytestmark = pytest.mark.asyncio(loop_scope="module")
MARCH_2 = date(2026, 3, 2)


async def earned(community: Community, *rows: tuple[UUID, int], day: date = MARCH_2, rule_id: str = "waste.recyclable") -> None:
    """Earners had these points on a day under a rule."""
    async with community.town.running.transaction("points", community.community_id) as tx:
        rows_of = [DailyEarning(community.community_id, earner_id, earner_id, rule_id, day, points) for earner_id, points in rows]
        await store.add_daily_earnings(tx, rows_of)


async def board(who: Resident, month: str = "", building_id: UUID | None = None) -> Sequence[pb.Rank]:
    request = pb.GetLeaderboardRequest(month=month, building_id=str(building_id or ""))
    return (await who.call("GetLeaderboard", request)).ranks  # type: ignore[no-any-return]


async def prefers(who: Resident, **preferences: object) -> pb.PointsPreferences:
    request = pb.UpdateMyPointsPreferencesRequest(**preferences)  # type: ignore[arg-type]
    return await who.call("UpdateMyPointsPreferences", request)  # type: ignore[no-any-return]


async def test_buildings_are_ranked_by_what_their_residents_and_households_earned_in_the_month(community: Community) -> None:
    north, south = new_id(), new_id()
    one, two = await resident(community, building_id=north), await resident(community, building_id=north)
    three = await resident(community, building_id=south)
    assert two.household_id is not None
    await earned(community, (one.account_id, 10), (two.account_id, 5), (three.account_id, 16))
    await earned(community, (two.household_id, 2))
    await earned(community, (three.account_id, 1000), day=date(2026, 2, 28))
    await earned(community, (three.account_id, 1000), day=date(2026, 4, 1))
    await earned(community, (guest(community).account_id, 500))
    ranks = [(rank.rank, rank.building_id, rank.points, rank.mine) for rank in await board(one)]
    assert ranks == [(1, str(north), 17, True), (2, str(south), 16, False)]
    assert [rank.points for rank in await board(one, "2026-02")] == [1000]
    assert [rank.mine for rank in await board(guest(community))] == [False, False]


async def test_residents_of_a_building_are_ranked_by_nickname_and_equals_share_a_rank(community: Community) -> None:
    building_id = new_id()
    residents = [await resident(community, building_id=building_id) for _ in range(4)]
    neighbour = await resident(community)
    for who, points in zip([*residents, neighbour], (5, 9, 9, 1, 100), strict=True):
        await earned(community, (who.account_id, points))
    await earned(community, (residents[0].account_id, 3), rule_id="volunteering")
    assert (await prefers(residents[0], nickname=" 小绿 ")).nickname == "小绿"
    ranks = await board(residents[3], building_id=building_id)
    assert [(rank.rank, rank.points) for rank in ranks] == [(1, 9), (1, 9), (3, 8), (4, 1)]
    assert [rank.nickname for rank in ranks] == ["", "", "小绿", ""]
    assert [rank.mine for rank in ranks] == [False, False, False, True]
    assert {rank.building_id for rank in ranks} == {""}


async def test_who_has_opted_out_is_not_listed_but_counts_for_the_building(community: Community) -> None:
    building_id = new_id()
    shy, bold = await resident(community, building_id=building_id), await resident(community, building_id=building_id)
    await earned(community, (shy.account_id, 50), (bold.account_id, 20))
    await prefers(shy, on_leaderboards=False)
    for viewer in (shy, bold):
        assert [(rank.rank, rank.points) for rank in await board(viewer, building_id=building_id)] == [(1, 20)]
        assert [rank.points for rank in await board(viewer)] == [70]
    kept = await prefers(shy, nickname="隐士")
    assert (kept.on_leaderboards, kept.nickname) == (False, "隐士")
    kept = await prefers(shy, on_leaderboards=True, nickname="")
    assert (kept.on_leaderboards, kept.nickname) == (True, "")
    assert [rank.points for rank in await board(shy, building_id=building_id)] == [50, 20]


async def test_gifts_and_what_was_taken_back_move_nobody_up(community: Community) -> None:
    await community.publish_rules(gift_daily_points_max=100, gift_monthly_points_max=100)
    building_id = new_id()
    giver, friend = await resident(community, 100, building_id=building_id), await resident(community, building_id=building_id)
    before = list(await board(giver, building_id=building_id))
    await giver.give(60, friend)
    assert list(await board(giver, building_id=building_id)) == before
    await earned(community, (friend.account_id, 30))
    await earned(community, (friend.account_id, -30))
    assert list(await board(giver, building_id=building_id)) == before


async def test_at_most_fifty_are_ranked(community: Community) -> None:
    building_id = new_id()
    account_ids = [new_id() for _ in range(60)]
    await community.household(*account_ids, building_id=building_id)
    await earned(community, *((account_id, 100 + place) for place, account_id in enumerate(account_ids)))
    ranks = await board(guest(community), building_id=building_id)
    assert [rank.points for rank in ranks] == [159 - place for place in range(50)]


async def test_the_present_month_is_the_communitys_own(community: Community) -> None:
    who = await resident(community)
    community.town.clock.now = datetime(2026, 3, 31, 16, 0, tzinfo=UTC)  # midnight in Shanghai: April
    await earned(community, (who.account_id, 7), day=date(2026, 4, 1))
    shown = await who.call("GetLeaderboard", pb.GetLeaderboardRequest())
    assert (shown.month, [rank.points for rank in shown.ranks]) == ("2026-04", [7])


async def test_a_month_that_is_none_and_a_nickname_with_control_characters_are_refused(community: Community) -> None:
    who = guest(community)
    for month in ("2026-13", "1999-12", "2200-01", "0000-01", "march"):
        with pytest.raises(Invalid):
            await board(who, month)
    with pytest.raises(Invalid):
        await board(who, building_id="x")  # type: ignore[arg-type]
    for nickname in ("x" * 21, "a\nb", "\0", " "):
        with pytest.raises(Invalid):
            await prefers(who, nickname=nickname)
