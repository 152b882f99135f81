"""How well promises are kept, by category and by team."""

from datetime import timedelta
from typing import Any

import pytest

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.errors import Invalid
from tests.workorders.arrange import MONDAY_10, Community, Person, passes, promising

pytestmark = pytest.mark.asyncio(loop_scope="module")
WEEK = {"from_day": "2026-03-02", "until_day": "2026-03-08"}


async def figures(community: Community, by: Any = pb.FIGURES_BY_CATEGORY, **days: str) -> dict[str, pb.GroupFigures]:
    answer = await community.call("GetOrderFigures", pb.GetOrderFiguresRequest(by=by, **(WEEK | days)))
    return {group.group_id: group for group in answer.groups}


async def finished(plumber: Person, order: pb.Order, *, accepted_after: int, done_after: int) -> pb.Order:
    """An order that was accepted and done so many minutes after its report."""
    plumber.community.clock.now = MONDAY_10 + timedelta(minutes=accepted_after)
    order = await plumber.accept(order)
    plumber.community.clock.now = MONDAY_10 + timedelta(minutes=done_after)
    return await plumber.finish(order)


async def test_figures_tell_how_long_it_took_and_what_was_kept(community: Community) -> None:
    await community.terms(escalation_roles=["foreman"])
    reporter, plumber = await community.resident(), await community.technician()
    leak = await community.category("leak", **promising(response_minutes=15, on_site_minutes=30, done_minutes=60))
    lock = await community.category("lock", **promising(response_minutes=15))
    quick, slow, waiting = [await reporter.report(leak) for _ in range(3)]
    await finished(plumber, quick, accepted_after=5, done_after=20)
    await passes(community, slow, until=MONDAY_10 + timedelta(minutes=20), warned=1, missed=1)
    await finished(plumber, slow, accepted_after=20, done_after=50)
    await passes(community, waiting, until=MONDAY_10 + timedelta(minutes=50), warned=3, missed=2)
    await reporter.report(lock)
    found = (await figures(community))[leak]
    assert (found.reported, found.open) == (3, 1)
    assert (found.response_s_p50, found.response_s_p90) == (300, 1200)
    assert (found.done_s_p50, found.done_s_p90) == (1200, 3000)
    # Two responses of three were missed: the slow one, and the one that nobody has accepted. The third is not done, and its time not over.
    assert (found.response_within_permille, found.on_site_within_permille, found.done_within_permille) == (333, 333, 1000)
    assert found.oldest_open_s == 50 * 60
    assert (found.reopened_permille, found.stars_hundredths) == (0, -1)
    other = (await figures(community))[lock]
    assert (other.reported, other.response_s_p50, other.done_within_permille, other.reopened_permille) == (1, -1, -1, -1)


async def test_an_order_that_came_back_counts_as_reopened_and_its_first_response_stays(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    category = await community.category(**promising(response_minutes=15))
    for bad in (True, False):
        community.clock.now = MONDAY_10
        order = await finished(plumber, await reporter.report(category), accepted_after=5, done_after=20)
        if bad:
            await reporter.call("ReopenOrder", pb.ReopenOrderRequest(order_id=order.order_id, reason="还在漏"))
    found = (await figures(community))[category]
    assert (found.reported, found.open, found.reopened_permille) == (2, 1, 500)
    assert (found.response_s_p90, found.done_s_p90) == (300, 1200)


async def test_what_was_not_promised_is_neither_kept_nor_missed(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    category = await community.category(**promising(response_minutes=0, done_minutes=60))
    await finished(plumber, await reporter.report(category), accepted_after=5, done_after=20)
    found = (await figures(community))[category]
    assert (found.response_s_p50, found.done_s_p50) == (300, 1200)
    assert (found.response_within_permille, found.on_site_within_permille, found.done_within_permille) == (-1, -1, 1000)


async def test_by_team_the_work_is_whose_it_was_and_what_is_open_is_told_whenever_it_was_reported(community: Community) -> None:
    reporter, plumber = await community.resident(), await community.technician()
    category = await community.category()
    await finished(plumber, await reporter.report(category), accepted_after=5, done_after=20)
    await plumber.accept(await reporter.report(category))
    by_team = await figures(community, pb.FIGURES_BY_TEAM)
    assert (by_team[community.team_id].reported, by_team[community.team_id].open) == (2, 1)
    later = await figures(community, pb.FIGURES_BY_TEAM, from_day="2026-03-03", until_day="2026-03-03")
    assert (later[community.team_id].reported, later[community.team_id].open, later[community.team_id].done_s_p50) == (0, 1, -1)


async def test_days_are_the_communitys_own(community: Community) -> None:
    category = await community.category()
    # Half past eleven in the evening of the second of March, and half an hour after midnight.
    for hours in (13.5, 14.5):
        community.clock.now = MONDAY_10 + timedelta(hours=hours)
        await community.manager.report(category, household_id="")
    one_day = await figures(community, until_day="2026-03-02")
    assert one_day[category].reported == 1
    assert one_day[category].open == 2


async def test_the_table_is_the_same_and_no_name_in_it_is_a_formula(community: Community) -> None:
    category = await community.category("leak", name_zh="=cmd()", name_en="Leaks")
    await community.manager.report(category, household_id="")
    request = pb.DownloadOrderFiguresRequest(by=pb.FIGURES_BY_CATEGORY, **WEEK)
    body = await community.call("DownloadOrderFigures", request)
    assert body.content_type.startswith("text/csv")
    header, line = body.data.decode("utf-8-sig").splitlines()
    assert header.startswith("编号 Id,名称,Name,报单 Reported")
    assert line.startswith(f"{category},'=cmd(),Leaks,1,,,,,")


@pytest.mark.parametrize(
    "days",
    [
        {"from_day": "2026-03-09"},
        {"from_day": "2025-03-01", "until_day": "2026-03-02"},
        {"from_day": "2026-02-30"},
        {"until_day": "9999-01-01"},
    ],
)
async def test_days_that_cannot_be_are_refused(community: Community, days: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        await figures(community, **days)
