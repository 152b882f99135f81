"""The methods of linli.access.v1.AccessService about visitors' passes."""

from functools import partial
from typing import Final
from uuid import UUID

from linli.access.v1 import access_pb2 as pb
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid
from servicekit.paging import page
from servicekit.rpc import secret_answer
from servicekit.texts import text
from servicekit.times import to_datetime, to_timestamp
from services.access import pass_operations, pass_store
from services.access.credential_rpc import code_message
from services.access.door_rpc import optional_id
from services.access.pass_operations import Invitation, InvitationView
from services.access.passes import LONGEST, Pass, PassKind, PassState, normal_plate

_KIND_MESSAGE: Final = {kind: pb.PassKind.Value(f"PASS_KIND_{kind.name}") for kind in PassKind}
_KIND: Final = {message: kind for kind, message in _KIND_MESSAGE.items()}
_STATE_MESSAGE: Final = {state: pb.PassState.Value(f"PASS_STATE_{state.name}") for state in PassState}
_STATE: Final = {message: state for state, message in _STATE_MESSAGE.items()}


def _plate(typed: str) -> str:
    """A plate that may be left empty. Raises Invalid for what is none."""
    plate = normal_plate(typed) if typed.strip() else ""
    if plate is None:
        field = FieldViolation("plate", "access.not_a_plate", "is not a number plate")
        raise Invalid("access.not_a_plate", "不是有效的车牌号码", "This is not a valid number plate", fields=[field])
    return plate


@secret_answer
async def invite_visitor(tx: Transaction, request: pb.InviteVisitorRequest) -> pb.Invitation:
    """Invites a visitor, or lets a delivery in."""
    kind = _KIND[request.kind]
    if kind not in LONGEST:
        field = FieldViolation("kind", "access.pass_kind", "must be a visit or a delivery")
        raise Invalid("access.pass_kind", "只能邀请访客或快递", "A household invites visitors and deliveries", fields=[field])
    invitation = await pass_operations.invite_visitor(
        tx,
        UUID(request.household_id),
        kind,
        text(request.visitor_name, "visitor_name"),
        _plate(request.plate),
        to_datetime(request.valid_from, "valid_from"),
        to_datetime(request.valid_until, "valid_until"),
        one_time=request.one_time,
    )
    return _invitation(tx, invitation)


@secret_answer
async def invite_contractor(tx: Transaction, request: pb.InviteContractorRequest) -> pb.Invitation:
    """Gives a contractor a pass for a work order."""
    zone_ids = [UUID(zone_id) for zone_id in request.zone_ids]
    name = text(request.contractor_name, "contractor_name")
    return _invitation(tx, await pass_operations.invite_contractor(tx, UUID(request.work_order_id), name, zone_ids, _plate(request.plate)))


def _invitation(tx: Transaction, invitation: Invitation) -> pb.Invitation:
    return pb.Invitation(**{"pass": _pass(tx, invitation.made)}, link=str(invitation.link))


async def revoke_pass(tx: Transaction, request: pb.RevokePassRequest) -> pb.Pass:
    """Takes a pass back."""
    return _pass(tx, await pass_operations.revoke_pass(tx, UUID(request.household_id), UUID(request.pass_id)))


async def end_pass(tx: Transaction, request: pb.EndPassRequest) -> pb.Pass:
    """Ends any pass."""
    return _pass(tx, await pass_operations.end_pass(tx, UUID(request.pass_id)))


async def list_household_passes(tx: Transaction, request: pb.ListHouseholdPassesRequest) -> pb.ListPassesResponse:
    """A household's passes, newest first."""
    fetch = partial(pass_store.list_passes, tx, None, None, UUID(request.household_id))
    passes, token = await page(request, UUID, fetch, lambda found: found.pass_id)
    return pb.ListPassesResponse(passes=[_pass(tx, found) for found in passes], next_page_token=token)


async def list_passes(tx: Transaction, request: pb.ListPassesRequest) -> pb.ListPassesResponse:
    """Passes, newest first."""
    kind, state, household_id = _KIND.get(request.kind), _STATE.get(request.state), optional_id(request.household_id)
    passes, token = await page(request, UUID, partial(pass_store.list_passes, tx, kind, state, household_id), lambda found: found.pass_id)
    return pb.ListPassesResponse(passes=[_pass(tx, found) for found in passes], next_page_token=token)


def _pass(tx: Transaction, found: Pass) -> pb.Pass:
    return pb.Pass(
        pass_id=str(found.pass_id),
        kind=_KIND_MESSAGE[found.kind],
        state=_STATE_MESSAGE[found.state(tx.now)],
        household_id=str(found.household_id or ""),
        work_order_id=str(found.work_order_id or ""),
        visitor_name=found.visitor_name,
        plate=found.plate,
        valid_from=to_timestamp(found.valid_from),
        valid_until=to_timestamp(found.valid_until),
        entries_max=found.entries_max,
        last_used_at=to_timestamp(found.last_used_at),
        zone_ids=map(str, found.zone_ids),
    )


async def get_invitation(tx: Transaction, request: pb.GetInvitationRequest) -> pb.InvitationView:
    """What a link invites to."""
    return _view(tx, await pass_operations.get_invitation(tx, request.link))


async def confirm_invitation(tx: Transaction, request: pb.ConfirmInvitationRequest) -> pb.InvitationView:
    """The visitor accepts the invitation."""
    name = text(request.visitor_name, "visitor_name") if request.visitor_name else ""
    return _view(tx, await pass_operations.confirm_invitation(tx, request.link, name, _plate(request.plate)))


async def create_visitor_code(tx: Transaction, request: pb.CreateVisitorCodeRequest) -> pb.DoorCode:
    """A dynamic QR code for the visitor."""
    return code_message(await pass_operations.create_visitor_code(tx, request.link))


def _view(tx: Transaction, view: InvitationView) -> pb.InvitationView:
    return pb.InvitationView(
        kind=_KIND_MESSAGE[view.shown.kind],
        state=_STATE_MESSAGE[view.shown.state(tx.now)],
        visitor_name=view.shown.visitor_name,
        plate=view.shown.plate,
        valid_from=to_timestamp(view.shown.valid_from),
        valid_until=to_timestamp(view.shown.valid_until),
        doors=view.doors,
    )
