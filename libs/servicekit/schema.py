"""Databases, roles and migrations.

Each service has a database and two roles: one owns the tables and migrates them, the other serves requests, owns nothing and bypasses no
policy. Migrations are plain SQL that dbmate applies, forward only, in the order of their versions: servicekit's own first.
"""

import asyncio
import os
import sysconfig
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

SERVICEKIT_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATE_S = 300.0
_CONNECT_S = 15.0


class MigrationError(Exception):
    """A migration failed; the text is dbmate's."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The addresses of one service's database for its two roles."""

    owner_url: str
    service_url: str


def _name(service: str) -> str:
    return f"linli_{service}"


async def provision(superuser_url: str, service: str, owner_password: str, service_password: str) -> Credentials:
    """Makes a service's roles and database, or sets the passwords of those that exist. Safe to run again.

    Raises what asyncpg raises. Names are ours; passwords must hold no quote.
    """
    database, owner, role = _name(service), f"{_name(service)}_owner", _name(service)
    connection = await asyncpg.connect(superuser_url)
    try:
        for name, password in ((owner, owner_password), (role, service_password)):
            if "'" in password or "\\" in password:
                raise ValueError("a password must hold no quote and no backslash")
            verb = "ALTER" if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name) else "CREATE"
            await connection.execute(f"{verb} ROLE {name} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD '{password}'")
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
            await connection.execute(f"CREATE DATABASE {database} OWNER {owner}")
        await connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        await connection.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role}")
    finally:
        await connection.close()
    await _grant(_at(superuser_url, database), owner, role)
    return Credentials(_as(superuser_url, owner, owner_password, database), _as(superuser_url, role, service_password, database))


async def _grant(url: str, owner: str, role: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        await connection.execute(f"GRANT ALL ON SCHEMA public TO {owner}; GRANT USAGE ON SCHEMA public TO {role}")
        for privileges, kind in (
            ("SELECT, INSERT, UPDATE, DELETE", "TABLES"),
            ("USAGE, SELECT", "SEQUENCES"),
            ("EXECUTE", "FUNCTIONS"),
        ):
            await connection.execute(f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT {privileges} ON {kind} TO {role}")
    finally:
        await connection.close()


def _at(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _as(url: str, role: str, password: str, database: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{quote(password, safe='')}@{host}", path=f"/{database}"))


async def migrate(owner_url: str, migrations: Sequence[Path]) -> None:
    """Brings a database up to date with these folders; processes that do it at once wait for each other.

    Raises MigrationError, and what asyncpg raises when the server is away.
    """
    directories = [SERVICEKIT_MIGRATIONS, *migrations]
    files = sorted(path.name for directory in directories for path in directory.glob("*.sql"))
    versions = {name.partition("_")[0] for name in files}
    if len(versions) < len(files):
        raise MigrationError(f"two migrations have the same version: {', '.join(files)}")
    if await _is_up_to_date(owner_url, versions):
        return  # Asking costs a few milliseconds, dbmate a hundred.
    process = await asyncio.create_subprocess_exec(
        Path(sysconfig.get_path("scripts")) / "dbmate",
        "--no-dump-schema",
        "--migration-lock",
        *(argument for directory in directories for argument in ("--migrations-dir", str(directory))),
        "migrate",
        # The address holds a password, so it goes by the environment: arguments are visible to every user of the machine.
        env={**os.environ, "DATABASE_URL": _with_ssl_mode(owner_url)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_MIGRATE_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:  # What it had begun is rolled back.
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise MigrationError(output.decode(errors="replace").strip())


async def _is_up_to_date(owner_url: str, versions: Set[str]) -> bool:
    connection = await asyncpg.connect(owner_url, timeout=_CONNECT_S)
    try:
        applied = {row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")}
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()
    return versions <= applied


def _with_ssl_mode(url: str) -> str:
    # dbmate's driver insists on TLS unless told; a server on this machine has none.
    if "sslmode=" in url or urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        return url
    return f"{url}{'&' if '?' in url else '?'}sslmode=disable"
