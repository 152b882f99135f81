"""A visitor is invited from a phone, comes by car and then on foot, and is a stranger again when the invitation is over."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from console.simulator.cameras import PushCamera
from console.simulator.terminals import ConnectedTerminal
from services.access.deciding import Reason
from services.access.doors import CredentialKind
from tests.journeys.people import ONE_PROCESS_EACH, Phone, Town
from tests.journeys.test_parking import new_plate
from tests.support import eventually

GATE, ENTRANCE, ELSEWHERE = "demo-door-east-in", "demo-door-1", "demo-door-2"
# A door knows for a moment that the time is over, and then nobody who may come in.
OVER = (Reason.EXPIRED, Reason.UNKNOWN)
# In place of a day: long enough for all that happens in it.
VISIT = timedelta(seconds=15)


async def open_garage(town: Town, manager: Phone) -> PushCamera:
    """A garage for those who are known, and its entrance's camera."""
    lot = (await manager.call("POST", "/v1/parking/lots", {"name": "visitors", "admits_temporary": False}))["lot_id"]
    await manager.call("POST", f"/v1/parking/lots/{lot}/areas", {"name": "V", "capacity": 10})
    return await town.new_lane(manager, lot, "visitors-in", entry=True)


@ONE_PROCESS_EACH
async def test_a_visitor_enters_by_plate_and_then_by_code_and_neither_way_when_the_invitation_is_over(town: Town, tmp_path: Path) -> None:
    plan, plate = town.demonstration, new_plate()
    home = next(each for each in plan.residents if each.phone == plan.resident_phone).household_id
    manager, resident = await town.manager(), await town.visitor(plan.resident_phone)
    # The visitor has no account: the link is all that they were sent.
    visitor = Phone(town.client, plan.gateway_url)
    camera = await open_garage(town, manager)

    async def enters_by_plate() -> bool:
        return (await camera.push(plate, datetime.now(UTC))).opened

    async def enters_by_code(door: ConnectedTerminal, code: str) -> str:
        return (await door.present(CredentialKind.CODE, code)).reason

    assert not await enters_by_plate()
    gate, entrance, other = (town.terminal(device_id, tmp_path) for device_id in (GATE, ENTRANCE, ELSEWHERE))
    async with (
        town.online(gate) as at_gate,
        town.online(entrance) as at_entrance,
        town.online(other) as elsewhere,
        resident.listening() as told,
    ):
        now = datetime.now(UTC)
        body = {
            "kind": "PASS_KIND_VISIT",
            "visitor_name": "客人",
            "plate": plate,
            "valid_from": now.isoformat(),
            "valid_until": (now + VISIT).isoformat(),
        }
        invitation = await resident.call("POST", f"/v1/households/{home}/passes", body)
        link, visit = f"/v1/invitations/{invitation['link']}", invitation["pass"]["pass_id"]
        assert (await visitor.request("POST", f"{link}/codes", {})).json()["code"] == "access.pass_not_confirmed"
        shown = await visitor.call("GET", link)
        assert "1号楼单元门" in shown["doors"]
        await visitor.call("POST", f"{link}:confirm", {})

        async def is_known() -> bool:
            return all(UUID(visit) in door.knowledge.entries for door in (gate, entrance))

        await eventually(is_known, "the doors on the way know the visitor")
        await eventually(enters_by_plate, "the barrier opens for the plate", every_s=0.2)
        code = (await visitor.call("POST", f"{link}/codes", {}))["code"]
        assert await enters_by_code(at_gate, code) == ""
        # The same code again, as on a photo of the screen.
        assert await enters_by_code(at_gate, code) == Reason.CODE_USED
        code = (await visitor.call("POST", f"{link}/codes", {}))["code"]
        assert await enters_by_code(elsewhere, code) == Reason.UNKNOWN
        assert await enters_by_code(at_entrance, code) == ""
        await told.hears(f"/v1/households/{home}/passes", "access.visitor_confirmed", "access.visitor_entered")
        # What the visitor still has in hand when the time is over.
        kept = (await visitor.call("POST", f"{link}/codes", {}))["code"]
        assert (await visitor.call("GET", link))["state"] == "PASS_STATE_CONFIRMED"

        async def is_over() -> bool:
            return bool((await visitor.call("GET", link))["state"] == "PASS_STATE_EXPIRED")

        await eventually(is_over, "the visit is over", deadline_s=VISIT.total_seconds() + 10, every_s=0.3)
        assert await enters_by_code(at_gate, kept) in OVER
        assert (await visitor.request("POST", f"{link}/codes", {})).json()["code"] == "access.pass_over"
        assert not await enters_by_plate()
    # Alone it decides the same; and what the visitor has kept is no code any more on the day after.
    assert gate.decide_alone(gate.show(CredentialKind.CODE, kept)).reason in OVER
    tomorrow = town.terminal(GATE, tmp_path, lambda: datetime.now(UTC) + timedelta(days=1))
    assert tomorrow.judge(tomorrow.show(CredentialKind.CODE, kept))[0] == Reason.CODE_EXPIRED

    async def passages() -> list[Any]:
        found = (await manager.rows(f"/v1/access/passages?pass_id={visit}", "passages"))[-3:]
        return [(each["device_id"], each["outcome"].removeprefix("PASSAGE_OUTCOME_"), each["reason"]) for each in found]

    async def are_written_down() -> bool:
        return await passages() == expected

    expected = [
        (ENTRANCE, "OPENED", ""),
        (GATE, "REFUSED", Reason.CODE_USED),
        (GATE, "OPENED", ""),
    ]
    try:
        await eventually(are_written_down, every_s=0.2)
    except AssertionError:
        assert await passages() == expected
        raise
