"""What organisers confirm, and corrections of what was earned."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from linli.points.v1 import points_pb2 as pb
from servicekit.errors import Conflict, Denied, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.community import Town
from tests.points.arrange import Community, rule
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


def contribution(community: Community, account_id: UUID, minutes: int = 90, **more: Any) -> pb.Contribution:
    """Volunteering, now."""
    values: dict[str, Any] = {
        "contribution_id": str(new_id()),
        "source": pb.SOURCE_VOLUNTEERING,
        "account_id": str(account_id),
        "measure": minutes,
        "title": "楼道清洁",
        "occurred_at": to_timestamp(community.town.clock.now),
    }
    return pb.Contribution(**{**values, **more})


async def confirm(community: Community, *contributions: pb.Contribution) -> list[pb.Earning]:
    """What each contribution earned."""
    request = pb.ConfirmContributionsRequest(contributions=contributions)
    return list((await community.call("ConfirmContributions", request)).earnings)


async def correct(community: Community, transfer_id: str, measure: int, **who: Any) -> pb.Correction:
    request = pb.CorrectEarningRequest(transfer_id=transfer_id, reason="登记有误", measure=measure)
    correction: pb.Correction = await community.call("CorrectEarning", request, "points.earnings.correct", **who)
    return correction


async def test_hours_activities_and_surveys_earn_each_on_its_own_and_the_entry_says_which(community: Community) -> None:
    anna, ben = await community.resident(), await community.resident()
    await community.publish_rules()
    hours = contribution(community, anna)
    told = [hours, contribution(community, ben, 1, source=pb.SOURCE_ACTIVITY), contribution(community, ben, 1, source=pb.SOURCE_SURVEY)]
    earnings = await confirm(community, *told)
    assert [(each.source_id, each.points, each.reason) for each in earnings] == [
        (told[0].contribution_id, 20, ""),
        (told[1].contribution_id, 5, ""),
        (told[2].contribution_id, 0, "points.no_rule"),
    ]
    assert await confirm(community, hours) == earnings[:1]
    (entry,) = await community.entries(anna)
    assert (entry.transfer_id, entry.rule_id, entry.text_zh) == (earnings[0].transfer_id, "help", "规则help：楼道清洁")


async def test_a_contribution_is_refused_on_its_own_with_the_reason(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    now = community.town.clock.now
    known = contribution(community, anna)
    wrong = [
        contribution(community, new_id()),
        contribution(community, community.account_id),
        contribution(community, anna, occurred_at=to_timestamp(now + timedelta(hours=1))),
        contribution(community, anna, occurred_at=to_timestamp(now - timedelta(days=366))),
        contribution(community, anna, 2, source=pb.SOURCE_ACTIVITY),
        contribution(community, anna, 60, contribution_id=known.contribution_id),
    ]
    earnings = await confirm(community, known, *wrong)
    assert [each.reason.removeprefix("points.") for each in earnings] == [
        "",
        "not_a_resident",
        "own_contribution",
        "in_future",
        "too_old",
        "measure_not_one",
        "differs",
    ]
    assert all(each.text_zh and each.text_en and not each.transfer_id for each in earnings[1:])
    assert (await community.points_of(anna)).points == 20


async def test_control_characters_in_a_title_are_a_bad_request(community: Community) -> None:
    with pytest.raises(Invalid, match=r"request\.invalid"):
        await confirm(community, contribution(community, new_id(), title="a\0b"))


async def test_a_correction_takes_back_and_applies_the_same_version_of_the_rule_to_the_right_measure(
    community: Community, points: Town
) -> None:
    anna = await community.resident()
    await community.publish_rules()
    (wrong,) = await confirm(community, contribution(community, anna, 600))
    points.clock.advance(hours=1)
    await community.publish_rules([rule("help", pb.SOURCE_VOLUNTEERING, 99, 60)])
    first = await correct(community, wrong.transfer_id, 120)
    assert (first.taken_back, first.owed, first.earning.points, first.earning.rules_version) == (200, 0, 40, 1)
    second = await correct(community, first.earning.transfer_id, 60)
    assert (second.taken_back, second.earning.points) == (40, 20)
    last = await correct(community, second.earning.transfer_id, 0)
    assert (last.taken_back, last.HasField("earning")) == (20, False)
    changes = [(entry.kind, entry.change) for entry in reversed(await community.entries(anna))]
    assert changes == [
        ("earning", 200),
        ("reversal", -200),
        ("earning", 40),
        ("reversal", -40),
        ("earning", 20),
        ("reversal", -20),
    ]
    assert "登记有误" in (await community.notified(anna, "points.taken_back")).message.text_zh


async def test_what_is_corrected_after_it_was_spent_is_owed(community: Community) -> None:
    anna, ben = await community.resident(), await community.resident()
    await community.publish_rules(gift_daily_points_max=100, gift_monthly_points_max=100)
    (wrong,) = await confirm(community, contribution(community, anna, 300))
    await community.call("GiftPoints", pb.GiftPointsRequest(to_account_id=str(ben), points=90), account_id=anna)
    correction = await correct(community, wrong.transfer_id, 60)
    assert (correction.taken_back, correction.owed, correction.earning.points) == (100, 90, 20)
    standing = await community.points_of(anna)
    assert (standing.points, standing.owed) == (0, 70)


async def test_a_corrected_contribution_that_is_confirmed_again_is_the_same_one(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    hours = contribution(community, anna, 600)
    (wrong,) = await confirm(community, hours)
    right = (await correct(community, wrong.transfer_id, 60)).earning
    assert await confirm(community, hours) == [right]
    assert (await community.points_of(anna)).points == 20


async def test_a_deposit_that_was_corrected_can_still_be_withdrawn(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    deposit_id = await community.deposit(anna, 1_000)
    await correct(community, str((await community.earned(deposit_id)).transfer_id), 400)
    assert (await community.points_of(anna)).points == 4
    await community.withdraw(deposit_id, anna)

    async def is_gone() -> bool:
        return (await community.points_of(anna)).points == 0

    await eventually(is_gone)


async def test_a_grant_in_error_is_corrected_like_an_earning(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    await community.give(anna, 1_000)
    (entry,) = await community.entries(anna)
    assert (await correct(community, entry.transfer_id, 100)).earning.points == 100
    assert (await community.points_of(anna)).points == 100


async def test_nothing_is_corrected_twice_nor_by_who_earned_it_nor_from_another_community(community: Community, points: Town) -> None:
    anna = await community.resident()
    await community.publish_rules()
    (wrong,) = await confirm(community, contribution(community, anna))
    with pytest.raises(Denied, match=r"points\.own_earning"):
        await correct(community, wrong.transfer_id, 0, account_id=anna)
    with pytest.raises(NotFound, match=r"points\.earning_not_found"):
        await correct(Community(points), wrong.transfer_id, 0)
    await correct(community, wrong.transfer_id, 0)
    with pytest.raises(Conflict, match=r"points\.taken_back_already"):
        await correct(community, wrong.transfer_id, 0)
    with pytest.raises(NotFound):
        await correct(community, str(new_id()), 0)


async def test_a_correction_gives_no_more_than_was_granted_which_a_second_person_would_have_to_approve(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules(grant_points_max=100)
    await community.give(anna, 1)
    (entry,) = await community.entries(anna)
    with pytest.raises(Invalid, match=r"points\.measure"):
        await correct(community, entry.transfer_id, 1_000_000)
    assert (await community.points_of(anna)).points == 1


@pytest.mark.parametrize(("source", "measure"), [(pb.SOURCE_ACTIVITY, 2), (pb.SOURCE_SURVEY, 1_000), (pb.SOURCE_VOLUNTEERING, 1_441)])
async def test_a_correction_to_a_measure_that_no_organiser_could_confirm_is_refused(
    community: Community, source: pb.Source.ValueType, measure: int
) -> None:
    anna = await community.resident()
    rules = [rule("help", pb.SOURCE_VOLUNTEERING, 1, 1), rule("activity", pb.SOURCE_ACTIVITY, 5, 1), rule("survey", pb.SOURCE_SURVEY, 5, 1)]
    await community.publish_rules(rules)
    (earning,) = await confirm(community, contribution(community, anna, 1, source=source))
    with pytest.raises(Invalid, match=r"points\.measure"):
        await correct(community, earning.transfer_id, measure)
    assert (await community.points_of(anna)).points == earning.points


async def test_a_contribution_that_was_taken_back_says_so_when_it_is_confirmed_again(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    hours = contribution(community, anna, 60)
    (wrong,) = await confirm(community, hours)
    await correct(community, wrong.transfer_id, 0)
    (again,) = await confirm(community, hours)
    assert (again.points, again.transfer_id, again.reason) == (0, "", "points.withdrawn")


async def test_nobody_decides_on_the_points_of_those_they_live_with(community: Community) -> None:
    anna, ben = new_id(), new_id()
    await community.household(anna, ben)
    await community.publish_rules()
    hours = contribution(community, ben)
    request = pb.ConfirmContributionsRequest(contributions=[hours])
    (refused,) = (await community.call("ConfirmContributions", request, "points.contributions.confirm", account_id=anna)).earnings
    assert (refused.points, refused.reason) == (0, "points.own_contribution")
    (earned,) = await confirm(community, hours)
    with pytest.raises(Denied, match=r"points\.own_earning"):
        await correct(community, earned.transfer_id, 600, account_id=anna)
