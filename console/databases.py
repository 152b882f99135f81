"""What operators do with services' databases: migrate them, look at dead letters, replay, audit ledgers."""

import json
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import asyncpg
import msgspec
import typer

import ledger.audit
from console import catalog
from infra.local.accounts import OPERATOR
from servicekit import messaging, outbox, schema
from servicekit.clock import system_clock
from servicekit.config import DatabaseSettings, NatsSettings, ProcessSettings, load
from servicekit.database import PLATFORM, WRONG_ADDRESS, Database, open_database
from servicekit.service import Service

LIST_DEAD_LETTERS = """
SELECT dead_letter_id, consumer, subject, error, failed_at, replayed_at FROM dead_letters
WHERE $1 OR replayed_at IS NULL ORDER BY failed_at LIMIT 1000
"""
SELECT_DEAD_LETTERS = """
SELECT dead_letter_id, consumer, subject, headers, body, failed_at FROM dead_letters
WHERE (dead_letter_id = ANY($1::uuid[])) OR ($1::uuid[] = '{}' AND replayed_at IS NULL) ORDER BY failed_at LIMIT 1000
"""
# One that has failed again meanwhile waits again.
MARK_REPLAYED = "UPDATE dead_letters SET replayed_at = $3 WHERE dead_letter_id = $1 AND failed_at = $2"
# It keeps its row, as one that was handed out does.
DISMISS = "UPDATE dead_letters SET replayed_at = now() WHERE dead_letter_id = ANY($1::uuid[]) AND replayed_at IS NULL"


class DatabaseError(Exception):
    """A database could not be reached or changed; the text says which and why."""


@contextmanager
def reached(service: str) -> Iterator[None]:
    """Says of a service what keeps the block from its database. Raises DatabaseError."""
    try:
        yield
    except WRONG_ADDRESS as error:  # Its text may hold a part of the address, and so of the password.
        raise DatabaseError(f"{service}: the address of the database is wrong: {type(error).__name__}") from None
    except (schema.MigrationError, asyncpg.PostgresError, OSError) as error:
        raise DatabaseError(f"{service}: {error}") from error


class OwnerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The role that owns a service's tables: all that who migrates needs."""

    migration_url: str


async def migrate(services: Sequence[Service]) -> None:
    """Brings each service's database up to date. Raises DatabaseError, SettingsError."""
    for service in services:
        if not service.migrations:
            continue
        owner_url = load(OwnerSettings, service.name).migration_url
        with reached(service.name):
            await schema.migrate(owner_url, service.migrations)
        typer.echo(f"{service.name}: up to date")


@asynccontextmanager
async def _database(name: str) -> AsyncIterator[Database]:
    (service,) = catalog.find([name])
    if not service.migrations:
        raise DatabaseError(f"{name} has no database")
    url = load(DatabaseSettings, name).database_url
    with reached(name):
        database = await open_database(name, url, pool_size=1, clock=system_clock)
    try:
        yield database
    finally:
        await database.close()


async def list_dead_letters(service: str, *, every: bool) -> None:
    """Prints dead letters as JSON lines."""
    async with _database(service) as database, database.transaction(PLATFORM) as transaction:
        for row in await transaction.fetch(LIST_DEAD_LETTERS, every):
            typer.echo(json.dumps({key: None if value is None else str(value) for key, value in row.items()}, ensure_ascii=False))


async def replay_dead_letters(service: str, identifiers: Sequence[str]) -> None:
    """Publishes dead letters again and marks them."""
    chosen = _letter_ids(identifiers)
    process = load(ProcessSettings)
    client = await messaging.connect(process, load(NatsSettings, OPERATOR), OPERATOR)
    publisher = messaging.Publisher(client, service)
    try:
        async with _database(service) as database:
            async with database.transaction(PLATFORM) as transaction:
                letters = await transaction.fetch(SELECT_DEAD_LETTERS, chosen)
            for letter in letters:
                # Without its id for JetStream, which would take it for a repetition; for the consumer that failed and no other.
                headers = {key: value for key, value in json.loads(letter["headers"]).items() if key != "Nats-Msg-Id"}
                headers[messaging.ONLY] = letter["consumer"]
                await publisher.send(letter["subject"], letter["body"], headers)
                async with database.transaction(PLATFORM) as transaction:
                    await transaction.execute(MARK_REPLAYED, letter["dead_letter_id"], letter["failed_at"], system_clock())
    finally:
        await client.close()
    typer.echo(f"{len(letters)} replayed")


async def dismiss_dead_letters(service: str, identifiers: Sequence[str]) -> None:
    """Marks dead letters that nobody can ever handle as dealt with; nothing is published."""
    async with _database(service) as database, database.transaction(PLATFORM) as transaction:
        count = await transaction.execute(DISMISS, _letter_ids(identifiers))
    typer.echo(f"{count} dismissed")


def _letter_ids(identifiers: Sequence[str]) -> list[uuid.UUID]:
    try:
        return [uuid.UUID(identifier) for identifier in identifiers]
    except ValueError:
        raise DatabaseError("a dead letter's id is a UUID, as `linli deadletters list` prints it") from None


async def replay_outbox(service: str, since: datetime) -> None:
    """Marks what was published since an instant as unsent; the running service's relay publishes it again within a second."""
    async with _database(service) as database, database.transaction(PLATFORM) as transaction:
        count = await outbox.replay(transaction, since if since.tzinfo else since.replace(tzinfo=UTC))
    typer.echo(f"{count} to be published again")


async def audit_ledger(service: str) -> None:
    """Prints every invariant of a service's ledger, and the first rows that break it. Raises DatabaseError when there are any."""
    (declared,) = catalog.find([service])
    if ledger.MIGRATIONS not in declared.migrations:
        raise DatabaseError(f"{service} keeps no ledger")
    url = load(DatabaseSettings, service).database_url
    with reached(service):
        # Without the pool's limit of time: millions of entries take minutes.
        connection = await asyncpg.connect(url)
    broken = 0
    try:
        async for finding in ledger.audit.audit(connection):
            broken += bool(finding.broken)
            typer.echo(f"{'BROKEN' if finding.broken else 'ok    '} {finding.invariant}")
            for row in finding.broken:
                typer.echo(f"         {row}")
    except asyncpg.PostgresError as error:
        raise DatabaseError(f"{service}'s ledger cannot be read: {error}") from error
    finally:
        await connection.close()
    if broken:
        raise DatabaseError(f"{broken} of {len(ledger.audit.INVARIANTS)} invariants are broken")
