"""Reading JSON: request messages from the proto3 JSON mapping, by readers that are built once for each message type.

Fields are accepted by the contract's snake_case name and by its lowerCamelCase one. Stricter than the mapping asks for, because what comes
in is a stranger's: unknown and repeated names, numbers out of range, NUL and unpaired surrogates are refused, each with the field's path.
The well-known types that need no speed are left to protobuf's own json_format.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from math import isfinite

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.errors import FieldViolation
from services.gateway.problems import invalid, violation

# A value, the path that names it and the list that takes what is wrong; answers with what the message constructor takes.
Reader = Callable[[object, str, list[FieldViolation]], object]

# Each level of a free-form JSON value costs three of the hundred levels that protobuf decodes.
DEPTH_MAX = 20
_VIOLATIONS_MAX = 20
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_F = FieldDescriptor
_INTEGER_BITS = {
    _F.TYPE_INT32: (32, True),
    _F.TYPE_SINT32: (32, True),
    _F.TYPE_SFIXED32: (32, True),
    _F.TYPE_UINT32: (32, False),
    _F.TYPE_FIXED32: (32, False),
    _F.TYPE_INT64: (64, True),
    _F.TYPE_SINT64: (64, True),
    _F.TYPE_SFIXED64: (64, True),
    _F.TYPE_UINT64: (64, False),
    _F.TYPE_FIXED64: (64, False),
}
_FLOAT32_MAX = 3.4028234663852886e38
VALUE = "google.protobuf.Value"


def parse_json(body: bytes) -> object:
    """The JSON value of a body. Raises Invalid for bytes that are not UTF-8, malformed JSON, repeated names and NaN."""
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError:
        raise invalid("request.body_not_utf8") from None
    except RecursionError:
        raise invalid("request.json_too_deep") from None
    except ValueError:
        raise invalid("request.json_malformed") from None


def refuse_if(wrong: Sequence[FieldViolation]) -> None:
    """Raises Invalid when anything was found wrong; its code is that of the first finding."""
    if wrong:
        raise invalid(wrong[0].code, fields=wrong[:_VIOLATIONS_MAX])


class _RepeatedName(dict[str, object]):
    """A JSON object that has a name twice. No reader takes it for an object."""

    name = ""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    names = [name for name, _ in pairs]
    broken = _RepeatedName(members)
    broken.name = next(name for name in names if names.count(name) > 1)
    return broken


def _no_object(value: object, path: str) -> FieldViolation:
    if isinstance(value, _RepeatedName):
        return violation(_join(path, value.name), "request.field_repeated")
    return violation(path, "request.field_type")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _no_constant(name: str) -> object:
    raise ValueError(name)


# Numbers too long for an int become a float, which is then out of the range of any integer.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_constant, parse_int=lambda text: int(text) if len(text) < 40 else float(text)
)


@cache
def message_reader(descriptor: Descriptor) -> Reader:
    """The reader of a message type."""
    if descriptor.full_name == Timestamp.DESCRIPTOR.full_name:
        return read_timestamp
    if descriptor.full_name.startswith("google.protobuf."):
        return _well_known_reader(descriptor)
    fields: dict[str, tuple[FieldDescriptor, Reader]] = {}
    message_class = GetMessageClass(descriptor)

    def read(value: object, path: str, wrong: list[FieldViolation]) -> object:
        if type(value) is not dict:
            wrong.append(_no_object(value, path))
            return None
        if not fields:  # Now and not before, because a message may contain itself.
            fields.update(_readers_by_name(descriptor))
        before = len(wrong)
        values: dict[str, object] = {}
        taken_oneofs: set[str] = set()
        for key, item in value.items():
            here = _join(path, key)
            known = fields.get(key)
            if known is None:
                wrong.append(violation(here, "request.field_unknown"))
                continue
            field, reader = known
            if item is None and not _is_value(field):
                continue
            oneof = field.containing_oneof.name if field.containing_oneof is not None else field.name
            if field.name in values or oneof in taken_oneofs:
                wrong.append(violation(here, "request.field_repeated"))
                continue
            taken_oneofs.add(oneof)
            values[field.name] = reader(item, here, wrong)
        return message_class(**values) if len(wrong) == before else None

    return read


def _readers_by_name(descriptor: Descriptor) -> dict[str, tuple[FieldDescriptor, Reader]]:
    readers = {field.name: (field, _field_reader(field)) for field in descriptor.fields}
    return {field.json_name: readers[field.name] for field in descriptor.fields} | readers


def _is_value(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == VALUE and not field.is_repeated


def _field_reader(field: FieldDescriptor) -> Reader:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map_reader(field)
    reader = value_reader(field)
    if not field.is_repeated:
        return reader

    def read_list(value: object, path: str, wrong: list[FieldViolation]) -> object:
        if type(value) is not list:
            wrong.append(violation(path, "request.field_type"))
            return None
        return [reader(item, f"{path}[{index}]", wrong) for index, item in enumerate(value)]

    return read_list


def _map_reader(field: FieldDescriptor) -> Reader:
    entry = field.message_type
    assert entry is not None
    key_field, value_field = entry.fields_by_name["key"], entry.fields_by_name["value"]
    read_key, read_value = text_reader(key_field), value_reader(value_field)

    def read(value: object, path: str, wrong: list[FieldViolation]) -> object:
        if type(value) is not dict:
            wrong.append(_no_object(value, path))
            return None
        return {read_key(key, f"{path}.{key}", wrong): read_value(item, f"{path}.{key}", wrong) for key, item in value.items()}

    return read


def value_reader(field: FieldDescriptor) -> Reader:
    """The reader of one value of a field, whether or not the field is repeated."""
    if field.message_type is not None:
        return message_reader(field.message_type)
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    if field.type in _INTEGER_BITS:
        return _integer_reader(*_INTEGER_BITS[field.type])
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return _float_reader(_FLOAT32_MAX if field.type == _F.TYPE_FLOAT else float("inf"))
    return {_F.TYPE_STRING: _read_string, _F.TYPE_BOOL: _read_bool, _F.TYPE_BYTES: _read_bytes}[field.type]


def text_reader(field: FieldDescriptor) -> Reader:
    """The reader of one value of a field that is written as plain text: in a path, a query or the key of a map."""
    if field.type == _F.TYPE_BOOL:
        return _read_bool_text
    return value_reader(field)


def _read_string(value: object, path: str, wrong: list[FieldViolation]) -> object:
    if type(value) is not str:
        wrong.append(violation(path, "request.field_type"))
    elif not is_storable(value):
        wrong.append(violation(path, "request.field_character"))
    return value


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store a text: it takes neither NUL nor unpaired surrogates."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_bool(value: object, path: str, wrong: list[FieldViolation]) -> object:
    if type(value) is not bool:
        wrong.append(violation(path, "request.field_type"))
    return value


def _read_bool_text(value: object, path: str, wrong: list[FieldViolation]) -> object:
    if value not in ("true", "false"):
        wrong.append(violation(path, "request.field_type"))
    return value == "true"


def _read_bytes(value: object, path: str, wrong: list[FieldViolation]) -> object:
    if type(value) is str:
        standard = value.rstrip("=").replace("-", "+").replace("_", "/")
        try:
            return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
        except (binascii.Error, ValueError):
            pass
    wrong.append(violation(path, "request.field_type"))
    return None


@cache
def _integer_reader(bits: int, signed: bool) -> Reader:
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def read(value: object, path: str, wrong: list[FieldViolation]) -> object:
        if (type(value) is str and _INTEGER.fullmatch(value)) or (type(value) is float and value.is_integer()):
            value = int(value)
        if type(value) is not int:
            wrong.append(violation(path, "request.field_type"))
        elif not lowest <= value <= highest:
            wrong.append(violation(path, "request.field_range"))
        return value

    return read


@cache
def _float_reader(highest: float) -> Reader:
    def read(value: object, path: str, wrong: list[FieldViolation]) -> object:
        if type(value) is str and _NUMBER.fullmatch(value):
            value = float(value)
        if type(value) is int:
            value = float(value)  # The decoder lets no integer through that a float could not hold.
        if type(value) is not float:
            wrong.append(violation(path, "request.field_type"))
        elif not isfinite(value) or abs(value) > highest:
            wrong.append(violation(path, "request.field_range"))
        return value

    return read


@cache
def _enum_reader(enum: EnumDescriptor) -> Reader:
    numbers = {value.name: value.number for value in enum.values}
    read_number = _integer_reader(32, True)

    def read(value: object, path: str, wrong: list[FieldViolation]) -> object:
        if type(value) is not str:
            # Numbers that have no name are the contract's to refuse, like any other rule.
            return read_number(value, path, wrong)
        number = numbers.get(value)
        if number is None:
            wrong.append(violation(path, "request.field_value"))
        return number

    return read


def read_timestamp(value: object, path: str, wrong: list[FieldViolation]) -> object:
    """Reads an RFC 3339 instant."""
    match = _TIMESTAMP.fullmatch(value) if type(value) is str else None
    if match is not None:
        day, time, fraction, zone = match.groups()
        try:
            moment = datetime.fromisoformat(f"{day}T{time}{zone.upper()}")
            seconds = (moment - _EPOCH) // timedelta(seconds=1)
            if _FIRST_SECOND <= seconds <= _LAST_SECOND:
                return Timestamp(seconds=seconds, nanos=int((fraction or "").ljust(9, "0")))
        except ValueError:
            pass
    wrong.append(violation(path, "request.field_type"))
    return None


# The instants that protobuf's Timestamp holds: the years 1 to 9999 in UTC.
_FIRST_SECOND, _LAST_SECOND = -62135596800, 253402300799


def _well_known_reader(descriptor: Descriptor) -> Reader:
    message_class = GetMessageClass(descriptor)

    def read(value: object, path: str, wrong: list[FieldViolation]) -> object:
        fault = _fault(value, path, DEPTH_MAX)
        if fault is not None:
            wrong.append(fault)
            return None
        message: Message = message_class()
        try:
            json_format.ParseDict(value, message)  # type: ignore[arg-type]
        except (json_format.ParseError, ValueError, TypeError, AttributeError):
            wrong.append(violation(path, "request.field_type"))
            return None
        return message

    return read


def _fault(value: object, path: str, depth: int) -> FieldViolation | None:
    """What makes a free-form JSON value unfit: a text that cannot be stored, a repeated name, a number that is not finite, its depth."""
    if isinstance(value, str):
        return None if is_storable(value) else violation(path, "request.field_character")
    if isinstance(value, float):
        return None if isfinite(value) else violation(path, "request.field_range")
    if not isinstance(value, dict | list):
        return None
    if depth == 0:
        return violation(path, "request.json_too_deep")
    if isinstance(value, list):
        faults = (_fault(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(value))
    elif type(value) is not dict:
        return _no_object(value, path)
    else:
        faults = (_fault(key, path, 1) or _fault(item, _join(path, key), depth - 1) for key, item in value.items())
    return next((fault for fault in faults if fault is not None), None)
