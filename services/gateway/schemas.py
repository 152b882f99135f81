"""JSON Schemas of the contracts' messages, for the OpenAPI document: shapes, comments and the `buf.validate` rules.

Only describes. What is enforced is enforced by `reading` and by the services themselves.
"""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from buf.validate import validate_pb2
from servicekit.errors import Invalid
from servicekit.rpc import validate
from services.gateway.contracts import service_of

Schema = dict[str, Any]
_F = FieldDescriptor
_SCALARS: Mapping[int, Schema] = {
    _F.TYPE_STRING: {"type": "string"},
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    _F.TYPE_DOUBLE: {"type": "number", "format": "double"},
    _F.TYPE_FLOAT: {"type": "number", "format": "float"},
    **{kind: {"type": "integer", "format": "int32"} for kind in (_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32)},
    **{kind: {"type": "integer", "format": "uint32", "minimum": 0} for kind in (_F.TYPE_UINT32, _F.TYPE_FIXED32)},
    # A JSON number holds 53 bits in many languages, so 64-bit integers are written as text; numbers are accepted too.
    **{
        kind: {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}
        for kind in (_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64)
    },
    **{kind: {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"} for kind in (_F.TYPE_UINT64, _F.TYPE_FIXED64)},
}
_WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Value": {},
    "google.protobuf.Empty": {"type": "object"},
}
# What every contract means by these, so that none has to say it.
_PAGING: Mapping[str, str] = {
    "page_size": "How many to answer with at most; 0 leaves it to the service.",
    "page_token": "`next_page_token` of the page before; empty for the first page.",
    "next_page_token": "Ask for the next page with it; empty on the last page.",
}
_BOUNDS = {"gt": "exclusiveMinimum", "gte": "minimum", "lt": "exclusiveMaximum", "lte": "maximum"}
# Rules that JSON Schema has a format of the same name for.
_FORMATS = ("uuid", "email", "hostname", "ipv4", "ipv6", "uri")


class Schemas:
    """Collects the schemas of messages and enums as they are referred to."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self.components: dict[str, Schema] = {}

    def of_answer(self, descriptor: Descriptor) -> Schema:
        """A reference to a message as it is answered: every field without presence is always there."""
        return self._reference(descriptor, lambda d: [field.name for field in d.fields if not field.has_presence])

    def of_request(self, descriptor: Descriptor, left_out: frozenset[str] = frozenset()) -> Schema:
        """The schema of a message as a body, without the fields that the path or the query carries."""
        schema = self._message(descriptor, required_fields)
        schema["properties"] = {name: field for name, field in schema["properties"].items() if name not in left_out}
        required = [name for name in schema.pop("required", ()) if name not in left_out]
        return schema | ({"required": required} if required else {}) | {"additionalProperties": False}

    def of_field(self, field: FieldDescriptor, required: Callable[[Descriptor], list[str]]) -> Schema:
        """The schema of a field with its comment and its rules."""
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            schema: Schema = {
                "type": "object",
                "additionalProperties": self._value(field.message_type.fields_by_name["value"], rules.map.values, required),
            }
        elif field.is_repeated:
            schema = {"type": "array", "items": self._value(field, rules.repeated.items, required)}
            schema |= _present(rules.repeated, {"min_items": "minItems", "max_items": "maxItems", "unique": "uniqueItems"})
        else:
            schema = self._value(field, rules, required)
        comment = self._comments.get(field.full_name) or _PAGING.get(field.name)
        return schema | {"description": comment} if comment else schema

    def comment(self, full_name: str) -> str:
        """What the contract says of a thing, on one line."""
        return " ".join(self._comments.get(full_name, "").split())

    def _value(self, field: FieldDescriptor, rules: Any, required: Callable[[Descriptor], list[str]]) -> Schema:
        if field.message_type is not None:
            known = _WELL_KNOWN.get(field.message_type.full_name)
            return dict(known) if known is not None else self._reference(field.message_type, required)
        if field.enum_type is not None:
            return self._enum(field.enum_type, rules.enum)
        schema = dict(_SCALARS[field.type])
        kind = rules.WhichOneof("type")
        if kind == "string":
            return schema | _string_rules(rules.string)
        if kind is not None:
            bounds = _present(getattr(rules, kind), _BOUNDS)
            # A bound of a number that is written as text is no JSON Schema keyword.
            return schema | ({"x-bounds": bounds} if schema["type"] == "string" and bounds else bounds)
        return schema

    def _reference(self, descriptor: Descriptor, required: Callable[[Descriptor], list[str]]) -> Schema:
        name = _component_name(descriptor)
        if name not in self.components:
            self.components[name] = {}  # A message may contain itself.
            self.components[name] = self._message(descriptor, required)
        return {"$ref": f"#/components/schemas/{name}"}

    def _message(self, descriptor: Descriptor, required: Callable[[Descriptor], list[str]]) -> Schema:
        schema: Schema = {"type": "object"}
        if comment := self._comments.get(descriptor.full_name):
            schema["description"] = comment
        schema["properties"] = {field.name: self.of_field(field, required) for field in descriptor.fields}
        if names := required(descriptor):
            schema["required"] = names
        return schema

    def _enum(self, enum: EnumDescriptor, rules: Any) -> Schema:
        left_out = set(rules.not_in)
        if left_out or getattr(rules, "in"):
            taken = set(getattr(rules, "in")) or {value.number for value in enum.values}
            return {"type": "string", "enum": [v.name for v in enum.values if v.number in taken - left_out]}
        name = _component_name(enum)
        if name not in self.components:
            lines = [self._comments.get(enum.full_name, "")]
            for value in enum.values:
                if said := self.comment(f"{enum.full_name}.{value.name}"):
                    lines.append(f"- `{value.name}`: {said}")
            self.components[name] = {"type": "string", "enum": [value.name for value in enum.values]}
            if description := "\n".join(filter(None, lines)):
                self.components[name]["description"] = description
        return {"$ref": f"#/components/schemas/{name}"}


def _component_name(descriptor: Descriptor | EnumDescriptor) -> str:
    package = descriptor.file.package
    return f"{service_of(package)}.{descriptor.full_name.removeprefix(package + '.')}"


def required_fields(descriptor: Descriptor) -> list[str]:
    """The fields that a message cannot do without: those that the contract finds wrong in an empty one."""
    empty: Message = GetMessageClass(descriptor)()
    try:
        validate(empty)
    except Invalid as error:
        missing = {violation.field for violation in error.fields}
        return [field.name for field in descriptor.fields if field.name in missing]
    return []


def _present(rules: Any, names: Mapping[str, str]) -> Schema:
    set_fields = {field.name: value for field, value in rules.ListFields()}
    return {theirs: set_fields[ours] for ours, theirs in names.items() if ours in set_fields}


def _string_rules(rules: Any) -> Schema:
    schema = _present(rules, {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern", "const": "const"})
    if rules.len:
        schema |= {"minLength": rules.len, "maxLength": rules.len}
    well_known = rules.WhichOneof("well_known")
    if well_known in _FORMATS:
        schema["format"] = well_known
    if allowed := list(getattr(rules, "in")):
        schema["enum"] = allowed
    if rules.max_bytes:
        schema["x-max-bytes"] = rules.max_bytes
    return schema
