"""Misbehaviour on request. Each armed fault strikes the next `count` times that it can, then is gone; a restart disarms all."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec

# More armed faults than this is a mistake of the one who arms them.
_ARMED_MAX = 1_000


class FaultKind(StrEnum):
    """What goes wrong. The first group strikes notifications, the second requests, the third money."""

    LOSE = "lose_notifications"
    # By `seconds`.
    DELAY = "delay_notifications"
    DUPLICATE = "duplicate_notifications"
    # Holds `count` of them back and sends them in the opposite order.
    REORDER = "reorder_notifications"
    WRONG_AMOUNT = "wrong_amount"
    WRONG_MERCHANT = "wrong_merchant"
    WRONG_SIGNATURE = "wrong_signature"

    # Answers 500 to `operation` (prepay, query, close, refund, query_refund, bill); with `after`, when the work is done.
    FAIL = "fail_requests"
    # The same, but the answer comes only after `seconds`.
    HANG = "hang_requests"

    # Takes a payer's money twice for one order.
    CHARGE_TWICE = "charge_twice"
    # A refund stays PROCESSING for `seconds`.
    SLOW_REFUND = "slow_refunds"
    REFUSE_REFUND = "refuse_refunds"
    # Accepted, and then it comes to nothing.
    ABNORMAL_REFUND = "abnormal_refunds"


class Fault(msgspec.Struct):
    """One armed fault."""

    kind: FaultKind
    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    seconds: Annotated[float, msgspec.Meta(ge=0, le=3_600)] = 0.0
    operation: str = ""
    after: bool = False


@dataclass(slots=True)
class Faults:
    """The armed faults."""

    armed: list[Fault]

    def arm(self, fault: Fault) -> None:
        """Arms a fault. Raises ValueError when there are too many."""
        if len(self.armed) >= _ARMED_MAX:
            raise ValueError("too many faults")
        self.armed.append(fault)

    def strikes(self, kind: FaultKind, operation: str = "", *, after: bool = False) -> Fault | None:
        """The fault that strikes now, which is one less of it."""
        for fault in self.armed:
            if fault.kind is kind and fault.operation in ("", operation) and fault.after is after:
                fault.count -= 1
                if fault.count == 0:
                    self.armed.remove(fault)
                return fault
        return None
