"""The doctor finds what keeps the local servers from starting, and says what to do about it."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local import doctor
from infra.local import nats as nats_module
from infra.local import postgres as postgres_module
from infra.local import process as process_module
from infra.local.doctor import Finding, diagnose
from infra.local.nats import NatsServer
from infra.local.postgres import PostgresServer

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")


def the_only_problem(findings: list[Finding]) -> Finding:
    (problem,) = [finding for finding in findings if not finding.ok]
    assert problem.detail
    assert problem.remedy
    return problem


def finding(name: str, findings: list[Finding]) -> Finding:
    (found,) = [each for each in findings if each.name == name]
    return found


def test_where_all_is_well_nothing_is_to_be_done_and_nothing_is_changed(tmp_path: Path) -> None:
    findings = diagnose(tmp_path / "new" / ".linli", {})

    assert all(each.ok and each.detail and not each.remedy for each in findings)
    assert "18." in finding("PostgreSQL", findings).detail
    assert "2.15" in finding("NATS", findings).detail
    assert list(tmp_path.iterdir()) == []


def test_it_names_the_process_that_holds_a_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        problem = the_only_problem(diagnose(tmp_path, {"gateway": port}))

    assert problem.name == "port of gateway"
    assert f"({os.getpid()})" in problem.detail


def test_ports_of_our_own_running_servers_are_no_problem(
    tmp_path: Path, postgres: Callable[..., PostgresServer], nats: Callable[..., NatsServer]
) -> None:
    ports = {"postgres": postgres(tmp_path / "postgres").port, "nats": nats(tmp_path / "nats").port}

    findings = diagnose(tmp_path, ports)

    assert all(each.ok for each in findings)
    assert "this installation" in finding("port of postgres", findings).detail
    assert str(os.getpid()) in finding("lock of nats", findings).detail


def test_after_a_stop_the_lock_and_the_ports_are_free(tmp_path: Path, nats: Callable[..., NatsServer]) -> None:
    server = nats(tmp_path / "nats")
    server.stop()

    findings = diagnose(tmp_path, {"nats": server.port})

    assert all(each.ok for each in findings)
    assert finding("lock of nats", findings).detail == "no server runs in this folder"


def test_a_server_left_behind_by_a_crashed_run_is_found(tmp_path: Path, nats: Callable[..., NatsServer]) -> None:
    nats(tmp_path / "nats").stop()
    left = subprocess.Popen([nats_module.executable(), "-c", "../nats.conf"], cwd=tmp_path / "nats" / "data", stderr=subprocess.PIPE)
    assert left.stderr
    left.stderr.readline()

    problem = the_only_problem(diagnose(tmp_path, {}))
    nats(tmp_path / "nats")

    assert problem.name == "lock of nats"
    assert f"nats-server ({left.pid})" in problem.detail
    assert left.wait(10) is not None
    left.stderr.close()


def test_a_folder_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    problem = finding("folder", diagnose(tmp_path / "file" / ".linli", {}))

    assert not problem.ok
    assert "Not a directory" in problem.detail
    assert problem.remedy


@as_root
def test_a_folder_of_another_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)

    problem = finding("folder", diagnose(tmp_path, {}))

    assert not problem.ok
    assert "belongs to root" in problem.detail


def test_a_path_too_long_for_postgresql_is_found(tmp_path: Path) -> None:
    problem = the_only_problem(diagnose(tmp_path.joinpath(*["d" * 99] * 9), {}))

    assert problem.name == "folder"
    assert "900" in problem.detail


def test_a_disk_that_is_nearly_full_is_found(tmp_path: Path) -> None:
    problem = the_only_problem(diagnose(tmp_path, {}, disk_bytes_min=1 << 60))

    assert problem.name == "disk"
    assert "MiB" in problem.remedy


def test_little_shared_memory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("this system has no folder for shared memory")
    monkeypatch.setattr(doctor, "SHARED_MEMORY_BYTES_MIN", 1 << 60)

    assert the_only_problem(diagnose(tmp_path, {})).name == "shared memory"


def test_an_old_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PYTHON_MIN", (99, 0))

    problem = the_only_problem(diagnose(tmp_path, {}))

    assert problem.name == "python"
    assert "99.0" in problem.remedy


def test_programs_that_are_missing_or_do_not_run_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "nats-server"
    broken.write_bytes(b"\x7fELF for another machine")
    broken.chmod(0o755)
    monkeypatch.setattr(nats_module, "executable", lambda: broken)
    monkeypatch.setattr(postgres_module, "executable", lambda name: tmp_path / "missing" / name)

    findings = diagnose(tmp_path, {})

    assert "Exec format error" in finding("NATS", findings).detail
    assert "No such file" in finding("PostgreSQL", findings).detail
    assert "install" in finding("NATS", findings).remedy


@as_root
def test_root_without_an_account_to_run_as_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "ACCOUNTS", ("no-such-account",))
    monkeypatch.delenv("SUDO_USER", raising=False)

    problem = the_only_problem(diagnose(tmp_path, {}))

    assert problem.name == "account"
    assert "no-such-account" in problem.detail


def test_it_speaks_chinese(tmp_path: Path) -> None:
    problem = the_only_problem(diagnose(tmp_path, {}, language="zh", disk_bytes_min=1 << 60))

    assert "剩余" in problem.detail
    assert "请清理磁盘" in problem.remedy
