"""Databases, roles and migrations.

Each service has a database and two roles: one owns the tables and migrates them, the other serves requests, owns nothing and bypasses no
policy. Whoever runs PostgreSQL makes these three, by `provision` or by other means; everything inside is the owner's work. Migrations are
plain SQL that dbmate applies, forward only, in the order of their versions: servicekit's own first.
"""

import asyncio
import hashlib
import hmac
import os
import sysconfig
from base64 import b64encode
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from servicekit import telemetry
from servicekit.database import PLATFORM, Database
from servicekit.errors import Unavailable

if TYPE_CHECKING:
    from servicekit.database import Connection

SERVICEKIT_MIGRATIONS = Path(__file__).parent / "migrations"
# What PostgreSQL answers while a database or a role is not made yet, or its password is another one.
NOT_LET_IN: Final = (asyncpg.InvalidCatalogNameError, asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InsufficientPrivilegeError)
_OWNER = "_owner"
_MIGRATE_S = 300.0
_CONNECT_S = 15.0
_RETRY_S = 0.5
# How often it is told that the tables are behind.
_TELL_S = 30.0

# Before the tables are made. Since PostgreSQL 15 the schema `public` belongs to whoever owns the database.
_GRANTS = """
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role};
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO {role};
"""
# After them: what was applied the service may read, and no more.
_GUARD_HISTORY = "REVOKE ALL ON schema_migrations FROM {role}; GRANT SELECT ON schema_migrations TO {role}"
_APPLIED = "SELECT version FROM schema_migrations"
_IS_GRANTED = """
SELECT has_table_privilege(role, 'schema_migrations', 'SELECT') AND NOT has_table_privilege(role, 'schema_migrations', 'INSERT')
FROM CAST(to_regrole($1) AS oid) AS role
"""


class MigrationError(Exception):
    """A database could not be migrated; the text is dbmate's or PostgreSQL's."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The addresses of one service's database for its two roles."""

    owner_url: str
    service_url: str


def name_of(service: str) -> str:
    """What a service's database is called, and the role that serves from it."""
    return f"linli_{service}"


def owner_of(service: str) -> str:
    """The role that owns a service's tables."""
    return f"{name_of(service)}{_OWNER}"


async def provision(superuser_url: str, service: str, owner_password: str, service_password: str) -> Credentials:
    """Makes a service's roles and database, or sets the passwords of those that exist. Safe to run again.

    Raises what asyncpg raises, and ValueError for a password that is not ASCII.
    """
    database, owner, role = name_of(service), owner_of(service), name_of(service)
    connection = await asyncpg.connect(superuser_url)
    try:
        for name, password in ((owner, owner_password), (role, service_password)):
            verb = "ALTER" if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name) else "CREATE"
            may = f"LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD '{_verifier(password)}'"
            await connection.execute(f"{verb} ROLE {name} {may}")
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
            await connection.execute(f"CREATE DATABASE {database} OWNER {owner}")
    finally:
        await connection.close()
    return Credentials(_as(superuser_url, owner, owner_password, database), _as(superuser_url, role, service_password, database))


def _verifier(password: str) -> str:
    """What PostgreSQL keeps of a password (SCRAM-SHA-256, RFC 7677). It is sent instead, for a server logs the statements that fail."""
    if not password.isascii():
        raise ValueError("a password must be ASCII")  # Others have forms that mean the same, which only SASLprep knows.
    salt, rounds = os.urandom(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = [b64encode(part).decode() for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))]
    return f"SCRAM-SHA-256${rounds}:{parts[0]}${parts[1]}:{parts[2]}"


def _as(url: str, role: str, password: str, database: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{quote(password, safe='')}@{host}", path=f"/{database}"))


async def migrate(owner_url: str, migrations: Sequence[Path]) -> None:
    """Brings a database up to date with these folders and lets the service's role in; processes that do it at once wait for each other.

    Raises MigrationError, and what asyncpg raises when the server is away.
    """
    known = _versions(migrations)
    connection = await asyncpg.connect(owner_url, timeout=_CONNECT_S)
    try:
        owner = await connection.fetchval("SELECT current_user")
        role = owner.removesuffix(_OWNER)
        if role == owner:
            raise MigrationError(f"{owner} must be the service's role with {_OWNER} behind")
        if await _is_up_to_date(connection, role, known):
            return  # Asking costs a few milliseconds, dbmate a hundred.
        await _grant(connection, _GRANTS, role)
        await _run_dbmate(owner_url, migrations)
        await _grant(connection, _GUARD_HISTORY, role)
    finally:
        await connection.close()


async def wait(database: Database, migrations: Sequence[Path]) -> None:
    """Returns when somebody has migrated the database as far as these folders go. Further is well: migrations spare the code before them.

    Raises MigrationError for two migrations of one version.
    """
    known, told_at = _versions(migrations), float("-inf")
    while missing := known - await _applied(database):
        if monotonic() - told_at > _TELL_S:
            told_at = monotonic()
            telemetry.log.warning("schema_behind", service=database.service, missing=sorted(missing))
        await asyncio.sleep(_RETRY_S)


async def _applied(database: Database) -> Set[str]:
    try:
        async with database.transaction(PLATFORM) as transaction:
            return {row["version"] for row in await transaction.fetch(_APPLIED)}
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError, Unavailable):
        return set()


async def _is_up_to_date(connection: "Connection", role: str, known: Set[str]) -> bool:
    try:
        applied = {row["version"] for row in await connection.fetch(_APPLIED)}
    except asyncpg.UndefinedTableError:
        return False
    return known <= applied and bool(await connection.fetchval(_IS_GRANTED, role))


def _versions(migrations: Sequence[Path]) -> Set[str]:
    files = sorted(path.name for directory in (SERVICEKIT_MIGRATIONS, *migrations) for path in directory.glob("*.sql"))
    versions = {name.partition("_")[0] for name in files}
    if len(versions) < len(files):
        raise MigrationError(f"two migrations have the same version: {', '.join(files)}")
    return versions


async def _grant(connection: "Connection", sql: str, role: str) -> None:
    names = await connection.fetchrow("SELECT quote_ident(current_database()) AS database, quote_ident($1) AS role", role)
    assert names is not None
    try:
        async with connection.transaction():
            # Two grants on one thing at once fail.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('grants'))")
            await connection.execute(sql.format(**names))
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{role} cannot be let in: {error}") from None


async def _run_dbmate(owner_url: str, migrations: Sequence[Path]) -> None:
    process = await asyncio.create_subprocess_exec(
        Path(sysconfig.get_path("scripts")) / "dbmate",
        "--no-dump-schema",
        "--migration-lock",
        *(argument for directory in (SERVICEKIT_MIGRATIONS, *migrations) for argument in ("--migrations-dir", str(directory))),
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


def _with_ssl_mode(url: str) -> str:
    # Of an address that says nothing of TLS dbmate demands it, where asyncpg takes what the server has. One address must do for both.
    return url if "sslmode=" in url else f"{url}{'&' if '?' in url else '?'}sslmode=prefer"
