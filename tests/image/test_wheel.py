"""What the wheel holds, of which the image and every other installation is made."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_all_that_services_read_while_they_run(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    read = [
        *ROOT.glob("services/*/migrations/*.sql"),
        *ROOT.glob("services/gateway/swagger_ui/*"),
        *ROOT.glob("libs/*/migrations/*.sql"),
        *ROOT.glob("libs/linli/**/*_pb2.py"),
        ROOT / "libs" / "linli" / "descriptors.binpb",
    ]
    assert len(read) > 50
    assert {str(file.relative_to(ROOT)).removeprefix("libs/") for file in read} - held == set()


def test_the_wheel_holds_nothing_else_than_code_and_what_it_reads(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    others = [name for name in names if Path(name).suffix not in (".py", ".sql", ".binpb", ".typed") and "/swagger_ui/" not in name]
    assert others == []
    assert {name.partition("/")[0] for name in names} == {"buf", "console", "infra", "ledger", "linli", "servicekit", "services"}
    assert [name for name in names if "test" in Path(name).name or "/tests/" in name] == []
