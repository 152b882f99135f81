"""Programs that checks need: those on PATH in a fitting version, and ours otherwise."""

from pathlib import Path

import pytest

from tools import programs


def _install(folder: Path, version: str) -> Path:
    program = folder / "helm"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(("version", "is_used"), [("v4.9.1+gabc", True), ("v3.9.0+gabc", False), ("v5.0.0", False), ("unknown", False)])
def test_a_program_on_the_path_is_used_when_its_version_fits(
    version: str, is_used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = _install(tmp_path, version)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    # Past what was found before.
    assert programs.find.__wrapped__("helm") == (installed if is_used else programs.FOLDER / "helm")
