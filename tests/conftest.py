"""Fixtures for every test, and how Hypothesis looks for examples."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import Servers

# Machines are slow now and then. In CI the examples are the same each time; at a desk they are new ones.
settings.register_profile("linli", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("linli")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and NATS of this test worker."""
    running = Servers(Path(tmp_path_factory.mktemp("servers")))
    yield running
    running.stop()
