"""PINs: which are too easy, and the numbers that are typed before them. How they are kept is in `digests.py`.

At a door somebody types their number and their PIN behind it. The number says whose PIN it is, so that two people may have the same PIN,
and nobody learns from a refusal that somebody else has it.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

PIN_DIGITS: Final = 6
# Four digits are easily remembered. When many of them are taken, those that are tried next have one more.
_NUMBER_DIGITS: Final = range(4, 10)
_TRIES: Final = 4


def is_trivial(pin: str) -> bool:
    """Whether a PIN is what everybody tries first: a row such as 123456 or 210987, or a repetition such as 111111, 121212 or 123123."""
    steps = {(int(after) - int(before)) % 10 for before, after in pairwise(pin)}
    repeats = any(pin == pin[:length] * (len(pin) // length) for length in range(1, len(pin) // 2 + 1))
    return repeats or steps in ({1}, {9})


def numbers(choose: Callable[[int], int]) -> Iterator[str]:
    """Numbers to try until one is free, the short ones first. `choose(n)` is any integer from 0 to n - 1."""
    for digits in _NUMBER_DIGITS:
        lowest = 10 ** (digits - 1)
        for _ in range(_TRIES):
            yield str(lowest + choose(9 * lowest))
