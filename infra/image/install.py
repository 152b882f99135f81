"""Installs the platform into a folder of its own, from wheels alone and without a network: `python3 install.py /linli wheels lock`.

Runs on the bare interpreter of the image's base, so it imports nothing that has to be installed. The same wheels give the same bytes:
everything has the modification time SOURCE_DATE_EPOCH, and bytecode names its source by a hash, which nobody checks, and not by its time.
"""

import os
import shutil
import subprocess
import sys
import venv
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_INSTALLERS = ("pip", "setuptools")
_OWN = ("console", "infra", "ledger", "linli", "servicekit", "services")
# The lock is complete, so nothing else is looked for; bytecode comes later.
_OFFLINE = ("--no-index", "--no-deps", "--only-binary", ":all:", "--no-compile", "--no-cache-dir", "--quiet")
FOR_COMPILERS = (".a", ".c", ".h", ".pxd", ".pyi", ".pyx")
_LOADED = """
import sys
from console import catalog
catalog.find(["all"])
print(*sorted({module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)}), sep="\\n")
"""


def install(folder: Path, wheels: Path, lock: Path, epoch: int) -> None:
    """Makes `folder` an environment of the lock's packages and Linli, all as old as `epoch`, in seconds.

    Raises subprocess.CalledProcessError when a wheel is missing or not the one that the lock names, FileNotFoundError when Linli's own or
    binutils' strip is.
    """
    own, strip = next(wheels.glob("linli-*.whl"), None), shutil.which("strip")
    if own is None or strip is None:
        raise FileNotFoundError(f"no wheel of Linli in {wheels}" if own is None else "strip, which is part of binutils")
    venv.create(folder, with_pip=True, symlinks=True)
    # Isolated: neither the builder's configuration nor its environment changes what is installed.
    pip = ("-m", "pip", "--isolated", "--disable-pip-version-check")
    _python(folder, *pip, "install", *_OFFLINE, "--find-links", wheels, "--require-hashes", "--requirement", lock)
    _python(folder, *pip, "install", *_OFFLINE, "--find-links", wheels, f"linli=={own.name.split('-')[1]}")
    _python(folder, *pip, "uninstall", "--quiet", "--yes", *_INSTALLERS)
    (packages,) = folder.glob("lib/python3*/site-packages")
    _leave_out(packages, strip)
    _compile(folder, packages)
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def _leave_out(packages: Path, strip: str) -> None:
    """Removes what packages bring for those who develop with them, and what bytecode there is."""
    for folder in [*packages.glob("*/**/tests"), *packages.rglob("__pycache__")]:
        shutil.rmtree(folder, ignore_errors=True)  # One may lie within another.
    for file in packages.rglob("*"):
        if file.suffix in FOR_COMPILERS:
            file.unlink()
    # Extension modules only: wheels' copies of libraries have been patched in a way that not every strip leaves sound.
    subprocess.run([strip, "--strip-debug", *sorted(packages.rglob(f"*{EXTENSION_SUFFIXES[0]}"))], check=True)


def _compile(folder: Path, packages: Path) -> None:
    """Compiles our own modules, and of others what services import.

    The root is read-only, so what has no bytecode is compiled at each start; and bytecode that is never read would be a tenth of the image.
    """
    loaded = _python(folder, "-B", "-c", _LOADED).splitlines()
    own = [str(path) for name in _OWN for path in (packages / name).rglob("*.py")]
    files = sorted({*own, *(file for file in loaded if file.endswith(".py") and Path(file).is_relative_to(packages))})
    # In a process of its own: what a process did before leaves traces in the bytecode that it writes.
    _python(folder, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-i", "-", given="\n".join(files))


def _python(folder: Path, *arguments: str | Path, given: str | None = None) -> str:
    command = [folder / "bin" / "python", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(command, input=given, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    install(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(os.environ["SOURCE_DATE_EPOCH"]))
