"""Who kills what in a drill, and how those who are in it carry on."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from console.up import Local
from tests.journeys.people import Phone, Town

# How long something that is tried again and again may take, kills or not.
DEADLINE_S = 180.0


async def insist(what: str, work: Callable[[], Awaitable[Any]]) -> Any:
    """Tries again, as phones and devices do, until it gets an answer that is not about something being away."""
    end = time.monotonic() + DEADLINE_S
    last: object = None
    while time.monotonic() < end:
        try:
            answer = await work()
            if answer is not None:
                return answer
        except (httpx.HTTPError, ValueError) as error:
            last = error
        await asyncio.sleep(random.uniform(0.05, 0.3))
    raise AssertionError(f"{what}: not within {DEADLINE_S} s, last {last!r}")


@asynccontextmanager
async def killing(local: Local, every_s: tuple[float, float], victims: Sequence[str] = ()) -> AsyncIterator[dict[str, int]]:
    """For as long as the block, kills a service or a server with SIGKILL, at intervals within these bounds. Counts whom.

    Without `victims` anybody may be hit but the payment provider.
    """
    kills: dict[str, int] = {}
    done = asyncio.Event()
    names = victims or [*(name for name in local.children if name != "provider"), "nats", "postgres"]
    killer = asyncio.create_task(_kill_until(done, local, every_s, kills, names))
    try:
        yield kills
    finally:
        done.set()
        await killer


async def _kill_until(
    done: asyncio.Event, local: Local, every_s: tuple[float, float], kills: dict[str, int], victims: Sequence[str]
) -> None:
    chance = random.Random(7)
    while not done.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), chance.uniform(*every_s))
            return
        victim = chance.choice(victims)
        kills[victim] = kills.get(victim, 0) + 1
        if victim in ("nats", "postgres"):
            server = local.nats if victim == "nats" else local.postgres
            server.kill()
            await asyncio.sleep(chance.uniform(0.0, 1.0))
            server.restart()
        elif (pid := local.children[victim].pid) is not None:
            with contextlib.suppress(ProcessLookupError):  # still dead from the last time
                os.kill(pid, signal.SIGKILL)


async def manager_again(town: Town) -> Phone:
    """The manager's phone, once the last victim is back."""

    async def signed_in() -> Phone | None:
        try:
            return await town.manager()
        except AssertionError:
            return None

    phone: Phone = await insist("the manager signs in again", signed_in)
    return phone
