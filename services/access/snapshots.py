"""What a door terminal knows, so that it can decide alone: how it is written into signed parts, and how a terminal takes them in. Pure.

A snapshot leads from one version to a later one, from 0 for a terminal that knows nothing. It names each subject that changed in between,
with its newest entry or as gone. First come those from whom something was taken, so that a terminal which hears the beginning alone knows
the worst. A terminal takes in each part when it comes, because what a part says of a subject is whole; its version moves when it has all
parts of one snapshot. It never goes back: what leads to less than it has begun to take in is refused. `docs/devices/doors.md` is for
their makers.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.access.deciding import Place
from services.access.doors import AntiPassback, CredentialKind, Direction
from services.access.entries import Entry, Times
from services.access.windows import packed, unpacked

# What parts are signed for.
PURPOSE: Final = "access.snapshot"
# MQTT carries 64 KiB to a device.
PART_BYTES_MAX: Final = 40 * 1024
# What is left of that for entries, in base64 and beside the signature and a part's own words.
_BODY_BYTES: Final = 28 * 1024
# Versions grow by one with each change; what is further ahead was not counted by us.
VERSION_MAX: Final = 1 << 62
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a terminal is told of its own door. `place` is None for one that was taken away: it forgets everything.

    `matching_key` makes the digests of cards and PINs; it is told with a whole snapshot only, and None otherwise.
    """

    place: Place | None
    time_zone: str = ""
    held_open_limit_s: int = 0
    matching_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What is new of subjects from one version until another. `entries` are texts as `entry_text` writes them, the most urgent first."""

    device_id: str
    community_id: UUID
    from_version: int
    to_version: int
    settings: Settings
    gone: Sequence[UUID] = ()
    entries: Sequence[str] = ()


def entry_text(entry: Entry) -> str:
    """An entry as it is stored and sent. Equal entries have equal texts."""
    said: Json = {"subject": str(entry.subject_id)}
    if entry.is_pass:
        said["pass"] = True
    for name, digests in (("cards", entry.cards), ("pins", entry.pins)):
        if digests:
            said[name] = sorted(digest.hex() for digest in digests)
    for name, holds in (("face", entry.face), ("codes", entry.codes), ("phone", entry.phone)):
        if holds:
            said[name] = True
    if entry.template_id is not None:
        said["template_id"] = str(entry.template_id)
    said["times"] = [_times(times) for times in entry.times]
    if entry.entries_max:
        said["entries"] = entry.entries_max
    return json.dumps(said, separators=(",", ":"))


def _times(times: Times) -> Json:
    said: Json = {}
    if times.windows:
        said["windows"] = packed(times.windows)
    if times.valid_from is not None:
        said["from"] = times.valid_from.timestamp()
    if times.valid_until is not None:
        said["until"] = times.valid_until.timestamp()
    return said


def entry_of(said: Mapping[str, Any]) -> Entry:
    """An entry that was written so. Raises KeyError, TypeError or ValueError for anything else."""
    template_id = said.get("template_id")
    return Entry(
        subject_id=UUID(said["subject"]),
        is_pass=bool(said.get("pass")),
        cards=frozenset(map(bytes.fromhex, said.get("cards", ()))),
        pins=frozenset(map(bytes.fromhex, said.get("pins", ()))),
        face=bool(said.get("face")),
        template_id=None if template_id is None else UUID(template_id),
        codes=bool(said.get("codes")),
        phone=bool(said.get("phone")),
        times=tuple(_times_of(times) for times in said["times"]),
        entries_max=int(said.get("entries", 0)),
    )


def _times_of(said: Mapping[str, Any]) -> Times:
    since, until = said.get("from"), said.get("until")
    return Times(
        windows=unpacked(said.get("windows", ())),
        valid_from=None if since is None else datetime.fromtimestamp(since, UTC),
        valid_until=None if until is None else datetime.fromtimestamp(until, UTC),
    )


def is_narrower(before: Entry, after: Entry) -> bool:
    """Whether something was taken from a subject, or may have been: terminals hear of it first."""
    keeps = (
        before.cards <= after.cards
        and before.pins <= after.pins
        and before.face <= after.face
        and before.codes <= after.codes
        and before.entries_max == after.entries_max
        and before.template_id in (None, after.template_id)
    )
    return not keeps or not (before.times == after.times or Times() in after.times)


def parts_of(change: Change, sign: Callable[[bytes], bytes], key_id: str) -> list[bytes]:
    """The messages that carry a change, each of at most `PART_BYTES_MAX` bytes. `sign` signs for the purpose of snapshots."""
    groups = _groups(change)
    digest = hashlib.sha256(repr(groups).encode()).hexdigest()[:16]
    parts = []
    for number, (gone, entries) in enumerate(groups, 1):
        head: Json = {
            "device": change.device_id,
            "community": str(change.community_id),
            "from": change.from_version,
            "to": change.to_version,
            # What lies between two versions may have moved on, and be cut otherwise, when it is sent again.
            "digest": digest,
            "part": number,
            "parts": len(groups),
        }
        if number == 1:
            head["settings"] = _settings(change.settings)
        if gone:
            head["gone"] = gone
        text = json.dumps(head, separators=(",", ":"))
        content = f'{text[:-1]},"entries":[{",".join(entries)}]}}'.encode()
        message = {"snapshot": _base64(content), "signature": _base64(sign(content)), "key_id": key_id}
        parts.append(json.dumps(message, separators=(",", ":")).encode())
    return parts


def _groups(change: Change) -> list[tuple[list[str], list[str]]]:
    """What each part holds: subjects that are gone, and entries."""
    groups: list[tuple[list[str], list[str]]] = [([], [])]
    used = 0
    for is_gone, text in (*((True, str(subject_id)) for subject_id in change.gone), *((False, entry) for entry in change.entries)):
        size = len(text.encode()) + 3
        if used + size > _BODY_BYTES and used:
            groups.append(([], []))
            used = 0
        groups[-1][not is_gone].append(text)
        used += size
    return groups


def _settings(settings: Settings) -> Json:
    place = settings.place
    if place is None:
        return {"door": None}
    said: Json = {
        "door": str(place.door_id),
        "direction": place.direction.value,
        "kinds": sorted(kind.value for kind in place.kinds),
        "anti_passback": place.anti_passback.value,
        "held_open_limit_s": settings.held_open_limit_s,
        "time_zone": settings.time_zone,
    }
    if settings.matching_key is not None:
        said["key"] = _base64(settings.matching_key)
    return said


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class Taken(StrEnum):
    """What a terminal made of a part."""

    # It was taken in, and others of its snapshot are missing.
    PART = "part"
    # With it the terminal has a new version, and confirms it.
    WHOLE = "whole"
    UNREADABLE = "unreadable"
    NOT_GENUINE = "not_genuine"
    # For another terminal.
    STRANGE = "strange"
    # Older than what the terminal has.
    OLD = "old"
    # It leads from a version that the terminal does not have.
    GAP = "gap"


@dataclass(slots=True)
class _Collecting:
    """A snapshot of which some parts have come. `named` are the subjects that a whole one names."""

    from_version: int
    to_version: int
    digest: str
    parts: int
    came: set[int] = field(default_factory=set)
    named: set[UUID] = field(default_factory=set)


class Knowledge:
    """What a terminal knows and decides by."""

    def __init__(self, device_id: str) -> None:
        self.device_id = device_id
        self.version = 0
        self.settings = Settings(place=None)
        self.entries: dict[UUID, Entry] = {}
        # Faces that were sent along, by subject.
        self.templates: dict[UUID, bytes] = {}
        # The newest version of which a part was taken in: nothing older is taken in after it.
        self._floor = 0
        self._collecting: _Collecting | None = None
        self._subject_of: dict[bytes, UUID] = {}

    def find(self, digest: bytes) -> Entry | None:
        """Whose card or PIN has this digest."""
        subject_id = self._subject_of.get(digest)
        return None if subject_id is None else self.entries.get(subject_id)

    def take(self, message: bytes, has_signed: Callable[[bytes, bytes], bool]) -> Taken:
        """Takes in a part. `has_signed` says of bytes and a signature whether we signed them for the purpose of snapshots."""
        try:
            said = json.loads(message)
            content, signature = (base64.b64decode(said[name], validate=True) for name in ("snapshot", "signature"))
        except (ValueError, KeyError, TypeError, binascii.Error):
            return Taken.UNREADABLE
        if not has_signed(content, signature):
            return Taken.NOT_GENUINE
        part = json.loads(content)
        if part["device"] != self.device_id:
            return Taken.STRANGE
        if part["to"] <= self.version or part["to"] < self._floor:
            return Taken.OLD
        if part["from"] > self.version:
            return Taken.GAP
        self._floor = part["to"]
        return self._take(part)

    def _take(self, part: Json) -> Taken:
        run = self._collecting
        if run is None or (run.from_version, run.to_version, run.digest) != (part["from"], part["to"], part["digest"]):
            run = self._collecting = _Collecting(part["from"], part["to"], part["digest"], part["parts"])
        run.came.add(part["part"])
        if "settings" in part:
            self._take_settings(part["settings"], UUID(part["community"]), is_whole=run.from_version == 0)
        for subject in part.get("gone", ()):
            self._forget(UUID(subject))
        for said in part["entries"]:
            run.named.add(self._learn(said))
        if len(run.came) < run.parts:
            return Taken.PART
        if run.from_version == 0:
            for subject_id in self.entries.keys() - run.named:
                self._forget(subject_id)
        self.version, self._collecting = run.to_version, None
        return Taken.WHOLE

    def _take_settings(self, said: Json, community_id: UUID, *, is_whole: bool) -> None:
        if said["door"] is None:
            self.settings = Settings(place=None)
            return
        key = base64.b64decode(said["key"]) if "key" in said else None
        place = Place(
            community_id=community_id,
            door_id=UUID(said["door"]),
            direction=Direction(said["direction"]),
            kinds=frozenset(map(CredentialKind, said["kinds"])),
            anti_passback=AntiPassback(said["anti_passback"]),
            zone=_zone(said["time_zone"]),
        )
        matching_key = key if is_whole else self.settings.matching_key
        self.settings = Settings(place, said["time_zone"], said["held_open_limit_s"], matching_key)

    def _learn(self, said: Json) -> UUID:
        entry = entry_of(said)
        self._forget(entry.subject_id)
        self.entries[entry.subject_id] = entry
        self._subject_of.update(dict.fromkeys((*entry.cards, *entry.pins), entry.subject_id))
        if "template" in said:
            self.templates[entry.subject_id] = base64.b64decode(said["template"])
        return entry.subject_id

    def _forget(self, subject_id: UUID) -> None:
        entry = self.entries.pop(subject_id, None)
        self.templates.pop(subject_id, None)
        for digest in (*entry.cards, *entry.pins) if entry is not None else ():
            # A card that changed hands is its new holder's already when that entry came first.
            if self._subject_of.get(digest) == subject_id:
                del self._subject_of[digest]

    def stored(self) -> str:
        """All of it as a text, for a terminal to keep across restarts. What had come of a snapshot that is not whole comes again."""
        return json.dumps(
            {
                "version": self.version,
                "floor": self._floor,
                "community": str(self.settings.place.community_id) if self.settings.place is not None else None,
                "settings": _settings(self.settings),
                "entries": [self._stored(entry) for entry in self.entries.values()],
            }
        )

    def _stored(self, entry: Entry) -> Json:
        said: Json = json.loads(entry_text(entry))
        template = self.templates.get(entry.subject_id)
        return said if template is None else {**said, "template": _base64(template)}

    @staticmethod
    def restored(device_id: str, text: str) -> "Knowledge":
        """What was stored."""
        said = json.loads(text)
        known = Knowledge(device_id)
        if said["community"] is not None:
            known._take_settings(said["settings"], UUID(said["community"]), is_whole=True)
        for entry in said["entries"]:
            known._learn(entry)
        known.version, known._floor = said["version"], said["floor"]
        return known


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("Asia/Shanghai")


def with_template(text: str, template: bytes) -> str:
    """An entry's text with the face that is sent along."""
    return f'{text[:-1]},"template":"{_base64(template)}"}}'


def template_ids(texts: Iterable[str]) -> dict[str, UUID]:
    """Those of the entries that name a template of a face, with its id."""
    return {text: UUID(json.loads(text)["template_id"]) for text in texts if '"template_id"' in text}
