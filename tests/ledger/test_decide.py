"""The pure rules: a request is decided as if it came alone after those before it, and a refused one leaves no trace."""

import copy
import uuid
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ledger.decide import Book, Deciding
from ledger.transfers import Posting, Receipt, Refusal, Request, Resolution, StoredTransfer, Transfer

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
COMMUNITY = uuid.UUID(int=1)
ACCOUNTS = [uuid.UUID(int=100 + number) for number in range(4)]
Accounts = dict[int, Book]


def accounts(*floors: int | None) -> Accounts:
    """Credit accounts of no balance with these floors."""
    return {
        key.int: Book(key, COMMUNITY, "points", -1, floor, 0, 0, 0, 0, NOW, False) for key, floor in zip(ACCOUNTS, floors, strict=False)
    }


def transfer(number: int, giver: int, taker: int, amount: int, *, is_pending: bool = False) -> Transfer:
    until = NOW + timedelta(days=1) if is_pending else None
    postings = (Posting(ACCOUNTS[giver], amount), Posting(ACCOUNTS[taker], -amount))
    return Transfer(uuid.UUID(int=1000 + number), COMMUNITY, "gift", postings, pending_until=until)


def test_a_later_request_spends_what_an_earlier_one_brought() -> None:
    deciding = Deciding(accounts(None, 0, 0), {}, NOW, NOW)
    assert deciding.decide(transfer(1, 1, 2, 5)) is Refusal.INSUFFICIENT
    assert isinstance(deciding.decide(transfer(2, 0, 1, 5)), Receipt)
    assert isinstance(deciding.decide(transfer(3, 1, 2, 5)), Receipt)
    assert deciding.decide(transfer(4, 1, 2, 1)) is Refusal.INSUFFICIENT


def test_a_hold_that_opens_and_closes_in_one_pass_is_never_stored() -> None:
    books = accounts(None, 0)
    deciding = Deciding(books, {}, NOW, NOW)
    pending = transfer(1, 0, 1, 5, is_pending=True)
    deciding.decide(pending)
    assert books[ACCOUNTS[0].int].held == 5
    deciding.decide(Resolution(uuid.UUID(int=2), COMMUNITY, pending.transfer_id, is_posted=True))
    assert (books[ACCOUNTS[0].int].held, books[ACCOUNTS[1].int].balance) == (0, 5)
    decision = deciding.take()
    assert (decision.opened, decision.closed) == ({}, [])


requests = st.builds(
    transfer,
    st.integers(0, 20),
    st.sampled_from([0, 1]),
    st.sampled_from([2, 3]),
    st.integers(-5, 5).filter(bool),
    is_pending=st.booleans(),
)


@given(st.lists(requests, max_size=20))
def test_together_is_as_one_after_the_other(asked: list[Request]) -> None:
    together, alone = accounts(0, None, 0, -3), accounts(0, None, 0, -3)
    deciding = Deciding(together, {}, NOW, NOW)
    answers = [deciding.decide(request) for request in asked]
    stored: dict[uuid.UUID, StoredTransfer] = {}
    for request, answer in zip(asked, answers, strict=True):
        before = copy.deepcopy(alone)
        single = Deciding(alone, stored, NOW, NOW)
        assert single.decide(request) == answer
        if isinstance(answer, Refusal):
            assert alone == before
        else:
            found = single.find(answer.transfer_id, COMMUNITY)
            assert found is not None
            stored[answer.transfer_id] = found
            single.take()
    deciding.take()
    assert together == alone
    for book in together.values():
        assert book.held >= 0
        assert book.floor is None or book.balance - book.held >= book.floor
    assert sum(book.balance for book in together.values()) == 0
