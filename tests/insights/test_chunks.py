"""Cutting batches into chunks."""

import math
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linli.device.v1.events_pb2 import Reading
from services.insights.chunks import AHEAD_MAX, VALUE_MAX, Chunk, Retention, cut
from tests.insights.builders import reading

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
KEPT = Retention(days=30)


def readings_in(chunk: Chunk) -> list[tuple[str, int, float, int]]:
    """The readings of a chunk as the stored columns say them."""
    begins = [0, *chunk.ends[:-1]]
    names = [name for name, begin, end in zip(chunk.metrics, begins, chunk.ends, strict=True) for _ in range(begin, end)]
    return list(zip(names, chunk.at_us, chunk.value, chunk.sequence, strict=True))


def test_a_batch_over_midnight_becomes_a_chunk_for_each_day() -> None:
    midnight = datetime(2026, 6, 15, tzinfo=UTC)
    readings = [
        reading(midnight - timedelta(microseconds=1), 1),
        reading(midnight, 2),
        reading(midnight, 3, metric="humidity_pct"),
        reading(midnight + timedelta(seconds=1), 4),
    ]
    chunks, refused = cut(readings, KEPT, NOW)
    assert [(chunk.day, chunk.metrics, chunk.ends, chunk.value) for chunk in chunks] == [
        (date(2026, 6, 14), ["temperature_c"], [1], [1.0]),
        (date(2026, 6, 15), ["temperature_c", "humidity_pct"], [2, 3], [2.0, 4.0, 3.0]),
    ]
    assert not refused


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (reading(NOW, math.nan), "value"),
        (reading(NOW, math.inf), "value"),
        (reading(NOW, -math.inf), "value"),
        (reading(NOW, 2 * VALUE_MAX), "value"),
        (reading(NOW, metric="温度"), "metric"),
        (reading(NOW, metric="a\0b"), "metric"),
        (reading(NOW, metric=""), "metric"),
        (reading(NOW, metric="x" * 65), "metric"),
        (reading(datetime(2026, 5, 15, 23, 59, tzinfo=UTC)), "old"),
        (reading(NOW + AHEAD_MAX + timedelta(microseconds=1)), "future"),
        (Reading(metric="temperature_c", at_us=-(2**63)), "old"),
        (Reading(metric="temperature_c", at_us=2**63 - 1), "future"),
    ],
)
def test_a_reading_that_cannot_be_kept_is_counted_and_its_neighbours_are_kept(refused: Reading, reason: str) -> None:
    chunks, counted = cut([reading(NOW, 1), refused, reading(NOW, 2)], KEPT, NOW)
    assert counted == {reason: 1}
    assert [chunk.value for chunk in chunks] == [[1.0, 2.0]]


def test_the_first_day_that_is_kept_is_kept_whole() -> None:
    _, refused = cut([reading(datetime(2026, 5, 16, tzinfo=UTC)), reading(NOW + AHEAD_MAX)], KEPT, NOW)
    assert not refused


@given(
    st.lists(
        st.builds(
            Reading,
            metric=st.sampled_from(["power_w", "energy_wh", "Not A Metric"]),
            at_us=st.integers(-(2**63), 2**63 - 1) | st.integers(1_780_000_000_000_000, 1_781_600_000_000_000),
            value=st.floats(),
            sequence=st.integers(-(2**63), 2**63 - 1),
        )
    )
)
def test_every_reading_is_in_one_chunk_or_refused(readings: list[Reading]) -> None:
    chunks, refused = cut(readings, KEPT, NOW)
    kept = [each for chunk in chunks for each in readings_in(chunk)]
    assert len(kept) + refused.total() == len(readings)
    assert set(kept) <= {(r.metric, r.at_us, r.value, r.sequence) for r in readings}
    assert len({chunk.day for chunk in chunks}) == len(chunks)
    for chunk in chunks:
        assert {datetime.fromtimestamp(at_us // 1_000_000, UTC).date() for at_us in chunk.at_us} == {chunk.day}
