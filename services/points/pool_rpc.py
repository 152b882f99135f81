"""The methods of linli.points.v1.PointsService about what households pool."""

from uuid import UUID

from linli.points.v1 import points_pb2 as pb
from servicekit.database import Transaction
from servicekit.times import to_timestamp
from services.points import pool_operations, pool_store, statement_operations
from services.points.statement_rpc import list_entries


async def get_household_points(tx: Transaction, request: pb.GetHouseholdPointsRequest) -> pb.HouseholdPoints:
    """What a household has pooled, and which members do."""
    household_id = UUID(request.household_id)
    await pool_operations.check_household(tx, household_id)
    return await _household_points(tx, household_id)


async def list_household_entries(tx: Transaction, request: pb.ListHouseholdEntriesRequest) -> pb.ListEntriesResponse:
    """The household's entries, newest first."""
    household_id = UUID(request.household_id)
    await pool_operations.check_household(tx, household_id)
    return await list_entries(tx, household_id, request)


async def set_pooling(tx: Transaction, request: pb.SetPoolingRequest) -> pb.HouseholdPoints:
    """Consents to pooling, or withdraws."""
    household_id = UUID(request.household_id)
    await pool_operations.set_pooling(tx, household_id, request.pools)
    return await _household_points(tx, household_id)


async def _household_points(tx: Transaction, household_id: UUID) -> pb.HouseholdPoints:
    standing = await statement_operations.find_standing(tx, household_id)
    return pb.HouseholdPoints(
        household_id=str(household_id),
        points=standing.points,
        held=standing.held,
        expiring=standing.expiring,
        expires_at=to_timestamp(standing.expires_at),
        pooling_account_ids=[str(account_id) for account_id in await pool_store.list_pooling(tx, household_id)],
    )
