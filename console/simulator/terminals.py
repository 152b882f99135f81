"""A door terminal: asks us, decides alone when no answer comes, and keeps a journal that a power cut does not shorten.

`Terminal` is the device without its network: what it knows, its journal, and how it decides and obeys. Everything that it must remember
is a record of the journal, on the disk before the door opens. `ConnectedTerminal` speaks MQTT for it. `docs/devices/doors.md` says what is
sent.
"""

import asyncio
import base64
import json
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import aiomqtt
from google.protobuf.message import DecodeError

from linli.device.v1.commands_pb2 import DeviceCommand
from servicekit.clock import Clock, system_clock
from servicekit.identifiers import new_id, parse_id
from servicekit.signing import BARE, PublicKeys
from servicekit.times import to_datetime
from services.access import codes, snapshots
from services.access.codes import Code
from services.access.deciding import MISSES_WITHIN, Before, Presented, Reason, decide
from services.access.digests import card_digest, pin_digest
from services.access.doors import CredentialKind
from services.access.entries import Entry
from services.access.journal import BEGINNING, record_hash
from services.access.snapshots import Knowledge, Taken

# So long people wait before they try again.
ANSWER_S: Final = 1.0
_REPORT_S: Final = 60.0
_RECONNECT_S: Final = 0.5
_RECORDS_MAX: Final = 100
_PART_BYTES_MAX: Final = 40_000
_CARD_HEX: Final = 16


class Journal:
    """The journal on the disk, a record on each line. Records are never changed."""

    def __init__(self, path: Path) -> None:
        self.records: list[str] = []
        self.hashes: list[bytes] = []
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        for line in whole.decode().split("\n") if whole else ():
            self._chain(line)
        self._path = path
        with path.open("ab") as file:
            # What the power cut off was not on the disk, so no door opened for it.
            file.truncate(sum(len(record.encode()) + 1 for record in self.records))
        # Until where it was sent and acknowledged. When this is lost it is sent again, which does no harm.
        self._mark = path.with_suffix(".uploaded")
        self.uploaded = min(int(self._mark.read_text() or 0), len(self.records)) if self._mark.exists() else 0

    def _chain(self, record: str) -> None:
        self.hashes.append(record_hash(self.hashes[-1] if self.hashes else BEGINNING, record.encode()))
        self.records.append(record)

    def append(self, kind: str, at: datetime, **said: object) -> dict[str, Any]:
        """Writes a record, and returns it when it is on the disk."""
        content = {"kind": kind, "at": at.isoformat(), **{name: value for name, value in said.items() if value not in (None, "", False)}}
        record = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        _append(self._path, record.encode())
        self._chain(record)
        return content

    def part(self, first: int, last: int) -> dict[str, Any]:
        """A message with records from `first` on, at most until `last`, as many as one may hold."""
        records: list[str] = []
        size = 0
        for record in self.records[first - 1 : min(last, first + _RECORDS_MAX - 1)]:
            size += len(json.dumps(record)) + 1
            if size > _PART_BYTES_MAX and records:
                break
            records.append(record)
        return {"first": first, "previous": (self.hashes[first - 2] if first > 1 else BEGINNING).hex(), "records": records}

    def note_uploaded(self, sequence: int) -> None:
        """Remembers that all records until this one are stored."""
        self.uploaded = sequence
        self._mark.write_text(str(sequence))


def _append(path: Path, line: bytes) -> None:
    """Adds a line to a file; returns when it is on the disk."""
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fdatasync(file.fileno())


@dataclass(frozen=True, slots=True)
class Shown:
    """What somebody shows: `value` is the text of a code, a card's number, what is typed, or the subject whose face matched."""

    kind: CredentialKind
    value: str
    presentation_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of it."""

    reason: str
    offline: bool

    @property
    def opens(self) -> bool:
        """Whether the door opened."""
        return self.reason == Reason.NONE


class Terminal:
    """A terminal without its network. `on_open` is told of each time the door opens, and why."""

    def __init__(
        self, folder: Path, device_id: str, public_key: str, clock: Clock = system_clock, on_open: Callable[[str], None] = lambda _why: None
    ) -> None:
        self.device_id = device_id
        self.clock = clock
        folder.mkdir(parents=True, exist_ok=True)
        self._keys = PublicKeys(public_key)
        self._on_open = on_open
        self._kept = folder / "snapshot.json"
        self.knowledge = Knowledge.restored(device_id, self._kept.read_text()) if self._kept.exists() else Knowledge(device_id)
        self._parts = folder / "snapshot.parts"
        for message in self._parts.read_bytes().splitlines() if self._parts.exists() else ():
            self.knowledge.take(message, self._has_signed)
        self.journal = Journal(folder / "journal.jsonl")
        self.is_released = False
        self._counter = 0
        # The newest time that it has written down since its clock was set.
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._used: dict[str, datetime] = {}
        self._entries: dict[UUID, int] = {}
        self._misses: deque[datetime] = deque()
        for record in self.journal.records:
            self._remember(json.loads(record))

    def _remember(self, record: dict[str, Any]) -> None:
        """What a record means for what is decided after it."""
        at = datetime.fromisoformat(record["at"])
        self._latest = at if record["kind"] == "clock_set" else max(at, self._latest)
        match record["kind"]:
            case "granted" | "opened":
                # Whoever decided: what opened this door once does not open it again when nobody can be asked.
                self._counter = max(self._counter, record.get("counter", 0))
                if "nonce" in record:
                    self._used[record["nonce"]] = at + codes.LIFE + 3 * codes.SLACK
                if "subject" in record:
                    subject_id = UUID(record["subject"])
                    self._entries[subject_id] = self._entries.get(subject_id, 0) + 1
            case "refused" if record.get("by") == CredentialKind.PIN and record.get("reason") == Reason.UNKNOWN:
                self._misses.append(at)
            case "fire_release":
                self.is_released = True
            case "fire_over":
                self.is_released = False

    def _note(self, kind: str, **said: object) -> None:
        self._remember(self.journal.append(kind, self.clock(), **said))

    # What it knows.

    def _has_signed(self, content: bytes, signature: bytes) -> bool:
        return self._keys.has_signed(snapshots.PURPOSE, content, signature)

    def take_snapshot(self, message: bytes) -> Taken:
        """Takes in a part of a snapshot."""
        taken = self.knowledge.take(message, self._has_signed)
        if taken is Taken.PART:
            # What it has heard it knows after a power cut, too: somebody may be let in no more.
            _append(self._parts, message)
        elif taken is Taken.WHOLE:
            coming = self._kept.with_suffix(".coming")
            coming.unlink(missing_ok=True)
            _append(coming, self.knowledge.stored().encode())
            coming.replace(self._kept)
            self._parts.unlink(missing_ok=True)
        if taken is Taken.WHOLE:
            self._note("applied", version=self.knowledge.version)
        return taken

    def report(self) -> dict[str, Any]:
        """What it says of itself."""
        return {"snapshot": self.knowledge.version, "journal": len(self.journal.records), "at": self.clock().isoformat()}

    # Deciding.

    def show(self, kind: CredentialKind, value: str) -> Shown:
        """Somebody shows something."""
        # A power cut may have put its clock back: what has ended does not begin again.
        return Shown(kind, value, str(new_id()), max(self.clock(), self._latest))

    def question(self, shown: Shown) -> dict[str, Any] | None:
        """What it asks; None while it does not know how to ask without telling a number."""
        value = shown.value
        if shown.kind in (CredentialKind.CARD, CredentialKind.PIN):
            digest = self._digest(shown)
            if digest is None:
                return None
            value = digest.hex()
        return {"id": shown.presentation_id, "kind": shown.kind.value, "value": value, "at": shown.at.isoformat()}

    def _digest(self, shown: Shown) -> bytes | None:
        key = self.knowledge.settings.matching_key
        if key is None:
            return None
        return card_digest(key, shown.value) if shown.kind is CredentialKind.CARD else pin_digest(key, shown.value)

    def judge(self, shown: Shown) -> tuple[Reason, Entry | None, Code | None]:
        """What it decides alone, by what it knows, and of whom. Changes nothing."""
        entry, code, digest = None, None, b""
        if shown.kind is CredentialKind.CODE:
            code = codes.read(shown.value, lambda content, signature: self._keys.has_signed(codes.PURPOSE, content, signature))
            entry = None if code is None else self.knowledge.entries.get(code.subject_id)
        elif shown.kind is CredentialKind.FACE:
            subject_id = parse_id(shown.value)
            entry = None if subject_id is None else self.knowledge.entries.get(subject_id)
        else:
            digest = self._digest(shown) or b""
            entry = self.knowledge.find(digest)
        place = self.knowledge.settings.place
        if place is None:
            return Reason.UNKNOWN, None, None
        while self._misses and self._misses[0] <= shown.at - MISSES_WITHIN:
            self._misses.popleft()
        before = Before(
            entries=self._entries.get(entry.subject_id, 0) if entry is not None else 0,
            is_code_used=code is not None and code.nonce.hex() in self._used,
            misses=len(self._misses),
        )
        return decide(place, entry, Presented(shown.kind, digest, code), shown.at, before), entry, code

    def decide_alone(self, shown: Shown) -> Decision:
        """Decides by what it knows, writes it down, and opens the door or does not."""
        reason, entry, code = self.judge(shown)
        self._note(
            "refused" if reason else "granted", **self._said_of(shown, entry, None if reason else code), reason=reason.value, offline=True
        )
        self._used = {nonce: until for nonce, until in self._used.items() if until > shown.at}
        if not reason:
            self._on_open(shown.presentation_id)
        return Decision(reason, offline=True)

    def _said_of(self, shown: Shown, entry: Entry | None, code: Code | None) -> dict[str, object]:
        """What a record says of what was shown, by whom, and of the code that opens."""
        said: dict[str, object] = {"presentation": shown.presentation_id, "by": shown.kind.value}
        if entry is not None:
            digest = self._digest(shown) if shown.kind is CredentialKind.CARD else None
            said |= {"subject": str(entry.subject_id), "pass": entry.is_pass, "card": digest.hex()[:_CARD_HEX] if digest else ""}
        return said if code is None else {**said, "nonce": code.nonce.hex()}

    def hear_refusal(self, shown: Shown, reason: str) -> Decision:
        """Writes down that the door stays shut because we said so."""
        self._note("refused", presentation=shown.presentation_id, by=shown.kind.value, reason=reason)
        return Decision(reason, offline=False)

    def obey(self, message: dict[str, Any], awaited: Shown | None) -> tuple[str, str]:
        """Obeys a command or does not. `awaited` is what was shown, which it answers; None for one that answers nothing.

        Returns the command's id, empty when it is none, and "opened", "expired" or "refused".
        """
        body, command = _command(message)
        if command is None:
            return "", "refused"
        signature = _bytes(message.get("signature"))
        is_genuine = self._keys.has_signed(BARE, body, signature)
        if not is_genuine or command.device_id != self.device_id or command.action != "open" or command.counter <= self._counter:
            return command.command_id, "refused"
        if to_datetime(command.expires_at, "expires_at") < self.clock():
            return command.command_id, "expired"
        said = {} if awaited is None else self._said_of(awaited, *self.judge(awaited)[1:])
        self._note("opened", command=command.command_id, counter=command.counter, **said)
        self._on_open(command.command_id)
        return command.command_id, "opened"

    def command_id(self, message: dict[str, Any]) -> str:
        """The id of a command, genuine or not; empty when it is none."""
        command = _command(message)[1]
        return "" if command is None else command.command_id

    # What happens at the door.

    def sense(self, kind: str) -> None:
        """A sensor of the door finds something: "forced", "held", "closed", "tailgating" or "tamper"."""
        self._note(kind)

    def set_clock(self) -> None:
        """The clock was set, and is right, also when it went back."""
        self._note("clock_set")

    def release(self) -> None:
        """The fire system releases the door: it is open to everybody until the alarm is over, also when it has fallen shut meanwhile."""
        self._note("fire_release")
        self._on_open("fire_release")

    def end_release(self) -> None:
        """The fire system says that the alarm is over."""
        self._note("fire_over")


def _command(message: dict[str, Any]) -> tuple[bytes, DeviceCommand | None]:
    body = _bytes(message.get("command"))
    try:
        return body, DeviceCommand.FromString(body) if body else None
    except DecodeError:
        return body, None


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        return b""


class ConnectedTerminal:
    """A terminal on MQTT, for as long as `run` runs."""

    def __init__(self, host: str, port: int, secret: str, terminal: Terminal) -> None:
        self.terminal = terminal
        self.connected = asyncio.Event()
        self._host, self._port, self._secret = host, port, secret
        self._client: aiomqtt.Client | None = None
        self._awaited: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._wanted: list[tuple[int, int]] = []
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Stays connected until it is cancelled, however often the broker goes away."""
        device_id = self.terminal.device_id
        while True:
            try:
                async with aiomqtt.Client(
                    self._host, self._port, username=device_id, password=self._secret, identifier=device_id, keepalive=15
                ) as client:
                    for topic in ("commands", "snapshot", "journal_wanted"):
                        await client.subscribe(f"devices/{device_id}/{topic}", qos=1)
                    self._client = client
                    self.connected.set()
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._hear(client))
                        group.create_task(self._report(client))
                        group.create_task(self._upload(client))
            except (aiomqtt.MqttError, ExceptionGroup):
                pass
            finally:
                self._client = None
                self.connected.clear()
            await asyncio.sleep(_RECONNECT_S)

    async def present(self, kind: CredentialKind, value: str) -> Decision:
        """Somebody shows something: we are asked, and when no answer comes in time the terminal decides."""
        shown, client = self.terminal.show(kind, value), self._client
        question = self.terminal.question(shown)
        if client is None or question is None:
            return self._decided(self.terminal.decide_alone(shown))
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._awaited[shown.presentation_id] = answer
        try:
            async with asyncio.timeout(ANSWER_S):
                await client.publish(f"devices/{self.terminal.device_id}/presented", json.dumps(question))
                said = await answer
        except (TimeoutError, aiomqtt.MqttError):
            return self._decided(self.terminal.decide_alone(shown))
        finally:
            del self._awaited[shown.presentation_id]
        if "refused" in said:
            return self._decided(self.terminal.hear_refusal(shown, said["refused"]))
        outcome = await self._obey(client, said, shown)
        return self._decided(Decision(Reason.NONE, offline=False) if outcome == "opened" else self.terminal.decide_alone(shown))

    def _decided(self, decision: Decision) -> Decision:
        self._news.set()
        return decision

    async def _obey(self, client: aiomqtt.Client, said: dict[str, Any], awaited: Shown | None) -> str:
        command_id, outcome = self.terminal.obey(said, awaited)
        self._news.set()
        await self._acknowledge(client, command_id, outcome)
        return outcome

    async def _acknowledge(self, client: aiomqtt.Client, command_id: str, outcome: str) -> None:
        if command_id:
            answer = {"command_id": command_id, "outcome": outcome, "at": self.terminal.clock().isoformat()}
            await client.publish(f"devices/{self.terminal.device_id}/acknowledgements", json.dumps(answer), qos=1)

    async def _hear(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload
            if not isinstance(payload, bytes):
                continue
            match message.topic.value.rpartition("/")[2]:
                case "snapshot":
                    if self.terminal.take_snapshot(payload) in (Taken.WHOLE, Taken.GAP):
                        self._news.set()
                        await self._tell(client)
                case "journal_wanted":
                    self._wanted = [(first, last) for first, last in json.loads(payload)["wanted"]]
                    self._news.set()
                case "commands":
                    await self._hear_command(client, payload)

    async def _hear_command(self, client: aiomqtt.Client, payload: bytes) -> None:
        try:
            said = json.loads(payload)
            asked = str(said.get("presentation", ""))
        except (ValueError, AttributeError):
            return
        answer = self._awaited.get(asked)
        if answer is not None and not answer.done():
            answer.set_result(said)
        elif not asked and "command" in said:
            await self._obey(client, said, None)
        elif "command" in said:
            # It came too late: the terminal has decided.
            await self._acknowledge(client, self.terminal.command_id(said), "expired")

    async def _report(self, client: aiomqtt.Client) -> None:
        while True:
            await self._tell(client)
            await asyncio.sleep(_REPORT_S)

    async def _tell(self, client: aiomqtt.Client) -> None:
        await client.publish(f"devices/{self.terminal.device_id}/terminal", json.dumps(self.terminal.report()))

    async def _upload(self, client: aiomqtt.Client) -> None:
        """Sends what was not acknowledged, then what is new, then what is asked for again."""
        while True:
            self._news.clear()
            journal = self.terminal.journal
            while journal.uploaded < len(journal.records):
                journal.note_uploaded(await self._send(client, journal.uploaded + 1, len(journal.records)))
            while self._wanted:
                first, last = self._wanted[0]
                sent = await self._send(client, first, last) if first <= len(journal.records) else last
                self._wanted[:1] = [(sent + 1, last)] if sent < last else []
            await self._news.wait()

    async def _send(self, client: aiomqtt.Client, first: int, last: int) -> int:
        part = self.terminal.journal.part(first, last)
        await client.publish(f"devices/{self.terminal.device_id}/journal", json.dumps(part), qos=1)
        return first + len(part["records"]) - 1
