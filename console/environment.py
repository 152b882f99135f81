"""What `linli up` leaves in its data folder for the commands that look at it: the settings of its processes, and one-time codes."""

import json
from collections.abc import Mapping
from pathlib import Path

from services.identity import code_senders

ENVIRONMENT, CODES = "environment.json", "codes.jsonl"


def stored_environment(folder: Path) -> Mapping[str, str]:
    """The settings of the last start; empty when there was none."""
    try:
        values: dict[str, str] = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        return values
    except FileNotFoundError:
        return {}


def newest_code(folder: Path, phone: str) -> str | None:
    """The newest one-time code that the development sender wrote for a phone."""
    return code_senders.newest_code(folder / CODES, phone)
