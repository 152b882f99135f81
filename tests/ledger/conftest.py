"""Fixtures of the ledger's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.ledger.books import Books, books_on
from tests.support import Servers


@pytest.fixture
async def books(servers: Servers) -> AsyncIterator[Books]:
    """An empty ledger, audited when the test ends."""
    async with books_on(servers) as opened:
        yield opened
        assert await opened.broken() == {}
