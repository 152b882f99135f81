"""Whether an installation works: a short journey through it, as phones and cameras see it, in a community that is there for nothing else.

`linli bootstrap` founds that community. What a journey needs in it is made by the first and found by the others; each adds one stay and one
work order, and ends both. Journeys go one after the other. A service that the installation leaves out is named by the caller, for one that
is silent is broken.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import typer

from console import catalog
from console.provisioning import OperatorSettings
from console.seed import Api, SeedError
from console.seed.devices import register_device
from console.simulator.cameras import Answer, PushCamera
from services.identity.store import TRIAL_COMMUNITY

_TIMEOUT_S = 10.0
# How long what is news to a service may take, such as a device's new secret.
_NEWS_S = 15.0
_ASK_AGAIN_S = 0.2
_NAME, _SKILL, _PLATE = "自检", "trial", "京A00001"
_FEE_FEN = 100
_TARIFF = {
    "name": _NAME,
    "rate_unit_period": "stay",
    "grace_minutes": 5,
    "bands": [{"name": _NAME, "rates": [{"rate_unit": "day", "increment_duration": 1, "increment_amount": _FEE_FEN}]}],
}
_WEEK = [{"weekday": day, "from_minute": 0, "until_minute": 1440} for day in range(1, 8)]
_PROMISE = {"priority": "PRIORITY_NORMAL", "response_minutes": 15, "on_site_minutes": 60, "done_minutes": 240, "round_the_clock": True}
# What shows that a service answers which is not part of the journey.
_QUESTIONS = {
    "access": "/v1/access/doors?page_size=1",
    "ingest": "/v1/devices?page_size=1",
    "insights": "/v1/devices/trial-camera-in/objects?page_size=1",
    "points": "/v1/points/rule-books?page_size=1",
    "waste": "/v1/waste/bins?page_size=1",
}


class SmokeError(Exception):
    """A step went wrong; the text says which and how."""


@dataclass(slots=True)
class _Journey:
    gateway_url: str
    ingest_url: str
    client: httpx.AsyncClient
    without: Set[str]
    manager: Api

    def has(self, *services: str) -> bool:
        """Whether the installation has these services; says so when it has not."""
        if missing := [name for name in services if name in self.without]:
            typer.echo(f"skip          without {', '.join(missing)}: {', '.join(services)}")
        return not missing

    async def step(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Does one thing and says how long it took. Raises SmokeError."""
        started = time.perf_counter()
        try:
            result = await work()
        except (SeedError, httpx.HTTPError, _Unlike, LookupError, ValueError) as error:
            raise SmokeError(f"FAIL  {time.perf_counter() - started:5.2f} s  {name}: {str(error) or type(error).__name__}") from error
        typer.echo(f"ok    {time.perf_counter() - started:5.2f} s  {name}")
        return result


class _Unlike(Exception):
    """An answer that is not what was to be."""


async def smoke(gateway_url: str, ingest_url: str, operator: OperatorSettings, without: Sequence[str] = ()) -> None:
    """Goes through an installation and prints each step; services in `without` are left out. Raises SmokeError at the first that fails."""
    async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
        nobody = Api(client, gateway_url.rstrip("/"))
        journey = _Journey(gateway_url, ingest_url.rstrip("/"), client, frozenset(without), nobody)
        await journey.step("the gateway answers", lambda: nobody.call("GET", "/v1/communities?page_size=1"))
        tokens = await journey.step("a manager signs in", lambda: _sign_in(nobody, operator))
        journey.manager = nobody.bearing(tokens)
        await journey.step("modules are switched on", lambda: _switch_on(journey))
        # A token names the modules that were on when it was issued.
        refresh = {"refresh_token": tokens["refresh_token"]}
        tokens = await journey.step("the sign-in is renewed", lambda: nobody.call("POST", "/v1/tokens/refresh", refresh))
        journey.manager = nobody.bearing(tokens)
        if journey.has("parking", "ingest"):
            await _park(journey)
        if journey.has("workorders"):
            await _report(journey)
        for name, path in _QUESTIONS.items():
            if journey.has(name):
                await journey.step(f"{name} answers", partial(journey.manager.call, "GET", path))
        refresh = {"refresh_token": tokens["refresh_token"]}
        await journey.step("the manager signs out", lambda: nobody.call("POST", "/v1/tokens/revoke", refresh))


async def _sign_in(nobody: Api, operator: OperatorSettings) -> Any:
    body = {"community_id": str(TRIAL_COMMUNITY), "phone": operator.operator_phone, "password": operator.operator_password}
    return await nobody.call("POST", "/v1/sign-in/password", body)


async def _switch_on(journey: _Journey) -> None:
    names = sorted(set(catalog.modules()) - journey.without)
    await journey.manager.call("PATCH", "/v1/community", {"modules": {"names": names}})


async def _soon(what: str, probe: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer of `probe` that is something. Raises _Unlike when there is none."""
    end = time.monotonic() + _NEWS_S
    while not (answer := await probe()):
        if time.monotonic() > end:
            raise _Unlike(f"{what}: not within {_NEWS_S:.0f} s")
        await asyncio.sleep(_ASK_AGAIN_S)
    return answer


# A car.


async def _park(journey: _Journey) -> None:
    manager = journey.manager
    lot_id, exit_lane_id = await journey.step("a car park is there", lambda: _car_park(manager))
    entry, leave = await journey.step("its cameras have secrets", lambda: _cameras(journey))

    async def let_out() -> None:
        body = {"reason": _NAME, "plate": _PLATE}
        await manager.call("POST", f"/v1/parking/lanes/{exit_lane_id}:open", body)
        await _soon("the stay ends", lambda: _is_outside(manager))

    async def cleared() -> int:
        # A journey that was broken off may have left its car there.
        if not await _is_outside(manager):
            await let_out()
        return await _inside(manager, lot_id)

    before = await journey.step("no car of an earlier journey is inside", cleared)
    await journey.step("a car comes: the gate opens", lambda: _pass(entry, opens=True))
    await journey.step("it is counted", lambda: _counted(manager, lot_id, before + 1))
    if journey.has("billing"):
        await journey.step("what it owes is charged", lambda: _charged(manager, lot_id))
    await journey.step("it has not paid: the gate stays shut", lambda: _pass(leave, opens=False))
    await journey.step("a guard lets it out", let_out)
    await journey.step("it is counted", lambda: _counted(manager, lot_id, before))


async def _car_park(manager: Api) -> tuple[str, str]:
    """The trial's lot and its exit, made where they are not yet."""
    taken = httpx.codes.CONFLICT
    await manager.call("POST", "/v1/parking/lots", {"name": _NAME, "admits_temporary": True}, expect=taken)
    lots = (await manager.call("GET", "/v1/parking/lots?page_size=100"))["lots"]
    lot_id = str(next(lot["lot_id"] for lot in lots if lot["name"] == _NAME))
    path = f"/v1/parking/lots/{lot_id}"
    await manager.call("POST", f"{path}/areas", {"name": _NAME, "capacity": 10}, expect=taken)
    if not (await manager.call("GET", f"{path}/tariffs?page_size=1"))["tariffs"]:
        await manager.call("POST", f"{path}/tariffs", {"effective_from": "2026-01-01T00:00:00Z", "rules": _TARIFF})
    for name, direction in (("in", "ENTRY"), ("out", "EXIT")):
        lane = {
            "name": name,
            "direction": f"DIRECTION_{direction}",
            "camera_device_id": f"trial-camera-{name}",
            "gate_device_id": f"trial-camera-{name}",
            "offline_rule": "OFFLINE_RULE_STAY_SHUT",
        }
        await manager.call("POST", f"{path}/lanes", lane, expect=taken)
    lanes = (await manager.call("GET", path))["lanes"]
    return lot_id, str(next(lane["lane_id"] for lane in lanes if lane["name"] == "out"))


async def _cameras(journey: _Journey) -> list[PushCamera]:
    cameras = []
    for name in ("trial-camera-in", "trial-camera-out"):
        secret = await register_device(journey.manager, name, name, "PLATE_CAMERA")
        cameras.append(PushCamera(journey.client, journey.ingest_url, name, secret))
    return cameras


async def _pass(camera: PushCamera, *, opens: bool) -> None:
    """The car stands before a camera, which says so until it is answered, as cameras do: its secret and its lane may be news to ingest."""
    now = datetime.now(UTC)
    last: list[Answer] = []

    async def is_answered() -> bool:
        last[:] = [await camera.push(_PLATE, now)]
        return last[0].status == httpx.codes.OK and (last[0].opened or not opens)

    try:
        await _soon("the camera is answered", is_answered)
    except _Unlike as error:
        raise _Unlike(f"{error}; last {last[0].status} {last[0].body}") from None
    if last[0].opened != opens:
        raise _Unlike(f"the gate {'stays shut' if opens else 'opens'}: {last[0].body}")


async def _is_outside(manager: Api) -> bool:
    sessions = await manager.call("GET", f"/v1/parking/sessions?plate={_PLATE}&state=SESSION_STATE_OPEN")
    return not sessions["sessions"]


async def _inside(manager: Api, lot_id: str) -> int:
    return int((await manager.call("GET", f"/v1/parking/lots/{lot_id}/occupancy"))["inside"])


async def _counted(manager: Api, lot_id: str, inside: int) -> None:
    async def is_right() -> bool:
        return await _inside(manager, lot_id) == inside

    await _soon(f"{inside} inside", is_right)


async def _charged(manager: Api, lot_id: str) -> None:
    quote = await manager.call("POST", "/v1/parking/quotes", {"lot_id": lot_id, "plate": _PLATE})

    async def is_known() -> Any:
        return await manager.call("GET", f"/v1/charges/{quote['charge_id']}", expect=httpx.codes.NOT_FOUND)

    charge = await _soon("billing knows the charge", is_known)
    if int(charge["amount_fen"]) != _FEE_FEN:
        raise _Unlike(f"{charge['amount_fen']} fen, not {_FEE_FEN}")


# A work order.


async def _report(journey: _Journey) -> None:
    manager = journey.manager
    category_id = await journey.step("somebody answers work orders", lambda: _technician(manager))
    body = {"category_id": category_id, "title": _NAME}
    order = await journey.step("a work order is reported", lambda: manager.call("POST", "/v1/work-orders", body))
    path = f"/v1/work-orders/{order['order_id']}"
    await journey.step("it is accepted", lambda: manager.call("POST", f"{path}:accept", {}))
    await journey.step("it is taken back", lambda: manager.call("POST", f"{path}:cancel", {"reason": _NAME}))


async def _technician(manager: Api) -> str:
    """The trial's category of work orders, whose one technician is the manager."""
    taken = httpx.codes.CONFLICT
    category = {"code": "trial", "name_zh": _NAME, "name_en": "Trial", "kind": "ORDER_KIND_REPAIR", "skill": _SKILL, "targets": [_PROMISE]}
    await manager.call("POST", "/v1/work-order-categories", category, expect=taken)
    await manager.call("POST", "/v1/work-order-teams", {"name": _NAME}, expect=taken)
    teams = (await manager.call("GET", "/v1/work-order-teams?page_size=100"))["teams"]
    me = (await manager.call("GET", "/v1/me"))["account"]["account_id"]
    technician = {"name": _NAME, "team_id": teams[0]["team_id"], "skills": [_SKILL], "shifts": _WEEK, "in_use": True}
    await manager.call("PUT", f"/v1/technicians/{me}", technician)
    categories = (await manager.call("GET", "/v1/work-order-categories"))["categories"]
    return str(next(each["category_id"] for each in categories if each["code"] == "trial"))
