"""Generates libs/linli from proto/, and checks that it is fresh, well-formed and compatible.

`proto/accepted.binpb` is the contracts as they were last accepted: what devices, phones and other versions of our services already rely
on. Changes that break them are refused; `make contracts-accept` moves the line, on purpose and visibly in a diff.
"""

import filecmp
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROTO = ROOT / "proto"
GENERATED = ("linli", "buf")
ACCEPTED = PROTO / "accepted.binpb"
DESCRIPTORS = Path("linli") / "descriptors.binpb"
SCRIPTS = Path(sysconfig.get_path("scripts"))


def generate(target: Path) -> None:
    """Writes the Python modules, their type stubs and the descriptor set with its comments under `target`."""
    ours = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("linli/**/*.proto"))
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{PROTO / 'third_party'}"]
    plugin = f"--plugin=protoc-gen-mypy={SCRIPTS / 'protoc-gen-mypy'}"
    _run([*protoc, plugin, f"--python_out={target}", f"--mypy_out=quiet:{target}", "buf/validate/validate.proto", *ours])
    _run([*protoc, f"--descriptor_set_out={target / DESCRIPTORS}", "--include_imports", "--include_source_info", *ours])


def check() -> None:
    """Lints the contracts, compares them with the accepted ones, and the generated code with a fresh generation; exits when one is off."""
    _run([str(SCRIPTS / "buf"), "lint"])
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        # Two images are compared: buf does not compare a workspace of two modules with an image of it.
        present = str(fresh / "present.binpb")
        _run([str(SCRIPTS / "buf"), "build", "--output", present])
        _run([str(SCRIPTS / "buf"), "breaking", present, "--config", "buf.yaml", "--against", str(ACCEPTED)])
        generate(fresh)
        stale = [name for name in GENERATED if _differs(fresh / name, ROOT / "libs" / name)]
    if stale:
        sys.exit(f"libs/{', libs/'.join(stale)} is stale: run `make proto`")


def accept() -> None:
    """Makes the present contracts the accepted ones."""
    _run([str(SCRIPTS / "buf"), "build", "--output", str(ACCEPTED)])


def _files(folder: Path) -> dict[Path, Path]:
    return {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def _differs(fresh: Path, present: Path) -> bool:
    new, old = _files(fresh), _files(present)
    return new.keys() != old.keys() or any(not filecmp.cmp(new[name], old[name], shallow=False) for name in new)


def _run(command: list[str]) -> None:
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit(f"failed: {Path(command[0]).name} {' '.join(command[1:3])}")


def _replace() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        for name in GENERATED:
            old = _files(ROOT / "libs" / name) if (ROOT / "libs" / name).exists() else {}
            new = _files(fresh / name)
            for relative in old.keys() - new.keys():
                old[relative].unlink()
            for relative, path in new.items():
                target = ROOT / "libs" / name / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())


if __name__ == "__main__":
    {"generate": _replace, "check": check, "accept": accept}[sys.argv[1]]()
