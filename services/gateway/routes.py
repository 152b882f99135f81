"""Routes: the `google.api.http` rules of the contracts, compiled into a table that finds a path in one walk over its segments.

Pure. Templates are literals, `{field}` and `{message.field}` segments, and a custom verb at the end, as in
`/v1/parking/permits/{permit_id}:revoke`; the wildcards of the full template grammar are refused, none of our contracts needs them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from services.gateway.contracts import service_of

_VARIABLE = re.compile(r"\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)\}")
_LITERAL = re.compile(r"[A-Za-z0-9._~-]+")
WHOLE_BODY = "*"


class ContractError(Exception):
    """A contract cannot be served; the text names the method and what is wrong. Stops the start."""


@dataclass(frozen=True, slots=True)
class Route:
    """One verb and path of one method.

    `path_fields` are the dotted request fields of the path, in order. `body` is `*` for the whole message, a field's name, or empty for
    none.
    """

    verb: str
    template: str
    path_fields: Sequence[str]
    body: str
    method: MethodDescriptor
    service: str
    rpc_path: str


@dataclass(slots=True)
class _Node:
    """A place in the tree of segments. `ends` are the routes that end here, by custom verb (empty for none) and then by HTTP verb."""

    literals: dict[str, "_Node"]
    variable: "_Node | None"
    ends: dict[str, dict[str, Route]]


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes, and the tree that finds them."""

    routes: Sequence[Route]
    _root: _Node

    def find(self, path: str) -> tuple[Mapping[str, Route], list[str]] | None:
        """The routes of a path by verb, and the values of its variables, still percent-encoded; None when nothing has this path.

        A literal wins over a variable, and a custom verb over a colon in a value.
        """
        first, *segments = path.split("/")
        if first or not segments:
            return None
        head, _, suffix = segments[-1].rpartition(":")
        values: list[str] = []
        if head and suffix and (found := _walk(self._root, [*segments[:-1], head], 0, suffix, values)):
            return found, values
        values.clear()
        found = _walk(self._root, segments, 0, "", values)
        return None if found is None else (found, values)


def _walk(node: _Node, segments: list[str], index: int, suffix: str, values: list[str]) -> Mapping[str, Route] | None:
    if index == len(segments):
        return node.ends.get(suffix)
    segment = segments[index]
    child = node.literals.get(segment)
    if child is not None and (found := _walk(child, segments, index + 1, suffix, values)) is not None:
        return found
    if node.variable is None or not segment:
        return None
    values.append(segment)
    found = _walk(node.variable, segments, index + 1, suffix, values)
    if found is None:
        values.pop()
    return found


def compile_routes(services: Iterable[ServiceDescriptor]) -> RouteTable:
    """The table of all methods that carry an HTTP rule. Raises ContractError for a rule that cannot be served, or two for one path."""
    root = _Node({}, None, {})
    routes: list[Route] = []
    for service in services:
        for method in service.methods:
            for route in _routes_of(method):
                _insert(root, route)
                routes.append(route)
    return RouteTable(routes, root)


def _routes_of(method: MethodDescriptor) -> Iterator[Route]:
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    if method.client_streaming or method.server_streaming:
        raise ContractError(f"{method.full_name}: a streaming method cannot be served over HTTP")
    rule = options.Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        verb, template = _verb_and_template(binding, method)
        segments, _ = split_template(template, method.full_name)
        path_fields = tuple(segment[1:-1] for segment in segments if segment.startswith("{"))
        if len(set(path_fields)) != len(path_fields):
            raise ContractError(f"{method.full_name}: {template} names a field twice")
        if binding.body not in ("", WHOLE_BODY) and binding.body not in method.input_type.fields_by_name:
            raise ContractError(f"{method.full_name}: there is no field {binding.body} to take the body")
        if binding.body and verb == "GET":
            raise ContractError(f"{method.full_name}: a GET has no body")
        if binding.response_body:
            raise ContractError(f"{method.full_name}: response_body is not served")
        yield Route(
            verb=verb,
            template=template,
            path_fields=path_fields,
            body=binding.body,
            method=method,
            service=service_of(method.full_name),
            rpc_path=f"/{method.containing_service.full_name}/{method.name}",
        )


def _verb_and_template(rule: http_pb2.HttpRule, method: MethodDescriptor) -> tuple[str, str]:
    pattern = rule.WhichOneof("pattern")
    if pattern is None:
        raise ContractError(f"{method.full_name}: its HTTP rule has no path")
    if pattern == "custom":
        raise ContractError(f"{method.full_name}: the verb {rule.custom.kind} is not served")
    return pattern.upper(), getattr(rule, pattern)


def split_template(template: str, method_name: str) -> tuple[list[str], str]:
    """The segments of a template and its custom verb, which may be empty. Raises ContractError, which names the method."""
    path, _, suffix = template.partition(":")
    if not path.startswith("/") or not all(_VARIABLE.fullmatch(segment) or _LITERAL.fullmatch(segment) for segment in path[1:].split("/")):
        raise ContractError(f"{method_name}: the path {template} is not of the form /literal/{{field}}:verb")
    if suffix and not _LITERAL.fullmatch(suffix):
        raise ContractError(f"{method_name}: the custom verb of {template} is malformed")
    return path[1:].split("/"), suffix


def _insert(root: _Node, route: Route) -> None:
    segments, suffix = split_template(route.template, route.method.full_name)
    node = root
    for segment in segments:
        if segment.startswith("{"):
            if node.variable is None:
                node.variable = _Node({}, None, {})
            node = node.variable
        else:
            node = node.literals.setdefault(segment, _Node({}, None, {}))
    taken = node.ends.setdefault(suffix, {}).setdefault(route.verb, route)
    if taken is not route:
        raise ContractError(f"{route.method.full_name} and {taken.method.full_name} both want {route.verb} {route.template}")
