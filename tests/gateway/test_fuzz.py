"""Whatever a stranger sends, the gateway answers, and never with a defect."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway import contracts
from services.gateway.routes import Route, compile_routes
from tests.gateway.conftest import Client, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROUTES = compile_routes(contracts.load().services).routes
EXAMPLES = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

_text = st.text(max_size=12)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
# Any bytes that HTTP allows in a header.
_token = st.binary(max_size=12).map(lambda raw: raw.translate(None, bytes(range(32)) + b"\x7f").strip())
_header_name = st.sampled_from(
    [
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"if-none-match",
        b"idempotency-key",
        b"last-event-id",
        b"origin",
        b"traceparent",
        b"x-forwarded-for",
        b"x-request-id",
        b"x-timeout-ms",
    ]
)
_headers = st.lists(st.tuples(_header_name, _token), max_size=4)


def _body_of(route: Route) -> st.SearchStrategy[bytes]:
    """Bodies that look like the route's: its own names with any values, any JSON, any bytes."""
    names = [name for field in route.method.input_type.fields for name in (field.name, field.json_name)] or ["x"]
    document = st.dictionaries(st.sampled_from(names), _json, max_size=4) | _json
    return document.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)


# Any bytes, percent-encoded where a path or a query would have to.
_escaped = st.binary(max_size=6).map(
    lambda raw: "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02x}" for byte in raw)
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes, list[tuple[bytes, bytes]], bytes]:
    """A request that is right in many ways and wrong in some: verb, target, headers, body."""
    route = draw(st.sampled_from(ROUTES))
    verb = draw(st.sampled_from([route.verb, route.verb, route.verb, "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]))
    path = "/".join(
        draw(st.sampled_from(["a", "%00", "%ff", "%E4%BA%AC", ":", "..", "%2F", ""]) | _escaped) if part.startswith("{") else part
        for part in route.template.split("/")
    )
    names = [field.name for field in route.method.input_type.fields] or ["x"]
    pairs = draw(st.lists(st.tuples(st.sampled_from(names) | _escaped, _escaped), max_size=4))
    query = "&".join(f"{name}={value}" for name, value in pairs)
    return verb, (path + ("?" + query if query else "")).encode(), draw(_headers), draw(_body_of(route))


@EXAMPLES
@given(request=requests())
async def test_a_request_that_is_nearly_right_is_answered_and_never_with_a_defect(client: Client, upstream: Upstream, request: Any) -> None:
    verb, target, headers, body = request
    status, answer_headers = await exchange(client, verb.encode(), target, headers, body)
    assert status < 500, request
    assert answer_headers.get(b"x-request-id"), request


@EXAMPLES
@given(target=st.binary(max_size=40), body=st.binary(max_size=40), verb=st.sampled_from([b"GET", b"POST", b"BREW", b"\xff"]))
async def test_any_bytes_in_the_place_of_a_request_are_answered_and_never_with_a_defect(
    client: Client, target: bytes, body: bytes, verb: bytes
) -> None:
    status, _ = await exchange(client, verb, b"/" + target, [], body)
    assert status < 500, (verb, target, body)


async def exchange(
    client: Client, verb: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> tuple[int, dict[bytes, bytes]]:
    """Sends a request over a bare socket, byte for byte. Returns the status and the headers of the answer."""
    host, _, port = client.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [verb + b" " + target + b" HTTP/1.1", b"host: a", b"connection: close", b"content-length: %d" % len(body)]
    lines += [name + b": " + value for name, value in headers]
    try:
        writer.write(b"\r\n".join([*lines, b"", b""]) + body)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
    first, *rest = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return int(first.split(b" ")[1]), dict(line.split(b": ", 1) for line in rest)
