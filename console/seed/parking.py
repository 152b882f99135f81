"""The demonstration's garage: its prices, its permits, its lanes and their devices."""

from datetime import UTC, datetime, timedelta

from console.demonstration import DemonstrationLane
from console.seed.api import Api
from console.seed.devices import register_device
from console.seed.people import HOUSEHOLDS

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
_KINDS = {"push": "PLATE_CAMERA", "viid": "VIID"}


async def seed_parking(manager: Api, households: list[str]) -> tuple[str, list[DemonstrationLane], dict[str, str]]:
    """Builds the garage and hands out permits. Returns the lot's id, its lanes, and the secret of each device."""
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
    return str(lot_id), lanes, device_secrets


async def _lanes(manager: Api, path: str) -> tuple[list[DemonstrationLane], dict[str, str]]:
    device_secrets = {EDGE_BOX: await register_device(manager, EDGE_BOX, "车库环境监测", "EDGE_BOX")}
    lanes = []
    for name, entry, protocol, camera, gate in LANES:
        device_secrets[camera] = await register_device(manager, camera, f"{name}相机", _KINDS[protocol])
        if gate != camera:
            device_secrets[gate] = await register_device(manager, gate, f"{name}道闸", "GATE")
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
