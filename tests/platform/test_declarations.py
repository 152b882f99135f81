"""What all declarations say together."""

import tomllib
from pathlib import Path

from console import catalog
from servicekit.events import event_type
from tools import settings_catalogue
from tools.event_catalogue import problems, render

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"
SETTINGS = DOCUMENT.with_name("settings.md")
PROJECT = DOCUMENT.parents[1]
SERVICES = catalog.find(["all"])


def test_every_event_that_is_consumed_is_published_and_every_published_event_is_in_a_contract() -> None:
    assert problems(SERVICES) == []


def test_the_check_sees_an_event_that_nobody_publishes() -> None:
    silent = [service for service in SERVICES if service.name != "parking"]
    assert any("nobody publishes" in problem for problem in problems(silent))


def test_the_event_catalogue_is_fresh() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(SERVICES), "run `make events`"


def test_the_settings_catalogue_is_fresh() -> None:
    assert SETTINGS.read_text(encoding="utf-8") == settings_catalogue.render(), "run `make settings`"


def test_consumers_have_names_of_their_own() -> None:
    names = [f"{service.name}-{consumption.name}" for service in SERVICES for consumption in service.consumes if consumption.mode != "live"]
    assert len(names) == len(set(names))


def test_reactions_say_what_they_do_and_on_what() -> None:
    for service in SERVICES:
        for consumption in service.consumes:
            assert "_on_" in consumption.name, f"{service.name}.{consumption.name}"


def test_every_published_event_is_an_event_of_a_contract() -> None:
    for service in SERVICES:
        for message in service.publishes:
            assert event_type(message).name.startswith("linli.")


def test_services_call_only_those_that_have_an_api_and_the_gateway_calls_them_all() -> None:
    with_api = {service.name for service in SERVICES if service.api is not None}
    peers = {service.name: service.peers for service in SERVICES}
    assert peers["gateway"] == with_api
    assert set().union(*peers.values()) == with_api


def test_a_service_says_when_it_calls_servers_outside_of_the_platform() -> None:
    clients = {path.parent.name for path in PROJECT.glob("services/*/*.py") if "import httpx" in path.read_text(encoding="utf-8")}
    assert clients == {service.name for service in SERVICES if service.outside}


def test_all_operations_are_behind_the_wall_to_the_network() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    behind = {module for wall in project["tool"]["importlinter"]["contracts"] for module in wall.get("source_modules", ())}
    operations = {".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in PROJECT.glob("services/*/*_operations.py")}
    assert operations - behind == set()
