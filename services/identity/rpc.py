"""The IdentityService contract: proto to domain and back. What is done is in `operations.py` and `sign_in_operations.py`."""

import ipaddress
from functools import partial
from typing import Final
from uuid import UUID

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.empty_pb2 import Empty

from linli.identity.v1 import identity_pb2 as pb
from servicekit.database import PLATFORM, Transaction
from servicekit.paging import page
from servicekit.rpc import Call, outside_transaction
from servicekit.texts import text
from servicekit.times import to_timestamp
from services.identity import operations, phones, roles, sign_in_operations, store
from services.identity.code_senders import CodeSender
from services.identity.passwords import Passwords
from services.identity.roles import MemberKind, Party
from services.identity.sign_in_operations import Tokens

_PARTIES: Final = {
    Party.OWNERS_COMMITTEE: pb.PARTY_OWNERS_COMMITTEE,
    Party.PROPERTY_COMPANY: pb.PARTY_PROPERTY_COMPANY,
    Party.RESIDENTS_COMMITTEE: pb.PARTY_RESIDENTS_COMMITTEE,
    Party.SOCIAL_ORGANISATION: pb.PARTY_SOCIAL_ORGANISATION,
    Party.RESIDENT: pb.PARTY_RESIDENT,
    Party.PLATFORM: pb.PARTY_UNSPECIFIED,
}
_MEMBER_KINDS: Final = {
    MemberKind.OWNER: pb.MEMBER_KIND_OWNER,
    MemberKind.FAMILY: pb.MEMBER_KIND_FAMILY,
    MemberKind.TENANT: pb.MEMBER_KIND_TENANT,
}
_MEMBER_KIND_BY_NUMBER: Final = {number: kind for kind, number in _MEMBER_KINDS.items()}


@outside_transaction
async def request_code(call: Call, request: pb.RequestCodeRequest) -> pb.RequestCodeResponse:
    async with call.transaction(PLATFORM) as tx:
        code, expires_at = await sign_in_operations.issue_code(tx, UUID(request.community_id), request.phone, _client_address(call))
    await call.resource(CodeSender).send(request.phone, code)  # type: ignore[type-abstract]
    return pb.RequestCodeResponse(expires_at=to_timestamp(expires_at))


@outside_transaction
async def sign_in_with_code(call: Call, request: pb.SignInWithCodeRequest) -> pb.Tokens:
    async with call.transaction(PLATFORM) as tx:
        tokens = await sign_in_operations.redeem_code(tx, UUID(request.community_id), request.phone, request.code, _client_address(call))
    if tokens is None:
        raise sign_in_operations.code_wrong()
    return _tokens(tokens)


@outside_transaction
async def sign_in_with_password(call: Call, request: pb.SignInWithPasswordRequest) -> pb.Tokens:
    community_id, passwords = UUID(request.community_id), call.resource(Passwords)
    async with call.transaction(PLATFORM) as tx:
        stored = await sign_in_operations.begin_password_sign_in(tx, community_id, request.phone, _client_address(call))
    if not await passwords.matches(request.password, stored) or stored is None:
        raise sign_in_operations.password_wrong()
    renewed = await passwords.hash(request.password) if passwords.is_outdated(stored) else None
    async with call.transaction(PLATFORM) as tx:
        tokens = await sign_in_operations.complete_password_sign_in(tx, community_id, request.phone, stored, renewed)
    if tokens is None:
        raise sign_in_operations.password_wrong()
    return _tokens(tokens)


@outside_transaction
async def refresh_tokens(call: Call, request: pb.RefreshTokensRequest) -> pb.Tokens:
    async with call.transaction(PLATFORM) as tx:
        tokens = await sign_in_operations.refresh(tx, request.refresh_token)
    if tokens is None:
        raise sign_in_operations.refresh_refused()
    return _tokens(tokens)


async def sign_out(tx: Transaction, request: pb.SignOutRequest) -> Empty:
    await tx.enter(PLATFORM)
    await sign_in_operations.sign_out(tx, request.refresh_token)
    return Empty()


async def get_keys(tx: Transaction, _request: pb.GetKeysRequest) -> HttpBody:
    await tx.enter(PLATFORM)
    return HttpBody(content_type="application/json", data=await sign_in_operations.published_keys(tx))


async def get_me(tx: Transaction, _request: pb.GetMeRequest) -> pb.Me:
    account = await operations.get_account(tx, tx.caller.account_id)
    return pb.Me(
        account=_account(tx, account),
        community_id=str(tx.community_id),
        households=[_household(tx, household) for household in await store.list_households_of(tx, account.account_id)],
        roles=[_role_grant(tx, grant) for grant in await store.list_role_grants_of(tx, account.account_id)],
    )


@outside_transaction
async def set_password(call: Call, request: pb.SetPasswordRequest) -> Empty:
    passwords = call.resource(Passwords)
    async with call.transaction() as tx:
        stored = await sign_in_operations.begin_password_change(tx, _client_address(call))
    if stored is not None and not await passwords.matches(request.current_password, stored):
        raise sign_in_operations.password_wrong()
    new = await passwords.hash(request.new_password)
    async with call.transaction() as tx:
        held = await sign_in_operations.complete_password_change(tx, stored, new)
    # The same change may have come a second time, while the first was under way.
    if held != new and not await passwords.matches(request.new_password, held):
        raise sign_in_operations.password_wrong()
    return Empty()


async def create_community(tx: Transaction, request: pb.CreateCommunityRequest) -> pb.Community:
    name, manager_name = text(request.name, "name"), text(request.manager_name, "manager_name")
    created = await operations.create_community(tx, name, request.time_zone, request.modules, request.manager_phone, manager_name)
    return _community(created)


async def list_communities(tx: Transaction, request: pb.ListCommunitiesRequest) -> pb.ListCommunitiesResponse:
    await tx.enter(PLATFORM)
    rows, token = await page(request, tuple[str, UUID], partial(store.list_communities, tx), lambda row: (row.name, row.community_id))
    entries = [pb.CommunityEntry(community_id=str(row.community_id), name=row.name) for row in rows]
    return pb.ListCommunitiesResponse(communities=entries, next_page_token=token)


async def get_community(tx: Transaction, _request: pb.GetCommunityRequest) -> pb.Community:
    return _community(await operations.get_community(tx, tx.community_id))


async def update_community(tx: Transaction, request: pb.UpdateCommunityRequest) -> pb.Community:
    updated = await operations.update_community(
        tx,
        text(request.name, "name") if request.HasField("name") else None,
        request.time_zone if request.HasField("time_zone") else None,
        request.modules.names if request.HasField("modules") else None,
    )
    return _community(updated)


async def create_building(tx: Transaction, request: pb.CreateBuildingRequest) -> pb.Building:
    return _building(await operations.create_building(tx, text(request.name, "name")))


async def list_buildings(tx: Transaction, request: pb.ListBuildingsRequest) -> pb.ListBuildingsResponse:
    rows, token = await page(request, str, partial(store.list_buildings, tx), lambda row: row.name)
    return pb.ListBuildingsResponse(buildings=[_building(row) for row in rows], next_page_token=token)


async def create_unit(tx: Transaction, request: pb.CreateUnitRequest) -> pb.Unit:
    label = text(request.label, "label")
    return _unit(await operations.create_unit(tx, UUID(request.building_id), label, request.exclusive_area_cm2))


async def list_units(tx: Transaction, request: pb.ListUnitsRequest) -> pb.ListUnitsResponse:
    building = await operations.get_building(tx, UUID(request.building_id))
    rows, token = await page(request, str, partial(store.list_units, tx, building.building_id), lambda row: row.label)
    return pb.ListUnitsResponse(units=[_unit(row) for row in rows], next_page_token=token)


async def create_household(tx: Transaction, request: pb.CreateHouseholdRequest) -> pb.Household:
    return _household(tx, await operations.create_household(tx, UUID(request.unit_id)))


async def get_household(tx: Transaction, request: pb.GetHouseholdRequest) -> pb.Household:
    return _household(tx, await operations.get_household(tx, UUID(request.household_id)))


async def list_households(tx: Transaction, request: pb.ListHouseholdsRequest) -> pb.ListHouseholdsResponse:
    rows, token = await page(request, UUID, partial(store.list_households, tx), lambda row: row.household_id)
    return pb.ListHouseholdsResponse(households=[_household(tx, row) for row in rows], next_page_token=token)


async def add_member(tx: Transaction, request: pb.AddMemberRequest) -> pb.Household:
    name, kind = text(request.name, "name"), _MEMBER_KIND_BY_NUMBER[request.kind]
    return _household(tx, await operations.add_member(tx, UUID(request.household_id), request.phone, name, kind))


async def remove_member(tx: Transaction, request: pb.RemoveMemberRequest) -> pb.Household:
    return _household(tx, await operations.remove_member(tx, UUID(request.household_id), UUID(request.account_id)))


async def grant_role(tx: Transaction, request: pb.GrantRoleRequest) -> pb.RoleGrant:
    name, building_id = text(request.name, "name"), UUID(request.building_id) if request.building_id else None
    return _role_grant(tx, await operations.grant_role(tx, request.phone, name, request.role, building_id))


async def revoke_role(tx: Transaction, request: pb.RevokeRoleRequest) -> Empty:
    await operations.revoke_role(tx, UUID(request.role_grant_id))
    return Empty()


async def list_role_grants(tx: Transaction, request: pb.ListRoleGrantsRequest) -> pb.ListRoleGrantsResponse:
    rows, token = await page(request, UUID, partial(store.list_role_grants, tx), lambda row: row.role_grant_id)
    return pb.ListRoleGrantsResponse(role_grants=[_role_grant(tx, row) for row in rows], next_page_token=token)


async def list_roles(_tx: Transaction, _request: pb.ListRolesRequest) -> pb.ListRolesResponse:
    known = [pb.Role(name=role.name, party=_PARTIES[role.party], permissions=sorted(role.permissions)) for role in roles.ROLES.values()]
    return pb.ListRolesResponse(roles=known)


async def register_vehicle(tx: Transaction, request: pb.RegisterVehicleRequest) -> pb.Vehicle:
    return _vehicle(await operations.register_vehicle(tx, UUID(request.household_id), request.plate))


async def remove_vehicle(tx: Transaction, request: pb.RemoveVehicleRequest) -> Empty:
    await operations.remove_vehicle(tx, UUID(request.household_id), UUID(request.vehicle_id))
    return Empty()


async def list_vehicles(tx: Transaction, request: pb.ListVehiclesRequest) -> pb.ListVehiclesResponse:
    household = await operations.get_household(tx, UUID(request.household_id))
    return pb.ListVehiclesResponse(vehicles=[_vehicle(row) for row in await store.list_vehicles(tx, household.household_id)])


def _client_address(call: Call) -> str:
    """Whom limits count: the address that the gateway saw. One subscriber has a whole /64 of IPv6. Calls past the gateway count as one."""
    text = call.headers.get("x-client-address", "")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def _tokens(tokens: Tokens) -> pb.Tokens:
    return pb.Tokens(
        access_token=tokens.access_token,
        access_expires_at=to_timestamp(tokens.access_expires_at),
        refresh_token=tokens.refresh_token,
        refresh_expires_at=to_timestamp(tokens.refresh_expires_at),
    )


def _account(tx: Transaction, account: store.Account) -> pb.Account:
    phone = phones.masked(operations.phone_of(tx, account))
    return pb.Account(account_id=str(account.account_id), name=account.name, phone_masked=phone)


def _community(community: store.Community) -> pb.Community:
    return pb.Community(
        community_id=str(community.community_id),
        name=community.name,
        time_zone=community.time_zone,
        modules=community.modules,
        version=community.version,
    )


def _building(building: store.Building) -> pb.Building:
    return pb.Building(building_id=str(building.building_id), name=building.name)


def _unit(unit: store.Unit) -> pb.Unit:
    return pb.Unit(
        unit_id=str(unit.unit_id), building_id=str(unit.building_id), label=unit.label, exclusive_area_cm2=unit.exclusive_area_cm2
    )


def _household(tx: Transaction, household: store.Household) -> pb.Household:
    return pb.Household(
        household_id=str(household.household_id),
        unit_id=str(household.unit_id),
        members=[pb.Member(account=_account(tx, member.account), kind=_MEMBER_KINDS[member.kind]) for member in household.members],
    )


def _role_grant(tx: Transaction, grant: store.RoleGrant) -> pb.RoleGrant:
    role = roles.ROLES.get(grant.role)
    return pb.RoleGrant(
        role_grant_id=str(grant.role_grant_id),
        account=_account(tx, grant.account),
        role=grant.role,
        party=_PARTIES[role.party] if role else pb.PARTY_UNSPECIFIED,
        building_id="" if grant.building_id is None else str(grant.building_id),
        granted_at=to_timestamp(grant.granted_at),
    )


def _vehicle(vehicle: store.Vehicle) -> pb.Vehicle:
    return pb.Vehicle(vehicle_id=str(vehicle.vehicle_id), household_id=str(vehicle.household_id), plate=vehicle.plate)
