"""The local PostgreSQL server: what it keeps, what it recovers from, and what it says when it cannot start."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from infra.local.postgres import PostgresServer, start_postgres
from infra.local.process import LocalServerError, account_for, spawn

Start = Callable[..., PostgresServer]
Sql = Callable[[PostgresServer, str], list[Any]]


def test_a_second_run_continues_with_the_data_and_the_address_of_the_first(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    first = postgres(tmp_path)
    sql(first, "CREATE TABLE plate AS SELECT '京A12345' AS number")
    first.stop()

    second = postgres(tmp_path)

    assert second.url() == first.url()
    assert sql(second, "SELECT number FROM plate") == ["京A12345"]


def test_the_server_speaks_utf8_and_utc_and_keeps_commits_on_disk(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    server = postgres(tmp_path)

    for name, value in {
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "fsync": "on",
        "synchronous_commit": "on",
        "listen_addresses": "127.0.0.1",
        "max_connections": "200",
    }.items():
        assert sql(server, f"SHOW {name}") == [value]
    assert sql(server, "SELECT lower('ÄÖ')") == ["äö"]
    assert sql(server, "SELECT datlocale FROM pg_database") == ["C.UTF-8"] * 3


def test_a_server_for_tests_does_not_wait_for_the_disk(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    server = postgres(tmp_path, durable=False)

    assert [sql(server, f"SHOW {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")] == [["off"]] * 3


def test_nobody_enters_without_the_password_which_only_its_owner_can_read(tmp_path: Path, postgres: Start) -> None:
    server = postgres(tmp_path)

    for password in ("guess", ""):
        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(asyncpg.connect(host=server.host, port=server.port, user="postgres", password=password, passfile=""))
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600
    assert server.password not in " ".join(psutil.Process(server.pid).cmdline())
    assert server.password not in repr(server)


def test_a_taken_port_is_left_to_its_holder_and_the_one_found_instead_is_kept(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        asked = holder.getsockname()[1]
        server = postgres(tmp_path, port=asked)
        used = server.port
        assert used != asked
        assert sql(server, "SELECT 1") == [1]
        server.stop()

    assert postgres(tmp_path, port=asked).port == used


def test_what_was_committed_is_there_after_a_crash(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    server = postgres(tmp_path)
    sql(server, "CREATE TABLE entry AS SELECT 42 AS fen")
    address = server.url()

    server.kill()
    with pytest.raises(OSError, match="Connect call failed"):
        sql(server, "SELECT 1")
    server.restart()

    assert server.url() == address
    assert sql(server, "SELECT fen FROM entry") == [42]


def test_a_postmaster_killed_by_somebody_else_leaves_no_busy_child_in_the_way_of_a_restart(
    tmp_path: Path, postgres: Start, sql: Sql
) -> None:
    server = postgres(tmp_path)
    assert server.pid is not None
    postmaster = psutil.Process(server.pid)

    async def kill_under_a_running_statement() -> None:
        connection = await asyncpg.connect(server.url())
        busy = connection.get_server_pid()
        endless = asyncio.create_task(connection.fetch("SELECT count(*) FROM generate_series(1, 1e12::bigint)"))
        await asyncio.to_thread(wait_until, lambda: "SELECT" in " ".join(psutil.Process(busy).cmdline()))
        postmaster.kill()
        began = time.monotonic()
        server.restart()
        assert time.monotonic() - began < 5
        assert not psutil.pid_exists(busy) or psutil.Process(busy).status() == psutil.STATUS_ZOMBIE
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await endless
        connection.terminate()

    asyncio.run(kill_under_a_running_statement())

    assert sql(server, "SELECT 1") == [1]


def wait_until(condition: Callable[[], bool], seconds_max: float = 10) -> None:
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_number_left_behind_and_used_by_somebody_else_is_no_obstacle(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    server = postgres(tmp_path)
    server.kill()
    account = account_for(tmp_path / "data")
    somebody = spawn(["/bin/sleep", "60"], tmp_path, account, subprocess.DEVNULL, signal.SIGKILL)
    left_behind = tmp_path / "data" / "postmaster.pid"
    left_behind.write_text("\n".join([str(somebody.pid), *left_behind.read_text().splitlines()[1:]]))

    server.restart()

    assert sql(server, "SELECT 1") == [1]
    assert somebody.poll() is None
    somebody.kill()
    somebody.wait()


def test_an_interrupted_first_start_is_begun_anew(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new" / "PG_VERSION").write_text("18\n")

    assert sql(postgres(tmp_path), "SELECT 1") == [1]


def test_a_folder_in_use_is_refused_with_the_number_of_the_process_that_has_it(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    server = postgres(tmp_path)

    with pytest.raises(LocalServerError, match=f"in use by process {os.getpid()}"):
        start_postgres(tmp_path)

    assert sql(server, "SELECT 1") == [1]


def test_a_start_that_fails_shows_the_end_of_the_log_and_leaves_the_folder_free(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    postgres(tmp_path).stop()
    settings = tmp_path / "data" / "postgresql.auto.conf"
    good = settings.read_text()
    settings.write_text("shared_buffers = plenty\n")

    with pytest.raises(LocalServerError, match=r'server\.log ends with:\n(.*\n)*.*shared_buffers": "plenty"'):
        start_postgres(tmp_path)

    settings.write_text(good)
    assert sql(postgres(tmp_path), "SELECT 1") == [1]


def test_a_path_with_spaces_quotes_and_chinese_characters_is_fine(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    assert sql(postgres(tmp_path / 'it\'s 邻里 "$HOME" 数据 %s\\n'), "SELECT 1") == [1]


def test_a_long_path_is_fine_up_to_what_postgresql_takes_and_refused_beyond(tmp_path: Path, postgres: Start, sql: Sql) -> None:
    room = 895 - len(bytes(tmp_path))
    folder = tmp_path.joinpath(*["d" * 99] * (room // 100), "d" * (room % 100 - 1))

    assert sql(postgres(folder), "SELECT 1") == [1]
    with pytest.raises(LocalServerError, match="longer than 900 bytes"):
        start_postgres(folder / "and" / "on")


def test_a_relative_path_is_fine(tmp_path: Path, postgres: Start, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server = postgres(Path(".linli/postgres"))
    monkeypatch.chdir("/")
    server.restart()

    assert sql(server, "SELECT 1") == [1]
