"""What access does when terminals ask and tell. What they are sent in return when they report is in `syncing.py`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from prometheus_client import Counter

from linli.device.v1.events_pb2 import (
    CREDENTIAL_KIND_CARD,
    CREDENTIAL_KIND_CODE,
    CREDENTIAL_KIND_FACE,
    CREDENTIAL_KIND_PIN,
    CredentialKind,
    CredentialPresented,
    JournalUploaded,
)
from servicekit.database import Transaction
from servicekit.events import Received
from servicekit.identifiers import parse_id
from servicekit.times import to_datetime_or
from services.access import deciding_operations, doors, journal_operations
from services.access.deciding_operations import Presentation
from services.access.journal import HASH_BYTES
from services.access.journal_operations import Upload
from services.access.syncing import STRANGE

_KINDS: Final = {
    CREDENTIAL_KIND_FACE: doors.CredentialKind.FACE,
    CREDENTIAL_KIND_CODE: doors.CredentialKind.CODE,
    CREDENTIAL_KIND_CARD: doors.CredentialKind.CARD,
    CREDENTIAL_KIND_PIN: doors.CredentialKind.PIN,
}

UNDECIDED = Counter("linli_access_presentations_undecided_total", "Presentations on which nothing was decided", ["reason"])


async def decide_on_credential_presented(tx: Transaction, event: Received[CredentialPresented]) -> None:
    """Opens the door, or says why not."""
    said = event.message
    shown = _presentation(said, to_datetime_or(said.received_at, event.occurred_at))
    reason = "unreadable" if shown is None else await deciding_operations.decide_presentation(tx, shown)
    if reason:
        UNDECIDED.labels(reason).inc()


def _presentation(said: CredentialPresented, received_at: datetime) -> Presentation | None:
    kind = _KINDS.get(said.kind)
    if kind is None or "\0" in said.presentation_id or not said.presentation_id:
        return None
    digest, text, subject_id = None, "", None
    match said.kind:
        case CredentialKind.CREDENTIAL_KIND_CODE:
            text = said.value
        case CredentialKind.CREDENTIAL_KIND_FACE:
            subject_id = parse_id(said.value)
        case _:
            try:
                digest = bytes.fromhex(said.value)
            except ValueError:
                return None
    return Presentation(said.device_id, said.presentation_id, kind, received_at, digest, text, subject_id)


async def take_in_on_journal_uploaded(tx: Transaction, events: Sequence[Received[JournalUploaded]]) -> None:
    """Takes in all parts of journals that wait."""
    uploads = [_upload(event) for event in events if event.message.records and len(event.message.previous_hash) == HASH_BYTES]
    strange = await journal_operations.take_in(tx, uploads) if uploads else 0
    if strange:
        STRANGE.labels("JournalUploaded").inc(strange)


def _upload(event: Received[JournalUploaded]) -> Upload:
    said = event.message
    return Upload(
        community_id=event.community_id,
        device_id=said.device_id,
        first_sequence=said.first_sequence,
        previous_hash=said.previous_hash,
        records=list(said.records),
        received_at=to_datetime_or(said.received_at, event.occurred_at),
    )
