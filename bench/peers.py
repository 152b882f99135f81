"""What Linli is measured against: the same work by the plainest means. `python -m bench.peers KIND`, with addresses in the environment."""

import asyncio
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import asyncpg
import grpc.aio
import nats
import uvicorn
import uvloop
from nats.aio.msg import Msg

from linli.identity.v1.identity_pb2 import Community, GetCommunityRequest

PATH = "/linli.identity.v1.IdentityService/GetCommunity"
# Our own read, without the walls.
READ = "SELECT community_id, name, time_zone, modules, version FROM communities WHERE community_id = $1"


async def serve_grpc() -> None:
    """grpc.aio in front of one indexed read."""
    pool = await asyncpg.create_pool(os.environ["PEER_DATABASE_URL"], min_size=8, max_size=8)
    community = uuid.UUID(os.environ["PEER_COMMUNITY"])

    async def get_community(_request: GetCommunityRequest, _context: Any) -> Community:
        row = await pool.fetchrow(READ, community)
        assert row is not None
        return Community(
            community_id=str(row["community_id"]),
            name=row["name"],
            time_zone=row["time_zone"],
            modules=row["modules"],
            version=row["version"],
        )

    handler = grpc.unary_unary_rpc_method_handler(
        get_community, request_deserializer=GetCommunityRequest.FromString, response_serializer=Community.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("linli.identity.v1.IdentityService", {"GetCommunity": handler}),))
    server.add_insecure_port(os.environ["PEER_GRPC"])
    await server.start()
    await server.wait_for_termination()


async def serve_echo() -> None:
    """grpc.aio that answers what it was asked, in bytes."""

    async def echo(body: bytes, _context: Any) -> bytes:
        return body

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)}),)
    )
    server.add_insecure_port(os.environ["PEER_GRPC"])
    await server.start()
    await server.wait_for_termination()


def fastapi_application() -> Any:
    """FastAPI with a Pydantic answer in front of grpc.aio."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Answer(BaseModel):
        community_id: str
        name: str
        time_zone: str
        modules: list[str]
        version: int

    application = FastAPI()
    channel: list[Any] = []

    @application.get("/v1/community", response_model=Answer)
    async def community() -> Answer:
        if not channel:
            channel.append(
                grpc.aio.insecure_channel(os.environ["PEER_GRPC"]).unary_unary(
                    PATH, request_serializer=GetCommunityRequest.SerializeToString, response_deserializer=Community.FromString
                )
            )
        got = await channel[0](GetCommunityRequest())
        return Answer(community_id=got.community_id, name=got.name, time_zone=got.time_zone, modules=list(got.modules), version=got.version)

    return application


def chain_application() -> Any:
    """HTTP, one publish with its ack, one committed transaction, answer: the least that a durable decision can be."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    state: dict[str, Any] = {}
    connecting = asyncio.Lock()

    async def connect() -> None:
        async with connecting:
            if "pool" in state:
                return
            user, password = os.environ["PEER_NATS_USER"], os.environ["PEER_NATS_PASSWORD"]
            client = await nats.connect(os.environ["PEER_NATS"], user=user, password=password, inbox_prefix=f"_INBOX.{user}".encode())
            state["stream"] = client.jetstream()
            state["pool"] = await asyncpg.create_pool(os.environ["PEER_DATABASE_URL"], min_size=8, max_size=8)

    async def decide(request: Request) -> JSONResponse:
        body = await request.json()
        if "pool" not in state:
            await connect()
        await state["stream"].publish(os.environ["PEER_SUBJECT"], await request.body())
        async with state["pool"].acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO bench_decisions (plate) VALUES ($1)", body["plate"])
        return JSONResponse({"open": True})

    return Starlette(routes=[Route("/decide", decide, methods=["POST"])])


async def serve_door() -> None:
    """From MQTT to MQTT: one publish with its ack, one committed transaction, another publish, the least that a durable answer can be."""
    client = await nats.connect(os.environ["PEER_NATS"])
    stream = client.jetstream()
    pool = await asyncpg.create_pool(os.environ["PEER_DATABASE_URL"], min_size=8, max_size=8)
    await stream.add_stream(name="BENCH", subjects=["bench.>"])
    working: set[asyncio.Task[None]] = set()

    async def ask(message: Msg) -> None:
        await stream.publish(f"bench.asked.{message.subject.split('.')[1]}", message.data)

    async def decide(message: Msg) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO bench_decisions (plate) VALUES ($1)", message.subject)
        await stream.publish(message.subject.replace("asked", "answered"), message.data)
        await message.ack()

    async def answer(message: Msg) -> None:
        await client.publish(f"devices.{message.subject.rpartition('.')[2]}.commands", message.data)
        await message.ack()

    def at_once(work: Callable[[Msg], Coroutine[Any, Any, None]]) -> Callable[[Msg], Awaitable[None]]:
        async def begin(message: Msg) -> None:
            task = asyncio.create_task(work(message))
            working.add(task)
            task.add_done_callback(working.discard)

        return begin

    await client.subscribe("devices.*.presented", cb=at_once(ask))
    await stream.subscribe("bench.asked.>", cb=at_once(decide), manual_ack=True)
    await stream.subscribe("bench.answered.>", cb=at_once(answer), manual_ack=True)
    await asyncio.Event().wait()


def main() -> None:
    """Runs one peer until it is killed."""
    kind = sys.argv[1]
    if kind in ("grpc", "echo"):
        uvloop.run(serve_grpc() if kind == "grpc" else serve_echo())
        return
    if kind == "door":
        uvloop.run(serve_door())
        return
    host, _, port = os.environ["PEER_HTTP"].partition(":")
    application = fastapi_application() if kind == "fastapi" else chain_application()
    config = uvicorn.Config(application, host=host, port=int(port), loop="uvloop", http="httptools", access_log=False, log_level="error")
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
