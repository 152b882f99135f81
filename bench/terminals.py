"""Door terminals for benchmarks: doors of their own in the demonstration's community, each with one terminal on the way in."""

import asyncio

import httpx

from bench.points import sign_in
from console.seed import Api
from console.seed.devices import register_device
from console.up import Local

_AT_ONCE = 8


async def set_up(local: Local, prefix: str, count: int) -> dict[str, str]:
    """Registers terminals called after `prefix`, each at a door of one zone that everybody uses. Returns their secrets."""
    token = await sign_in(local)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        manager = Api(client, local.gateway_url, token)
        body = {"name": prefix, "kind": "ZONE_KIND_COMMUNITY"}
        zone_id = (await manager.call("POST", "/v1/access/zones", body))["zone_id"]
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(device_id: str) -> str:
            async with turn:
                secret = await register_device(manager, device_id, device_id, "TERMINAL")
                door = {
                    "zone_id": zone_id,
                    "name": device_id,
                    "kind": "DOOR_KIND_COMMUNITY_GATE",
                    "credential_kinds": ["CREDENTIAL_KIND_CARD", "CREDENTIAL_KIND_CODE"],
                    "anti_passback": "ANTI_PASSBACK_OFF",
                }
                door_id = (await manager.call("POST", "/v1/access/doors", door))["door_id"]
                place = {"device_id": device_id, "direction": "DIRECTION_IN"}
                await manager.call("POST", f"/v1/access/doors/{door_id}/terminals", place)
                return secret

        names = [f"{prefix}-{number}" for number in range(count)]
        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
