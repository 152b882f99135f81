"""Creates the demonstration community through the API, as its property company would.

Every step carries an idempotency key, so that a start that was interrupted goes on where it stopped.
"""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from console.demonstration import Demonstration, DemonstrationLane

MODULES = ["parking", "billing", "insights"]
MANAGER_PHONE, RESIDENT_PHONE, VISITOR_PHONE = "13800000001", "13800000011", "13900000001"
# Staff and committee members of the four parties.
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
    ("1号楼", "102", 896_500, [("13800000013", "林三", "OWNER")], ["京B67890"]),
    ("1号楼", "201", 1_203_000, [("13800000014", "王四", "OWNER")], ["京C24680"]),
    ("2号楼", "101", 654_000, [("13800000015", "李五", "OWNER"), ("13800000016", "张六", "TENANT")], ["京E13579"]),
    ("2号楼", "102", 654_000, [("13800000017", "孙七", "TENANT")], ["京AF54321"]),
    ("3号楼", "101", 1_450_000, [("13800000018", "钱八", "OWNER")], ["京G11223", "京G44556"]),
]
# Prices for people in a hurry: a demonstration's cars stay for a minute.
TARIFF = {
    "name": "演示临停",
    "rate_unit_period": "stay",
    "grace_minutes": 5,
    "bands": [
        {
            "name": "临停",
            "rates": [
                {"rate_unit": "minute", "increment_duration": 1, "increment_amount": 500, "start_duration": 0, "end_duration": 1},
                {"rate_unit": "minute", "increment_duration": 1, "increment_amount": 200, "start_duration": 1},
            ],
        }
    ],
    "caps": [{"amount": 3000, "rate_unit_period": "rolling"}],
    "concessions": [{"user_classes": ["police"], "discount": {"name": "警车免费", "off": 100, "unit": "percent"}}],
}
LANES = [
    ("东门入口", True, "push", "demo-cam-east-in", "demo-cam-east-in"),
    ("西门入口", True, "viid", "11010800001190000001", "demo-gate-west-in"),
    ("东门出口", False, "push", "demo-cam-east-out", "demo-gate-east-out"),
    ("西门出口", False, "viid", "11010800001190000002", "demo-gate-west-out"),
]
EDGE_BOX = "demo-box-garage"
_KINDS = {"push": "DEVICE_KIND_PLATE_CAMERA", "viid": "DEVICE_KIND_VIID"}


class SeedError(Exception):
    """The API refused a step; the text says which and why."""


class Api:
    """The gateway, as one signed-in account."""

    def __init__(self, client: httpx.AsyncClient, url: str, token: str = "") -> None:
        self._client = client
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def call(self, verb: str, path: str, body: object = None, *, key: str = "", expect: int = 0) -> Any:
        """One call. Raises SeedError unless it succeeds or answers `expect`, for which it returns None."""
        headers = {**self._headers, **({"Idempotency-Key": key} if key else {})}
        answer = await self._client.request(verb, f"{self._url}{path}", json=body, headers=headers)
        if answer.status_code == expect:
            return None
        if answer.is_error:
            raise SeedError(f"{verb} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    async def signed_in(self, path: str, body: object) -> "Api":
        """The same gateway as the account that signs in."""
        tokens = await self.call("POST", path, body)
        return Api(self._client, self._url, tokens["access_token"])


async def seed(
    *,
    gateway_url: str,
    ingest_url: str,
    mqtt: tuple[str, int],
    gate_public_key: str,
    operator: dict[str, str],
    manager_password: str,
    newest_code: Any,
) -> Demonstration:
    """Creates everything and returns what was created. `operator` signs in by password; `newest_code(phone)` reads one-time codes."""
    async with httpx.AsyncClient(trust_env=False, timeout=20.0) as client:
        nobody = Api(client, gateway_url)
        community_id = await _community(nobody, operator)
        manager = await _manager(nobody, community_id, manager_password, newest_code)
        households = await _people(manager)
        lot_id, lanes, device_secrets = await _parking(manager, households)
    return Demonstration(
        gateway_url=gateway_url,
        ingest_url=ingest_url,
        mqtt_host=mqtt[0],
        mqtt_port=mqtt[1],
        gate_public_key=gate_public_key,
        community_id=community_id,
        lot_id=lot_id,
        lanes=lanes,
        secrets=device_secrets,
        edge_box_id=EDGE_BOX,
        plates=[plate for *_, plates in HOUSEHOLDS for plate in plates],
        manager_phone=MANAGER_PHONE,
        manager_password=manager_password,
        resident_phone=RESIDENT_PHONE,
        visitor_phone=VISITOR_PHONE,
    )


async def _community(nobody: Api, operator: dict[str, str]) -> str:
    signed_in = await nobody.signed_in("/v1/sign-in/password", operator)
    body = {
        "name": "邻里示范小区",
        "time_zone": "Asia/Shanghai",
        "modules": MODULES,
        "manager_phone": MANAGER_PHONE,
        "manager_name": "物业经理老刘",
    }
    community = await signed_in.call("POST", "/v1/communities", body, key="demo-community")
    return str(community["community_id"])


async def _manager(nobody: Api, community_id: str, password: str, newest_code: Any) -> Api:
    by_password = {"community_id": community_id, "phone": MANAGER_PHONE, "password": password}
    try:
        return await nobody.signed_in("/v1/sign-in/password", by_password)
    except SeedError:
        pass  # The first time there is no password yet.
    await nobody.call("POST", "/v1/sign-in/codes", {"community_id": community_id, "phone": MANAGER_PHONE})
    code = await asyncio.to_thread(newest_code, MANAGER_PHONE)
    body = {"community_id": community_id, "phone": MANAGER_PHONE, "code": code}
    manager = await nobody.signed_in("/v1/sign-in/code", body)
    await manager.call("PUT", "/v1/me/password", {"new_password": password})
    return manager


async def _people(manager: Api) -> list[str]:
    for phone, name, role in ROLES:
        await manager.call("POST", "/v1/role-grants", {"phone": phone, "name": name, "role": role}, key=f"demo-role-{phone}")
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


async def _parking(manager: Api, households: list[str]) -> tuple[str, list[DemonstrationLane], dict[str, str]]:
    now = datetime.now(UTC).replace(microsecond=0)
    body = {"name": "地下车库", "full_lot_admits_permits": True, "admits_temporary": True}
    lot_id = (await manager.call("POST", "/v1/parking/lots", body, key="demo-lot"))["lot_id"]
    path = f"/v1/parking/lots/{lot_id}"
    area = await manager.call("POST", f"{path}/areas", {"name": "B1", "capacity": 60}, key="demo-area")
    spaces = []
    for index in range(4):
        label = {"label": f"B1-{index + 1:02}"}
        space = await manager.call("POST", f"/v1/parking/areas/{area['area_id']}/spaces", label, key=f"demo-space-{index}")
        spaces.append(space["space_id"])
    # Dates are whole days, so that a repeated start asks for the same.
    today = now.replace(hour=0, minute=0, second=0)
    tariff = {"effective_from": "2026-01-01T00:00:00Z", "rules": TARIFF}
    await manager.call("POST", f"{path}/tariffs", tariff, key="demo-tariff")
    for space_id, index in zip(spaces, (0, 1, 5), strict=False):
        permit = {
            "household_id": households[index],
            "space_id": space_id,
            "plates": HOUSEHOLDS[index][4],
            "valid_from": today.isoformat(),
            "valid_until": (today + timedelta(days=31)).isoformat(),
        }
        await manager.call("POST", f"{path}/permits", permit, key=f"demo-permit-{index}-{today.date()}")
    visit = {"plate": "京H98765", "valid_from": today.isoformat(), "valid_until": (today + timedelta(days=2)).isoformat()}
    await manager.call("POST", f"/v1/households/{households[0]}/visitor-passes", visit, key=f"demo-visit-{today.date()}")
    lanes, device_secrets = await _lanes(manager, path)
    return lot_id, lanes, device_secrets


async def _lanes(manager: Api, path: str) -> tuple[list[DemonstrationLane], dict[str, str]]:
    device_secrets = {EDGE_BOX: await _device(manager, EDGE_BOX, "车库环境监测", "DEVICE_KIND_EDGE_BOX")}
    lanes = []
    for name, entry, protocol, camera, gate in LANES:
        device_secrets[camera] = await _device(manager, camera, f"{name}相机", _KINDS[protocol])
        if gate != camera:
            device_secrets[gate] = await _device(manager, gate, f"{name}道闸", "DEVICE_KIND_GATE")
        body = {
            "name": name,
            "direction": "DIRECTION_ENTRY" if entry else "DIRECTION_EXIT",
            "camera_device_id": camera,
            "gate_device_id": gate,
            "offline_rule": "OFFLINE_RULE_STAY_SHUT",
        }
        lane = await manager.call("POST", f"{path}/lanes", body, key=f"demo-lane-{camera}")
        lanes.append(DemonstrationLane(lane["lane_id"], name, entry, protocol, camera, gate))
    return lanes, device_secrets


async def _device(manager: Api, device_id: str, name: str, kind: str) -> str:
    """Registers a device, or gives one that an interrupted start has registered a new secret. Returns its secret."""
    body = {"device_id": device_id, "name": name, "kind": kind}
    made = await manager.call("POST", "/v1/devices", body, expect=httpx.codes.CONFLICT)
    if made is None:
        made = await manager.call("POST", f"/v1/devices/{device_id}:rotateSecret", {}, key=secrets.token_hex(8))
    return str(made["secret"])
