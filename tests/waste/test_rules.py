"""The rules of waste by themselves: fill, weights, codes and cards. Clocks have a file of their own."""

import base64
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.waste.bins import Category, Compartment, Fill, fill
from services.waste.codes import LIFE, CodeSigner
from services.waste.deposits import Approach, Holding, approached, holder
from services.waste.figures import MonthWeights, Weights, add_up, months, table, weigh

NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
KEY = base64.b64encode(bytes(32)).decode()
ANNA, BEN, HERE, THERE = (UUID(int=number) for number in range(4))


def test_late_news_and_falls_that_are_no_emptying_change_little() -> None:
    def at(minute: int) -> datetime:
        return NOON + timedelta(minutes=minute)

    known = {"a": Compartment("a", Category.OTHER, 1000, 500, at(0), None), "b": Compartment("b", Category.OTHER, 1000)}
    filling = fill(
        known, [Fill("a", at(9), 180), Fill("a", at(3), 490), Fill("b", at(2), 100), Fill("a", at(-1), 900), Fill("c", at(1), 7)]
    )
    assert {each.name: (each.fill_permille, each.emptied_at) for each in filling.compartments} == {"a": (180, at(9)), "b": (100, None)}
    assert filling.levels == [Fill("a", at(-1), 900), Fill("b", at(2), 100), Fill("a", at(3), 490), Fill("a", at(9), 180)]
    assert filling.emptyings == [Fill("a", at(9), 180)]


@given(st.lists(st.tuples(st.sampled_from(Category), st.integers(1, 200_000), st.booleans())))
def test_contamination_moves_weight_and_never_makes_any(deposits: list[tuple[Category, int, bool]]) -> None:
    total = sum((weigh(category, grams, is_contaminated=mixed) for category, grams, mixed in deposits), Weights())
    assert total.total_grams == sum(grams for _, grams, _ in deposits)
    assert total.deposits + total.contaminated_deposits == len(deposits)
    assert 0 <= total.diversion_permille <= 1000
    assert total + -total == Weights()


def test_a_table_writes_grams_as_kilograms_exactly() -> None:
    rows = [MonthWeights(date(2026, 1, 1), None, Weights(recyclable_grams=7, other_grams=12_345_678_901))]
    assert table(rows).decode("utf-8-sig").splitlines()[1] == "2026-01,,0.007,0.000,0.000,12345678.901,12345678.908,0,0,0"
    assert add_up([]) == Weights()
    assert months(date(2025, 11, 1), date(2026, 2, 1)) == [date(2025, 11, 1), date(2025, 12, 1), date(2026, 1, 1), date(2026, 2, 1)]


def test_a_code_is_read_only_with_its_key_in_its_community_and_in_its_time() -> None:
    signer = CodeSigner(KEY)
    code = signer.sign(HERE, ANNA, NOON + LIFE)
    assert len(code) == 43
    assert signer.read(code, HERE, NOON) == ANNA
    assert signer.read(code, HERE, NOON + LIFE) == ANNA
    assert signer.read(code, THERE, NOON) is None
    assert signer.read(code, HERE, NOON + LIFE + timedelta(minutes=3)) is None
    assert signer.read(code, HERE, NOON - timedelta(minutes=3)) is None
    assert CodeSigner(base64.b64encode(bytes(31) + b"x").decode()).read(code, HERE, NOON) is None


@given(st.data())
def test_no_other_text_is_a_code(data: st.DataObject) -> None:
    signer = CodeSigner(KEY)
    code = signer.sign(HERE, ANNA, NOON + LIFE)
    assert signer.read(data.draw(st.text()), HERE, NOON) is None
    position = data.draw(st.integers(0, len(code) - 2))  # the last character holds two bits that say nothing
    other = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/= \0邻"))
    changed = code[:position] + other + code[position + 1 :]
    assert changed == code or signer.read(changed, HERE, NOON) is None


@pytest.mark.parametrize("key", ["", "short", base64.b64encode(bytes(31)).decode(), "not base64 at all, but long enough for it!!"])
def test_a_key_that_is_no_32_bytes_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        CodeSigner(key)


def test_a_card_is_whose_it_was_when_it_was_read() -> None:
    holdings = [Holding(ANNA, NOON, NOON + timedelta(hours=1)), Holding(BEN, NOON + timedelta(hours=2), None)]
    minutes = {-3: None, -1: ANNA, 59: ANNA, 60: None, 100: None, 118: BEN, 100_000: BEN}
    assert {minute: holder(holdings, NOON + timedelta(minutes=minute)) for minute in minutes} == minutes
    assert holder([], NOON) is None
    # Handed on at once: what was read before is of who held it then.
    handed_on = [Holding(ANNA, NOON, NOON + timedelta(minutes=5)), Holding(BEN, NOON + timedelta(minutes=5, seconds=30), None)]
    seconds = {-60: ANNA, 240: ANNA, 299: ANNA, 300: BEN, 360: BEN}
    assert {second: holder(handed_on, NOON + timedelta(seconds=second)) for second in seconds} == seconds


def test_the_last_who_came_before_a_deposit_made_it_and_else_who_came_just_then() -> None:
    approaches = [Approach(ANNA, NOON), Approach(BEN, NOON + timedelta(seconds=60))]
    seconds = {-31: None, -30: ANNA, 0: ANNA, 59: ANNA, 60: BEN, 240: BEN, 241: None}
    assert {second: approached(approaches, NOON + timedelta(seconds=second)) for second in seconds} == seconds
