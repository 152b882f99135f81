"""What holds for every service's database: walls, roles, and SQL that fits the schema."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

import servicekit
from console import catalog
from servicekit.listing import Listing
from servicekit.service import Service
from tests.support import Servers

SERVICES = [service for service in catalog.find(["all"]) if service.migrations]
ROOT = Path(__file__).parents[2]
# Kept by dbmate, without rows of any community.
WITHOUT_COMMUNITY = {"schema_migrations"}

TABLES = """
SELECT relname, relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner) AS owner,
       EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid) AS has_policy,
       EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'community_id' AND attnotnull) AS names_community
FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
"""
names = [service.name for service in SERVICES]


@pytest.fixture(params=SERVICES, ids=names)
def service(request: pytest.FixtureRequest) -> Service:
    found: Service = request.param
    return found


async def test_every_table_is_behind_the_wall(servers: Servers, service: Service) -> None:
    credentials = await servers.template(service)
    connection = await asyncpg.connect(credentials.service_url)
    try:
        tables = [row for row in await connection.fetch(TABLES) if row["relname"] not in WITHOUT_COMMUNITY]
        assert len(tables) >= 4
        bare = [
            row["relname"]
            for row in tables
            if not (row["relrowsecurity"] and row["relforcerowsecurity"] and row["has_policy"] and row["names_community"])
        ]
        assert bare == []
    finally:
        await connection.close()


async def test_the_wall_check_sees_a_table_without_a_policy(servers: Servers, service: Service) -> None:
    credentials = await servers.template(service)
    connection = await asyncpg.connect(credentials.owner_url)
    try:
        async with connection.transaction():
            await connection.execute("CREATE TABLE open_field (community_id uuid NOT NULL)")
            rows = {row["relname"]: row for row in await connection.fetch(TABLES)}
            assert not rows["open_field"]["has_policy"]
            await connection.execute("DROP TABLE open_field")
    finally:
        await connection.close()


async def test_the_service_signs_in_as_a_role_that_owns_nothing_and_bypasses_nothing(servers: Servers, service: Service) -> None:
    credentials = await servers.template(service)
    connection = await asyncpg.connect(credentials.service_url)
    try:
        role = await connection.fetchrow(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        )
        assert role is not None
        assert not any(role.values())
        owners = {row["owner"] for row in await connection.fetch(TABLES)}
        assert owners == {f"linli_{service.name}_owner"}
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE mine (x int)")
    finally:
        await connection.close()


async def test_nothing_is_seen_without_a_scope(servers: Servers, service: Service) -> None:
    credentials = await servers.template(service)
    connection = await asyncpg.connect(credentials.service_url)
    try:
        for row in await connection.fetch(TABLES):
            if row["relname"] not in WITHOUT_COMMUNITY:
                assert await connection.fetchval(f'SELECT count(*) FROM "{row["relname"]}"') == 0
    finally:
        await connection.close()


def statements(service: Service) -> Iterator[tuple[str, str]]:
    """Every SQL constant that runs on a service's database: module-level strings and listings in the store modules beside each folder of
    its migrations, and servicekit's own."""
    stores = []
    for folder in (migrations.parent for migrations in service.migrations):
        package = ".".join(folder.relative_to(ROOT).parts).removeprefix("libs.")
        names = [found.name for found in pkgutil.iter_modules([str(folder)])]
        stores += [importlib.import_module(f"{package}.{name}") for name in names if "store" in name]
    kit = [importlib.import_module(f"servicekit.{found.name}") for found in pkgutil.iter_modules(servicekit.__path__)]
    for module in [*stores, *kit]:
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, str) and value.split(maxsplit=1)[:1] and value.split()[0].lstrip("(") in SQL_VERBS:
                yield f"{module.__name__}.{name}", value
            elif isinstance(value, Listing):
                for statement in value.statements():
                    yield f"{module.__name__}.{name}", statement


SQL_VERBS = {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "MERGE"}


async def test_every_sql_constant_fits_the_schema(servers: Servers, service: Service) -> None:
    credentials = await servers.template(service)
    connection = await asyncpg.connect(credentials.service_url)
    wrong = []
    try:
        checked = 0
        for name, sql in statements(service):
            checked += 1
            try:
                await connection.prepare(sql)
            except asyncpg.PostgresError as error:
                wrong.append(f"{name}: {error}")
    finally:
        await connection.close()
    assert wrong == []
    assert checked > 10


def test_only_stores_run_sql() -> None:
    offenders = []
    owners = [ROOT / "services", *(folder.parent for service in SERVICES for folder in service.migrations)]
    for path in {path for owner in owners for path in owner.rglob("*.py") if "store" not in path.stem}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = node.value.split()
                if len(words) > 3 and words[0].lstrip("(") in SQL_VERBS and {"FROM", "INTO", "SET"} & set(words):
                    offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert offenders == []
