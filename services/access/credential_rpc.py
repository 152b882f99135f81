"""The methods of linli.access.v1.AccessService about what opens doors."""

from functools import partial
from uuid import UUID

from linli.access.v1 import access_pb2 as pb
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.times import to_timestamp
from services.access import credential_operations, credential_store
from services.access.credential_operations import DoorCode
from services.access.credential_store import Credential
from services.access.door_rpc import CREDENTIAL_KIND, CREDENTIAL_KIND_MESSAGE, optional_id


async def issue_card(tx: Transaction, request: pb.IssueCardRequest) -> pb.Credential:
    """Gives somebody a card."""
    return _credential(await credential_operations.issue_card(tx, UUID(request.account_id), request.card_number))


async def revoke_credential(tx: Transaction, request: pb.RevokeCredentialRequest) -> pb.Credential:
    """Ends a credential."""
    return _credential(await credential_operations.revoke(tx, UUID(request.credential_id)))


async def list_credentials(tx: Transaction, request: pb.ListCredentialsRequest) -> pb.ListCredentialsResponse:
    """Credentials, newest first."""
    kind = CREDENTIAL_KIND.get(request.kind)
    fetch = partial(credential_store.list_credentials, tx, optional_id(request.account_id), kind, request.revoked)
    credentials, token = await page(request, UUID, fetch, lambda credential: credential.credential_id)
    return pb.ListCredentialsResponse(credentials=map(_credential, credentials), next_page_token=token)


async def list_my_credentials(tx: Transaction, request: pb.ListMyCredentialsRequest) -> pb.ListCredentialsResponse:
    """The caller's own credentials."""
    fetch = partial(credential_store.list_credentials, tx, tx.caller.account_id, None, False)
    credentials, token = await page(request, UUID, fetch, lambda credential: credential.credential_id)
    return pb.ListCredentialsResponse(credentials=map(_credential, credentials), next_page_token=token)


async def revoke_my_credential(tx: Transaction, request: pb.RevokeMyCredentialRequest) -> pb.Credential:
    """Ends one of the caller's own credentials."""
    return _credential(await credential_operations.revoke_mine(tx, UUID(request.credential_id)))


async def set_my_pin(tx: Transaction, request: pb.SetMyPinRequest) -> pb.Credential:
    """Sets the caller's PIN."""
    return _credential(await credential_operations.set_my_pin(tx, request.pin))


async def create_my_code(tx: Transaction, request: pb.CreateMyCodeRequest) -> pb.DoorCode:
    """A dynamic QR code of the caller's."""
    return code_message(await credential_operations.create_my_code(tx, optional_id(request.door_id)))


async def enrol_my_face(tx: Transaction, request: pb.EnrolMyFaceRequest) -> pb.Credential:
    """Lets terminals know the caller's face."""
    return _credential(await credential_operations.enrol_my_face(tx, request.template))


def code_message(code: DoorCode) -> pb.DoorCode:
    """A dynamic code as the contract says it."""
    return pb.DoorCode(code=code.code, expires_at=to_timestamp(code.expires_at))


def _credential(credential: Credential) -> pb.Credential:
    return pb.Credential(
        credential_id=str(credential.credential_id),
        kind=CREDENTIAL_KIND_MESSAGE[credential.kind],
        account_id=str(credential.account_id),
        label=credential.label,
        issued_at=to_timestamp(credential.issued_at),
        revoked_at=to_timestamp(credential.revoked_at),
    )
