"""Writing JSON: answers by the proto3 JSON mapping, by writers that are built once for each message type.

Fields are written by the contract's snake_case names, and always when they have no presence, so that a phone sees every field. protobuf's
own json_format writes the same (a test compares them on random messages) and takes seven times as long: a writer fetches all fields of a
message in one call and hands them to msgspec.
"""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from math import isfinite
from operator import attrgetter
from typing import Any

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

# What msgspec encodes in place of a field's value, or of a whole message.
Writer = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode

_F = FieldDescriptor
_WIDE_INTEGERS = (_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64, _F.TYPE_UINT64, _F.TYPE_FIXED64)


def json_writer(descriptor: Descriptor) -> Callable[[bytes], bytes]:
    """Turns serialized messages of one type into JSON text."""
    parse, write = GetMessageClass(descriptor).FromString, message_writer(descriptor)
    return lambda serialized: _encode(write(parse(serialized)))


@cache
def message_writer(descriptor: Descriptor) -> Writer:
    """The writer of a message type."""
    if descriptor.full_name == Timestamp.DESCRIPTOR.full_name:
        return _write_timestamp
    if descriptor.full_name.startswith("google.protobuf."):
        return _write_well_known
    if not descriptor.fields:
        return lambda message: {}
    names = [field.name for field in descriptor.fields]
    columns = [f"f{index}" for index in range(len(names))]
    written = msgspec.defstruct(
        descriptor.name, [(column, Any) for column in columns], rename=dict(zip(columns, names, strict=True)), gc=False
    )
    # A second column of one field makes attrgetter answer with a tuple even when there is only one.
    fetch = attrgetter(*names, *names[: 1 if len(names) == 1 else 0])
    count = len(names)
    always: list[tuple[int, Writer]] = []
    when_present: list[tuple[int, str, Writer]] = []
    filled = False

    def write(message: Message) -> Any:
        nonlocal filled
        if not filled:  # Now and not before, because a message may contain itself.
            filled = True
            for index, field in enumerate(descriptor.fields):
                writer = _field_writer(field)
                if field.has_presence:
                    when_present.append((index, field.name, writer or _as_it_is))
                elif writer is not None:
                    always.append((index, writer))
        values = list(fetch(message)[:count])
        for index, writer in always:
            values[index] = writer(values[index])
        for index, name, writer in when_present:
            values[index] = writer(values[index]) if message.HasField(name) else msgspec.UNSET
        return written(*values)

    return write


def _as_it_is(value: Any) -> Any:
    return value


def _field_writer(field: FieldDescriptor) -> Writer | None:
    """The writer of a field's value; None when msgspec writes it as the mapping asks for."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        write_value = _value_writer(field.message_type.fields_by_name["value"]) or _as_it_is
        return lambda entries: {_map_key(key): write_value(value) for key, value in entries.items()}
    write = _value_writer(field)
    if not field.is_repeated:
        return write
    if write is None:
        return list
    return lambda values: [write(value) for value in values]


def _map_key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _value_writer(field: FieldDescriptor) -> Writer | None:
    if field.message_type is not None:
        return message_writer(field.message_type)
    if field.enum_type is not None:
        return _enum_writer(field.enum_type)
    if field.type in _WIDE_INTEGERS:
        return str
    if field.type == _F.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return _write_float
    return None


def _enum_writer(enum: EnumDescriptor) -> Writer:
    if enum.full_name == "google.protobuf.NullValue":
        return lambda value: None
    names: dict[int, str] = {}
    for value in enum.values:
        names.setdefault(value.number, value.name)
    # A number that our contract does not know yet is written as the number.
    return lambda number: names.get(number, number)


def _write_float(value: float) -> float | str:
    if isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _write_timestamp(value: Timestamp) -> str:
    text = (_EPOCH + timedelta(seconds=value.seconds)).isoformat()[:19]
    nanos = value.nanos
    if not nanos:
        return text + "Z"
    fraction = f"{nanos:09d}"
    while fraction.endswith("000"):  # Three, six or nine digits, as the mapping asks for.
        fraction = fraction[:-3]
    return f"{text}.{fraction}Z"


def _write_well_known(value: Message) -> Any:
    return json_format.MessageToDict(value, preserving_proto_field_name=True)
