"""A running workorders service for each file of tests; what one test does is another community's to the next."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support import Servers
from tests.workorders.arrange import MONDAY_10, Community, WorkTown, town


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workorders(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkTown]:
    """Workorders, for the tests of one file."""
    async with town(servers, tmp_path_factory.mktemp("photos")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def community(workorders: WorkTown) -> Community:
    """A community of this test's own, on Monday at ten."""
    workorders.clock.now = MONDAY_10
    return Community(workorders)
