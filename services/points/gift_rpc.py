"""The method of linli.points.v1.PointsService about gifts."""

from uuid import UUID

from linli.points.v1 import points_pb2 as pb
from servicekit.database import Transaction
from servicekit.errors import FieldViolation, Invalid
from servicekit.texts import text
from services.points import gift_operations


async def gift_points(tx: Transaction, request: pb.GiftPointsRequest) -> pb.Gift:
    """Gives points to a neighbour, or to the caller's own household. Raises Invalid unless just one of them is named."""
    if bool(request.to_account_id) == bool(request.to_household_id):
        violation = FieldViolation("to_account_id", "points.gift_receiver", "name either an account or a household")
        raise Invalid("points.gift_receiver", "请选择一位受赠方", "Name one receiver", fields=[violation])
    message = text(request.message, "message") if request.message else ""
    if request.to_account_id:
        given = await gift_operations.give_to_neighbour(tx, UUID(request.to_account_id), request.points, message)
    else:
        given = await gift_operations.give_to_household(tx, UUID(request.to_household_id), request.points, message)
    transfer_id, points_left = given
    return pb.Gift(transfer_id=str(transfer_id), points=request.points, points_left=points_left)
