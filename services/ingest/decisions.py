"""Decisions on plate reads, between the events that carry them and the cameras that wait for them.

Every instance hears every decision and remembers it for a minute, so that a camera that pushes a record again is answered the same by
whichever instance it reaches. A decision to open is worth nothing once its command has expired.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from uuid import UUID

from services.ingest.metrics import GATE_DECISION_SECONDS, Questions

_REMEMBERED_S = 60.0
_REMEMBERED_MAX = 20_000

# Community, camera, record.
RecordKey = tuple[UUID, str, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a camera is to be told. `opens_until` is None when its barrier stays shut; `info` then says why."""

    info: str
    decided_at: datetime
    opens_until: datetime | None = None
    # Empty when nobody signed a command: the lane's offline rule opened.
    command_id: str = ""
    # Whether a gate of its own opens, which gets its command over MQTT.
    is_elsewhere: bool = False

    def opens(self, now: datetime) -> bool:
        """Whether the barrier may still open."""
        return self.opens_until is not None and now <= self.opens_until


class Decisions:
    """The decisions of the last minute and the requests that wait for one."""

    def __init__(self) -> None:
        self._made: dict[RecordKey, tuple[Decision, float]] = {}
        self._waiting: dict[RecordKey, list[asyncio.Future[None]]] = {}
        self._questions = Questions()

    def ask(self, record: RecordKey, at: float) -> None:
        """Notes, for the metrics, that the record of a camera with a lane came at this instant of the monotonic clock."""
        self._questions.ask(record, at)

    def give_up(self, record: RecordKey) -> None:
        """Notes, for the metrics, that a record's decision is late, and the lane does what it does without one."""
        self._measure(record, "offline_rule")

    def _measure(self, record: RecordKey, outcome: str) -> None:
        seconds = self._questions.answer(record)
        if seconds is not None:
            GATE_DECISION_SECONDS.labels(outcome).observe(seconds)

    def make(self, record: RecordKey, decision: Decision) -> None:
        """Notes a decision, in place of an earlier one, and wakes whoever waits for it."""
        self._forget()
        self._measure(record, "opened" if decision.opens_until is not None or decision.is_elsewhere else "held")
        known = self._made.get(record)
        if known is not None and known[0].decided_at > decision.decided_at:
            return
        self._made.pop(record, None)
        self._made[record] = (decision, monotonic())
        for waiting in self._waiting.get(record, ()):
            if not waiting.done():
                waiting.set_result(None)

    def made(self, record: RecordKey) -> Decision | None:
        """The decision on a record, if there is one."""
        entry = self._made.get(record)
        return None if entry is None else entry[0]

    async def wait(self, record: RecordKey, seconds: float, gone: Awaitable[None]) -> tuple[Decision | None, bool]:
        """The decision, if it comes within `seconds`, and whether the camera is still there: `gone` returns when it is not."""
        leaving = asyncio.ensure_future(gone)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(record, []).append(future)
        try:
            if record not in self._made and seconds > 0:
                await asyncio.wait((future, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)  # A connection that is closed already shows now.
            return self.made(record), not leaving.done()
        finally:
            leaving.cancel()
            waiting = self._waiting[record]
            waiting.remove(future)
            if not waiting:
                del self._waiting[record]

    def _forget(self) -> None:
        horizon = monotonic() - _REMEMBERED_S
        while self._made:
            oldest = next(iter(self._made))
            if len(self._made) < _REMEMBERED_MAX and self._made[oldest][1] > horizon:
                return
            del self._made[oldest]
