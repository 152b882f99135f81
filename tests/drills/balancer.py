"""A TCP balancer in front of the replicas of one HTTP service. It does what kube-proxy does: new connections go in turn to those that were
ready when it last looked, and a connection stays where it is. It knows nothing of HTTP.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from console.load.http import Connection

# How late it knows who is not ready any more.
LOOK_S = 0.25
_HEAD = b"GET /readyz HTTP/1.1\r\nHost: balancer\r\n"


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a replica serves HTTP, and where it says whether it is ready."""

    http: str
    ops: str


class Balancer:
    """Listens for as long as `run` runs."""

    def __init__(self, address: str, backends: Callable[[], Sequence[Backend]]) -> None:
        self._address = address
        self._backends = backends
        self._ready: list[Backend] = []
        self._turn = 0
        self.fronts: set[_Front] = set()
        self._probes: dict[str, Connection] = {}

    async def run(self, listening: asyncio.Event) -> None:
        """Sets `listening` when somebody is ready."""
        host, port = _host_port(self._address)
        server = await asyncio.get_running_loop().create_server(lambda: _Front(self), host, port, backlog=1024)
        try:
            while True:
                backends = list(self._backends())
                answers = await asyncio.gather(*map(self._is_ready, backends))
                self._ready = [backend for backend, is_ready in zip(backends, answers, strict=True) if is_ready]
                if self._ready:
                    listening.set()
                await asyncio.sleep(LOOK_S)
        finally:
            server.close()
            for front in list(self.fronts):
                front.end()
            for probe in self._probes.values():
                await probe.end()

    async def _is_ready(self, backend: Backend) -> bool:
        probe = self._probes.setdefault(backend.ops, Connection(*_host_port(backend.ops)))
        try:
            async with asyncio.timeout(1.0):
                return (await probe.request(_HEAD))[0] == 200
        except TimeoutError:
            return backend in self._ready  # A late answer alone takes nobody out.
        except (OSError, EOFError, ValueError):
            return False

    def choose(self) -> Backend | None:
        """Whose turn it is."""
        self._turn += 1
        return self._ready[self._turn % len(self._ready)] if self._ready else None


class _Side(asyncio.Protocol):
    """One of the two connections: what it hears the other says."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.other: _Side | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


class _Front(_Side):
    """The caller's side."""

    def __init__(self, balancer: Balancer) -> None:
        super().__init__()
        self._balancer = balancer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._balancer.fronts.add(self)
        self._connecting = asyncio.create_task(self._connect())

    def connection_lost(self, error: Exception | None) -> None:
        self._balancer.fronts.discard(self)
        super().connection_lost(error)

    def end(self) -> None:
        """Ends both."""
        self.transport.abort()
        if self.other is not None:
            self.other.transport.abort()

    async def _connect(self) -> None:
        backend = self._balancer.choose()
        try:
            if backend is None:
                raise ConnectionRefusedError
            _, back = await asyncio.get_running_loop().create_connection(_Side, *_host_port(backend.http))
        except OSError:
            self.transport.abort()
            return
        back.other, self.other = self, back
        for data in self.early:
            back.transport.write(data)
        if self.transport.is_closing():
            back.transport.close()


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
