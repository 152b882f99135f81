"""The methods of linli.parking.v1.ParkingService about who may park."""

from functools import partial
from uuid import UUID

from google.protobuf.empty_pb2 import Empty

from linli.parking.v1 import parking_pb2 as pb
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid
from servicekit.identifiers import new_id
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_datetime, to_timestamp
from services.parking import pass_operations, pass_store
from services.parking.lot_operations import get_lot
from services.parking.pass_store import Denial, Permit, VisitorPass
from services.parking.texts import plate_of


async def issue_permit(tx: Transaction, request: pb.IssuePermitRequest) -> pb.Permit:
    """Issues a month pass."""
    plates = [plate_of(plate, f"plates[{index}]").text for index, plate in enumerate(request.plates)]
    if len(set(plates)) < len(plates):
        violation = FieldViolation("plates", "parking.duplicate_plate", "names a plate twice")
        raise Invalid("parking.duplicate_plate", "车牌重复", "A plate is named twice", fields=[violation])
    permit = Permit(
        permit_id=new_id(),
        lot_id=UUID(request.lot_id),
        household_id=UUID(request.household_id),
        space_id=UUID(request.space_id),
        plates=plates,
        valid_from=to_datetime(request.valid_from, "valid_from"),
        valid_until=to_datetime(request.valid_until, "valid_until"),
    )
    return _permit(await pass_operations.issue_permit(tx, permit))


async def revoke_permit(tx: Transaction, request: pb.RevokePermitRequest) -> pb.Permit:
    """Ends a month pass now."""
    return _permit(await pass_operations.revoke_permit(tx, UUID(request.permit_id)))


async def list_permits(tx: Transaction, request: pb.ListPermitsRequest) -> pb.ListPermitsResponse:
    """Month passes of a lot."""
    lot_id = UUID(request.lot_id)
    await get_lot(tx, lot_id)
    plate = plate_of(request.plate, "plate").text if request.plate else None
    permits, token = await page(request, UUID, partial(pass_store.list_permits, tx, lot_id, plate), lambda permit: permit.permit_id)
    return pb.ListPermitsResponse(permits=[_permit(permit) for permit in permits], next_page_token=token)


def _permit(permit: Permit) -> pb.Permit:
    return pb.Permit(
        permit_id=str(permit.permit_id),
        lot_id=str(permit.lot_id),
        household_id=str(permit.household_id),
        space_id=str(permit.space_id),
        plates=permit.plates,
        valid_from=to_timestamp(permit.valid_from),
        valid_until=to_timestamp(permit.valid_until),
        revoked=permit.revoked_at is not None,
    )


async def create_visitor_pass(tx: Transaction, request: pb.CreateVisitorPassRequest) -> pb.VisitorPass:
    """A resident invites a visitor's car."""
    created = await pass_operations.create_visitor_pass(
        tx,
        UUID(request.household_id),
        plate_of(request.plate, "plate").text,
        to_datetime(request.valid_from, "valid_from"),
        to_datetime(request.valid_until, "valid_until"),
    )
    return _visitor_pass(created)


async def revoke_visitor_pass(tx: Transaction, request: pb.RevokeVisitorPassRequest) -> pb.VisitorPass:
    """Takes an invitation back."""
    household_id, visitor_pass_id = UUID(request.household_id), UUID(request.visitor_pass_id)
    return _visitor_pass(await pass_operations.revoke_visitor_pass(tx, household_id, visitor_pass_id))


async def list_visitor_passes(tx: Transaction, request: pb.ListVisitorPassesRequest) -> pb.ListVisitorPassesResponse:
    """A household's invitations, newest first."""
    fetch = partial(pass_store.list_visitor_passes, tx, UUID(request.household_id))
    rows, token = await page(request, UUID, fetch, lambda row: row.visitor_pass_id)
    return pb.ListVisitorPassesResponse(visitor_passes=[_visitor_pass(row) for row in rows], next_page_token=token)


def _visitor_pass(visitor_pass: VisitorPass) -> pb.VisitorPass:
    return pb.VisitorPass(
        visitor_pass_id=str(visitor_pass.visitor_pass_id),
        household_id=str(visitor_pass.household_id),
        plate=visitor_pass.plate,
        valid_from=to_timestamp(visitor_pass.valid_from),
        valid_until=to_timestamp(visitor_pass.valid_until),
        free_minutes=visitor_pass.free_minutes,
        revoked=visitor_pass.revoked_at is not None,
    )


async def deny_plate(tx: Transaction, request: pb.DenyPlateRequest) -> pb.Denial:
    """Keeps a plate out."""
    plate, reason = plate_of(request.plate, "plate").text, text(request.reason, "reason", lines=True)
    return _denial(await pass_operations.deny_plate(tx, UUID(request.lot_id), plate, reason))


async def remove_denial(tx: Transaction, request: pb.RemoveDenialRequest) -> Empty:
    """Lets a plate in again."""
    await pass_operations.remove_denial(tx, UUID(request.denial_id))
    return Empty()


async def list_denials(tx: Transaction, request: pb.ListDenialsRequest) -> pb.ListDenialsResponse:
    """The plates kept out."""
    lot_id = UUID(request.lot_id)
    await get_lot(tx, lot_id)
    denials, token = await page(request, UUID, partial(pass_store.list_denials, tx, lot_id), lambda denial: denial.denial_id)
    return pb.ListDenialsResponse(denials=[_denial(denial) for denial in denials], next_page_token=token)


def _denial(denial: Denial) -> pb.Denial:
    return pb.Denial(denial_id=str(denial.denial_id), lot_id=str(denial.lot_id), plate=denial.plate, reason=denial.reason)
