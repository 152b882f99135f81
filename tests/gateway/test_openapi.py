"""The OpenAPI document says what the gateway does."""

import json
import re
from typing import Any

import pytest
from openapi_spec_validator import validate

from services.gateway import contracts, openapi
from services.gateway.routes import compile_routes
from services.gateway.transcode import compile_route

KNOWN = contracts.load()
ROUTES = compile_routes(KNOWN.services).routes
DOCUMENT: dict[str, Any] = json.loads(openapi.build(KNOWN, [compile_route(route) for route in ROUTES]))


def operation(verb: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][verb]
    return found


def body(verb: str, path: str) -> dict[str, Any]:
    schema: dict[str, Any] = operation(verb, path)["requestBody"]["content"]["application/json"]["schema"]
    return schema


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def test_every_route_is_described_with_its_comment() -> None:
    for route in ROUTES:
        described = operation(route.verb.lower(), route.template)
        assert described["summary"], route.template
        assert described["tags"] == [route.service]
    ids = [each["operationId"] for path in DOCUMENT["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids))
    assert all(tag["description"] for tag in DOCUMENT["tags"])


def test_every_reference_leads_somewhere() -> None:
    for kind, name in re.findall(r'"#/components/([a-z]+)/([^"]+)"', json.dumps(DOCUMENT)):
        assert name in DOCUMENT["components"][kind]


def test_fields_of_the_path_are_parameters_and_not_in_the_body() -> None:
    described = operation("post", "/v1/parking/lots/{lot_id}/permits")
    assert described["parameters"][0] == {"name": "lot_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    assert "lot_id" not in body("post", "/v1/parking/lots/{lot_id}/permits")["properties"]


def test_the_rules_of_the_contract_are_in_the_schemas() -> None:
    permit = body("post", "/v1/parking/lots/{lot_id}/permits")
    assert permit["properties"]["plates"] == {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 16},
        "minItems": 1,
        "maxItems": 10,
        "uniqueItems": True,
    }
    assert permit["required"] == ["household_id", "space_id", "plates", "valid_from", "valid_until"]
    assert permit["additionalProperties"] is False
    lane = body("post", "/v1/parking/lots/{lot_id}/lanes")["properties"]
    assert lane["direction"] == {"type": "string", "enum": ["DIRECTION_ENTRY", "DIRECTION_EXIT"]}
    assert (lane["decision_limit_ms"]["minimum"], lane["decision_limit_ms"]["maximum"]) == (0, 2000)
    assert lane["camera_device_id"]["pattern"] == "^[A-Za-z0-9_-]{1,64}$"
    refund = body("post", "/v1/payments/{payment_id}/refunds")["properties"]["amount_fen"]
    assert (refund["type"], refund["format"], refund["x-bounds"]) == ("string", "int64", {"exclusiveMinimum": 0})


def test_fields_that_may_be_left_out_are_not_required() -> None:
    assert "required" not in body("post", "/v1/parking/permits/{permit_id}:revoke")
    assert operation("post", "/v1/parking/permits/{permit_id}:revoke")["requestBody"]["required"] is False
    assert body("post", "/v1/role-grants")["required"] == ["phone", "name", "role"]


def test_answers_hold_every_field_that_is_always_there() -> None:
    session = DOCUMENT["components"]["schemas"]["parking.Session"]
    assert "amount_fen" in session["required"]
    assert "left_at" not in session["required"], "a message that is not set is left out"
    assert session["properties"]["amount_fen"]["description"] == "The whole price of the stay, known once it has ended."
    assert "SESSION_STATE_EXIT_MISSED" in DOCUMENT["components"]["schemas"]["parking.SessionState"]["description"]


def test_who_may_call_is_in_the_document() -> None:
    public = operation("post", "/v1/sign-in/code")
    assert public["security"] == []
    staff = operation("post", "/v1/parking/lots")
    assert staff["security"] == [{"bearer": []}]
    assert staff["x-permission"] == "parking.lots.write"
    family = operation("get", "/v1/households/{household_id}")
    assert "`household_id`" in family["description"]


@pytest.mark.parametrize(
    ("verb", "path", "named"),
    [
        ("post", "/v1/parking/lots", ["accept_language", "idempotency_key"]),
        ("get", "/v1/parking/lots/{lot_id}", ["accept_language", "if_none_match"]),
        ("post", "/v1/sign-in/code", ["accept_language"]),
    ],
)
def test_headers_are_described_where_they_matter(verb: str, path: str, named: list[str]) -> None:
    references = [parameter["$ref"] for parameter in operation(verb, path)["parameters"] if "$ref" in parameter]
    assert references == [f"#/components/parameters/{name}" for name in named]


def test_paging_is_described_on_every_list() -> None:
    for route in ROUTES:
        if "page_token" in route.method.input_type.fields_by_name:
            parameters = {parameter.get("name"): parameter for parameter in operation("get", route.template)["parameters"]}
            assert "next_page_token" in parameters["page_token"]["description"]
            assert parameters["page_size"]["schema"]["maximum"] == 100


def test_errors_are_problem_documents() -> None:
    responses = operation("post", "/v1/parking/lots")["responses"]
    assert set(responses) == {"200", "400", "401", "403", "404", "409", "429", "503"}
    problem = DOCUMENT["components"]["responses"]["problem_400"]["content"]
    assert problem == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def test_raw_and_empty_answers_are_described_as_what_they_are() -> None:
    assert "*/*" in operation("get", "/.well-known/jwks.json")["responses"]["200"]["content"]
    assert "*/*" in operation("post", "/v1/payment-providers/{provider}/notifications")["requestBody"]["content"]
    assert set(operation("delete", "/v1/parking/denials/{denial_id}")["responses"]) >= {"204"}


def test_live_notifications_are_described() -> None:
    assert "text/event-stream" in operation("get", "/v1/me/notifications")["responses"]["200"]["content"]
