"""Servers for the tests of this folder: real ones, on folders and ports of their own, stopped after each test."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from infra.local.nats import NatsServer, start_nats
from infra.local.postgres import PostgresServer, start_postgres


@pytest.fixture
def stop_later() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def postgres(stop_later: ExitStack) -> Callable[..., PostgresServer]:
    def start(data_dir: Path, **options: Any) -> PostgresServer:
        server = start_postgres(data_dir, **options)
        stop_later.callback(server.stop)
        return server

    return start


@pytest.fixture
def nats(stop_later: ExitStack) -> Callable[..., NatsServer]:
    def start(data_dir: Path, **options: Any) -> NatsServer:
        server = start_nats(data_dir, **options)
        stop_later.callback(server.stop)
        return server

    return start


@pytest.fixture
def sql() -> Callable[[PostgresServer, str], list[Any]]:
    """Runs one statement on a connection of its own and returns the first column."""

    async def run(server: PostgresServer, statement: str) -> list[Any]:
        connection = await asyncpg.connect(server.url())
        try:
            return [row[0] for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return lambda server, statement: asyncio.run(run(server, statement))
