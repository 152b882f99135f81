"""What `linli up` shows: a live table in a terminal, nothing in between otherwise."""

import json
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

_LATENCIES_KEPT = 2000
_EVENTS_SHOWN = 12
_COLUMNS = ("cars in", "cars out", "inside", "fees, yuan", "gates opened", "turned away", "readings", "decision p50 ms", "p99 ms")
_TEXTS = {
    "car_in": "in",
    "car_out": "out",
    "paid": "paid",
    "gate_opened": "gate opened",
    "turned_away": "turned away",
    "stuck": "waits at the barrier",
    "trouble": "trouble",
}


@dataclass(slots=True)
class Figures:
    """Counts of what the simulator reported."""

    counts: dict[str, int] = field(default_factory=dict)
    fen: int = 0
    readings: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES_KEPT))
    events: deque[str] = field(default_factory=lambda: deque(maxlen=_EVENTS_SHOWN))

    def take(self, line: str) -> None:
        """Counts one JSON line of the simulator; other lines are ignored."""
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            return
        kind = str(event.get("kind", ""))
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind == "decision":
            self.latencies_ms.append(float(event["milliseconds"]))
        elif kind == "paid":
            self.fen += int(event["fen"])
        elif kind == "readings":
            self.readings += int(event["count"])
        if kind in _TEXTS:
            amount = f" {int(event['fen']) / 100:.2f} yuan" if kind == "paid" else ""
            at = datetime.fromisoformat(event["at"]).astimezone()  # the clock on the reader's wall
            self.events.append(f"{at:%H:%M:%S}  {event.get('plate') or event.get('lane', '')}  {_TEXTS[kind]}{amount}")

    def percentile_ms(self, percent: int) -> str:
        """The decisions' percentile over the last two thousand, in milliseconds."""
        if not self.latencies_ms:
            return "-"
        ordered = sorted(self.latencies_ms)
        return f"{ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]:.1f}"

    def render(self) -> Group:
        """The table as rich draws it."""
        table = Table(title="邻里示范小区 · live")
        for column in _COLUMNS:
            table.add_column(column, justify="right")
        entered, left = self.counts.get("car_in", 0), self.counts.get("car_out", 0)
        table.add_row(
            str(entered),
            str(left),
            str(entered - left),
            f"{self.fen / 100:.2f}",
            str(self.counts.get("gate_opened", 0)),
            str(self.counts.get("turned_away", 0)),
            str(self.readings),
            self.percentile_ms(50),
            self.percentile_ms(99),
        )
        return Group(table, Text("\n".join(self.events)), Text("Ctrl-C stops everything; data are kept.", style="dim"))
