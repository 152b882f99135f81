"""A door is off the network for a day: it decides as it should, and all that it wrote down arrives, once, however often the cable is cut."""

import random
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from console.simulator.terminals import Terminal
from services.access.deciding import Reason
from services.access.doors import CredentialKind
from tests.journeys.cable import Cable
from tests.journeys.people import ALL_IN_ONE, Phone, Town
from tests.support import TestClock, eventually

# Residents may use the lounge from eight in the morning until ten in the evening.
LOUNGE, OPENS, CLOSES = "demo-door-lounge", time(8), time(22)
ZONE = ZoneInfo("Asia/Shanghai")
SHOWN = 1000
CUTS = 5
OUTCOMES = {"granted": "OPENED", "refused": "REFUSED"}
Row = tuple[datetime, str, str, str, str]


async def live_a_day(town: Town, door: Terminal, clock: TestClock, lost_card: str) -> None:
    """Yesterday at the lounge, while it is offline: residents and strangers come at all hours, with cards and PINs."""
    plan = town.demonstration
    chance = random.Random(5)
    typed = next(iter(plan.pins.values()))
    cards = [each.card_number for each in plan.residents if each.card_number != lost_card]
    known = [*((CredentialKind.CARD, card) for card in cards), (CredentialKind.PIN, typed)]
    strangers = [(CredentialKind.CARD, lost_card), (CredentialKind.CARD, "0BADC0DE"), (CredentialKind.FACE, plan.residents[0].account_id)]
    clock.now = datetime.now(UTC) - timedelta(days=1)
    for _ in range(SHOWN):
        clock.advance(seconds=86_400 / (SHOWN + 1))
        is_known = chance.random() < 0.7
        kind, value = chance.choice(known if is_known else strangers)
        is_open = OPENS <= clock.now.astimezone(ZONE).time() < CLOSES
        decided = door.decide_alone(door.show(kind, value))
        expected = Reason.UNKNOWN if not is_known else Reason.NONE if is_open else Reason.NOT_NOW
        assert decided.reason == expected, f"{kind} at {clock.now.astimezone(ZONE):%H:%M}"


async def show_code(resident: Phone, door: Terminal, clock: TestClock) -> None:
    """A code of a phone that has a network is good at a door that has none, once."""
    code = (await resident.call("POST", "/v1/me/access/codes", {}))["code"]
    clock.now = datetime.now(UTC)
    is_open = OPENS <= clock.now.astimezone(ZONE).time() < CLOSES
    first, again = (door.decide_alone(door.show(CredentialKind.CODE, code)).reason for _ in range(2))
    assert (first, again) == ((Reason.NONE, Reason.CODE_USED) if is_open else (Reason.NOT_NOW, Reason.NOT_NOW))
    altered = code[:-8] + ("A" if code[-8] != "A" else "B") + code[-7:]
    assert door.decide_alone(door.show(CredentialKind.CODE, altered)).reason == Reason.CODE_UNREADABLE


def written(door: Terminal) -> list[Row]:
    """The passages that the terminal's own journal tells."""
    rows = []
    for record in map(msgspec.json.decode, door.journal.records):
        if record["kind"] in OUTCOMES:
            at = datetime.fromisoformat(record["at"])
            rows.append((at, OUTCOMES[record["kind"]], record.get("reason", ""), record["by"], record.get("subject", "")))
    return sorted(rows)


async def booked(manager: Phone, door_id: str) -> list[Row]:
    """The passages that the platform has."""
    rows = []
    for each in await manager.rows(f"/v1/access/passages?door_id={door_id}", "passages"):
        assert each["offline"]
        outcome, kind = each["outcome"].removeprefix("PASSAGE_OUTCOME_"), each["credential_kind"].removeprefix("CREDENTIAL_KIND_").lower()
        rows.append((datetime.fromisoformat(each["occurred_at"]), outcome, each["reason"], kind, each["account_id"]))
    return sorted(rows)


async def state_of(manager: Phone) -> Any:
    """What the platform says of the lounge's terminal."""
    terminals = await manager.rows("/v1/access/terminals?", "terminals")
    return next(each for each in terminals if each["device_id"] == LOUNGE)


async def is_whole(manager: Phone, door: Terminal) -> None:
    """Waits until the journal is here to its last record."""

    async def has_all() -> bool:
        found = await state_of(manager)
        return (found["journal_sequence"], found["journal_missing"]) == (str(len(door.journal.records)), "0")

    await eventually(has_all, "the journal is whole", deadline_s=30, every_s=0.2)


@ALL_IN_ONE
async def test_a_door_that_was_offline_for_a_day_has_decided_right_and_its_journal_arrives_whole_once(town: Town, tmp_path: Path) -> None:
    plan, clock = town.demonstration, TestClock()
    door_id = next(each.door_id for each in plan.terminals if each.device_id == LOUNGE)
    lost = plan.residents[-1]
    manager, resident = await town.manager(), await town.visitor(plan.resident_phone)
    door = town.terminal(LOUNGE, tmp_path, clock)
    async with town.online(door):
        credentials = await manager.rows(f"/v1/access/credentials?account_id={lost.account_id}", "credentials")
        card = next(each["credential_id"] for each in credentials if each["kind"] == "CREDENTIAL_KIND_CARD")
        await manager.call("POST", f"/v1/access/credentials/{card}:revoke", {})

        async def is_current() -> bool:
            found = await state_of(manager)
            return int(found["confirmed_version"]) == int(found["wanted_version"]) == door.knowledge.version

        await eventually(is_current, "the door knows who may come in", every_s=0.2)

    await live_a_day(town, door, clock, lost.card_number)
    await show_code(resident, door, clock)
    # A power cut: it goes on from what is on its disk.
    door = town.terminal(LOUNGE, tmp_path)
    assert len(written(door)) == SHOWN + 3

    chance = random.Random(6)
    async with Cable(plan.mqtt_host, plan.mqtt_port).laid() as cable, town.online(door, mqtt_port=cable.port) as back:
        for _ in range(CUTS):
            cable.cut_after(chance.randrange(5_000, 60_000))
            await cable.was_cut.wait()
            assert door.journal.uploaded < len(door.journal.records)
            cable.mend()
            await back.connected.wait()
        await is_whole(manager, door)

    expected = written(door)

    async def is_booked() -> bool:
        return len(await booked(manager, door_id)) >= len(expected)

    await eventually(is_booked, "every passage is booked", every_s=0.5)
    assert await booked(manager, door_id) == expected
    # It has forgotten that it was all stored, and sends everything once more; what comes after that shows that it has come through.
    door.journal.note_uploaded(0)
    door.decide_alone(door.show(CredentialKind.CARD, "0BADC0DE"))
    async with town.online(door):
        await is_whole(manager, door)
    expected = written(door)
    await eventually(is_booked, "the last passage is booked", every_s=0.5)
    assert await booked(manager, door_id) == expected
    assert not (await state_of(manager))["journal_broken"]
    assert not await manager.rows("/v1/alarms?kind=journal_gap", "alarms")
