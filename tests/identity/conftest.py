"""A running identity for each file of tests; what one test does is another community's to the next."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.identity.arrange import Community, Town, town
from tests.support import Servers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def identity(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """Identity, for the tests of one file."""
    async with town(servers, tmp_path_factory.mktemp("identity")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def community(identity: Town) -> Community:
    """A community of this test's own."""
    return await identity.community()
