"""A smart bin on MQTT 3.1.1: sends what it weighs until the broker has stored it, and tells every 30 s how it is."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import aiomqtt

from console.demonstration import DemonstrationBin

_REPORT_S = 30.0
_RECONNECT_S = 1.0
# A broker that has just come back may leave the first try unanswered.
_ANSWER_S = 5.0
ZONE = ZoneInfo("Asia/Shanghai")
Clock = Callable[[], datetime]


def right_clock() -> datetime:
    """The time."""
    return datetime.now(UTC)


def drifting_clock(ahead_s: float, gain: float) -> Clock:
    """A clock that is ahead, and gains `gain` seconds in each second."""
    started = time.monotonic()
    return lambda: datetime.now(UTC) + timedelta(seconds=ahead_s + gain * (time.monotonic() - started))


class Bin:
    """One bin. `grams` is what lies in each compartment."""

    def __init__(
        self, host: str, port: int, plan: DemonstrationBin, secret: str, grams: dict[str, int], clock: Clock = right_clock
    ) -> None:
        self.plan = plan
        self.grams = grams
        self._host, self._port, self._secret = host, port, secret
        self._clock = clock
        self._waiting: asyncio.Queue[tuple[bytes, asyncio.Event]] = asyncio.Queue()
        self._in_hand: tuple[bytes, asyncio.Event] | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Works until it is cancelled, and comes back however often the broker goes away."""
        device_id = self.plan.device_id
        while True:
            try:
                async with (
                    aiomqtt.Client(
                        self._host,
                        self._port,
                        username=device_id,
                        password=self._secret,
                        identifier=device_id,
                        keepalive=15,
                        timeout=_ANSWER_S,
                    ) as client,
                    asyncio.TaskGroup() as work,
                ):
                    work.create_task(_notice_the_end(client))
                    work.create_task(self._send_records(client))
                    work.create_task(self._report(client))
            except* aiomqtt.MqttError:
                pass
            await asyncio.sleep(_RECONNECT_S)

    def weigh(self, card: str, compartment: str, grams: int) -> bytes:
        """Takes something in, and returns the record of it; without a card, `card` is empty."""
        self.grams[compartment] += grams
        record = {
            "id": uuid.uuid4().hex,
            "compartment": compartment,
            "grams": grams,
            "fill": self.fill(compartment),
            "at": self._now(),
        }
        return json.dumps({**record, "card": card} if card else record).encode()

    async def send(self, record: bytes) -> None:
        """Returns once the broker has stored a record."""
        stored = asyncio.Event()
        self._waiting.put_nowait((record, stored))
        await stored.wait()

    def fill(self, compartment: str) -> float:
        """How full a compartment is, from 0 to 1."""
        return min(1.0, round(self.grams[compartment] / self.plan.capacity_grams[compartment], 3))

    def empty(self, compartment: str) -> None:
        """Somebody empties a compartment; the bin tells at once."""
        self.grams[compartment] = 0
        self._changed.set()

    async def _send_records(self, client: aiomqtt.Client) -> None:
        while True:
            # What the last connection could not finish comes first.
            if self._in_hand is None:
                self._in_hand = await self._waiting.get()
            record, stored = self._in_hand
            await client.publish(f"devices/{self.plan.device_id}/deposit", record, qos=1)
            self._in_hand = None
            stored.set()

    async def _report(self, client: aiomqtt.Client) -> None:
        while True:
            self._changed.clear()
            status = {
                "fill": {compartment: self.fill(compartment) for compartment in self.grams},
                "smoke": False,
                "temperature_c": 24,
                "at": self._now(),
            }
            await client.publish(f"devices/{self.plan.device_id}/status", json.dumps(status), qos=1)
            try:
                async with asyncio.timeout(_REPORT_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _now(self) -> str:
        return self._clock().astimezone(ZONE).isoformat(timespec="seconds")


async def _notice_the_end(client: aiomqtt.Client) -> None:
    """Raises MqttError as soon as the connection ends, for which those who publish would wait many seconds."""
    async for _message in client.messages:
        pass
