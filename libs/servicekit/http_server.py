"""HTTP: an application on an address, started and stopped by the host. What it answers is the application's affair."""

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# The head of a request: its line and its headers. Applications have limits of their own, which are lower and answer in their own words.
_HEAD_S = 10.0
_HEAD_BYTES_MAX = 128 * 1024
# What is on its way when we stop: a request whose beginning is here, or a connection that was just made for one.
_FIRST_BYTES_S = 1.0
_LOOK_S = 0.005


class _Connection(HttpToolsProtocol):
    """uvicorn's, which by itself waits for ever for the head of a request, and keeps as much of one as anybody sends."""

    _too_late: asyncio.TimerHandle | None = None
    _is_in_head = True
    _heads = 0
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_wait()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        head = self._heads
        super().data_received(data)
        # The rest of a body that was answered already, and what is no request, have as long.
        if self._is_in_head or self.cycle.response_complete:
            self._wait()
        # What came together with the end of the request before is not counted.
        if self._is_in_head and self._heads == head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES_MAX:
                self.transport.abort()

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._heads += 1
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._end_wait()
        super().on_headers_complete()

    def _wait(self) -> None:
        if self._too_late is None:
            self._too_late = self.loop.call_later(_HEAD_S, self.transport.abort)

    def _end_wait(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None


class HttpServer(uvicorn.Server):
    """uvicorn without its loop, which watches for signals that the host owns and would add its ticks to every stop."""

    async def start(self, listener: socket.socket) -> None:
        """Returns when it answers."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup(sockets=[listener])

    def send_away(self) -> None:
        """Goes on answering, and ends each connection with its next answer: whoever kept it makes a new one, elsewhere by then."""
        # The list that every connection reads.
        self.server_state.default_headers.append((b"connection", b"close"))

    async def stop(self, within_s: float) -> None:
        """Takes no more connections, lets each finish its request, and ends those that take too long.

        A connection that waits between two requests is ended at once, one whose request has not come yet after a moment.
        """
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        patience_ends_at = loop.time() + min(within_s, _FIRST_BYTES_S)
        try:
            async with asyncio.timeout(within_s):
                while self.server_state.connections or self.server_state.tasks:
                    # First what has come already is read. uvicorn tells nobody when a connection ends.
                    await asyncio.sleep(_LOOK_S)
                    waiting: list[Any] = list(self.server_state.connections)
                    for connection in waiting:
                        if connection.timeout_keep_alive_task is not None or loop.time() > patience_ends_at:
                            connection.shutdown()
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
            for connection in list(self.server_state.connections):
                connection.transport.abort()


async def serve_http(application: Any, address: str) -> HttpServer:
    """Serves an ASGI application. Raises OSError that names an address that is taken."""
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        # Whose X-Forwarded-For is believed is the application's to say; uvicorn would believe everybody on this machine.
        proxy_headers=False,
        date_header=False,
        timeout_keep_alive=75,
        http=_Connection,
    )
    server = HttpServer(config)
    await server.start(_listen(address))
    return server


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, or asyncio does not see that it is TCP and leaves Nagle's algorithm on: each answer would wait 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except (OSError, OverflowError) as error:
        listener.close()
        raise OSError(f"cannot listen on {address}: {getattr(error, 'strerror', error)}") from None
    listener.listen(1024)
    listener.setblocking(False)
    return listener
