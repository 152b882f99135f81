"""The methods of linli.access.v1.AccessService about consents."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from linli.access.v1 import access_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_timestamp
from services.access import consent_operations, consent_store
from services.access.consent_store import Consent, ConsentText, Removal
from services.access.consents import ConsentChannel, ConsentKind
from services.access.door_rpc import optional_id

_KIND_MESSAGE: Final = {kind: pb.ConsentKind.Value(f"CONSENT_KIND_{kind.name}") for kind in ConsentKind}
_KIND: Final = {message: kind for kind, message in _KIND_MESSAGE.items()}
_CHANNEL_MESSAGE: Final = {channel: pb.ConsentChannel.Value(f"CONSENT_CHANNEL_{channel.name}") for channel in ConsentChannel}


async def publish_consent_text(tx: Transaction, request: pb.PublishConsentTextRequest) -> pb.ConsentText:
    """Publishes the text of a consent."""
    text_en = text(request.text_en, "text_en", lines=True) if request.text_en else ""
    return _text(await consent_operations.publish_text(tx, _KIND[request.kind], text(request.text_zh, "text_zh", lines=True), text_en))


async def list_consent_texts(tx: Transaction, _request: pb.ListConsentTextsRequest) -> pb.ListConsentTextsResponse:
    """The newest text of each kind."""
    return pb.ListConsentTextsResponse(texts=map(_text, await consent_store.newest_texts(tx)))


def _text(published: ConsentText) -> pb.ConsentText:
    return pb.ConsentText(
        kind=_KIND_MESSAGE[published.kind],
        version=published.version,
        text_zh=published.text_zh,
        text_en=published.text_en,
        published_at=to_timestamp(published.published_at),
    )


async def give_consent(tx: Transaction, request: pb.GiveConsentRequest) -> pb.Consent:
    """Consents, in the app."""
    return _consent(await consent_operations.give(tx, _KIND[request.kind], request.text_version, optional_id(request.account_id)))


async def record_consent(tx: Transaction, request: pb.RecordConsentRequest) -> pb.Consent:
    """Records a consent that somebody signed on paper."""
    return _consent(await consent_operations.record(tx, UUID(request.account_id), _KIND[request.kind], request.text_version))


async def withdraw_consent(tx: Transaction, request: pb.WithdrawConsentRequest) -> pb.Consent:
    """Withdraws a consent."""
    (message,) = await _consents(tx, [await consent_operations.withdraw(tx, UUID(request.consent_id))])
    return message


async def list_my_consents(tx: Transaction, request: pb.ListMyConsentsRequest) -> pb.ListConsentsResponse:
    """The caller's consents, and those that they gave for others."""
    fetch = partial(consent_store.list_consents_concerning, tx, tx.caller.account_id)
    consents, token = await page(request, UUID, fetch, lambda consent: consent.consent_id)
    return pb.ListConsentsResponse(consents=await _consents(tx, consents), next_page_token=token)


async def list_consents(tx: Transaction, request: pb.ListConsentsRequest) -> pb.ListConsentsResponse:
    """Consents of the community, newest first."""
    account_id, kind = optional_id(request.account_id), _KIND.get(request.kind)
    fetch = partial(consent_store.list_consents, tx, account_id, kind, request.unconfirmed_only)
    consents, token = await page(request, UUID, fetch, lambda consent: consent.consent_id)
    return pb.ListConsentsResponse(consents=await _consents(tx, consents), next_page_token=token)


async def _consents(tx: Transaction, consents: Sequence[Consent]) -> list[pb.Consent]:
    """Consents with what terminals had to forget of them."""
    removals = await consent_store.list_removals(tx, [consent.consent_id for consent in consents])
    return [_consent(consent, removals.get(consent.consent_id, ())) for consent in consents]


def _consent(consent: Consent, removals: Iterable[Removal] = ()) -> pb.Consent:
    return pb.Consent(
        consent_id=str(consent.consent_id),
        kind=_KIND_MESSAGE[consent.kind],
        account_id=str(consent.account_id),
        given_by_account_id=str(consent.given_by),
        text_version=consent.text_version,
        channel=_CHANNEL_MESSAGE[consent.channel],
        given_at=to_timestamp(consent.given_at),
        withdrawn_at=to_timestamp(consent.withdrawn_at),
        removals=[
            pb.Removal(device_id=removal.device_id, door_name=removal.door_name, confirmed_at=to_timestamp(removal.confirmed_at))
            for removal in removals
        ],
    )
