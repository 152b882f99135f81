"""A toy service on a contract of its own, compiled when it is imported."""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from buf.validate import validate_pb2 as _rules  # noqa: F401  registers what toy.proto imports
from google.api import annotations_pb2 as _annotations  # noqa: F401
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from linli.options.v1 import options_pb2 as _options  # noqa: F401
from linli.parking.v1.events_pb2 import LaneConfigured, VehicleEntered
from servicekit.database import Transaction
from servicekit.errors import Conflict
from servicekit.events import Received
from servicekit.identifiers import new_id
from servicekit.messaging import on
from servicekit.rpc import Api, Call, outside_transaction
from servicekit.service import Service

HERE = Path(__file__).parent
PROTO = HERE.parents[1] / "proto"
INSERT = "INSERT INTO heard (community_id, text) VALUES ($1, $2)"
COUNT = "SELECT count(*) FROM heard"


def _compile() -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "toy.binpb"
        paths = [f"-I{PROTO}", f"-I{PROTO / 'third_party'}", f"-I{HERE}"]
        command = [sys.executable, "-m", "grpc_tools.protoc", *paths, f"--descriptor_set_out={output}", "toy.proto"]
        subprocess.run(command, check=True)
        for file in FileDescriptorSet.FromString(output.read_bytes()).file:
            descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


_compile()


def message(name: str, **fields: Any) -> Any:
    """A message of the toy contract."""
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"linli.toy.v1.{name}"))(**fields)


functions = ModuleType("toy_functions")


async def say(tx: Transaction, request: Any) -> Message:
    await tx.execute(INSERT, tx.community_id, request.word)
    identifier = new_id()
    tx.publish(VehicleEntered(session_id=str(identifier), plate=request.word))
    if request.word == "stop":
        raise Conflict("toy.stopped", "停", "stopped")
    return message("Said", id=str(identifier), words=await tx.fetchval(COUNT))


async def count_words(tx: Transaction, _request: Any) -> Message:
    return message("Count", words=await tx.fetchval(COUNT))


async def say_at_home(_tx: Transaction, request: Any) -> Message:
    return message("Said", id=request.household_id)


@outside_transaction
async def misbehave(call: Call, request: Any) -> Message:
    if request.how == "secret":
        raise RuntimeError("a secret: 13800000000")
    if request.how == "slow":
        await asyncio.sleep(30)
    return message("Said", id="fine")


for function in (say, count_words, say_at_home, misbehave):
    function.__module__ = functions.__name__
    setattr(functions, function.__name__, function)


async def repeat_on_vehicle_entered(tx: Transaction, event: Received[VehicleEntered]) -> None:
    if event.message.plate == "poison" and not HEALED:
        raise ValueError("cannot digest this")
    await tx.execute(INSERT, tx.community_id, f"heard {event.message.plate}")
    tx.publish(LaneConfigured(lane_id=event.message.session_id))


HEALED: list[bool] = []

TOY = Service(
    name="toy",
    migrations=HERE / "migrations",
    api=Api(descriptor_pool.Default().FindServiceByName("linli.toy.v1.ToyService"), functions),
    publishes=[LaneConfigured, VehicleEntered],
    consumes=[on(VehicleEntered, repeat_on_vehicle_entered)],
)
SAY, COUNT_WORDS = "linli.toy.v1.ToyService/Say", "linli.toy.v1.ToyService/CountWords"
SAY_AT_HOME, MISBEHAVE = "linli.toy.v1.ToyService/SayAtHome", "linli.toy.v1.ToyService/Misbehave"
