"""What quotes add up to, and which reports are alike."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.workorders.quotes import Price, Unit, line, total_fen
from services.workorders.similar import LIKENESS_MIN, Report, likeness

PIPE = Price("pipe", 1, "水管", "Pipe", Unit.METRE, 1250, labour=False, in_use=True)
NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
BUILDING, HOME, NEIGHBOUR = UUID(int=1), UUID(int=2), UUID(int=3)
LEAK = Report(UUID(int=10), "water.leak", BUILDING, HOME, "3 楼走廊", "走廊天花板漏水，地面全湿了", NOON)


def test_an_amount_is_rounded_half_up_to_a_fen() -> None:
    cheap = Price("tape", 1, "胶带", "Tape", Unit.PIECE, 1, labour=False, in_use=True)
    assert [line(cheap, hundredths).amount_fen for hundredths in (1, 49, 50, 149, 150)] == [0, 0, 1, 1, 2]
    assert line(PIPE, 250).amount_fen == 3125


@given(st.lists(st.tuples(st.integers(0, 100_000_000), st.integers(1, 1_000_000)), max_size=50))
def test_a_quote_is_off_by_half_a_fen_for_each_line_at_most(items: list[tuple[int, int]]) -> None:
    lines = [line(Price("x", 1, "", "", Unit.HOUR, price_fen, labour=True, in_use=True), hundredths) for price_fen, hundredths in items]
    exact = sum((Fraction(price_fen * hundredths, 100) for price_fen, hundredths in items), Fraction())
    assert abs(total_fen(lines) - exact) <= Fraction(len(items), 2)


def test_two_neighbours_who_report_one_leak_are_likely_to_mean_the_same() -> None:
    other = replace(LEAK, order_id=UUID(int=11), household_id=NEIGHBOUR, words="三楼走廊漏水", reported_at=NOON + timedelta(hours=2))
    assert likeness(LEAK, other) > 650
    electric = replace(other, category="power.outage", words="走廊没电，电梯停了")
    assert likeness(LEAK, electric) < LIKENESS_MIN
    pipe = replace(other, category="water.pipe")
    assert LIKENESS_MIN < likeness(LEAK, pipe) < likeness(LEAK, other)


def test_what_is_in_another_building_or_days_apart_is_something_else() -> None:
    assert likeness(LEAK, replace(LEAK, building_id=UUID(int=9))) == 0
    assert likeness(LEAK, replace(LEAK, building_id=None)) == 0
    assert likeness(LEAK, replace(LEAK, reported_at=NOON + timedelta(days=3, seconds=1))) == 0


@given(st.text(max_size=40), st.text(max_size=40), st.integers(-4 * 86_400, 4 * 86_400))
def test_likeness_has_no_direction_and_ends_at_a_thousand(words: str, other_words: str, apart_s: int) -> None:
    one = replace(LEAK, words=words)
    other = replace(LEAK, words=other_words, reported_at=NOON + timedelta(seconds=apart_s))
    assert likeness(one, other) == likeness(other, one)
    assert 0 <= likeness(one, other) <= 1000
