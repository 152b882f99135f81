"""The OpenAPI 3.1 document, built once from the routes, the comments and the rules of the contracts.

What the messages look like is in `schemas`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor

from linli.options.v1 import options_pb2
from services.gateway import blobs, notifications
from services.gateway.contracts import Contracts, service_of
from services.gateway.routes import WHOLE_BODY, Route
from services.gateway.schemas import Schema, Schemas, required_fields
from services.gateway.transcode import Parameter, Transcoding

_DESCRIPTION = """\
The API of a smart residential community.

**Fields** have snake_case names; lowerCamelCase is accepted as well. 64-bit integers are written as text and accepted as text or number.
Money is in fen. Instants are RFC 3339. Answers hold every field, also those with their default value; a message or an optional field that
is not set is left out.

**Errors** are problem documents (RFC 9457) with a stable `code`, in the language of `Accept-Language`, Chinese by default.

**Repeating** a request that changes something is safe with the same `Idempotency-Key`.

**Time**: `X-Timeout-Ms` says how long an answer may take, at most 30000. `X-Request-Id` is taken over, or made, and always answered.
"""
_NOTIFICATIONS = """\
Server-sent events. Each event's data is a JSON object with `kind`, `text`, `link` and `occurred_at`. Come back with the last event's id and
nothing is missed. A stream ends with its access token, so come back with a fresh one.

Any signed-in account may.
"""
_BLOBS = "The address comes from another answer, holds for some minutes, and needs no access token."
_LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
_RAW = "google.api.HttpBody"
_EMPTY = "google.protobuf.Empty"
_PROBLEM: Schema = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "properties": {
        "type": {"type": "string", "description": "`urn:linli:problem:` and the code."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For people, in the language asked for."},
        "code": {"type": "string", "description": "Stable, for programs.", "examples": ["request.field_unknown"]},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string", "description": "The field's path, such as `plates[2]`."},
                    "code": {"type": "string"},
                    "text": {"type": "string"},
                },
                "required": ["field", "code", "text"],
            },
        },
        "details": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["type", "title", "status", "detail", "code", "request_id"],
}
_PARAMETERS: dict[str, Schema] = {
    "accept_language": {
        "name": "Accept-Language",
        "in": "header",
        "description": "The language of texts for people.",
        "schema": {"type": "string", "default": "zh", "examples": ["zh-CN", "en"]},
    },
    "idempotency_key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The caller's own name of this request. A repetition under the same name is answered as the first was, and changes "
        "nothing.",
        "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,128}$"},
    },
    "if_none_match": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The `ETag` of an earlier answer; 304 when nothing has changed.",
        "schema": {"type": "string"},
    },
}
_STATUSES = {
    "400": "The request is wrong.",
    "401": "The access token is missing, expired or not valid.",
    "403": "The caller may not do this.",
    "404": "It does not exist, or not for this caller.",
    "409": "The state of the thing does not allow it, or the idempotency key was used for another request.",
    "429": "Too many requests; `Retry-After` says when to try again.",
    "503": "Something does not answer now; trying again is right.",
}


def build(contracts: Contracts, transcodings: Sequence[Transcoding]) -> bytes:
    """The document as JSON."""
    schemas = Schemas(contracts.comments)
    schemas.components["Problem"] = _PROBLEM
    paths: dict[str, Schema] = {notifications.PATH: {"get": _notifications()}, blobs.TEMPLATE: _blobs()}
    for transcoding in transcodings:
        route = transcoding.route
        paths.setdefault(route.template, {})[route.verb.lower()] = _operation(transcoding, schemas)
    services = sorted({transcoding.route.method.containing_service.full_name for transcoding in transcodings})
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Linli",
            "version": "1",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": service_of(name), "description": schemas.comment(name)} for name in services]
        + [
            {"name": "notifications", "description": "What people are told, live."},
            {"name": "blobs", "description": "Photos, at the addresses that other answers hold."},
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "parameters": _PARAMETERS,
            "responses": {f"problem_{status}": _problem(text) for status, text in _STATUSES.items()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }
    return msgspec.json.encode(document)


def _problem(description: str) -> Schema:
    return {"description": description, "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def _operation(transcoding: Transcoding, schemas: Schemas) -> Schema:
    route = transcoding.route
    method = route.method
    authority = method.GetOptions().Extensions[options_pb2.authority]
    comment = schemas.comment(method.full_name)
    summary, _, _ = comment.partition(". ")
    operation: Schema = {
        "operationId": f"{route.service}_{method.name}",
        "tags": [route.service],
        "summary": summary.removesuffix("."),
        "description": "\n\n".join(filter(None, (comment, _authority_text(authority)))),
        "parameters": _parameters(transcoding, authority.public, schemas),
        "responses": _responses(route, authority.public, schemas),
        "security": [] if authority.public else [{"bearer": []}],
    }
    if authority.permission:
        operation["x-permission"] = authority.permission
    if route.body:
        operation["requestBody"] = _request_body(transcoding, schemas)
    return operation


def _authority_text(authority: Any) -> str:
    if authority.public:
        return "Needs no access token."
    if not authority.permission:
        return "Any signed-in account may."
    scopes = [f"`{field}`" for field in (authority.household_field, authority.building_field) if field]
    where = f", for the community or for {' or '.join(scopes)}" if scopes else ""
    return f"Needs the permission `{authority.permission}`{where}."


def _parameters(transcoding: Transcoding, public: bool, schemas: Schemas) -> list[Schema]:
    request = transcoding.route.method.input_type
    required = required_fields(request)
    parameters = [_parameter(parameter, "path", True, schemas) for parameter in transcoding.path]
    query = {parameter.name: parameter for parameter in transcoding.query.values()}
    parameters += (_parameter(parameter, "query", parameter.name in required, schemas) for parameter in query.values())
    names = ["accept_language"]
    if transcoding.route.verb == "GET":
        names.append("if_none_match")
    elif not public:
        names.append("idempotency_key")
    return parameters + [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _parameter(parameter: Parameter, place: str, required: bool, schemas: Schemas) -> Schema:
    schema = schemas.of_field(parameter.field, required_fields)
    described: Schema = {"name": parameter.name, "in": place, "schema": schema}
    if "description" in schema:
        described["description"] = schema.pop("description")
    if required:
        described["required"] = True
    return described


def _request_body(transcoding: Transcoding, schemas: Schemas) -> Schema:
    route = transcoding.route
    request = route.method.input_type
    if transcoding.raw_body:
        return {"required": True, "description": "Goes through as it comes.", "content": {"*/*": {"schema": {}}}}
    if route.body == WHOLE_BODY:
        schema = schemas.of_request(request, frozenset(route.path_fields))
    else:
        body: Descriptor | None = request.fields_by_name[route.body].message_type
        assert body is not None
        schema = schemas.of_request(body)
    return {"required": bool(schema.get("required")), "content": {"application/json": {"schema": schema}}}


def _responses(route: Route, public: bool, schemas: Schemas) -> Schema:
    answer = route.method.output_type
    responses: Schema = {}
    if answer.full_name == _EMPTY:
        responses["204"] = {"description": "Done."}
    elif answer.full_name == _RAW:
        responses["200"] = {"description": "As the other side asks for it.", "content": {"*/*": {"schema": {}}}}
    else:
        responses["200"] = {"description": "Done.", "content": {"application/json": {"schema": schemas.of_answer(answer)}}}
    statuses = ["400", "404", "429", "503"] + ([] if public else ["401", "403"])
    if route.verb == "GET":
        responses["304"] = {"description": "Nothing has changed."}
    else:
        statuses.append("409")
    return responses | {status: {"$ref": f"#/components/responses/problem_{status}"} for status in sorted(statuses)}


def _notifications() -> Schema:
    return {
        "operationId": "notifications_Stream",
        "tags": ["notifications"],
        "summary": "Live notifications of the caller",
        "description": _NOTIFICATIONS,
        "parameters": [
            {"$ref": "#/components/parameters/accept_language"},
            {"name": "Last-Event-ID", "in": "header", "description": "The id of the last event heard.", "schema": {"type": "string"}},
            {
                "name": "last_event_id",
                "in": "query",
                "description": "The same, for those who cannot set headers.",
                "schema": {"type": "string"},
            },
        ],
        "responses": {
            "200": {"description": "The stream.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **{status: {"$ref": f"#/components/responses/problem_{status}"} for status in ("400", "401", "429", "503")},
        },
        "security": [{"bearer": []}],
    }


def _blobs() -> Schema:
    ticket = {"name": "ticket", "in": "path", "required": True, "schema": {"type": "string"}}
    content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

    def operation(name: str, summary: str, description: str, responses: Schema, *problems: str) -> Schema:
        return {
            "operationId": f"blobs_{name}",
            "tags": ["blobs"],
            "summary": summary,
            "description": f"{description} {_BLOBS}",
            "parameters": [ticket, {"$ref": "#/components/parameters/accept_language"}],
            "responses": responses | {status: {"$ref": f"#/components/responses/problem_{status}"} for status in problems},
            "security": [],
        }

    sent = operation(
        "Send", "Send a file", "Takes the bytes as they are, once.", {"204": {"description": "Kept."}}, "403", "409", "429", "503"
    )
    sent["responses"]["413"] = _problem("The file is larger than the address allows.")
    sent["requestBody"] = {"required": True, "content": content}
    fetched = {"200": {"description": "The file.", "content": {**content, "image/*": {"schema": {"type": "string", "format": "binary"}}}}}
    return {"put": sent, "get": operation("Fetch", "Fetch a file", "Answers with the bytes.", fetched, "403", "404", "429", "503")}
