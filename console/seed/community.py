"""Founds the demonstration community, as an operator and then its property company would, and adds what came with later versions."""

import asyncio
from collections.abc import Callable

import httpx
import msgspec

from console import catalog
from console.demonstration import Demonstration
from console.seed.api import Api, SeedError
from console.seed.doors import seed_cameras, seed_doors, set_pin
from console.seed.parking import EDGE_BOX, seed_parking
from console.seed.people import HOUSEHOLDS, MANAGER_PHONE, PIN_PHONE, RESIDENT_PHONE, VISITOR_PHONE, seed_people
from console.seed.points import seed_points
from console.seed.waste import seed_waste
from console.seed.work import seed_work

_TIMEOUT_S = 20.0


async def seed(
    *,
    gateway_url: str,
    ingest_url: str,
    mqtt: tuple[str, int],
    gate_public_key: str,
    operator: dict[str, str],
    manager_password: str,
    newest_code: Callable[[str], str | None],
) -> Demonstration:
    """Creates the community, its people and its garage, and returns what was created.

    `operator` signs in by password; `newest_code(phone)` reads one-time codes. Raises SeedError.
    """
    async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
        nobody = Api(client, gateway_url)
        community_id = await _community(nobody, operator)
        manager = await _give_password(nobody, community_id, MANAGER_PHONE, manager_password, newest_code)
        households = await seed_people(manager)
        lot_id, lanes, device_secrets = await seed_parking(manager, households)
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


async def seed_green(founded: Demonstration) -> Demonstration:
    """Adds smart bins and points, and returns the demonstration with them. Raises SeedError."""
    async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
        manager = await _manager_with(Api(client, founded.gateway_url), founded, ("points", "waste"))
        await seed_points(manager)
        bins, residents, device_secrets = await seed_waste(manager)
    return msgspec.structs.replace(founded, bins=bins, residents=residents, secrets={**founded.secrets, **device_secrets})


async def seed_safe(founded: Demonstration, newest_code: Callable[[str], str | None]) -> Demonstration:
    """Adds doors, cameras and those who answer when something is broken; returns the demonstration with them. Raises SeedError."""
    async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
        nobody = Api(client, founded.gateway_url)
        manager = await _manager_with(nobody, founded, ("access", "workorders"))
        technicians = await seed_work(manager)
        terminals, residents, device_secrets = await seed_doors(manager)
        watch, box_secret = await seed_cameras(manager)
        for technician in technicians:
            await _give_password(nobody, founded.community_id, technician.phone, founded.manager_password, newest_code)
        resident = await _by_code(nobody, founded.community_id, PIN_PHONE, newest_code)
        typed = await set_pin(resident)
    return msgspec.structs.replace(
        founded,
        residents=residents,
        terminals=terminals,
        technicians=technicians,
        watch=watch,
        pins={each.account_id: typed for each in residents if each.phone == PIN_PHONE},
        secrets={**founded.secrets, **device_secrets, **box_secret},
    )


async def _manager_with(nobody: Api, founded: Demonstration, modules: tuple[str, ...]) -> Api:
    """The manager, once these modules are switched on."""
    manager = await _by_password(nobody, founded.community_id, MANAGER_PHONE, founded.manager_password)
    present = (await manager.call("GET", "/v1/community"))["modules"]
    if missing := [name for name in modules if name not in present]:
        await manager.call("PATCH", "/v1/community", {"modules": {"names": [*present, *missing]}})
        # A token names the modules that were on when it was issued.
        manager = await _by_password(nobody, founded.community_id, MANAGER_PHONE, founded.manager_password)
    return manager


async def _community(nobody: Api, operator: dict[str, str]) -> str:
    signed_in = await nobody.signed_in("/v1/sign-in/password", operator)
    body = {
        "name": "邻里示范小区",
        "time_zone": "Asia/Shanghai",
        "modules": catalog.modules(),
        "manager_phone": MANAGER_PHONE,
        "manager_name": "物业经理老刘",
    }
    community = await signed_in.call("POST", "/v1/communities", body, key="demo-community")
    return str(community["community_id"])


async def _by_password(nobody: Api, community_id: str, phone: str, password: str) -> Api:
    return await nobody.signed_in("/v1/sign-in/password", {"community_id": community_id, "phone": phone, "password": password})


async def _by_code(nobody: Api, community_id: str, phone: str, newest_code: Callable[[str], str | None]) -> Api:
    await nobody.call("POST", "/v1/sign-in/codes", {"community_id": community_id, "phone": phone})
    code = await asyncio.to_thread(newest_code, phone)
    return await nobody.signed_in("/v1/sign-in/code", {"community_id": community_id, "phone": phone, "code": code})


async def _give_password(nobody: Api, community_id: str, phone: str, password: str, newest_code: Callable[[str], str | None]) -> Api:
    """Somebody of the staff, who sets a password when they have none yet."""
    try:
        return await _by_password(nobody, community_id, phone, password)
    except SeedError:
        staff = await _by_code(nobody, community_id, phone, newest_code)
    await staff.call("PUT", "/v1/me/password", {"new_password": password})
    return staff
