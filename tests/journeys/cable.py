"""A network cable between a device and its broker, which a test cuts when it likes: in the middle of a message, before its answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Cable:
    """Carries TCP connections to one address. Once cut, it carries nothing until it is mended."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.was_cut = asyncio.Event()
        self._host, self._port = host, port
        self._left: int | None = None
        self._ends: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator["Cable"]:
        """The cable, for as long as the block; `port` is where the device connects."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await server.wait_closed()

    def cut(self) -> None:
        """Cuts it: what is under way is lost on both sides."""
        self._left = 0
        self.was_cut.set()
        for end in self._ends:
            end.transport.abort()

    def cut_after(self, sent: int) -> None:
        """Cuts it when the device has sent so many bytes more, wherever in a message that is."""
        self.was_cut.clear()
        self._left = sent

    def mend(self) -> None:
        """Carries everything again."""
        self._left = None

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            if self._left == 0:
                return
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
            ends.add(up_writer)
            self._ends |= ends
            await asyncio.gather(self._pump(reader, up_writer, counts=True), self._pump(up_reader, writer, counts=False))
        except OSError:
            pass
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        while data := await reader.read(4096):
            if counts and self._left is not None:
                data = data[: self._left]
                self._left -= len(data)
            writer.write(data)
            await writer.drain()
            if self._left == 0:
                self.cut()
        raise ConnectionResetError  # one side has gone: the other goes too
