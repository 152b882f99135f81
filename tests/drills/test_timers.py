"""Nobody answers, while processes and servers are killed: every promise is missed once, and everybody of the chain is told once.

The model: each intruder is one alarm, each alarm one order, and each order goes up the whole chain, because it is so old that all of its
time has run out, or is about to. `make drill` runs it with four hundred orders, `make test` with fewer.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from console.demonstration import Demonstration
from console.up import Options, local_platform
from linli.access.v1.events_pb2 import SEVERITY_CRITICAL, AlarmRaised
from linli.identity.v1.events_pb2 import StaffChanged
from linli.notification.v1.events_pb2 import Notified
from linli.workorders.v1.events_pb2 import TargetMissed
from servicekit.database import Transaction
from servicekit.identifiers import new_id
from servicekit.service import Service
from servicekit.timers import Due, Handler, Timer
from servicekit.times import to_timestamp
from services.workorders import timer_operations
from services.workorders.service import SERVICE as WORKORDERS
from tests.drills.killing import insist, killing, manager_again
from tests.journeys.people import Phone, Told, Town
from tests.support import UNLIMITED, Platform, Servers, eventually, platform

ORDERS = int(os.environ.get("LINLI_DRILL_ORDERS", "50"))
# The demonstration answers an emergency within five minutes, and tells the next of the chain after each half of that.
PROMISE = timedelta(minutes=5)
CHAIN = ("foreman", "property_manager", "residents_committee_member")
INTRUSION = "有人闯入"
# Until when the last of the chain is told, after the intruder is seen.
LAST_DUE = PROMISE * 2
# So many intruders a camera tells apart.
TRACKS = 10
OBSERVE_EVERY_S = 0.12
DUE_WITHIN_S = (1.0, 10.0)
KILL_EVERY_S = (0.8, 2.0)
VICTIMS = ("workorders", "workorders", "workorders", "access", "gateway", "nats", "postgres")


# With everything killed at random.


async def observe(town: Town, number: int, due_in_s: float) -> None:
    """A box tells of somebody whom it saw minutes ago."""
    watch = town.demonstration.watch
    assert watch is not None
    seen_at = datetime.now(UTC) - LAST_DUE + timedelta(seconds=due_in_s)
    camera = f"drill-camera-{number // TRACKS}"
    seen = {"id": f"drill-{number}", "camera": camera, "kind": "intrusion", "track": f"track-{number}", "at": seen_at.isoformat()}
    auth = httpx.BasicAuth(watch.box_id, town.demonstration.secrets[watch.box_id])

    async def told() -> bool | None:
        url = f"{town.demonstration.ingest_url}/devices/observations"
        return True if (await town.client.post(url, json={"observations": [seen]}, auth=auth)).is_success else None

    await insist(f"intruder {number} is seen", told)


@asynccontextmanager
async def hearing(town: Town, phone: Phone) -> AsyncIterator[Told]:
    """What an account is told, however often its connection breaks."""
    told = Told(last_id="0")

    async def listen() -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError, AssertionError):
                async with phone.listening(told):
                    await told.ended.wait()
            await asyncio.sleep(0.2)

    task = asyncio.create_task(listen())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def missed_by_order(manager: Phone) -> dict[str, list[str]] | None:
    """Which promises of each order of an intruder were missed, and whom that told; None while something is away."""
    try:
        listed = await manager.rows("/v1/work-orders?kind=ORDER_KIND_ALARM&open_only=true", "orders")
        orders = [order for order in listed if order["title"].startswith(INTRUSION)]
        steps = [await manager.rows(f"/v1/work-orders/{order['order_id']}/steps?", "steps") for order in orders]
    except (httpx.HTTPError, AssertionError):
        return None
    assert len({order["origin_id"] for order in orders}) == len(orders)
    return {
        order["order_id"]: [step["note"] for step in its if step["action"] == "missed"] for order, its in zip(orders, steps, strict=True)
    }


@pytest.mark.timeout(600)
async def test_every_promise_is_missed_once_and_everybody_is_told_once_whoever_is_killed(tmp_path: Path) -> None:
    options = Options(folder=tmp_path, separate=True, settings=UNLIMITED)
    async with local_platform(options) as local, httpx.AsyncClient(trust_env=False, timeout=10) as client:
        plan = local.demonstration
        assert isinstance(plan, Demonstration)
        town = Town(plan, tmp_path, client)
        manager = await town.manager()
        chance = random.Random(19)
        async with hearing(town, manager) as told:
            async with killing(local, KILL_EVERY_S, VICTIMS) as kills:
                for number in range(ORDERS):
                    await observe(town, number, chance.uniform(*DUE_WITHIN_S))
                    await asyncio.sleep(OBSERVE_EVERY_S)
                # They come due while everything goes on being killed.
                await asyncio.sleep(DUE_WITHIN_S[1])
            print("killed:", kills)
            assert sum(kills.values()) >= ORDERS // 20
            manager = await manager_again(town)
            expected = sorted(f"response: {role}" for role in CHAIN)

            async def all_missed() -> Any:
                found = await missed_by_order(manager)
                return found if found and len(found) >= ORDERS and all(len(each) >= len(CHAIN) for each in found.values()) else None

            missed = await eventually(all_missed, "every promise is missed", deadline_s=90, every_s=0.5)
            assert len(missed) == ORDERS
            assert {order_id: sorted(notes) for order_id, notes in missed.items()} == dict.fromkeys(missed, expected)

            def misses() -> dict[str, int]:
                links = [notice["link"] for notice in told.notices if notice["kind"] == "workorders.missed"]
                return dict(Counter(link.rpartition("/")[2] for link in links))

            async def is_told() -> bool:
                return len(misses()) >= ORDERS

            await eventually(is_told, "the manager is told of every order", deadline_s=30, every_s=0.2)
            assert misses() == dict.fromkeys(missed, 1)


# With one of the two defences, and with none: a timer and what it does are one transaction, and an order remembers what was told of it.


class Chain:
    """Work orders in this process. Half of the timers fail once, just when they have done what they do, as when the database is killed."""

    def __init__(self, *, in_one_transaction: bool) -> None:
        self.running: Platform | None = None
        self.failed: set[Due] = set()
        self._chance = random.Random(29)
        self._seen: set[Due] = set()
        self._in_one_transaction = in_one_transaction

    def service(self) -> Service:
        """Workorders with timers that fail."""
        return replace(WORKORDERS, timers=[Timer(each.kind, self._failing(each.run)) for each in WORKORDERS.timers])

    def _failing(self, run: Handler) -> Handler:
        async def fire(tx: Transaction, due: Due) -> None:
            if self._in_one_transaction:
                await run(tx, due)
            else:
                assert self.running is not None
                async with self.running.transaction("workorders", tx.community_id) as own:
                    await run(own, due)
            if due in self._seen:
                return
            self._seen.add(due)
            if self._chance.random() < 0.5:
                self.failed.add(due)
                raise ConnectionResetError

        return fire


async def told_in_this_process(servers: Servers, chain: Chain, orders: int) -> Counter[tuple[str, int]]:
    """How often each step of each order's chain was told. Ends when every step of every order was."""
    community_id, accounts = new_id(), {role: new_id() for role in CHAIN}
    settings = {"LINLI_WORKORDERS_DATA_KEYS": "k1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="}
    async with platform(servers, chain.service(), settings=settings) as running:
        chain.running = running
        for role, account_id in accounts.items():
            await running.publish(StaffChanged(account_id=str(account_id), roles=[role]), community_id, version=1)
        for _ in range(orders):
            await raise_alarm(running, community_id)

        def counted() -> Counter[tuple[str, int]]:
            return Counter((event.message.order_id, event.message.level) for event in running.events(TargetMissed))

        async def is_over() -> bool:
            async with running.transaction("workorders", community_id) as tx:
                left = await tx.fetchval("SELECT count(*) FROM timers WHERE due_at <= $1", tx.now)
                left += await tx.fetchval("SELECT count(*) FROM outbox WHERE sent_at IS NULL")
            return left == 0 and len(counted()) == orders * len(CHAIN)

        await eventually(is_over, "every step is told", every_s=0.1, deadline_s=30)
        # What is published last is heard last.
        last = await running.publish(StaffChanged(account_id=str(new_id())), community_id, version=1)
        await running.event(StaffChanged, lambda event: event.event_id == last)
        told = Counter(event.message.account_id for event in running.events(Notified) if event.message.kind == "workorders.missed")
        assert sum(told.values()) == sum(counted().values())
        return counted()


async def raise_alarm(running: Platform, community_id: UUID) -> None:
    """An alarm that was raised so long ago that all of its order's time has run out."""
    raised_at = to_timestamp(datetime.now(UTC) - timedelta(hours=1))
    alarm = AlarmRaised(
        alarm_id=str(new_id()),
        kind="intrusion",
        severity=SEVERITY_CRITICAL,
        raised_at=raised_at,
        work_order_category="security.intrusion",
        text_zh=INTRUSION,
        text_en="Intrusion",
    )
    await running.publish(alarm, community_id, version=1)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders that do not remember what of their promises was told."""
    monkeypatch.setattr(timer_operations, "told_name", lambda *_: "")


@pytest.mark.usefixtures("forgetful")
async def test_a_timer_that_fails_when_it_has_done_what_it_does_has_done_nothing(servers: Servers) -> None:
    chain = Chain(in_one_transaction=True)
    told = await told_in_this_process(servers, chain, 10)
    assert chain.failed
    assert set(told.values()) == {1}


async def test_an_order_remembers_what_was_told_of_it(servers: Servers) -> None:
    chain = Chain(in_one_transaction=False)
    told = await told_in_this_process(servers, chain, 10)
    assert chain.failed
    assert set(told.values()) == {1}


@pytest.mark.usefixtures("forgetful")
async def test_the_drill_fails_without_either_defence(servers: Servers) -> None:
    chain = Chain(in_one_transaction=False)
    told = await told_in_this_process(servers, chain, 10)
    assert len(chain.failed) == sum(told.values()) - len(told) > 0
