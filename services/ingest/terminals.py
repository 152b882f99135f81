"""What door terminals say over MQTT: what was shown to them, what they have, and their journal. Pure. `docs/devices/doors.md` is for their
makers.

What somebody holds or types never passes: where a digest belongs and something else stands, the message is unusable. Such a one is counted,
and kept nowhere. Who may enter, and whether a journal is whole, is access's to judge.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from linli.device.v1.events_pb2 import (
    CREDENTIAL_KIND_CARD,
    CREDENTIAL_KIND_CODE,
    CREDENTIAL_KIND_FACE,
    CREDENTIAL_KIND_PIN,
    CredentialPresented,
    JournalUploaded,
    TerminalReported,
)
from servicekit.identifiers import derived_id, new_id
from servicekit.times import to_timestamp
from services.ingest import loose
from services.ingest.devices import KnownDevice

# A message with a part of a journal; of other messages less is enough.
JOURNAL_BYTES_MAX: Final = 48 * 1024
RECORDS_MAX: Final = 100
RECORD_BYTES_MAX: Final = 1024
_INT64_MAX: Final = 2**63 - 1
# What can neither travel nor be stored: a NUL, and half a surrogate pair.
_BROKEN: Final = re.compile("[\0\ud800-\udfff]")
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
# As access writes codes, and nothing that is longer or shorter by far.
_CODE: Final = re.compile(r"[A-Za-z0-9_-]{32,400}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def read_presentation(known: KnownDevice, said: Mapping[str, Any], received_at: datetime) -> tuple[UUID, CredentialPresented]:
    """A credential that was presented, and the event's id: the same presentation sent again is the same event. Raises Unusable."""
    name = said.get("kind")
    if not isinstance(name, str) or name not in _PRESENTED:
        raise loose.Unusable("kind")
    kind, read_value = _PRESENTED[name]
    presented = CredentialPresented(
        device_id=known.device_id,
        presentation_id=loose.record_id(said),
        kind=kind,
        value=read_value(said.get("value")),
    )
    at = loose.clock_time(said.get("at"), known.zone)
    event_id = derived_id("presented", presented.SerializeToString().hex(), str(at))
    presented.occurred_at.FromDatetime(at or received_at)
    presented.received_at.FromDatetime(received_at)
    return event_id, presented


def read_report(known: KnownDevice, said: Mapping[str, Any], received_at: datetime) -> tuple[UUID, TerminalReported]:
    """What a terminal has, and the event's id. Raises Unusable."""
    reported = TerminalReported(
        device_id=known.device_id,
        snapshot_version=_whole(said, "snapshot", 0),
        journal_sequence=_whole(said, "journal", 0),
        occurred_at=to_timestamp(loose.clock_time(said.get("at"), known.zone) or received_at),
        received_at=to_timestamp(received_at),
    )
    return new_id(), reported


def read_journal(known: KnownDevice, said: Mapping[str, Any], received_at: datetime) -> tuple[UUID, JournalUploaded]:
    """A part of a journal with its records to the byte, and the event's id, which is made of them. Raises Unusable."""
    previous, records = said.get("previous"), said.get("records")
    if not isinstance(previous, str) or not _SHA256.fullmatch(previous.strip().lower()):
        raise loose.Unusable("previous")
    if not isinstance(records, list) or not 1 <= len(records) <= RECORDS_MAX:
        raise loose.Unusable("records")
    for index, record in enumerate(records):
        if not isinstance(record, str) or _BROKEN.search(record) or not 1 <= len(record.encode()) <= RECORD_BYTES_MAX:
            raise loose.Unusable(f"records[{index}]")
    uploaded = JournalUploaded(
        device_id=known.device_id,
        first_sequence=_whole(said, "first", 1),
        previous_hash=bytes.fromhex(previous.strip()),
        records=records,
    )
    if uploaded.first_sequence > _INT64_MAX - RECORDS_MAX:
        raise loose.Unusable("first")
    event_id = derived_id("journal", uploaded.SerializeToString().hex())
    uploaded.received_at.FromDatetime(received_at)
    return event_id, uploaded


def _whole(said: Mapping[str, Any], name: str, least: int) -> int:
    found = loose.number(said.get(name))
    if found is None or found != int(found) or not least <= found <= _INT64_MAX:
        raise loose.Unusable(name)
    return int(found)


def _code(value: object) -> str:
    """The text of a code. What else people hold before a reader, to pay with or to be found by, is nobody's business here."""
    code = value.strip() if isinstance(value, str) else ""
    if not _CODE.fullmatch(code) or code.isdecimal():
        raise loose.Unusable("value")
    return code


def _digest(value: object) -> str:
    """An HMAC-SHA-256 in hex. Sixty-four digits without a letter are no digest that anybody will ever see."""
    digest = value.strip().lower() if isinstance(value, str) else ""
    if not _SHA256.fullmatch(digest) or digest.isdecimal():
        raise loose.Unusable("value")
    return digest


def _subject(value: object) -> str:
    """The id of somebody, as a terminal got it from us: never one that people have elsewhere."""
    subject = value.strip().lower() if isinstance(value, str) else ""
    if not _UUID.fullmatch(subject):
        raise loose.Unusable("value")
    return subject


_PRESENTED: Final = {
    "code": (CREDENTIAL_KIND_CODE, _code),
    "card": (CREDENTIAL_KIND_CARD, _digest),
    "pin": (CREDENTIAL_KIND_PIN, _digest),
    "face": (CREDENTIAL_KIND_FACE, _subject),
}
