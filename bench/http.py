"""A lean HTTP/1.1 client with kept connections: what a phone or a camera costs must not hide what the server costs."""

import asyncio
from types import TracebackType


class Connection:
    """One kept connection; one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(self, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """Sends a request whose head is ready but for its Content-Length, and returns status and body."""
        try:
            raw = await self._exchange(head, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            # The server closed it while it was idle.
            self.close()
            raw = await self._exchange(head, body)
        assert self._reader is not None
        status = int(raw[9:12])
        lower = raw.lower()
        start = lower.find(b"content-length:")
        if start >= 0:
            length = int(lower[start + 15 : lower.index(b"\r\n", start)])
            answer = await self._reader.readexactly(length)
        elif b"transfer-encoding: chunked" in lower:
            answer = await self._chunks()
        else:
            answer = b""
        return status, answer

    async def _exchange(self, head: bytes, body: bytes) -> bytes:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return await self._reader.readuntil(b"\r\n\r\n")

    async def _chunks(self) -> bytes:
        assert self._reader is not None
        answer = b""
        while size := int((await self._reader.readline()).strip() or b"0", 16):
            answer += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()
        return answer

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Pool:
    """As many connections as there are requests at once."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self._host, self._port = host, int(port)
        self._free: list[Connection] = []

    async def request(self, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """One request on a free connection, or a new one."""
        connection = self._free.pop() if self._free else Connection(self._host, self._port)
        answer = await connection.request(head, body)
        self._free.append(connection)
        return answer

    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for connection in self._free:
            connection.close()
