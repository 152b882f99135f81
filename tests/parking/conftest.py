"""A running parking service for each file of tests; what one test does is another community's to the next."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.community import Town
from tests.parking.arrange import MONDAY_9, CarPark, Community, town
from tests.support import Servers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parking(servers: Servers) -> AsyncIterator[Town]:
    """Parking, for the tests of one file."""
    async with town(servers) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def community(parking: Town) -> Community:
    """A community of this test's own, on Monday at nine."""
    parking.clock.now = MONDAY_9
    return Community(parking)


@pytest_asyncio.fixture(loop_scope="module")
async def park(community: Community) -> CarPark:
    """A car park with a hundred places, two entrances and two exits, at five yuan an hour after half an hour free."""
    return await community.lot()
