"""Chunks: how a batch of readings is cut into the rows that hold it, and which readings are not kept. No I/O, no clock."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

from services.insights.steps import DAY_US, EPOCH_DAY, microseconds

# Beyond this nothing is a measurement, and sums stay finite below it however many readings a step has.
VALUE_MAX = 1e100
# How far a device's clock may run ahead before its readings are refused.
AHEAD_MAX = timedelta(days=1)
# What the contract lets a read ask for: a reading under any other name could never be read.
_METRIC = re.compile(r"[a-z0-9_]{1,64}")


class Reading(Protocol):
    """One measured value as the contract carries it: `at_us` in microseconds since the Unix epoch."""

    metric: str
    at_us: int
    value: float
    sequence: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The readings of one batch on one UTC day, sorted by metric.

    The n-th elements of `at_us`, `value` and `sequence` are one reading. Those of the n-th of `metrics` end before the n-th of `ends`, and
    begin where those of the metric before end.
    """

    day: date
    metrics: list[str]
    ends: list[int]
    at_us: list[int]
    value: list[float]
    sequence: list[int]


@dataclass(frozen=True, slots=True)
class Retention:
    """How many whole UTC days before today are kept."""

    days: int

    def first_day(self, now: datetime) -> date:
        """The earliest day that is kept."""
        return now.date() - timedelta(days=self.days)


def cut(readings: Iterable[Reading], retention: Retention, now: datetime) -> tuple[list[Chunk], Counter[str]]:
    """Cuts a batch into chunks. The counter says how many readings were refused, and why.

    Refused are: `value`, not a finite number a device could measure; `metric`, a name that no read can ask for; `old`, before the first day
    that is kept; `future`, further ahead of `now` than clocks drift.
    """
    refused: Counter[str] = Counter()
    days: dict[int, dict[str, _Columns]] = {}
    oldest_us = (retention.first_day(now) - EPOCH_DAY).days * DAY_US
    newest_us = microseconds(now + AHEAD_MAX)
    for reading in readings:
        at_us, value, metric = reading.at_us, reading.value, reading.metric
        if not oldest_us <= at_us <= newest_us:
            refused["old" if at_us < oldest_us else "future"] += 1
        elif not -VALUE_MAX <= value <= VALUE_MAX:  # NaN is in no range
            refused["value"] += 1
        else:
            metrics = days.setdefault(at_us // DAY_US, {})
            columns = metrics.get(metric)
            if columns is None:
                if not _METRIC.fullmatch(metric):
                    refused["metric"] += 1
                    continue
                columns = metrics[metric] = ([], [], [])
            columns[0].append(at_us)
            columns[1].append(value)
            columns[2].append(reading.sequence)
    return [_chunk(day, metrics) for day, metrics in days.items() if metrics], refused


# The instants, values and sequences of one metric.
_Columns = tuple[list[int], list[float], list[int]]


def _chunk(day: int, metrics: dict[str, _Columns]) -> Chunk:
    chunk = Chunk(EPOCH_DAY + timedelta(days=day), list(metrics), [], [], [], [])
    for at_us, value, sequence in metrics.values():
        chunk.at_us.extend(at_us)
        chunk.value.extend(value)
        chunk.sequence.extend(sequence)
        chunk.ends.append(len(chunk.at_us))
    return chunk
