"""The platform as a user starts it, once in one process for all services and once with one process for each."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.journeys.people import Town, Up, living


@pytest.fixture(scope="module", params=[(), ("--separate",)], ids=["all in one", "one process each"])
def up(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`linli up`, ready. A module of which one way says enough chooses it: `ALL_IN_ONE`, `ONE_PROCESS_EACH`."""
    options: tuple[str, ...] = request.param
    started = Up(Path(tmp_path_factory.mktemp("linli")), *options)
    try:
        started.wait_until_ready()
        yield started
    finally:
        assert started.stop() == 0


@pytest.fixture
async def town(up: Up) -> AsyncIterator[Town]:
    """The demonstration community."""
    async with living(up.folder) as running:
        yield running
