"""Billing's SQL on its migrated schema."""

import asyncpg

from services.billing import store
from services.billing.service import SERVICE
from tests.support import Servers

_STATEMENTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


async def test_every_statement_fits_the_schema(servers: Servers) -> None:
    statements = {name: value for name, value in vars(store).items() if isinstance(value, str) and value.lstrip().startswith(_STATEMENTS)}
    assert len(statements) > 30
    async with servers.database(SERVICE) as url:
        connection = await asyncpg.connect(url)
        try:
            for name, sql in statements.items():
                try:
                    await connection.prepare(sql)
                except asyncpg.PostgresError as error:
                    raise AssertionError(f"{name}: {error}") from error
        finally:
            await connection.close()


async def test_every_table_is_behind_the_wall(servers: Servers) -> None:
    async with servers.database(SERVICE) as url:
        connection = await asyncpg.connect(url)
        try:
            rows = await connection.fetch(
                "SELECT relname, relforcerowsecurity, EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = c.oid) AS has_policy"
                " FROM pg_class c WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace AND relname <> 'schema_migrations'"
            )
        finally:
            await connection.close()
    assert len(rows) > 6
    assert [row["relname"] for row in rows if not (row["relforcerowsecurity"] and row["has_policy"])] == []
