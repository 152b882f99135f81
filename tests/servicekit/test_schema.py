"""Databases come into being in steps that different people take: roles, the database, its tables. A service waits for all of them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from infra.local.postgres import PostgresServer
from servicekit import schema
from servicekit.auth import Verifier
from servicekit.config import ProcessSettings, SettingsError, load
from servicekit.service import Host
from tests.servicekit.toy import MIGRATIONS, toy
from tests.support import PASSWORD, Mint, Servers, environment, eventually, free_address

MAY = "SELECT has_table_privilege($1, 'schema_migrations', $2)"
CHANGE = "INSERT, UPDATE, DELETE"


@pytest.fixture
async def name(servers: Servers) -> AsyncIterator[str]:
    """A service that has no database yet."""
    fresh = f"fresh_{uuid.uuid4().hex[:8]}"
    yield fresh
    connection = await asyncpg.connect(servers.postgres.url())
    await connection.execute(f"DROP DATABASE IF EXISTS linli_{fresh} WITH (FORCE)")
    await connection.close()


def url_of(postgres: PostgresServer, name: str) -> str:
    """The address that the service will have."""
    return f"postgresql://linli_{name}:{PASSWORD}@{postgres.host}:{postgres.port}/linli_{name}"


async def test_a_service_waits_until_its_database_is_made_and_has_every_table_that_its_code_knows(
    servers: Servers, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "LINLI_GRPC_ADDRESS": free_address(),
        "LINLI_OPS_ADDRESS": free_address(),
        "LINLI_NATS_URL": servers.nats.url,
        f"LINLI_{name.upper()}_DATABASE_URL": url_of(servers.postgres, name),
    }

    async def says(event: str) -> None:
        async def is_said() -> bool:
            return event in capsys.readouterr().out

        await eventually(is_said, event)

    with environment(values):
        host = Host([toy(name=name)], load(ProcessSettings), verifier=Verifier(Mint().keys))
        starting = asyncio.create_task(host.start())
        try:
            await says("database_not_reached")
            credentials = await schema.provision(servers.postgres.url(), name, PASSWORD, PASSWORD)
            # Where the code before this one has left it.
            await schema.migrate(credentials.owner_url, [])
            await says("schema_behind")
            assert not starting.done()
            await schema.migrate(credentials.owner_url, [MIGRATIONS])
            await asyncio.wait_for(starting, 15)
            assert host.is_ready
        finally:
            starting.cancel()
            await host.stop()


async def test_a_service_reads_what_was_migrated_and_cannot_change_it(servers: Servers, name: str) -> None:
    credentials = await schema.provision(servers.postgres.url(), name, PASSWORD, PASSWORD)
    # As every process of an installation that migrates at start does it.
    await asyncio.gather(*(schema.migrate(credentials.owner_url, [MIGRATIONS]) for _ in range(6)))
    connection = await asyncpg.connect(credentials.service_url)
    assert await connection.fetchval(MAY, f"linli_{name}", "SELECT")
    assert not await connection.fetchval(MAY, f"linli_{name}", CHANGE)
    await connection.close()


async def test_an_installation_whose_services_could_change_what_was_migrated_is_mended(servers: Servers, name: str) -> None:
    credentials = await schema.provision(servers.postgres.url(), name, PASSWORD, PASSWORD)
    await schema.migrate(credentials.owner_url, [MIGRATIONS])
    owner = await asyncpg.connect(credentials.owner_url)
    await owner.execute(f"GRANT {CHANGE} ON schema_migrations TO linli_{name}")
    await schema.migrate(credentials.owner_url, [MIGRATIONS])
    assert not await owner.fetchval(MAY, f"linli_{name}", CHANGE)
    await owner.close()


async def test_a_database_lets_in_its_own_service_and_no_other(servers: Servers, name: str) -> None:
    credentials = await schema.provision(servers.postgres.url(), name, PASSWORD, PASSWORD)
    another = await schema.provision(servers.postgres.url(), f"{name}_2", PASSWORD, PASSWORD)
    await schema.migrate(credentials.owner_url, [MIGRATIONS])
    for url in (another.service_url, another.owner_url):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(url.rpartition("/")[0] + f"/linli_{name}")
    await (await asyncpg.connect(credentials.service_url)).close()
    connection = await asyncpg.connect(servers.postgres.url())
    await connection.execute(f"DROP DATABASE linli_{name}_2 WITH (FORCE)")
    await connection.close()


@pytest.mark.parametrize("url", ["mysql://a:hush@127.0.0.1/b", "postgresql://a:hu/sh@127.0.0.1/b", "postgresql://127.0.0.1:1?sslmode=hush"])
async def test_an_address_that_is_none_stops_the_start_with_its_name_and_without_its_text(servers: Servers, url: str) -> None:
    values = {"LINLI_OPS_ADDRESS": free_address(), "LINLI_NATS_URL": servers.nats.url, "LINLI_TOY_DATABASE_URL": url}
    with environment(values):
        host = Host([toy()], load(ProcessSettings), verifier=Verifier(Mint().keys))
        try:
            with pytest.raises(SettingsError, match="LINLI_TOY_DATABASE_URL") as refused:
                await asyncio.wait_for(host.start(), 10)
        finally:
            await host.stop()
    assert "hu" not in str(refused.value)


async def test_the_servers_log_holds_no_password_though_the_statement_that_sets_it_fails(servers: Servers, name: str) -> None:
    credentials = await schema.provision(servers.postgres.url(), name, PASSWORD, PASSWORD)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):  # whoever provisions may make no roles
        await schema.provision(credentials.owner_url, f"{name}_2", "hush-hush", "hush-hush")

    connection = await asyncpg.connect(servers.postgres.url())
    log = Path(await connection.fetchval("SHOW data_directory")).with_name("server.log")
    await connection.close()

    async def logged() -> str:
        text = log.read_text(errors="replace")
        return text if f"CREATE ROLE linli_{name}_2_owner" in text else ""

    assert "hush-hush" not in await eventually(logged)


async def test_only_the_owner_of_the_tables_migrates(servers: Servers, name: str) -> None:
    credentials = await schema.provision(servers.postgres.url(), name, PASSWORD, PASSWORD)
    for url in (credentials.service_url, servers.postgres.url(f"linli_{name}")):
        with pytest.raises(schema.MigrationError, match="_owner"):
            await schema.migrate(url, [MIGRATIONS])
