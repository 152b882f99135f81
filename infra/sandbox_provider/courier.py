"""Delivers notifications: signed, again and again with growing delays until the merchant has taken them, across restarts."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import datetime

import httpx
import msgspec

from infra.sandbox_provider.books import Books, Delivery
from infra.sandbox_provider.faults import FaultKind, Faults
from infra.sandbox_provider.signatures import Signer
from servicekit.clock import Clock

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 180.0, 600.0, 1_800.0, 3_600.0)
_AT_ONCE = 32
_TIMEOUT_S = 5.0
_HELD = float("inf")
# Between two that are sent in a changed order, so that they also arrive in it.
_STEP_S = 0.05


class Courier:
    """One sandbox's courier. `override_url` takes every notification, whatever its order says, when it is not empty."""

    def __init__(
        self,
        books: Books,
        faults: Faults,
        signer: Signer,
        clock: Clock,
        override_url: str,
        retry_delays_s: Sequence[float],
    ) -> None:
        self._books = books
        self._faults = faults
        self._signer = signer
        self._clock = clock
        self._override_url = override_url
        self._retry_delays_s = retry_delays_s
        self._woken = asyncio.Event()
        self._on_the_way: dict[int, asyncio.Task[None]] = {}

    def send(self, url: str, event_type: str, resource: dict[str, object], delay_s: float = 0.0) -> None:
        """Takes on a notification; the armed faults decide what becomes of it."""
        strikes = self._faults.strikes
        if strikes(FaultKind.LOSE):
            return
        if strikes(FaultKind.WRONG_AMOUNT):
            amount = resource["amount_fen"]
            assert isinstance(amount, int)
            resource = {**resource, "amount_fen": amount + 1}
        if strikes(FaultKind.WRONG_MERCHANT):
            resource = {**resource, "merchant_id": "somebody-else"}
        if fault := strikes(FaultKind.DELAY):
            delay_s += fault.seconds
        copies = 2 if strikes(FaultKind.DUPLICATE) else 1
        unsigned = strikes(FaultKind.WRONG_SIGNATURE) is not None
        reordered = strikes(FaultKind.REORDER)
        body = _body(event_type, resource, self._clock())
        for _ in range(copies):
            next_at = _HELD if reordered else time.time() + delay_s
            self._books.put_notification(self._override_url or url, body, next_at, unsigned=unsigned)
        if reordered and reordered.count == 0:
            held = self._books.held_notifications()
            for step, notification_id in enumerate(reversed(held)):
                self._books.postpone_notification(notification_id, time.time() + step * _STEP_S, 0)
        self._woken.set()

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
            try:
                while True:
                    self._woken.clear()
                    for delivery in self._books.due_notifications(time.time(), _AT_ONCE):
                        if delivery.notification_id not in self._on_the_way and len(self._on_the_way) < _AT_ONCE:
                            task = asyncio.create_task(self._deliver(client, delivery))
                            self._on_the_way[delivery.notification_id] = task
                    await self._wait()
            finally:
                tasks = list(self._on_the_way.values())
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self) -> None:
        wait_s = 1.0 if self._on_the_way else max(0.0, min(1.0, self._books.next_notification_at() - time.time()))
        try:
            await asyncio.wait_for(self._woken.wait(), wait_s)
        except TimeoutError:
            pass

    async def _deliver(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        try:
            if await self._is_taken(client, delivery) or delivery.attempts >= len(self._retry_delays_s):
                self._books.drop_notification(delivery.notification_id)
            else:
                next_at = time.time() + self._retry_delays_s[delivery.attempts]
                self._books.postpone_notification(delivery.notification_id, next_at, delivery.attempts + 1)
        finally:
            del self._on_the_way[delivery.notification_id]
            self._woken.set()

    async def _is_taken(self, client: httpx.AsyncClient, delivery: Delivery) -> bool:
        signed = delivery.body + b" " if delivery.unsigned else delivery.body
        headers = {**self._signer.headers(signed, self._clock()), "Content-Type": "application/json"}
        try:
            answer = await client.post(delivery.url, content=delivery.body, headers=headers)
            return answer.status_code == 200 and msgspec.json.decode(answer.content, type=dict[str, str]).get("code") == "SUCCESS"
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError):
            return False


def _body(event_type: str, resource: dict[str, object], now: datetime) -> bytes:
    return msgspec.json.encode({"id": uuid.uuid4().hex, "event_type": event_type, "create_time": now, "resource": resource})
