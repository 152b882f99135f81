"""Which PINs are too easy, and the numbers that are typed before them: the pure rules."""

from hypothesis import given
from hypothesis import strategies as st

from services.access.pins import PIN_DIGITS, is_trivial, numbers


@given(st.text("0123456789", min_size=PIN_DIGITS, max_size=PIN_DIGITS))
def test_a_pin_is_trivial_when_its_steps_are_all_alike_or_it_repeats_itself(pin: str) -> None:
    steps = {(int(pin[place + 1]) - int(pin[place])) % 10 for place in range(PIN_DIGITS - 1)}
    repeats = pin[:1] * 6 == pin or pin[:2] * 3 == pin or pin[:3] * 2 == pin
    assert is_trivial(pin) == (repeats or steps in ({1}, {9}))


@given(st.integers(0, 2**32))
def test_numbers_that_are_tried_never_begin_with_a_zero_and_never_become_shorter(seed: int) -> None:
    tried = list(numbers(lambda bound: seed % bound))
    assert all(number[0] != "0" for number in tried)
    assert [len(number) for number in tried] == sorted(len(number) for number in tried)
    assert len(tried[0]) == 4
