"""Processes and servers are killed at random while cars leave: no charge is lost, none is doubled, every car gets out.

`make drill` runs it with two thousand cars, which takes minutes; `make test` with fewer.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec

from console.demonstration import Demonstration
from console.seed import TARIFF
from console.simulator.cameras import PushCamera
from console.up import Local, Options, local_platform
from tests.journeys.lots import open_lot
from tests.journeys.people import Phone, Town
from tests.support import UNLIMITED, eventually

EXITS = int(os.environ.get("LINLI_DRILL_EXITS", "120"))
LANES = 10
AT_ONCE = 24
CAR_DEADLINE_S = 180.0
KILL_EVERY_S = (2.0, 5.0)


async def insist(what: str, work: Callable[[], Awaitable[Any]]) -> Any:
    """Tries again, as phones and cameras do, until it gets an answer that is not about something being away."""
    end = time.monotonic() + CAR_DEADLINE_S
    last: object = None
    while time.monotonic() < end:
        try:
            answer = await work()
            if answer is not None:
                return answer
        except (httpx.HTTPError, ValueError) as error:
            last = error
        await asyncio.sleep(random.uniform(0.05, 0.3))
    raise AssertionError(f"{what}: not within {CAR_DEADLINE_S} s, last {last!r}")


class Drill:
    """The lot, its cars and who kills what."""

    def __init__(self, local: Local, town: Town, phone: Phone, entries: list[PushCamera], exits: list[PushCamera], lot: str) -> None:
        self.local, self.town, self.phone, self.lot = local, town, phone, lot
        self.entries, self.exits = entries, exits
        self.kills: dict[str, int] = {}

    async def drive(self, number: int) -> None:
        """One car: in, pay, out."""
        plate = f"京K{number:05}"
        await insist(f"{plate} enters", lambda: self._passes(self.entries[number % LANES], plate))
        charge = await insist(f"{plate} is quoted", lambda: self._quote(plate))
        payment = await insist(f"{plate} orders", lambda: self._order(charge, f"pay-{number}"))
        await insist(f"{plate} pays", lambda: self._pay(payment["pay_url"]))
        await insist(f"{plate} leaves", lambda: self._passes(self.exits[number % LANES], plate))

    async def _passes(self, camera: PushCamera, plate: str) -> bool | None:
        # A camera sees the car again and again for as long as it stands there.
        return True if (await camera.push(plate, datetime.now(UTC))).opened else None

    async def _quote(self, plate: str) -> str | None:
        answer = await self.phone.request("POST", "/v1/parking/quotes", {"lot_id": self.lot, "plate": plate})
        return str(answer.json()["charge_id"]) or None if answer.is_success else None

    async def _order(self, charge: str, key: str) -> Any:
        answer = await self.phone.request("POST", f"/v1/charges/{charge}/payments", {"provider": "sandbox"}, Idempotency_Key=key)
        return answer.json() if answer.is_success else None

    async def _pay(self, url: str) -> bool | None:
        return True if (await self.town.client.post(url)).is_success else None

    async def kill_until(self, done: asyncio.Event) -> None:
        """Kills something every few seconds."""
        chance = random.Random(7)
        names = [name for name in self.local.children if name != "provider"]
        while not done.is_set():
            await asyncio.sleep(chance.uniform(*KILL_EVERY_S))
            victim = chance.choice([*names, "nats", "postgres"])
            self.kills[victim] = self.kills.get(victim, 0) + 1
            if victim in ("nats", "postgres"):
                server = self.local.nats if victim == "nats" else self.local.postgres
                server.kill()
                await asyncio.sleep(chance.uniform(0.0, 1.0))
                server.restart()
            elif (pid := self.local.children[victim].pid) is not None:
                with contextlib.suppress(ProcessLookupError):  # still dead from the last time
                    os.kill(pid, signal.SIGKILL)


async def make_lot(manager: Phone, town: Town) -> tuple[str, list[PushCamera], list[PushCamera]]:
    """A large lot with many lanes, whose barriers are wired to their cameras."""
    lot = await open_lot(manager, "drill", capacity=EXITS + 10, rules={**TARIFF, "grace_minutes": 60})
    entries = [await town.new_lane(manager, lot, f"drill-entry-{number}", entry=True) for number in range(LANES)]
    exits = [await town.new_lane(manager, lot, f"drill-exit-{number}", entry=False) for number in range(LANES)]
    return lot, entries, exits


async def test_every_car_gets_out_and_every_charge_is_paid_once_whatever_is_killed(tmp_path: Path) -> None:
    options = Options(folder=tmp_path, separate=True, settings=UNLIMITED)
    limits = httpx.Limits(max_connections=100)
    async with local_platform(options) as local, httpx.AsyncClient(trust_env=False, timeout=10, limits=limits) as client:
        plan = local.demonstration
        assert isinstance(plan, Demonstration)
        town = Town(msgspec.structs.replace(plan), tmp_path, client)
        manager, phone = await town.manager(), await town.visitor("13911112222")
        lot, entries, exits = await make_lot(manager, town)
        drill = Drill(local, town, phone, entries, exits, lot)

        done = asyncio.Event()
        killer = asyncio.create_task(drill.kill_until(done))
        places = asyncio.Semaphore(AT_ONCE)

        async def trip(number: int) -> None:
            async with places:
                await drill.drive(number)

        try:
            await asyncio.gather(*(trip(number) for number in range(EXITS)))
        finally:
            done.set()
            await killer
        print("killed:", drill.kills)
        assert sum(drill.kills.values()) >= min(5, EXITS // 100), drill.kills
        await check_books(town, lot)


async def check_books(town: Town, lot: str) -> None:
    """Every stay ended and was paid exactly once, and no more was taken than that."""

    async def signed_in() -> Phone | None:
        try:
            return await town.manager()
        except AssertionError:
            return None  # the last victim is not back yet

    manager: Phone = await insist("the manager signs in again", signed_in)

    async def settled() -> tuple[list[Any], list[Any]] | None:
        try:
            stays = await manager.rows(f"/v1/parking/sessions?lot_id={lot}", "sessions")
            payments = await manager.rows("/v1/payments?state=PAYMENT_STATE_SUCCEEDED", "payments")
        except (httpx.HTTPError, AssertionError):
            return None
        is_over = all(stay["state"] == "SESSION_STATE_LEFT" and int(stay["paid_fen"]) >= 500 for stay in stays)
        return (stays, payments) if is_over and len(stays) == EXITS and len(payments) >= EXITS else None

    books = await eventually(settled, "every stay has ended and is paid", deadline_s=60)
    assert books is not None
    stays, payments = books
    assert len({payment["charge_id"] for payment in payments}) == len(payments)
    assert sum(int(stay["paid_fen"]) for stay in stays) == sum(int(payment["amount_fen"]) for payment in payments)
