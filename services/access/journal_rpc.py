"""Passages: proto to domain and back."""

from datetime import datetime
from uuid import UUID

from linli.access.v1 import access_pb2 as pb
from linli.device.v1.events_pb2 import CREDENTIAL_KIND_UNSPECIFIED
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.times import to_timestamp
from services.access import passage_store
from services.access.door_rpc import CREDENTIAL_KIND_MESSAGE, DIRECTION_MESSAGE
from services.access.passage_store import Cursor, Outcome, Passage

OUTCOME_MESSAGE = {
    Outcome.OPENED: pb.PASSAGE_OUTCOME_OPENED,
    Outcome.REFUSED: pb.PASSAGE_OUTCOME_REFUSED,
    Outcome.REQUESTED: pb.PASSAGE_OUTCOME_REQUESTED,
    Outcome.RELEASED: pb.PASSAGE_OUTCOME_RELEASED,
}
_OUTCOME = {message: outcome for outcome, message in OUTCOME_MESSAGE.items()}


async def list_passages(tx: Transaction, request: pb.ListPassagesRequest) -> pb.ListPassagesResponse:
    """What happened at doors, newest first."""
    asked = {
        "door_id": UUID(request.door_id) if request.door_id else None,
        "account_id": UUID(request.account_id) if request.account_id else None,
        "pass_id": UUID(request.pass_id) if request.pass_id else None,
        "outcome": _OUTCOME.get(request.outcome),
    }

    async def fetch(after: Cursor | None, limit: int) -> list[Passage]:
        return await passage_store.list_passages(tx, after, limit, **asked)

    passages, token = await page(request, tuple[datetime, UUID], fetch, _key)
    return pb.ListPassagesResponse(passages=map(_passage, passages), next_page_token=token)


async def list_my_passages(tx: Transaction, request: pb.ListMyPassagesRequest) -> pb.ListPassagesResponse:
    """The caller's own passages, and those of the visitors they invited."""

    async def fetch(after: Cursor | None, limit: int) -> list[Passage]:
        return await passage_store.list_passages(tx, after, limit, owner_id=tx.caller.account_id)

    passages, token = await page(request, tuple[datetime, UUID], fetch, _key)
    return pb.ListPassagesResponse(passages=map(_passage, passages), next_page_token=token)


def _key(passage: Passage) -> Cursor:
    return passage.occurred_at, passage.passage_id


def _passage(passage: Passage) -> pb.Passage:
    return pb.Passage(
        passage_id=str(passage.passage_id),
        door_id=str(passage.door_id),
        device_id=passage.device_id,
        direction=DIRECTION_MESSAGE[passage.direction],
        outcome=OUTCOME_MESSAGE[passage.outcome],
        reason=passage.reason,
        credential_kind=CREDENTIAL_KIND_MESSAGE[passage.kind] if passage.kind is not None else CREDENTIAL_KIND_UNSPECIFIED,
        account_id=str(passage.account_id or ""),
        pass_id=str(passage.pass_id or ""),
        opened_by_account_id=str(passage.opened_by or ""),
        occurred_at=to_timestamp(passage.occurred_at),
        offline=passage.offline,
    )
