"""Registering the demonstration's devices."""

import secrets

import httpx

from console.seed.api import Api


async def register_device(manager: Api, device_id: str, name: str, kind: str) -> str:
    """Registers a device, or gives one that an interrupted start has registered a new secret. Returns its secret."""
    body = {"device_id": device_id, "name": name, "kind": f"DEVICE_KIND_{kind}"}
    made = await manager.call("POST", "/v1/devices", body, expect=httpx.codes.CONFLICT)
    if made is None:
        made = await manager.call("POST", f"/v1/devices/{device_id}:rotateSecret", {}, key=secrets.token_hex(8))
    return str(made["secret"])
