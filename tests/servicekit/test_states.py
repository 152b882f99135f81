"""A state follows another only when the table says so."""

from enum import StrEnum

import pytest

from servicekit.errors import Conflict
from servicekit.states import advance


class Order(StrEnum):
    """States of a toy."""

    REPORTED = "reported"
    DONE = "done"
    CANCELLED = "cancelled"


FOLLOWS = {Order.REPORTED: {Order.DONE, Order.CANCELLED}, Order.DONE: {Order.REPORTED}}


@pytest.mark.parametrize(("now", "to"), [(Order.REPORTED, Order.DONE), (Order.DONE, Order.REPORTED)])
def test_a_state_that_may_follow_is_taken(now: Order, to: Order) -> None:
    assert advance(now, to, FOLLOWS, code="toy.order_ended", zh="工单已结束", en="The order has ended") is to


@pytest.mark.parametrize(("now", "to"), [(Order.DONE, Order.CANCELLED), (Order.CANCELLED, Order.REPORTED), (Order.DONE, Order.DONE)])
def test_a_state_that_may_not_follow_is_a_conflict_that_names_both(now: Order, to: Order) -> None:
    with pytest.raises(Conflict) as refused:
        advance(now, to, FOLLOWS, code="toy.order_ended", zh="工单已结束", en="The order has ended")
    assert (refused.value.code, refused.value.zh, refused.value.en) == ("toy.order_ended", "工单已结束", "The order has ended")
    assert refused.value.details == {"state": now, "asked": to}
