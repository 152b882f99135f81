"""One machine without containers: the units in infra/systemd, carried out in a plain folder."""

import asyncio
import json
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from console.provisioning import OperatorSettings
from console.secrets import Postgres, installation, kept_in, write_folders
from console.smoke import SmokeError, smoke
from infra.local.postgres import PostgresServer, start_postgres
from servicekit.config import SECRETS_FOLDER, load
from tests.machine import units
from tests.machine.units import ANYWHERE, PROGRAMS, Machine
from tests.stand_in import StandIn, serving
from tests.support import free_address

# What a unit may do is the same for all of them, but for these.
OWN = {"Type", "ExecStart", "Environment", "EnvironmentFile", "LoadCredential", "User", "DynamicUser", "RemainAfterExit", "RemoveIPC"}
OWN |= {"StateDirectory", "StateDirectoryMode", "Restart", "RestartSec", "TimeoutStartSec", "TimeoutStopSec", "WatchdogSec", "KillMode"}
OWN |= {"LimitNOFILE", "MemoryHigh", "MemoryMax", "TasksMax", "Description", "Wants", "Requires", "After", "WantedBy"}


@dataclass(frozen=True, slots=True)
class Installed:
    """A machine on which everything of docs/machine.md has been done but the last step, and where it will listen."""

    machine: Machine
    postgres: PostgresServer
    gateway: str
    ingest: str
    ops: str

    def linli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command as root would type it."""
        environment = {**ANYWHERE, **self.machine.moved, "LINLI_SECRETS_FOLDER": str(self.machine.root / "etc/linli/secrets/operator")}
        command = [str(PROGRAMS / "linli"), *arguments]
        return subprocess.run(command, env=environment, cwd=self.machine.root, capture_output=True, text=True, timeout=60)

    def replace_password(self, name: str) -> None:
        """What `linli secrets --rotate` does."""
        folder = self.machine.root / "etc/linli/secrets"
        known = kept_in(folder)
        before = installation(known, Postgres("127.0.0.1", self.postgres.port), "")
        known.rotate(name)
        after = installation(known, Postgres("127.0.0.1", self.postgres.port), "")
        assert before != after
        write_folders(folder, after)

    def operator(self) -> OperatorSettings:
        """What the operator signs in with."""
        return load(OperatorSettings, environment={SECRETS_FOLDER: str(self.machine.root / "etc/linli/secrets/operator")})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    root = Path(tmp_path_factory.mktemp("machine"))
    postgres = start_postgres(root / "postgres", durable=False)
    addresses = {name: free_address() for name in ("gateway", "ingest", "grpc", "ops", "nats", "mqtt")}
    moved = {
        "LINLI_GATEWAY_HTTP_ADDRESS": addresses["gateway"],
        "LINLI_INGEST_HTTP_ADDRESS": addresses["ingest"],
        "LINLI_GRPC_ADDRESS": addresses["grpc"],
        "LINLI_SERVICE_ADDRESS": addresses["grpc"],
        "LINLI_OPS_ADDRESS": addresses["ops"],
        "LINLI_NATS_URL": f"nats://{addresses['nats']}",
        # Of the distribution's server the superuser is known by the account; of ours by its password.
        "LINLI_POSTGRES_URL": postgres.url(),
    }
    machine = Machine(root, moved)
    found = Installed(machine, postgres, f"http://{addresses['gateway']}", f"http://{addresses['ingest']}", addresses["ops"])
    settings = root / "etc" / "linli"
    settings.mkdir(parents=True)
    shutil.copy(units.FOLDER / "linli.env", settings)
    text = (units.FOLDER / "nats.conf").read_text().replace("127.0.0.1:4222", addresses["nats"]).replace("0.0.0.0:1883", addresses["mqtt"])
    (settings / "nats.conf").write_text(text.replace("/var/lib", str(root / "var" / "lib")))
    try:
        made = found.linli("secrets", "--folder", str(settings / "secrets"), "--postgres-port", str(postgres.port))
        assert made.returncode == 0, made.stderr
        yield found
    finally:
        machine.stop()
        postgres.stop()


def test_secrets_are_files_that_only_root_reads(installed: Installed) -> None:
    folder = installed.machine.root / "etc/linli/secrets"
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_dir()} == {0o700}


@pytest.mark.timeout(300)
def test_a_machine_is_installed_works_and_stops_in_order(installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    machine = installed.machine
    machine.start("linli-nats.service")
    machine.run("linli-provision.service")
    installed.replace_password("parking-database")
    # It gives the roles that exist their new passwords.
    for unit in ("linli-provision", "linli-migrate", "linli-bootstrap"):
        machine.run(f"{unit}.service")
    with units.notification_socket(machine.root / "notify") as told:
        process = machine.start("linli.service", NOTIFY_SOCKET=str(machine.root / "notify"), WATCHDOG_USEC="300000")
        assert told.recv(100) == b"READY=1", (machine.root / "linli.service.log").read_text()
        assert [told.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    assert installed.linli("health").returncode == 0
    tried = installed.linli("smoke", "--gateway", installed.gateway, "--ingest", installed.ingest)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    for step in ("a car comes: the gate opens", "what it owes is charged", "it is accepted"):
        assert step in tried.stdout
    asyncio.run(smoke(installed.gateway, installed.ingest, installed.operator(), ["billing"]))
    again = capsys.readouterr().out
    assert "skip          without billing" in again
    assert "what it owes is charged" not in again
    _shows_no_secret(installed)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0, (machine.root / "linli.service.log").read_text()[-2000:]


def _shows_no_secret(installed: Installed) -> None:
    """Neither arguments, the environment nor the log of what runs hold a secret: anybody on the machine reads the first, children get the
    second, and the last goes who knows where.
    """
    folder = installed.machine.root / "etc/linli/secrets"
    values = {path.read_text() for path in folder.rglob("LINLI_*") if not path.name.endswith(("_USER", "_PHONE"))}
    for unit, process in installed.machine.running.items():
        seen = psutil.Process(process.pid)
        shown = " ".join([*seen.cmdline(), *seen.environ().values(), (installed.machine.root / f"{unit}.log").read_text()])
        assert not [value for value in values if value in shown]
        assert installed.postgres.password in shown  # which this test alone hands over so


def test_smoke_names_the_step_that_fails(installed: Installed) -> None:
    silent = installed.linli("smoke", "--gateway", "http://127.0.0.1:9")
    assert silent.returncode == 1
    assert re.search(r"FAIL .* the gateway answers: ", silent.stderr)


@contextmanager
def gateway_that_breaks_at(part: str) -> Iterator[str]:
    """A gateway that has an answer for everything but the paths with `part` in them. Yields its address."""
    answer: dict[str, object] = {"access_token": "t", "refresh_token": "t", "secret": "s", "tariffs": ["t"], "sessions": []}
    answer |= {"lots": [{"name": "自检", "lot_id": "1"}], "lanes": [{"name": "out", "lane_id": "1"}]}

    class Answer(StandIn):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(503 if part in self.path else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815 (the library's names)

    with serving(Answer) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("part", "step"),
    [
        ("/v1/sign-in/", "a manager signs in"),
        ("/sessions", "no car of an earlier journey is inside"),
        ("/occupancy", "no car of an earlier journey is inside"),
    ],
)
async def test_whatever_breaks_on_the_way_is_the_failure_of_a_step(part: str, step: str) -> None:
    operator = OperatorSettings(operator_phone="13800000000", operator_password="")
    with gateway_that_breaks_at(part) as gateway, pytest.raises(SmokeError, match=f"FAIL .* {step}: .*503"):
        await smoke(gateway, gateway, operator)


@pytest.mark.parametrize("unit", units.names())
def test_units_are_sound_and_as_walled_in_as_each_other(unit: str) -> None:
    walls = [{key: lines for key, lines in units.read(name).items() if key not in OWN} for name in (unit, "linli.service")]
    assert walls[0] == walls[1]
    lines = units.read(unit)
    # Of an account that others use too, systemd would remove what they share in memory.
    assert (lines.get("DynamicUser"), lines["RemoveIPC"]) == (["yes"], ["yes"]) or (lines["User"], lines["RemoveIPC"]) == (
        ["postgres"],
        ["no"],
    )
    analyse = shutil.which("systemd-analyze")
    if analyse is None:
        return
    checked = subprocess.run([analyse, "verify", str(units.FOLDER / unit)], capture_output=True, text=True)
    # Programs are installed elsewhere than on the machine of this test.
    problems = [line for line in checked.stderr.splitlines() if "is not executable" not in line and "not found" not in line]
    assert problems == []
    scored = subprocess.run([analyse, "security", "--offline=true", str(units.FOLDER / unit)], capture_output=True, text=True)
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", scored.stdout)
    assert score is not None
    assert float(score[1]) <= 1.5


def test_the_process_has_the_credentials_of_all_services_and_no_owners(installed: Installed) -> None:
    folder = installed.machine.root / "etc/linli/secrets"
    services = {path.name for path in folder.glob("*/LINLI_*") if not path.parent.name.endswith(("-owner", "operator"))}
    owners = {path.name for path in folder.glob("*-owner/LINLI_*")}
    assert {line.partition(":")[0] for line in units.read("linli.service")["LoadCredential"]} == services
    assert {line.partition(":")[0] for line in units.read("linli-migrate.service")["LoadCredential"]} == owners
    databases = {name for name in services if name.endswith("_DATABASE_URL")}
    assert {line.partition(":")[0] for line in units.read("linli-provision.service")["LoadCredential"]} == owners | databases
