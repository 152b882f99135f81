"""Presentations that we decide on while a terminal is connected: who is let in, who is not and why, and what is found on the way."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from linli.access.v1 import access_pb2 as pb
from linli.access.v1.events_pb2 import DoorOpenRequested, EntryRefused
from linli.access.v1.windows_pb2 import WeeklyWindow
from linli.device.v1.commands_pb2 import DeviceCommand
from servicekit.commands import CommandKeys
from servicekit.errors import Conflict
from servicekit.events import Received
from servicekit.identifiers import new_id
from tests.access.arrange import ALL_KINDS, CARD, CODE, FACE, PHONE, PIN, Community, Home
from tests.access.arrange_terminals import PUBLIC_KEY, alarm, alarms, answer, asks, digest, passages, presents, uploaded
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def card_of(community: Community, home: Home) -> str:
    """The digest of a new card of somebody's."""
    number = f"CARD{new_id().hex[:12]}"
    await community.card(home.people[0], number)
    return digest(community, CARD, number)


async def code_of(community: Community, home: Home, door_id: str = "") -> str:
    """A fresh dynamic code of somebody's."""
    answered = await community.call_as(home.people[0], "CreateMyCode", pb.CreateMyCodeRequest(door_id=door_id))
    return str(answered.code)


async def test_a_card_opens_the_door_with_a_signed_command_that_expires_within_ten_seconds(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    presentation = await presents(community, gate.entrance, CARD, await card_of(community, home))
    event = await community.running.event(DoorOpenRequested, lambda each: each.message.presentation_id == presentation)
    command = CommandKeys(PUBLIC_KEY).read(event.message.command)
    assert command is not None
    assert command.device_id == gate.entrance == event.message.device_id
    assert timedelta(0) < command.expires_at - community.clock.now <= timedelta(seconds=10)
    [passage] = await passages(community, door_id=gate.door_id)
    assert (passage.outcome, passage.account_id) == (pb.PASSAGE_OUTCOME_REQUESTED, str(home.people[0]))
    assert (passage.credential_kind, passage.direction, passage.offline) == (CARD, pb.DIRECTION_IN, False)


def counters(community: Community, device_id: str) -> list[int]:
    """Those of the commands that a terminal was given."""
    events = [each.message for each in community.running.events(DoorOpenRequested) if each.message.device_id == device_id]
    return [DeviceCommand.FromString(each.command.command).counter for each in events]


async def test_commands_to_one_terminal_count_upwards(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    card = await card_of(community, home)
    for _ in range(3):
        assert await asks(community, gate.entrance, CARD, card) == ""
    first, second, third = counters(community, gate.entrance)
    assert first < second < third


async def test_commands_count_on_above_those_that_a_restored_database_has_forgotten(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    card = await card_of(community, home)
    assert await asks(community, gate.entrance, CARD, card) == ""
    [before] = counters(community, gate.entrance)
    async with community.running.transaction("access", community.community_id) as tx:
        await tx.execute("UPDATE terminals SET command_counter = command_counter - 1000")
    community.clock.advance(seconds=2)
    assert await asks(community, gate.entrance, CARD, card) == ""
    assert before < counters(community, gate.entrance)[-1]


async def test_each_kind_of_credential_opens_and_is_booked(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    account = home.people[0]
    pin = await community.call_as(account, "SetMyPin", pb.SetMyPinRequest(pin="482913"))
    await community.consent(account, pb.CONSENT_KIND_FACE_ON_TERMINALS)
    await community.call_as(account, "EnrolMyFace", pb.EnrolMyFaceRequest())
    shown: list[tuple[Any, str]] = [
        (CARD, await card_of(community, home)),
        (PIN, digest(community, PIN, pin.label + "482913")),
        (CODE, await code_of(community, home)),
        (FACE, str(account)),
    ]
    for kind, value in shown:
        assert await asks(community, gate.entrance, kind, value) == ""
    await community.call_as(account, "OpenMyDoor", pb.OpenMyDoorRequest(door_id=gate.door_id))
    booked = await passages(community, account_id=str(account))
    assert {each.credential_kind for each in booked} == {FACE, CODE, CARD, PIN, PHONE}
    mine = await community.call_as(account, "ListMyPassages", pb.ListMyPassagesRequest())
    assert len(mine.passages) == 5


async def test_what_nobody_has_opens_nothing_and_a_card_of_another_community_is_as_unknown(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    await community.call_as(home.people[0], "SetMyPin", pb.SetMyPinRequest(pin="482913"))
    stranger = Community(community.town)
    away = await stranger.home()
    await stranger.door()
    number = "04A1B2C3D4"
    await stranger.card(away.people[0], number)
    for kind, value in [
        (CARD, digest(community, CARD, number)),
        (CARD, digest(stranger, CARD, number)),
        (PIN, digest(community, PIN, "0000482913")),
        (FACE, str(away.people[0])),
        (FACE, str(home.people[0])),
        (CODE, await code_of(stranger, away)),
    ]:
        assert await asks(community, gate.entrance, kind, value) == "unknown"
    assert all(not each.account_id for each in await passages(community, door_id=gate.door_id) if each.credential_kind != FACE)


async def test_a_card_that_was_revoked_opens_nothing(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    issued = await community.card(home.people[0], "04FFEE01")
    card = digest(community, CARD, "04FFEE01")
    assert await asks(community, gate.entrance, CARD, card) == ""
    await community.call("RevokeCredential", pb.RevokeCredentialRequest(credential_id=issued.credential_id))
    assert await asks(community, gate.entrance, CARD, card) == "unknown"


async def test_a_door_takes_what_it_says_and_nothing_else(community: Community) -> None:
    gate, home = await community.door(kinds=[PIN]), await community.home()
    assert await asks(community, gate.entrance, CARD, await card_of(community, home)) == "kind_not_taken"


async def test_a_code_opens_once_and_its_replay_at_another_door_is_an_alarm(community: Community) -> None:
    gate, other, home = await community.door(), await community.door(), await community.home()
    code = await code_of(community, home)
    assert await asks(community, gate.entrance, CODE, code) == ""
    assert await asks(community, gate.entrance, CODE, code) == "code_used"
    assert not await alarms(community, "code_reused")
    assert await asks(community, other.entrance, CODE, code) == "code_used"
    assert (await alarm(community, "code_reused")).place == other.name


async def test_a_code_that_is_shown_at_two_doors_at_once_opens_one(community: Community) -> None:
    gates, home = [await community.door() for _ in range(4)], await community.home()
    code = await code_of(community, home)
    asked = await asyncio.gather(*(presents(community, gate.entrance, CODE, code) for gate in gates))
    answers = await asyncio.gather(*(answer(community, presentation) for presentation in asked))
    assert sorted(answers) == ["", "code_used", "code_used", "code_used"]
    assert await alarm(community, "code_reused")


async def test_a_code_that_is_altered_expired_early_or_for_another_door_opens_nothing(community: Community) -> None:
    gate, other, home = await community.door(), await community.door(), await community.home()
    code = await code_of(community, home)
    altered = code[:30] + ("A" if code[30] != "A" else "B") + code[31:]
    assert await asks(community, gate.entrance, CODE, altered) == "code_unreadable"
    assert await asks(community, gate.entrance, CODE, "https://example.test/") == "code_unreadable"
    assert await asks(community, other.entrance, CODE, await code_of(community, home, gate.door_id)) == "code_other_door"
    community.clock.advance(seconds=-31)
    assert await asks(community, gate.entrance, CODE, code) == "code_not_yet"
    community.clock.advance(seconds=31 + 90)
    assert await asks(community, gate.entrance, CODE, code) == "code_expired"


async def test_what_somebody_showed_more_than_ten_seconds_ago_opens_nothing_and_leaves_no_trace(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    card = await card_of(community, home)
    late = await presents(community, gate.entrance, CARD, card, late=timedelta(seconds=11))
    assert await asks(community, gate.entrance, CARD, card) == ""
    assert not _told(community, late)
    assert len(await passages(community, door_id=gate.door_id)) == 1


def _told(community: Community, presentation_id: str) -> list[Any]:
    events: list[Received[Any]] = [*community.running.events(DoorOpenRequested), *community.running.events(EntryRefused)]
    return [each for each in events if each.message.presentation_id == presentation_id]


async def test_the_same_presentation_sent_again_changes_nothing(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    card = await card_of(community, home)
    presentation = await presents(community, gate.entrance, CARD, card)
    await answer(community, presentation)
    await presents(community, gate.entrance, CARD, card, presentation_id=presentation)
    await presents(community, gate.entrance, CARD, "00" * 31 + "aa", presentation_id=presentation)
    assert await asks(community, gate.entrance, CARD, card) == ""
    assert len(_told(community, presentation)) == 1
    assert len(await passages(community, door_id=gate.door_id)) == 2


async def test_devices_of_others_and_terminals_that_were_taken_away_are_not_answered(community: Community) -> None:
    gate, gone, home = await community.door(), await community.door(), await community.home()
    card = await card_of(community, home)
    elsewhere = await Community(community.town).door()
    await community.call("RemoveTerminal", pb.RemoveTerminalRequest(device_id=gone.entrance))
    asked = [await presents(community, device_id, CARD, card) for device_id in (elsewhere.entrance, gone.entrance, "no-such-terminal")]
    assert await asks(community, gate.entrance, CARD, card) == ""
    assert not [each for presentation in asked for each in _told(community, presentation)]


async def test_a_visitor_with_a_pass_for_one_entry_enters_once_at_each_door(community: Community) -> None:
    gate, home = await community.door(has_exit=True), await community.home()
    entrance = await community.door(await community.zone(building_id=home.building_id), kind=pb.DOOR_KIND_BUILDING_ENTRANCE)
    invitation = await community.invite(home, one_time=True)
    await community.confirm(invitation.link)

    async def code() -> str:
        return str((await community.call_without_token("CreateVisitorCode", pb.CreateVisitorCodeRequest(link=invitation.link))).code)

    assert await asks(community, gate.entrance, CODE, await code()) == ""
    assert await asks(community, gate.entrance, CODE, await code()) == "entries_used"
    codes = [await code() for _ in range(3)]
    asked = await asyncio.gather(*(presents(community, entrance.entrance, CODE, each) for each in codes))
    assert sorted([await answer(community, each) for each in asked]) == ["", "entries_used", "entries_used"]
    mine = await community.call_as(home.people[0], "ListMyPassages", pb.ListMyPassagesRequest())
    assert {each.pass_id for each in mine.passages} == {getattr(invitation, "pass").pass_id}


async def test_who_is_inside_may_always_leave(community: Community) -> None:
    gate, home = await community.door(has_exit=True, anti_passback=pb.ANTI_PASSBACK_REFUSE), await community.home()
    card = await card_of(community, home)
    for device_id in (gate.exit, gate.exit, gate.entrance, gate.exit, gate.exit):
        assert await asks(community, device_id, CARD, card) == ""


async def test_who_comes_in_twice_without_leaving_is_refused_where_a_door_says_so(community: Community) -> None:
    gate, home = await community.door(has_exit=True, anti_passback=pb.ANTI_PASSBACK_REFUSE), await community.home()
    card = await card_of(community, home)
    assert await asks(community, gate.entrance, CARD, card) == ""
    assert await asks(community, gate.entrance, CARD, card) == "already_inside"
    community.clock.advance(hours=13)
    assert await asks(community, gate.entrance, CARD, card) == ""


async def test_who_was_to_be_let_in_by_a_door_that_did_not_open_is_not_kept_out(community: Community) -> None:
    gate, home = await community.door(has_exit=True, anti_passback=pb.ANTI_PASSBACK_REFUSE), await community.home()
    card = await card_of(community, home)
    assert await asks(community, gate.entrance, CARD, card) == ""
    community.clock.advance(seconds=11)
    assert await asks(community, gate.entrance, CARD, card) == ""
    await opened(community, gate.entrance, card)
    community.clock.advance(seconds=11)
    assert await asks(community, gate.entrance, CARD, card) == "already_inside"


async def opened(community: Community, device_id: str, card: str) -> None:
    """A terminal tells that it opened the last time that it was told to."""
    newest = (await passages(community))[0]
    sql = "SELECT presentation_id FROM passages WHERE passage_id = $1"
    record = {"kind": "opened", "at": community.clock.now.isoformat(), "by": "card", "card": card[:16].upper()}
    record["presentation"] = await community.value(sql, UUID(newest.passage_id))
    await community.publish(uploaded(device_id, {"first": 1, "records": [json.dumps(record)]}, community.clock.now))

    async def is_booked() -> bool:
        return any(each.outcome == pb.PASSAGE_OUTCOME_OPENED for each in await passages(community))

    await eventually(is_booked, "the door has opened")


async def test_and_is_let_in_with_an_alarm_where_it_only_reports(community: Community) -> None:
    gate, home = await community.door(has_exit=True, anti_passback=pb.ANTI_PASSBACK_REPORT), await community.home()
    card = await card_of(community, home)
    assert await asks(community, gate.entrance, CARD, card) == ""
    await opened(community, gate.entrance, card)
    community.clock.advance(minutes=1)
    assert await asks(community, gate.entrance, CARD, card) == ""
    assert (await alarm(community, "passback")).place == gate.name


async def test_one_card_at_two_doors_within_a_second_is_an_alarm_and_walking_on_is_none(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    entrance = await community.door(await community.zone(building_id=home.building_id), kind=pb.DOOR_KIND_BUILDING_ENTRANCE)
    card = await card_of(community, home)
    assert await asks(community, gate.entrance, CARD, card) == ""
    community.clock.advance(seconds=20)
    assert await asks(community, entrance.entrance, CARD, card) == ""
    assert not await alarms(community, "card_cloned")
    community.clock.advance(seconds=1)
    assert await asks(community, gate.entrance, CARD, card) == ""
    assert (await alarm(community, "card_cloned")).place == gate.name


async def test_many_refusals_in_a_minute_are_an_alarm_and_wrong_pins_end_trying(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    account = home.people[0]
    pin = await community.call_as(account, "SetMyPin", pb.SetMyPinRequest(pin="482913"))
    right = digest(community, PIN, pin.label + "482913")
    for nth in range(5):
        assert await asks(community, gate.entrance, PIN, digest(community, PIN, f"{pin.label}00000{nth}")) == "unknown"
    assert (await alarm(community, "too_many_refusals")).place == gate.name
    assert await asks(community, gate.entrance, PIN, right) == "too_many_attempts"
    assert await asks(community, gate.entrance, CARD, await card_of(community, home)) == ""
    community.clock.advance(minutes=5)
    assert await asks(community, gate.entrance, PIN, right) == ""


async def test_the_phone_opens_now_or_says_why_not(community: Community) -> None:
    zone = await community.zone(pb.ZONE_KIND_AMENITY)
    gate, home = await community.door(zone, kinds=ALL_KINDS), await community.home()
    window = WeeklyWindow(weekdays=range(1, 8), from_minute=22 * 60, until_minute=6 * 60)
    rule = pb.CreateAccessRuleRequest(zone_id=zone, household_id=str(home.household_id), windows=[window])
    await community.call("CreateAccessRule", rule)
    request = pb.OpenMyDoorRequest(door_id=gate.door_id)
    with pytest.raises(Conflict) as refused:
        await community.call_as(home.people[0], "OpenMyDoor", request)
    assert refused.value.code == "access.not_now"
    community.clock.advance(hours=14)
    opening = await community.call_as(home.people[0], "OpenMyDoor", request)
    event = await community.running.event(DoorOpenRequested, lambda each: each.message.device_id == gate.entrance)
    assert DeviceCommand.FromString(event.message.command.command).command_id == opening.command_id


async def test_a_door_that_staff_open_from_afar_is_booked_with_who_and_where(community: Community) -> None:
    gate = await community.door()
    opening = await community.call("OpenDoor", pb.OpenDoorRequest(door_id=gate.door_id, reason="快递员送货"))
    event = await community.running.event(DoorOpenRequested, lambda each: each.message.device_id == gate.entrance)
    assert DeviceCommand.FromString(event.message.command.command).command_id == opening.command_id
    [passage] = await passages(community, door_id=gate.door_id)
    assert (passage.opened_by_account_id, passage.account_id) == (str(community.account_id), "")


async def test_passages_can_be_asked_for_by_outcome_and_page_by_page(community: Community) -> None:
    gate, home = await community.door(), await community.home()
    card = await card_of(community, home)
    for nth in range(3):
        await asks(community, gate.entrance, CARD, card)
        await asks(community, gate.entrance, CARD, digest(community, CARD, f"NOBODY{nth}"))
    refused = await passages(community, outcome=pb.PASSAGE_OUTCOME_REFUSED)
    assert [each.reason for each in refused] == ["unknown"] * 3
    first = await community.call("ListPassages", pb.ListPassagesRequest(page_size=4))
    rest = await community.call("ListPassages", pb.ListPassagesRequest(page_size=4, page_token=first.next_page_token))
    assert len({each.passage_id for each in (*first.passages, *rest.passages)}) == 6
