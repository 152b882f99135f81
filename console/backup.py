"""`linli backup` and `linli restore`: the whole platform of one machine as one archive, taken while it runs.

The archive holds PostgreSQL as it was at one instant, all databases together, by PostgreSQL's own base backup; the secrets; the files of
the blob store; and what devices have told that was acknowledged to them and is in no database yet. Everything else that the broker holds
comes again from the outboxes. The archive ends with a manifest of checksums: one without it was cut off. It is not encrypted, which is for
whoever keeps it; docs/recovery.md shows how.
"""

import asyncio
import base64
import gzip
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

import asyncpg
import msgspec
import typer
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from console import catalog
from console.environment import CODES, stored_environment
from console.secrets import SECRETS
from console.up import DEMONSTRATION, Options, UpError, local_platform
from infra.local.accounts import OPERATOR
from infra.local.ports import HOST
from infra.local.postgres import SUPERUSER, adopt, executable, start_postgres
from infra.local.process import LocalServerError, lock_holder
from servicekit import messaging, streams
from servicekit.clock import system_clock
from servicekit.config import NatsSettings, ProcessSettings, load
from servicekit.database import PLATFORM, open_database
from servicekit.metrics import VERSION
from servicekit.service import Service
from services.ingest import device_messages

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
# What devices told and no database holds, a message on each line.
TOLD: Final = "told.jsonl"
_CLUSTER: Final = "postgres/data"
# Of the data folder, besides the databases: files, and folders with all that is in them. Journals are the simulated terminals' own.
_FILES: Final = (SECRETS, DEMONSTRATION, CODES, "postgres/password")
_FOLDERS: Final = ("images", "terminals")
_PROVIDER: Final = "provider.sqlite"
_CHUNK_BYTES: Final = 1024 * 1024
# Keeps the log from the begin of a base backup on, however long it takes; gone with its session.
_KEEP_LOG: Final = "SELECT pg_create_physical_replication_slot('linli_backup', true, true)"


class BackupError(Exception):
    """A backup could not be taken or restored; the text says why."""


class Entry(msgspec.Struct, frozen=True):
    """One file of an archive."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an archive. All that was acknowledged before `began_at` is in it."""

    format: int
    version: str
    began_at: datetime
    ended_at: datetime
    told: int
    files: list[Entry]


# Backup.


def back_up(folder: Path, target: Path | None) -> None:
    """Writes an archive of the platform that runs in `folder`, to standard output without a target.

    An archive is there under its name once it is whole; one that exists is not replaced. With a name that ends in .gz it is compressed.
    Raises BackupError.
    """
    if target is not None and target.exists():
        raise BackupError(f"{target} exists already")
    if lock_holder(folder / "postgres") is None:
        raise BackupError(f"no platform runs in {folder}")
    try:
        with _output(target) as out:
            manifest = asyncio.run(_write(folder, out))
    except (OSError, tarfile.TarError, NatsError, asyncpg.PostgresError) as error:
        raise BackupError(f"no backup was made: {error}") from error
    size = sum(entry.size for entry in manifest.files)
    seconds = (manifest.ended_at - manifest.began_at).total_seconds()
    typer.echo(f"{len(manifest.files)} files, {size / 1e6:.0f} MB, {manifest.told} messages of devices, in {seconds:.1f} s", err=True)


@contextmanager
def _output(target: Path | None) -> Iterator[IO[bytes]]:
    if target is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    unfinished = target.with_name(f"{target.name}.part")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if target.suffix == ".gz":
                with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as compressed:
                    yield cast(IO[bytes], compressed)
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)


async def _write(folder: Path, out: IO[bytes]) -> Manifest:
    began_at = system_clock()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        archive = _Archive(tar)
        async with _operator(folder) as client:
            # Before the databases: what every consumer had handled by now is in them.
            handled = await _handled(client, catalog.find(["all"]))
            await _write_cluster(folder, archive)
            # After them: what was not handled by the instant of the databases is still there to be read.
            told = await _write_told(client, handled, archive)
        for name in _files(folder):
            archive.add_file(folder / name, name)
        if (folder / _PROVIDER).exists():
            archive.add_provider(folder / _PROVIDER)
        ended_at = system_clock()
        manifest = Manifest(format=FORMAT, version=VERSION, began_at=began_at, ended_at=ended_at, told=told, files=archive.entries)
        archive.add(MANIFEST, BytesIO(msgspec.json.encode(manifest)))
    return manifest


@dataclass(slots=True)
class _Archive:
    """A tar that is being written, and the checksums of what is in it."""

    tar: tarfile.TarFile
    entries: list[Entry] = field(default_factory=list)

    def add(self, name: str, content: IO[bytes], size: int | None = None) -> None:
        """Adds a file of its owner's alone."""
        member = tarfile.TarInfo(name)
        member.size = _size(content) if size is None else size
        member.mode = 0o600
        reader = _Digesting(content)
        self.tar.addfile(member, cast(IO[bytes], reader))
        self.entries.append(Entry(name, member.size, reader.digest.hexdigest()))

    def add_folder(self, name: str) -> None:
        """Adds an empty folder."""
        member = tarfile.TarInfo(name)
        member.type, member.mode = tarfile.DIRTYPE, 0o700
        self.tar.addfile(member)

    def add_file(self, path: Path, name: str) -> None:
        """Adds a file as it is now; one that has been deleted meanwhile is left out."""
        try:
            with path.open("rb") as content:
                self.add(name, content)
        except FileNotFoundError:
            pass

    def add_provider(self, path: Path) -> None:
        """Adds the books of the sandbox payment provider as they are at one instant."""
        with tempfile.NamedTemporaryFile() as copy:
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy.name)) as target:
                source.backup(target)
            self.add_file(Path(copy.name), _PROVIDER)


class _Digesting:
    """A file that is digested as it is read."""

    def __init__(self, content: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._content = content

    def read(self, size: int = -1) -> bytes:
        data = self._content.read(size)
        self.digest.update(data)
        return data


def _size(content: IO[bytes]) -> int:
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    return size


def _files(folder: Path) -> Iterator[str]:
    for name in _FILES:
        if (folder / name).exists():
            yield name
    for top in _FOLDERS:
        for path in sorted((folder / top).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(folder).as_posix()


async def _write_cluster(folder: Path, archive: _Archive) -> None:
    """PostgreSQL's base backup, member by member into our archive."""
    ports = json.loads((folder / "postgres" / "ports.json").read_text())
    port, password = ports["postgres"]["used"], (folder / "postgres" / "password").read_text()
    connection = await asyncpg.connect(host=HOST, port=port, user=SUPERUSER, password=password, database=SUPERUSER)
    try:
        await connection.execute(_KEEP_LOG)
        await asyncio.to_thread(_copy_cluster, port, password, archive)
    finally:
        await connection.close()


def _copy_cluster(port: int, password: str, archive: _Archive) -> None:
    process = subprocess.Popen(
        [
            *(str(executable("pg_basebackup")), "--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast"),
            *("--manifest-checksums=SHA256", "--no-password", f"--host={HOST}", f"--port={port}", f"--username={SUPERUSER}"),
        ],
        env={"PGPASSWORD": password, "PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as cluster:
            for member in cluster:
                name = f"{_CLUSTER}/{PurePosixPath(member.name)}"
                if member.isdir():
                    archive.add_folder(name)
                elif (content := cluster.extractfile(member)) is not None:
                    archive.add(name, content, member.size)
                else:
                    raise BackupError(f"PostgreSQL's data holds {member.name}, which is neither file nor folder")
        while process.stdout.read(_CHUNK_BYTES):
            pass
        complaint = process.stderr.read().decode(errors="replace").strip()
        if process.wait() != 0:
            raise BackupError(f"PostgreSQL's base backup failed: {complaint}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@asynccontextmanager
async def _operator(folder: Path) -> AsyncIterator[Client]:
    values = stored_environment(folder)
    client = await messaging.connect(load(ProcessSettings, environment=values), load(NatsSettings, OPERATOR, values), OPERATOR)
    try:
        yield client
    finally:
        await client.close()


async def _handled(client: Client, services: Sequence[Service]) -> dict[str, int]:
    """Until which message of each device's stream every consumer has handled all."""
    js = client.jetstream(timeout=messaging.ACK_S)
    handled: dict[str, int] = {}
    for service in services:
        for each in service.consumes:
            if each.mode != "live" and each.event.device_kind:
                position = await _position(js, each.event.stream, f"{service.name}-{each.name}")
                handled[each.event.stream] = min(position, handled.get(each.event.stream, position))
    return handled


async def _position(js: JetStreamContext, stream: str, consumer: str) -> int:
    try:
        last = (await js.stream_info(stream)).state.last_seq
        found = await js.consumer_info(stream, consumer)
    except NotFoundError:
        return 0
    # One for which nothing waits has handled all that there was, also what is of no concern to it.
    is_done = not found.num_pending and not found.num_ack_pending
    return last if is_done else found.ack_floor.stream_seq if found.ack_floor is not None else 0


async def _write_told(client: Client, handled: dict[str, int], archive: _Archive) -> int:
    """What devices told and was not handled. Returns how many messages."""
    count = 0
    with tempfile.TemporaryFile() as spool:
        # First where messages come in, then where they go on to: one that moves on meanwhile is found at least once.
        for stream, after in ((device_messages.STREAM, 0), *sorted(handled.items())):
            async for message in _messages(client, stream, after):
                spool.write(json.dumps(message).encode() + b"\n")
                count += 1
        archive.add(TOLD, spool)
    return count


async def _messages(client: Client, stream: str, after: int) -> AsyncIterator[dict[str, Any]]:
    # One by one, and by no consumer: one would be a party with an interest, for which the broker's MQTT stream keeps messages.
    js = client.jetstream(timeout=messaging.ACK_S)
    try:
        last = (await js.stream_info(stream)).state.last_seq
    except NotFoundError:
        return
    position = after
    while position < last:
        try:
            found = await js.get_msg(stream, seq=position + 1, next=True)
        except NotFoundError:
            return
        position = found.seq or last
        body = base64.b64encode(found.data or b"").decode()
        yield {"subject": found.subject, "headers": found.headers or {}, "body": body}


# Restore.


def restore(source: Path | None, folder: Path) -> None:
    """Makes the platform of an archive in `folder`, which must be new or empty; from standard input without a source.

    The folder is there under its name once the archive was whole, its checksums were right, PostgreSQL has started from it, and what
    devices had told was told to the services again. Raises BackupError.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BackupError(f"{folder} is not empty: a backup is never restored over anything")
    coming = folder.with_name(f"{folder.name}.restoring")
    if coming.exists():
        raise BackupError(f"{coming} is left from a restore that was interrupted, or one runs: remove it first")
    coming.mkdir(mode=0o711, parents=True)
    (coming / "postgres").mkdir(mode=0o711)
    (coming / _CLUSTER).mkdir(mode=0o700)
    try:
        manifest = _extract(source, coming)
        _verify_cluster(coming)
        asyncio.run(_mend(coming))
        asyncio.run(_tell(coming))
        if folder.exists():
            folder.rmdir()
        coming.rename(folder)
    except (OSError, tarfile.TarError, EOFError, LocalServerError, UpError, NatsError, asyncpg.PostgresError, msgspec.DecodeError) as error:
        raise BackupError(f"nothing was restored: {error}") from error
    finally:
        shutil.rmtree(coming, ignore_errors=True)
    typer.echo(f"restored to {folder}: everything until {manifest.began_at:%Y-%m-%d %H:%M:%S} UTC. Everybody signs in again.")


def _extract(source: Path | None, folder: Path) -> Manifest:
    """Unpacks an archive; returns its manifest when everything is there and as it was written."""
    found: dict[str, Entry] = {}
    manifest: Manifest | None = None
    with _input(source) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            if manifest is not None:
                raise BackupError("the archive goes on after its end")
            path = _inside(folder, member.name)
            if member.isdir():
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            content = tar.extractfile(member)
            if content is None:
                raise BackupError(f"the archive holds {member.name}, which is neither file nor folder")
            if member.name == MANIFEST:
                manifest = msgspec.json.decode(content.read(), type=Manifest)
                continue
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            found[member.name] = _keep(content, path, member.name)
    if manifest is None:
        raise BackupError("the archive was cut off: its manifest is missing")
    if manifest.format != FORMAT:
        raise BackupError(f"the archive has format {manifest.format}, this is linli {VERSION} with format {FORMAT}")
    wrong = sorted(entry.name for entry in manifest.files if found.get(entry.name) != entry)
    if wrong or len(found) != len(manifest.files):
        raise BackupError(f"the archive is damaged: {', '.join(wrong[:5]) or 'it holds files that its manifest does not name'}")
    return manifest


@contextmanager
def _input(source: Path | None) -> Iterator[IO[bytes]]:
    if source is None:
        yield sys.stdin.buffer
        return
    with source.open("rb") as file:
        yield file


def _inside(folder: Path, name: str) -> Path:
    """Where a file of an archive goes. Raises BackupError for a name that leads anywhere else."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise BackupError(f"the archive holds a file of the name {name}")
    return folder / path


def _keep(content: IO[bytes], path: Path, name: str) -> Entry:
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
    return Entry(name, size, digest.hexdigest())


def _verify_cluster(folder: Path) -> None:
    """PostgreSQL's own look at its backup: every file by its checksum, and that the log is whole."""
    command = [str(executable("pg_verifybackup")), "--quiet", str(folder / _CLUSTER)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")})
    if checked.returncode != 0:
        raise BackupError(f"PostgreSQL does not take the backup for good: {checked.stderr.strip()}")


async def _mend(folder: Path) -> None:
    """Starts PostgreSQL on what was restored, before anybody serves on it, and mends what others remember for the services since then."""
    adopt(folder / "postgres")
    postgres = start_postgres(folder / "postgres")
    try:
        for service in catalog.find(["all"]):
            if service.migrations:
                database = await open_database(service.name, postgres.url(f"linli_{service.name}"), pool_size=1, clock=system_clock)
                try:
                    async with database.transaction(PLATFORM) as transaction:
                        await streams.forget_consumers(transaction)
                        if service.after_restore is not None:
                            await service.after_restore(transaction)
                finally:
                    await database.close()
    finally:
        postgres.stop()


async def _tell(folder: Path) -> None:
    """Starts the platform once, which gives the broker what is in the outboxes, and tells it what devices had told."""
    told = folder / TOLD
    async with local_platform(Options(folder=folder, simulator=False, demonstration=False)), _operator(folder) as client:
        publisher = messaging.Publisher(client, OPERATOR)
        with told.open(encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                await publisher.send(message["subject"], base64.b64decode(message["body"]), message["headers"])
    told.unlink()
