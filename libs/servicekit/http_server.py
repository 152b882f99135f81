"""HTTP: an application on an address, started and stopped by the host. What it answers is the application's affair."""

import asyncio
import socket
from typing import Any

import uvicorn


class HttpServer(uvicorn.Server):
    """uvicorn without its loop, which watches for signals that the host owns and would add its ticks to every stop."""

    async def start(self, listener: socket.socket) -> None:
        """Returns when it answers."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup(sockets=[listener])

    async def stop(self, within_s: float) -> None:
        """Takes no more connections, lets each finish its request, and ends those that take too long."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(within_s):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  uvicorn tells nobody
                    await asyncio.sleep(0.005)
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
        h11_max_incomplete_event_size=64 * 1024,
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
