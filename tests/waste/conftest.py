"""A running waste service for each file of tests; what one test does is another community's to the next."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.community import Town
from tests.support import Servers
from tests.waste.arrange import NOON, Community, SmartBin, town


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def waste(servers: Servers) -> AsyncIterator[Town]:
    """Waste, for the tests of one file."""
    async with town(servers) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def community(waste: Town) -> Community:
    """A community of this test's own, on Monday at noon."""
    waste.clock.now = NOON
    return Community(waste)


@pytest_asyncio.fixture(loop_scope="module")
async def smart_bin(community: Community) -> SmartBin:
    """A bin with the four compartments of a hundred kilograms."""
    return await community.bin()
