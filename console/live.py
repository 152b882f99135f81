"""What `linli up` shows: a live table in a terminal, nothing in between otherwise."""

import json
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

_LATENCIES_KEPT = 2000
# With the tables, as much as a terminal of 24 lines shows.
_EVENTS_SHOWN = 9
_CAR_COLUMNS = ("cars in", "cars out", "inside", "fees, yuan", "gates opened", "turned away", "readings", "decision p50 ms", "p99 ms")
_WASTE_COLUMNS = ("deposits", "kg", "emptied", "points earned", "points spent or taken back")
_DOOR_COLUMNS = ("doors opened", "refused", "opened offline", "visitors", "alarms")
_ORDER_COLUMNS = ("orders reported", "answered", "in time", "done", "paid, yuan", "open now")
_TEXTS = {
    "car_in": "in",
    "car_out": "out",
    "paid": "paid",
    "turned_away": "turned away",
    "stuck": "waits at the barrier",
    "trouble": "trouble",
}
_ORDER_TEXTS = {
    "order_reported": "reports",
    "order_accepted": "accepts",
    "order_done": "has done",
    "order_paid": "pays for",
    "order_rated": "rates",
}
_SHOWN = {*_TEXTS, *_ORDER_TEXTS, "deposit", "emptied", "points", "door", "alarm"}


@dataclass(slots=True)
class Figures:
    """Counts of what the simulator reported."""

    counts: dict[str, int] = field(default_factory=dict)
    fen: int = 0
    readings: int = 0
    grams: int = 0
    points_earned: int = 0
    points_lost: int = 0
    refused: int = 0
    opened_offline: int = 0
    visits: int = 0
    answered_in_time: int = 0
    orders_fen: int = 0
    orders_open: int = 0
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
        self._add(kind, event)
        if kind in _SHOWN:
            at = datetime.fromisoformat(event["at"]).astimezone()  # the clock on the reader's wall
            self.events.append(f"{at:%H:%M:%S}  {_sentence(kind, event)}")

    def _add(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "decision":
            self.latencies_ms.append(float(event["milliseconds"]))
        elif kind == "paid":
            self.fen += int(event["fen"])
        elif kind == "readings":
            self.readings += int(event["count"])
        elif kind == "deposit":
            self.grams += int(event["grams"])
        elif kind == "points":
            self.points_earned += max(0, int(event["change"]))
            self.points_lost += max(0, -int(event["change"]))
        elif kind == "door":
            self.refused += not event["opened"]
            self.opened_offline += event["opened"] and event["offline"]
            self.visits += event["opened"] and event["visitor"]
        elif kind == "order_accepted":
            self.answered_in_time += bool(event["in_time"])
        elif kind == "order_paid":
            self.orders_fen += int(event["fen"])
        elif kind == "orders_open":
            self.orders_open = int(event["open"])

    def percentile_ms(self, percent: int) -> str:
        """The decisions' percentile over the last two thousand, in milliseconds."""
        if not self.latencies_ms:
            return "-"
        ordered = sorted(self.latencies_ms)
        return f"{ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]:.1f}"

    def render(self) -> Group:
        """The tables as rich draws them."""
        entered, left = self.counts.get("car_in", 0), self.counts.get("car_out", 0)
        cars = (
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
        waste = (
            str(self.counts.get("deposit", 0)),
            f"{self.grams / 1000:.1f}",
            str(self.counts.get("emptied", 0)),
            str(self.points_earned),
            str(self.points_lost),
        )
        doors = (
            str(self.counts.get("door", 0) - self.refused),
            str(self.refused),
            str(self.opened_offline),
            str(self.visits),
            str(self.counts.get("alarm", 0)),
        )
        orders = (
            str(self.counts.get("order_reported", 0)),
            str(self.counts.get("order_accepted", 0)),
            str(self.answered_in_time),
            str(self.counts.get("order_done", 0)),
            f"{self.orders_fen / 100:.2f}",
            str(self.orders_open),
        )
        return Group(
            _table("邻里示范小区 · live", _CAR_COLUMNS, cars),
            _table("", _DOOR_COLUMNS, doors),
            _table("", _ORDER_COLUMNS, orders),
            _table("", _WASTE_COLUMNS, waste),
            Text("\n".join(self.events)),
            Text("Ctrl-C stops everything; data are kept.", style="dim"),
        )


def _sentence(kind: str, event: dict[str, Any]) -> str:
    if kind == "deposit":
        return f"{event['who'] or 'somebody'}  brings {int(event['grams']) / 1000:.2f} kg of {event['category']} to {event['bin']}"
    if kind == "emptied":
        return f"{event['bin']}  is emptied of {event['category']}"
    if kind == "points":
        return f"{event['resident']}  {int(event['change']):+} points ({event['text']}), now {event['points']}"
    if kind == "door":
        how = "opens" if event["opened"] else f"stays shut ({event['reason']})"
        return f"{event['door']}  {how} for {event['who'] or 'somebody'}, {event['credential']}{', offline' if event['offline'] else ''}"
    if kind == "alarm":
        return f"alarm  {event['text']}"
    if kind in _ORDER_TEXTS:
        late = ", too late" if not event.get("in_time", True) else ""
        return f"{event['who']}  {_ORDER_TEXTS[kind]} #{event['number']} {event['title']}{late}"
    amount = f" {int(event['fen']) / 100:.2f} yuan" if kind == "paid" else ""
    return f"{event.get('plate') or event.get('lane') or event.get('who', '')}  {_TEXTS[kind]}{amount}"


def _table(title: str, columns: tuple[str, ...], row: tuple[str, ...]) -> Table:
    table = Table(title=title, box=SIMPLE, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    table.add_row(*row)
    return table
