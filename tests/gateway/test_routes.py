"""How the contracts' HTTP rules become routes, and which request a path finds."""

import pytest
from google.api import http_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import contracts
from services.gateway.routes import ContractError, RouteTable, compile_routes
from services.gateway.transcode import compile_route
from tests.gateway.contract import contract, rule


def table(**rules: http_pb2.HttpRule | None) -> RouteTable:
    return compile_routes(contract(rules).services_by_name.values())


def found(routes: RouteTable, verb: str, path: str) -> tuple[str, list[str]] | None:
    match = routes.find(path)
    if match is None or verb not in match[0]:
        return None
    return match[0][verb].method.name, match[1]


def test_every_method_of_every_contract_with_a_rule_has_a_route() -> None:
    known = contracts.load()
    names = {method.full_name for service in known.services for method in service.methods}
    assert {route.method.full_name for route in compile_routes(known.services).routes} == names
    assert {contracts.service_of(name) for name in names} >= {"identity", "parking", "billing", "ingest", "insights"}


def test_every_route_of_every_contract_is_found_again_by_a_path_of_its_template() -> None:
    routes = compile_routes(contracts.load().services)
    for route in routes.routes:
        path = "/".join("x-1" if part.startswith("{") and part.endswith("}") else part for part in route.template.split("/"))
        path = path.replace("{" + route.path_fields[-1] + "}:", "x-1:") if route.path_fields else path
        assert found(routes, route.verb, path) == (route.method.name, ["x-1"] * len(route.path_fields)), route.template


def test_a_literal_segment_wins_over_a_variable() -> None:
    routes = table(Named=rule(get="/v1/things/{name}"), Newest=rule(get="/v1/things/newest"))
    assert found(routes, "GET", "/v1/things/newest") == ("Newest", [])
    assert found(routes, "GET", "/v1/things/oldest") == ("Named", ["oldest"])


def test_a_literal_that_leads_nowhere_gives_way_to_a_variable() -> None:
    routes = table(A=rule(get="/v1/a/{name}/c"), B=rule(get="/v1/{name}/b/d"))
    assert found(routes, "GET", "/v1/a/b/c") == ("A", ["b"])
    assert found(routes, "GET", "/v1/a/b/d") == ("B", ["a"])
    assert found(routes, "GET", "/v1/a/x/d") is None


def test_a_custom_verb_ends_the_last_segment() -> None:
    routes = table(Get=rule(get="/v1/things/{name}"), Open=rule(post="/v1/things/{name}:open"), Import=rule(post="/v1/things:import"))
    assert found(routes, "POST", "/v1/things/a:open") == ("Open", ["a"])
    assert found(routes, "POST", "/v1/things/a:b:open") == ("Open", ["a:b"])
    assert found(routes, "POST", "/v1/things:import") == ("Import", [])
    assert found(routes, "POST", "/v1/things/a") is None
    assert found(routes, "GET", "/v1/things/a:b") == ("Get", ["a:b"]), "a colon in a value is no verb unless one has that name"
    assert found(routes, "GET", "/v1/things/a:") == ("Get", ["a:"])
    assert found(routes, "POST", "/v1/things/:open") is None


def test_an_empty_segment_is_no_value() -> None:
    routes = table(Get=rule(get="/v1/things/{name}"))
    for path in ("/v1/things/", "/v1//things/a", "//v1/things/a", "v1/things/a", "", "/", "/v1/things/a/"):
        assert routes.find(path) is None, path


def test_dotted_fields_and_additional_bindings_are_routes() -> None:
    http = rule(get="/v1/things/{inner.name}", additional_bindings=[rule(post="/v1/things:find", body="*"), rule(get="/v1/thing/{name}")])
    routes = table(Find=http)
    assert [(route.verb, route.template, route.path_fields, route.body) for route in routes.routes] == [
        ("GET", "/v1/things/{inner.name}", ("inner.name",), ""),
        ("POST", "/v1/things:find", (), "*"),
        ("GET", "/v1/thing/{name}", ("name",), ""),
    ]


def test_a_method_without_a_rule_has_no_route() -> None:
    assert table(Inward=None).routes == []


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"A": rule(get="/v1/a"), "B": rule(get="/v1/a")}, "both want GET /v1/a"),
        ({"A": rule(get="/v1/{name}"), "B": rule(get="/v1/{secret}")}, "both want GET"),
        ({"A": rule(get="/v1/a", additional_bindings=[rule(get="/v1/a")])}, "both want GET"),
        ({"A": rule(get="v1/a")}, "not of the form"),
        ({"A": rule(get="/v1/{name=things/*}")}, "not of the form"),
        ({"A": rule(get="/v1/**")}, "not of the form"),
        ({"A": rule(get="/v1/a b")}, "not of the form"),
        ({"A": rule(get="/v1/a/")}, "not of the form"),
        ({"A": rule(get="/v1/a:b c")}, "custom verb"),
        ({"A": rule(get="/v1/{name}/{name}")}, "twice"),
        ({"A": rule(get="/v1/a", body="*")}, "no body"),
        ({"A": rule(post="/v1/a", body="missing")}, "no field missing"),
        ({"A": rule(get="/v1/a", response_body="name")}, "response_body"),
        ({"A": rule()}, "no path"),
        ({"A": rule(custom=http_pb2.CustomHttpPattern(kind="FETCH", path="/v1/a"))}, "FETCH"),
    ],
)
def test_a_rule_that_cannot_be_served_stops_the_start(rules: dict[str, http_pb2.HttpRule], text: str) -> None:
    with pytest.raises(ContractError, match=text.replace("/", "/")):
        table(**rules)


def test_a_streaming_method_with_a_rule_stops_the_start() -> None:
    with pytest.raises(ContractError, match="streaming"):
        compile_routes(contract({"Watch": rule(get="/v1/a")}, streaming=True).services_by_name.values())


@pytest.mark.parametrize(
    "template", ["/v1/{missing}", "/v1/{inner}", "/v1/{inner.missing}", "/v1/{tags}", "/v1/{labels}", "/v1/{inner.name.more}"]
)
def test_a_field_that_cannot_come_in_a_path_stops_the_start(template: str) -> None:
    with pytest.raises(ContractError, match="cannot come in a path"):
        compile_route(table(A=rule(get=template)).routes[0])


def test_a_body_field_that_is_no_message_stops_the_start() -> None:
    with pytest.raises(ContractError, match="must be a message"):
        compile_route(table(A=rule(post="/v1/a", body="name")).routes[0])


@given(st.text(alphabet="/v1:thingsx{}%.~", max_size=60))
def test_no_path_breaks_the_search(path: str) -> None:
    match = _ROUTES.find(path)
    assert match is None or all(value for value in match[1])


_ROUTES = compile_routes(contracts.load().services)
