"""What is done with communities, homes, people, roles and vehicles. Sign-in is in `sign_in_operations.py`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from linli.identity.v1.events_pb2 import CommunityChanged, HouseholdChanged, StaffChanged, VehicleRegistered, VehicleRemoved
from servicekit.auth import Principal
from servicekit.database import PLATFORM, Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.sealing import BlindIndex, DataKeys
from servicekit.times import zone
from services.identity import announcement_store, phones, plates, roles, sign_in_store, store
from services.identity.announcement_store import HouseholdState, StaffState
from services.identity.passwords import LENGTH_MIN, Passwords
from services.identity.roles import MemberKind
from services.identity.store import (
    PLATFORM_COMMUNITY,
    TRIAL_COMMUNITY,
    Account,
    Building,
    Community,
    Household,
    RoleGrant,
    Unit,
    Vehicle,
)

# Modules that a community can switch on, by the service that provides each.
MODULES: Final = frozenset(
    {
        "access",
        "activities",
        "assistant",
        "billing",
        "citybridge",
        "governance",
        "insights",
        "messaging",
        "parking",
        "points",
        "waste",
        "workorders",
    }
)
MEMBERS_MAX: Final = 50
VEHICLES_MAX: Final = 20
# What an account holds is in its access token, which must fit into the headers of a call.
HOUSEHOLDS_PER_ACCOUNT_MAX: Final = 8
GRANTS_PER_ACCOUNT_MAX: Final = 16
_RESEALED_AT_ONCE: Final = 500
# Streams keep events for seven days: what is told again after five is always in them, with two days for telling all.
TOLD_AGAIN_AFTER: Final = timedelta(days=5)
TOLD_AT_ONCE: Final = 500


async def create_community(
    tx: Transaction, name: str, time_zone: str, modules: Sequence[str], manager_phone: str, manager_name: str
) -> Community:
    """Creates a community with its first property manager. Leaves the transaction in the platform scope. Raises Invalid."""
    community = Community(new_id(), name, _checked_zone(time_zone), _checked_modules(modules, "modules"), 1)
    await tx.enter(community.community_id)
    await store.insert_community(tx, community)
    manager = await lock_or_open_account(tx, manager_phone, manager_name)
    await store.insert_role_grant(tx, RoleGrant(new_id(), manager, roles.PROPERTY_MANAGER, None, tx.now))
    _publish_community(tx, community)
    _publish_staff(tx, await announcement_store.advance_staff(tx, manager.account_id))
    # Its rows and events are the new community's, the caller's idempotency key is the operator's: both are in sight from here.
    await tx.enter(PLATFORM)
    return community


async def update_community(tx: Transaction, name: str | None, time_zone: str | None, modules: Sequence[str] | None) -> Community:
    """Changes what is not None. Raises Invalid."""
    before = await store.lock_community(tx)
    after = Community(
        before.community_id,
        before.name if name is None else name,
        before.time_zone if time_zone is None else _checked_zone(time_zone),
        before.modules if modules is None else _checked_modules(modules, "modules.names"),
        before.version,
    )
    if after == before:
        return before
    after = replace(after, version=before.version + 1)
    await store.update_community(tx, after)
    _publish_community(tx, after)
    return after


def _checked_zone(name: str) -> str:
    return zone(name).key


def _checked_modules(modules: Sequence[str], field: str) -> tuple[str, ...]:
    unknown = [
        FieldViolation(f"{field}[{index}]", "module.unknown", f"no module is called {module}")
        for index, module in enumerate(modules)
        if module not in MODULES
    ]
    if unknown:
        raise Invalid("identity.module_unknown", "没有这个功能模块", "There is no such module", fields=unknown)
    return tuple(sorted(modules))


def _publish_community(tx: Transaction, community: Community) -> None:
    event = CommunityChanged(
        community_id=str(community.community_id), name=community.name, time_zone=community.time_zone, modules=community.modules
    )
    tx.publish(event, version=community.version, community_id=community.community_id)


async def get_community(tx: Transaction, community_id: UUID) -> Community:
    """A community. Raises NotFound."""
    community = await store.find_community(tx, community_id)
    if community is None:
        raise NotFound("identity.community_not_found", "没有找到该小区", "There is no such community")
    return community


async def create_building(tx: Transaction, name: str) -> Building:
    """Adds a building. Raises Conflict when one has its name."""
    building = Building(new_id(), name)
    if not await store.insert_building(tx, building):
        raise Conflict("identity.building_exists", "已有同名楼栋", "There is a building of this name")
    return building


async def create_unit(tx: Transaction, building_id: UUID, label: str, exclusive_area_cm2: int) -> Unit:
    """Adds a unit with its exclusive area in square centimetres. Raises NotFound, and Conflict when the building has the label."""
    await get_building(tx, building_id)
    unit = Unit(new_id(), building_id, label, exclusive_area_cm2)
    if not await store.insert_unit(tx, unit):
        raise Conflict("identity.unit_exists", "该楼栋已有同名房屋", "The building has a unit of this label")
    return unit


async def get_building(tx: Transaction, building_id: UUID) -> Building:
    """A building. Raises NotFound."""
    building = await store.find_building(tx, building_id)
    if building is None:
        raise NotFound("identity.building_not_found", "没有找到该楼栋", "There is no such building")
    return building


async def create_household(tx: Transaction, unit_id: UUID) -> Household:
    """Opens a household in a unit, which may have several. Raises NotFound."""
    if await store.find_unit(tx, unit_id) is None:
        raise NotFound("identity.unit_not_found", "没有找到该房屋", "There is no such unit")
    household = Household(new_id(), unit_id)
    await store.insert_household(tx, household)
    _publish_household(tx, await announcement_store.advance_household(tx, household.household_id))
    return household


async def get_household(tx: Transaction, household_id: UUID) -> Household:
    """A household with its members. Raises NotFound."""
    household = await store.find_household(tx, household_id)
    if household is None:
        raise _no_household()
    return household


async def add_member(tx: Transaction, household_id: UUID, phone: str, name: str, kind: MemberKind) -> Household:
    """Puts a person into a household. Raises NotFound, and Conflict when they are in it or a limit is reached."""
    await _lock_household(tx, household_id)
    account = await lock_or_open_account(tx, phone, name)
    if not await store.insert_member(tx, household_id, account.account_id, kind, name):
        raise Conflict("identity.already_member", "该成员已在家庭中", "This person is in the household already")
    if len(await store.list_memberships(tx, account.account_id)) > HOUSEHOLDS_PER_ACCOUNT_MAX:
        raise Conflict("identity.too_many_households", "该成员加入的家庭过多", "This person is in too many households")
    household = await get_household(tx, household_id)
    if len(household.members) > MEMBERS_MAX:
        raise Conflict("identity.too_many_members", "家庭成员过多", "The household has too many members")
    await _publish_people(tx, household)
    return household


async def remove_member(tx: Transaction, household_id: UUID, account_id: UUID) -> Household:
    """Takes a person out of a household. Raises NotFound."""
    await _lock_household(tx, household_id)
    if not await store.delete_member(tx, household_id, account_id):
        raise NotFound("identity.member_not_found", "没有找到该成员", "There is no such member")
    household = await get_household(tx, household_id)
    await _publish_people(tx, household)
    await _end_sign_ins_of_a_stranger(tx, account_id)
    return household


async def _lock_household(tx: Transaction, household_id: UUID) -> None:
    if not await store.lock_household(tx, household_id):
        raise _no_household()


def _no_household() -> NotFound:
    return NotFound("identity.household_not_found", "没有找到该家庭", "There is no such household")


async def _publish_people(tx: Transaction, household: Household) -> None:
    """Says of a locked household, and again of each of its vehicles, who its people are."""
    _publish_household(tx, await announcement_store.advance_household(tx, household.household_id))
    vehicle_ids = [vehicle.vehicle_id for vehicle in await store.list_vehicles(tx, household.household_id)]
    for vehicle in await store.advance_vehicles(tx, vehicle_ids):
        _publish_vehicle(tx, vehicle, household)


def _publish_household(tx: Transaction, household: HouseholdState) -> None:
    event = HouseholdChanged(
        household_id=str(household.household_id),
        building_id=str(household.building_id),
        account_ids=[str(account_id) for account_id in household.account_ids],
    )
    tx.publish(event, version=household.version, community_id=household.community_id)


def _publish_vehicle(tx: Transaction, vehicle: Vehicle, household: Household) -> None:
    event = VehicleRegistered(
        vehicle_id=str(vehicle.vehicle_id),
        household_id=str(household.household_id),
        plate=vehicle.plate,
        account_ids=sorted(str(member.account.account_id) for member in household.members),
    )
    tx.publish(event, version=vehicle.version)


async def _end_sign_ins_of_a_stranger(tx: Transaction, account_id: UUID) -> None:
    """Ends the sign-ins of an account that has lost the last of its roles and households; what is left to it is a guest's."""
    if not await store.list_role_grants_of(tx, account_id) and not await store.list_memberships(tx, account_id):
        await sign_in_store.delete_sign_ins_of(tx, account_id)


async def grant_role(tx: Transaction, phone: str, name: str, role_name: str, building_id: UUID | None) -> RoleGrant:
    """Gives a person a role. Raises Invalid for a role that cannot be given so, NotFound, and Conflict when they hold it."""
    role = roles.grantable(role_name)
    if role is None:
        violation = FieldViolation("role", "role.unknown", "must be a role of one of the four parties")
        raise Invalid("identity.role_unknown", "没有可授予的这个角色", "There is no such role to give", fields=[violation])
    if building_id is not None:
        await get_building(tx, building_id)
        if not roles.fits_a_building(role):
            violation = FieldViolation("building_id", "role.whole_community", "this role covers the whole community")
            raise Invalid("identity.role_not_for_buildings", "该角色不能限于楼栋", "The role has no reach by building", fields=[violation])
    account = await lock_or_open_account(tx, phone, name)
    grant = RoleGrant(new_id(), account, role_name, building_id, tx.now)
    if not await store.insert_role_grant(tx, grant):
        raise Conflict("identity.role_held", "该账号已有此角色", "The account holds this role already")
    if len(await store.list_role_grants_of(tx, account.account_id)) > GRANTS_PER_ACCOUNT_MAX:
        raise Conflict("identity.too_many_roles", "该账号的角色过多", "The account holds too many roles")
    if building_id is None:
        _publish_staff(tx, await announcement_store.advance_staff(tx, account.account_id))
    return grant


async def revoke_role(tx: Transaction, role_grant_id: UUID) -> None:
    """Takes a role away. Raises NotFound, and Conflict for the last property manager: nobody could give a role any more."""
    await store.lock_community(tx)
    grant = await store.find_role_grant(tx, role_grant_id)
    if grant is None:
        raise NotFound("identity.role_grant_not_found", "没有找到该授权", "There is no such role grant")
    manages = grant.role == roles.PROPERTY_MANAGER and grant.building_id is None
    if manages and await store.count_holders(tx, roles.PROPERTY_MANAGER) == 1:
        raise Conflict("identity.last_manager", "不能移除最后一位物业经理", "The last property manager must stay")
    await store.delete_role_grant(tx, role_grant_id)
    if grant.building_id is None:
        _publish_staff(tx, await announcement_store.advance_staff(tx, grant.account.account_id))
    await _end_sign_ins_of_a_stranger(tx, grant.account.account_id)


def _publish_staff(tx: Transaction, staff: StaffState) -> None:
    event = StaffChanged(account_id=str(staff.account_id), roles=staff.roles)
    tx.publish(event, version=staff.version, community_id=staff.community_id)


async def register_vehicle(tx: Transaction, household_id: UUID, plate: str) -> Vehicle:
    """Registers a household's vehicle. Raises Invalid for what is no plate, NotFound, and Conflict when the plate is taken."""
    await _lock_household(tx, household_id)
    normalised = plates.normalised(plate)
    if normalised is None:
        violation = FieldViolation("plate", "plate", "must be a number plate such as 京A12345")
        raise Invalid("identity.not_a_plate", "不是有效的车牌号码", "This is not a number plate", fields=[violation])
    vehicle = Vehicle(new_id(), household_id, normalised, 1)
    if not await store.insert_vehicle(tx, vehicle):
        raise Conflict("identity.plate_taken", "该车牌已登记", "This plate is registered already")
    if len(await store.list_vehicles(tx, household_id)) > VEHICLES_MAX:
        raise Conflict("identity.too_many_vehicles", "登记车辆过多", "The household has too many vehicles")
    _publish_vehicle(tx, vehicle, await get_household(tx, household_id))
    return vehicle


async def remove_vehicle(tx: Transaction, household_id: UUID, vehicle_id: UUID) -> None:
    """Removes a household's vehicle. Raises NotFound."""
    await _lock_household(tx, household_id)
    vehicle = await store.delete_vehicle(tx, household_id, vehicle_id)
    if vehicle is None:
        raise NotFound("identity.vehicle_not_found", "没有找到该车辆", "There is no such vehicle")
    tx.publish(VehicleRemoved(vehicle_id=str(vehicle.vehicle_id), plate=vehicle.plate), version=vehicle.version)


async def get_account(tx: Transaction, account_id: UUID) -> Account:
    """An account. Raises NotFound."""
    account = await store.find_account(tx, account_id)
    if account is None:
        raise NotFound("identity.account_not_found", "没有找到该账号", "There is no such account")
    return account


async def lock_or_open_account(tx: Transaction, phone: str, name: str) -> Account:
    """The locked account of a phone in this community, opened when there is none. A name fills in for one that is not known yet."""
    index = phone_index(tx, tx.community_id, phone)
    account_id = new_id()
    sealed = tx.resource(DataKeys).seal(phone.encode(), _row(account_id))
    await store.insert_account(tx, Account(account_id, name, sealed), index)
    account = await store.lock_account_by_phone(tx, index)
    assert account is not None
    return await store.name_account(tx, account, name) if name and not account.name else account


def phone_index(tx: Transaction, community_id: UUID, phone: str) -> bytes:
    """What a phone's account in a community is found by."""
    return tx.resource(BlindIndex).digest("phone", str(community_id), phone)


def phone_of(tx: Transaction, account: Account) -> str:
    """An account's phone, in clear."""
    return tx.resource(DataKeys).open(account.phone, _row(account.account_id)).decode()


def _row(account_id: UUID) -> str:
    return f"accounts.phone {account_id}"


async def principal_of(tx: Transaction, account_id: UUID) -> Principal:
    """What an account of this community may do now."""
    grants = await store.list_role_grants_of(tx, account_id)
    memberships = await store.list_memberships(tx, account_id)
    community = await get_community(tx, tx.community_id)
    held = roles.holdings(((grant.role, grant.building_id) for grant in grants), memberships)
    return Principal(
        account_id=account_id,
        community_id=tx.community_id,
        permissions=held.everywhere,
        by_household=held.by_household,
        by_building=held.by_building,
        modules=frozenset(community.modules),
    )


async def bootstrap_operator(tx: Transaction, phone: str, name: str, password: str, *, reset_password: bool = False) -> Account:
    """Makes a phone's account an operator of the installation who signs in with this password, and leaves the transaction in the operators'
    community. A password that is set stays, unless it is to be reset. Raises Invalid.
    """
    if not phones.is_phone(phone) or len(password) < LENGTH_MIN:
        raise Invalid(
            "identity.operator",
            "需要手机号码和至少十二位的密码",
            f"An operator needs a mobile number and a password of at least {LENGTH_MIN} characters",
        )
    await tx.enter(PLATFORM_COMMUNITY)
    await store.insert_community(tx, Community(PLATFORM_COMMUNITY, "Linli", "Asia/Shanghai", (), 1))
    account = await lock_or_open_account(tx, phone, name)
    await store.insert_role_grant(tx, RoleGrant(new_id(), account, roles.PLATFORM_OPERATOR, None, tx.now))
    found = await sign_in_store.find_password(tx, account.account_id)
    if reset_password or found is None or found[1] is None:
        await _set_password(tx, account.account_id, password)
    return account


async def found_trial_community(tx: Transaction, phone: str, name: str, password: str) -> None:
    """Makes the community in which an installation is tried, with a manager who signs in with this password, and leaves the transaction
    there. The password is always the one given: no person keeps it.
    """
    await tx.enter(TRIAL_COMMUNITY)
    community = Community(TRIAL_COMMUNITY, "自检", "Asia/Shanghai", (), 1)
    await store.insert_community(tx, community)
    manager = await lock_or_open_account(tx, phone, name)
    if await store.insert_role_grant(tx, RoleGrant(new_id(), manager, roles.PROPERTY_MANAGER, None, tx.now)):
        _publish_community(tx, community)
        _publish_staff(tx, await announcement_store.advance_staff(tx, manager.account_id))
    await _set_password(tx, manager.account_id, password)


async def _set_password(tx: Transaction, account_id: UUID, password: str) -> None:
    await sign_in_store.set_password(tx, account_id, await tx.resource(Passwords).hash(password))
    # Whoever knew the one before may be signed in with it.
    await sign_in_store.delete_sign_ins_of(tx, account_id)


async def tell_again(tx: Transaction) -> None:
    """Tells of some communities, households and staff that nothing was told of for days, before the streams forget the last that was.

    So a service that joins the installation later learns of all of them, and everybody learns of what is older than an event. The version
    is the last one's: whoever has heard it knows that there is nothing new.
    """
    before = tx.now - TOLD_AGAIN_AFTER
    for community in await announcement_store.tell_communities(tx, before, TOLD_AT_ONCE):
        _publish_community(tx, community)
    for household in await announcement_store.tell_households(tx, before, TOLD_AT_ONCE):
        _publish_household(tx, household)
    for staff in await announcement_store.tell_staff(tx, before, TOLD_AT_ONCE):
        _publish_staff(tx, staff)


async def reseal_phones(tx: Transaction) -> None:
    """Encrypts some of the phones that are under an older data key under the newest, so that the older one can go one day."""
    keys = tx.resource(DataKeys)
    for account in await store.lock_accounts_under_keys(tx, keys.older_key_ids, _RESEALED_AT_ONCE):
        sealed = keys.seal(phone_of(tx, account).encode(), _row(account.account_id))
        await store.update_phone(tx, account.account_id, sealed)
