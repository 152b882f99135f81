"""A wire between a service and a server, which a test cuts or leaves hanging."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support import free_address


class Wire:
    """Forwards TCP connections."""

    def __init__(self, server_port: int) -> None:
        self.address = free_address()
        self._server_port = server_port
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def mend(self) -> None:
        """Forwards, after it was cut or left hanging."""
        self._flows.set()
        if self._server is None:
            host, _, port = self.address.partition(":")
            self._server = await asyncio.start_server(self._connected, host, int(port))

    def hang(self) -> None:
        """Forwards nothing, and closes nothing."""
        self._flows.clear()

    async def cut(self) -> None:
        """Closes every connection and takes no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        self._flows.set()
        while self._writers:  # noqa: ASYNC110  each ends by itself
            await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self._forward(reader, to_writer), self._forward(to_reader, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@asynccontextmanager
async def wire_to(server_port: int) -> AsyncIterator[Wire]:
    """A wire to a server on this machine."""
    wire = Wire(server_port)
    await wire.mend()
    try:
        yield wire
    finally:
        await wire.cut()
