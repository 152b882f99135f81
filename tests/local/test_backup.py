"""Archives: what is cut off, damaged or leads elsewhere is refused, and PostgreSQL's own part of one starts again.

The whole platform is backed up and restored in `tests/drills/test_restores.py`.
"""

import asyncio
import io
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from console import backup
from console.backup import FORMAT, MANIFEST, BackupError, Manifest
from infra.local.postgres import PostgresServer, adopt

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def archive(file: Path, *, ends: bool = True, names: tuple[str, ...] = ("secrets.json", "images/a.jpg"), **manifest: Any) -> Path:
    """A small archive."""
    with file.open("wb") as out, tarfile.open(fileobj=out, mode="w|") as tar:
        written = backup._Archive(tar)
        for name in names:
            written.add(name, io.BytesIO(name.encode() * 1000))
        if ends:
            fields = {"format": FORMAT, "version": "0", "began_at": NOW, "ended_at": NOW, "told": 0, "files": written.entries, **manifest}
            written.add(MANIFEST, io.BytesIO(msgspec.json.encode(Manifest(**fields))))
    return file


def test_an_archive_is_unpacked_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    manifest = backup._extract(archive(tmp_path / "whole.tar"), tmp_path / "out")
    assert [entry.name for entry in manifest.files] == ["secrets.json", "images/a.jpg"]
    assert (tmp_path / "out" / "images" / "a.jpg").read_bytes() == b"images/a.jpg" * 1000
    assert (tmp_path / "out" / "secrets.json").stat().st_mode & 0o777 == 0o600


def damaged(file: Path) -> Path:
    """One bit in the middle of a picture is another."""
    content = bytearray(archive(file).read_bytes())
    content[content.index(b"images/a.jpg" * 100) + 500] ^= 1
    file.write_bytes(content)
    return file


def cut(file: Path) -> Path:
    """The disk was full in the middle of a file."""
    content = archive(file).read_bytes()
    file.write_bytes(content[: content.index(b"images/a.jpg" * 100) + 500])
    return file


def with_more(file: Path) -> Path:
    """Somebody has put a file in."""
    return archive(file, files=[])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (cut, "unexpected end of data"),
        (lambda file: archive(file, ends=False), "cut off: its manifest is missing"),
        (damaged, r"damaged: images/a\.jpg"),
        (with_more, "its manifest does not name"),
        (lambda file: archive(file, names=("../elsewhere",)), "a file of the name"),
        (lambda file: archive(file, names=("/etc/elsewhere",)), "a file of the name"),
        (lambda file: archive(file, format=FORMAT + 1), f"has format {FORMAT + 1}"),
        (archive, "PostgreSQL does not take the backup for good"),
    ],
)
def test_what_is_not_whole_is_refused_and_leaves_nothing_behind(make: Callable[[Path], Path], why: str, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=why):
        backup.restore(make(tmp_path / "a.tar"), tmp_path / "platform")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_backup_is_restored_over_nothing_and_written_over_nothing(tmp_path: Path) -> None:
    whole = archive(tmp_path / "whole.tar")
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "secrets.json").touch()
    with pytest.raises(BackupError, match="is not empty"):
        backup.restore(whole, tmp_path / "platform")
    with pytest.raises(BackupError, match="exists already"):
        backup.back_up(tmp_path / "platform", whole)
    with pytest.raises(BackupError, match="no platform runs"):
        backup.back_up(tmp_path / "platform", tmp_path / "new.tar")
    assert not (tmp_path / "new.tar").exists()


def test_an_archive_is_for_its_owner_alone_from_its_first_byte(tmp_path: Path) -> None:
    whole, unfinished = tmp_path / "a.tar", tmp_path / "a.tar.part"
    with backup._output(whole) as out:
        assert unfinished.stat().st_mode & 0o777 == 0o600
        assert not whole.exists()
        out.write(b"passwords of everybody")
    assert whole.read_bytes() == b"passwords of everybody"
    assert not unfinished.exists()


def test_two_backups_do_not_write_one_archive_and_one_that_fails_leaves_none(tmp_path: Path) -> None:
    with backup._output(tmp_path / "a.tar"):
        with pytest.raises(FileExistsError), backup._output(tmp_path / "a.tar"):
            pass
        assert (tmp_path / "a.tar.part").exists()
    with pytest.raises(ValueError, match="half of it"), backup._output(tmp_path / "b.tar"):
        raise ValueError("half of it")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


async def test_a_base_backup_under_writes_starts_again_with_all_that_was_committed_before_it(
    postgres: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    server = postgres(tmp_path / "one" / "postgres")
    connection = await asyncpg.connect(server.url())
    await connection.execute("CREATE TABLE kept AS SELECT number FROM generate_series(1, 10000) AS number")

    async def write() -> None:
        for number in range(10_001, 1_000_000):
            await connection.execute("INSERT INTO kept VALUES ($1)", number)

    writing = asyncio.create_task(write())
    with (tmp_path / "a.tar").open("wb") as out, tarfile.open(fileobj=out, mode="w|") as tar:
        await backup._write_cluster(tmp_path / "one", backup._Archive(tar))
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await connection.close()

    again = tmp_path / "again"
    (again / "postgres" / "data").mkdir(parents=True, mode=0o700)
    (again / "postgres").chmod(0o711)
    with tarfile.open(tmp_path / "a.tar") as tar:
        tar.extractall(again, filter="data")
    backup._verify_cluster(again)
    (again / "postgres" / "password").write_text(server.password)
    (again / "postgres" / "data").chmod(0o700)
    adopt(again / "postgres")
    restored = postgres(again / "postgres")
    connection = await asyncpg.connect(restored.url())
    numbers = await connection.fetchval("SELECT count(*) FROM kept")
    assert numbers == await connection.fetchval("SELECT max(number) FROM kept") >= 10_000
    # The slot that kept the log is gone with the backup.
    assert await connection.fetchval("SELECT count(*) FROM pg_replication_slots") == 0
    await connection.close()
