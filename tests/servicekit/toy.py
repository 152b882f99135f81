"""A toy service on a contract of its own, compiled when it is imported. What its handlers do is for each test to say."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from google.api import annotations_pb2 as _annotations  # noqa: F401
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from buf.validate import validate_pb2 as _rules  # noqa: F401  registers what toy.proto imports
from linli.options.v1 import options_pb2 as _options  # noqa: F401
from servicekit.database import Transaction
from servicekit.errors import Conflict
from servicekit.events import Received
from servicekit.identifiers import new_id
from servicekit.messaging import Consumption, on
from servicekit.rpc import Api, Call, outside_transaction, secret_answer
from servicekit.service import Service

HERE = Path(__file__).parent
MIGRATIONS = HERE / "migrations"
_PROTO = HERE.parents[1] / "proto"
INSERT = "INSERT INTO heard (community_id, text) VALUES ($1, $2)"
COUNT = "SELECT count(*) FROM heard"
TEXTS = "SELECT text FROM heard ORDER BY heard_id"


def _compile() -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "toy.binpb"
        paths = [f"-I{_PROTO}", f"-I{_PROTO / 'third_party'}", f"-I{HERE}"]
        command = [sys.executable, "-m", "grpc_tools.protoc", *paths, f"--descriptor_set_out={output}", "toy.proto"]
        subprocess.run(command, check=True)
        for file in FileDescriptorSet.FromString(output.read_bytes()).file:
            descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


_compile()


def kind(name: str) -> Any:
    """A message class of the toy contract."""
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"linli.toy.v1.{name}"))


def message(name: str, **fields: Any) -> Any:
    """A message of the toy contract."""
    return kind(name)(**fields)


Spoken, Echoed, Whispered, Rattled = kind("Spoken"), kind("Echoed"), kind("Whispered"), kind("Rattled")
functions = ModuleType("toy_functions")


async def say(tx: Transaction, request: Any) -> Message:
    identifier = request.id or str(new_id())
    await tx.execute(INSERT, tx.community_id, request.word)
    if request.number:
        await tx.execute("SELECT $1::int", request.number)
    tx.publish(Spoken(word_id=identifier, word=request.word))
    if request.word == "stop":
        raise Conflict("toy.stopped", "停", "stopped")
    if request.word == "wait":
        await tx.execute("SELECT pg_sleep(20)")
    return message("Said", id=identifier, words=await tx.fetchval(COUNT))  # type: ignore[no-any-return]


async def count_words(tx: Transaction, _request: Any) -> Message:
    return message("Count", words=await tx.fetchval(COUNT))  # type: ignore[no-any-return]


async def say_at_home(_tx: Transaction, request: Any) -> Message:
    return message("Said", id=request.household_id)  # type: ignore[no-any-return]


@outside_transaction
async def misbehave(call: Call, request: Any) -> Message:
    if request.how == "secret":
        raise RuntimeError("a secret: 13800000000")
    if request.how == "slow":
        await asyncio.sleep(30)
    return message("Said", id=request.how)  # type: ignore[no-any-return]


@outside_transaction
async def call(call: Call, request: Any) -> Message:
    await CALLS[request.who]()
    return message("Said", id=str(new_id()))  # type: ignore[no-any-return]


@secret_answer
async def make_secret(tx: Transaction, _request: Any) -> Message:
    await tx.execute(INSERT, tx.community_id, "a secret was made")
    return message("Said", id="secret")  # type: ignore[no-any-return]


CALLS: dict[str, Callable[[], Awaitable[None]]] = {}

for function in (say, count_words, say_at_home, misbehave, call, make_secret):
    function.__module__ = functions.__name__
    setattr(functions, function.__name__, function)


async def echo_on_spoken(tx: Transaction, event: Received[Any]) -> None:
    await tx.execute(INSERT, tx.community_id, event.message.word)
    tx.publish(Echoed(word_id=event.message.word_id, word=event.message.word))


def toy(*consumes: Consumption[Any], name: str = "toy", **declaration: Any) -> Service:
    """The toy service, with these consumers in place of its own."""
    return Service(
        name=name,
        migrations=[MIGRATIONS],
        api=Api(descriptor_pool.Default().FindServiceByName("linli.toy.v1.ToyService"), functions) if name == "toy" else None,
        publishes=[Spoken, Echoed, Whispered, Rattled],
        consumes=consumes,
        **declaration,
    )


TOY = toy(on(Spoken, echo_on_spoken))
QUIET = toy()
SAY, COUNT_WORDS = "linli.toy.v1.ToyService/Say", "linli.toy.v1.ToyService/CountWords"
SAY_AT_HOME, MISBEHAVE = "linli.toy.v1.ToyService/SayAtHome", "linli.toy.v1.ToyService/Misbehave"
CALL, MAKE_SECRET = "linli.toy.v1.ToyService/Call", "linli.toy.v1.ToyService/MakeSecret"


@contextmanager
def answering(who: str, do: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """What the method Call does for `who`, for a block."""
    CALLS[who] = do
    try:
        yield
    finally:
        del CALLS[who]


async def texts(tx: Transaction) -> Sequence[str]:
    """What was stored, in order."""
    return [row["text"] for row in await tx.fetch(TEXTS)]
