"""Processes and servers are killed at random while cars leave: no charge is lost, none is doubled, every car gets out.

`make drill` runs it with two thousand cars, which takes minutes; `make test` with fewer.
"""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec

from console.demonstration import Demonstration
from console.seed import TARIFF
from console.seed.lots import open_lot
from console.simulator.cameras import PushCamera
from console.up import Options, local_platform
from tests.drills.killing import insist, killing, manager_again
from tests.journeys.people import Phone, Town
from tests.support import UNLIMITED, eventually

EXITS = int(os.environ.get("LINLI_DRILL_EXITS", "120"))
LANES = 10
AT_ONCE = 24
KILL_EVERY_S = (2.0, 5.0)


class Drill:
    """The lot and its cars."""

    def __init__(self, town: Town, phone: Phone, entries: list[PushCamera], exits: list[PushCamera], lot: str) -> None:
        self.town, self.phone, self.lot = town, phone, lot
        self.entries, self.exits = entries, exits

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
        drill = Drill(town, phone, entries, exits, lot)

        places = asyncio.Semaphore(AT_ONCE)

        async def trip(number: int) -> None:
            async with places:
                await drill.drive(number)

        async with killing(local, KILL_EVERY_S) as kills:
            await asyncio.gather(*(trip(number) for number in range(EXITS)))
        print("killed:", kills)
        assert sum(kills.values()) >= min(5, EXITS // 100), kills
        await check_books(town, lot)


async def check_books(town: Town, lot: str) -> None:
    """Every stay ended and was paid exactly once, and no more was taken than that."""

    manager = await manager_again(town)

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
