"""Requests as the OpenAPI document describes them, as a Hypothesis strategy: mostly right, with something else here and there."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st

from tests.platform.endpoints import JSON, instant
from tests.platform.wire import Sent

Schema = Mapping[str, Any]
# Of so many values one is not what the document asks for.
_RIGHT = 25
_texts = st.text(max_size=20)
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)
_instants = st.integers(-(2**31), 2**33).map(lambda seconds: instant(datetime.fromtimestamp(seconds, UTC)))


def requests(document: Mapping[str, Any], known: Mapping[str, str]) -> st.SearchStrategy[Sent]:
    """Requests to any operation of the document; `known` is what there is to name, by the names of fields."""
    values = _Values(document, known)
    return st.one_of(
        [
            _operation(verb.upper(), path, operation, values)
            for path, operations in document["paths"].items()
            for verb, operation in operations.items()
        ]
    )


def _operation(verb: str, path: str, operation: Schema, values: "_Values") -> st.SearchStrategy[Sent]:
    parameters = [values.resolved(parameter) for parameter in operation["parameters"]]
    places = {place: [each for each in parameters if each["in"] == place] for place in ("path", "query")}
    drawn = {
        place: st.fixed_dictionaries(
            {each["name"]: values.of(each["schema"], each["name"]) for each in found if each.get("required")},
            optional={each["name"]: values.of(each["schema"], each["name"]) for each in found if not each.get("required")},
        )
        for place, found in places.items()
    }
    content = operation.get("requestBody", {}).get("content", {})
    body = values.of(content["application/json"]["schema"]).map(json.dumps) if "application/json" in content else st.just("")

    def sent(in_path: Mapping[str, Any], in_query: Mapping[str, Any], text: str) -> Sent:
        target = path
        for name, value in in_path.items():
            target = target.replace(f"{{{name}}}", quote(str(value), safe=""))
        query = urlencode(in_query)
        return Sent(verb, target + ("?" + query if query else ""), text.encode(), {**JSON, "accept": "application/json"})

    return st.builds(sent, drawn["path"], drawn["query"], body)


class _Values:
    """The values of the document's schemas."""

    def __init__(self, document: Mapping[str, Any], known: Mapping[str, str]) -> None:
        self._document = document
        self._known = known

    def resolved(self, schema: Schema) -> Schema:
        """What a reference leads to."""
        if "$ref" not in schema:
            return schema
        found: Any = self._document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return self.resolved(found)

    def of(self, schema: Schema, name: str = "") -> st.SearchStrategy[Any]:
        """Values of a schema, and now and then any other. What is known under its name is what it is most often."""
        right = self._right(self.resolved(schema))
        if name in self._known:
            right = st.sampled_from([st.just(self._known[name])] * 3 + [right]).flatmap(lambda chosen: chosen)
        return st.integers(1, _RIGHT).flatmap(lambda chance: _anything if chance == _RIGHT else right)

    def _right(self, schema: Schema) -> st.SearchStrategy[Any]:
        match schema:
            case {"enum": names}:
                return st.sampled_from(names)
            case {"format": "uuid"}:
                return st.uuids().map(str)
            case {"format": "date-time"}:
                return _instants
            case {"type": "string", "pattern": pattern}:
                return st.from_regex(pattern, fullmatch=True)
            case {"type": "string"}:
                longest = schema.get("maxLength", schema.get("x-max-bytes", 40))
                return st.text(min_size=schema.get("minLength", 0), max_size=min(longest, 40))
            case {"type": "integer"}:
                return st.integers(schema.get("minimum"), schema.get("maximum"))
            case {"type": "number"}:
                return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
            case {"type": "boolean"}:
                return st.booleans()
            case {"type": "array"}:
                return st.lists(self.of(schema.get("items", {})), min_size=schema.get("minItems", 0), max_size=4)
            case {"type": "object", "properties": properties}:
                required = schema.get("required", ())
                return st.fixed_dictionaries(
                    {name: self.of(each, name) for name, each in properties.items() if name in required},
                    optional={name: self.of(each, name) for name, each in properties.items() if name not in required},
                )
            case {"type": "object"}:
                return st.dictionaries(_texts, _anything, max_size=4)
        return _anything
