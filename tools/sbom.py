"""The bill of materials of what services run on, in CycloneDX: `python -m tools.sbom dist/wheels dist/linli.cdx.json`.

cyclonedx-py tells what this environment holds and under which licences. Here that is cut down to the wheels that an image is made of,
each with its hash, and with the programs that wheels bring. What the image's base holds is the base's own bill.
"""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"
_VERSION = SchemaVersion.V1_6
# Where a package says its licence only in words of its own.
_LICENCES = {"aiomqtt": "BSD-3-Clause", "protobuf": "BSD-3-Clause", "reportlab": "BSD-3-Clause"}
# Programs that are known by other names than the wheels that bring them.
_PROGRAMS = {"dbmate": "pkg:golang/github.com/amacneil/dbmate/v2"}
Json = dict[str, Any]


class BillError(Exception):
    """The environment does not hold what the wheels say, or the bill is not CycloneDX."""


def bill(wheels: Path) -> Json:
    """The bill of a folder of wheels, which this environment has installed. Its time is SOURCE_DATE_EPOCH. Raises BillError."""
    files = {canonicalize_name(parse_wheel_filename(file.name)[0]): file for file in sorted(wheels.glob("*.whl"))}
    document = _environment()
    root = document["metadata"]["component"]
    own = files.pop(canonicalize_name(root["name"]))
    root["hashes"] = _hashes(own.read_bytes())
    installed = {canonicalize_name(component["name"]): component for component in document["components"]}
    components = [_component(file, installed.get(name)) for name, file in sorted(files.items())]
    kept = {root["bom-ref"], *(component["bom-ref"] for component in components)}
    document["components"] = components
    document["dependencies"] = [
        {**entry, "dependsOn": [reference for reference in entry.get("dependsOn", []) if reference in kept]}
        for entry in document["dependencies"]
        if entry["ref"] in kept
    ]
    if errors := make_schemabased_validator(OutputFormat.JSON, _VERSION).validate_str(render(document)):
        raise BillError(str(errors))
    return document


def render(document: Json) -> str:
    """The document as text, always the same for the same bill."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _environment() -> Json:
    command = ["-m", "cyclonedx_py", "environment", "--output-reproducible", "--no-validate", "--sv", _VERSION.to_version()]
    command += ["--pyproject", str(PYPROJECT), "--output-file", "-", sys.executable]
    document: Json = json.loads(subprocess.run([sys.executable, *command], check=True, capture_output=True).stdout)
    return document


def _component(wheel: Path, installed: Json | None) -> Json:
    version = str(parse_wheel_filename(wheel.name)[1])
    if installed is None or installed["version"] != version:
        raise BillError(f"{wheel.name} is not what is installed here: `make wheels` brings what the lock names")
    programs = list(_programs(wheel, version))
    component = {**installed, "hashes": _hashes(wheel.read_bytes())}
    if licence := _LICENCES.get(canonicalize_name(installed["name"])):
        component["licenses"] = [{"license": {"id": licence, "acknowledgement": "concluded"}}]
    return {**component, "components": programs} if programs else component


def _programs(wheel: Path, version: str) -> Iterator[Json]:
    with zipfile.ZipFile(wheel) as archive:
        for path in sorted(archive.namelist()):
            folder, _, name = path.rpartition("/")
            if folder.endswith(".data/scripts") and name in _PROGRAMS:
                yield {
                    "type": "application",
                    "bom-ref": f"{name}=={version}",
                    "name": name,
                    "version": version,
                    "purl": f"{_PROGRAMS[name]}@v{version}",
                    "hashes": _hashes(archive.read(path)),
                }


def _hashes(data: bytes) -> list[Json]:
    return [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(render(bill(Path(sys.argv[1]))), encoding="utf-8")
