"""Fixtures for the tests of billing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.billing.world import World, world
from tests.support import Servers


@pytest.fixture
async def billing(servers: Servers, tmp_path: Path) -> AsyncIterator[World]:
    """A community with its billing and the sandbox provider."""
    async with world(servers, tmp_path) as running:
        yield running
