"""Publishing the rules, and reading them."""

from datetime import timedelta

import pytest

from linli.points.v1 import points_pb2 as pb
from linli.waste.v1.events_pb2 import CATEGORY_KITCHEN
from servicekit.errors import Conflict, Denied, Invalid, NotFound
from servicekit.identifiers import new_id
from tests.community import Town
from tests.points.arrange import RULES, Community, rule

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_residents_read_the_rules_in_force_and_every_version_with_what_it_changed(community: Community, points: Town) -> None:
    anna = new_id()
    with pytest.raises(NotFound, match=r"points\.no_rules"):
        await community.call("GetRules", pb.GetRulesRequest(), account_id=anna)
    first = await community.publish_rules()
    later = await community.publish_rules(
        [rule("waste", pb.SOURCE_WASTE_DEPOSIT, 2, 100)], effective_from=points.clock.now + timedelta(days=7)
    )
    assert (first.version, later.version, later.published_by) == (1, 2, str(community.account_id))
    assert list(first.rules) == list(RULES)
    assert (first.terms.years_kept, first.terms.hold_hours) == (1, 48)
    assert await community.call("GetRules", pb.GetRulesRequest(), account_id=anna) == first
    assert await community.call("GetRules", pb.GetRulesRequest(version=2), account_id=anna) == later
    points.clock.advance(days=7)
    assert await community.call("GetRules", pb.GetRulesRequest(), account_id=anna) == later
    newest = await community.call("ListRuleBooks", pb.ListRuleBooksRequest(page_size=1), account_id=anna)
    older = await community.call("ListRuleBooks", pb.ListRuleBooksRequest(page_token=newest.next_page_token), account_id=anna)
    assert [*newest.rule_books, *older.rule_books] == [later, first]
    assert newest.rule_books[0].changes_zh == "新规则"


async def test_rules_are_published_in_order_and_never_for_the_past(community: Community, points: Town) -> None:
    now = points.clock.now
    with pytest.raises(Invalid, match=r"points\.rules_in_the_past"):
        await community.publish_rules(effective_from=now - timedelta(minutes=2))
    with pytest.raises(Invalid, match=r"points\.rules_too_far"):
        await community.publish_rules(effective_from=now.replace(year=2072))
    await community.publish_rules(effective_from=now + timedelta(days=2))
    for days in (1, 2):
        with pytest.raises(Conflict, match=r"points\.rules_order"):
            await community.publish_rules(effective_from=now + timedelta(days=days))
    assert (await community.publish_rules(effective_from=now + timedelta(days=3))).version == 2


async def test_rules_that_contradict_themselves_are_refused_field_by_field(community: Community) -> None:
    wrong = [RULES[0], RULES[0], rule("grant", pb.SOURCE_SURVEY, 1, 2), rule("walk", pb.SOURCE_WALKING, 1, 1, category=CATEGORY_KITCHEN)]
    with pytest.raises(Invalid, match=r"points\.rules_invalid") as refused:
        await community.publish_rules(wrong)
    assert [violation.field for violation in refused.value.fields] == [
        "rules[1].rule_id",
        "rules[1].source",
        "rules[2].rule_id",
        "rules[2].per",
        "rules[3].category",
    ]
    with pytest.raises(Invalid, match=r"request\.invalid"):
        await community.publish_rules([pb.Rule(rule_id="Bad name")])


async def test_who_may_not_write_rules_publishes_none_and_nobody_sees_another_communitys(community: Community, points: Town) -> None:
    await community.publish_rules()
    request = pb.PublishRulesRequest(effective_from=None, rules=RULES, terms=pb.Terms(hold_hours=1), changes_zh="新")
    with pytest.raises(Denied):
        await community.call("PublishRules", request, "points.grants.write")
    with pytest.raises(NotFound):
        await Community(points).call("GetRules", pb.GetRulesRequest(version=1))
