"""What ingest measures of its devices: how long they wait for decisions, and how many there are.

The instance that hears a device's question hears its decision as well, because every instance hears every decision; so each question is
measured once, wherever its command is sent from.
"""

from collections.abc import Callable, Hashable
from time import monotonic
from typing import Final

from prometheus_client import Gauge, Histogram

# GB 50396 asks for a gate's answer within two seconds; a door terminal decides alone after one.
_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0)
DOOR_PATIENCE_S: Final = 1.0
# How long after its question a decision may come, and how long a question that is repeated is known for the same.
_FORGOTTEN_S: Final = 60.0
_QUESTIONS_MAX: Final = 20_000

GATE_DECISION_SECONDS = Histogram(
    "linli_gate_decision_seconds",
    "From a camera's plate read to its decision; offline_rule when that was late and the lane did what it does without one",
    ["outcome"],
    buckets=_BUCKETS,
)
DOOR_DECISION_SECONDS = Histogram(
    "linli_door_decision_seconds",
    "From what was shown to a door terminal to its decision; late when the terminal had decided alone by then",
    ["outcome"],
    buckets=_BUCKETS,
)
DEVICES = Gauge("linli_devices", "Registered devices that are not disabled", ["kind", "state"])
for _outcome in ("opened", "held", "offline_rule"):
    GATE_DECISION_SECONDS.labels(_outcome)
for _outcome in ("opened", "refused", "late"):
    DOOR_DECISION_SECONDS.labels(_outcome)


class Questions:
    """When devices asked, until they have their answers."""

    def __init__(self, given_up: Callable[[float], None] = lambda _seconds: None) -> None:
        """`given_up` is told of each question that nobody answered, and how old it is in seconds."""
        self._given_up = given_up
        # When it was asked, by the monotonic clock, and whether it was answered.
        self._asked: dict[Hashable, tuple[float, bool]] = {}

    def ask(self, question: Hashable, at: float) -> None:
        """A device asked, at an instant of the monotonic clock. Asked again within a minute it is the same question."""
        self._forget()
        self._asked.setdefault(question, (at, False))

    def answer(self, question: Hashable) -> float | None:
        """How many seconds it waited for its answer; None when it was not asked here, or was answered before."""
        at, is_answered = self._asked.get(question, (0.0, True))
        if is_answered:
            return None
        self._asked[question] = (at, True)
        return monotonic() - at

    def _forget(self) -> None:
        now = monotonic()
        while self._asked:
            oldest = next(iter(self._asked))
            at, is_answered = self._asked[oldest]
            if at > now - _FORGOTTEN_S and len(self._asked) < _QUESTIONS_MAX:
                return
            del self._asked[oldest]
            if not is_answered:
                self._given_up(now - at)


class DoorQuestions(Questions):
    """What was shown to door terminals, by community, terminal and presentation."""

    def __init__(self) -> None:
        super().__init__(DOOR_DECISION_SECONDS.labels("late").observe)

    def decided(self, question: Hashable, outcome: str) -> None:
        """A decision is there: "opened" or "refused"."""
        seconds = self.answer(question)
        if seconds is not None:
            DOOR_DECISION_SECONDS.labels(outcome if seconds <= DOOR_PATIENCE_S else "late").observe(seconds)
