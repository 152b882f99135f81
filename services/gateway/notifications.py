"""Live notifications: `GET /v1/me/notifications` as server-sent events (WHATWG HTML §9.2).

Each event's id is its place in the stream, so a phone that comes back with `Last-Event-ID` misses nothing and hears nothing twice. A
connection ends with the access token it was opened with, when its phone reads too slowly, and when the process drains; the phone then
connects again. Where notifications come from is told in `feed`.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import time
from typing import Any, Protocol
from uuid import UUID

import msgspec
from nats.errors import Error as NatsError

from servicekit.auth import Principal
from servicekit.errors import Exhausted, Unavailable
from services.gateway.feed import Feed, Listener, Notice
from services.gateway.problems import TEXTS, invalid

PATH = "/v1/me/notifications"
HEARTBEAT_S = 15.0
# A write that its phone does not take within this time ends the stream.
_WRITE_S = 10.0
_REPLAY_RETRY_S = 0.5
_SEQUENCE_MAX = 2**63


class Write(Protocol):
    """Writes a part of the answer; `last` ends it."""

    async def __call__(self, chunk: bytes, *, last: bool = False) -> None: ...


class _Data(msgspec.Struct):
    kind: str
    text: str
    link: str
    occurred_at: str


class Connections:
    """Who is connected, within the limits for one account and for the process."""

    def __init__(self, per_account: int, in_total: int) -> None:
        self._per_account = per_account
        self._in_total = in_total
        self._by_account: Counter[UUID] = Counter()

    @contextmanager
    def admitted(self, account_id: UUID) -> Iterator[None]:
        """Takes a place for as long as the block. Raises Exhausted when there is none."""
        if self._by_account[account_id] >= self._per_account or self._by_account.total() >= self._in_total:
            zh, en = TEXTS["notifications.too_many_connections"]
            raise Exhausted("notifications.too_many_connections", zh, en, retry_after_s=5)
        self._by_account[account_id] += 1
        try:
            yield
        finally:
            self._by_account[account_id] -= 1
            if not self._by_account[account_id]:
                del self._by_account[account_id]


def last_event_id(header: str, parameter: str) -> int | None:
    """The position a phone has reached, by its header or else its query; None when it comes for the first time. Raises Invalid."""
    text = header or parameter
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < _SEQUENCE_MAX):
        raise invalid("request.last_event_id")
    return int(text)


class Notifications:
    """The stream of each connection."""

    def __init__(self, feed: Feed, connections: Connections) -> None:
        self._feed = feed
        self._connections = connections

    @contextmanager
    def open(self, principal: Principal) -> Iterator[Listener]:
        """Begins to listen for one connection. Raises Exhausted past a limit, and Unavailable while the broker was never reached."""
        if not self._feed.is_ready:
            zh, en = TEXTS["notifications.unavailable"]
            raise Unavailable("notifications.unavailable", zh, en, retry_after_s=2)
        with (
            self._connections.admitted(principal.account_id),
            self._feed.listen(principal.community_id, principal.account_id) as listener,
        ):
            yield listener

    async def stream(
        self, listener: Listener, principal: Principal, *, after: int | None, language: str, expires_at: float, write: Write
    ) -> None:
        """Writes events until the listener ends, the token expires (`expires_at`, Unix seconds) or the phone stops reading."""
        try:
            await _write(write, b"retry: 1000\n\n")
            floor = 0 if after is None else await self._replay(listener, principal, after, language, write)
            while not listener.ended and (left_s := expires_at - time()) > 0:
                notice = await listener.next(min(HEARTBEAT_S, left_s))
                if notice is None:
                    await _write(write, b": \n\n")
                elif notice.sequence > floor:
                    await _write(write, _event(notice, language))
            await _write(write, b"", last=True)
        except _Stalled:
            return

    async def _replay(self, listener: Listener, principal: Principal, after: int, language: str, write: Write) -> int:
        """Writes what was missed. Returns the position up to which live notices are to be left out."""
        who = principal.community_id, principal.account_id
        while not listener.ended:
            try:
                if after > listener.since:
                    # Either the phone was told by a process that is ahead of this one, or its position is of a stream that is no more.
                    if await self._feed.holds(after):
                        return after
                    after = 0
                async for notice in self._feed.missed(*who, after, listener.since):
                    await _write(write, _event(notice, language))
                    after = notice.sequence
                return 0
            except (NatsError, OSError):
                await _write(write, b": \n\n")
                await asyncio.sleep(_REPLAY_RETRY_S)
        return 0


class _Stalled(Exception):
    """The phone does not take what is written. Not a TimeoutError, which is what the broker raises when it is away."""


async def _write(write: Write, chunk: bytes, *, last: bool = False) -> None:
    try:
        async with asyncio.timeout(_WRITE_S):
            await write(chunk, last=last)
    except TimeoutError:
        raise _Stalled from None


_encoder = msgspec.json.Encoder()


def _event(notice: Notice, language: str) -> bytes:
    message: Any = notice.message
    text = message.text_zh if language == "zh" else message.text_en
    data = _Data(message.kind, text, message.link, notice.occurred_at.isoformat().replace("+00:00", "Z"))
    return b"id: %d\ndata: %b\n\n" % (notice.sequence, _encoder.encode(data))
