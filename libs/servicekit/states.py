"""What may follow what: the one place where a state that is asked for is refused. Which state follows which is a table in a pure noun."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from servicekit.errors import Conflict

# A StrEnum in practice; the texts of its members are what errors tell.
S = TypeVar("S", bound=str)


def advance(now: S, to: S, allowed: Mapping[S, Collection[S]], *, code: str, zh: str, en: str) -> S:
    """Returns `to`, when `allowed` lists it after `now`; a state that `allowed` does not hold is a last one.

    Raises Conflict with this code and these texts, whose details are the present `state` and the one that was `asked` for. To stay in a
    state is a step like any other: it is refused unless the table says it.
    """
    if to not in allowed.get(now, ()):
        raise Conflict(code, zh, en, details={"state": str(now), "asked": str(to)})
    return to
