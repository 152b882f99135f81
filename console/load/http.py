"""A lean HTTP/1.1 client with kept connections: what a phone or a camera costs must not hide what the server costs.

It asks nobody twice: a request that fails has failed. As clients do, it leaves a connection alone that the server has closed or said it
would close, or that nobody has used for a while.
"""

import asyncio
from contextlib import suppress
from time import monotonic
from types import TracebackType

# Less than a process that is about to stop lingers, so that none of its connections is used at the moment when it ends them.
IDLE_S = 1.0


class Connection:
    """One kept connection; one request at a time."""

    def __init__(self, host: str, port: int, idle_s: float = IDLE_S) -> None:
        self._host, self._port, self._idle_s = host, port, idle_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._used_at = 0.0

    async def request(self, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """Sends a request whose head is ready but for its Content-Length, and returns status and body.

        Raises OSError and EOFError when the server does not answer, ValueError when what it answers is no HTTP.
        """
        if self._reader is None or self._reader.at_eof() or monotonic() - self._used_at > self._idle_s:
            self.close()
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        try:
            answer = await self._exchange(self._reader, head, body)
        except BaseException:
            self.close()
            raise
        self._used_at = monotonic()
        return answer

    async def _exchange(self, reader: asyncio.StreamReader, head: bytes, body: bytes) -> tuple[int, bytes]:
        assert self._writer is not None
        self._writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        raw = await reader.readuntil(b"\r\n\r\n")
        status = int(raw[9:12])
        lower = raw.lower()
        start = lower.find(b"content-length:")
        answer = b""
        if start >= 0:
            answer = await reader.readexactly(int(lower[start + 15 : lower.index(b"\r\n", start)]))
        elif b"transfer-encoding: chunked" in lower:
            answer = await _chunks(reader)
        if b"connection: close" in lower:
            self.close()
        return status, answer

    async def end(self) -> None:
        """Closes the connection, and returns when it is closed."""
        writer = self._writer
        self.close()
        if writer is not None:
            with suppress(OSError):
                await writer.wait_closed()

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    while size := int((await reader.readline()).strip() or b"0", 16):
        answer += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return answer


class Pool:
    """As many connections as there are requests at once; with `idle_s` 0 each request has its own."""

    def __init__(self, address: str, idle_s: float = IDLE_S) -> None:
        host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
        self._host, self._port = host, int(port or 80)
        self._idle_s = idle_s
        self._free: list[Connection] = []

    async def request(self, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """One request on the connection that was used last, or a new one. Raises as `Connection.request` does."""
        connection = self._free.pop() if self._free else Connection(self._host, self._port, self._idle_s)
        answer = await connection.request(head, body)
        self._free.append(connection)
        return answer

    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for connection in self._free:
            await connection.end()
