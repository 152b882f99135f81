"""Every method of every contract as an HTTP endpoint, and how a right request to it looks.

All of it follows from the descriptors, so a new method is here as soon as its contract is. What no rule tells, such as what makes a plate a
plate, is in `Words`; what only the state of things tells, such as which car is inside, is in `builders`. Wrong requests are in
`bad_input`.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from buf.validate import validate_pb2
from linli.options.v1 import options_pb2
from services.gateway import contracts
from services.gateway.routes import WHOLE_BODY, Route, compile_routes
from services.gateway.schemas import required_fields
from tests.platform.wire import Sent

TIMESTAMP = "google.protobuf.Timestamp"
JSON = {"content-type": "application/json"}
# What things are known by beside their ids.
NAMES = ("phone", "plate")
# A request as the contract's JSON says it, by field name.
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Naming:
    """Where a request names something: a field of the request, or of a message in it."""

    path: Sequence[FieldDescriptor]

    @property
    def described(self) -> FieldDescriptor:
        """The field itself."""
        return self.path[-1]

    def __str__(self) -> str:
        return ".".join(field.name for field in self.path)

    def put(self, values: Values, value: str) -> Values:
        """The same request with this name in its place; of repeated messages in the first."""
        return _put(values, self.path, value)


def _put(values: Values, path: Sequence[FieldDescriptor], value: str) -> Values:
    outer, *inner = path
    if not inner:
        return {**values, outer.name: [value] if outer.is_repeated else value}
    there = values.get(outer.name)
    if not outer.is_repeated:
        return {**values, outer.name: _put(there or {}, inner, value)}
    first, *others = there or [{}]
    return {**values, outer.name: [_put(first, inner, value), *others]}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method at one verb and path."""

    route: Route

    @property
    def name(self) -> str:
        """Such as `parking.CreateLot`."""
        return f"{self.route.service}.{self.route.method.name}"

    @property
    def authority(self) -> options_pb2.Authority:
        """Who may call it."""
        return self.route.method.GetOptions().Extensions[options_pb2.authority]

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return self.route.verb == "GET"

    @property
    def fields(self) -> Sequence[FieldDescriptor]:
        """What its request can say."""
        return list(self.route.method.input_type.fields)

    @property
    def required(self) -> Sequence[FieldDescriptor]:
        """What its request must say."""
        names = {*required_fields(self.route.method.input_type), *self.route.path_fields}
        return [each for each in self.fields if each.name in names]

    @property
    def ids(self) -> Sequence[Naming]:
        """Where it names something of a community by an id."""
        return [naming for naming in _namings(self.route.method.input_type) if is_id(naming.described)]

    @property
    def naming(self) -> Sequence[Naming]:
        """The same, with what names people and cars."""
        return list(_namings(self.route.method.input_type))

    def __str__(self) -> str:
        return self.name


ENDPOINTS: Sequence[Endpoint] = [Endpoint(route) for route in compile_routes(contracts.load().services).routes]
GUARDED: Sequence[Endpoint] = [endpoint for endpoint in ENDPOINTS if not endpoint.authority.public]
NAMED: Mapping[str, Endpoint] = {endpoint.name: endpoint for endpoint in ENDPOINTS}


@dataclass(frozen=True, slots=True)
class Raw:
    """A body that goes through as it comes, with the headers that speak for it."""

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def to_http(endpoint: Endpoint, values: Values) -> Sent:
    """Writes a request: what the path takes into the path, the rest into the body or the query."""
    route, rest = endpoint.route, dict(values)
    target = route.template
    for name in route.path_fields:
        target = target.replace(f"{{{name}}}", _escaped(rest.pop(name)))
    if route.body == WHOLE_BODY:
        return Sent(route.verb, target, json.dumps(rest).encode(), JSON)
    if route.body:
        body = rest.pop(route.body)
        if isinstance(body, Raw):
            return Sent(route.verb, target, body.content, body.headers)
        return Sent(route.verb, target, json.dumps(body).encode(), JSON)
    query = urlencode([(name, _text(value)) for name, value in rest.items()], errors="surrogatepass")
    return Sent(route.verb, target + ("?" + query if query else ""), b"", {})


def _escaped(value: object) -> str:
    return quote(_text(value), safe="", errors="surrogatepass")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _namings(message: Descriptor) -> Iterator[Naming]:
    for each in message.fields:
        if is_id(each) or each.name in NAMES:
            yield Naming((each,))
        elif is_own_message(each):
            assert each.message_type is not None
            yield from (Naming((each, *inner.path)) for inner in _namings(each.message_type))


def rules_of(described: FieldDescriptor) -> validate_pb2.FieldRules:
    """What the contract asks of a field."""
    return described.GetOptions().Extensions[validate_pb2.field]


def item_rules_of(described: FieldDescriptor) -> validate_pb2.FieldRules:
    """What the contract asks of each single value of a field."""
    rules = rules_of(described)
    return rules.repeated.items if described.is_repeated else rules


def is_id(described: FieldDescriptor) -> bool:
    """Whether a field names something of a community, or several such."""
    return described.type == FieldDescriptor.TYPE_STRING and described.name.endswith("_ids" if described.is_repeated else "_id")


def is_own_message(described: FieldDescriptor) -> bool:
    """Whether a field is a message of one of our contracts."""
    return described.message_type is not None and not described.message_type.full_name.startswith("google.")


def is_timestamp(described: FieldDescriptor) -> bool:
    """Whether a field is an instant."""
    return described.message_type is not None and described.message_type.full_name == TIMESTAMP


def is_day(described: FieldDescriptor) -> bool:
    """Whether a field is a calendar day."""
    return described.type == FieldDescriptor.TYPE_STRING and described.name.rpartition("_")[2] == "day"


def is_month(described: FieldDescriptor) -> bool:
    """Whether a field is a calendar month."""
    return described.type == FieldDescriptor.TYPE_STRING and described.name.rpartition("_")[2] == "month"


class Underivable(Exception):
    """No rule tells what may stand in a field; the text names it."""


class UnknownId(Exception):
    """Nothing of this kind exists yet; the text is the kind."""


@dataclass(slots=True)
class Words:
    """What one community's requests say. The texts, phones and plates of two numbers have nothing in common."""

    number: int
    # The first id of each kind that was answered, such as `lot_id`.
    ids: dict[str, str] = field(default_factory=dict)
    # The same of those that are UUIDs: two services may call things alike, as points and access do with rules.
    _uuids: dict[str, str] = field(default_factory=dict)
    _used: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def text(self) -> str:
        """A text that nobody has used."""
        return f"w{self.number}x{next(self._used):04}"

    def phone(self) -> str:
        """A phone that nobody has used."""
        return f"13{self.number}{next(self._used):08}"

    def plate(self) -> str:
        """A plate that nobody has used."""
        return f"京{'ABCDEFGH'[self.number]}{next(self._used):05}"

    def id_for(self, name: str, *, is_uuid: bool = False) -> str:
        """The id that a field of this name means: `camera_device_id` means a `device_id` where nothing is called so. Raises UnknownId."""
        parts = name.split("_")
        for kind in ("_".join(parts[start:]) for start in range(len(parts) - 1)):
            if kind in self.ids:
                known = self.ids[kind]
                return self._uuids.get(kind, known) if is_uuid and not _UUID.fullmatch(known) else known
        raise UnknownId(name)

    def id_of(self, described: FieldDescriptor) -> str:
        """The id that a field means. Raises UnknownId."""
        return self.id_for(described.name.removesuffix("s"), is_uuid=item_rules_of(described).string.uuid)

    def learn(self, answer: object) -> None:
        """Remembers the ids in an answer."""
        for name, value in leaves(answer):
            if name.endswith("_id") and value:
                self.ids.setdefault(name, str(value))
                if _UUID.fullmatch(str(value)):
                    self._uuids.setdefault(name, str(value))

    def request(self, endpoint: Endpoint, given: Values) -> Values:
        """The least that the contract asks for, beside what is given. Raises Underivable, UnknownId."""
        return self._least(endpoint.required, given)

    def message(self, described: Descriptor, **given: Any) -> Values:
        """The same for a message in a request."""
        names = required_fields(described)
        return self._least([each for each in described.fields if each.name in names], given)

    def _least(self, required: Sequence[FieldDescriptor], given: Values) -> Values:
        return {**{each.name: self.value(each) for each in required if each.name not in given}, **given}

    def unknown(self, described: FieldDescriptor) -> str:
        """The name of nothing, as a field that names something takes it."""
        if described.name in NAMES:
            return str(self._single(described))
        return str(uuid4()) if item_rules_of(described).string.uuid else f"nothing{self.text()}"

    def value(self, described: FieldDescriptor) -> Any:
        """What may stand in a field. Raises Underivable, UnknownId."""
        value = self._single(described)
        return [value] if described.is_repeated else value

    def _single(self, described: FieldDescriptor) -> Any:
        rules = item_rules_of(described)
        match described.name.rpartition("_")[2]:
            case "phone":
                return self.phone()
            case "plate" | "plates":
                return self.plate()
            case "day":
                return (datetime.now(UTC) - timedelta(days=2)).date().isoformat()
            case "month":
                return f"{datetime.now(UTC):%Y-%m}"
        if described.name in _EXAMPLES:
            return _EXAMPLES[described.name]
        if is_id(described):
            return self.id_of(described)
        if is_timestamp(described):
            hours = 1 if described.name.endswith(("until", "to")) else 0
            return instant(datetime.now(UTC) + timedelta(hours=hours))
        if is_own_message(described):
            assert described.message_type is not None
            return self.message(described.message_type)
        if described.enum_type is not None:
            allowed = list(getattr(rules.enum, "in")) or [value.number for value in described.enum_type.values]
            number = next(number for number in allowed if number not in (0, *rules.enum.not_in))
            return described.enum_type.values_by_number[number].name
        if described.type == FieldDescriptor.TYPE_BOOL:
            return True
        if described.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
            bounds = getattr(rules, rules.WhichOneof("type") or "int32")
            return max(1, bounds.gte, bounds.gt + 1)
        if described.type == FieldDescriptor.TYPE_STRING:
            text = (self.text() * (rules.string.min_len // 8 + 1))[: rules.string.max_len or None]
            if re.search(rules.string.pattern, text):
                return text
        raise Underivable(described.full_name)


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EXAMPLES: Mapping[str, str] = {
    "metric": "temperature",
    "provider": "sandbox",
    "role": "property_staff",
    "time_zone": "Asia/Shanghai",
}


def instant(moment: datetime) -> str:
    """A moment as JSON has it."""
    return moment.isoformat().replace("+00:00", "Z")


def leaves(answer: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every single value of a JSON document, with the name of the member that holds it."""
    if isinstance(answer, dict):
        for key, value in answer.items():
            yield from leaves(value, key)
    elif isinstance(answer, list):
        for value in answer:
            yield from leaves(value, name.removesuffix("s"))
    else:
        yield name, answer
