"""The ledger against a model in memory: whatever is asked, in whatever order and company, both say the same and the audit finds nothing.

The model knows the rules only as sets: a request is accepted when it breaks none, and refused for one of those that it breaks.
"""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import ledger
from ledger import Balance, Posting, Receipt, Resolution, Side, Transfer
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, ServiceError
from servicekit.identifiers import new_id
from tests.ledger.books import Books, books_on
from tests.support import Servers

# Mostly what is accepted, so that runs get far, and now and then what is not.
AMOUNTS = st.sampled_from([1, 2, 3, 5, 8] * 4 + [2**62, 2**63 - 1, 2**63, 0])
SELDOM = st.sampled_from([False] * 11 + [True])
INT64_MAX = 2**63 - 1
Code = str
Request = Transfer | Resolution


@dataclass
class ModelAccount:
    unit: str
    sign: int
    floor: int | None
    # When each entry was recorded, and what it changed.
    entries: list[tuple[datetime, int]] = field(default_factory=list)
    is_closed: bool = False

    @property
    def balance(self) -> int:
        return sum(change for _, change in self.entries)


@dataclass
class Model:
    accounts: dict[uuid.UUID, ModelAccount] = field(default_factory=dict)
    requests: dict[uuid.UUID, Request] = field(default_factory=dict)
    pending: dict[uuid.UUID, Transfer] = field(default_factory=dict)
    outcomes: dict[uuid.UUID, str] = field(default_factory=dict)
    reversed: set[uuid.UUID] = field(default_factory=set)

    def held(self, account_id: uuid.UUID) -> int:
        sign = self.accounts[account_id].sign
        postings = (posting for transfer in self.pending.values() for posting in transfer.postings if posting.account_id == account_id)
        return sum(max(0, -posting.amount * sign) for posting in postings)

    def apply(self, request: Request, now: datetime) -> bool | set[Code]:
        """Whether the request is new, or the codes that it may be refused with."""
        before = self.requests.get(request.transfer_id)
        malformed = self.malformed(request)
        if malformed:
            return malformed
        if before is not None:
            return False if before == request else {"ledger.transfer_differs"}
        refusals = self.refuse_transfer(request, now) if isinstance(request, Transfer) else self.refuse_resolution(request, now)
        if refusals:
            return refusals
        self.requests[request.transfer_id] = request
        if isinstance(request, Resolution):
            transfer = self.pending.pop(request.pending_id)
            self.outcomes[request.pending_id] = "posted" if request.is_posted else "voided"
            if request.is_posted:
                self.post(transfer.postings, now)
        elif request.pending_until is not None:
            self.pending[request.transfer_id] = request
        else:
            self.post(request.postings, now)
            if request.reverses_id is not None:
                self.reversed.add(request.reverses_id)
        return True

    def malformed(self, request: Request) -> set[Code]:
        codes: set[Code] = set()
        if isinstance(request, Transfer):
            names = [posting.account_id for posting in request.postings]
            if len(set(names)) < len(names):
                codes.add("ledger.account_named_twice")
            if any(posting.amount == 0 for posting in request.postings):
                codes.add("ledger.zero_amount")
            if any(abs(posting.amount) > INT64_MAX for posting in request.postings):
                codes.add("ledger.overflow")
            if sum(posting.amount for posting in request.postings):
                codes.add("ledger.unbalanced")
        return codes

    def refuse_transfer(self, transfer: Transfer, now: datetime) -> set[Code]:
        codes: set[Code] = set()
        totals: dict[str, int] = {}
        for posting in transfer.postings:
            account = self.accounts.get(posting.account_id)
            if account is None:
                return {"ledger.account_not_found", "ledger.account_closed"}
            totals[account.unit] = totals.get(account.unit, 0) + posting.amount
            change = posting.amount * account.sign
            if account.is_closed:
                codes.add("ledger.account_closed")
            held = self.held(posting.account_id)
            if change < 0 and account.floor is not None and account.balance - held + change < account.floor:
                codes.add("ledger.insufficient")
            is_over = held - change > INT64_MAX if transfer.pending_until is not None else abs(account.balance + change) > INT64_MAX
            if is_over:
                codes.add("ledger.overflow")
        if any(totals.values()):
            codes.add("ledger.unbalanced")
        if transfer.pending_until is not None and transfer.pending_until <= now:
            codes.add("ledger.pending_expired")
        original = transfer.reverses_id
        if original is not None:
            request = self.requests.get(original)
            if request is None:
                return {"ledger.transfer_not_found", *codes}
            has_moved = request.pending_until is None if isinstance(request, Transfer) else request.is_posted
            if not has_moved:
                codes.add("ledger.transfer_not_posted")
            if original in self.reversed:
                codes.add("ledger.reversed_already")
        return codes

    def refuse_resolution(self, resolution: Resolution, now: datetime) -> set[Code]:
        outcome = self.outcomes.get(resolution.pending_id)
        if outcome is not None:
            return {"ledger.pending_expired" if outcome == "expired" else "ledger.pending_resolved"}
        pending = self.pending.get(resolution.pending_id)
        if pending is None:
            return {"ledger.pending_not_found"}
        codes: set[Code] = set()
        if resolution.is_posted:
            assert pending.pending_until is not None
            if pending.pending_until <= now:
                codes.add("ledger.pending_expired")
            for posting in pending.postings:
                account = self.accounts[posting.account_id]
                if abs(account.balance + posting.amount * account.sign) > INT64_MAX:
                    codes.add("ledger.overflow")
        return codes

    def post(self, postings: tuple[Posting, ...], now: datetime) -> None:
        for posting in postings:
            account = self.accounts[posting.account_id]
            account.entries.append((now, posting.amount * account.sign))


class LedgerMachine(RuleBasedStateMachine):
    """Asks the ledger, through its writer, and the model the same."""

    def __init__(self, servers: Servers) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.books: Books = self.runner.run(self.stack.enter_async_context(books_on(servers)))
        self.writer = self.books.writer()
        self.model = Model({self.books.issuer: ModelAccount("points", 1, None)})

    def teardown(self) -> None:
        self.runner.run(self.writer.close())
        broken = self.runner.run(self.books.broken())
        histories = self.runner.run(self.histories())
        self.runner.run(self.stack.aclose())
        self.runner.close()
        assert broken == {}
        for account_id, account in self.model.accounts.items():
            as_of = [sum(change for at, change in account.entries if at <= instant) for instant, _ in account.entries]
            assert histories[account_id] == (account.entries, as_of)

    async def histories(self) -> dict[uuid.UUID, tuple[list[tuple[datetime, int]], list[int]]]:
        """For each account its entries, and what the ledger says its balance was when each was recorded."""
        found = {}
        async with self.books.database.transaction(self.books.community_id) as tx:
            for account_id, account in self.model.accounts.items():
                entries = [(entry.recorded_at, entry.change) for entry in await ledger.entries(tx, account_id, None, 1000)]
                as_of = [await ledger.balance_at(tx, account_id, at) for at, _ in account.entries]
                found[account_id] = (entries[::-1], as_of)
        return found

    @initialize()
    def open_some(self) -> None:
        for floor, side in ((0, Side.CREDIT), (0, Side.CREDIT), (None, Side.CREDIT)):
            self.open_account("points", side, floor)

    @rule(unit=st.sampled_from(["points", "fen"]), side=st.sampled_from(Side), floor=st.sampled_from([None, 0, -5]))
    @precondition(lambda self: len(self.model.accounts) < 8)
    def open_account(self, unit: str, side: Side, floor: int | None) -> None:
        account_id = self.runner.run(self.books.open(floor, unit=unit, side=side))
        self.model.accounts[account_id] = ModelAccount(unit, 1 if side is Side.DEBIT else -1, floor)

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        """Up to six requests at once, of which later ones may build on earlier ones."""
        asked: list[Request] = []
        for _ in range(data.draw(st.integers(1, 6))):
            asked.append(self.draw_request(data, asked))
        answers = self.runner.run(self.submit(asked))
        for request, answer in zip(asked, answers, strict=True):
            expected = self.model.apply(request, self.books.clock.now)
            if isinstance(expected, bool):
                assert isinstance(answer, Receipt), (request, answer)
                assert (answer.transfer_id, answer.is_new) == (request.transfer_id, expected)
            else:
                assert isinstance(answer, ServiceError), (request, answer, expected)
                assert answer.code in expected

    async def submit(self, asked: Sequence[Request]) -> list[Receipt | BaseException]:
        return await asyncio.gather(*(self.writer.submit(r.community_id, r) for r in asked), return_exceptions=True)

    def draw_request(self, data: st.DataObject, asked: Sequence[Request]) -> Request:
        known = [*self.model.requests.values(), *asked]
        pending = [*self.model.pending.values(), *(r for r in asked if isinstance(r, Transfer) and r.pending_until is not None)]
        kinds = ["transfer", "pending", *(["reverse", "repeat", "alter"] if known else []), *(["resolve"] * 3 if pending else [])]
        kind = data.draw(st.sampled_from(kinds))
        if kind in ("transfer", "pending"):
            until = self.books.clock.now + timedelta(hours=0 if data.draw(SELDOM) else 2) if kind == "pending" else None
            return self.request(self.draw_postings(data), pending_until=until)
        if kind == "resolve":
            chosen = data.draw(st.sampled_from(known if data.draw(SELDOM) else pending))
            return Resolution(new_id(), self.books.community_id, chosen.transfer_id, data.draw(st.booleans()))
        chosen = data.draw(st.sampled_from(known))
        if kind == "reverse":
            moved = postings_of(chosen, known)
            return self.request(tuple(Posting(p.account_id, -p.amount) for p in moved), reverses_id=chosen.transfer_id)
        return replace(chosen, details={"altered": 1}) if kind == "alter" else chosen

    def request(self, postings: tuple[Posting, ...], **content: Any) -> Transfer:
        return Transfer(new_id(), self.books.community_id, "test", postings, **content)

    def draw_postings(self, data: st.DataObject) -> tuple[Posting, ...]:
        """Postings that mostly balance, between accounts that mostly differ and have one unit."""
        is_mixed = data.draw(SELDOM)
        accounts = [key for key, account in self.model.accounts.items() if is_mixed or account.unit == "points"]
        amounts = data.draw(st.lists(AMOUNTS, min_size=1, max_size=2))
        named = data.draw(st.permutations(accounts))
        if data.draw(SELDOM):
            named = [named[0]] * 3
        total = sum(amounts) + data.draw(SELDOM)
        return tuple(map(Posting, named, [*amounts, -total]))

    @rule(hours=st.integers(1, 3), is_timer_running=st.booleans())
    def time_passes(self, hours: int, is_timer_running: bool) -> None:
        self.books.clock.advance(hours=hours)
        if is_timer_running:
            expired = self.runner.run(self.expire())
            due = {key for key, transfer in self.model.pending.items() if transfer.pending_until <= self.books.clock.now}  # type: ignore[operator]
            assert expired == due
            for pending_id in due:
                del self.model.pending[pending_id]
                self.model.outcomes[pending_id] = "expired"

    async def expire(self) -> set[uuid.UUID]:
        async with self.books.database.transaction(PLATFORM) as tx:
            return {transfer.transfer_id for transfer in await ledger.expire_holds(tx)}

    @rule(data=st.data())
    @precondition(lambda self: len(self.model.accounts) > 6)
    def close(self, data: st.DataObject) -> None:
        account_id = data.draw(st.sampled_from(list(self.model.accounts)[4:]))
        account = self.model.accounts[account_id]
        is_named = any(posting.account_id == account_id for pending in self.model.pending.values() for posting in pending.postings)
        if account.balance or is_named:
            with pytest.raises(Conflict, match=r"ledger\.account_not_empty"):
                self.runner.run(self.books.close(account_id))
        else:
            self.runner.run(self.books.close(account_id))
            account.is_closed = True

    @invariant()
    def balances_are_the_models(self) -> None:
        for account_id, balance in self.runner.run(self.balances()).items():
            account = self.model.accounts[account_id]
            assert balance == Balance(account.balance, self.model.held(account_id), len(account.entries))

    async def balances(self) -> dict[uuid.UUID, Balance]:
        async with self.books.database.transaction(self.books.community_id) as tx:
            return await (await ledger.take_turn(tx, [self.books.community_id])).balances(self.model.accounts.keys())


def postings_of(request: Request, known: Sequence[Request]) -> tuple[Posting, ...]:
    """What a request moved, or would have."""
    if isinstance(request, Transfer):
        return request.postings
    pending = next((other for other in known if other.transfer_id == request.pending_id), None)
    return pending.postings if isinstance(pending, Transfer) else (Posting(new_id(), 1), Posting(new_id(), -1))


def test_the_ledger_and_a_model_in_memory_agree(servers: Servers) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(servers)

    run_state_machine_as_test(Machine, settings=settings(max_examples=25, stateful_step_count=25, suppress_health_check=list(HealthCheck)))
