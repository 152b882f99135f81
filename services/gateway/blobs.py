"""Blobs of a folder: phones send and fetch them at `/v1/blobs/<ticket>`. The ticket says what its holder may do; no access token is needed.

With S3 there is nothing here: phones go to S3 itself.
"""

import asyncio

from servicekit import blobs
from servicekit.blobs import Blobs, Ticket, picture_type
from servicekit.clock import Clock
from servicekit.errors import Denied, NotFound
from services.gateway.exchange import Exchange, Gone, Header
from services.gateway.problems import TEXTS, UnsupportedMedia, invalid

PATH = blobs.PATH
TEMPLATE = PATH + "{ticket}"
VERBS = ("GET", "HEAD", "PUT")
# How long a blob may take to come in, and each part of one to go out.
_UPLOAD_S = 120.0
_WRITE_S = 20.0
_MEDIA_TYPES = {"jpg": b"image/jpeg", "png": b"image/png", "webp": b"image/webp", "heic": b"image/heic"}


class BlobRoute:
    """Takes and gives what tickets are for."""

    def __init__(self, store: Blobs, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def serve(self, exchange: Exchange) -> None:
        """Answers one of `VERBS`. Raises Denied for a ticket that is none of ours, was altered, is for the other verb or has expired."""
        ticket = self._store.tickets.read(exchange.path.removeprefix(PATH))
        if ticket is None or ticket.verb != ("PUT" if exchange.method == "PUT" else "GET"):
            raise Denied("blob.ticket_refused", *TEXTS["blob.ticket_refused"])
        if ticket.expires_at <= self._clock():
            raise Denied("blob.ticket_expired", *TEXTS["blob.ticket_expired"])
        await (self._take if ticket.verb == "PUT" else self._give)(exchange, ticket)

    async def _take(self, exchange: Exchange, ticket: Ticket) -> None:
        if exchange.headers.get(b"content-encoding", b"identity") != b"identity":
            raise invalid("request.content_encoding", kind=UnsupportedMedia)
        if await self._store.look(ticket.key) is not None:
            raise blobs.already_stored()
        await self._store.put_new(ticket.key, exchange.chunks(ticket.bytes_max, _UPLOAD_S, "blob.too_large"))
        await exchange.answer(204, ((b"cache-control", b"no-store"),), b"")

    async def _give(self, exchange: Exchange, ticket: Ticket) -> None:
        stored = await self._store.look(ticket.key)
        if stored is None:
            raise NotFound("blob.not_found", *TEXTS["blob.not_found"])
        left_s = int((ticket.expires_at - self._clock()).total_seconds())
        headers: list[Header] = [
            (b"content-type", _MEDIA_TYPES.get(picture_type(stored.head), b"application/octet-stream")),
            (b"content-length", b"%d" % stored.size),
            (b"cache-control", b"private, max-age=%d" % left_s),
        ]
        await exchange.begin(headers)
        if exchange.method != "HEAD":
            async for chunk in self._store.chunks(ticket.key):
                await _write(exchange, chunk)
        await exchange.write(b"", last=True)


async def _write(exchange: Exchange, chunk: bytes) -> None:
    try:
        async with asyncio.timeout(_WRITE_S):
            await exchange.write(chunk)
    except TimeoutError:
        raise Gone from None  # The phone does not take what is written.
