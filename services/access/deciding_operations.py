"""Decides for terminals that are connected, and opens doors for phones and staff. The rules are in `deciding.py`."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from linli.access.v1.events_pb2 import DoorOpenRequested, EntryRefused
from servicekit.commands import LIFETIME, CommandSigner
from servicekit.database import Transaction
from servicekit.errors import Conflict, NotFound
from servicekit.identifiers import new_id
from servicekit.signing import Signer
from services.access import alarm_operations, codes, deciding_store, pass_operations, passage_store
from services.access.deciding import TEXTS, Presented, Reason, decide
from services.access.deciding_store import Question, Shown
from services.access.detection import NEXT_BUILDING, REFUSALS_MAX, Presence, Spot, clones
from services.access.doors import AntiPassback, CredentialKind, Direction
from services.access.passage_operations import CARD_BYTES, observation
from services.access.passage_store import CodeUse, Outcome, Passage

# What waited longer opens nothing: nobody stands at the door any more, and the terminal has decided alone.
PATIENCE: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Presentation:
    """Something that was shown to a terminal. `digest` is of a card or PIN, `text` of a code, `subject_id` whose face it is."""

    device_id: str
    presentation_id: str
    kind: CredentialKind
    received_at: datetime
    digest: bytes | None = None
    text: str = ""
    subject_id: UUID | None = None


async def decide_presentation(tx: Transaction, shown: Presentation) -> str:
    """Decides, once for each presentation, and tells the terminal.

    Returns why nothing was decided: "late", "repeated" or "no_terminal"; empty when it was.
    """
    if tx.now - shown.received_at > PATIENCE:
        return "late"
    presented = Presented(shown.kind, shown.digest or b"", _read(tx, shown.text) if shown.kind is CredentialKind.CODE else None)
    code = presented.code
    asked = Shown(shown.kind, shown.digest, code.subject_id if code else shown.subject_id, code.nonce if code else None)
    question = await deciding_store.find_question(tx, shown.device_id, asked)
    if question is None:
        return "no_terminal"
    reason = decide(question.place, question.entry, presented, tx.now, question.before)
    if reason is Reason.NONE and question.entry is not None and question.entry.entries_max:
        # Somebody may show the same pass at the other terminal of the door in the same moment.
        entries = await deciding_store.lock_entries(tx, question.entry.subject_id, question.place.door_id)
        reason = decide(question.place, question.entry, presented, tx.now, replace(question.before, entries=entries))
    passage = _passage(question, shown.device_id, shown.presentation_id, presented, tx.now, reason)
    if reason is Reason.NONE and code is not None:
        used_at = await passage_store.use_code(
            tx, CodeUse(tx.community_id, code.nonce, passage.door_id, passage.device_id, passage.presentation_id, tx.now)
        )
        if used_at is not None:  # In the same moment, at another door or this one.
            reason, question = Reason.CODE_USED, replace(question, code_used_at=used_at)
            passage = replace(passage, outcome=Outcome.REFUSED, reason=reason)
    is_new = await (_refuse(tx, passage, reason) if reason else _open(tx, question, passage))
    if not is_new:
        return "repeated"
    await _look_closer(tx, question, passage)
    return ""


def _read(tx: Transaction, text: str) -> codes.Code | None:
    signer = tx.resource(Signer)
    return codes.read(text, lambda content, signature: signer.has_signed(codes.PURPOSE, content, signature))


def _passage(question: Question, device_id: str, presentation_id: str, presented: Presented, at: datetime, reason: Reason) -> Passage:
    entry = question.entry
    account_id = entry.subject_id if entry is not None and not entry.is_pass else None
    return Passage(
        passage_id=new_id(),
        community_id=question.place.community_id,
        door_id=question.place.door_id,
        device_id=device_id,
        direction=question.place.direction,
        presentation_id=presentation_id,
        outcome=Outcome.REFUSED if reason else Outcome.REQUESTED,
        reason=reason,
        kind=presented.kind,
        account_id=account_id,
        pass_id=entry.subject_id if entry is not None and entry.is_pass else None,
        owner_id=account_id or question.invited_by,
        occurred_at=at,
        card=presented.digest[:CARD_BYTES] if presented.kind is CredentialKind.CARD and entry is not None else None,
    )


async def _open(tx: Transaction, question: Question, passage: Passage) -> bool:
    """Orders a terminal to open, and notes who comes and goes; False when it was decided on the same presentation before."""
    # Before the terminal's row is locked: whoever changes what terminals are to know locks the pass first.
    if passage.pass_id is not None and passage.direction is Direction.IN:
        await pass_operations.count_entry(tx, passage.pass_id, passage.door_id)
    subject_id = passage.account_id or passage.pass_id
    if question.minds_presence and subject_id is not None:
        presence = Presence(passage.direction is Direction.IN, tx.now)
        await passage_store.write_presences(tx, {question.zone_id: tx.community_id}, {(question.zone_id, subject_id): presence})
    return await _order(tx, passage)


async def _order(tx: Transaction, passage: Passage) -> bool:
    counter = await passage_store.insert_opening(tx, passage)
    if counter is None:
        return False
    # What is opened from afar was shown to no terminal: the passage goes by the command, which the journal names.
    is_afar = passage.kind in (None, CredentialKind.PHONE)
    command_id = UUID(passage.presentation_id) if is_afar else new_id()
    zh, en = TEXTS[Reason.NONE]
    event = DoorOpenRequested(
        door_id=str(passage.door_id),
        device_id=passage.device_id,
        presentation_id="" if is_afar else passage.presentation_id,
        command=tx.resource(CommandSigner).open(command_id, passage.device_id, counter, tx.now),
        text_zh=zh,
        text_en=en,
    )
    tx.publish(event, version=counter)
    return True


async def _refuse(tx: Transaction, passage: Passage, reason: Reason) -> bool:
    """Tells a terminal that its door stays shut; False when it was decided on the same presentation before."""
    if not await passage_store.insert_decision(tx, passage):
        return False
    zh, en = TEXTS[reason]
    tx.publish(
        EntryRefused(
            door_id=str(passage.door_id),
            device_id=passage.device_id,
            presentation_id=passage.presentation_id,
            reason=reason,
            text_zh=zh,
            text_en=en,
        )
    )
    return True


async def _look_closer(tx: Transaction, question: Question, passage: Passage) -> None:
    """Raises an alarm when something is wrong with what was decided, whichever way."""
    kinds = []
    if passage.outcome is Outcome.REFUSED:
        if question.refusals + 1 >= REFUSALS_MAX:
            kinds.append("too_many_refusals")
        if passage.reason == Reason.CODE_USED and question.code_used_at not in (None, passage.door_id):
            kinds.append("code_reused")
    elif passage.direction is Direction.IN:
        if question.before.is_inside and question.place.anti_passback is AntiPassback.REPORT:
            kinds.append("passback")
        if passage.card is not None and clones(await passage_store.find_uses(tx, [passage], NEXT_BUILDING)):
            kinds.append("card_cloned")
    if kinds:
        spot = Spot(
            community_id=passage.community_id,
            device_id=passage.device_id,
            door_id=passage.door_id,
            door_name=question.door_name,
            zone_id=question.zone_id,
            at=passage.occurred_at,
            key=passage.presentation_id,
        )
        await alarm_operations.observe(tx, [observation(kind, spot) for kind in kinds])


# From afar.


@dataclass(frozen=True, slots=True)
class Opening:
    """An order to a terminal to open its door. It is void after `expires_at`."""

    command_id: UUID
    door_id: UUID
    device_id: str
    expires_at: datetime


async def open_by_phone(tx: Transaction, device_id: str, account_id: UUID) -> Opening:
    """Opens a door for somebody who stands at it with their phone.

    Raises NotFound for a device that is no terminal, and Conflict, whose code names the reason, when the door stays shut for them.
    """
    question = await deciding_store.find_question(tx, device_id, Shown(CredentialKind.PHONE, subject_id=account_id))
    if question is None:
        raise _terminal_unknown()
    presented = Presented(CredentialKind.PHONE)
    reason = decide(question.place, question.entry, presented, tx.now, question.before)
    if reason is not Reason.NONE:
        raise Conflict(f"access.{reason}", *TEXTS[reason])
    passage = _passage(question, device_id, str(new_id()), presented, tx.now, reason)
    await _open(tx, question, passage)
    await _look_closer(tx, question, passage)
    return Opening(UUID(passage.presentation_id), passage.door_id, device_id, tx.now + LIFETIME)


async def open_from_afar(tx: Transaction, device_id: str, opened_by: UUID, reason: str) -> Opening:
    """Opens a door for whoever stands there, as staff; `reason` is kept with the passage. Raises NotFound for what is no terminal."""
    found = await deciding_store.find_door(tx, device_id)
    if found is None:
        raise _terminal_unknown()
    door_id, direction = found
    command_id = new_id()
    passage = Passage(
        passage_id=new_id(),
        community_id=tx.community_id,
        door_id=door_id,
        device_id=device_id,
        direction=direction,
        presentation_id=str(command_id),
        outcome=Outcome.REQUESTED,
        reason="",
        kind=None,
        account_id=None,
        pass_id=None,
        owner_id=None,
        occurred_at=tx.now,
        opened_by=opened_by,
        note=reason,
    )
    await _order(tx, passage)
    return Opening(command_id, door_id, device_id, tx.now + LIFETIME)


def _terminal_unknown() -> NotFound:
    return NotFound("access.terminal_unknown", "没有找到该终端", "There is no such terminal")
