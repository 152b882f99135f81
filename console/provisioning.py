"""What an installation needs once, and again after each upgrade: roles and databases in PostgreSQL, and its operator. Safe to run again.

Passwords are those of the services' own addresses, so that nothing but the services' secrets and the superuser's address is needed.
"""

import os
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

import msgspec
import typer

from console.databases import reached
from servicekit import schema
from servicekit.clock import system_clock
from servicekit.config import DatabaseSettings, SettingsError, load
from servicekit.database import PLATFORM, Resources, open_database
from servicekit.service import Service
from services.identity import operations
from services.identity import service as identity


class SuperuserSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who may make roles and databases."""

    # The superuser's address of any database, such as postgresql:///postgres?host=/var/run/postgresql.
    postgres_url: str


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator of the installation signs in with."""

    operator_phone: str
    # At least 12 characters.
    operator_password: str


async def provision(services: Sequence[Service]) -> None:
    """Makes each service's roles and database; those that exist get the passwords that are in the addresses. Raises DatabaseError,
    SettingsError.
    """
    superuser_url = load(SuperuserSettings).postgres_url
    for service in services:
        if not service.migrations:
            continue
        settings, prefix = load(DatabaseSettings, service.name), f"LINLI_{service.name.upper()}"
        owner = _password(settings.migration_url, schema.owner_of(service.name), f"{prefix}_MIGRATION_URL")
        own = _password(settings.database_url, schema.name_of(service.name), f"{prefix}_DATABASE_URL")
        with reached(service.name):
            await schema.provision(superuser_url, service.name, owner, own)
        typer.echo(f"{service.name}: provisioned")


def _password(url: str, role: str, variable: str) -> str:
    try:
        parts = urlsplit(url)
        user, password = parts.username, unquote(parts.password or "")
    except ValueError:  # Its text may hold the password.
        user = password = None
    if user != role or not password or not password.isascii():
        raise SettingsError(f"{variable} is wrong: it must hold the password of {role}, in ASCII")
    return password


async def bootstrap(*, reset_password: bool = False, environment: Mapping[str, str] = os.environ) -> None:
    """Makes the operator, and the community in which `linli smoke` tries the installation. Raises DatabaseError, SettingsError, and Invalid
    for a phone or password that will not do.
    """
    operator = load(OperatorSettings, environment=environment)
    tools = identity.tools(load(identity.Settings, "identity", environment))
    url = load(DatabaseSettings, "identity", environment).database_url
    with reached("identity"):
        database = await open_database("identity", url, pool_size=1, clock=system_clock)
    database.resources = Resources(tools)
    who = operator.operator_phone, "平台管理员", operator.operator_password
    try:
        # Where Jobs run beside each other, the migrations may not be over yet.
        await schema.wait(database, identity.SERVICE.migrations)
        async with database.transaction(PLATFORM) as tx:
            await operations.bootstrap_operator(tx, *who, reset_password=reset_password)
        async with database.transaction(PLATFORM) as tx:
            await operations.found_trial_community(tx, *who)
    finally:
        await database.close()
