"""The last step of the image's build: takes from the base what no running service needs, and proves that what it needs is there.

Runs as root on the finished file system, in the environment that services run in.
"""

import importlib.util
import os
import shutil
import ssl
import sys
import sysconfig
import zoneinfo
from collections.abc import Iterator
from pathlib import Path

_INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "ensurepip")
_MODULES = ("lib/python3*", "lib/python3*/site-packages", "lib/python3*/dist-packages")


def installers(prefix: Path) -> Iterator[Path]:
    """What can install packages below a prefix of Python: modules, their metadata, their programs, the wheels that they unpack."""
    for pattern in _MODULES:
        for folder in prefix.glob(pattern):
            for name in _INSTALLERS:
                yield from folder.glob(name)
                yield from folder.glob(f"{name}-*.dist-info")
    yield from (prefix / "share").glob("python-wheels")
    for name in ("pip", "pip3*"):
        yield from (prefix / "bin").glob(name)


def remove(paths: Iterator[Path], epoch: int) -> None:
    """Removes them; the folders that held them are as old as `epoch`, as everything in the image is."""
    for path in list(paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        os.utime(path.parent, (epoch, epoch))


def check() -> None:
    """Raises RuntimeError, or what the lack of it raises, when something is missing that no package of Python brings."""
    zoneinfo.ZoneInfo("Asia/Shanghai")
    if not ssl.create_default_context().get_ca_certs():
        raise RuntimeError("the base has no CA certificates")
    if not os.access(Path(sysconfig.get_path("scripts")) / "dbmate", os.X_OK):
        raise RuntimeError("dbmate is missing: no migration could run")
    if left := [name for name in _INSTALLERS if importlib.util.find_spec(name)]:
        raise RuntimeError(f"{', '.join(left)} can still be imported")


if __name__ == "__main__":
    remove(installers(Path(sys.base_prefix)), int(os.environ["SOURCE_DATE_EPOCH"]))
    check()
