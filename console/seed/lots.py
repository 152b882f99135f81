"""Parking lots beside the demonstration's: as many lanes as a load, a drill or a benchmark needs, their barriers wired to their cameras."""

from collections.abc import Mapping
from typing import Any, Protocol


class Manager(Protocol):
    """A signed-in property manager, as a phone or by `console.seed.Api`."""

    async def call(self, verb: str, path: str, body: object = None) -> Any: ...


async def open_lot(manager: Manager, name: str, *, capacity: int, rules: Mapping[str, object] | None = None) -> str:
    """A lot with one area that anybody may enter; without `rules` it has no tariff. Returns its id."""
    lot_id: str = (await manager.call("POST", "/v1/parking/lots", {"name": name, "admits_temporary": True}))["lot_id"]
    await manager.call("POST", f"/v1/parking/lots/{lot_id}/areas", {"name": "A", "capacity": capacity})
    if rules is not None:
        tariff = {"effective_from": "2026-01-01T00:00:00Z", "rules": rules}
        await manager.call("POST", f"/v1/parking/lots/{lot_id}/tariffs", tariff)
    return lot_id


async def open_lane(manager: Manager, lot_id: str, name: str, *, entry: bool) -> str:
    """A lane whose plate camera is called as the lane is and opens its barrier itself. Returns the camera's secret."""
    camera = await manager.call("POST", "/v1/devices", {"device_id": name, "name": name, "kind": "DEVICE_KIND_PLATE_CAMERA"})
    await manager.call("POST", f"/v1/parking/lots/{lot_id}/lanes", lane_of_camera(name, entry=entry))
    return str(camera["secret"])


def lane_of_camera(name: str, *, entry: bool) -> dict[str, str]:
    """A lane that is called as its camera is, which opens the barrier itself."""
    return {
        "name": name,
        "direction": "DIRECTION_ENTRY" if entry else "DIRECTION_EXIT",
        "camera_device_id": name,
        "gate_device_id": name,
        "offline_rule": "OFFLINE_RULE_STAY_SHUT",
    }
