"""The demonstration's doors, who may pass them beside its residents, and the cameras that watch at night."""

from typing import Any

import httpx

from console.demonstration import DemonstrationResident, DemonstrationTerminal, DemonstrationWatch
from console.seed.api import Api
from console.seed.devices import register_device
from console.seed.people import find_buildings, list_residents

GROUNDS, LOUNGE = "小区", "邻里客厅"
# Zone, door, kind, and its terminals: device and direction. Buildings and the lounge are left by a push button.
DOORS = [
    (GROUNDS, "东门人行门", "COMMUNITY_GATE", [("demo-door-east-in", "IN"), ("demo-door-east-out", "OUT")]),
    (GROUNDS, "西门人行门", "COMMUNITY_GATE", [("demo-door-west-in", "IN"), ("demo-door-west-out", "OUT")]),
    ("1号楼", "1号楼单元门", "BUILDING_ENTRANCE", [("demo-door-1", "IN")]),
    ("2号楼", "2号楼单元门", "BUILDING_ENTRANCE", [("demo-door-2", "IN")]),
    ("3号楼", "3号楼单元门", "BUILDING_ENTRANCE", [("demo-door-3", "IN")]),
    (LOUNGE, "邻里客厅门", "AMENITY", [("demo-door-lounge", "IN")]),
]
_CREDENTIALS = [f"CREDENTIAL_KIND_{kind}" for kind in ("FACE", "CODE", "CARD", "PIN", "PHONE")]
STAFF_ROLES = ("property_staff", "foreman", "technician")
EVERY_DAY = [1, 2, 3, 4, 5, 6, 7]
# From eight in the morning until ten in the evening.
LOUNGE_HOURS = [{"weekdays": EVERY_DAY, "from_minute": 8 * 60, "until_minute": 22 * 60}]
WATCH_BOX = "demo-box-cameras"
CAMERAS = [("demo-camera-east-wall", "东围墙摄像机"), ("demo-camera-garage", "车库通道摄像机")]
PIN = "274951"
# Kind, and the text in Chinese and English.
CONSENT_TEXTS = [
    (
        "FACE_ON_TERMINALS",
        "我同意本小区的门禁终端保存并使用我的人脸特征，仅用于开门。不同意或撤回同意不影响使用门卡、二维码或密码通行。撤回后，各终端随即删除。",
        "I agree that the door terminals of this community keep and use the features of my face, to open doors and for nothing else. "
        "Cards, codes and PINs work without this. When I withdraw my consent, every terminal erases them.",
    ),
    (
        "FACE_ON_SERVER",
        "我另行同意将我的人脸特征加密保存在服务器上，以便更换终端时无需重新采集。撤回后立即删除。",
        "I separately agree that the features of my face are kept encrypted on the server, so that a new terminal needs no new picture. "
        "When I withdraw my consent, they are erased at once.",
    ),
    (
        "CARE_ACTIVITY",
        "我同意使用家中的传感器了解是否有活动。活动明显少于平时规律时，通知我指定的家人。不采集图像和声音，可随时停止。",
        "I agree that sensors at home notice whether there is activity, so that those whom I name are told when there is none for "
        "unusually long. No pictures, no sound. I can stop it at any time.",
    ),
    (
        "CARE_LOCATION",
        "我同意使用随身设备的位置，在离开安全区域时通知监护人。只保留最近的位置，可随时停止。",
        "I agree that the place of my wearable is used to tell my guardians when I leave the safe area. Only the latest place is kept. "
        "I can stop it at any time.",
    ),
]


async def seed_doors(manager: Api) -> tuple[list[DemonstrationTerminal], list[DemonstrationResident], dict[str, str]]:
    """Builds doors and hands cards out. Returns the terminals, the residents with cards, and the terminals' secrets."""
    zones = await _zones(manager)
    terminals, device_secrets = await _doors(manager, zones)
    await _rules(manager, zones)
    if not (await manager.call("GET", "/v1/access/consent-texts")).get("texts"):
        for kind, text_zh, text_en in CONSENT_TEXTS:
            body = {"kind": f"CONSENT_KIND_{kind}", "text_zh": text_zh, "text_en": text_en}
            await manager.call("POST", "/v1/access/consent-texts", body, key=f"demo-consent-{kind}")
    residents = await list_residents(manager)
    for resident in residents:
        body = {"card_number": resident.card_number, "account_id": resident.account_id}
        await manager.call_when_known("POST", "/v1/access/cards", body, key=f"demo-door-card-{resident.card_number}")
    return terminals, residents, device_secrets


async def _zones(manager: Api) -> dict[str, str]:
    """The zones' ids by their names."""
    plans: list[dict[str, Any]] = [{"name": GROUNDS, "kind": "ZONE_KIND_COMMUNITY"}, {"name": LOUNGE, "kind": "ZONE_KIND_AMENITY"}]
    for name, building_id in (await find_buildings(manager)).items():
        plans.append({"name": name, "kind": "ZONE_KIND_BUILDING", "building_id": building_id})
    made = [await manager.call("POST", "/v1/access/zones", plan, key=f"demo-zone-{number}") for number, plan in enumerate(plans)]
    return {zone["name"]: zone["zone_id"] for zone in made}


async def _doors(manager: Api, zones: dict[str, str]) -> tuple[list[DemonstrationTerminal], dict[str, str]]:
    terminals, device_secrets = [], {}
    for zone, name, kind, devices in DOORS:
        body = {
            "zone_id": zones[zone],
            "name": name,
            "kind": f"DOOR_KIND_{kind}",
            "credential_kinds": _CREDENTIALS,
            "anti_passback": f"ANTI_PASSBACK_{'REPORT' if zone == GROUNDS else 'OFF'}",
        }
        door_id = (await manager.call("POST", "/v1/access/doors", body, key=f"demo-{devices[0][0]}"))["door_id"]
        for device_id, direction in devices:
            device_secrets[device_id] = await register_device(manager, device_id, name, "TERMINAL")
            place = {"device_id": device_id, "direction": f"DIRECTION_{direction}"}
            await manager.call("POST", f"/v1/access/doors/{door_id}/terminals", place, key=f"demo-terminal-{device_id}")
            building = "" if zone in (GROUNDS, LOUNGE) else zone
            terminals.append(DemonstrationTerminal(device_id, door_id, name, building, direction == "IN"))
    return terminals, device_secrets


async def _rules(manager: Api, zones: dict[str, str]) -> None:
    """Lets those who work here in everywhere, and residents into the lounge by day."""
    rules: list[dict[str, Any]] = [{"zone_id": zone_id, "role": role} for zone_id in zones.values() for role in STAFF_ROLES]
    rules.append({"zone_id": zones[LOUNGE], "all_residents": True, "windows": LOUNGE_HOURS})
    for number, rule in enumerate(rules):
        await manager.call("POST", "/v1/access/rules", rule, key=f"demo-access-rule-{number}")


async def seed_cameras(manager: Api) -> tuple[DemonstrationWatch, dict[str, str]]:
    """Says where the cameras look, and registers the box that looks at their pictures. Returns both, with the box's secret."""
    secret = await register_device(manager, WATCH_BOX, "安防分析盒", "EDGE_BOX")
    zones = (await manager.call("GET", "/v1/access/zones?page_size=100"))["zones"]
    grounds = next(zone["zone_id"] for zone in zones if zone["name"] == GROUNDS)
    for camera, name in CAMERAS:
        point = {"source_id": camera, "name": name, "kind": "WATCH_POINT_KIND_CAMERA", "zone_id": grounds}
        await manager.call("POST", "/v1/watch-points", point, key=f"demo-watch-{camera}")
    return DemonstrationWatch(WATCH_BOX, [camera for camera, _name in CAMERAS]), {WATCH_BOX: secret}


async def set_pin(resident: Api) -> str:
    """Sets a PIN as a resident does. Returns what is typed at the door: the number, and the PIN behind it."""
    made = await resident.call_when_known("POST", "/v1/me/access/pin", {"pin": PIN}, key="demo-pin", refused=httpx.codes.CONFLICT)
    return f"{made['label']}{PIN}"
