"""Roles as data, against every contract of the platform; and granting them, through the API."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto

from linli.identity.v1 import identity_pb2 as pb
from linli.options.v1 import options_pb2
from servicekit.auth import Principal, claims_of
from servicekit.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from servicekit.identifiers import new_id
from services.identity import roles, tokens
from services.identity.operations import GRANTS_PER_ACCOUNT_MAX, HOUSEHOLDS_PER_ACCOUNT_MAX, MODULES
from services.identity.roles import MemberKind, Party
from services.identity.signing_keys import ACCESS_TOKEN_LIFE
from tests.identity.arrange import Community, account_id_of, new_phone

pytestmark = pytest.mark.asyncio(loop_scope="module")
DESCRIPTORS = Path(__file__).parents[2] / "libs" / "linli" / "descriptors.binpb"


def contract_methods() -> Iterator[MethodDescriptorProto]:
    """Every method of every contract."""
    for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        for service in file.service:
            yield from service.method


def authorities() -> list[options_pb2.Authority]:
    """Who may call each method of every contract."""
    return [method.options.Extensions[options_pb2.authority] for method in contract_methods()]


async def test_every_permission_that_a_contract_names_is_held_by_some_role_and_no_role_holds_another() -> None:
    named = {authority.permission for authority in authorities() if authority.permission}
    assert len(named) > 20
    assert named == frozenset().union(*(role.permissions for role in roles.ROLES.values()))


async def test_a_property_manager_holds_everything_but_making_communities() -> None:
    named = {authority.permission for authority in authorities() if authority.permission}
    assert roles.ROLES["property_manager"].permissions == named - {"identity.communities.create"}


async def test_every_permission_that_a_contract_limits_to_a_building_can_be_held_for_one() -> None:
    limited = {authority.permission for authority in authorities() if authority.building_field}
    assert limited == roles.BUILDING_PERMISSIONS


async def test_every_permission_that_a_contract_limits_to_a_household_is_held_by_its_owner() -> None:
    limited = {authority.permission for authority in authorities() if authority.household_field}
    assert limited == roles.ROLES["owner"].permissions
    assert limited - roles.ROLES["resident"].permissions == {"identity.household.write"}


async def test_only_roles_of_the_four_parties_can_be_given() -> None:
    given = {name for name in roles.ROLES if roles.grantable(name)}
    assert given == {
        "owners_committee_member",
        "property_manager",
        "property_staff",
        "property_clerk",
        "residents_committee_member",
        "social_organisation_member",
        "foreman",
        "technician",
        "waste_collector",
        "waste_inspector",
    }
    parties = {roles.ROLES[name].party for name in given}
    assert parties == {Party.OWNERS_COMMITTEE, Party.PROPERTY_COMPANY, Party.RESIDENTS_COMMITTEE, Party.SOCIAL_ORGANISATION}


async def test_grants_and_memberships_add_up_in_their_own_scopes() -> None:
    building, home, rented = UUID(int=1), UUID(int=2), UUID(int=3)
    held = roles.holdings(
        [("property_staff", None), ("property_clerk", building), ("a_role_of_yesterday", None)],
        [(home, MemberKind.OWNER), (rented, MemberKind.TENANT)],
    )
    assert held.everywhere == roles.ROLES["property_staff"].permissions
    assert held.by_building == {building: {"identity.homes.read", "identity.homes.write"}}
    assert held.by_household == {home: roles.ROLES["owner"].permissions, rented: roles.ROLES["resident"].permissions}


async def test_a_guest_holds_nothing() -> None:
    held = roles.holdings([], [])
    assert (held.everywhere, held.by_household, held.by_building) == (frozenset(), {}, {})


@pytest.mark.parametrize("role", ["property_manager", "technician"])
async def test_the_largest_token_fits_into_the_headers_of_a_call(role: str) -> None:
    grants = [(role, None), *(("property_clerk", new_id()) for _ in range(GRANTS_PER_ACCOUNT_MAX - 1))]
    held = roles.holdings(grants, [(new_id(), MemberKind.OWNER) for _ in range(HOUSEHOLDS_PER_ACCOUNT_MAX)])
    largest = Principal(new_id(), new_id(), held.everywhere, held.by_household, held.by_building, MODULES)
    private_key, _ = tokens.new_private_key()
    now = datetime.now(UTC)
    token, expires_at = tokens.access_token(largest, "linli", new_id(), private_key, now)
    assert claims_of(largest)["mod"] == sorted(MODULES)
    # Proxies and servers commonly take 8 KiB of headers and no more.
    assert len(token) < 7_000, len(token)
    assert expires_at - now <= ACCESS_TOKEN_LIFE


async def test_a_role_is_given_listed_and_taken_away(community: Community) -> None:
    phone = new_phone()
    request = pb.GrantRoleRequest(phone=phone, name="李四", role="property_clerk")
    grant = await community.manager.call("GrantRole", request)
    assert (grant.role, grant.party, grant.account.name, grant.building_id) == ("property_clerk", pb.PARTY_PROPERTY_COMPANY, "李四", "")
    clerk = await community.town.sign_in(community.community_id, phone)
    assert (await clerk.call("ListHouseholds", pb.ListHouseholdsRequest())).households == []
    listed = await community.manager.call("ListRoleGrants", pb.ListRoleGrantsRequest(page_size=1))
    assert list(listed.role_grants) == [grant]
    rest = await community.manager.call("ListRoleGrants", pb.ListRoleGrantsRequest(page_token=listed.next_page_token))
    assert [g.role for g in rest.role_grants] == ["property_manager"]
    await community.manager.call("RevokeRole", pb.RevokeRoleRequest(role_grant_id=grant.role_grant_id))
    with pytest.raises(NotFound):
        await community.manager.call("RevokeRole", pb.RevokeRoleRequest(role_grant_id=grant.role_grant_id))
    assert clerk.tokens is not None
    with pytest.raises(Unauthenticated):
        await community.town.nobody().call("RefreshTokens", pb.RefreshTokensRequest(refresh_token=clerk.tokens.refresh_token))


async def test_a_role_that_is_held_cannot_be_given_again(community: Community) -> None:
    phone = new_phone()
    request = pb.GrantRoleRequest(phone=phone, name="李四", role="property_clerk")
    await community.manager.call("GrantRole", request)
    with pytest.raises(Conflict) as error:
        await community.manager.call("GrantRole", request)
    assert error.value.code == "identity.role_held"


@pytest.mark.parametrize("role", ["platform_operator", "owner", "resident", "guest", "emperor"])
async def test_nobody_in_a_community_gives_a_role_that_is_not_of_the_four_parties(community: Community, role: str) -> None:
    with pytest.raises(Invalid) as error:
        await community.manager.call("GrantRole", pb.GrantRoleRequest(phone=new_phone(), name="李四", role=role))
    assert error.value.code == "identity.role_unknown"


async def test_the_last_property_manager_cannot_be_removed(community: Community) -> None:
    me = await community.manager.call("GetMe", pb.GetMeRequest())
    last = pb.RevokeRoleRequest(role_grant_id=me.roles[0].role_grant_id)
    with pytest.raises(Conflict) as error:
        await community.manager.call("RevokeRole", last)
    assert error.value.code == "identity.last_manager"
    await community.manager.call("GrantRole", pb.GrantRoleRequest(phone=new_phone(), name="新经理", role="property_manager"))
    await community.manager.call("RevokeRole", last)


async def test_a_role_for_one_building_reaches_that_building_only(community: Community) -> None:
    here, there = await community.building("1栋"), await community.building("2栋")
    await community.unit(here)
    clerk = await community.staff("property_clerk", building_id=here)
    units = await clerk.call("ListUnits", pb.ListUnitsRequest(building_id=here))
    assert len(units.units) == 1
    await clerk.call("CreateUnit", pb.CreateUnitRequest(building_id=here, label="102", exclusive_area_cm2=900_000))
    with pytest.raises(NotFound):
        await clerk.call("ListUnits", pb.ListUnitsRequest(building_id=there))
    with pytest.raises(NotFound):
        await clerk.call("CreateUnit", pb.CreateUnitRequest(building_id=there, label="102", exclusive_area_cm2=900_000))
    with pytest.raises(Denied):
        await clerk.call("ListHouseholds", pb.ListHouseholdsRequest())
    me = await clerk.call("GetMe", pb.GetMeRequest())
    assert [grant.building_id for grant in me.roles] == [here]


async def test_a_role_without_any_reach_by_building_cannot_be_limited_to_one(community: Community) -> None:
    building_id = await community.building("1栋")
    request = pb.GrantRoleRequest(phone=new_phone(), name="李四", role="social_organisation_member", building_id=building_id)
    with pytest.raises(Invalid) as error:
        await community.manager.call("GrantRole", request)
    assert error.value.code == "identity.role_not_for_buildings"


async def test_household_permissions_reach_the_own_household_only(community: Community) -> None:
    home, other = await community.household("1栋"), await community.household("2栋")
    tenant = await community.member(home, pb.MEMBER_KIND_TENANT)
    await tenant.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=home, plate="京A12345"))
    await tenant.call("GetHousehold", pb.GetHouseholdRequest(household_id=home))
    with pytest.raises(NotFound):
        await tenant.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=other, plate="京A54321"))
    with pytest.raises(NotFound):
        await tenant.call("GetHousehold", pb.GetHouseholdRequest(household_id=other))
    with pytest.raises(NotFound):
        await tenant.call("ListVehicles", pb.ListVehiclesRequest(household_id=str(new_id())))
    with pytest.raises(Denied):
        await tenant.call("ListHouseholds", pb.ListHouseholdsRequest())
    assert account_id_of(tenant)


async def test_everybody_may_read_what_roles_may_do(community: Community) -> None:
    guest = await community.town.sign_in(community.community_id)
    listed = await guest.call("ListRoles", pb.ListRolesRequest())
    assert {role.name: set(role.permissions) for role in listed.roles} == {
        name: set(role.permissions) for name, role in roles.ROLES.items()
    }
    with pytest.raises(Denied):
        await guest.call("ListRoleGrants", pb.ListRoleGrantsRequest())
