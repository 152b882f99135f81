"""How often one device may ask, and how many of its requests may be in work. Limits hold in each process; they protect it from a device
gone mad.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from servicekit.errors import Exhausted

_DEVICES_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Limit:
    """What one device may do."""

    requests_per_s: int
    in_flight_max: int


class Limits:
    """Counts each device's requests. A device may ask for a second's worth at once (generic cell rate algorithm)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # When a device's bucket is full again.
        self._full_at: dict[str, float] = {}
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def admitted(self, device_id: str, limit: Limit) -> Iterator[None]:
        """One request in work. Raises Exhausted past a limit."""
        now, interval_s = self._clock(), 1 / limit.requests_per_s
        full_at = max(self._full_at.get(device_id, now), now) + interval_s
        # Adding intervals up leaves rounding errors far below one of them.
        if full_at - now > 1 + interval_s * 1e-6:
            raise _too_many("ingest.too_frequent", "设备请求过于频繁", "The device asks too often", full_at - now - 1)
        if self._in_flight[device_id] >= limit.in_flight_max:
            raise _too_many("ingest.too_many_in_flight", "设备并发请求过多", "Too many requests of the device are in work", 1)
        if len(self._full_at) >= _DEVICES_MAX:
            self._full_at = {device: at for device, at in self._full_at.items() if at > now}
        self._full_at[device_id] = full_at
        self._in_flight[device_id] += 1
        try:
            yield
        finally:
            self._in_flight[device_id] -= 1
            if not self._in_flight[device_id]:
                del self._in_flight[device_id]


def _too_many(code: str, zh: str, en: str, wait_s: float) -> Exhausted:
    return Exhausted(code, zh, en, retry_after_s=max(1, ceil(wait_s)))
