"""JSON and messages: what is written is what protobuf's own mapping writes, and what is read is what was meant."""

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linli.identity.v1 import identity_pb2
from linli.parking.v1 import parking_pb2
from servicekit.errors import FieldViolation, Invalid
from services.gateway import contracts
from services.gateway.reading import message_reader, parse_json
from services.gateway.routes import compile_routes
from services.gateway.transcode import compile_route
from services.gateway.writing import json_writer
from tests.gateway.contract import contract, rule

_RAW = ("google.api.HttpBody", "google.protobuf.Empty")
_METHODS = [method for service in contracts.load().services for method in service.methods]
ANSWERS = {method.output_type.full_name: method.output_type for method in _METHODS if method.output_type.full_name not in _RAW}
REQUESTS = {
    method.input_type.full_name: method.input_type
    for method in _METHODS
    if not any(field.message_type is not None and field.message_type.full_name in _RAW for field in method.input_type.fields)
}
MADE = contract({"Do": rule(post="/v1/do", body="*"), "Find": rule(get="/v1/find/{name}")})
REQUEST = MADE.message_types_by_name["Request"]

_F = FieldDescriptor
# Text of every plane and form; protobuf holds no unpaired surrogates, and the gateway takes no NUL.
_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
_seconds = st.integers(-62135596800, 253402300799)


def _integers(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    _F.TYPE_STRING: _text,
    _F.TYPE_BOOL: st.booleans(),
    _F.TYPE_BYTES: st.binary(max_size=8),
    _F.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    _F.TYPE_FLOAT: st.floats(width=32, allow_nan=False, allow_infinity=False),
    _F.TYPE_INT32: _integers(32),
    _F.TYPE_INT64: _integers(64),
    _F.TYPE_UINT32: _integers(32, signed=False),
    _F.TYPE_UINT64: _integers(64, signed=False),
}
_free_form = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_text, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 3) -> Any:
    """A random message of any type: each field left out or filled at random."""
    message: Any = GetMessageClass(descriptor)()
    if descriptor.full_name == Timestamp.DESCRIPTOR.full_name:
        message.seconds = draw(_seconds)
        message.nanos = draw(st.sampled_from([0, 1, 1_000, 120_000_000, 999_999_999, 1_500_000]))
        return message
    if descriptor.full_name == "google.protobuf.Struct":
        json_format.ParseDict(draw(st.dictionaries(_text, _free_form, max_size=3)), message)
        return message
    for field in descriptor.fields:
        if draw(st.booleans()) and (field.message_type is None or depth):
            _fill(draw, message, field, depth)
    return message


def _fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (_SCALARS[part.type] for part in field.message_type.fields)
        getattr(message, field.name).update(draw(st.dictionaries(key, value, max_size=2)))
    elif field.message_type is not None:
        strategy = messages(field.message_type, depth - 1)
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(strategy, max_size=2)))
        else:
            getattr(message, field.name).CopyFrom(draw(strategy))
    else:
        scalar = _scalars(field)
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(scalar, max_size=2)))
        else:
            setattr(message, field.name, draw(scalar))


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is None:
        return _SCALARS[field.type]
    return st.sampled_from([*(value.number for value in field.enum_type.values), 77])


def by_protobuf(message: Message) -> Any:
    """What protobuf's own JSON mapping makes of a message."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


@pytest.mark.parametrize("descriptor", [*ANSWERS.values(), *REQUESTS.values()], ids=lambda descriptor: descriptor.full_name)
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_message_is_written_and_read_as_protobuf_writes_and_reads_it(descriptor: Descriptor, data: st.DataObject) -> None:
    message = data.draw(messages(descriptor))
    written = json_writer(descriptor)(message.SerializeToString())
    assert json.loads(written) == by_protobuf(message)
    assert read(descriptor, written) == message


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(messages(REQUEST))
def test_maps_bytes_choices_and_messages_in_themselves_are_read_and_written_as_protobuf_does(message: Any) -> None:
    written = json.loads(json_writer(REQUEST)(message.SerializeToString()))
    expected = by_protobuf(message)
    drop_shares(written)
    drop_shares(expected)
    assert written == expected
    assert read(REQUEST, json_writer(REQUEST)(message.SerializeToString())) == message


def drop_shares(document: Any) -> None:
    """32-bit floats are written with the digits of the double they are in, where protobuf writes the fewest that tell them apart."""
    while isinstance(document, dict):
        document.pop("share")
        document = document.get("itself")


def read(descriptor: Descriptor, body: bytes | str) -> Any:
    """Reads a body; raises AssertionError with what is wrong."""
    wrong: list[FieldViolation] = []
    message = message_reader(descriptor)(parse_json(body if isinstance(body, bytes) else body.encode()), "", wrong)
    assert not wrong, wrong
    return message


def wrong_in(descriptor: Descriptor, body: str) -> list[tuple[str, str]]:
    wrong: list[FieldViolation] = []
    message_reader(descriptor)(parse_json(body.encode()), "", wrong)
    return [(violation.field, violation.code) for violation in wrong]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_written_as_the_mapping_says(value: float) -> None:
    message = GetMessageClass(REQUEST)(ratio=value)
    assert json.loads(json_writer(REQUEST)(message.SerializeToString()))["ratio"] == by_protobuf(message)["ratio"]


def test_fields_are_accepted_by_both_their_names() -> None:
    lot = parking_pb2.CreateLotRequest(full_lot_admits_permits=True)
    assert read(lot.DESCRIPTOR, '{"fullLotAdmitsPermits": true}') == lot
    assert read(lot.DESCRIPTOR, '{"full_lot_admits_permits": true}') == lot


def test_null_leaves_a_field_as_it_is() -> None:
    assert read(parking_pb2.CreateLotRequest.DESCRIPTOR, '{"name": null}') == parking_pb2.CreateLotRequest()
    request = read(identity_pb2.UpdateCommunityRequest.DESCRIPTOR, '{"name": null, "time_zone": "Asia/Shanghai"}')
    assert not request.HasField("name")
    assert request.HasField("time_zone")


def test_an_optional_field_that_is_empty_is_told_from_one_that_is_left_out() -> None:
    assert read(identity_pb2.UpdateCommunityRequest.DESCRIPTOR, '{"name": ""}').HasField("name")
    empty = identity_pb2.UpdateCommunityRequest(name="")
    written = json.loads(json_writer(empty.DESCRIPTOR)(empty.SerializeToString()))
    assert written == {"name": ""}


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("1970-01-01T08:00:01+08:00", 1, 0),
        ("1969-12-31T23:59:59.5Z", -1, 500_000_000),
        ("2026-01-05T00:00:00.123456789Z", 1767571200, 123456789),
        ("2026-01-05t00:00:00z", 1767571200, 0),
        ("0001-01-01T00:00:00Z", -62135596800, 0),
        ("9999-12-31T23:59:59.999999999Z", 253402300799, 999999999),
    ],
)
def test_instants_are_read_to_the_nanosecond(text: str, seconds: int, nanos: int) -> None:
    request = read(parking_pb2.IssuePermitRequest.DESCRIPTOR, json.dumps({"valid_from": text}))
    assert (request.valid_from.seconds, request.valid_from.nanos) == (seconds, nanos)


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00+08:00",
        "9999-12-31T23:59:59-08:00",
        "2026-13-01T00:00:00Z",
        "2026-01-05T24:00:00Z",
        "2026-01-05T00:00:60Z",
        "٢٠٢٦-01-05T00:00:00Z",
    ],
)
def test_instants_that_are_none_are_refused(text: str) -> None:
    assert wrong_in(parking_pb2.IssuePermitRequest.DESCRIPTOR, json.dumps({"valid_from": text})) == [("valid_from", "request.field_type")]


@pytest.mark.parametrize(("written", "amount"), [("5", 5), ('"5"', 5), ("5.0", 5), ("5e2", 500), ('"-5"', -5), ("-0", 0)])
def test_whole_numbers_are_read_in_every_form_of_the_mapping(written: str, amount: int) -> None:
    request = read(parking_pb2.DESCRIPTOR.message_types_by_name["QuoteLine"], f'{{"amount_fen": {written}}}')
    assert request.amount_fen == amount


@pytest.mark.parametrize("written", ['"1.5"', "1.5", '"15e-1"', "15e-1"])
def test_fractions_are_read_as_number_or_text(written: str) -> None:
    assert read(REQUEST, f'{{"ratio": {written}}}').ratio == 1.5


@pytest.mark.parametrize("written", ['"NaN"', '"Infinity"', '" 1"', '"1_0"', '"１"', '""', "true", '"0x1p3"'])
def test_fractions_that_are_none_are_refused(written: str) -> None:
    assert wrong_in(REQUEST, f'{{"ratio": {written}}}') == [("ratio", "request.field_type")]


@pytest.mark.parametrize("written", ["1e400", '"1e400"', "9" * 60])
def test_fractions_out_of_range_are_refused(written: str) -> None:
    allowed = [("ratio", "request.field_range")] if "e" in written else []
    assert wrong_in(REQUEST, f'{{"ratio": {written}}}') == allowed
    assert wrong_in(REQUEST, f'{{"share": {written}}}') == [("share", "request.field_range")]


@given(st.binary(max_size=20))
def test_bytes_are_read_in_both_alphabets_with_and_without_padding(secret: bytes) -> None:
    for encoded in (base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        for text in (encoded.decode(), encoded.decode().rstrip("=")):
            assert read(REQUEST, json.dumps({"secret": text})).secret == secret


@pytest.mark.parametrize("written", ['"a"', '"*"', '"aGk=aGk="', "1", '"键"'])
def test_bytes_that_are_none_are_refused(written: str) -> None:
    assert wrong_in(REQUEST, f'{{"secret": {written}}}') == [("secret", "request.field_type")]


def test_two_of_one_choice_are_refused() -> None:
    assert wrong_in(REQUEST, '{"by_phone": "1", "by_card": "2"}') == [("by_card", "request.field_repeated")]
    assert read(REQUEST, '{"by_phone": "1", "by_card": null}').by_phone == "1"


def test_maps_are_read_by_the_type_of_their_keys() -> None:
    assert dict(read(REQUEST, '{"labels": {"1": true, "-2": false}}').labels) == {1: True, -2: False}
    assert wrong_in(REQUEST, '{"labels": {"x": true, "1": 2}}') == [("labels.x", "request.field_type"), ("labels.1", "request.field_type")]
    assert wrong_in(REQUEST, '{"labels": []}') == [("labels", "request.field_type")]
    assert wrong_in(REQUEST, '{"labels": {"1": true, "1": true}}') == [("labels.1", "request.field_repeated")]


def test_a_message_that_holds_itself_a_thousand_times_is_refused_and_not_a_defect() -> None:
    transcoding = compile_route(next(route for route in compile_routes(MADE.services_by_name.values()).routes if route.body))
    body = '{"itself":' * 400 + "{}" + "}" * 400
    with pytest.raises(Invalid) as refused:
        transcoding.request((), b"", body.encode(), "application/json")
    assert refused.value.code == "request.json_too_deep"


def test_a_query_reaches_fields_inside_messages_and_lists() -> None:
    transcoding = compile_route(next(route for route in compile_routes(MADE.services_by_name.values()).routes if not route.body))
    query = b"inner.name=a+b&inner.size=3&tags=x&tags=%E4%BA%AC&exact=true&ratio=0.5&secret=aGk&byPhone=1&count=7&itself.inner.size=9"
    request: Any = GetMessageClass(REQUEST).FromString(transcoding.request(("n",), query, b"", ""))
    assert (request.name, request.inner.name, request.inner.size) == ("n", "a b", 3)
    assert (list(request.tags), request.exact, request.ratio, request.secret) == (["x", "京"], True, 0.5, b"hi")
    assert (request.by_phone, request.count, request.itself.inner.size) == ("1", 7, 9)
