"""Dashboards: fresh, right, and about everything that is measured."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from console import catalog
from tests.observability.promql import WrongQuery, labels_of, measured, metrics_in
from tools.dashboards import FOLDER, dashboards

_STAND_INS = {"$namespace": "linli", "$__rate_interval": "5m"}


@cache
def _made() -> dict[str, dict[str, Any]]:
    return {name: json.loads(text) for name, text in dashboards().items()}


def _queries(board: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Each query with the title of its panel and its legend."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in _STAND_INS.items():
                query = query.replace(name, value)
            yield panel["title"], query, target.get("legendFormat", "")


def test_the_committed_dashboards_are_what_the_declarations_make() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}

    assert committed == dashboards(), "make observability"


def test_every_service_has_a_dashboard() -> None:
    assert {f"service-{service.name}.json" for service in catalog.find(["all"])} <= set(_made())


def test_every_query_asks_for_what_is_measured_and_every_legend_for_what_is_answered() -> None:
    wrong = []
    for file, board in _made().items():
        for title, query, legend in _queries(board):
            try:
                missing = set(re.findall(r"{{(\w+)}}", legend)) - labels_of(query)
            except (WrongQuery, ValueError) as error:
                wrong.append(f"{file}, {title}: {error}: {query}")
            else:
                wrong += [f"{file}, {title}: no label {name} in the answer" for name in missing]

    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "query",
    [
        "linli_nonsense",
        'linli_outbox_unsent{consumer="x"}',
        'linli_outbox_unsent{service="kitchen"}',
        'linli_event_lag_seconds_bucket{le="4.0"}',
        "sum by (consumer) (linli_outbox_unsent)",
        "linli_outbox_unsent / linli_consumer_pending",
        "histogram_quantile(0.9, linli_event_lag_seconds_count)",
    ],
)
def test_a_query_for_what_is_not_measured_is_found(query: str) -> None:
    with pytest.raises(WrongQuery):
        labels_of(query)


def test_whatever_is_measured_is_on_a_dashboard() -> None:
    shown = {name for board in _made().values() for _, query, _ in _queries(board) for name in metrics_in(query)}
    # What rules record stands for what it is made of.
    shown |= {"linli_rpc_seconds_count"}
    collectors = {id(collector): name for name, collector in measured().items() if name.startswith("linli_")}

    assert not {name for key, name in collectors.items() if key not in {id(measured().get(series)) for series in shown}}


def test_grafana_knows_every_field_and_panels_do_not_overlap() -> None:
    for file, board in _made().items():
        assert json.loads(JSONEncoder().encode(Dashboard.from_json(board))) == board, file
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, f"{file}: {panel['title']} covers another panel"
            assert place["x"] + place["w"] <= 24, f"{file}: {panel['title']} is wider than the screen"
            taken |= cells


def test_every_dashboard_has_an_address_of_its_own() -> None:
    assert len({board["uid"] for board in _made().values()}) == len(_made())
