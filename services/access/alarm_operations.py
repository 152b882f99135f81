"""What happens with alarms: observations raise them or join them, people take them and close them."""

from collections.abc import Sequence
from uuid import UUID

from servicekit.database import Transaction
from services.access.alarms import Observation


async def observe(tx: Transaction, observations: Sequence[Observation]) -> list[UUID | None]:
    """Takes in observations of one or several communities, in any scope, and returns to it.

    Returns the alarm that each raised or joined; None for one that raises none, and for one that was taken in before.
    """
    raise NotImplementedError
