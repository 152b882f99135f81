"""A process among its replicas: callers leave the one that goes before it has gone, and find the one that comes."""

import asyncio
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from servicekit import rpc
from servicekit.rpc import Peer
from tests.servicekit.toy import MISBEHAVE, QUIET, message, toy
from tests.support import Servers, eventually, free_address, platform

FINE = message("MisbehaveRequest", how="fine").SerializeToString()


async def _hello(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


SPEAKING = toy(http=lambda _running: Starlette(routes=[Route("/", _hello)]))


async def test_a_process_that_lingers_is_not_ready_answers_and_sends_its_callers_away(servers: Servers) -> None:
    async with platform(servers, SPEAKING, settings={"LINLI_LINGER_S": "1"}) as running, httpx.AsyncClient() as client:
        url = running.http_urls["toy"]
        assert "connection" not in (await client.get(url)).headers
        stopping = asyncio.create_task(running.host.stop())
        await asyncio.sleep(0)
        assert (await client.get(f"{running.ops_url}/readyz")).status_code == 503
        answer = await client.get(url)
        assert (answer.text, answer.headers["connection"]) == ("hello", "close")
        assert (await running.caller().call(MISBEHAVE, message("MisbehaveRequest", how="fine"))).id == "fine"
        assert not running.host.running[0].draining.is_set()
        await stopping
        with pytest.raises(httpx.ConnectError):
            await client.get(url)


async def test_a_request_of_which_a_part_has_come_is_answered_and_a_connection_that_waits_is_closed(servers: Servers) -> None:
    async with platform(servers, SPEAKING) as running:
        host, _, port = running.http_urls["toy"].removeprefix("http://").partition(":")
        partly, waiting = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        waiting[1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await waiting[0].readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        partly[1].write(b"GET / HTTP/1.1\r\nHo")
        stopping = asyncio.create_task(running.host.stop())
        assert await waiting[0].read() == b""
        partly[1].write(b"st: a\r\n\r\n")
        assert (await partly[0].read()).endswith(b"hello")
        await stopping
        for _, writer in (partly, waiting):
            writer.close()
            await writer.wait_closed()


async def test_no_call_is_lost_when_one_of_two_replicas_goes(servers: Servers) -> None:
    going = platform(servers, QUIET, settings={"LINLI_LINGER_S": "1"})
    async with platform(servers, QUIET) as staying, going as leaving:
        peer = Peer(f"ipv4:{staying.grpc_address},{leaving.grpc_address}")
        has_gone = asyncio.Event()
        errors: list[Exception] = []

        async def ask() -> None:
            while not has_gone.is_set():
                try:
                    await peer.call(f"/{MISBEHAVE}", FINE)
                except Exception as error:
                    errors.append(error)

        asking = [asyncio.create_task(ask()) for _ in range(16)]
        await leaving.host.stop()
        await asyncio.gather(*(peer.call(f"/{MISBEHAVE}", FINE) for _ in range(16)))
        has_gone.set()
        await asyncio.gather(*asking)
        await peer.close()
        assert not errors


@asynccontextmanager
async def _names(addresses: list[str]) -> AsyncIterator[str]:
    """A name server for one name, as a headless Service has: every question is answered with `addresses`. Yields where it listens."""

    class Names(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self._transport = transport

        def datagram_received(self, data: bytes, sender: Any) -> None:
            end = data.index(b"\0", 12) + 5
            asks_for_ipv4 = data[end - 4 : end - 2] == b"\0\x01"
            found = addresses if asks_for_ipv4 else []
            head = data[:2] + struct.pack("!HHHHH", 0x8180, 1, len(found), 0, 0)
            records = [b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04" + bytes(map(int, each.split("."))) for each in found]
            self._transport.sendto(head + data[12:end] + b"".join(records), sender)

    address = free_address()
    host, _, port = address.partition(":")
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Names, local_addr=(host, int(port)))
    try:
        yield address
    finally:
        transport.close()


@asynccontextmanager
async def _replica(address: str, heard: Counter[str]) -> AsyncIterator[None]:
    """A server with our options."""

    async def answer(_body: bytes, _context: object) -> bytes:
        heard[address] += 1
        return b""

    handlers: dict[str, Any] = {"Answer": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.aio.server(options=rpc.SERVER_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Replica", handlers),))
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(1)


@pytest.mark.skipif(sys.platform != "linux", reason="each replica has an address of its own")
async def test_a_replica_that_comes_is_found_by_its_name_and_no_call_is_lost_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "CHANNEL_AGE_S", 0.2)
    first = free_address()
    port = first.partition(":")[2]
    second = f"127.0.0.2:{port}"
    addresses, heard = ["127.0.0.1"], Counter[str]()
    async with _names(addresses) as names, _replica(first, heard), _replica(second, heard):
        peer = Peer(f"dns://{names}/replicas.test:{port}")

        async def second_is_found() -> bool:
            await peer.call("/test.Replica/Answer", b"")
            return heard[second] > 0

        assert not await second_is_found()
        addresses.append("127.0.0.2")
        await eventually(second_is_found, "the second replica is called")
        await peer.close()
