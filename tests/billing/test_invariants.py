"""Whatever happens in whatever order, no charge is settled twice and no fen is lost: random histories on a real database."""

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linli.billing.v1.events_pb2 import PaymentRefunded, PaymentSucceeded
from servicekit.errors import Conflict
from servicekit.identifiers import new_id
from services.billing import operations, store
from services.billing.charges import Charge, ChargeState
from services.billing.payments import Outcome, Payment, PaymentState
from services.billing.providers import RefundStatus, Taking
from tests.billing.world import World, world
from tests.support import Servers, TestClock, principal

_PRICE_FEN = 100
# None that is configured: the timers leave alone what the histories do.
_PROVIDER = "elsewhere"
_STEP = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 2)),
    st.tuples(st.just("take"), st.integers(0, 5), st.integers(0, 1), st.sampled_from([0, 10, 20])),
    st.tuples(st.just("close"), st.integers(0, 5)),
    st.tuples(st.just("replace")),
    st.tuples(st.just("refund"), st.integers(0, 5), st.integers(1, 120)),
    st.tuples(st.just("finish"), st.integers(0, 5), st.sampled_from(Outcome)),
)
_HISTORY = st.lists(st.lists(_STEP, min_size=1, max_size=3), min_size=1, max_size=12)


@dataclass(slots=True)
class _History:
    """One charge and what happened to it. Each step is a transaction; the steps of one group run at the same time."""

    billing: World
    charge_id: uuid.UUID = field(default_factory=new_id)
    payers: list[uuid.UUID] = field(default_factory=lambda: [new_id() for _ in range(3)])
    payments: list[Payment] = field(default_factory=list)
    refunds: list[uuid.UUID] = field(default_factory=list)
    # What the provider took: transaction and amount.
    taken: dict[str, int] = field(default_factory=dict)

    async def run(self, history: list[list[tuple]]) -> None:  # type: ignore[type-arg]
        await self._raise(self.charge_id, None)
        for group in history:
            await asyncio.gather(*(getattr(self, f"_{step[0]}")(*step[1:]) for step in group))
            await self._collect_refunds()
        await self.check()

    def _transaction(self, payer: uuid.UUID | None = None):  # type: ignore[no-untyped-def]
        who = principal(community_id=self.billing.community_id, account_id=payer)
        return self.billing.running.database("billing").transaction(self.billing.community_id, principal=who)

    async def _raise(self, charge_id: uuid.UUID, replaces: uuid.UUID | None) -> None:
        now = self.billing.clock.now
        until = now + timedelta(minutes=15)
        charge = Charge(charge_id, "parking", "stay", _PRICE_FEN, "停车费", "Parking", ChargeState.DUE, until, now, replaces)
        async with self._transaction() as tx:
            await operations.raise_charge(tx, charge)

    async def _replace(self) -> None:
        await self._raise(new_id(), self.charge_id)

    async def _open(self, payer: int) -> None:
        try:
            async with self._transaction(self.payers[payer]) as tx:
                payment = await operations.open_payment(tx, self.charge_id, _PROVIDER)
        except Conflict:
            return
        assert payment is not None
        if payment.payment_id not in {p.payment_id for p in self.payments}:
            self.payments.append(payment)

    async def _take(self, number: int, again: int, minutes: int) -> None:
        if not self.payments:
            return
        payment = self.payments[number % len(self.payments)]
        transaction_id = f"{payment.payment_id}-{again}"
        self.taken[transaction_id] = _PRICE_FEN
        # The same taking is always reported with the same time.
        at = self.billing.clock.now + timedelta(minutes=minutes if again else 0)
        async with self._transaction() as tx:
            taking = Taking(payment.reference, transaction_id, _PRICE_FEN, at)
            await operations.settle_payment(tx, _PROVIDER, payment.payment_id, taking)

    async def _close(self, number: int) -> None:
        if self.payments:
            async with self._transaction() as tx:
                await operations.close_payment(tx, self.payments[number % len(self.payments)].payment_id)

    async def _refund(self, number: int, amount_fen: int) -> None:
        if not self.payments:
            return
        try:
            async with self._transaction() as tx:
                await operations.request_refund(tx, self.payments[number % len(self.payments)].payment_id, amount_fen, "退款")
        except Conflict:
            pass

    async def _finish(self, number: int, outcome: Outcome) -> None:
        if not self.refunds:
            return
        async with self._transaction() as tx:
            refund = await store.refund(tx, self.refunds[number % len(self.refunds)])
            assert refund is not None
            status = RefundStatus(refund.reference, outcome, refund.amount_fen, tx.now)
            await operations.finish_refund(tx, refund.refund_id, status)

    async def _collect_refunds(self) -> None:
        async with self._transaction() as tx:
            rows = await tx.fetch(
                "SELECT refund_id FROM refunds JOIN payments USING (payment_id) WHERE charge_id = $1 ORDER BY refund_id", self.charge_id
            )
        self.refunds = [row["refund_id"] for row in rows]

    async def check(self) -> None:
        """What must hold after any history."""
        async with self._transaction() as tx:
            charge = await store.charge(tx, self.charge_id)
            rows = await tx.fetch("SELECT * FROM payments WHERE charge_id = $1", self.charge_id)
            refunds = await tx.fetch(
                "SELECT r.* FROM refunds r JOIN payments p USING (payment_id) WHERE p.charge_id = $1 ORDER BY refund_id", self.charge_id
            )
            events = Counter(row["type"] for row in await tx.fetch("SELECT type FROM outbox WHERE aggregate = $1", str(self.charge_id)))
        assert charge is not None
        booked = {row["provider_payment_id"]: row for row in rows if row["provider_payment_id"]}
        assert set(booked) == set(self.taken), "every taking is booked once"
        settled = [row for row in rows if row["state"] == PaymentState.SUCCEEDED]
        assert len(settled) <= 1
        assert events[PaymentSucceeded.DESCRIPTOR.full_name] == len(settled)
        assert (charge.state in (ChargeState.PAID, ChargeState.REFUNDED)) == bool(settled)
        for row in rows:
            of_payment = [r for r in refunds if r["payment_id"] == row["payment_id"]]
            done = sum(r["amount_fen"] for r in of_payment if r["state"] == Outcome.SUCCEEDED)
            under_way = sum(r["amount_fen"] for r in of_payment if r["state"] == Outcome.PENDING)
            assert done == row["refunded_fen"]
            assert done + under_way == row["refund_claimed_fen"] <= row["amount_fen"]
            if row["state"] == PaymentState.RETURNED:
                assert of_payment[0]["amount_fen"] == row["amount_fen"], "what was not owed goes back whole"
            if row["state"] == PaymentState.SUCCEEDED:
                assert (charge.state is ChargeState.REFUNDED) == (done == row["amount_fen"])
        assert events[PaymentRefunded.DESCRIPTOR.full_name] == sum(r["state"] == Outcome.SUCCEEDED for r in refunds)


async def test_no_history_settles_a_charge_twice_or_loses_money(servers: Servers, tmp_path: Path) -> None:
    async with world(servers, tmp_path, TestClock()) as billing:
        loop = asyncio.get_running_loop()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(_HISTORY)
        def explore(history: list[list[tuple]]) -> None:  # type: ignore[type-arg]
            asyncio.run_coroutine_threadsafe(_History(billing).run(history), loop).result()

        await asyncio.to_thread(explore)
