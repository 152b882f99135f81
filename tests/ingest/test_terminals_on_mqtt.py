"""Door terminals on MQTT, through a real broker: what they say is passed on, what they are told is theirs alone, and only access opens."""

import asyncio
import base64
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import aiomqtt
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from linli.access.v1.events_pb2 import DoorOpenRequested, EntryRefused
from linli.device.v1.commands_pb2 import SignedCommand
from linli.device.v1.events_pb2 import CredentialPresented, DoorAcknowledged, GateAcknowledged, JournalUploaded, TerminalReported
from linli.parking.v1.events_pb2 import GateOpenRequested
from servicekit.events import envelope
from servicekit.identifiers import new_id
from services.ingest.devices import Kind
from services.ingest.openings import DROPPED
from tests.ingest.broker import as_service, guarded_servers, mqtt, town_on_mqtt
from tests.ingest.fleet import DOOR_KEY, GATE, Fleet, command_id, second_instance, signed_command, stored
from tests.support import Servers, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
DIGEST = hashlib.sha256(b"a card").hexdigest()
TOLD = ("commands", "snapshot", "journal_wanted")
DEAD = "SELECT count(*) FROM dead_letters WHERE subject LIKE $1"
_numbers = count(1)


@pytest.fixture(scope="module")
def guarded(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The servers, with a guarded broker for all tests of this file."""
    with guarded_servers(servers, tmp_path_factory.mktemp("broker")) as own:
        yield own


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(guarded: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with town_on_mqtt(guarded, tmp_path_factory.mktemp("town")) as running:
        yield running


class Terminal:
    """A terminal, or another device, with its connection."""

    def __init__(self, device_id: str, client: aiomqtt.Client) -> None:
        self.device_id = device_id
        self.client = client

    async def says(self, topic: str, said: Any, device_id: str = "") -> None:
        """Publishes; returns when the broker has it."""
        body = said if isinstance(said, bytes) else json.dumps(said, ensure_ascii=False)
        await self.client.publish(f"devices/{device_id or self.device_id}/{topic}", body, qos=1)

    async def presents(self, presentation_id: str, kind: str = "card", value: str = DIGEST) -> None:
        await self.says("presented", {"id": presentation_id, "kind": kind, "value": value, "at": datetime.now(UTC).isoformat()})

    async def hears(self, seconds: float = 5) -> tuple[str, Any]:
        """The next message: the last part of its topic, and what it says."""
        async with asyncio.timeout(seconds):
            async for message in self.client.messages:
                assert isinstance(message.payload, bytes)
                return str(message.topic).rpartition("/")[2], json.loads(message.payload)
        raise AssertionError("the broker hung up")

    async def hears_nothing(self, seconds: float) -> None:
        with pytest.raises(TimeoutError):
            await self.hears(seconds)

    async def may_hear(self, topic: str) -> bool:
        (code,) = await self.client.subscribe(topic, qos=1)
        return not (code if isinstance(code, int) else code.is_failure)


@pytest_asyncio.fixture(loop_scope="module")
async def terminal(guarded: Servers, town: Fleet) -> AsyncIterator[Terminal]:
    """A terminal of this test's own, which listens to all that it may."""
    device_id = f"terminal-{next(_numbers)}"
    secret = await town.register(device_id, Kind.TERMINAL)
    async with mqtt(guarded, device_id, secret) as client:
        made = Terminal(device_id, client)
        for name in TOLD:
            assert await made.may_hear(f"devices/{device_id}/{name}")
        yield made


def door_open(device_id: str, command: SignedCommand | None = None, presentation_id: str = "p1") -> DoorOpenRequested:
    """What access says when it opens."""
    signed = command or signed_command(device_id, datetime.now(UTC), key=DOOR_KEY)
    return DoorOpenRequested(
        door_id="door-1", device_id=device_id, presentation_id=presentation_id, command=signed, text_zh="请进", text_en="Come in"
    )


def refused(device_id: str) -> EntryRefused:
    return EntryRefused(
        door_id="door-1", device_id=device_id, presentation_id="p1", reason="code_expired", text_zh="二维码已过期", text_en="Expired"
    )


async def test_what_is_shown_to_a_terminal_is_passed_on_once(terminal: Terminal, town: Fleet, guarded: Servers) -> None:
    before = len(town.running.events(CredentialPresented))
    said = {"id": "p1", "kind": "code", "value": "A" * 174, "at": datetime.now(UTC).isoformat()}
    for _ in range(3):
        await terminal.says("presented", said)
    await terminal.presents("p2")
    event = await _presented(town, terminal, "p2")
    assert (event.value, event.received_at.ToDatetime(UTC) <= datetime.now(UTC)) == (DIGEST, True)
    assert (await _presented(town, terminal, "p1")).value == "A" * 174
    assert len(town.running.events(CredentialPresented)) == before + 2
    assert await stored(guarded, "DEVICE_DOOR") == len(town.running.events(CredentialPresented))


async def _presented(town: Fleet, terminal: Terminal, presentation_id: str) -> CredentialPresented:
    event = await town.running.event(
        CredentialPresented, lambda event: (event.aggregate, event.message.presentation_id) == (terminal.device_id, presentation_id)
    )
    assert event.community_id == town.community_id
    return event.message


async def test_a_cards_number_stays_in_the_broker_and_is_written_nowhere(
    terminal: Terminal, town: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("card", "pin", "code", "face"):
        await terminal.presents(f"{kind}-1", kind, "00123456789")
    await terminal.presents("good")
    await _presented(town, terminal, "good")
    records = {event.message.presentation_id for event in town.running.events(CredentialPresented) if event.aggregate == terminal.device_id}
    assert records == {"good"}

    async def is_counted() -> bool:
        await town.turn()
        return (await town.device(terminal.device_id)).irregular_records == 4

    await eventually(is_counted)
    async with town.running.transaction("ingest", town.community_id) as tx:
        assert await tx.fetchval(DEAD, f"%{terminal.device_id}%") == 0
    written = capsys.readouterr()
    assert "00123456789" not in written.out + written.err


async def test_a_terminal_tells_what_it_has_and_lives_by_that(terminal: Terminal, town: Fleet) -> None:
    await terminal.says("terminal", {"snapshot": 17, "journal": 4711, "at": datetime.now(UTC).isoformat()})
    event = await town.running.event(TerminalReported, lambda event: event.aggregate == terminal.device_id)
    assert (event.message.snapshot_version, event.message.journal_sequence) == (17, 4711)
    await town.turn()
    assert (await town.device(terminal.device_id)).online


def _journal(first: int, number: int, padding: int = 0) -> dict[str, Any]:
    records = [
        json.dumps({"sequence": first + each, "kind": "passage", "note": "开" * padding}, ensure_ascii=False) for each in range(number)
    ]
    return {"first": first, "previous": hashlib.sha256(str(first).encode()).hexdigest(), "records": records}


async def test_a_journal_is_passed_on_to_the_byte_and_each_part_once(terminal: Terminal, town: Fleet) -> None:
    parts = [_journal(first, 100, 130) for first in (201, 1, 101)]
    assert 40_000 < len(json.dumps(parts[0], ensure_ascii=False).encode()) < 48 * 1024
    for part in (*parts, parts[0]):
        await terminal.says("journal", part)
    await terminal.says("journal", _journal(301, 1))
    await town.running.event(JournalUploaded, lambda event: (event.aggregate, event.message.first_sequence) == (terminal.device_id, 301))
    heard = [event.message for event in town.running.events(JournalUploaded) if event.aggregate == terminal.device_id]
    assert [part.first_sequence for part in heard] == [201, 1, 101, 301]
    for part, found in zip(parts, heard, strict=False):
        assert [record.encode() for record in found.records] == [record.encode() for record in part["records"]]
        assert found.previous_hash.hex() == part["previous"]


async def test_what_is_no_part_of_a_journal_is_kept_for_an_operator_and_holds_nothing_up(terminal: Terminal, town: Fleet) -> None:
    long = _journal(1, 100, 150)
    assert len(json.dumps(long, ensure_ascii=False).encode()) > 48 * 1024
    for body in (b"{", {"first": 0, "previous": "00" * 32, "records": ["{}"]}, {"first": 1, "previous": "", "records": ["{}"]}, long):
        await terminal.says("journal", body)
    await terminal.says("journal", _journal(1, 2))
    await town.running.event(JournalUploaded, lambda event: event.aggregate == terminal.device_id)
    assert len([event for event in town.running.events(JournalUploaded) if event.aggregate == terminal.device_id]) == 1

    async def is_kept() -> bool:
        async with town.running.transaction("ingest", town.community_id) as tx:
            return bool(await tx.fetchval(DEAD, f"%{terminal.device_id}.journal") == 4)

    await eventually(is_kept)


async def test_a_door_opens_with_the_answer_to_its_question_and_once_it_says_so_all_is_quiet(terminal: Terminal, town: Fleet) -> None:
    requested = door_open(terminal.device_id)
    await town.publish(requested)
    topic, told = await terminal.hears()
    assert (topic, told["presentation"], told["text_zh"], told["text_en"]) == ("commands", "p1", "请进", "Come in")
    assert base64.b64decode(told["command"]) == requested.command.command
    DOOR_KEY.public_key().verify(base64.b64decode(told["signature"]), base64.b64decode(told["command"]))
    assert (await terminal.hears())[1] == told  # Until it answers.
    await terminal.says("acknowledgements", {"command_id": command_id(requested.command), "outcome": "opened"})
    answer = await town.running.event(DoorAcknowledged, lambda event: event.aggregate == terminal.device_id)
    assert (answer.message.command_id, answer.message.outcome) == (command_id(requested.command), GateAcknowledged.OUTCOME_OPENED)
    await terminal.hears_nothing(1.5)


async def test_a_door_that_is_opened_from_afar_answers_no_question(terminal: Terminal, town: Fleet) -> None:
    await town.publish(door_open(terminal.device_id, presentation_id=""))
    assert "presentation" not in (await terminal.hears())[1]


def _dropped() -> float:
    return sum(sample.value for metric in DROPPED.collect() for sample in metric.samples if sample.name.endswith("_total"))


async def test_neither_key_opens_what_is_the_others_nor_a_strangers_door_nor_late(
    terminal: Terminal, town: Fleet, guarded: Servers
) -> None:
    now, before, door = datetime.now(UTC), _dropped(), terminal.device_id
    for_door, by_access = signed_command(door, now), signed_command(GATE, now, key=DOOR_KEY)
    bad: list[tuple[Message, uuid.UUID | None]] = [
        (door_open(door, for_door), None),  # Parking's key on a door.
        (door_open(GATE, by_access), None),  # Access's key on a gate.
        (GateOpenRequested(lane_id="lane-1", gate_device_id=GATE, command=by_access), None),
        (GateOpenRequested(lane_id="lane-1", gate_device_id=door, command=for_door), None),
        (door_open(door, signed_command("terminal-of-another", now, key=DOOR_KEY)), None),
        (door_open(door, signed_command(door, now, key=DOOR_KEY, lives_s=-1)), None),
        (door_open(door, signed_command(door, now, key=DOOR_KEY, action="close")), None),
        (door_open(door), new_id()),
        (door_open("no-such-terminal"), None),
        (refused(GATE), None),
        (refused(door), new_id()),
    ]
    async with mqtt(guarded, GATE, town.secrets[GATE]) as client:
        gate = Terminal(GATE, client)
        assert await gate.may_hear(f"devices/{GATE}/commands")
        for event, community_id in bad:
            await town.publish(event, community_id)

        async def all_are_dropped() -> bool:
            return _dropped() == before + len(bad)

        await eventually(all_are_dropped)
        # What is genuine is the first that comes.
        right = door_open(door, presentation_id="right")
        await town.publish(right)
        await town.publish(GateOpenRequested(lane_id="lane-1", gate_device_id=GATE, command=signed_command(GATE, now)))
        assert (await terminal.hears())[1]["presentation"] == "right"
        assert (await gate.hears())[1].keys() == {"command", "signature", "key_id"}
        await gate.says("acknowledgements", {"command_id": command_id(right.command), "outcome": "opened"})
        # Another device's answer to a command stops nothing.
        assert (await terminal.hears())[1]["presentation"] == "right"


async def test_a_refusal_is_told_once_and_never_late(terminal: Terminal, town: Fleet) -> None:
    assert town.others is not None
    late = datetime.now(UTC) - timedelta(seconds=11)
    await town.others.publish(envelope(refused(terminal.device_id), town.community_id, event_id=str(new_id()), occurred_at=late))
    await town.publish(refused(terminal.device_id))
    told = {"presentation": "p1", "refused": "code_expired", "text_zh": "二维码已过期", "text_en": "Expired"}
    assert await terminal.hears() == ("commands", told)
    await terminal.hears_nothing(1.5)


async def test_a_terminal_hears_its_own_topics_only_and_nobody_else_writes_them(terminal: Terminal, town: Fleet, guarded: Servers) -> None:
    other = await town.register("terminal-of-somebody", Kind.TERMINAL)
    secret = await town.register("bin-at-the-door", Kind.BIN)
    async with mqtt(guarded, "terminal-of-somebody", other) as client, mqtt(guarded, "bin-at-the-door", secret) as bin_client:
        stranger, smart_bin = Terminal("terminal-of-somebody", client), Terminal("bin-at-the-door", bin_client)
        for name in (*TOLD, "#", "+"):
            assert not await stranger.may_hear(f"devices/{terminal.device_id}/{name}")
            assert not await stranger.may_hear(f"devices/+/{name}")
        for name in ("snapshot", "journal_wanted", "#"):
            assert not await smart_bin.may_hear(f"devices/{smart_bin.device_id}/{name}")
        for name in TOLD:
            for device in (terminal, stranger, smart_bin):
                await device.says(name, {"forged": True}, terminal.device_id)
        for device in (stranger, smart_bin):
            await device.presents("forged")
            await device.says("presented", {"id": "forged", "kind": "card", "value": DIGEST}, terminal.device_id)
        await terminal.presents("own")
        await _presented(town, terminal, "own")
        await _presented(town, stranger, "forged")
        assert {event.aggregate for event in town.running.events(CredentialPresented) if event.message.presentation_id == "forged"} == {
            stranger.device_id
        }
        errors: list[str] = []
        access = await as_service(guarded, "access", errors)
        part = {"version": 18, "part": 1, "content": "x" * 60_000}
        await access.publish(f"devices.{terminal.device_id}.snapshot", json.dumps(part).encode())
        await access.publish(f"devices.{terminal.device_id}.journal_wanted", b'{"first": 101}')
        assert [await terminal.hears(), await terminal.hears()] == [("snapshot", part), ("journal_wanted", {"first": 101})]
        # Commands are ingest's to send: what it checks there, nobody goes around.
        await access.publish(f"devices.{terminal.device_id}.commands", b"{}")
        await access.flush()
        assert "permissions violation" in errors[0].lower()
        await access.close()


async def test_a_journal_that_comes_while_ingest_is_away_is_heard_afterwards(terminal: Terminal, town: Fleet) -> None:
    await town.running.host.stop()
    parts = [_journal(first, 100) for first in range(1, 1001, 100)]
    for part in parts:
        await terminal.says("journal", part)
    await terminal.presents("nobody waits")
    async with second_instance(town):
        last = await town.running.event(
            JournalUploaded, lambda event: (event.aggregate, event.message.first_sequence) == (terminal.device_id, 901)
        )
        assert len(last.message.records) == 100
        heard = [event.message.first_sequence for event in town.running.events(JournalUploaded) if event.aggregate == terminal.device_id]
        assert sorted(heard) == [part["first"] for part in parts]  # One may have to be passed on again.
        assert not [event for event in town.running.events(CredentialPresented) if event.message.presentation_id == "nobody waits"]
