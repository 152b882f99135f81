"""What systemd would do with our units, as far as a plain folder can show it: their commands, environment and credentials."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "infra" / "systemd"
PROGRAMS = Path(sys.executable).parent
# What programs find anywhere; nothing else of the tests' own environment reaches them.
ANYWHERE = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ} | {"LANG": "C.UTF-8"}


def read(name: str) -> dict[str, list[str]]:
    """A unit's lines by their key; an empty value forgets those before it, as in systemd."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[key] = [*found.get(key, []), value] if value else []
    return found


def names() -> list[str]:
    """All units."""
    return sorted(path.name for path in FOLDER.glob("*.service"))


@dataclass(slots=True)
class Machine:
    """A folder that stands for the root of a machine; `moved` are settings that differ because ports and servers are not the usual ones."""

    root: Path
    moved: Mapping[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def credentials(self, unit: str) -> Path:
        """A fresh folder with what the unit loads and nothing else."""
        folder = self.root / "run" / "credentials" / unit
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for line in read(unit)["LoadCredential"]:
            name, _, path = line.partition(":")
            shutil.copy(self.root / path.lstrip("/"), folder / name)
        return folder

    def environment(self, unit: str) -> dict[str, str]:
        """What the unit's commands find."""
        lines, values = read(unit), dict(ANYWHERE)
        for file in lines.get("EnvironmentFile", []):
            text = (self.root / file.lstrip("/")).read_text(encoding="utf-8")
            values |= dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
        for line in lines.get("Environment", []):
            values |= dict([self._specified(unit, line).split("=", 1)])
        return {**values, **self.moved}

    def _specified(self, unit: str, text: str) -> str:
        return text.replace("%d", str(self.root / "run" / "credentials" / unit)).replace("%S", str(self.root / "var" / "lib"))

    def commands(self, unit: str) -> list[list[str]]:
        """The unit's commands, with our programs in the place of the installed ones."""
        for state in read(unit).get("StateDirectory", []):
            (self.root / "var" / "lib" / state).mkdir(parents=True, exist_ok=True)
        lines = [shlex.split(self._specified(unit, line)) for line in read(unit)["ExecStart"]]
        return [[program.replace("/opt/linli/bin", str(PROGRAMS)), *arguments] for program, *arguments in lines]

    def run(self, unit: str) -> None:
        """A oneshot unit, to its end. Fails when a command does."""
        self.credentials(unit)
        for command in self.commands(unit):
            done = subprocess.run(command, env=self.environment(unit), capture_output=True, text=True, cwd=self.root, timeout=60)
            assert done.returncode == 0, f"{unit}: {done.stdout}{done.stderr}"

    def start(self, unit: str, **environment: str) -> subprocess.Popen[bytes]:
        """A unit that stays, its output in a log."""
        self.credentials(unit)
        (command,) = self.commands(unit)
        with (self.root / f"{unit}.log").open("ab") as log:
            process = subprocess.Popen(command, env={**self.environment(unit), **environment}, stdout=log, stderr=log, cwd=self.root)
        self.running[unit] = process
        return process

    def stop(self) -> None:
        """Ends what still runs."""
        for process in reversed(self.running.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def notification_socket(path: Path) -> socket.socket:
    """Where a unit of `Type=notify` says how it is."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    listener.settimeout(60)
    return listener
