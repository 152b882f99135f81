"""Zones, doors, terminals and rules, as staff keep them and residents see them."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from linli.access.v1 import access_pb2 as pb
from linli.access.v1 import windows_pb2
from linli.access.v1.events_pb2 import DoorOpenRequested
from linli.device.v1.commands_pb2 import DeviceCommand
from servicekit.errors import Conflict, Invalid, NotFound, ServiceError
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.access.arrange import ALL_KINDS, CARD, CODE, FACE, PHONE, PIN, Community, Gate, Home
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
WORKING_HOURS = windows_pb2.WeeklyWindow(weekdays=[1, 2, 3, 4, 5], from_minute=8 * 60, until_minute=18 * 60)


async def refused(community: Community, method: str, request: Message, kind: type[ServiceError], code: str, field: str = "") -> None:
    """A request is refused with this code, naming the field."""
    with pytest.raises(kind) as error:
        await community.call(method, request)
    assert (error.value.code, [each.field for each in error.value.fields]) == (code, [field] if field else [])


async def my_doors(community: Community, account_id: Any) -> dict[str, bool]:
    """The doors that somebody sees, and whether each opens now."""
    doors = (await community.call_as(account_id, "ListMyDoors", pb.ListMyDoorsRequest())).doors
    return {door.door_id: door.open_now for door in doors}


# Zones.


async def test_zones_are_listed_by_name_a_page_at_a_time(community: Community) -> None:
    for name in ("c", "a", "b"):
        await community.zone(name=name)
    first = await community.call("ListZones", pb.ListZonesRequest(page_size=2))
    second = await community.call("ListZones", pb.ListZonesRequest(page_size=2, page_token=first.next_page_token))
    assert [zone.name for zone in (*first.zones, *second.zones)] == ["a", "b", "c"]
    assert second.next_page_token == ""


async def test_a_zone_has_a_name_of_its_own_and_a_building_only_when_it_is_one(community: Community) -> None:
    await community.zone(name="地面")
    community_kind: Any = pb.ZONE_KIND_COMMUNITY
    await refused(community, "CreateZone", pb.CreateZoneRequest(name="地面", kind=community_kind), Conflict, "access.zone_exists")
    without: Any = pb.CreateZoneRequest(name="一号楼", kind=pb.ZONE_KIND_BUILDING)
    await refused(community, "CreateZone", without, Invalid, "access.zone_building", "building_id")
    grounds = pb.CreateZoneRequest(name="花园", kind=community_kind, building_id=str(new_id()))
    await refused(community, "CreateZone", grounds, Invalid, "access.zone_building", "building_id")
    await refused(community, "CreateZone", pb.CreateZoneRequest(name=" ", kind=community_kind), Invalid, "request.invalid", "name")


# Doors.


@pytest.mark.parametrize("kinds", [[FACE], [FACE, PHONE]])
async def test_a_door_that_needs_a_face_is_refused_also_when_a_door_is_changed_to_one(community: Community, kinds: list[Any]) -> None:
    """A phone opens nothing while the network is gone, so a face and a phone are not enough."""
    zone_id = await community.zone()
    request = pb.CreateDoorRequest(
        zone_id=zone_id, name="门", kind=pb.DOOR_KIND_COMMUNITY_GATE, credential_kinds=kinds, anti_passback=pb.ANTI_PASSBACK_OFF
    )
    await refused(community, "CreateDoor", request, Invalid, "access.face_only", "credential_kinds")
    gate = await community.door(zone_id, kinds=[FACE, CARD])
    change = pb.UpdateDoorRequest(door_id=gate.door_id, credential_kinds=kinds)
    await refused(community, "UpdateDoor", change, Invalid, "access.face_only", "credential_kinds")


async def test_a_door_is_what_was_said_of_it_and_changes_only_in_what_is_said(community: Community) -> None:
    gate = await community.door(kinds=[CODE, CARD], anti_passback=pb.ANTI_PASSBACK_REPORT, has_exit=True)
    change = pb.UpdateDoorRequest(door_id=gate.door_id, name="东门", credential_kinds=[PIN], in_use=False)
    await community.call("UpdateDoor", change)
    door = await community.call("GetDoor", pb.GetDoorRequest(door_id=gate.door_id))
    assert (door.name, list(door.credential_kinds), door.in_use) == ("东门", [PIN], False)
    assert (door.anti_passback, door.held_open_limit_s, door.zone_id) == (pb.ANTI_PASSBACK_REPORT, 30, gate.zone_id)
    assert [terminal.device_id for terminal in door.terminals] == [gate.entrance, gate.exit]
    assert list((await community.call("ListDoors", pb.ListDoorsRequest(zone_id=gate.zone_id))).doors) == [door]
    assert not (await community.call("ListDoors", pb.ListDoorsRequest(zone_id=await community.zone()))).doors


async def test_doors_cannot_be_where_or_called_what_they_cannot(community: Community) -> None:
    gate, other = await community.door(), await community.door()
    request = pb.CreateDoorRequest(
        zone_id=gate.zone_id, name=gate.name, kind=pb.DOOR_KIND_LIFT, credential_kinds=[CARD], anti_passback=pb.ANTI_PASSBACK_OFF
    )
    await refused(community, "CreateDoor", request, Conflict, "access.door_exists")
    await refused(community, "UpdateDoor", pb.UpdateDoorRequest(door_id=other.door_id, name=gate.name), Conflict, "access.door_exists")
    request.zone_id = str(new_id())
    await refused(community, "CreateDoor", request, NotFound, "access.zone_unknown")
    for method, unknown in (
        ("GetDoor", pb.GetDoorRequest(door_id=str(new_id()))),
        ("UpdateDoor", pb.UpdateDoorRequest(door_id=str(new_id()))),
        ("OpenDoor", pb.OpenDoorRequest(door_id=str(new_id()), reason="访客")),
        ("OpenMyDoor", pb.OpenMyDoorRequest(door_id=str(new_id()))),
        ("AddTerminal", pb.AddTerminalRequest(door_id=str(new_id()), device_id="x", direction=pb.DIRECTION_IN)),
    ):
        await refused(community, method, unknown, NotFound, "access.door_unknown")


# Terminals.


async def test_a_terminal_is_at_one_door_and_knows_people_from_then_until_it_is_taken_away(community: Community) -> None:
    home = await community.home()
    gate, other = await community.door(), await community.door()
    assert await community.knows(gate.entrance, home.people[0])
    again = pb.AddTerminalRequest(door_id=other.door_id, device_id=gate.entrance, direction=pb.DIRECTION_OUT)
    await refused(community, "AddTerminal", again, Conflict, "access.terminal_in_place")

    await community.call("RemoveTerminal", pb.RemoveTerminalRequest(device_id=gate.entrance))
    await community.settle()
    assert not await community.knows(gate.entrance, home.people[0])
    await refused(community, "RemoveTerminal", pb.RemoveTerminalRequest(device_id=gate.entrance), NotFound, "access.terminal_unknown")
    assert [each.device_id for each in (await community.call("ListTerminals", pb.ListTerminalsRequest())).terminals] == [other.entrance]

    before = await community.wanted_version(gate.entrance)
    await community.call("AddTerminal", again)
    await community.settle()
    assert await community.knows(gate.entrance, home.people[0])
    assert await community.wanted_version(gate.entrance) > before


async def test_of_two_who_place_a_terminal_or_give_a_name_at_once_one_does(community: Community) -> None:
    doors = [await community.door() for _ in range(4)]
    placing = [
        community.call("AddTerminal", pb.AddTerminalRequest(door_id=gate.door_id, device_id="contested", direction=pb.DIRECTION_OUT))
        for gate in doors
    ]
    naming = [community.call("UpdateDoor", pb.UpdateDoorRequest(door_id=gate.door_id, name="东门")) for gate in doors]
    for calls, reason in ((placing, "access.terminal_in_place"), (naming, "access.door_exists")):
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, BaseException)]
        assert [error.code for error in refusals if isinstance(error, Conflict)] == [reason] * 3


async def test_terminals_that_are_behind_are_found(community: Community) -> None:
    gate, other = await community.door(), await community.door()
    await community.home()
    await community.reports(gate.entrance, await community.wanted_version(gate.entrance))

    async def only_other_is_behind() -> bool:
        listed = (await community.call("ListTerminals", pb.ListTerminalsRequest(behind_only=True))).terminals
        return [terminal.device_id for terminal in listed] == [other.entrance]

    await eventually(only_other_is_behind)
    at_gate = (await community.call("ListTerminals", pb.ListTerminalsRequest(door_id=gate.door_id))).terminals
    assert [(each.device_id, each.wanted_version == each.confirmed_version) for each in at_gate] == [(gate.entrance, True)]


async def test_a_door_that_takes_other_credentials_tells_its_terminal(community: Community) -> None:
    home = await community.home()
    gate = await community.door(kinds=[CARD])
    assert not await community.knows(gate.entrance, home.people[0])
    await community.call("UpdateDoor", pb.UpdateDoorRequest(door_id=gate.door_id, credential_kinds=[CARD, CODE]))

    async def knows() -> bool:
        return await community.knows(gate.entrance, home.people[0])

    await eventually(knows, "the timer that tells the terminals")
    await community.call("UpdateDoor", pb.UpdateDoorRequest(door_id=gate.door_id, in_use=False))
    await community.settle()
    assert not await community.knows(gate.entrance, home.people[0])


# Who may pass.


async def test_residents_see_the_grounds_and_their_own_building_and_nobody_elses(community: Community) -> None:
    home, neighbour = await community.home(), await community.home()
    gate = await community.door()
    entrance = await community.door(await community.zone(building_id=home.building_id), kind=pb.DOOR_KIND_BUILDING_ENTRANCE)
    assert await my_doors(community, home.people[0]) == {gate.door_id: True, entrance.door_id: True}
    assert await my_doors(community, neighbour.people[0]) == {gate.door_id: True}
    assert await my_doors(community, new_id()) == {}


async def test_who_moves_goes_through_other_doors_at_once(community: Community) -> None:
    home = await community.home(people=2)
    gate = await community.door()
    entrance = await community.door(await community.zone(building_id=home.building_id))
    who_stays, who_leaves = home.people
    home.people = [who_stays]
    await community.tell(home)
    assert not await community.knows(gate.entrance, who_leaves)
    assert await community.knows(gate.entrance, who_stays)
    home.building_id = new_id()
    await community.tell(home)
    assert not await community.knows(entrance.entrance, who_stays)
    assert await community.knows(gate.entrance, who_stays)


async def test_an_older_word_of_a_household_or_of_staff_changes_nothing(community: Community) -> None:
    home, gate = await community.home(), await community.door()
    cleaner = await community.employ("cleaner", version=3)
    rule = pb.CreateAccessRuleRequest(zone_id=gate.zone_id, role="cleaner")
    await community.call("CreateAccessRule", rule)
    await community.deliver(Home(home.household_id, home.building_id, []).event(), version=1)
    await community.employ(account_id=cleaner, version=2)
    assert await community.knows(gate.entrance, home.people[0])
    assert await community.knows(gate.entrance, cleaner)
    await community.employ(account_id=cleaner, version=4)
    assert not await community.knows(gate.entrance, cleaner)


@pytest.mark.parametrize("whom", ["all_residents", "building_id", "household_id", "account_id", "role"])
async def test_a_rule_lets_in_from_when_it_is_made_until_it_is_ended(community: Community, whom: str) -> None:
    home = await community.home()
    account_id = home.people[0]
    await community.employ("cleaner", account_id=account_id)
    gym = await community.door(await community.zone(pb.ZONE_KIND_AMENITY), kind=pb.DOOR_KIND_AMENITY)
    assert await my_doors(community, account_id) == {}
    named: dict[str, Any] = {
        "all_residents": True,
        "building_id": str(home.building_id),
        "household_id": str(home.household_id),
        "account_id": str(account_id),
        "role": "cleaner",
    }
    rule = await community.call("CreateAccessRule", pb.CreateAccessRuleRequest(zone_id=gym.zone_id, **{whom: named[whom]}))
    await community.settle()
    assert await community.knows(gym.entrance, account_id)
    assert await my_doors(community, account_id) == {gym.door_id: True}
    listed = (await community.call("ListAccessRules", pb.ListAccessRulesRequest(zone_id=gym.zone_id))).rules
    assert list(listed) == [rule]

    community.clock.advance(minutes=1)
    ended = await community.call("EndAccessRule", pb.EndAccessRuleRequest(rule_id=rule.rule_id))
    await community.settle()
    assert ended.valid_until == to_timestamp(community.clock.now)
    assert not await community.knows(gym.entrance, account_id)
    assert await my_doors(community, account_id) == {}
    community.clock.advance(minutes=1)
    assert await community.call("EndAccessRule", pb.EndAccessRuleRequest(rule_id=rule.rule_id)) == ended


async def test_a_rule_with_hours_lets_in_within_them(community: Community) -> None:
    home = await community.home()
    office = await community.door(await community.zone(pb.ZONE_KIND_STAFF), kind=pb.DOOR_KIND_STAFF)
    rule = pb.CreateAccessRuleRequest(zone_id=office.zone_id, account_id=str(home.people[0]), windows=[WORKING_HOURS])
    assert list((await community.call("CreateAccessRule", rule)).windows) == [WORKING_HOURS]
    assert await my_doors(community, home.people[0]) == {office.door_id: True}
    community.clock.advance(hours=12)
    assert await my_doors(community, home.people[0]) == {office.door_id: False}


async def test_rules_that_cannot_be_are_refused(community: Community) -> None:
    zone_id = await community.zone()
    nobody = pb.CreateAccessRuleRequest(zone_id=zone_id)
    await refused(community, "CreateAccessRule", nobody, Invalid, "access.rule_whom", "all_residents")
    two = pb.CreateAccessRuleRequest(zone_id=zone_id, all_residents=True, role="cleaner")
    await refused(community, "CreateAccessRule", two, Invalid, "access.rule_whom", "all_residents")
    elsewhere = pb.CreateAccessRuleRequest(zone_id=str(new_id()), all_residents=True)
    await refused(community, "CreateAccessRule", elsewhere, NotFound, "access.zone_unknown")
    now = community.clock.now
    over = pb.CreateAccessRuleRequest(
        zone_id=zone_id, all_residents=True, valid_from=to_timestamp(now - timedelta(days=2)), valid_until=to_timestamp(now)
    )
    await refused(community, "CreateAccessRule", over, Invalid, "access.validity", "valid_until")
    await refused(community, "EndAccessRule", pb.EndAccessRuleRequest(rule_id=str(new_id())), NotFound, "access.rule_unknown")


# Opening from afar.


async def opened(community: Community, command_id: str) -> DoorOpenRequested:
    def is_mine(event: Any) -> bool:
        return DeviceCommand.FromString(event.message.command.command).command_id == command_id

    return (await community.running.event(DoorOpenRequested, is_mine)).message


async def test_a_resident_opens_their_door_with_the_phone(community: Community) -> None:
    home, gate = await community.home(), await community.door()
    opening = await community.call_as(home.people[0], "OpenMyDoor", pb.OpenMyDoorRequest(door_id=gate.door_id))
    event = await opened(community, opening.command_id)
    assert (event.device_id, event.door_id) == (opening.device_id, opening.door_id) == (gate.entrance, gate.door_id)
    with pytest.raises(NotFound) as error:
        await community.call_as(new_id(), "OpenMyDoor", pb.OpenMyDoorRequest(door_id=gate.door_id))
    assert error.value.code == "access.door_unknown"


async def test_a_door_that_takes_no_phones_opens_to_none(community: Community) -> None:
    home, gate = await community.home(), await community.door(kinds=[CODE])
    with pytest.raises(Conflict) as error:
        await community.call_as(home.people[0], "OpenMyDoor", pb.OpenMyDoorRequest(door_id=gate.door_id))
    assert error.value.code == "access.kind_not_taken"


async def test_a_guard_opens_a_door_with_a_reason_and_the_passage_says_so(community: Community) -> None:
    gate = await community.door(has_exit=True)
    opening = await community.call("OpenDoor", pb.OpenDoorRequest(door_id=gate.door_id, reason="送货进门"))
    assert opening.device_id == gate.entrance
    out = await community.call("OpenDoor", pb.OpenDoorRequest(door_id=gate.door_id, reason="送货出门", device_id=gate.exit))
    assert (await opened(community, out.command_id)).device_id == gate.exit
    passages = (await community.call("ListPassages", pb.ListPassagesRequest(door_id=gate.door_id))).passages
    assert {(each.device_id, each.opened_by_account_id) for each in passages} == {
        (gate.entrance, str(community.account_id)),
        (gate.exit, str(community.account_id)),
    }
    other: Gate = await community.door()
    wrong = pb.OpenDoorRequest(door_id=gate.door_id, reason="送货进门", device_id=other.entrance)
    await refused(community, "OpenDoor", wrong, NotFound, "access.terminal_unknown")


async def test_every_kind_of_door_takes_every_kind_of_credential(community: Community) -> None:
    zone_id = await community.zone()
    for kind in list(pb.DoorKind.values())[1:]:
        gate = await community.door(zone_id, kinds=ALL_KINDS, kind=kind)
        assert (await community.call("GetDoor", pb.GetDoorRequest(door_id=gate.door_id))).kind == kind
