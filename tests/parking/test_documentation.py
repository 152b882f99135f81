"""The examples in docs/tariffs.md are tariffs, and cost what the page says."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.parking.charges import Stay, charge
from services.parking.plates import PlateKind
from services.parking.tariff import Holidays, Tariff
from services.parking.tariff_document import read_tariff

PAGE = (Path(__file__).parents[2] / "docs" / "tariffs.md").read_text(encoding="utf-8")
EXAMPLES: list[dict[str, Any]] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
SHANGHAI = ZoneInfo("Asia/Shanghai")


def tariff(example: int) -> Tariff:
    rules = EXAMPLES[example].get("rules", EXAMPLES[example])
    return read_tariff({**rules, "version": 1, "effective_from": "2026-01-01T00:00:00+08:00"})


@pytest.mark.parametrize(
    ("example", "arrival", "hours", "kind", "fen"),
    [
        (0, "2026-03-02T09:00", 0.5, PlateKind.SMALL, 0),
        (0, "2026-03-02T09:00", 1, PlateKind.SMALL, 500),
        (0, "2026-03-02T09:00", 3, PlateKind.SMALL, 500 + 2 * 300),
        (0, "2026-03-02T09:00", 3, PlateKind.NEW_ENERGY_SMALL, 880),
        (0, "2026-03-02T08:00", 13, PlateKind.SMALL, 3000),
        (0, "2026-03-02T23:00", 6, PlateKind.SMALL, 500),
        (0, "2026-03-02T08:00", 24, PlateKind.SMALL, 3800),
        (1, "2026-03-02T23:30", 1, PlateKind.SMALL, 2000),
        (2, "2026-03-02T09:00", 1, PlateKind.SMALL, 800),
        (2, "2026-03-07T09:00", 1, PlateKind.SMALL, 200),
    ],
)
def test_an_example_costs_what_the_page_says(example: int, arrival: str, hours: float, kind: PlateKind, fen: int) -> None:
    entered_at = datetime.fromisoformat(arrival).replace(tzinfo=SHANGHAI)
    stay = Stay(entered_at, kind, SHANGHAI, Holidays())
    assert charge(tariff(example), stay, entered_at + timedelta(hours=hours)).amount_fen == fen


def test_every_field_of_a_tariff_is_on_the_page() -> None:
    missing = [
        name
        for name in (
            "effective_until",
            "designated_period_except",
            "cap_amount",
            "flat_amount",
            "user_classes",
            "deducted",
            "holidays",
            *PlateKind,
        )
        if f"`{name}" not in PAGE
    ]
    assert missing == []
