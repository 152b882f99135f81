"""Consents: their texts, who gives one and who takes it back. What a consent allowed ends with it, here at once."""

from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

from linli.notification.v1.events_pb2 import Notified
from servicekit.database import Transaction
from servicekit.errors import Conflict, NotFound
from servicekit.households import live_together
from servicekit.identifiers import new_id
from services.access import care_operations, consent_store, credential_operations, credential_store, snapshot_operations, snapshot_store
from services.access.consent_store import Consent, ConsentText
from services.access.consents import FACE_KINDS, WITHDRAWN_WITH, ConsentChannel, ConsentKind
from services.access.credential_operations import person_unknown


async def publish_text(tx: Transaction, kind: ConsentKind, text_zh: str, text_en: str) -> ConsentText:
    """Adds the next version of the text of a consent. Those given to an older one hold."""
    return await consent_store.insert_text(tx, kind, text_zh, text_en)


async def give(tx: Transaction, kind: ConsentKind, text_version: int, account_id: UUID | None) -> Consent:
    """The caller consents, for themselves or as the guardian of somebody in their household, who is told.

    To consent to the same text again changes nothing. Raises NotFound for somebody in another household, for a caller who neither lives
    nor works here, and for a text that there is not, and Conflict for a text of which there is a newer version.
    """
    caller_id = tx.caller.account_id
    about = account_id or caller_id
    if about == caller_id:
        is_theirs = await credential_store.is_known(tx, about)
    else:
        is_theirs = await live_together(tx, caller_id, about)
    if not is_theirs:
        raise person_unknown()
    await _check_text(tx, kind, text_version)
    consent = Consent(new_id(), kind, about, caller_id, text_version, ConsentChannel.APP, tx.now)
    kept = await consent_store.insert_consent(tx, consent, None)
    if kept == consent and about != caller_id:
        zh, en = "您的家人代您签署了一项同意，您可随时撤回", "Somebody in your household consented for you; you can withdraw it at any time"
        _tell(tx, about, "access.consent_given_for_you", zh, en)
    return kept


async def record(tx: Transaction, account_id: UUID, kind: ConsentKind, text_version: int) -> Consent:
    """Staff write down a consent that somebody signed on paper, who is told.

    Raises NotFound for who neither lives nor works here and for a text that there is not, and Conflict for one of which there is a newer
    version.
    """
    if not await credential_store.is_known(tx, account_id):
        raise person_unknown()
    await _check_text(tx, kind, text_version)
    consent = Consent(new_id(), kind, account_id, account_id, text_version, ConsentChannel.PAPER, tx.now)
    kept = await consent_store.insert_consent(tx, consent, tx.caller.account_id)
    if kept == consent:
        zh, en = "您在纸上签署的同意已登记，您可随时撤回", "Your consent on paper was recorded; you can withdraw it at any time"
        _tell(tx, account_id, "access.consent_recorded", zh, en)
    return kept


async def _check_text(tx: Transaction, kind: ConsentKind, version: int) -> None:
    newest = next((text.version for text in await consent_store.newest_texts(tx) if text.kind is kind), 0)
    if version > newest:
        raise NotFound("access.consent_text_unknown", "没有找到该同意书", "There is no such text of a consent")
    if version < newest:
        zh, en = "同意书已更新，请阅读新版本", "There is a newer version of the text; please read that"
        raise Conflict("access.consent_text_outdated", zh, en, details={"newest_version": str(newest)})


def _tell(tx: Transaction, account_id: UUID, kind: str, zh: str, en: str) -> None:
    tx.publish(Notified(account_id=str(account_id), kind=kind, text_zh=zh, text_en=en, link="/v1/me/access/consents"))


async def withdraw(tx: Transaction, consent_id: UUID) -> Consent:
    """The caller takes back a consent about them, or one that they gave for somebody; a withdrawn one stays as it is.

    All consents of its kind go, whichever text they were given to, and what they allowed. Raises NotFound.
    """
    consent = await consent_store.find_consent(tx, consent_id)
    if consent is None or tx.caller.account_id not in (consent.account_id, consent.given_by):
        raise NotFound("access.consent_unknown", "没有找到该同意记录", "There is no such consent")
    if consent.withdrawn_at is not None:
        return consent
    await _end(tx, consent.account_id, WITHDRAWN_WITH[consent.kind], tx.caller.account_id)
    zh, en = "您的一项同意已撤回，其所允许的用途已终止", "A consent of yours was withdrawn, and what it allowed has ended"
    _tell(tx, consent.account_id, "access.consent_withdrawn", zh, en)
    return replace(consent, withdrawn_at=tx.now)


async def end_all(tx: Transaction, account_id: UUID) -> None:
    """Ends all consents about somebody for whom there is no purpose any more, as if they had been withdrawn."""
    await _end(tx, account_id, frozenset(ConsentKind), None)


async def _end(tx: Transaction, account_id: UUID, kinds: Collection[ConsentKind], by: UUID | None) -> None:
    live = await consent_store.lock_live(tx, account_id, kinds)
    await consent_store.withdraw(tx, [each.consent_id for each in live], by)
    if not FACE_KINDS.isdisjoint(kinds):
        template_only = ConsentKind.FACE_ON_TERMINALS not in kinds
        await _forget_face(tx, account_id, [each.consent_id for each in live if each.kind in FACE_KINDS], template_only=template_only)
    await care_operations.end_for_consents(tx, account_id, kinds)


async def _forget_face(tx: Transaction, account_id: UUID, withdrawn: list[UUID], *, template_only: bool) -> None:
    """Deletes what is kept here of a face, and has the terminals that know it forget it."""
    holders = await snapshot_store.list_face_holders(tx, account_id)
    await credential_operations.forget_face(tx, account_id, template_only=template_only)
    await snapshot_operations.refresh(tx, [account_id])
    versions = await snapshot_store.list_versions(tx, account_id)
    await consent_store.insert_removals(tx, withdrawn, {device_id: versions[device_id] for device_id in holders if device_id in versions})


async def confirm_removals(tx: Transaction, device_id: str, confirmed_version: int) -> None:
    """Notes that a terminal has confirmed a version of what it is to know, and with it all that it was to forget until then."""
    await consent_store.confirm_removals(tx, device_id, confirmed_version)
