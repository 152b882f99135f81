"""Fixtures for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Servers


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and NATS of this test worker."""
    running = Servers(Path(tmp_path_factory.mktemp("servers")))
    yield running
    running.stop()
