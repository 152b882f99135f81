"""Rate limits: how often an account and an address may ask.

Pure. The generic cell rate algorithm keeps one number for each key and answers at once how long a refused caller is to wait. Limits hold in
each process; they protect it and its neighbours, they are no quota.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

# Keys kept at most; when there are more, those that have recovered go, and then the oldest.
_KEYS_MAX = 100_000
WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass, how many more may pass at once, and in how many seconds all may again or, when refused, this one."""

    allowed: bool
    remaining: int
    reset_s: int


class RateLimit:
    """Lets `per_minute` requests of one key through in any minute, all at once if need be. 0 lets everything through."""

    def __init__(self, name: str, per_minute: int, clock: Callable[[], float]) -> None:
        self.name = name
        self.per_minute = per_minute
        self._interval_s = WINDOW_S / per_minute if per_minute else 0.0
        self._clock = clock
        # When the bucket of a key is full again; a key that is absent has a full one.
        self._full_at: dict[str, float] = {}

    def take(self, key: str) -> Verdict | None:
        """Counts one request of `key`; None when there is no limit."""
        if not self.per_minute:
            return None
        now = self._clock()
        full_at = max(self._full_at.get(key, now), now) + self._interval_s
        wait_s = full_at - now - WINDOW_S
        # Adding intervals up leaves rounding errors far below one of them.
        if wait_s > self._interval_s * 1e-6:
            return Verdict(False, 0, ceil(wait_s))
        if key not in self._full_at and len(self._full_at) >= _KEYS_MAX:
            self._forget(now)
        self._full_at[key] = full_at
        return Verdict(True, int((WINDOW_S - full_at + now) / self._interval_s + 1e-6), ceil(full_at - now))

    def _forget(self, now: float) -> None:
        kept = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        surplus = len(kept) - _KEYS_MAX // 2
        for key in list(kept)[: max(0, surplus)]:
            del kept[key]
        self._full_at = kept


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """The networks in a comma-separated list, such as `10.0.0.0/8, ::1`. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def caller_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """The address that a request came from: the last one in `X-Forwarded-For` that no trusted proxy has.

    `forwarded_for` is believed only as far as the proxies that wrote it are trusted.
    """
    address = peer
    for hop in reversed(forwarded_for.split(",")) if forwarded_for else ():
        if not is_in(address, trusted):
            break
        address = hop.strip()
    return address


def address_key(address: str) -> str:
    """What an address is limited by: itself, or the /64 that an IPv6 subscriber may choose from."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address, 64), strict=False))
    except ValueError:
        return address


@lru_cache(maxsize=4096)
def is_in(address: str, trusted: Sequence[Network]) -> bool:
    """Whether an address is in one of these networks."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)
