"""Wrong requests to any endpoint: one thing wrong at a time, derived from the contract, beside a request that is right.

Some are wrong whatever the state of things; of the others it is only certain that they are no reason for a defect.
"""

import itertools
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from google.protobuf.descriptor import FieldDescriptor

from services.gateway.routes import WHOLE_BODY
from tests.platform.endpoints import (
    JSON,
    Endpoint,
    Raw,
    Values,
    is_day,
    is_month,
    is_own_message,
    is_timestamp,
    item_rules_of,
    rules_of,
    to_http,
)
from tests.platform.wire import Sent

# More than the gateway takes.
BODY_BYTES = 2 * 1024 * 1024
_F = FieldDescriptor


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A request with something wrong.

    When it `is_refused`, nothing but a refusal is right, and if there are `fields`, it names one of them.
    """

    what: str
    sent: Sent
    is_refused: bool = True
    fields: Sequence[str] = ()


# What is only answered: nobody looks at it in a request.
_ANSWERED = {"linli.waste.v1.Compartment.emptied_at"}

# A value that may be wrong, and whether it certainly is.
Bad = tuple[Any, bool]


def _wrong(*values: Any) -> list[Bad]:
    return [(value, True) for value in values]


def _odd(*values: Any) -> list[Bad]:
    return [(value, False) for value in values]


def spoiled(endpoint: Endpoint, values: Values) -> Iterator[Spoiled]:
    """Everything that this module knows to do wrong with a right request."""
    if any(isinstance(value, Raw) for value in values.values()):
        yield from _raw_bodies(endpoint, values)
    elif endpoint.route.body:
        yield from _bodies(endpoint, values)
    else:
        yield from _queries(endpoint, values)
    for described in endpoint.fields:
        if isinstance(values.get(described.name), Raw):
            continue
        in_text = described.name in endpoint.route.path_fields or not endpoint.route.body
        for bad, is_refused in _bad_values(described, values.get(described.name), in_text=in_text):
            what = f"{described.name}={_shown(bad)}"
            yield Spoiled(what, to_http(endpoint, {**values, described.name: bad}), is_refused, [described.name])
    yield from _inverted(endpoint, values)


def _shown(bad: Any) -> str:
    return repr(bad)[:40]


def _raw_bodies(endpoint: Endpoint, values: Values) -> Iterator[Spoiled]:
    sent = to_http(endpoint, values)
    for content in (b"", b"{", b"\xff\xfe", b"\0", b"a" * BODY_BYTES, sent.content + b" "):
        yield Spoiled(f"body {content[:20]!r}", Sent(sent.verb, sent.target, content, sent.headers))
    yield Spoiled("unsigned", Sent(sent.verb, sent.target, sent.content, {}))


def _bodies(endpoint: Endpoint, values: Values) -> Iterator[Spoiled]:
    sent = to_http(endpoint, values)

    def instead(what: str, content: bytes, headers: Mapping[str, str] = JSON) -> Spoiled:
        return Spoiled(what, Sent(sent.verb, sent.target, content, headers))

    for content in (b"{", b"[]", b"null", b"NaN", b"\xff{}", b"{}\0", "{}".encode("utf-16"), b"[" * 50_000):
        yield instead(f"body {content[:20]!r}", content)
    yield instead("two mebibytes", b'{"name": "' + b"a" * BODY_BYTES + b'"}')
    yield instead("another media type", sent.content, {"content-type": "text/plain"})
    yield instead("compressed", sent.content, {**JSON, "content-encoding": "gzip"})
    assert endpoint.route.body == WHOLE_BODY
    members = json.loads(sent.content)
    yield instead("unknown field", json.dumps({**members, "no_such_field": 1}).encode())
    yield instead("unknown field without a name", json.dumps({**members, "\ud800": 1}).encode())
    if members:
        name, value = next(iter(members.items()))
        yield instead("field twice", b"{" + json.dumps({name: value})[1:-1].encode() + b"," + sent.content[1:])
    yield Spoiled("query beside a body", Sent(sent.verb, sent.target + "?no_such_field=1", sent.content, JSON))


def _queries(endpoint: Endpoint, values: Values) -> Iterator[Spoiled]:
    sent = to_http(endpoint, values)
    more = "&" if "?" in sent.target else "?"
    for query in ("no_such_field=1", "%00=1", "%ff=1", "&".join(["page_size=1"] * 101)):
        yield Spoiled(f"query {query[:20]}", Sent(sent.verb, f"{sent.target}{more}{query}", b"", {}))


def _bad_values(described: FieldDescriptor, right: Any, *, in_text: bool) -> Iterator[Bad]:
    """What does not belong into a field, beside what does; in a path or a query only what can be written there."""
    if described.is_repeated and not in_text:
        yield from _wrong("x", {}, [[]], [None])
        most = rules_of(described).repeated.max_items
        if most:
            yield [right[0] if right else f"x{number}" for number in range(most + 1)], True
        yield from (([bad], is_refused) for bad, is_refused in _bad_single(described, right[0] if right else None))
    elif in_text:
        is_string = described.type == _F.TYPE_STRING
        for bad, is_refused in _bad_single(described, right):
            if isinstance(bad, str) or (isinstance(bad, int | float) and not is_string):
                # An empty parameter is a path of its own, or says nothing.
                yield bad, is_refused and bad != ""
    else:
        yield from _bad_single(described, right)


def _bad_single(described: FieldDescriptor, right: Any) -> Iterator[Bad]:
    if is_timestamp(described):
        yield from _TIMESTAMPS
    elif described.message_type is not None:
        yield from _bad_messages(described, right or {})
    elif described.name == "page_token":
        yield from _TOKENS
    elif described.type == _F.TYPE_STRING:
        yield from _bad_strings(described)
    elif described.type == _F.TYPE_BOOL:
        yield from _wrong("yes", 2, [])
    elif described.enum_type is not None:
        yield from (*_wrong("NO_SUCH_VALUE", 1.5, [], 2**31, 10**400), *_odd(0, -1, 99))
    elif described.cpp_type in (_F.CPPTYPE_INT32, _F.CPPTYPE_INT64):
        bits = 31 if described.cpp_type == _F.CPPTYPE_INT32 else 63
        yield from _wrong("x", 1.5, "٣", [], True, 2**bits, -(2**bits) - 1, 10**400, "9" * 30)
        yield from _odd(0, -1, 2**bits - 1)
    elif described.type == _F.TYPE_BYTES:
        yield from _wrong(1, [], {}, True, "京", "a", "AA=A", "A" * 4 * (rules_of(described).bytes.max_len // 3 + 1))
        yield from _odd("", "=", "AA==", "_-8=", "/+8=")
    elif described.type == _F.TYPE_DOUBLE:
        # Everything that is measured has its limits.
        yield from _wrong("x", [], True, "NaN", "Infinity", "-Infinity", 1e300, -1e300, 10**400)
        yield from _odd(-0.0, 5e-324, "1")
    else:
        raise NotImplementedError(f"nothing wrong is known for {described.full_name}")


def _bad_messages(described: FieldDescriptor, right: Values) -> Iterator[Bad]:
    yield from _wrong("x", 1, [], True)
    assert described.message_type is not None
    if not is_own_message(described):
        nested: Any = 1
        for _ in range(30):
            nested = {"a": nested}
        yield from _wrong({"a": "\0"}, {"\ud800": 1}, nested)
        yield from _odd({}, {"name": None}, {"bands": [[[1e308, -0.0, ""]]], "caps": {"a": 1}}, {"规则": ["深"] * 1000})
        return
    for inner in described.message_type.fields:
        if inner.full_name in _ANSWERED:
            continue
        for bad, is_refused in _bad_values(inner, right.get(inner.name), in_text=False):
            yield {**right, inner.name: bad}, is_refused


def _bad_strings(described: FieldDescriptor) -> Iterator[Bad]:
    rules = item_rules_of(described).string
    yield from _wrong(1, [], {}, "a\0b", "a\udfff")
    longest = rules.max_len or rules.max_bytes
    if longest:
        yield from _wrong("京" * (longest + 1))
        yield from _odd("\U0001f697" * longest, " " * longest)
    if rules.pattern:
        yield from _wrong("京\n", "x\n", "a" * 10_000)
    if rules.uuid:
        yield from _wrong("a" * 10_000, uuid4().hex, f"{{{uuid4()}}}")
        yield from _odd(str(uuid4()), str(uuid4()).upper())
    if is_day(described):
        yield from _wrong("2026-02-30", "0000-00-00", "0001-01-01", "1999-12-31", "2200-01-01", "9999-12-31", "20260101")
    if is_month(described):
        yield from _wrong("2026-13", "0000-01", "1999-12", "2200-01", "9999-12", "202601")
    yield from _odd("", "no-such-thing", "\u202e\x7f\x01\n", "%", "../..")


_TIMESTAMPS: Sequence[Bad] = (
    *_wrong("yesterday", "2026-01-05T00:00:00", "2026-02-30T00:00:00Z", 1767571200, {"seconds": 1}, "0000-01-01T00:00:00Z"),
    *_wrong("0001-01-01T00:00:00+14:00", "1999-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"),
    *_odd("2000-01-01T00:00:00Z", "2199-12-31T23:59:59.999999999Z", "2026-06-30T23:59:60Z"),
)


def token(content: str) -> str:
    """A page token as services make them, of any content."""
    return urlsafe_b64encode(content.encode()).decode().rstrip("=")


# Not ours; then of the forms that tokens have, but with what no list holds.
_TOKENS: Sequence[Bad] = (
    *_wrong("x", "é", "a\0b", "a" * 201, *map(token, ("{", "{}", '"a', "[[[[]]]]", "null", "true"))),
    *_odd(*map(token, ('"\\u0000"', '"\\ud800"', '"京"', '"00000000-0000-0000-0000-000000000000"', "-1", "9223372036854775807", "1e400"))),
    *_odd(*map(token, ('["\\u0000","00000000-0000-0000-0000-000000000000"]', '["2026-01-01T00:00:00","\\u0000"]'))),
    *_odd(*map(token, ('["0001-01-01T00:00:00+14:00","a"]', '["9999-12-31T23:59:59-14:00","a"]'))),
)


def _inverted(endpoint: Endpoint, values: Values) -> Iterator[Spoiled]:
    """Ranges that end before they begin: every two instants, days and months, in each other's place."""
    for kind in (is_timestamp, is_day, is_month):
        names = [described.name for described in endpoint.fields if kind(described) and described.name in values]
        for one, other in itertools.combinations(names, 2):
            early, late = sorted((values[one], values[other]))
            if early == late:
                early = f"2001{early[4:]}"
            yield Spoiled(f"{one} after {other}", to_http(endpoint, {**values, one: late, other: early}), fields=[one, other])
