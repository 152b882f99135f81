"""Journals: in parts that come late, twice, in any order and cut anywhere, everything arrives once; gaps and forgeries are noticed."""

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.simulator.terminals import Terminal
from linli.access.v1 import access_pb2 as pb
from linli.access.v1.events_pb2 import DoorOpenRequested
from services.access.doors import CredentialKind
from services.access.journal import BEGINNING, Part, Segment, absorb, chain, count, missing
from tests.access.arrange import CARD, Community, Gate
from tests.access.arrange_terminals import (
    PUBLIC_KEY,
    Device,
    alarm,
    alarms,
    answer,
    asks,
    digest,
    passages,
    presents,
    terminal_at,
    uploaded,
)
from tests.support import eventually

RECORDS = [f'{{"kind":"closed","nth":{nth}}}'.encode() for nth in range(1, 41)]
HASHES = chain(BEGINNING, RECORDS)
_CARD = CredentialKind.CARD


def part(first: int, last: int, hashes: list[bytes] = HASHES) -> Part:
    return Part(first, BEGINNING if first == 1 else hashes[first - 2], hashes[first - 1 : last])


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)).map(sorted), max_size=20))
def test_parts_cut_anywhere_in_any_order_and_repeated_arrive_once_and_whole(cuts: list[list[int]]) -> None:
    segments: list[Segment] = []
    held: set[int] = set()
    for first, last in [*cuts, [1, 40]]:
        absorbed = absorb(segments, part(first, last))
        segments = absorbed.segments
        assert not absorbed.is_broken
        fresh = {number for begin, end in absorbed.fresh for number in range(begin, end + 1)}
        assert not fresh & held
        held |= fresh
        assert count(segments) == len(held)
        assert {number for begin, end in missing(segments, 40) for number in range(begin, end + 1)} == set(range(1, 41)) - held
    assert segments == [Segment(1, 40, BEGINNING, HASHES[-1])]


@given(st.integers(1, 40), st.data())
def test_a_record_that_is_another_breaks_the_chain_wherever_the_parts_are_cut(altered: int, data: st.DataObject) -> None:
    forged = chain(BEGINNING, [record + b" " * (number == altered) for number, record in enumerate(RECORDS, 1)])
    first = data.draw(st.integers(1, altered))
    last = data.draw(st.integers(altered, 40))
    whole = absorb([], part(1, 40)).segments
    again = absorb(whole, part(first, last, forged))
    assert again.is_broken or again.is_unsure
    assert (again.segments, again.fresh) == (whole, [])
    beginning = absorb([], part(1, altered)).segments
    assert altered == 40 or absorb(beginning, part(altered + 1, 40, forged)).is_broken


def test_a_journal_begins_with_zeros() -> None:
    assert absorb([], Part(1, HASHES[0], HASHES)).is_broken


# With the service.

at_once = pytest.mark.asyncio(loop_scope="module")


async def offline(community: Community, folder: Path, times: int = 0) -> Device:
    """A terminal that knew a resident with the card 04CAFE, lost the network, and let them in some times since."""
    home, gate = await community.home(), await community.door()
    await community.card(home.people[0], "04CAFE")
    async with terminal_at(community, gate, folder) as connected:
        await connected.sync()
        device = connected
    device.terminal = Terminal(folder / gate.entrance, gate.entrance, PUBLIC_KEY, community.clock)
    for _ in range(times):
        community.clock.advance(minutes=1)
        assert device.terminal.decide_alone(device.shows(_CARD, "04CAFE")).opens
    return device


@at_once
async def test_what_a_terminal_decided_in_a_day_without_network_is_booked_once_however_it_comes(
    community: Community, tmp_path: Path
) -> None:
    device = await offline(community, tmp_path, times=30)
    newest = len(device.terminal.journal.records)
    cuts = [(1, 7), (20, newest), (5, 12), (8, 22), (1, newest), (3, 4)]
    Random(4).shuffle(cuts)
    await device.report()
    await device.upload(*cuts)
    await device.upload(*reversed(cuts))
    await device.until_held()
    booked = await passages(community, outcome=pb.PASSAGE_OUTCOME_OPENED)
    assert len(booked) == 30
    assert all(each.offline and each.credential_kind == CARD for each in booked)
    first = device.community.clock.now - timedelta(minutes=29)
    assert [each.occurred_at.ToDatetime(first.tzinfo) for each in reversed(booked)] == [first + timedelta(minutes=nth) for nth in range(30)]
    assert not (await device.journal()).journal_broken


@at_once
async def test_a_gap_is_noticed_asked_for_and_an_alarm_when_it_stays(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path, times=12)
    await device.report()
    await device.upload((1, 4), (8, 9))
    await device.until_held(missing=len(device.terminal.journal.records) - 6)
    async with terminal_at(community, _gate(device), tmp_path / "ears") as ears:
        community.clock.advance(seconds=31)
        await device.report()

        async def is_asked() -> bool:
            return bool(ears.wanted)

        await eventually(is_asked, "the terminal is asked")
        assert json.loads(ears.wanted[0]) == {"wanted": [[5, 7], [10, len(device.terminal.journal.records)]]}
    assert not await alarms(community, "journal_gap")
    community.clock.advance(minutes=10)
    assert await alarm(community, "journal_gap")
    await device.upload((5, 7), (10, len(device.terminal.journal.records)))
    await device.until_held()
    assert len(await passages(community)) == 12


def _gate(device: Device) -> Gate:
    return Gate("", "", "", device.device_id, "")


@at_once
async def test_what_never_comes_hides_no_later_gap(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path, times=12)
    await device.upload((3, 4))
    await device.until_missing(2)
    community.clock.advance(minutes=11)
    assert (await alarm(community, "journal_gap")).observations == 1
    await device.upload((8, 9))
    await device.until_missing(5)
    community.clock.advance(minutes=11)

    async def is_told() -> bool:
        return (await alarm(community, "journal_gap")).observations == 2

    await eventually(is_told, "the second gap is told")


@at_once
async def test_a_gap_that_is_filled_in_time_is_no_alarm(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path, times=5)
    await device.upload((3, 6))
    await device.until_held(missing=2)
    await device.upload((1, 2))
    await device.until_held()
    community.clock.advance(minutes=11)
    assert await community.value("SELECT count(*) FROM timers WHERE community_id = $1", community.community_id) == 0
    assert not await alarms(community)


@at_once
async def test_a_chain_that_does_not_fit_is_one_alarm_and_its_records_are_kept(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path, times=6)
    newest = len(device.terminal.journal.records)
    await device.upload((1, 4))
    forged = device.terminal.journal.part(5, newest)
    for previous in ("11" * 32, "22" * 32):
        await community.publish(uploaded(device.device_id, {**forged, "previous": previous}, community.clock.now))
    await device.until_held()
    assert (await device.journal()).journal_broken
    assert (await alarm(community, "journal_broken")).observations == 1
    assert len(await passages(community)) == 6
    sql = "SELECT count(*) FROM journal_parts WHERE device_id = $1 AND contradicts"
    assert await community.value(sql, device.device_id) == 2


@at_once
async def test_of_two_stories_of_one_record_the_first_stays_also_inside_of_what_is_long_whole(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path, times=8)
    await device.upload((1, 3), (4, 9))
    await device.until_held()
    genuine = device.terminal.journal.part(5, 7)
    await community.publish(uploaded(device.device_id, genuine, community.clock.now))
    other = {**genuine, "records": [genuine["records"][0], genuine["records"][1].replace("granted", "refused"), genuine["records"][2]]}
    await community.publish(uploaded(device.device_id, other, community.clock.now))
    assert await alarm(community, "journal_broken")
    assert {each.outcome for each in await passages(community)} == {pb.PASSAGE_OUTCOME_OPENED}


@at_once
async def test_a_terminal_whose_memory_was_erased_begins_anew_with_an_alarm_and_loses_nothing(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path / "one", times=4)
    await device.upload()
    await device.until_held()
    community.clock.advance(minutes=1)
    async with terminal_at(community, _gate(device), tmp_path / "two") as anew:
        await anew.sync()
        await anew.report()
        assert await alarm(community, "journal_broken")
        community.clock.advance(minutes=1)
        assert anew.terminal.decide_alone(anew.shows(_CARD, "04CAFE")).opens
        await anew.upload()
        await anew.until_held()
    assert len(await passages(community)) == 5


@at_once
async def test_an_answer_that_came_too_late_and_the_terminals_own_decision_are_one_passage(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path)
    shown = device.shows(_CARD, "04CAFE")
    value = digest(community, CARD, "04CAFE")
    assert await answer(community, await presents(community, device.device_id, CARD, value, presentation_id=shown.presentation_id)) == ""
    assert [each.outcome for each in await passages(community)] == [pb.PASSAGE_OUTCOME_REQUESTED]
    device.terminal.decide_alone(shown)
    await device.upload()
    await device.until_held()
    [passage] = await passages(community)
    assert (passage.outcome, passage.offline) == (pb.PASSAGE_OUTCOME_OPENED, True)
    # And the other way round: nothing is asked twice, and no late command leaves.
    shown = device.shows(_CARD, "04CAFE")
    device.terminal.decide_alone(shown)
    await device.upload()
    await device.until_held()
    await presents(community, device.device_id, CARD, value, presentation_id=shown.presentation_id)
    assert await asks(community, device.device_id, CARD, value) == ""
    assert [each.offline for each in await passages(community)].count(True) == 2
    assert len(await passages(community)) == 3


@at_once
async def test_what_a_terminal_obeyed_is_booked_as_opened_with_who_it_was(community: Community, tmp_path: Path) -> None:
    gate = await community.door()
    opening = await community.call("OpenDoor", pb.OpenDoorRequest(door_id=gate.door_id, reason="给快递员开门"))
    async with terminal_at(community, gate, tmp_path) as device:
        event = await community.running.event(DoorOpenRequested, lambda each: each.message.device_id == gate.entrance)
        command = event.message.command
        told = {"command": base64.b64encode(command.command).decode(), "signature": base64.b64encode(command.signature).decode()}
        assert device.terminal.obey(told, None) == (opening.command_id, "opened")
        await device.upload()
        await device.until_held()
    [passage] = await passages(community)
    assert (passage.outcome, passage.opened_by_account_id) == (pb.PASSAGE_OUTCOME_OPENED, str(community.account_id))


@at_once
async def test_a_terminal_whose_clock_is_wrong_is_put_right_by_its_report(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path)
    right = device.terminal.clock
    device.terminal.clock = lambda: right() - timedelta(days=365 * 20)
    device.terminal.decide_alone(device.shows(_CARD, "04CAFE"))
    device.terminal.sense("tamper")
    await device.report()

    async def is_known() -> bool:
        return bool(await community.value("SELECT clock_error_us > 0 FROM journals WHERE device_id = $1", device.device_id))

    await eventually(is_known, "the clock's error")
    community.clock.advance(hours=2)
    await device.upload()
    await device.until_held()
    happened_at = community.clock.now - timedelta(hours=2)
    refused = [each for each in await passages(community) if each.offline]
    assert [each.occurred_at.ToDatetime(happened_at.tzinfo) for each in refused] == [happened_at]


@at_once
async def test_when_a_clock_was_never_set_what_it_dates_is_of_when_it_came_and_not_forgotten(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path)
    device.terminal.clock = lambda: datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=8)))
    device.terminal.journal.append("granted", device.terminal.clock(), presentation="p", by="card", offline=True)
    device.terminal.clock = community.clock
    await device.report()
    await device.upload()
    await device.until_held()
    [passage] = await passages(community)
    assert passage.occurred_at.ToDatetime(UTC) == community.clock.now


@at_once
async def test_what_we_decided_is_of_when_we_did_whatever_the_terminals_clock_says(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path)
    shown = device.shows(_CARD, "04CAFE")
    value = digest(community, CARD, "04CAFE")
    assert await answer(community, await presents(community, device.device_id, CARD, value, presentation_id=shown.presentation_id)) == ""
    decided_at = community.clock.now
    device.terminal.clock = lambda: decided_at - timedelta(hours=5)
    device.terminal.decide_alone(shown)
    await device.upload()
    await device.until_held()
    [passage] = await passages(community)
    assert passage.occurred_at.ToDatetime(UTC) == decided_at


@at_once
async def test_sensors_of_a_terminal_raise_alarms_and_fire_is_booked(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path)
    for kind in ("forced", "held", "tailgating", "tamper"):
        device.terminal.sense(kind)
    device.terminal.release()
    await device.upload()
    await device.until_held()
    kinds = {"door_forced", "door_held", "tailgating", "tamper", "fire_release"}
    for kind in kinds:
        assert await alarm(community, kind)
    [passage] = await passages(community)
    assert passage.outcome == pb.PASSAGE_OUTCOME_RELEASED


@at_once
async def test_journals_of_strangers_and_records_that_say_nothing_change_nothing(community: Community, tmp_path: Path) -> None:
    device, stranger = await offline(community, tmp_path, times=1), Community(community.town)
    whole = device.terminal.journal.part(1, 9)
    await stranger.publish(uploaded(device.device_id, whole, community.clock.now))
    await stranger.publish(uploaded("no-such-terminal", whole, community.clock.now))
    nonsense = [
        "{}",
        "[]",
        "null",
        '{"kind":"granted","at":"yesterday"}',
        '{"kind":"granted","at":"2026-03-02T01:00:00"}',
        '{"kind":7}',
        "开门",
    ]
    nonsense += ['{"kind":"granted","at":"2026-03-02T01:00:00Z","presentation":"\\u0000"}', '{"kind":"dance","at":"2026-03-02T01:00:00Z"}']
    await device.upload()
    await device.until_held()
    hashes = device.terminal.journal.hashes
    more = {"first": len(hashes) + 1, "previous": hashes[-1].hex(), "records": nonsense}
    await community.publish(uploaded(device.device_id, more, community.clock.now))

    async def is_held() -> bool:
        return bool((await device.journal()).journal_sequence == len(hashes) + len(nonsense))

    await eventually(is_held, "the nonsense is held")
    assert len(await passages(community)) == 1
    assert not await passages(stranger)


@at_once
async def test_one_card_that_two_offline_terminals_let_in_within_a_second_is_found_when_both_have_told(
    community: Community, tmp_path: Path
) -> None:
    home, gates = await community.home(), [await community.door(), await community.door()]
    await community.card(home.people[0], "04BEEF")
    for gate in gates:
        async with terminal_at(community, gate, tmp_path) as device:
            await device.sync()
            community.clock.advance(milliseconds=500)
            assert device.terminal.decide_alone(device.shows(_CARD, "04BEEF")).opens
            assert not await alarms(community, "card_cloned")
            await device.upload()
            await device.until_held()
    assert (await alarm(community, "card_cloned")).place == gates[1].name


@at_once
async def test_a_code_that_opened_two_doors_while_they_were_offline_is_found(community: Community, tmp_path: Path) -> None:
    home, gates = await community.home(), [await community.door(), await community.door()]
    code = str((await community.call_as(home.people[0], "CreateMyCode", pb.CreateMyCodeRequest())).code)
    for gate in gates:
        async with terminal_at(community, gate, tmp_path) as device:
            await device.sync()
            assert device.terminal.decide_alone(device.shows(CredentialKind.CODE, code)).opens
            assert device.terminal.decide_alone(device.shows(CredentialKind.CODE, code)).reason == "code_used"
            await device.upload()
            await device.until_held()
    assert (await alarm(community, "code_reused")).place == gates[1].name


@at_once
async def test_a_visitors_entry_that_a_terminal_granted_alone_is_counted_once(community: Community, tmp_path: Path) -> None:
    home, gate = await community.home(), await community.door()
    invitation = await community.invite(home, one_time=True)
    await community.confirm(invitation.link)
    request = pb.CreateVisitorCodeRequest(link=invitation.link)
    codes = [str((await community.call_without_token("CreateVisitorCode", request)).code) for _ in range(3)]
    async with terminal_at(community, gate, tmp_path) as device:
        await device.sync()
        assert device.terminal.decide_alone(device.shows(CredentialKind.CODE, codes[0])).opens
        assert device.terminal.decide_alone(device.shows(CredentialKind.CODE, codes[1])).reason == "entries_used"
        for _ in range(2):
            await device.upload()
        await device.until_held()
    assert await community.told(home.people[0], "access.visitor_entered")
    entries = await community.value("SELECT sum(entries) FROM pass_entries WHERE community_id = $1", community.community_id)
    assert entries == 1


@at_once
async def test_many_refusals_that_are_heard_of_late_are_an_alarm_of_when_they_were(community: Community, tmp_path: Path) -> None:
    device = await offline(community, tmp_path)
    then = community.clock.now
    for nth in range(6):
        community.clock.advance(seconds=5)
        device.terminal.decide_alone(device.shows(_CARD, f"NOBODY{nth}"))
    community.clock.advance(hours=5)
    await device.upload()
    await device.until_held()
    raised = await alarm(community, "too_many_refusals")
    assert raised.last_observed_at.ToDatetime(then.tzinfo) == then + timedelta(seconds=25)
