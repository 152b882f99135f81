"""Somebody takes back the consent to be known by their face while doors are off the network: each forgets it as soon as it is back."""

import base64
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from console.simulator.terminals import ConnectedTerminal, Terminal
from services.access.deciding import Reason
from services.access.doors import CredentialKind
from tests.journeys.people import ALL_IN_ONE, Phone, Town
from tests.support import eventually

DOORS = ("demo-door-east-in", "demo-door-west-in", "demo-door-1")
GONE_WITHIN_S = 5.0
TEMPLATE = b"nobody else looks like this" * 8


async def give(resident: Phone, kind: str) -> str:
    """Gives a consent as the app asks for it. Returns its id."""
    texts = (await resident.call("GET", "/v1/access/consent-texts"))["texts"]
    version = next(each["version"] for each in texts if each["kind"] == kind)
    given = await resident.call("POST", "/v1/me/access/consents", {"kind": kind, "text_version": version})
    assert given["channel"] == "CONSENT_CHANNEL_APP"
    return str(given["consent_id"])


def traces(terminal: Terminal, folder: Path, account_id: UUID) -> set[str]:
    """What a terminal has of somebody's face: that it may know it, its template in memory, and on the disk in any form."""
    entry = terminal.knowledge.entries.get(account_id)
    files = [file.read_bytes() for file in (folder / terminal.device_id).iterdir()]
    forms = (TEMPLATE, TEMPLATE.hex().encode(), base64.b64encode(TEMPLATE))
    found = {
        "known": entry is not None and entry.face,
        "in memory": TEMPLATE in terminal.knowledge.templates.values(),
        "on disk": any(form in file for form in forms for file in files),
    }
    return {where for where, is_there in found.items() if is_there}


async def confirmed(resident: Phone, consent_id: str) -> set[str]:
    """The terminals that have said that they have forgotten."""
    consents = await resident.rows("/v1/me/access/consents?", "consents")
    removals = next(each["removals"] for each in consents if each["consent_id"] == consent_id)
    assert {each["device_id"] for each in removals} >= set(DOORS)
    return {each["device_id"] for each in removals if each.get("confirmed_at")}


@ALL_IN_ONE
async def test_a_consent_withdrawn_while_three_doors_are_offline_is_gone_from_each_within_5_s_of_its_return(
    town: Town, tmp_path: Path
) -> None:
    plan = town.demonstration
    who = next(each for each in plan.residents if each.phone == plan.resident_phone)
    account_id = UUID(who.account_id)
    resident = await town.visitor(plan.resident_phone)
    consents = [await give(resident, f"CONSENT_KIND_FACE_ON_{place}") for place in ("TERMINALS", "SERVER")]
    await resident.call("POST", "/v1/me/access/face", {"template": base64.b64encode(TEMPLATE).decode()})

    doors = [town.terminal(device_id, tmp_path) for device_id in DOORS]
    async with AsyncExitStack() as connected:
        online = [await connected.enter_async_context(town.online(door)) for door in doors]

        async def all_know() -> bool:
            return all(traces(door, tmp_path, account_id) == {"known", "in memory", "on disk"} for door in doors)

        await eventually(all_know, "every door knows the face")
        for terminal in online:
            assert (await terminal.present(CredentialKind.FACE, who.account_id)).opens

    await resident.call("POST", f"/v1/me/access/consents/{consents[0]}:withdraw", {})
    assert not await confirmed(resident, consents[0])
    assert all(traces(door, tmp_path, account_id) for door in doors)

    for number, door in enumerate(doors, start=1):
        returned = time.monotonic()
        async with town.online(door) as back:

            async def has_forgotten(door: Terminal = door) -> bool:
                return not traces(door, tmp_path, account_id)

            async def has_said_so(number: int = number) -> Any:
                return await confirmed(resident, consents[0]) == set(DOORS[:number])

            await eventually(has_forgotten, f"{door.device_id} forgets the face", deadline_s=GONE_WITHIN_S)
            gone_s = time.monotonic() - returned
            await eventually(has_said_so, f"{door.device_id} has said so", every_s=0.1)
            print(f"{door.device_id}: gone after {gone_s:.3f} s, said so after {time.monotonic() - returned:.3f} s")
            assert gone_s < GONE_WITHIN_S
            await check_other_ways(back, who.account_id, who.card_number)


async def check_other_ways(door: ConnectedTerminal, account_id: str, card_number: str) -> None:
    """The face opens nothing any more, asked or not; the card opens as before."""
    assert (await door.present(CredentialKind.FACE, account_id)).reason == Reason.UNKNOWN
    alone = door.terminal
    assert alone.decide_alone(alone.show(CredentialKind.FACE, account_id)).reason == Reason.UNKNOWN
    assert (await door.present(CredentialKind.CARD, card_number)).opens
