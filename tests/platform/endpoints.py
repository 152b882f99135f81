"""Every method of every contract as an HTTP endpoint, and how a right request to it looks.

All of it follows from the descriptors, so a new method is here as soon as its contract is. What no rule tells, such as what makes a plate a
plate, is in `Words`; what only the state of things tells, such as which car is inside, is in `neighbourhood`. Wrong requests are in
`bad_input`.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

from google.protobuf.descriptor import FieldDescriptor

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
PAGING = ("page_size", "page_token")
# A request as the contract's JSON says it, by field name.
Values = Mapping[str, Any]


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
    def ids(self) -> Sequence[FieldDescriptor]:
        """The fields that name something of a community."""
        return [each for each in self.fields if is_id(each)]

    @property
    def naming(self) -> Sequence[FieldDescriptor]:
        """The same, with the fields that name people and cars."""
        return [*self.ids, *(each for each in self.fields if each.name in NAMES)]

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


def rules_of(described: FieldDescriptor) -> validate_pb2.FieldRules:
    """What the contract asks of a field."""
    return described.GetOptions().Extensions[validate_pb2.field]


def is_id(described: FieldDescriptor) -> bool:
    """Whether a field names something of a community."""
    return described.type == FieldDescriptor.TYPE_STRING and described.name.endswith("_id")


def is_timestamp(described: FieldDescriptor) -> bool:
    """Whether a field is an instant."""
    return described.message_type is not None and described.message_type.full_name == TIMESTAMP


def is_day(described: FieldDescriptor) -> bool:
    """Whether a field is a calendar day."""
    return described.type == FieldDescriptor.TYPE_STRING and described.name.rpartition("_")[2] == "day"


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

    def id_for(self, name: str) -> str:
        """The id that a field of this name means: `camera_device_id` means a `device_id` where nothing is called so. Raises UnknownId."""
        parts = name.split("_")
        for kind in ("_".join(parts[start:]) for start in range(len(parts) - 1)):
            if kind in self.ids:
                return self.ids[kind]
        raise UnknownId(name)

    def learn(self, answer: object) -> None:
        """Remembers the ids in an answer."""
        for name, value in leaves(answer):
            if name.endswith("_id") and value:
                self.ids.setdefault(name, str(value))

    def request(self, endpoint: Endpoint, given: Values) -> Values:
        """The least that the contract asks for, beside what is given. Raises Underivable, UnknownId."""
        derived = {each.name: self.value(each) for each in endpoint.required if each.name not in given}
        return {**derived, **given}

    def unknown(self, described: FieldDescriptor) -> str:
        """The name of nothing, as a field of `Endpoint.naming` takes it."""
        if described.name in NAMES:
            return str(self._single(described))
        return str(uuid4()) if rules_of(described).string.uuid else f"nothing-{self.text()}"

    def value(self, described: FieldDescriptor) -> Any:
        """What may stand in a field. Raises Underivable, UnknownId."""
        value = self._single(described)
        return [value] if described.is_repeated else value

    def _single(self, described: FieldDescriptor) -> Any:
        rules = rules_of(described).repeated.items if described.is_repeated else rules_of(described)
        match described.name.rpartition("_")[2]:
            case "phone":
                return self.phone()
            case "plate" | "plates":
                return self.plate()
            case "day":
                return (datetime.now(UTC) - timedelta(days=2)).date().isoformat()
        if described.name in _EXAMPLES:
            return _EXAMPLES[described.name]
        if is_id(described):
            return self.id_for(described.name)
        if is_timestamp(described):
            hours = 1 if described.name.endswith(("until", "to")) else 0
            return instant(datetime.now(UTC) + timedelta(hours=hours))
        if described.enum_type is not None:
            return next(value.name for value in described.enum_type.values if value.number not in (0, *rules.enum.not_in))
        if described.type == FieldDescriptor.TYPE_BOOL:
            return True
        if described.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
            bounds = getattr(rules, rules.WhichOneof("type") or "int32")
            return max(1, bounds.gte, bounds.gt + 1)
        if described.type == FieldDescriptor.TYPE_STRING and not rules.string.pattern:
            return (self.text() * (rules.string.min_len // 8 + 1))[: rules.string.max_len or None]
        raise Underivable(described.full_name)


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
