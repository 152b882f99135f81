"""Transcoding: what of an HTTP request goes into which field of the request message, and how the answer message becomes an HTTP answer.

Compiled once for each route. How JSON itself is read and written is in `reading` and `writing`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_plus

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Error as MessageError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.errors import FieldViolation
from services.gateway.problems import UnsupportedMedia, invalid, violation
from services.gateway.reading import Reader, message_reader, parse_json, refuse_if, text_reader
from services.gateway.routes import WHOLE_BODY, ContractError, Route
from services.gateway.writing import json_writer

JSON = b"application/json"
QUERY_PARAMETERS_MAX = 100
# How deep dotted names of query parameters go: `period.from` is two.
_QUERY_DEPTH_MAX = 3
_RAW = HttpBody.DESCRIPTOR.full_name


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field of the request that comes in the path or the query, by its dotted name."""

    name: str
    fields: Sequence[FieldDescriptor]
    reader: Reader

    @property
    def field(self) -> FieldDescriptor:
        """The last field of the path: the one that takes the value."""
        return self.fields[-1]

    def put(self, message: Message, values: Sequence[object]) -> None:
        """Sets the field, or extends it when it is repeated."""
        target: Any = message
        for field in self.fields[:-1]:
            target = getattr(target, field.name)
        name = self.fields[-1].name
        if self.fields[-1].is_repeated:
            getattr(target, name).extend(values)
        elif isinstance(values[0], Message):
            getattr(target, name).CopyFrom(values[0])
        else:
            setattr(target, name, values[0])


@dataclass(frozen=True, slots=True)
class Transcoding:
    """How one route's requests and answers are turned around. `raw_body` tells that the body goes through as it comes, `answers_json`
    that the answer is not raw either."""

    route: Route
    path: Sequence[Parameter]
    query: Mapping[str, Parameter]
    raw_body: bool
    answers_json: bool
    # Turns a serialized answer message into status, content type and body.
    answer: Callable[[bytes], tuple[int, bytes, bytes]]
    _read_body: Callable[[bytes, str], Message]

    def request(self, path_values: Sequence[str], query: bytes, body: bytes, content_type: str) -> bytes:
        """The serialized request message. Raises Invalid, which names each field that is wrong."""
        wrong: list[FieldViolation] = []
        try:
            message = self._read_body(body, content_type)
            values = _query_values(self.query, query, wrong) if query else []
            for parameter, text in zip(self.path, path_values, strict=True):
                values.append((parameter, [parameter.reader(_unquoted(text) if "%" in text else text, parameter.name, wrong)]))
            refuse_if(wrong)
            for parameter, read in values:
                parameter.put(message, read)
            return message.SerializeToString()
        except (MessageError, RecursionError):
            raise invalid("request.json_too_deep") from None


def compile_route(route: Route) -> Transcoding:
    """The transcoding of a route. Raises ContractError when a path field cannot come in a path."""
    request = route.method.input_type
    path = []
    for name in route.path_fields:
        parameter = _parameter(request, name)
        if parameter is None or parameter.field.is_repeated:
            raise ContractError(f"{route.method.full_name}: {name} cannot come in a path")
        path.append(parameter)
    body_field = request.fields_by_name.get(route.body)
    if route.body == WHOLE_BODY:
        query: dict[str, Parameter] = {}
    else:
        taken = {*route.path_fields, route.body}
        query = {p.name: p for p in _parameters(request, (), _QUERY_DEPTH_MAX) if p.name not in taken}
    raw = body_field is not None and body_field.message_type is not None and body_field.message_type.full_name == _RAW
    return Transcoding(
        route=route,
        path=path,
        query=query | {_camel_case(p): p for p in query.values()},
        raw_body=raw,
        answers_json=route.method.output_type.full_name not in (_RAW, Empty.DESCRIPTOR.full_name),
        answer=_answer(route.method.output_type),
        _read_body=_raw_body(route) if raw else _json_body(route),
    )


def _camel_case(parameter: Parameter) -> str:
    return ".".join(field.json_name for field in parameter.fields)


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise invalid("request.path_not_utf8") from None


def _parameter(descriptor: Descriptor, dotted: str) -> Parameter | None:
    return next((p for p in _parameters(descriptor, (), dotted.count(".") + 1) if p.name == dotted), None)


def _parameters(descriptor: Descriptor, above: tuple[FieldDescriptor, ...], depth: int) -> list[Parameter]:
    """Every field that a path or a query can name, with those of messages inside; not free-form JSON, maps and repeated messages."""
    found: list[Parameter] = []
    for field in descriptor.fields:
        fields = (*above, field)
        if field.message_type is None or field.message_type.full_name == Timestamp.DESCRIPTOR.full_name:
            found.append(Parameter(".".join(f.name for f in fields), fields, text_reader(field)))
        elif depth > 1 and not field.is_repeated and not field.message_type.full_name.startswith("google."):
            found += _parameters(field.message_type, fields, depth - 1)
    return found


def _query_values(parameters: Mapping[str, Parameter], query: bytes, wrong: list[FieldViolation]) -> list[tuple[Parameter, list[object]]]:
    parts = query.split(b"&")
    if len(parts) > QUERY_PARAMETERS_MAX:
        raise invalid("request.query_too_long")
    given: dict[str, tuple[Parameter, list[object]]] = {}
    for part in filter(None, parts):
        name, _, text = part.decode("latin-1").partition("=")
        try:
            name, text = unquote_plus(name, errors="strict"), unquote_plus(text, errors="strict")
        except UnicodeDecodeError:
            raise invalid("request.query_not_utf8") from None
        parameter = parameters.get(name)
        if parameter is None:
            wrong.append(violation(name, "request.field_unknown"))
            continue
        _, values = given.setdefault(parameter.name, (parameter, []))
        if values and not parameter.field.is_repeated:
            wrong.append(violation(name, "request.field_repeated"))
        here = f"{parameter.name}[{len(values)}]" if parameter.field.is_repeated else parameter.name
        values.append(parameter.reader(text, here, wrong))
    return list(given.values())


def _raw_body(route: Route) -> Callable[[bytes, str], Message]:
    request_class = GetMessageClass(route.method.input_type)
    return lambda body, content_type: request_class(**{route.body: HttpBody(content_type=content_type, data=body)})


def _json_body(route: Route) -> Callable[[bytes, str], Message]:
    request_class = GetMessageClass(route.method.input_type)
    if not route.body:
        return lambda body, content_type: request_class()
    whole = route.body == WHOLE_BODY
    target = route.method.input_type if whole else route.method.input_type.fields_by_name[route.body].message_type
    if target is None:
        raise ContractError(f"{route.method.full_name}: the body's field must be a message")
    read_message = message_reader(target)
    # What the path says, the body does not say again. Dotted fields of a path are a matter of the message that they are in.
    in_path = {name for field in target.fields if whole and field.name in route.path_fields for name in (field.name, field.json_name)}

    def read(body: bytes, content_type: str) -> Message:
        if not body:
            return request_class()
        if content_type and not is_json(content_type):
            raise invalid("request.media_type", kind=UnsupportedMedia)
        value = parse_json(body)
        wrong: list[FieldViolation] = []
        if type(value) is dict:
            wrong += (violation(name, "request.field_unknown") for name in value if name in in_path)
        message = read_message(value, "" if whole else route.body, wrong)
        refuse_if(wrong)
        if whole:
            assert isinstance(message, Message)
            return message
        return request_class(**{route.body: message})

    return read


def is_json(content_type: str) -> bool:
    """Whether a content type is JSON in UTF-8."""
    media_type, _, parameters = content_type.partition(";")
    charset = parameters.strip().lower()
    return media_type.strip().lower() == "application/json" and charset in ("", "charset=utf-8", 'charset="utf-8"')


def _answer(descriptor: Descriptor) -> Callable[[bytes], tuple[int, bytes, bytes]]:
    if descriptor.full_name == Empty.DESCRIPTOR.full_name:
        return lambda serialized: (204, b"", b"")
    if descriptor.full_name == _RAW:
        return _raw_answer
    write = json_writer(descriptor)
    return lambda serialized: (200, JSON, write(serialized))


def _raw_answer(serialized: bytes) -> tuple[int, bytes, bytes]:
    answer = HttpBody.FromString(serialized)
    return 200, answer.content_type.encode(), answer.data
