"""People come and go at the doors: residents with cards, PINs, phones and codes, visitors with what their hosts sent, and strangers."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from console.demonstration import DemonstrationResident, DemonstrationTerminal
from console.simulator.terminals import ConnectedTerminal, Terminal
from console.simulator.town import Town, say, troubled
from services.access.doors import CredentialKind

# Each who goes out passes about three doors.
_DOORS_OF_A_TRIP = 3
_STRANGERS, _VISITORS = 0.12, 0.08
_OUT_S, _TO_THE_BUILDING_S = (8.0, 45.0), (6.0, 12.0)
_VISIT: Final = timedelta(minutes=30)
_UNKNOWN_CARD = "0999999999"
# For how long a terminal has its network, on average, and for how long it then has not.
_CONNECTED_S, _CUT_OFF_S = 600.0, (20.0, 60.0)
# Until terminals that are new know their rules.
_LEARN_S, _LOOK_S = 30.0, 0.2


@dataclass(slots=True)
class Doors:
    """The terminals, and who is out."""

    town: Town
    terminals: dict[str, ConnectedTerminal] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)

    def at(self, *, entry: bool, building: str = "") -> DemonstrationTerminal:
        """A terminal at a building, or at one of the gates."""
        plans = [each for each in self.town.demonstration.terminals if each.entry == entry and each.building == building]
        # The lounge's terminal comes last, and has no way out.
        return self.town.chance.choice(plans if building else plans[:2])


def make_doors(town: Town) -> Doors:
    """The terminals, not yet connected. What they know and have written down is kept in the folder."""
    plan, doors = town.demonstration, Doors(town)
    for each in plan.terminals:
        terminal = Terminal(town.folder / "terminals" / each.device_id, each.device_id, plan.door_public_key)
        doors.terminals[each.device_id] = ConnectedTerminal(plan.mqtt_host, plan.mqtt_port, plan.secrets[each.device_id], terminal)
    return doors


def connect_doors(doors: Doors) -> list[Coroutine[Any, Any, None]]:
    """What has to run for as long as the terminals work."""
    return [_serve(doors, terminal) for terminal in doors.terminals.values()]


async def _serve(doors: Doors, terminal: ConnectedTerminal) -> None:
    """Keeps a terminal connected, but for some seconds now and then."""
    chance = doors.town.chance
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEARN_S + chance.expovariate(1 / _CONNECTED_S)):
                await terminal.run()
        say("terminal_offline", terminal=terminal.terminal.device_id)
        await asyncio.sleep(chance.uniform(*_CUT_OFF_S))


async def come_and_go(doors: Doors, passages_per_minute: int, minutes: float) -> None:
    """Lets people come and go for a number of minutes, or with 0 until it is cancelled."""
    town = doors.town
    if not passages_per_minute or not doors.terminals:
        return
    end = time.monotonic() + minutes * 60 if minutes else float("inf")
    await _learned(doors)
    trips: set[asyncio.Task[None]] = set()
    try:
        while time.monotonic() < end:
            trip = asyncio.create_task(_somebody(doors))
            trips.add(trip)
            trip.add_done_callback(trips.discard)
            await asyncio.sleep(town.chance.expovariate(passages_per_minute / _DOORS_OF_A_TRIP / 60))
        await asyncio.gather(*trips, return_exceptions=True)
    finally:
        for trip in trips:
            trip.cancel()


async def _learned(doors: Doors) -> None:
    for _ in range(int(_LEARN_S / _LOOK_S)):
        if all(each.terminal.knowledge.version for each in doors.terminals.values()):
            return
        await asyncio.sleep(_LOOK_S)


async def _somebody(doors: Doors) -> None:
    chance = doors.town.chance
    dice = chance.random()
    if dice < _STRANGERS:
        await _pass(doors, doors.at(entry=True), "", CredentialKind.CARD, _UNKNOWN_CARD)
    elif dice < _STRANGERS + _VISITORS:
        with troubled("a visitor"):
            await _visit(doors, chance.choice(doors.town.neighbours()))
    elif at_home := [each for each in doors.town.demonstration.residents if each.account_id not in doors.away]:
        resident = chance.choice(at_home)
        doors.away.add(resident.account_id)
        try:
            with troubled(resident.name):
                await _go_out_and_return(doors, resident)
        finally:
            doors.away.discard(resident.account_id)


async def _go_out_and_return(doors: Doors, resident: DemonstrationResident) -> None:
    chance = doors.town.chance
    await _use(doors, doors.at(entry=False), resident)
    await asyncio.sleep(chance.uniform(*_OUT_S))
    await _use(doors, doors.at(entry=True), resident)
    await asyncio.sleep(chance.uniform(*_TO_THE_BUILDING_S))
    await _use(doors, doors.at(entry=True, building=resident.building), resident)


async def _use(doors: Doors, place: DemonstrationTerminal, resident: DemonstrationResident) -> None:
    """A resident passes a door in one of the ways that they have."""
    town = doors.town
    ways = [CredentialKind.CARD] * 3
    if resident.account_id in town.demonstration.pins:
        ways += [CredentialKind.PIN] * 3
    if resident in town.neighbours():
        ways += [CredentialKind.CODE, *([CredentialKind.PHONE] if place.entry else [])]
    way = town.chance.choice(ways)
    if way is CredentialKind.PIN:
        value = town.demonstration.pins[resident.account_id]
    elif way is CredentialKind.CODE:
        value = (await town.resident(resident.phone).request("POST", "/v1/me/access/codes", {})).json()["code"]
    elif way is CredentialKind.PHONE:
        await _open_by_phone(doors, place, resident)
        return
    else:
        value = resident.card_number
    await _pass(doors, place, resident.name, way, value)


async def _open_by_phone(doors: Doors, place: DemonstrationTerminal, resident: DemonstrationResident) -> None:
    answer = await doors.town.resident(resident.phone).request("POST", f"/v1/me/access/doors/{place.door_id}:open", {})
    reason = "" if answer.is_success else str(answer.json()["code"])
    _say(place, resident.name, CredentialKind.PHONE, reason, offline=False, visitor=False)


async def _pass(doors: Doors, place: DemonstrationTerminal, who: str, way: CredentialKind, value: str, *, visitor: bool = False) -> None:
    decision = await doors.terminals[place.device_id].present(way, value)
    _say(place, who, way, decision.reason, offline=decision.offline, visitor=visitor)


def _say(place: DemonstrationTerminal, who: str, way: CredentialKind, reason: str, *, offline: bool, visitor: bool) -> None:
    opened = not reason
    say("door", door=place.door, who=who, credential=way.value, opened=opened, reason=reason, offline=offline, visitor=visitor)


async def _visit(doors: Doors, host: DemonstrationResident) -> None:
    """A resident invites somebody, who confirms, and comes through a gate and to the host's building."""
    town, now, name = doors.town, datetime.now(UTC), f"{host.name}的客人"
    body = {
        "kind": "PASS_KIND_VISIT",
        "visitor_name": name,
        "valid_from": now.isoformat(),
        "valid_until": (now + _VISIT).isoformat(),
        "one_time": True,
    }
    made = await town.resident(host.phone).request("POST", f"/v1/households/{host.household_id}/passes", body)
    invitation = f"{town.demonstration.gateway_url}/v1/invitations/{made.json()['link']}"
    await town.client.post(f"{invitation}:confirm", json={})
    for place in (doors.at(entry=True), doors.at(entry=True, building=host.building)):
        code = (await town.client.post(f"{invitation}/codes", json={})).json()["code"]
        await _pass(doors, place, name, CredentialKind.CODE, code, visitor=True)
        await asyncio.sleep(town.chance.uniform(*_TO_THE_BUILDING_S))
