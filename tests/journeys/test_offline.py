"""A door is off the network for a day: it decides as it should, and what it wrote down arrives, once, however often the cable is cut."""

import random
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from console.seed.doors import LOUNGE_HOURS
from console.simulator.terminals import Shown, Terminal
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
# When, outcome, reason, what was shown, and whose it was.
Row = tuple[str, str, str, str, str]


async def live_a_day(town: Town, door: Terminal, clock: TestClock, lost_card: str) -> None:
    """Yesterday at the lounge, while it is offline: residents and strangers come at all hours, with cards and PINs."""
    plan = town.demonstration
    chance = random.Random(5)
    typed = next(iter(plan.pins.values()))
    cards = [each.card_number for each in plan.residents if each.card_number != lost_card]
    known = [*((CredentialKind.CARD, card) for card in cards), (CredentialKind.PIN, typed)]
    strangers = [(CredentialKind.CARD, lost_card), (CredentialKind.CARD, "0BADC0DE"), (CredentialKind.FACE, plan.residents[0].account_id)]
    clock.now = datetime.now(UTC) - timedelta(days=1)
    door.set_clock()
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
    clock.now = datetime.now(UTC) - timedelta(seconds=5)
    is_open = OPENS <= clock.now.astimezone(ZONE).time() < CLOSES
    first = door.decide_alone(door.show(CredentialKind.CODE, code)).reason
    clock.advance(seconds=2)
    again = door.decide_alone(door.show(CredentialKind.CODE, code)).reason
    assert (first, again) == ((Reason.NONE, Reason.CODE_USED) if is_open else (Reason.NOT_NOW, Reason.NOT_NOW))
    clock.advance(seconds=2)
    altered = code[:-8] + ("A" if code[-8] != "A" else "B") + code[-7:]
    assert door.decide_alone(door.show(CredentialKind.CODE, altered)).reason == Reason.CODE_UNREADABLE


def written(door: Terminal) -> list[Row]:
    """The passages that the terminal's own journal tells."""
    records = [record for record in map(msgspec.json.decode, door.journal.records) if record["kind"] in OUTCOMES]
    return [(each["at"], OUTCOMES[each["kind"]], each.get("reason", ""), each["by"], each.get("subject", "")) for each in records]


async def booked(manager: Phone, door_id: str) -> list[Row]:
    """The passages that the platform has, in order."""
    passages = await manager.rows(f"/v1/access/passages?door_id={door_id}", "passages")
    assert all(each["offline"] for each in passages)
    return sorted(
        (
            each["occurred_at"],
            each["outcome"].removeprefix("PASSAGE_OUTCOME_"),
            each["reason"],
            each["credential_kind"].removeprefix("CREDENTIAL_KIND_").lower(),
            each["account_id"],
        )
        for each in passages
    )


async def check_books(manager: Phone, door: Terminal, door_id: str) -> None:
    """Every passage that the terminal has written down is booked once, for whom and when it happened, and nothing else is."""
    expected = written(door)

    async def is_booked() -> bool:
        return len(await booked(manager, door_id)) >= len(expected)

    await eventually(is_booked, "every passage is booked", every_s=0.5)
    found = await booked(manager, door_id)
    assert [row[1:] for row in found] == [row[1:] for row in expected]
    # By the clock that the terminal has, which a network of some milliseconds makes seem wrong by as many.
    errors = [datetime.fromisoformat(ours[0]) - datetime.fromisoformat(theirs[0]) for ours, theirs in zip(found, expected, strict=True)]
    assert max(map(abs, errors)) < timedelta(seconds=0.5)


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
        began = datetime.now(UTC) - timedelta(days=2)
        # The demonstration has just begun, and this day is yesterday.
        zone_id = (await manager.call("GET", f"/v1/access/doors/{door_id}"))["zone_id"]
        rule = {"zone_id": zone_id, "all_residents": True, "windows": LOUNGE_HOURS, "valid_from": began.isoformat()}
        await manager.call("POST", "/v1/access/rules", rule)

        noon = datetime.combine(datetime.now(ZONE) - timedelta(days=1), time(12), ZONE)

        async def is_current() -> bool:
            judged = [door.judge(Shown(CredentialKind.CARD, each.card_number, "", noon))[0] for each in plan.residents]
            return judged == [Reason.UNKNOWN if each is lost else Reason.NONE for each in plan.residents]

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

    await check_books(manager, door, door_id)
    # It has forgotten that it was all stored, and sends everything once more; what comes after that shows that it has come through.
    door.journal.note_uploaded(0)
    door.decide_alone(door.show(CredentialKind.CARD, "0BADC0DE"))
    async with town.online(door):
        await is_whole(manager, door)
    await check_books(manager, door, door_id)
    assert not (await state_of(manager))["journal_broken"]
    assert not await manager.rows("/v1/alarms?kind=journal_gap", "alarms")
