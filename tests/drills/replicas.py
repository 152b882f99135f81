"""Every service in two processes, as a cluster runs it, and how they are exchanged one after the other while others ask.

As in a cluster each replica has an address of its own and the same ports as the others: 127.0.0.1 and those after it, which Linux has and
macOS has not. gRPC finds replicas by a list that holds one address more than there are replicas: a new process takes the one that is free.
HTTP goes through a balancer that follows `/readyz`.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from console import catalog
from console.processes import Child
from console.up import READY_S, Local, Options, local_platform
from infra.local.ports import choose_port
from tests.drills.balancer import Backend, Balancer
from tests.support import UNLIMITED

REPLICAS = 2
# Longer than the balancer needs to know, and than callers keep a connection that they do not use.
LINGER_S = 2
# What a process that starts may take from those that serve: in a cluster it has a CPU share of its own.
STARTING_NICE = 10


@dataclass(slots=True)
class Group:
    """The replicas of what one process serves: one service, or all."""

    name: str
    # Addresses that replicas may have.
    places: list[str]
    replicas: dict[str, Child] = field(default_factory=dict)


@dataclass(slots=True)
class Cluster:
    """The platform, its groups, and where callers find HTTP."""

    local: Local
    groups: dict[str, Group]
    http: dict[str, str] = field(default_factory=dict)
    _number: int = 0

    async def add(self, name: str, settings: Mapping[str, str] | None = None, nice: int = 0) -> str:
        """Starts one more replica in the free place and returns the place when it is ready."""
        group = self.groups[name]
        place = next(place for place in group.places if place not in group.replicas)
        first = self.local.children[name]
        self._number += 1
        listening = ("LINLI_GRPC_ADDRESS", "LINLI_OPS_ADDRESS", *(f"LINLI_{service.upper()}_HTTP_ADDRESS" for service in self.http))
        own = {variable: _at(place, first.environment[variable]) for variable in listening}
        child = group.replicas[place] = Child(
            name=f"{name}-{self._number}",
            command=first.command,
            environment={**first.environment, **own, **(settings or {})},
            log=first.log.with_name(f"{name}-{self._number}.log"),
            ready_url=f"http://{own['LINLI_OPS_ADDRESS']}/readyz",
        )
        child.start()
        while nice and child.pid is None:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.001)
        _renice(child, nice)
        await child.ready(READY_S)
        _renice(child, -nice)
        return place

    async def remove(self, name: str, place: str) -> None:
        """Ends a replica with SIGTERM. Raises AssertionError when it does not drain and exit 0."""
        child = self.groups[name].replicas[place]
        await child.stop()
        assert child.exit_code == 0, f"{child.name} exited with {child.exit_code}: see {child.log}"
        del self.groups[name].replicas[place]

    async def roll(self, name: str, nice: int = 0) -> None:
        """Exchanges all replicas, one after the other: the new one is ready before the old one is told to go."""
        for old in list(self.groups[name].replicas):
            await self.add(name, nice=nice)
            await self.remove(name, old)

    def backends(self, service: str) -> list[Backend]:
        """The replicas that serve this service's HTTP."""
        group = self.groups.get(service) or self.groups["all"]
        variable = f"LINLI_{service.upper()}_HTTP_ADDRESS"
        return [Backend(child.environment[variable], child.environment["LINLI_OPS_ADDRESS"]) for child in group.replicas.values()]


def _at(place: str, address: str) -> str:
    """The same port at another place."""
    return f"{place}:{address.rpartition(':')[2]}"


def _renice(child: Child, more: int) -> None:
    """Changes the priority of each thread of a process; where that is not allowed it stays."""
    if not more or child.pid is None:
        return
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{child.pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), os.getpriority(os.PRIO_PROCESS, int(thread)) + more)


@asynccontextmanager
async def replicated(folder: Path, *, separate: bool, replicas: int = REPLICAS) -> AsyncIterator[Cluster]:
    """The platform with its demonstration, each service `replicas` times for as long as the block."""
    groups = {
        name: Group(name, [f"127.0.0.{1 + nth}" for nth in range(replicas + 1)]) for name in (catalog.SERVICES if separate else ["all"])
    }
    settings = {**UNLIMITED, "LINLI_LINGER_S": str(LINGER_S)}
    ports = {name: str(choose_port(folder, f"{name}-grpc", None)) for name in groups}
    for service in catalog.SERVICES:
        name = service if separate else "all"
        settings[f"LINLI_{service.upper()}_ADDRESS"] = f"ipv4:{','.join(f'{place}:{ports[name]}' for place in groups[name].places)}"
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(local_platform(Options(folder=folder, separate=separate, settings=settings)))
        moved = [name for name, address in local.addresses.grpc.items() if address.rpartition(":")[2] != ports[name]]
        assert not moved, f"another program has taken the ports of {moved} meanwhile"
        # Callers find HTTP at the place after the last.
        cluster = Cluster(local, groups, {name: _at(f"127.0.0.{replicas + 2}", each) for name, each in local.addresses.http.items()})
        for group in groups.values():
            group.replicas[group.places[0]] = local.children[group.name]
        stack.push_async_callback(_stop, cluster)
        await asyncio.gather(*(cluster.add(name) for name in groups for _ in range(replicas - 1)))
        for service, address in cluster.http.items():
            listening = asyncio.Event()
            balancing = asyncio.create_task(Balancer(address, lambda service=service: cluster.backends(service)).run(listening))  # type: ignore[misc]
            stack.push_async_callback(_end, balancing)
            await listening.wait()
        yield cluster


async def _stop(cluster: Cluster) -> None:
    await asyncio.gather(*(child.stop() for group in cluster.groups.values() for child in group.replicas.values()))


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
