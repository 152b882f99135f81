"""What a stranger may send: each is refused with its status, its stable code and the field, and never becomes a defect."""

from typing import Any

import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody

from servicekit.errors import FieldViolation, Invalid
from tests.gateway.conftest import BILLING, PARKING, Client, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")
LOTS = "/v1/parking/lots"
PERMITS = "/v1/parking/lots/lot-1/permits"
TARIFFS = "/v1/parking/lots/lot-1/tariffs"


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refused request."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["code"] == code
    assert document["status"] == status
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["type"] == f"urn:linli:problem:{code}"
    assert document["title"]
    assert document["detail"]
    return document


def fields(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["field"], error["code"]) for error in document["errors"]]


async def post_json(client: Client, path: str, body: bytes | str) -> httpx.Response:
    return await client.post(path, content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"name": }',
        b'{"name": "a",}',
        b"{'name': 'a'}",
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": "line\nbreak"}',
        b'{"name": "a"} x',
        b"\xef\xbb\xbf{}",
        b"nul",
    ],
)
async def test_malformed_json_is_refused(client: Client, body: bytes) -> None:
    problem(await post_json(client, LOTS, body), 400, "request.json_malformed")


@pytest.mark.parametrize("body", [b'{"name": "\xff\xfe"}', b"\xc3\x28", "{}".encode("utf-16"), '{"name":"停车场"}'.encode("gbk")])
async def test_a_body_that_is_not_utf8_is_refused(client: Client, body: bytes) -> None:
    problem(await post_json(client, LOTS, body), 400, "request.body_not_utf8")


async def test_a_field_that_the_contract_does_not_know_is_refused_by_its_path(client: Client) -> None:
    document = problem(await post_json(client, LOTS, '{"name": "东区", "colour": 1, "size": {}}'), 400, "request.field_unknown")
    assert fields(document) == [("colour", "request.field_unknown"), ("size", "request.field_unknown")]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (LOTS, "[]", ""),
        (LOTS, "null", ""),
        (LOTS, '"name"', ""),
        (LOTS, '{"name": 1}', "name"),
        (LOTS, '{"name": ["a"]}', "name"),
        (LOTS, '{"name": {}}', "name"),
        (LOTS, '{"admits_temporary": "true"}', "admits_temporary"),
        (LOTS, '{"admits_temporary": 1}', "admits_temporary"),
        (PERMITS, '{"plates": "京A12345"}', "plates"),
        (PERMITS, '{"plates": ["京A12345", null]}', "plates[1]"),
        (PERMITS, '{"plates": [["京A12345"]]}', "plates[0]"),
        (PERMITS, '{"valid_from": "yesterday"}', "valid_from"),
        (PERMITS, '{"valid_from": "2026-01-05"}', "valid_from"),
        (PERMITS, '{"valid_from": "2026-02-30T00:00:00Z"}', "valid_from"),
        (PERMITS, '{"valid_from": "2026-01-05T00:00:00"}', "valid_from"),
        (PERMITS, '{"valid_from": 1767571200}', "valid_from"),
        (PERMITS, '{"valid_from": {"seconds": 1}}', "valid_from"),
        (TARIFFS, '{"rules": []}', "rules"),
        (TARIFFS, '{"rules": "free"}', "rules"),
        ("/v1/payments/p-1/refunds", '{"amount_fen": "1.5"}', "amount_fen"),
        ("/v1/payments/p-1/refunds", '{"amount_fen": 1.5}', "amount_fen"),
        ("/v1/payments/p-1/refunds", '{"amount_fen": "0x10"}', "amount_fen"),
        ("/v1/payments/p-1/refunds", '{"amount_fen": true}', "amount_fen"),
    ],
)
async def test_a_value_of_the_wrong_type_is_refused_by_its_path(client: Client, path: str, body: str, field: str) -> None:
    document = problem(await post_json(client, path, body), 400, "request.field_type")
    assert fields(document) == [(field, "request.field_type")]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/parking/lots/lot-1/areas", '{"capacity": 2147483648}', "capacity"),
        ("/v1/parking/lots/lot-1/areas", '{"capacity": -2147483649}', "capacity"),
        ("/v1/parking/lots/lot-1/areas", '{"capacity": 1e300}', "capacity"),
        ("/v1/payments/p-1/refunds", '{"amount_fen": 9223372036854775808}', "amount_fen"),
        ("/v1/payments/p-1/refunds", '{"amount_fen": "99999999999999999999"}', "amount_fen"),
        (TARIFFS, '{"rules": {"price": 1e999}}', "rules.price"),
    ],
)
async def test_a_number_out_of_range_is_refused_by_its_path(client: Client, path: str, body: str, field: str) -> None:
    document = problem(await post_json(client, path, body), 400, "request.field_range")
    assert fields(document) == [(field, "request.field_range")]


async def test_a_number_of_ten_thousand_digits_is_refused(client: Client) -> None:
    body = '{"amount_fen": ' + "9" * 10_000 + "}"
    problem(await post_json(client, "/v1/payments/p-1/refunds", body), 400, "request.field_type")


@pytest.mark.parametrize("value", ['"SIDEWAYS"', '""', '"direction_entry"', '"1"'])
async def test_an_enum_value_that_does_not_exist_is_refused(client: Client, value: str) -> None:
    document = problem(await post_json(client, f"{LOTS}/lot-1/lanes", f'{{"direction": {value}}}'), 400, "request.field_value")
    assert fields(document) == [("direction", "request.field_value")]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (LOTS, '{"name": "a", "name": "b"}', "name"),
        (PERMITS, '{"valid_from": "2026-01-05T00:00:00Z", "validFrom": "2026-01-06T00:00:00Z"}', "validFrom"),
        (TARIFFS, '{"rules": {"bands": [{"from": 1, "from": 2}]}}', "rules.bands[0].from"),
    ],
)
async def test_a_field_that_comes_twice_is_refused_by_its_path(client: Client, path: str, body: str, field: str) -> None:
    document = problem(await post_json(client, path, body), 400, "request.field_repeated")
    assert fields(document) == [(field, "request.field_repeated")]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (LOTS, '{"name": "a\\u0000b"}', "name"),
        (LOTS, '{"name": "\\ud800"}', "name"),
        (TARIFFS, '{"rules": {"a": ["\\u0000"]}}', "rules.a[0]"),
        (TARIFFS, '{"rules": {"\\udfff": 1}}', "rules"),
    ],
)
async def test_characters_that_no_database_stores_are_refused(client: Client, path: str, body: str, field: str) -> None:
    document = problem(await post_json(client, path, body), 400, "request.field_character")
    assert fields(document) == [(field, "request.field_character")]


async def test_an_unprintable_name_of_an_unknown_field_does_not_break_the_answer(client: Client) -> None:
    document = problem(await post_json(client, LOTS, '{"\\ud800": 1, "' + "x" * 5000 + '": 2}'), 400, "request.field_unknown")
    assert [len(field) for field, _ in fields(document)] == [1, 200]


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        '{"rules": ' + '{"a":' * 21 + "1" + "}" * 21 + "}",
    ],
)
async def test_json_nested_too_deeply_is_refused(client: Client, body: str) -> None:
    problem(await post_json(client, TARIFFS, body), 400, "request.json_too_deep")


async def test_json_as_deep_as_allowed_arrives_whole(client: Client, upstream: Upstream) -> None:
    response = await post_json(client, TARIFFS, '{"rules": ' + '{"a":' * 20 + "1" + "}" * 20 + "}")
    assert response.status_code == 200
    innermost = upstream.last.request.rules
    for _ in range(19):
        innermost = innermost["a"]
    assert innermost["a"] == 1


async def test_everything_that_is_wrong_is_told_at_once_up_to_a_limit(client: Client) -> None:
    document = problem(await post_json(client, LOTS, '{"name": 1, "admits_temporary": "x", "b": 1}'), 400, "request.field_type")
    assert fields(document) == [
        ("name", "request.field_type"),
        ("admits_temporary", "request.field_type"),
        ("b", "request.field_unknown"),
    ]
    document = problem(
        await post_json(client, LOTS, "{" + ",".join(f'"f{number}": 1' for number in range(500)) + "}"), 400, "request.field_unknown"
    )
    assert len(document["errors"]) == 20


async def test_a_body_of_ten_mebibytes_is_refused_before_it_is_read(client: Client, upstream: Upstream) -> None:
    body = b'{"name": "' + b"a" * (10 * 1024 * 1024) + b'"}'
    problem(await post_json(client, LOTS, body), 413, "request.body_too_large")
    assert upstream.calls == []
    assert (await client.post(LOTS, json={"name": "东区"})).status_code == 200, "the connection is good for the next request"


async def test_a_body_of_unknown_length_is_refused_when_it_passes_the_limit(client: Client) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        for _ in range(160):
            sent += 64 * 1024
            yield b" " * (64 * 1024)

    response = await client.post(LOTS, content=endless(), headers={"content-type": "application/json"})
    problem(response, 413, "request.body_too_large")
    assert sent > 1024 * 1024


async def test_a_body_just_within_the_limit_is_taken(client: Client) -> None:
    body = b'{"name": "' + b"a" * (1024 * 1024 - 12) + b'"}'
    assert len(body) == 1024 * 1024
    assert (await post_json(client, LOTS, body)).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=gbk", "application/xml"]
)
async def test_a_body_that_is_not_declared_as_json_is_refused(client: Client, content_type: str) -> None:
    response = await client.post(LOTS, content=b"{}", headers={"content-type": content_type})
    problem(response, 415, "request.media_type")


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=UTF-8", ""])
async def test_json_is_taken_under_its_usual_names(client: Client, content_type: str) -> None:
    assert (await client.post(LOTS, content=b"{}", headers={"content-type": content_type})).status_code == 200


async def test_a_compressed_body_is_refused(client: Client) -> None:
    response = await client.post(LOTS, content=b"{}", headers={"content-type": "application/json", "content-encoding": "gzip"})
    problem(response, 415, "request.content_encoding")


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("colour=1", "colour", "request.field_unknown"),
        ("page_size=x", "page_size", "request.field_type"),
        ("page_size=", "page_size", "request.field_type"),
        ("page_size=99999999999", "page_size", "request.field_range"),
        ("page_size=1&page_size=2", "page_size", "request.field_repeated"),
        ("page_size=1&pageSize=2", "pageSize", "request.field_repeated"),
        ("state=GONE", "state", "request.field_value"),
        ("plate=%00", "plate", "request.field_character"),
    ],
)
async def test_a_wrong_query_parameter_is_refused_by_its_name(client: Client, query: str, field: str, code: str) -> None:
    document = problem(await client.get(f"/v1/parking/sessions?{query}"), 400, code)
    assert fields(document) == [(field, code)]


async def test_a_query_that_is_not_utf8_is_refused(client: Client) -> None:
    problem(await client.get("/v1/parking/sessions?plate=%be%a9A12345"), 400, "request.query_not_utf8")


async def test_a_query_of_too_many_parameters_is_refused(client: Client) -> None:
    problem(await client.get("/v1/parking/sessions?" + "&".join(["plate=a"] * 101)), 400, "request.query_too_long")


async def test_a_path_that_is_not_utf8_is_refused(client: Client) -> None:
    problem(await client.get("/v1/parking/lots/%ff"), 400, "request.path_not_utf8")


async def test_a_path_with_a_nul_is_refused(client: Client) -> None:
    document = problem(await client.get("/v1/parking/lots/%00"), 400, "request.field_character")
    assert fields(document) == [("lot_id", "request.field_character")]


async def test_a_field_of_the_path_is_not_taken_from_the_body(client: Client) -> None:
    for name in ("lot_id", "lotId"):
        document = problem(await post_json(client, PERMITS, f'{{"{name}": "lot-2"}}'), 400, "request.field_unknown")
        assert fields(document) == [(name, "request.field_unknown")]


async def test_query_parameters_beside_a_whole_body_are_refused(client: Client) -> None:
    problem(await client.post(f"{LOTS}?name=a", json={}), 400, "request.field_unknown")


async def test_headers_past_the_limit_are_refused(client: Client) -> None:
    problem(await client.get(LOTS, headers={"x-filler": "a" * 17_000}), 431, "request.headers_too_large")
    problem(await client.get(LOTS, headers=[(f"x-{number}", "a") for number in range(120)]), 431, "request.headers_too_large")


async def test_a_path_or_a_query_past_the_limit_is_refused(client: Client) -> None:
    problem(await client.get(f"{LOTS}/{'a' * 9_000}"), 414, "request.uri_too_long")
    problem(await client.get(f"{LOTS}?page_token={'a' * 9_000}"), 414, "request.uri_too_long")


@pytest.mark.parametrize("key", ["a" * 129, "with space", "键".encode(), b"tab\there"])
async def test_an_idempotency_key_that_is_none_is_refused(client: Client, key: str | bytes) -> None:
    problem(await client.post(LOTS, json={}, headers={"idempotency-key": key}), 400, "request.idempotency_key")


@pytest.mark.parametrize("value", ["0", "-1", "30001", "1.5", "soon", "999999999999999999999"])
async def test_a_time_limit_that_is_none_is_refused(client: Client, value: str) -> None:
    problem(await client.get(LOTS, headers={"x-timeout-ms": value}), 400, "request.timeout")


async def test_credentials_that_cannot_be_any_are_refused(client: Client) -> None:
    problem(await client.get(LOTS, headers={"authorization": "Bearer é".encode("latin-1")}), 401, "auth.token_malformed")


async def test_nothing_wrong_reaches_a_service(client: Client, upstream: Upstream) -> None:
    await post_json(client, LOTS, b"{")
    await client.get("/v1/parking/sessions?page_size=x")
    assert upstream.calls == []


async def test_a_provider_notification_reaches_its_service_whatever_its_bytes_are(client: Client, upstream: Upstream) -> None:
    upstream.answers[BILLING + "ReceiveNotification"] = HttpBody(content_type="application/json", data=b"{}")
    body = bytes(range(256)) * 100
    response = await client.post(
        "/v1/payment-providers/sandbox/notifications",
        content=body,
        headers={
            "content-type": "application/octet-stream",
            "wechatpay-signature": "abc=",
            "cookie": "a=b",
            "authorization": "Bearer of-somebody",
            "x-key-bin": "AA==",
        },
    )
    assert response.status_code == 200
    assert upstream.last.request.provider == "sandbox"
    assert upstream.last.request.notification.data == body
    assert upstream.last.request.notification.content_type == "application/octet-stream"
    assert upstream.last.metadata["http-wechatpay-signature"] == "abc="
    assert not {"http-cookie", "http-authorization", "http-x-key-bin"} & set(upstream.last.metadata)


async def test_what_a_service_finds_wrong_is_told_in_the_language_asked_for(client: Client, upstream: Upstream) -> None:
    upstream.answers[PARKING + "CreateLot"] = Invalid(
        "request.invalid",
        "请求内容不符合要求",
        "The request does not meet the contract",
        fields=[FieldViolation("name", "string.min_len", "must be at least 1 characters")],
    )
    english = problem(await client.post(LOTS, json={}), 400, "request.invalid")
    assert english["errors"] == [{"field": "name", "code": "string.min_len", "text": "must be at least 1 characters"}]
    chinese = problem(await client.post(LOTS, json={}, headers={"accept-language": "zh-CN,zh;q=0.9,en;q=0.1"}), 400, "request.invalid")
    assert chinese["detail"] == "请求内容不符合要求"
    assert chinese["errors"] == [{"field": "name", "code": "string.min_len", "text": "太短"}]
