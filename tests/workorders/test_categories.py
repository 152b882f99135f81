"""Categories, what they promise, and the terms of service."""

from typing import Any

import pytest

from linli.workorders.v1 import workorders_pb2 as pb
from servicekit.errors import Conflict, Invalid, NotFound, ServiceError
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.workorders.arrange import MONDAY_10, Community

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_order_takes_its_promises_and_its_skill_from_the_nearest_category_that_has_them(community: Community) -> None:
    await community.terms()
    urgent = pb.Targets(priority=pb.PRIORITY_URGENT, response_minutes=5, on_site_minutes=30, done_minutes=240, round_the_clock=True)
    water = await community.category("water", skill="plumbing", targets=[urgent], default_priority=pb.PRIORITY_URGENT)
    leak = await community.category("water.leak", parent_id=water)
    drip = await community.category("water.leak.drip", parent_id=leak, default_priority=pb.PRIORITY_LOW)
    reporter, plumber, other = await community.resident(), await community.technician("plumbing"), await community.technician("locks")
    order = await reporter.report(leak)
    assert order.priority == pb.PRIORITY_URGENT
    assert order.on_site_due_at == to_timestamp(MONDAY_10.replace(minute=30))
    assert order.technician_account_id == str(plumber.account_id)
    slow = await reporter.report(drip)
    assert (slow.priority, slow.HasField("done_due_at")) == (pb.PRIORITY_LOW, False)
    assert slow.response_due_at == to_timestamp(MONDAY_10.replace(minute=15))
    assert "offered" not in await other.notices()
    tree = (await reporter.call("ListCategories", pb.ListCategoriesRequest())).categories
    assert [(each.code, each.parent_id, each.skill) for each in tree] == [
        ("water", "", "plumbing"),
        ("water.leak", water, ""),
        ("water.leak.drip", leak, ""),
    ]
    assert [each.default_priority for each in tree] == [pb.PRIORITY_URGENT, pb.PRIORITY_URGENT, pb.PRIORITY_LOW]


async def test_a_category_changes_by_what_is_given_and_out_of_use_takes_no_orders(community: Community) -> None:
    targets = [pb.Targets(priority=pb.PRIORITY_NORMAL, response_minutes=15), pb.Targets(priority=pb.PRIORITY_LOW, response_minutes=60)]
    root = await community.category("locks", targets=targets)
    child = await community.category("locks.lost", parent_id=root)
    change = pb.UpdateCategoryRequest(category_id=root, name_en="Locks", targets=[pb.Targets(priority=pb.PRIORITY_LOW, response_minutes=0)])
    changed = await community.call("UpdateCategory", change)
    assert (changed.name_en, changed.in_use, changed.code) == ("Locks", True, "locks")
    assert [(each.priority, each.response_minutes) for each in changed.targets] == [(pb.PRIORITY_NORMAL, 15), (pb.PRIORITY_LOW, 0)]
    await community.call("UpdateCategory", pb.UpdateCategoryRequest(category_id=root, in_use=False))
    reporter = await community.resident()
    for category in (root, child):
        with pytest.raises(Conflict) as refused:
            await reporter.report(category)
        assert refused.value.code == "workorders.category_out_of_use"


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"code": "taken"}, Conflict, "workorders.category_exists"),
        ({"code": "Taken"}, Invalid, "request.invalid"),
        ({"parent_id": str(new_id())}, NotFound, "workorders.category_unknown"),
        ({"name_zh": " "}, Invalid, "request.invalid"),
        (
            {"targets": [pb.Targets(priority=pb.PRIORITY_LOW), pb.Targets(priority=pb.PRIORITY_LOW, done_minutes=1)]},
            Invalid,
            "workorders.targets_alike",
        ),
    ],
)
async def test_a_category_that_cannot_be_is_refused(
    community: Community, fields: dict[str, Any], error: type[ServiceError], code: str
) -> None:
    await community.category("taken")
    with pytest.raises(error) as refused:
        await community.category(**{"code": "free", **fields})
    assert refused.value.code == code


async def test_a_tree_has_four_levels(community: Community) -> None:
    parent = ""
    for level in range(4):
        parent = await community.category(f"level{level}", parent_id=parent)
    with pytest.raises(Conflict) as refused:
        await community.category("level4", parent_id=parent)
    assert refused.value.code == "workorders.category_too_deep"


async def test_terms_are_the_usual_ones_until_somebody_sets_them(community: Community) -> None:
    guest = await community.resident()
    usual = await guest.call("GetService", pb.GetServiceRequest())
    assert (len(usual.working_hours), usual.reopen_days) == (7, 7)
    assert list(usual.escalation_roles) == ["foreman", "property_manager", "residents_committee_member"]
    hours = [pb.WorkingHours(weekday=1, from_minute=540, until_minute=1080)]
    for days in (3, 4):
        await community.terms(working_hours=hours, follows_holidays=True, escalation_roles=["foreman"], offer_s=60, reopen_days=days)
    expected = pb.ServiceTerms(working_hours=hours, follows_holidays=True, escalation_roles=["foreman"], offer_s=60, reopen_days=4)
    assert await guest.call("GetService", pb.GetServiceRequest()) == expected


async def test_hours_that_end_before_they_begin_are_refused_by_their_place(community: Community) -> None:
    hours = [pb.WorkingHours(weekday=1, from_minute=540, until_minute=1080), pb.WorkingHours(weekday=2, from_minute=600, until_minute=600)]
    with pytest.raises(Invalid) as refused:
        await community.terms(working_hours=hours)
    assert [(field.field, field.code) for field in refused.value.fields] == [("working_hours[1].until_minute", "workorders.hours_inverted")]
    with pytest.raises(Invalid) as unseen:
        await community.terms(escalation_roles=["foreman", "\t"])
    assert [field.field for field in unseen.value.fields] == ["escalation_roles[1]"]
