"""The kinds of load: what one request or message is, through the devices' own protocols. Each gives the reason why it failed, or nothing.

What a reason says is short and of few values: they are counted.
"""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from console.load.http import Pool
from console.load.site import Site
from console.simulator.bins import Bin
from console.simulator.cameras import plate_alarm
from console.simulator.terminals import ConnectedTerminal, Terminal
from services.access.doors import CredentialKind

Work = Callable[[int], Awaitable[str]]

# Readings of one message.
READINGS_TOGETHER: Final = 100
_ANSWER_S = 10.0
_LEARN_S = 60.0
# What a phone and a desk look at, over all services.
_READS = (
    "/v1/community",
    "/v1/parking/lots",
    "/v1/access/doors?page_size=10",
    "/v1/waste/bins?page_size=10",
    "/v1/points/items?page_size=10",
    "/v1/charges?page_size=10",
    "/v1/work-orders?open_only=true&page_size=10",
)
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


@asynccontextmanager
async def reads(site: Site, _per_second: float) -> AsyncIterator[Work]:
    """Reads through the gateway."""

    async def read(number: int) -> str:
        return await _ask(site.gateway, f"GET {_READS[number % len(_READS)]} HTTP/1.1\r\n", _bearer(site))

    yield read


@asynccontextmanager
async def orders(site: Site, _per_second: float) -> AsyncIterator[Work]:
    """Reports of something that broke, through the gateway."""
    body = json.dumps({"category_id": await site.category_id(), "title": "load"}).encode()

    async def report(_number: int) -> str:
        return await _ask(site.gateway, "POST /v1/work-orders HTTP/1.1\r\n", f"{_bearer(site)}Idempotency-Key: {uuid.uuid4()}\r\n", body)

    yield report


@asynccontextmanager
async def plates(site: Site, per_second: float) -> AsyncIterator[Work]:
    """Cars at entrances; each camera waits for the decision."""
    heads = [(camera, _basic(camera, secret)) for camera, secret in (await site.cameras(per_second)).items()]
    # Other cars than those of the last run.
    first = int(time.time() * 7)

    async def push(number: int) -> str:
        camera, head = heads[number % len(heads)]
        letter, digits = divmod(first + number, 100_000)
        alarm = plate_alarm(camera, f"京{_LETTERS[letter % len(_LETTERS)]}{digits:05}", datetime.now(UTC))
        return await _ask(site.ingest, "POST /devices/plate HTTP/1.1\r\n", head, json.dumps(alarm).encode(), wanted=b'"ok"')

    yield push


@asynccontextmanager
async def readings(site: Site, per_second: float) -> AsyncIterator[Work]:
    """Batches of readings of an edge box."""
    head, together = _basic(*await site.box()), together_of(per_second)

    async def post(_number: int) -> str:
        now_us = time.time_ns() // 1000
        values = [{"metric": "load", "at_us": now_us + nth, "value": 1.5, "sequence": nth} for nth in range(together)]
        body = json.dumps({"batch_id": uuid.uuid4().hex, "readings": values}).encode()
        return await _ask(site.ingest, "POST /devices/readings HTTP/1.1\r\n", head, body)

    yield post


def together_of(readings_per_second: float) -> int:
    """How many readings are in a batch: one batch a second at least."""
    return max(1, min(READINGS_TOGETHER, int(readings_per_second)))


@asynccontextmanager
async def doors(site: Site, per_second: float) -> AsyncIterator[Work]:
    """Cards at doors: until the terminal has what was decided on the server. That it had to decide alone is a failure."""
    address, card = site.address, await site.card("/v1/access/cards")
    terminals = [
        ConnectedTerminal(
            address.mqtt_host, address.mqtt_port, secret, Terminal(site.folder / device_id, device_id, address.door_public_key)
        )
        for device_id, secret in (await site.terminals(per_second)).items()
    ]

    async def show(number: int) -> str:
        decision = await terminals[number % len(terminals)].present(CredentialKind.CARD, card)
        return "decided alone" if decision.offline else ""

    async with _running(*(terminal.run() for terminal in terminals)):
        async with asyncio.timeout(_LEARN_S):
            while not all(each.terminal.knowledge.version for each in terminals):  # noqa: ASYNC110  terminals tell nobody
                await asyncio.sleep(0.1)
        yield show


@asynccontextmanager
async def deposits(site: Site, per_second: float) -> AsyncIterator[Work]:
    """Waste in smart bins: until the broker has stored the record."""
    address, card = site.address, await site.card("/v1/waste/cards")
    bins = [
        Bin(address.mqtt_host, address.mqtt_port, plan, secret, dict.fromkeys(plan.capacity_grams, 0))
        for plan, secret in (await site.bins(per_second)).values()
    ]

    async def bring(number: int) -> str:
        place = bins[number % len(bins)]
        try:
            async with asyncio.timeout(_ANSWER_S):
                await place.send(place.weigh(card, next(iter(place.grams)), 300))
        except TimeoutError:
            return "TimeoutError"
        place.grams = dict.fromkeys(place.grams, 0)
        return ""

    async with _running(*(place.run() for place in bins)):
        yield bring


KINDS: Final[Mapping[str, Callable[[Site, float], AbstractAsyncContextManager[Work]]]] = {
    "reads": reads,
    "plates": plates,
    "doors": doors,
    "deposits": deposits,
    "readings": readings,
    "orders": orders,
}


async def _ask(pool: Pool, line: str, head: str, body: bytes = b"", wanted: bytes = b"") -> str:
    try:
        async with asyncio.timeout(_ANSWER_S):
            status, answer = await pool.request(f"{line}Host: linli\r\nContent-Type: application/json\r\n{head}".encode(), body)
    except (OSError, EOFError, ValueError) as error:
        return type(error).__name__
    if status < 400 and wanted in answer:
        return ""
    return f"{status} {_code(answer)}".rstrip()


def _code(answer: bytes) -> str:
    """What a problem or a camera's answer calls the reason."""
    try:
        said = json.loads(answer)
        return str(said.get("code") or said.get("Response_AlarmInfoPlate", {}).get("info", ""))
    except (ValueError, AttributeError):
        return ""


def _bearer(site: Site) -> str:
    return f"Authorization: Bearer {site.token}\r\n"


def _basic(device_id: str, secret: str) -> str:
    return f"Authorization: Basic {base64.b64encode(f'{device_id}:{secret}'.encode()).decode()}\r\n"


@asynccontextmanager
async def _running(*work: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
