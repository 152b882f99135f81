"""Communities, buildings, units, households and their people, through the API."""

import asyncio
import base64
from datetime import UTC, datetime
from uuid import UUID

import pytest

from linli.identity.v1 import identity_pb2 as pb
from linli.identity.v1.events_pb2 import CommunityChanged
from servicekit.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from services.identity.operations import HOUSEHOLDS_PER_ACCOUNT_MAX, MEMBERS_MAX
from tests.identity.arrange import Community, Town, account_id_of, new_phone

pytestmark = pytest.mark.asyncio(loop_scope="module")


def creation(**changed: object) -> pb.CreateCommunityRequest:
    """A request that is right but for what is changed."""
    right = {
        "name": "柳营小区",
        "time_zone": "Asia/Shanghai",
        "modules": ["parking", "billing"],
        "manager_phone": new_phone(),
        "manager_name": "王经理",
    }
    return pb.CreateCommunityRequest(**{**right, **changed})  # type: ignore[arg-type]


async def test_an_operator_creates_a_community_whose_manager_then_signs_in(identity: Town) -> None:
    operator, request = await identity.operator(), creation()
    created = await operator.call("CreateCommunity", request)
    assert (created.name, created.time_zone, list(created.modules), created.version) == (
        "柳营小区",
        "Asia/Shanghai",
        ["billing", "parking"],
        1,
    )
    manager = await identity.sign_in(created.community_id, request.manager_phone)
    me = await manager.call("GetMe", pb.GetMeRequest())
    assert (me.account.name, [grant.role for grant in me.roles]) == ("王经理", ["property_manager"])
    assert await manager.call("GetCommunity", pb.GetCommunityRequest()) == created
    event = await identity.running.event(CommunityChanged, lambda e: e.aggregate == created.community_id)
    assert (event.version, event.community_id, list(event.message.modules)) == (1, UUID(created.community_id), ["billing", "parking"])


async def test_the_same_idempotency_key_creates_one_community(identity: Town) -> None:
    operator, request = await identity.operator(), creation()
    first = await operator.call("CreateCommunity", request, idempotency_key="once")
    assert await operator.call("CreateCommunity", request, idempotency_key="once") == first
    with pytest.raises(Conflict) as error:
        await operator.call("CreateCommunity", creation(name="别的小区"), idempotency_key="once")
    assert error.value.code == "request.idempotency_key_reused"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"time_zone": "Asia/Nowhere"}, "time_zone"),
        ({"time_zone": "../etc/passwd"}, "time_zone"),
        ({"time_zone": "Asia"}, "time_zone"),
        ({"modules": ["parking", "teleport"]}, "modules[1]"),
        ({"modules": ["parking", "parking"]}, "modules"),
        ({"name": "  "}, "name"),
        ({"name": "柳营\x00小区"}, "name"),
        ({"manager_name": "\n"}, "manager_name"),
        ({"manager_phone": "12345678901"}, "manager_phone"),
        ({"manager_phone": "1381234567"}, "manager_phone"),
    ],
)
async def test_a_community_that_makes_no_sense_is_refused_with_the_field_that_is_wrong(
    identity: Town, changed: dict[str, object], field: str
) -> None:
    operator = await identity.operator()
    with pytest.raises(Invalid) as error:
        await operator.call("CreateCommunity", creation(**changed))
    assert [violation.field for violation in error.value.fields] == [field]


async def test_a_manager_changes_the_community_and_everybody_hears_of_it(identity: Town, community: Community) -> None:
    manager = community.manager
    request = pb.UpdateCommunityRequest(name="新柳营", modules=pb.Modules(names=["points", "parking"]))
    changed = await manager.call("UpdateCommunity", request)
    assert (changed.name, changed.time_zone, list(changed.modules), changed.version) == (
        "新柳营",
        "Asia/Shanghai",
        ["parking", "points"],
        2,
    )
    event = await identity.running.event(CommunityChanged, lambda e: e.aggregate == community.community_id and e.version == 2)
    assert (event.message.name, list(event.message.modules)) == ("新柳营", ["parking", "points"])
    emptied = await manager.call("UpdateCommunity", pb.UpdateCommunityRequest(modules=pb.Modules(), time_zone="Asia/Urumqi"))
    assert (list(emptied.modules), emptied.time_zone, emptied.version) == ([], "Asia/Urumqi", 3)


async def test_a_change_that_changes_nothing_makes_no_version(community: Community) -> None:
    same = pb.UpdateCommunityRequest(time_zone="Asia/Shanghai", modules=pb.Modules(names=["parking"]))
    assert (await community.manager.call("UpdateCommunity", same)).version == 1
    assert (await community.manager.call("UpdateCommunity", pb.UpdateCommunityRequest())).version == 1


async def test_changes_at_the_same_time_get_versions_of_their_own(community: Community) -> None:
    requests = [pb.UpdateCommunityRequest(name=f"小区{number}") for number in range(6)]
    answers = await asyncio.gather(*(community.manager.call("UpdateCommunity", request) for request in requests))
    assert sorted(answer.version for answer in answers) == [2, 3, 4, 5, 6, 7]


async def test_an_unknown_module_cannot_be_switched_on(community: Community) -> None:
    with pytest.raises(Invalid) as error:
        await community.manager.call("UpdateCommunity", pb.UpdateCommunityRequest(modules=pb.Modules(names=["rockets"])))
    assert [violation.field for violation in error.value.fields] == ["modules.names[0]"]


async def test_anybody_may_list_the_communities_to_sign_in_to_by_name_and_page(identity: Town) -> None:
    await identity.operator()
    ids = {await identity.found(name=f"zz小区{number}") for number in range(3)}
    listed, token = [], ""
    while True:
        answer = await identity.nobody().call("ListCommunities", pb.ListCommunitiesRequest(page_size=2, page_token=token))
        assert len(answer.communities) <= 2
        listed += answer.communities
        token = answer.next_page_token
        if not token:
            break
    assert ids <= {entry.community_id for entry in listed}
    assert [entry.name for entry in listed] == sorted(entry.name for entry in listed)
    assert "Linli" not in {entry.name for entry in listed}
    assert len({entry.community_id for entry in listed}) == len(listed)


async def test_buildings_and_units_are_listed_by_name_and_page(community: Community) -> None:
    for name in ("3栋", "1栋", "2栋"):
        await community.building(name)
    first = await community.manager.call("ListBuildings", pb.ListBuildingsRequest(page_size=2))
    second = await community.manager.call("ListBuildings", pb.ListBuildingsRequest(page_size=2, page_token=first.next_page_token))
    assert [b.name for b in first.buildings] + [b.name for b in second.buildings] == ["1栋", "2栋", "3栋"]
    assert not second.next_page_token
    building_id = first.buildings[0].building_id
    for label in ("302", "101", "201"):
        await community.unit(building_id, label)
    units = await community.manager.call("ListUnits", pb.ListUnitsRequest(building_id=building_id, page_size=2))
    rest = await community.manager.call(
        "ListUnits", pb.ListUnitsRequest(building_id=building_id, page_size=2, page_token=units.next_page_token)
    )
    assert [unit.label for unit in (*units.units, *rest.units)] == ["101", "201", "302"]
    assert {unit.exclusive_area_cm2 for unit in units.units} == {891_200}


async def test_two_buildings_or_units_of_one_name_are_a_conflict(community: Community) -> None:
    building_id = await community.building("1栋")
    with pytest.raises(Conflict) as error:
        await community.building("1栋")
    assert error.value.code == "identity.building_exists"
    await community.unit(building_id, "101")
    with pytest.raises(Conflict) as error:
        await community.unit(building_id, "101")
    assert error.value.code == "identity.unit_exists"
    await community.unit(await community.building("2栋"), "101")


def token_of(json: bytes) -> str:
    """A page token that somebody made up."""
    return base64.urlsafe_b64encode(json).decode().rstrip("=")


MADE_UP = ["@@@", "门", token_of(b"nonsense"), token_of(b"123"), token_of(b'{"a":1}'), token_of(b'"a\\u0000b"'), token_of(b'"\\ud800"')]


@pytest.mark.parametrize("token", MADE_UP)
@pytest.mark.parametrize("method", ["ListCommunities", "ListBuildings", "ListHouseholds", "ListRoleGrants"])
async def test_a_page_token_that_we_did_not_make_is_refused(community: Community, method: str, token: str) -> None:
    request = getattr(pb, f"{method}Request")(page_token=token)
    with pytest.raises(Invalid):
        await community.manager.call(method, request)


@pytest.mark.parametrize("area", [0, -1, 1_000_000_001])
async def test_a_unit_without_a_sensible_area_is_refused(community: Community, area: int) -> None:
    building_id = await community.building("1栋")
    with pytest.raises(Invalid):
        await community.manager.call("CreateUnit", pb.CreateUnitRequest(building_id=building_id, label="1", exclusive_area_cm2=area))


async def test_a_household_has_members_under_the_names_that_it_uses(community: Community) -> None:
    household_id = await community.household("1栋")
    owner = await community.member(household_id, pb.MEMBER_KIND_OWNER, "张三")
    await community.manager.call("GrantRole", pb.GrantRoleRequest(phone=owner.phone, name="张三丰", role="property_clerk"))
    found = await owner.call("GetHousehold", pb.GetHouseholdRequest(household_id=household_id))
    (member,) = found.members
    assert (member.account.name, member.kind) == ("张三", pb.MEMBER_KIND_OWNER)
    assert member.account.phone_masked == f"{owner.phone[:3]}****{owner.phone[7:]}"
    assert member.account.account_id == str(account_id_of(owner))


async def test_adding_a_phone_does_not_tell_whose_it_is(community: Community) -> None:
    stranger = await community.staff("property_clerk", name="陈会计")
    household_id = await community.household("1栋")
    owner = await community.member(household_id)
    request = pb.AddMemberRequest(household_id=household_id, phone=stranger.phone, name="某人", kind=pb.MEMBER_KIND_FAMILY)
    household = await owner.call("AddMember", request)
    assert "陈会计" not in str(household)
    me = await stranger.call("GetMe", pb.GetMeRequest())
    assert me.account.name == "陈会计"


async def test_households_are_listed_newest_first(community: Community) -> None:
    ids = [await community.household(f"{number}栋") for number in range(3)]
    first = await community.manager.call("ListHouseholds", pb.ListHouseholdsRequest(page_size=2))
    second = await community.manager.call("ListHouseholds", pb.ListHouseholdsRequest(page_size=2, page_token=first.next_page_token))
    assert [h.household_id for h in (*first.households, *second.households)] == ids[::-1]


async def test_an_owner_adds_and_removes_people_of_the_own_household_only(community: Community) -> None:
    household_id, other_id = await community.household("1栋"), await community.household("2栋")
    owner = await community.member(household_id)
    phone = new_phone()
    request = pb.AddMemberRequest(household_id=household_id, phone=phone, name="小张", kind=pb.MEMBER_KIND_FAMILY)
    household = await owner.call("AddMember", request)
    assert [member.kind for member in household.members] == [pb.MEMBER_KIND_OWNER, pb.MEMBER_KIND_FAMILY]
    family = await community.town.sign_in(community.community_id, phone)
    for intruder, expected in ((owner, NotFound), (family, Denied)):
        request = pb.AddMemberRequest(household_id=other_id, phone=new_phone(), name="谁", kind=pb.MEMBER_KIND_OWNER)
        with pytest.raises(expected):
            await intruder.call("AddMember", request)
    with pytest.raises(Denied):
        await family.call("RemoveMember", pb.RemoveMemberRequest(household_id=household_id, account_id=str(account_id_of(owner))))
    left = await owner.call("RemoveMember", pb.RemoveMemberRequest(household_id=household_id, account_id=str(account_id_of(family))))
    assert [member.kind for member in left.members] == [pb.MEMBER_KIND_OWNER]
    with pytest.raises(NotFound):
        await owner.call("RemoveMember", pb.RemoveMemberRequest(household_id=household_id, account_id=str(account_id_of(family))))


async def test_a_person_is_in_a_household_once(community: Community) -> None:
    household_id = await community.household("1栋")
    owner = await community.member(household_id)
    request = pb.AddMemberRequest(household_id=household_id, phone=owner.phone, name="张三", kind=pb.MEMBER_KIND_TENANT)
    with pytest.raises(Conflict) as error:
        await community.manager.call("AddMember", request)
    assert error.value.code == "identity.already_member"


async def test_a_phone_that_is_added_twice_at_the_same_time_gets_one_account(community: Community) -> None:
    phone, ids = new_phone(), [await community.household(f"{number}栋") for number in range(3)]
    requests = [pb.AddMemberRequest(household_id=i, phone=phone, name="张三", kind=pb.MEMBER_KIND_OWNER) for i in ids]
    answers = await asyncio.gather(*(community.manager.call("AddMember", request) for request in requests))
    assert len({answer.members[0].account.account_id for answer in answers}) == 1


async def test_a_household_and_an_account_have_their_limits(community: Community) -> None:
    household_id = await community.household("1栋")
    for _ in range(MEMBERS_MAX):
        request = pb.AddMemberRequest(household_id=household_id, phone=new_phone(), name="人", kind=pb.MEMBER_KIND_TENANT)
        await community.manager.call("AddMember", request)
    request = pb.AddMemberRequest(household_id=household_id, phone=new_phone(), name="人", kind=pb.MEMBER_KIND_TENANT)
    with pytest.raises(Conflict) as error:
        await community.manager.call("AddMember", request)
    assert error.value.code == "identity.too_many_members"
    phone = new_phone()
    for number in range(HOUSEHOLDS_PER_ACCOUNT_MAX):
        another = await community.household(f"{number + 2}栋")
        request = pb.AddMemberRequest(household_id=another, phone=phone, name="房东", kind=pb.MEMBER_KIND_OWNER)
        await community.manager.call("AddMember", request)
    last = await community.household("最后一栋")
    request = pb.AddMemberRequest(household_id=last, phone=phone, name="房东", kind=pb.MEMBER_KIND_OWNER)
    with pytest.raises(Conflict) as error:
        await community.manager.call("AddMember", request)
    assert error.value.code == "identity.too_many_households"


async def test_who_leaves_the_last_household_is_signed_out_and_comes_back_as_a_guest(community: Community) -> None:
    household_id = await community.household("1栋")
    owner = await community.member(household_id)
    assert owner.tokens is not None
    await community.manager.call("RemoveMember", pb.RemoveMemberRequest(household_id=household_id, account_id=str(account_id_of(owner))))
    with pytest.raises(Unauthenticated):
        await community.town.nobody().call("RefreshTokens", pb.RefreshTokensRequest(refresh_token=owner.tokens.refresh_token))


async def test_me_shows_account_households_and_roles(community: Community) -> None:
    household_id = await community.household("1栋")
    owner = await community.member(household_id)
    await community.manager.call("GrantRole", pb.GrantRoleRequest(phone=owner.phone, name="张三", role="owners_committee_member"))
    me = await owner.call("GetMe", pb.GetMeRequest())
    assert (me.account.name, me.community_id) == ("张三", community.community_id)
    assert [household.household_id for household in me.households] == [household_id]
    (grant,) = me.roles
    assert (grant.role, grant.party, grant.building_id) == ("owners_committee_member", pb.PARTY_OWNERS_COMMITTEE, "")
    assert abs(grant.granted_at.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 60
