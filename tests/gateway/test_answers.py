"""What a phone gets back: answers, errors, headers, caching, compression, and what a service behind the gateway is told."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.empty_pb2 import Empty

from linli.parking.v1 import parking_pb2
from servicekit.errors import Conflict, Denied, Exhausted, Internal, NotFound, ServiceError, Unauthenticated, Unavailable
from tests.gateway.conftest import IDENTITY, PARKING, Client, Upstream, run_gateway
from tests.support import Servers, eventually, free_address

pytestmark = pytest.mark.asyncio(loop_scope="module")
LOT = "/v1/parking/lots/lot-1"
SESSIONS = "/v1/parking/sessions"


async def test_path_query_and_body_arrive_in_their_fields(client: Client, upstream: Upstream) -> None:
    await client.get(f"{SESSIONS}?lot_id=a%20b&plate=%E4%BA%ACA12345&state=SESSION_STATE_OPEN&pageSize=5")
    assert upstream.last.method == PARKING + "ListSessions"
    assert upstream.last.request == parking_pb2.ListSessionsRequest(
        lot_id="a b", plate="京A12345", state=parking_pb2.SESSION_STATE_OPEN, page_size=5
    )
    await client.post(f"{LOT}/permits", json={"household_id": "h", "plates": ["京A12345"], "validFrom": "2026-01-05T08:00:00+08:00"})
    assert upstream.last.request.lot_id == "lot-1"
    assert upstream.last.request.plates == ["京A12345"]
    assert upstream.last.request.valid_from.ToJsonString() == "2026-01-05T00:00:00Z"


async def test_instants_of_a_query_arrive_whatever_their_zone(client: Client, upstream: Upstream) -> None:
    await client.get("/v1/devices/d-1/telemetry/level?from=2026-01-05T08:00:00%2B08:00&until=2026-01-05T00:00:00.5Z&step_s=60")
    request = upstream.last.request
    assert (request.device_id, request.metric, request.step_s) == ("d-1", "level", 60)
    assert (getattr(request, "from").ToJsonString(), request.until.ToJsonString()) == ("2026-01-05T00:00:00Z", "2026-01-05T00:00:00.500Z")


async def test_a_value_of_the_path_is_decoded_once(client: Client, upstream: Upstream) -> None:
    await client.get("/v1/parking/lots/a%2Fb%2520c")
    assert upstream.last.request.lot_id == "a/b%20c"


async def test_a_custom_verb_is_its_own_path(client: Client, upstream: Upstream) -> None:
    await client.post("/v1/parking/permits/p-1:revoke", json={})
    assert upstream.last.method == PARKING + "RevokePermit"
    assert upstream.last.request.permit_id == "p-1"


async def test_a_command_needs_no_body_when_the_path_says_all(client: Client, upstream: Upstream) -> None:
    assert (await client.post("/v1/parking/permits/p-1:revoke")).status_code == 200


async def test_an_answer_holds_every_field_by_its_contract_name(client: Client, upstream: Upstream) -> None:
    upstream.answers[PARKING + "GetSession"] = parking_pb2.Session(session_id="s", amount_fen=2**60, state=parking_pb2.SESSION_STATE_OPEN)
    response = await client.get("/v1/parking/sessions/s")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "session_id": "s",
        "lot_id": "",
        "plate": "",
        "state": "SESSION_STATE_OPEN",
        "admission": "",
        "amount_fen": "1152921504606846976",
        "paid_fen": "0",
    }


async def test_an_empty_answer_is_204(client: Client, upstream: Upstream) -> None:
    upstream.answers[PARKING + "RemoveDenial"] = Empty()
    response = await client.send("DELETE", "/v1/parking/denials/d-1")
    assert (response.status_code, response.content) == (204, b"")


async def test_a_raw_answer_is_written_as_it_is(client: Client, upstream: Upstream) -> None:
    upstream.answers[IDENTITY + "GetKeys"] = HttpBody(content_type="application/jwk-set+json", data=b'{"keys":[]}')
    response = await client.get("/.well-known/jwks.json", headers={"accept": "application/jwk-set+json"})
    assert (response.headers["content-type"], response.content) == ("application/jwk-set+json", b'{"keys":[]}')


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unauthenticated("auth.token_expired", "登录已过期", "Expired"), 401),
        (Denied("auth.permission_missing", "没有权限", "Not allowed"), 403),
        (NotFound("parking.lot_not_found", "没有这个停车场", "No such lot"), 404),
        (Conflict("parking.lot_full", "车位已满", "The lot is full"), 409),
        (Exhausted("identity.too_many_codes", "过于频繁", "Too many codes", retry_after_s=42), 429),
        (Unavailable("database.unavailable", "数据库暂时不可用", "Away", retry_after_s=1), 503),
        (Internal(), 500),
    ],
)
async def test_an_error_of_a_service_becomes_a_problem_in_both_languages(
    client: Client, upstream: Upstream, error: ServiceError, status: int
) -> None:
    upstream.answers[PARKING + "CreateLot"] = error
    for language, text in (("en", error.en), ("zh", error.zh)):
        response = await client.post("/v1/parking/lots", json={}, headers={"accept-language": language})
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["content-language"] == language
        assert response.headers["cache-control"] == "no-store"
        assert response.headers.get("retry-after") == (None if error.retry_after_s is None else str(error.retry_after_s))
        document = response.json()
        assert (document["code"], document["detail"], document["status"]) == (error.code, text, status)


async def test_the_details_of_an_error_are_there_for_programs(client: Client, upstream: Upstream) -> None:
    upstream.answers[PARKING + "CreateLot"] = Conflict("parking.lot_full", "满", "Full", details={"capacity": "100"})
    assert (await client.post("/v1/parking/lots", json={})).json()["details"] == {"capacity": "100"}


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "zh"),
        ("en", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB, en;q=0.9, zh;q=0.1", "en"),
        ("zh;q=0.2, en;q=0.7", "en"),
        ("fr, de;q=0.5", "zh"),
        ("en;q=0, zh;q=0", "zh"),
        ("*", "zh"),
        ("EN-us;Q=1", "en"),
        ("en;q=high", "zh"),
        (",;,;q=,", "zh"),
    ],
)
async def test_the_language_follows_accept_language(client: Client, accepted: str, language: str) -> None:
    response = await client.get("/nowhere", headers={"accept-language": accepted})
    assert response.headers["content-language"] == language
    assert response.json()["detail"] == {"zh": "没有这个路径", "en": "There is nothing at this path"}[language]


async def test_a_path_that_does_not_exist_is_404(client: Client) -> None:
    for path in ("/", "/v1", "/v1/parking/lots/", "/v1/parking//lots", "/v1/parking/permits/p:destroy", "/docs/../app.py"):
        response = await client.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "request.path_not_found"), path


async def test_a_verb_that_a_path_does_not_have_is_405_with_those_it_has(client: Client) -> None:
    response = await client.send("DELETE", "/v1/parking/lots")
    assert (response.status_code, response.json()["code"]) == (405, "request.method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert (await client.send("POST", "/openapi.json")).headers["allow"] == "GET, HEAD, OPTIONS"


async def test_options_tells_the_verbs_of_a_path(client: Client) -> None:
    response = await client.send("OPTIONS", LOT)
    assert (response.status_code, response.headers["allow"], response.content) == (204, "GET, HEAD, OPTIONS", b"")


async def test_head_answers_as_get_without_the_body(client: Client, upstream: Upstream) -> None:
    got, headed = await client.get(LOT), await client.send("HEAD", LOT)
    assert (headed.status_code, headed.content) == (200, b"")
    assert [headed.headers[name] for name in ("etag", "content-length")] == [got.headers[name] for name in ("etag", "content-length")]


async def test_an_answer_in_a_form_that_is_not_accepted_is_406(client: Client, upstream: Upstream) -> None:
    for accepted in ("text/html", "application/xml, text/*", "application/json;q=0"):
        response = await client.get(LOT, headers={"accept": accepted})
        assert (response.status_code, response.json()["code"]) == (406, "request.not_acceptable"), accepted
    for accepted in ("", "*/*", "application/*;q=0.5", "text/html, application/json;version=1;q=0.2", "text/html,*/*;q=0.1"):
        assert (await client.get(LOT, headers={"accept": accepted})).status_code == 200, accepted


async def test_a_read_that_has_not_changed_is_304(client: Client, upstream: Upstream) -> None:
    upstream.answers[PARKING + "GetLot"] = parking_pb2.Lot(lot_id="lot-1", name="东区")
    first = await client.get(LOT)
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    for tags in (etag, f'"other", {etag}', etag.removeprefix("W/"), "*"):
        again = await client.get(LOT, headers={"if-none-match": tags})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), tags
    upstream.answers[PARKING + "GetLot"] = parking_pb2.Lot(lot_id="lot-1", name="西区")
    changed = await client.get(LOT, headers={"if-none-match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


async def test_what_a_command_answers_is_kept_by_nobody(client: Client, upstream: Upstream) -> None:
    response = await client.post("/v1/parking/lots", json={})
    assert response.headers["cache-control"] == "no-store"
    assert "etag" not in response.headers


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("identity", False), ("gzip;q=0", False), ("", False), ("br", False)],
)
async def test_a_large_answer_is_compressed_for_those_who_take_it(
    client: Client, upstream: Upstream, accepted: str, compressed: bool
) -> None:
    lots = parking_pb2.ListLotsResponse(lots=[parking_pb2.Lot(lot_id=str(number)) for number in range(50)])
    upstream.answers[PARKING + "ListLots"] = lots
    response = await client.get("/v1/parking/lots", headers={"accept-encoding": accepted})
    assert (response.headers.get("content-encoding") == "gzip") is compressed
    assert len(response.json()["lots"]) == 50
    assert "accept-encoding" in response.headers["vary"]


async def test_a_small_answer_is_not_compressed(client: Client, upstream: Upstream) -> None:
    assert "content-encoding" not in (await client.get(LOT, headers={"accept-encoding": "gzip"})).headers


async def test_a_request_id_is_taken_over_when_it_is_sane_and_made_otherwise(client: Client, upstream: Upstream) -> None:
    response = await client.get(LOT, headers={"x-request-id": "phone-7.a_b"})
    assert response.headers["x-request-id"] == "phone-7.a_b"
    assert upstream.last.metadata["x-request-id"] == "phone-7.a_b"
    for unfit in ("a" * 65, "a b", 'a"b', "键".encode()):
        response = await client.get(LOT, headers={"x-request-id": unfit})
        assert uuid.UUID(response.headers["x-request-id"]).version == 7
        assert upstream.last.metadata["x-request-id"] == response.headers["x-request-id"]


async def test_every_answer_carries_the_security_headers(client: Client, upstream: Upstream) -> None:
    for path in (LOT, "/nowhere", "/openapi.json", "/docs", "/v1/me/notifications?last_event_id=x"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["strict-transport-security"].startswith("max-age=")
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "server" not in headers


async def test_a_service_is_told_who_asks_the_key_the_trace_and_the_time_left(client: Client, upstream: Upstream) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"idempotency-key": "key-1", "traceparent": trace, "x-timeout-ms": "1500", "cookie": "a=b", "x-other": "1"}
    await client.post("/v1/parking/lots", json={}, headers=headers)
    metadata = upstream.last.metadata
    assert metadata["authorization"] == client.http.headers["authorization"]
    assert metadata["idempotency-key"] == "key-1"
    assert metadata["traceparent"].split("-")[1] == trace.split("-")[1]
    assert upstream.last.remaining_s == pytest.approx(1.5, abs=0.5)
    assert "cookie" not in metadata
    assert "x-other" not in metadata
    assert "http-x-other" not in metadata
    await client.get(LOT)
    assert upstream.last.remaining_s == pytest.approx(10, abs=0.5)


async def test_a_service_that_is_too_slow_is_503_in_the_time_asked_for(client: Client, upstream: Upstream) -> None:
    async def sleep(_request: Any) -> Any:
        await asyncio.sleep(30)

    upstream.answers[PARKING + "GetLot"] = sleep
    async with asyncio.timeout(5):
        response = await client.get(LOT, headers={"x-timeout-ms": "200"})
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert response.headers["retry-after"]
    assert len(upstream.calls) == 1, "there was no time left to ask again"


async def test_a_read_is_asked_again_once_and_a_command_only_with_its_key(client: Client, upstream: Upstream) -> None:
    away = Unavailable("database.unavailable", "数据库暂时不可用", "Away", retry_after_s=1)
    upstream.answers[PARKING + "GetLot"] = away
    assert (await client.get(LOT)).status_code == 503
    assert len(upstream.calls) == 2
    upstream.calls.clear()
    upstream.answers[PARKING + "CreateLot"] = away
    key = {"idempotency-key": "one"}
    async with httpx.AsyncClient(base_url=client.url) as stranger:
        # Keys are kept for callers who say who they are.
        for caller, headers, times in ((client, {}, 1), (client, key, 2), (stranger, key, 1)):
            upstream.calls.clear()
            assert (await caller.post("/v1/parking/lots", json={}, headers=headers)).status_code == 503
            assert len(upstream.calls) == times


async def test_a_service_that_is_not_there_is_503(servers: Servers) -> None:
    async with run_gateway(servers, free_address()) as client:
        response = await client.get(LOT)
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")


async def test_a_defect_of_a_service_shows_nothing_of_it(client: Client, upstream: Upstream) -> None:
    async def broken(_request: Any) -> Any:
        raise RuntimeError("secret")

    upstream.answers[PARKING + "GetLot"] = broken
    response = await client.get(LOT)
    assert response.status_code == 500
    assert "secret" not in response.text


async def test_other_origins_may_not_read_answers_unless_they_are_configured(client: Client, upstream: Upstream) -> None:
    response = await client.get(LOT, headers={"origin": "https://app.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_configured_origins_may_call_the_api(servers: Servers, upstream: Upstream) -> None:
    settings = {"LINLI_GATEWAY_CORS_ORIGINS": "https://app.example, https://other.example"}
    async with run_gateway(servers, upstream.address, settings) as client:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,idempotency-key"}
        preflight = await client.send("OPTIONS", "/v1/parking/lots", headers={"origin": "https://app.example", **asked})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        answer = await client.get(LOT, headers={"origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "ETag" in answer.headers["access-control-expose-headers"]
        stranger = await client.get(LOT, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


async def test_more_requests_at_once_than_allowed_are_told_to_come_again(servers: Servers, upstream: Upstream) -> None:
    release = asyncio.Event()

    async def wait(_request: Any) -> Any:
        await release.wait()
        return parking_pb2.Lot()

    upstream.answers[PARKING + "GetLot"] = wait
    async with run_gateway(servers, upstream.address, {"LINLI_GATEWAY_REQUESTS_IN_FLIGHT_MAX": "3"}) as client:
        tasks = [asyncio.create_task(client.get(LOT)) for _ in range(3)]
        await eventually(lambda: _count(upstream, 3))
        refused = await client.get(LOT)
        assert (refused.status_code, refused.json()["code"]) == (503, "gateway.busy")
        assert refused.headers["retry-after"]
        release.set()
        assert [response.status_code for response in await asyncio.gather(*tasks)] == [200, 200, 200]


async def _count(upstream: Upstream, calls: int) -> bool:
    return len(upstream.calls) == calls


async def raw(url: str, lines: Sequence[bytes]) -> bytes:
    """Writes bytes to the gateway's socket and reads until it closes or answers whole."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\r\n".join(lines))
    await writer.drain()
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return answer


async def test_bytes_that_are_no_http_are_400(client: Client) -> None:
    for first in (b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\nbad header", b"GET /\xff HTTP/1.1", b"GET / HTTP/7.5"):
        assert b" 400 " in (await raw(client.url, [first, b"host: a", b"", b""])).partition(b"\r\n")[0]


async def test_an_expectation_to_continue_is_not_met_for_a_body_that_is_too_large(client: Client) -> None:
    answer = await raw(
        client.url, [b"POST /v1/parking/lots HTTP/1.1", b"host: a", b"content-length: 99999999", b"expect: 100-continue", b"", b""]
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_the_documentation_is_served_without_anything_from_elsewhere(client: Client) -> None:
    index = await client.get("/docs")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert "http:" not in index.text
    assert "https:" not in index.text
    assert "<script>" not in index.text, "the policy allows no inline script"
    assert "script-src 'self'" in index.headers["content-security-policy"]
    for path in ("/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon.png"):
        assert path in index.text
        page = await client.get(path)
        assert page.status_code == 200
        assert len(page.content) > 200
        assert (await client.get(path, headers={"if-none-match": page.headers["etag"]})).status_code == 304
    assert "persistAuthorization" in (await client.get("/docs/start.js")).text


async def test_the_openapi_document_is_served_compressed_and_cached(client: Client) -> None:
    response = await client.get("/openapi.json", headers={"accept-encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    document = response.json()
    assert document["paths"]["/v1/parking/lots/{lot_id}"]["get"]
    plain = await client.get("/openapi.json", headers={"accept-encoding": "identity"})
    assert json.loads(plain.content) == document
    assert (await client.get("/openapi.json", headers={"if-none-match": response.headers["etag"]})).status_code == 304


async def test_requests_are_counted_by_the_template_of_their_path_and_their_status(client: Client, upstream: Upstream) -> None:
    await client.get(LOT)
    async with httpx.AsyncClient() as operator:
        metrics = (await operator.get(f"{client.platform.ops_url}/metrics")).text
    assert 'linli_http_seconds_count{method="GET",route="/v1/parking/lots/{lot_id}",service="gateway",status="200"}' in metrics


async def test_two_callers_on_one_connection_do_not_mix(client: Client, upstream: Upstream) -> None:
    async def echo(request: Any) -> Any:
        await asyncio.sleep(0)
        return parking_pb2.Lot(lot_id=request.lot_id)

    upstream.answers[PARKING + "GetLot"] = echo
    async with httpx.AsyncClient(base_url=client.url, limits=httpx.Limits(max_connections=4), timeout=20) as http:
        answers = await asyncio.gather(*(http.get(f"/v1/parking/lots/lot-{number}") for number in range(100)))
    assert [answer.json()["lot_id"] for answer in answers] == [f"lot-{number}" for number in range(100)]
