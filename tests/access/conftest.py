"""A running access service for each file of tests; what one test does is another community's to the next."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.access.arrange import MONDAY_9, Community, town
from tests.community import Town
from tests.support import Servers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def access(servers: Servers) -> AsyncIterator[Town]:
    """Access, for the tests of one file."""
    async with town(servers) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def community(access: Town) -> Community:
    """A community of this test's own, on Monday at nine."""
    access.clock.now = MONDAY_9
    return Community(access)
