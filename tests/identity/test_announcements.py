"""What other services hear of communities, households and staff: every change, and everything again before the streams forget it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from linli.identity.v1 import identity_pb2 as pb
from linli.identity.v1.events_pb2 import CommunityChanged, HouseholdChanged, StaffChanged
from servicekit.database import PLATFORM
from servicekit.errors import Conflict
from servicekit.events import Received
from services.identity import operations
from services.identity.store import PLATFORM_COMMUNITY
from tests.identity.arrange import Community, Town, account_id_of, new_phone, town
from tests.support import Servers, TestClock, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
# As rows are that were there before others could hear of them.
NEVER_TOLD = "UPDATE households SET told_at = '-infinity'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clock() -> TestClock:
    return TestClock()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def identity(servers: Servers, clock: TestClock, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """Identity with a clock that stands still until it is moved."""
    async with town(servers, tmp_path_factory.mktemp("identity"), clock) as running:
        yield running


def heard(community: Community, household_id: str) -> list[Received[HouseholdChanged]]:
    """What was told of a household, in order."""
    return [event for event in community.town.running.events(HouseholdChanged) if event.aggregate == household_id]


async def told_again(identity: Town) -> None:
    """What the timer does."""
    async with identity.running.transaction("identity", PLATFORM) as tx:
        await operations.tell_again(tx)


async def test_everybody_hears_who_lives_in_a_household_whenever_that_changes(community: Community) -> None:
    building_id = await community.building("1栋")
    request = pb.CreateHouseholdRequest(unit_id=await community.unit(building_id))
    household = await community.manager.call("CreateHousehold", request)
    owner = await community.member(household.household_id)
    family = await community.member(household.household_id, pb.MEMBER_KIND_FAMILY)
    one, other = str(account_id_of(owner)), str(account_id_of(family))
    await community.manager.call("RemoveMember", pb.RemoveMemberRequest(household_id=household.household_id, account_id=one))
    await community.town.running.event(HouseholdChanged, lambda e: e.aggregate == household.household_id and e.version == 4)
    events = heard(community, household.household_id)
    assert [event.version for event in events] == [1, 2, 3, 4]
    assert [list(event.message.account_ids) for event in events] == [[], [one], sorted([one, other]), [other]]
    assert {event.message.building_id for event in events} == {building_id}


async def test_an_addition_that_fails_is_not_told(community: Community) -> None:
    household_id = await community.household("1栋")
    owner = await community.member(household_id)
    request = pb.AddMemberRequest(household_id=household_id, phone=owner.phone, name="张三", kind=pb.MEMBER_KIND_TENANT)
    with pytest.raises(Conflict):
        await community.manager.call("AddMember", request)
    newcomer = pb.AddMemberRequest(household_id=household_id, phone=new_phone(), name="李四", kind=pb.MEMBER_KIND_FAMILY)
    await community.manager.call("AddMember", newcomer)
    await community.town.running.event(HouseholdChanged, lambda e: e.aggregate == household_id and e.version == 3)
    assert [event.version for event in heard(community, household_id)] == [1, 2, 3]


async def test_what_was_not_told_for_five_days_is_told_again_as_it_is(identity: Town, clock: TestClock) -> None:
    await identity.operator()
    community = await identity.community()
    quiet, busy = await community.household("1栋"), await community.household("2栋")
    owner = await community.member(quiet)
    clock.advance(days=4)
    await identity.running.event(HouseholdChanged, lambda e: e.aggregate == quiet and e.version == 2)
    manager = await identity.sign_in(community.community_id, community.manager.phone)
    await manager.call("AddMember", pb.AddMemberRequest(household_id=busy, phone=new_phone(), name="人", kind=pb.MEMBER_KIND_OWNER))
    await told_again(identity)
    clock.advance(days=1, seconds=1)
    await told_again(identity)
    again = await identity.running.event(HouseholdChanged, lambda e: e.aggregate == quiet and e.occurred_at == clock.now)
    assert (again.version, list(again.message.account_ids)) == (2, [str(account_id_of(owner))])
    whole = await identity.running.event(CommunityChanged, lambda e: e.aggregate == community.community_id and e.occurred_at == clock.now)
    assert (whole.version, whole.community_id, whole.message.name) == (1, again.community_id, "柳营小区")
    await told_again(identity)
    assert [event.version for event in heard(community, quiet)] == [1, 2, 2]
    assert [event.version for event in heard(community, busy)] == [1, 2]
    assert all(event.community_id != PLATFORM_COMMUNITY for event in identity.running.events(CommunityChanged))


async def test_households_of_before_others_could_hear_are_told_some_at_a_time(
    identity: Town, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    communities = [await identity.community() for _ in range(2)]
    ids = [await community.household(f"{number}栋") for community in communities for number in range(3)]
    async with identity.running.transaction("identity", PLATFORM) as tx:
        await tx.execute(NEVER_TOLD)
    clock.advance(seconds=1)
    monkeypatch.setattr(operations, "TOLD_AT_ONCE", 2)

    async def told() -> set[str]:
        return {event.aggregate for event in identity.running.events(HouseholdChanged) if event.occurred_at == clock.now}

    await told_again(identity)

    async def two_are_told() -> bool:
        return len(await told()) == 2

    async def all_are_told() -> bool:
        await told_again(identity)
        return set(ids) <= await told()

    await eventually(two_are_told)
    await eventually(all_are_told)


async def test_everybody_hears_which_roles_somebody_holds_for_the_whole_community(community: Community) -> None:
    phone, building_id = new_phone(), await community.building("1栋")
    grants = [
        await community.manager.call("GrantRole", pb.GrantRoleRequest(phone=phone, name="王工", role=role, building_id=building))
        for role, building in (("technician", ""), ("property_clerk", building_id), ("foreman", ""))
    ]
    for grant in grants:
        await community.manager.call("RevokeRole", pb.RevokeRoleRequest(role_grant_id=grant.role_grant_id))
    account_id = grants[0].account.account_id
    await community.town.running.event(StaffChanged, lambda e: e.aggregate == account_id and e.version == 4)
    events = [event for event in community.town.running.events(StaffChanged) if event.aggregate == account_id]
    told = [["technician"], ["foreman", "technician"], ["foreman"], []]
    assert [(event.version, list(event.message.roles)) for event in events] == list(enumerate(told, start=1))
    assert {str(event.community_id) for event in events} == {community.community_id}


async def test_the_first_manager_is_told_and_a_grant_that_fails_is_not(community: Community) -> None:
    manager_id = str(account_id_of(community.manager))
    request = pb.GrantRoleRequest(phone=community.manager.phone, name="王经理", role="property_manager")
    with pytest.raises(Conflict):
        await community.manager.call("GrantRole", request)
    request.role = "foreman"
    await community.manager.call("GrantRole", request)
    told = await community.town.running.event(StaffChanged, lambda e: e.aggregate == manager_id and e.version == 2)
    assert list(told.message.roles) == ["foreman", "property_manager"]
    first = await community.town.running.event(StaffChanged, lambda e: e.aggregate == manager_id)
    assert (first.version, list(first.message.roles)) == (1, ["property_manager"])


async def test_staff_of_before_others_could_hear_are_told_and_all_are_told_again(identity: Town, clock: TestClock) -> None:
    await identity.operator()
    community = await identity.community()
    manager_id = str(account_id_of(community.manager))
    async with identity.running.transaction("identity", PLATFORM) as tx:
        await tx.execute("DELETE FROM staff")
    clock.advance(seconds=1)
    await told_again(identity)
    first = await identity.running.event(StaffChanged, lambda e: e.aggregate == manager_id and e.occurred_at == clock.now)
    assert (first.version, list(first.message.roles)) == (1, ["property_manager"])
    await told_again(identity)
    clock.advance(days=5, seconds=1)
    await told_again(identity)
    again = await identity.running.event(StaffChanged, lambda e: e.aggregate == manager_id and e.occurred_at == clock.now)
    assert (again.version, str(again.community_id), list(again.message.roles)) == (1, community.community_id, ["property_manager"])
    assert all(event.community_id != PLATFORM_COMMUNITY for event in identity.running.events(StaffChanged))
