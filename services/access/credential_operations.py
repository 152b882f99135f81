"""What opens doors: cards that staff hand out, PINs, faces, and dynamic codes. Consents are in `consent_operations.py`."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from linli.notification.v1.events_pb2 import Notified
from servicekit.database import Transaction
from servicekit.errors import Conflict, Exhausted, FieldViolation, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.sealing import DataKeys
from servicekit.signing import Signer
from services.access import codes, consent_store, credential_store, snapshot_operations
from services.access.codes import Code
from services.access.consents import ConsentKind
from services.access.credential_store import Credential
from services.access.digests import MatchingKeys, card_digest, pin_digest, spell_card
from services.access.door_operations import door_unknown, find_way
from services.access.doors import CredentialKind
from services.access.pins import is_trivial, numbers

# What of a card's number is shown, and never more than half of it.
_SHOWN: Final = 4


async def issue_card(tx: Transaction, account_id: UUID, card_number: str) -> Credential:
    """Gives somebody a card. Raises NotFound for who neither lives nor works here, and Conflict for a card that is in use."""
    if not await credential_store.is_known(tx, account_id):
        raise person_unknown()
    number = spell_card(card_number)
    shown = min(_SHOWN, len(number) // 2)
    card = Credential(new_id(), CredentialKind.CARD, account_id, "*" * (len(number) - shown) + number[-shown:], tx.now)
    digest = card_digest(tx.resource(MatchingKeys).of(tx.community_id), number)
    if not await credential_store.insert_credential(tx, card, digest):
        raise Conflict("access.card_in_use", "该卡号已在使用", "This card is in use")
    await snapshot_operations.refresh(tx, [account_id])
    _tell(tx, account_id, "access.card_issued", f"您已领取门卡 {card.label}", f"You were given the card {card.label}")
    return card


def person_unknown() -> NotFound:
    """Nobody of this id lives or works here."""
    return NotFound("access.person_unknown", "没有找到该住户或工作人员", "No such person lives or works here")


async def revoke(tx: Transaction, credential_id: UUID) -> Credential:
    """Ends a credential now, or leaves it ended; terminals learn it first of all. Raises NotFound."""
    credential = await credential_store.lock_credential(tx, credential_id)
    if credential is None:
        raise _credential_unknown()
    return await _revoke(tx, credential)


async def revoke_mine(tx: Transaction, credential_id: UUID) -> Credential:
    """The same for one of the caller's own. Raises NotFound."""
    credential = await credential_store.lock_credential(tx, credential_id)
    if credential is None or credential.account_id != tx.caller.account_id:
        raise _credential_unknown()
    return await _revoke(tx, credential)


def _credential_unknown() -> NotFound:
    return NotFound("access.credential_unknown", "没有找到该凭证", "There is no such credential")


_REVOKED: Final = {
    CredentialKind.CARD: ("您的门卡 {} 已停用", "Your card {} was taken out of use"),
    CredentialKind.PIN: ("您的开门密码已停用", "Your PIN was taken out of use"),
    CredentialKind.FACE: ("您的人脸已不再用于开门", "Your face opens doors no more"),
}


async def _revoke(tx: Transaction, credential: Credential) -> Credential:
    if credential.revoked_at is not None:
        return credential
    await _end(tx, credential)
    await snapshot_operations.refresh(tx, [credential.account_id])
    zh, en = _REVOKED[credential.kind]
    _tell(tx, credential.account_id, f"access.{credential.kind}_revoked", zh.format(credential.label), en.format(credential.label))
    return replace(credential, revoked_at=tx.now)


async def _end(tx: Transaction, credential: Credential) -> None:
    await credential_store.revoke(tx, credential.credential_id)
    if credential.kind is CredentialKind.FACE:
        await credential_store.delete_templates(tx, credential.account_id)


def _tell(tx: Transaction, account_id: UUID, kind: str, zh: str, en: str) -> None:
    tx.publish(Notified(account_id=str(account_id), kind=kind, text_zh=zh, text_en=en, link="/v1/me/access/credentials"))


# PINs.


async def set_my_pin(tx: Transaction, pin: str) -> Credential:
    """Sets the caller's PIN. The label is the number that is typed before it, which stays the same when the PIN changes.

    Raises Invalid for a PIN that everybody tries first, and Conflict for who neither lives nor works here.
    """
    if is_trivial(pin):
        field = FieldViolation("pin", "access.pin_trivial", "must be no row and no repetition")
        raise Invalid("access.pin_trivial", "密码过于简单，请勿使用连续或重复的数字", "This PIN is too easy to guess", fields=[field])
    await _check_known(tx)
    former = await credential_store.lock_live(tx, tx.caller.account_id, CredentialKind.PIN)
    if former is not None:
        await credential_store.revoke(tx, former.credential_id)
    key = tx.resource(MatchingKeys).of(tx.community_id)
    for number in (former.label,) if former is not None else numbers(secrets.randbelow):
        credential = Credential(new_id(), CredentialKind.PIN, tx.caller.account_id, number, tx.now)
        if await credential_store.insert_credential(tx, credential, pin_digest(key, number + pin)):
            await snapshot_operations.refresh(tx, [tx.caller.account_id])
            return credential
    raise Exhausted("access.pin_busy", "暂时无法设置密码，请稍后再试", "The PIN cannot be set now; please try again", retry_after_s=1)


async def _check_known(tx: Transaction) -> None:
    if not await credential_store.is_known(tx, tx.caller.account_id):
        raise Conflict("access.not_known_here", "仅限本小区住户和工作人员使用", "Only for those who live or work here")


# Faces.


async def enrol_my_face(tx: Transaction, template: bytes) -> Credential:
    """Lets terminals know the caller's face; a template that is given is kept sealed, and goes to every terminal.

    Raises Conflict without the consent to it, and for a template without the separate consent to keeping it.
    """
    await _check_known(tx)
    needed = [ConsentKind.FACE_ON_TERMINALS, *([ConsentKind.FACE_ON_SERVER] if template else [])]
    # Locked, so that whoever withdraws meanwhile waits, and then finds the face.
    held = await consent_store.lock_live(tx, tx.caller.account_id, needed)
    for kind in needed:
        if all(consent.kind is not kind for consent in held):
            zh, en = "请先同意采集人脸信息", "Consent to it first"
            raise Conflict("access.consent_needed", zh, en, details={"consent": kind})
    former = await credential_store.lock_live(tx, tx.caller.account_id, CredentialKind.FACE)
    if former is not None and not template:
        return former
    if former is not None:
        await _end(tx, former)
    face = Credential(new_id(), CredentialKind.FACE, tx.caller.account_id, "", tx.now)
    if not await credential_store.insert_credential(tx, face, None):
        zh, en = "正在处理您的人脸信息，请稍后再试", "Your face is being enrolled; please try again"
        raise Exhausted("access.face_busy", zh, en, retry_after_s=1)
    if template:
        await credential_store.insert_template(tx, face, tx.resource(DataKeys).seal(template, _row(face.credential_id)))
    await snapshot_operations.refresh(tx, [tx.caller.account_id])
    return face


def _row(credential_id: UUID) -> str:
    return f"access.face {credential_id}"


async def forget_face(tx: Transaction, account_id: UUID, *, template_only: bool) -> None:
    """Deletes the template of a face, and ends the face unless only the template is to go. Does not tell the terminals."""
    await credential_store.delete_templates(tx, account_id)
    face = await credential_store.lock_live(tx, account_id, CredentialKind.FACE)
    if face is not None and not template_only:
        await credential_store.revoke(tx, face.credential_id)


async def end_all(tx: Transaction, account_id: UUID) -> None:
    """Ends all that opens doors for an account, which is not told; the templates of its face went with the consents."""
    await credential_store.revoke_all(tx, account_id)
    await snapshot_operations.refresh(tx, [account_id])


async def open_templates(tx: Transaction, template_ids: Collection[UUID]) -> dict[UUID, bytes]:
    """Templates of faces as terminals take them, which are written nowhere; those that are kept no more are absent."""
    keys = tx.resource(DataKeys)
    return {each: keys.open(sealed, _row(each)) for each, sealed in (await credential_store.find_templates(tx, template_ids)).items()}


# Dynamic codes.


@dataclass(frozen=True, slots=True)
class DoorCode:
    """What a phone shows to a terminal, and until when."""

    code: str
    expires_at: datetime


async def create_my_code(tx: Transaction, door_id: UUID | None) -> DoorCode:
    """A code of the caller's, for any of their doors or for one. Raises NotFound for a door that is not theirs, Conflict without any."""
    way = await find_way(tx, tx.caller.account_id)
    if door_id is not None and door_id not in way:
        raise door_unknown()
    if not any(entry.codes for door, entry in way.items() if door_id in (None, door)):
        raise Conflict("access.no_door_for_codes", "没有可用二维码打开的门", "No door opens to a code of yours")
    return sign_code(tx, tx.caller.account_id, door_id)


def sign_code(tx: Transaction, subject_id: UUID, door_id: UUID | None) -> DoorCode:
    """A code of an account or a pass, good from now on for as long as codes are."""
    signer = tx.resource(Signer)
    code = Code(tx.community_id, subject_id, door_id, secrets.token_bytes(codes.NONCE_BYTES), tx.now.replace(microsecond=0))
    return DoorCode(codes.write(code, lambda content: signer.sign(codes.PURPOSE, content)), code.expires_at)
