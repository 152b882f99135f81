"""Who lives and works in the demonstration community."""

import itertools
from collections.abc import Iterable

from console.demonstration import DemonstrationResident
from console.seed.api import Api

MANAGER_PHONE, RESIDENT_PHONE, VISITOR_PHONE = "13800000001", "13800000011", "13900000001"
# A resident who opens doors with a PIN.
PIN_PHONE = "13800000013"
# Staff and committee members of the four parties: phone, name, role.
ROLES = [
    ("13800000002", "保安小李", "property_staff"),
    ("13800000003", "收费员小赵", "property_clerk"),
    ("13800000004", "业委会周主任", "owners_committee_member"),
    ("13800000005", "居委会吴书记", "residents_committee_member"),
    ("13800000006", "社工小郑", "social_organisation_member"),
]
# Households: building, unit, area in cm2, members (phone, name, kind) and plates.
HOUSEHOLDS: list[tuple[str, str, int, list[tuple[str, str, str]], list[str]]] = [
    ("1号楼", "101", 896_500, [(RESIDENT_PHONE, "陈一", "OWNER"), ("13800000012", "陈二", "FAMILY")], ["京A12345", "京AD12345"]),
    ("1号楼", "102", 896_500, [(PIN_PHONE, "林三", "OWNER")], ["京B67890"]),
    ("1号楼", "201", 1_203_000, [("13800000014", "王四", "OWNER")], ["京C24680"]),
    ("2号楼", "101", 654_000, [("13800000015", "李五", "OWNER"), ("13800000016", "张六", "TENANT")], ["京E13579"]),
    ("2号楼", "102", 654_000, [("13800000017", "孙七", "TENANT")], ["京AF54321"]),
    ("3号楼", "101", 1_450_000, [("13800000018", "钱八", "OWNER")], ["京G11223", "京G44556"]),
]


async def seed_people(manager: Api) -> list[str]:
    """Grants roles, builds homes and moves everybody in. Returns the households' ids in the order of HOUSEHOLDS."""
    await grant_roles(manager, ROLES)
    buildings: dict[str, str] = {}
    households: list[str] = []
    for building, label, area, members, plates in HOUSEHOLDS:
        if building not in buildings:
            made = await manager.call("POST", "/v1/buildings", {"name": building}, key=f"demo-building-{len(buildings)}")
            buildings[building] = made["building_id"]
        number = len(households)
        body = {"label": label, "exclusive_area_cm2": str(area)}
        unit = await manager.call("POST", f"/v1/buildings/{buildings[building]}/units", body, key=f"demo-unit-{number}")
        home = await manager.call("POST", "/v1/households", {"unit_id": unit["unit_id"]}, key=f"demo-home-{number}")
        path = f"/v1/households/{home['household_id']}"
        for phone, name, kind in members:
            member = {"phone": phone, "name": name, "kind": f"MEMBER_KIND_{kind}"}
            await manager.call("POST", f"{path}/members", member, key=f"demo-member-{phone}")
        for index, plate in enumerate(plates):
            await manager.call("POST", f"{path}/vehicles", {"plate": plate}, key=f"demo-vehicle-{number}-{index}")
        households.append(home["household_id"])
    return households


async def grant_roles(manager: Api, roles: Iterable[tuple[str, str, str]]) -> None:
    """Gives people, by phone and name, their roles."""
    for phone, name, role in roles:
        await manager.call("POST", "/v1/role-grants", {"phone": phone, "name": name, "role": role}, key=f"demo-role-{phone}")


async def list_residents(manager: Api) -> list[DemonstrationResident]:
    """Those of HOUSEHOLDS who live here still. Each has one card for everything."""
    homes = (await manager.call("GET", "/v1/households?page_size=100"))["households"]
    found = {
        member["account"]["name"]: (member["account"]["account_id"], home["household_id"]) for home in homes for member in home["members"]
    }
    residents = []
    for building, phone, name in itertools.chain.from_iterable(
        ((building, phone, name) for phone, name, _kind in members) for building, _, _, members, _ in HOUSEHOLDS
    ):
        if name in found:
            account_id, household_id = found[name]
            residents.append(DemonstrationResident(account_id, name, f"0{phone[-9:]}", phone, building, household_id))
    return residents


async def find_buildings(manager: Api) -> dict[str, str]:
    """The buildings' ids by their names."""
    listed = (await manager.call("GET", "/v1/buildings?page_size=100"))["buildings"]
    return {building["name"]: building["building_id"] for building in listed}
