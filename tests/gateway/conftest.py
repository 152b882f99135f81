"""What the gateway's tests stand on: a running gateway in front of a real gRPC server whose answers a test chooses."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from servicekit.auth import Principal
from servicekit.errors import DETAILS_TRAILER, ServiceError, to_status
from services.gateway.service import SERVICE
from tests.support import UNLIMITED, Mint, Platform, Servers, free_address, platform, principal

PARKING = "linli.parking.v1.ParkingService/"
BILLING = "linli.billing.v1.BillingService/"
IDENTITY = "linli.identity.v1.IdentityService/"

Answer = Message | ServiceError | Callable[[Any], Awaitable[Message]]


@dataclass(slots=True)
class Received:
    """A call as the service behind the gateway got it."""

    method: str
    request: Any
    metadata: dict[str, str]
    remaining_s: float


@dataclass(slots=True)
class Upstream:
    """Every service behind the gateway. Answers with an empty message unless the test says otherwise."""

    address: str
    answers: dict[str, Answer] = field(default_factory=dict)
    calls: list[Received] = field(default_factory=list)

    @property
    def last(self) -> Received:
        """The last call."""
        return self.calls[-1]

    async def answer(self, method: str, body: bytes, context: Any) -> bytes:
        service, _, name = method.partition("/")
        descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        request = GetMessageClass(descriptor.input_type).FromString(body)
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        self.calls.append(Received(method, request, metadata, context.time_remaining()))
        answer = self.answers.get(method)
        if answer is None:
            return b""
        if isinstance(answer, Message):
            return answer.SerializeToString()
        if not isinstance(answer, ServiceError):
            return (await answer(request)).SerializeToString()
        await context.abort(answer.status, answer.en, ((DETAILS_TRAILER, to_status(answer)),))
        raise AssertionError("abort raises")


@asynccontextmanager
async def run_upstream() -> AsyncIterator[Upstream]:
    """The gRPC server behind a gateway."""
    running = Upstream(free_address())

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
            method = details.method.removeprefix("/")
            if not method.startswith("linli."):
                return None  # A server that does not speak of its health is taken for well.

            async def answer(body: bytes, context: Any) -> bytes:
                return await running.answer(method, body, context)

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(running.address)
    await server.start()
    yield running
    await server.stop(None)


@dataclass(slots=True)
class Client:
    """A phone: an HTTP connection to the gateway, with an access token for `who`."""

    http: httpx.AsyncClient
    who: Principal
    url: str
    platform: Platform

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.post(path, **options)

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.request(method, path, **options)


@asynccontextmanager
async def run_gateway(servers: Servers, service_address: str, settings: Mapping[str, str] | None = None) -> AsyncIterator[Client]:
    """A gateway in front of `service_address`, and a phone."""
    mint, who = Mint(), principal()
    overrides = {"LINLI_SERVICE_ADDRESS": service_address, **UNLIMITED, **(settings or {})}
    async with platform(servers, SERVICE, mint=mint, settings=overrides) as running:
        url = running.http_urls["gateway"]
        headers = {"authorization": f"Bearer {mint.token(who)}", "accept-language": "en"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http:
            yield Client(http, who, url, running)


# One gateway for all tests of a module: they differ in what is asked of it, not in how it runs.
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_upstream() -> AsyncIterator[Upstream]:
    async with run_upstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(servers: Servers, module_upstream: Upstream) -> AsyncIterator[Client]:
    async with run_gateway(servers, module_upstream.address) as running:
        yield running


@pytest.fixture
async def upstream_address() -> AsyncIterator[str]:
    """Where a service answers for a gateway that a test runs by itself."""
    async with run_upstream() as running:
        yield running.address


@pytest.fixture
def upstream(module_upstream: Upstream) -> Upstream:
    module_upstream.answers.clear()
    module_upstream.calls.clear()
    return module_upstream
