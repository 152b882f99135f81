"""Builders for tests with terminals: what they ask and upload as ingest tells it, and terminals that take in what they are sent."""

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import nats
from nats.aio.msg import Msg

from console.simulator.terminals import Shown, Terminal
from linli.access.v1 import access_pb2 as pb
from linli.access.v1 import alarms_pb2
from linli.access.v1.events_pb2 import DoorOpenRequested, EntryRefused
from linli.device.v1 import events_pb2 as device
from servicekit.events import Received
from servicekit.identifiers import new_id
from servicekit.signing import Signer
from servicekit.times import to_timestamp
from services.access.digests import MatchingKeys, card_digest, pin_digest
from services.access.journal import BEGINNING
from services.access.snapshots import Taken
from tests.access.arrange import CARD, CODE, FACE, KEY, PIN, Community, Gate
from tests.support import eventually

PUBLIC_KEY = base64.b64encode(Signer(KEY).public_key).decode()
_NAMES = {"face": FACE, "code": CODE, "card": CARD, "pin": PIN}


def digest(community: Community, kind: Any, typed: str) -> str:
    """What a terminal tells of a card's number, or of what is typed."""
    key = MatchingKeys(KEY).of(community.community_id)
    return (card_digest if kind == CARD else pin_digest)(key, typed).hex()


async def presents(
    community: Community, device_id: str, kind: Any, value: str, *, presentation_id: str = "", late: timedelta = timedelta(0)
) -> str:
    """Somebody shows a code, a digest or a face to a terminal, which asks. Returns the presentation's id."""
    presentation_id = presentation_id or str(new_id())
    at = to_timestamp(community.clock.now - late)
    event = device.CredentialPresented(
        device_id=device_id, presentation_id=presentation_id, kind=kind, value=value, occurred_at=at, received_at=at
    )
    await community.publish(event)
    return presentation_id


async def answer(community: Community, presentation_id: str) -> str:
    """What a terminal is told of a presentation: the reason why its door stays shut, empty when it is to open."""

    def told(kind: Any) -> list[Received[Any]]:
        return [each for each in community.running.events(kind) if each.message.presentation_id == presentation_id]

    async def find() -> Received[Any] | None:
        return next(iter([*told(DoorOpenRequested), *told(EntryRefused)]), None)

    found = await eventually(find, f"the answer to {presentation_id}")
    assert found is not None
    return found.message.reason if isinstance(found.message, EntryRefused) else ""


async def asks(community: Community, device_id: str, kind: Any, value: str) -> str:
    """The same for one that is asked now."""
    return await answer(community, await presents(community, device_id, kind, value))


async def passages(community: Community, **asked: Any) -> Sequence[pb.Passage]:
    """What happened, newest first."""
    return list((await community.call("ListPassages", pb.ListPassagesRequest(page_size=100, **asked))).passages)


async def alarms(community: Community, kind: str = "") -> list[alarms_pb2.Alarm]:
    """What is wrong, of one kind."""
    found = (await community.call("ListAlarms", alarms_pb2.ListAlarmsRequest(page_size=100))).alarms
    return [each for each in found if kind in ("", each.kind)]


async def alarm(community: Community, kind: str) -> alarms_pb2.Alarm:
    """The alarm of a kind; waits for it."""

    async def find() -> alarms_pb2.Alarm | None:
        return next(iter(await alarms(community, kind)), None)

    found = await eventually(find, f"an alarm: {kind}")
    assert found is not None
    return found


@dataclass(slots=True)
class Device:
    """A reference terminal at a door, without a broker: the test carries what is told, and may lose it."""

    community: Community
    terminal: Terminal
    # Parts of snapshots that were sent to it and are not taken in yet.
    sent: list[bytes] = field(default_factory=list)
    wanted: list[bytes] = field(default_factory=list)

    @property
    def device_id(self) -> str:
        return self.terminal.device_id

    async def report(self) -> None:
        """Says what it has, as it does when it has connected."""
        said = self.terminal.report()
        event = device.TerminalReported(
            device_id=self.device_id,
            snapshot_version=said["snapshot"],
            journal_sequence=said["journal"],
            occurred_at=to_timestamp(datetime.fromisoformat(said["at"])),
            received_at=to_timestamp(self.community.clock.now),
        )
        await self.community.publish(event)

    async def sync(self) -> None:
        """Reports and takes in what comes, until it has what it is to have, and has confirmed it."""
        wanted = await self.community.wanted_version(self.device_id)

        async def is_done() -> bool:
            await self.report()
            await self.hears()
            sql = "SELECT confirmed_version FROM terminals WHERE device_id = $1"
            return self.terminal.knowledge.version >= wanted and bool(await self.community.value(sql, self.device_id) >= wanted)

        await eventually(is_done, f"{self.device_id} has version {wanted}", every_s=0.05)

    async def hears(self) -> list[Taken]:
        """Takes in what was sent to it until now."""
        parts, self.sent[:] = list(self.sent), []
        return [self.terminal.take_snapshot(part) for part in parts]

    async def upload(self, *ranges: tuple[int, int]) -> None:
        """Uploads these records, or all of its journal."""
        for first, last in ranges or [(1, len(self.terminal.journal.records))]:
            while first <= last:
                part = self.terminal.journal.part(first, last)
                await self.community.publish(uploaded(self.device_id, part, self.community.clock.now))
                first += len(part["records"])

    def shows(self, kind: Any, value: str) -> Shown:
        """Somebody shows something to it."""
        return self.terminal.show(kind, value)

    async def journal(self) -> pb.Terminal:
        """What staff see of it."""
        listed = await self.community.call("ListTerminals", pb.ListTerminalsRequest(page_size=100))
        found: pb.Terminal = next(each for each in listed.terminals if each.device_id == self.device_id)
        return found

    async def until_held(self, missing: int = 0) -> None:
        """Waits until so many of its records are missing, and no more are known."""

        async def is_held() -> bool:
            state = await self.journal()
            return state.journal_sequence == len(self.terminal.journal.records) and state.journal_missing == missing

        await eventually(is_held, f"{missing} missing")

    async def until_missing(self, missing: int) -> None:
        """Waits until so many records are missing of those that are known."""

        async def is_missing() -> bool:
            return (await self.journal()).journal_missing == missing

        await eventually(is_missing, f"{missing} missing")


def uploaded(device_id: str, part: dict[str, Any], received_at: datetime) -> device.JournalUploaded:
    """A part of a journal as ingest tells it."""
    return device.JournalUploaded(
        device_id=device_id,
        first_sequence=part["first"],
        previous_hash=bytes.fromhex(part.get("previous", BEGINNING.hex())),
        records=part["records"],
        received_at=to_timestamp(received_at),
    )


@asynccontextmanager
async def terminal_at(community: Community, gate: Gate, folder: Path, *, device_id: str = "") -> AsyncIterator[Device]:
    """A reference terminal at a door, in place of the broker connected with the service by the test."""
    device_id = device_id or gate.entrance
    terminal = Terminal(folder / device_id, device_id, PUBLIC_KEY, community.clock)
    found = Device(community, terminal)
    client = await nats.connect(community.running.nats_url)

    async def keep(message: Msg) -> None:
        (found.sent if message.subject.endswith("snapshot") else found.wanted).append(message.data)

    for name in ("snapshot", "journal_wanted"):
        await client.subscribe(f"devices.{device_id}.{name}", cb=keep)
    await client.flush()
    try:
        yield found
    finally:
        await client.close()
