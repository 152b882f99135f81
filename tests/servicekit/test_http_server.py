"""What a caller over HTTP who is nobody yet may take of a process: some bytes and some seconds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from servicekit import http_server
from tests.support import free_address

_ENOUGH = 64 * 1024 * 1024
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n"


async def application(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def caller(served: Any = application) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server."""
    address = free_address()
    server = await http_server.serve_http(served, address)
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        await server.stop(1.0)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes = b"\r\n") -> None:
    writer.write(rest)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert await reader.readexactly(2) == b"ok"


@pytest.mark.parametrize(
    ("before", "begin"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"", b"GET /"),
        (b"", REQUEST),
        (REQUEST + b"\r\n", b"\r\n"),
        (REQUEST + b"\r\n", REQUEST),
    ],
    ids=["silence", "an empty line", "half a line", "half a head", "an empty line after a request", "half a head after a request"],
)
async def test_a_request_whose_head_does_not_come_in_time_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, before: bytes, begin: bytes
) -> None:
    monkeypatch.setattr(http_server, "_HEAD_S", 0.2)
    async with caller() as (reader, writer):
        if before:
            await ask(reader, writer, before)
        writer.write(begin)
        async with asyncio.timeout(5):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)


async def test_an_answer_may_take_longer_than_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_HEAD_S", 0.05)
    waited = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        asyncio.get_running_loop().call_later(0.2, waited.set)
        await waited.wait()
        await application(scope, receive, send)

    async with caller(slow) as (reader, writer):
        await ask(reader, writer, REQUEST + b"\r\n")


@pytest.mark.parametrize("part", [b"x-more: " + b"a" * 8_000 + b"\r\n", b"a" * 8_000], ids=["many headers", "one endless header"])
async def test_a_head_without_end_is_cut_off(part: bytes) -> None:
    async with caller() as (reader, writer):
        await ask(reader, writer, REQUEST + b"\r\n")
        writer.write(REQUEST + (b"" if part.endswith(b"\n") else b"x-more: "))
        assert await _sent(writer, part) < _ENOUGH


async def _sent(writer: asyncio.StreamWriter, part: bytes) -> int:
    """How much the other side took before it hung up."""
    sent = 0
    with suppress(ConnectionError):
        while sent < _ENOUGH:
            writer.write(part)
            sent += len(part)
            await writer.drain()
    return sent


async def test_the_rest_of_a_body_that_was_answered_already_is_no_head() -> None:
    async with caller() as (reader, writer):
        await ask(reader, writer, b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\n")
        writer.write(b"b" * 1_000_000)
        await ask(reader, writer, REQUEST + b"\r\n")


async def test_requests_that_follow_each_other_at_once_are_answered_each() -> None:
    async with caller() as (reader, writer):
        body = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n" + b"b" * 100_000
        writer.write(body * 3 + REQUEST)
        for _ in range(3):
            await ask(reader, writer, b"")
        await ask(reader, writer)
