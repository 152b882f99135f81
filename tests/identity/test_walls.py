"""Nobody sees or changes anything of another community, whatever ids they know."""

import pytest
from google.protobuf.message import Message

from linli.identity.v1 import identity_pb2 as pb
from servicekit.errors import Denied, NotFound, ServiceError
from servicekit.identifiers import new_id
from tests.identity.arrange import CONTRACT, Community, Person, account_id_of, new_phone

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def requests_about(community: Community) -> dict[str, Message]:
    """For each method that names something by id, a request that the community's own manager may make."""
    building_id = await community.building("隐秘楼栋")
    unit_id = await community.unit(building_id, "隐秘房屋")
    household: pb.Household = await community.manager.call("CreateHousehold", pb.CreateHouseholdRequest(unit_id=unit_id))
    household_id = household.household_id
    member = await community.member(household_id, name="隐秘成员")
    vehicle = await community.manager.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=household_id, plate="京A00001"))
    grant = await community.manager.call("GrantRole", pb.GrantRoleRequest(phone=new_phone(), name="隐秘职员", role="property_staff"))
    return {
        "CreateUnit": pb.CreateUnitRequest(building_id=building_id, label="102", exclusive_area_cm2=1),
        "ListUnits": pb.ListUnitsRequest(building_id=building_id),
        "CreateHousehold": pb.CreateHouseholdRequest(unit_id=unit_id),
        "GetHousehold": pb.GetHouseholdRequest(household_id=household_id),
        "ListVehicles": pb.ListVehiclesRequest(household_id=household_id),
        "RegisterVehicle": pb.RegisterVehicleRequest(household_id=household_id, plate="京A00002"),
        "AddMember": pb.AddMemberRequest(household_id=household_id, phone=new_phone(), name="人", kind=pb.MEMBER_KIND_FAMILY),
        "GrantRole": pb.GrantRoleRequest(phone=new_phone(), name="人", role="property_clerk", building_id=building_id),
        "RemoveVehicle": pb.RemoveVehicleRequest(household_id=household_id, vehicle_id=vehicle.vehicle_id),
        "RemoveMember": pb.RemoveMemberRequest(household_id=household_id, account_id=str(account_id_of(member))),
        "RevokeRole": pb.RevokeRoleRequest(role_grant_id=grant.role_grant_id),
    }


async def outcome(person: Person, method: str, request: Message) -> ServiceError:
    """The error that a call ends with."""
    with pytest.raises(ServiceError) as error:
        await person.call(method, request)
    return error.value


async def test_the_walk_covers_every_method_that_names_something_by_id(community: Community) -> None:
    naming = {
        method.name
        for method in CONTRACT.methods
        # Sign-in names a community that everybody may know.
        if any(field.name.endswith("_id") and field.name != "community_id" for field in method.input_type.fields)
    }
    assert naming == set(await requests_about(community))


async def test_ids_of_another_community_are_not_found_and_nothing_happens(community: Community) -> None:
    requests = await requests_about(community)
    elsewhere = await community.town.community()
    resident = await elsewhere.member(await elsewhere.household("1栋"))
    guest = await elsewhere.town.sign_in(elsewhere.community_id)
    before = await everything(community.manager)
    for method, request in requests.items():
        foreign = await outcome(elsewhere.manager, method, request)
        assert isinstance(foreign, NotFound), method
        for person in (resident, guest):
            assert isinstance(await outcome(person, method, request), NotFound | Denied), method
    assert await everything(community.manager) == before
    # They were good requests: at home each of them works.
    for method, request in requests.items():
        await community.manager.call(method, request)


async def test_an_id_of_another_community_answers_as_one_that_does_not_exist(community: Community) -> None:
    requests = await requests_about(community)
    elsewhere = await community.town.community()
    for method, request in requests.items():
        invented = type(request).FromString(request.SerializeToString())
        for field in request.DESCRIPTOR.fields:
            if field.name.endswith("_id"):
                setattr(invented, field.name, str(new_id()))
        foreign, unknown = await outcome(elsewhere.manager, method, request), await outcome(elsewhere.manager, method, invented)
        assert (foreign.code, foreign.en, foreign.details) == (unknown.code, unknown.en, unknown.details), method


async def everything(manager: Person) -> str:
    """All that a manager can list."""
    answers = [
        await manager.call("GetMe", pb.GetMeRequest()),
        await manager.call("GetCommunity", pb.GetCommunityRequest()),
        await manager.call("ListBuildings", pb.ListBuildingsRequest(page_size=100)),
        await manager.call("ListHouseholds", pb.ListHouseholdsRequest(page_size=100)),
        await manager.call("ListRoleGrants", pb.ListRoleGrantsRequest(page_size=100)),
    ]
    return "\n".join(str(answer) for answer in answers)


async def test_lists_hold_nothing_of_another_community(community: Community) -> None:
    await requests_about(community)
    elsewhere = await community.town.community()
    assert "隐秘".encode("unicode_escape").decode() not in await everything(elsewhere.manager)
    seen = await everything(elsewhere.manager)
    mine = await everything(community.manager)
    for request in ("ListBuildings", "ListHouseholds"):
        answer = await elsewhere.manager.call(request, getattr(pb, f"{request}Request")())
        assert not answer.ListFields()
    assert community.community_id in mine
    assert community.community_id not in seen


async def test_a_page_token_of_another_community_shows_nothing_of_it(community: Community) -> None:
    for number in range(3):
        await community.household(f"{number}栋")
    elsewhere = await community.town.community()
    first = await community.manager.call("ListHouseholds", pb.ListHouseholdsRequest(page_size=1))
    answer = await elsewhere.manager.call("ListHouseholds", pb.ListHouseholdsRequest(page_token=first.next_page_token))
    assert list(answer.households) == []


async def test_an_operator_sees_no_community_from_inside(community: Community) -> None:
    requests, operator = await requests_about(community), await community.town.operator()
    for method, request in requests.items():
        assert isinstance(await outcome(operator, method, request), NotFound | Denied), method
