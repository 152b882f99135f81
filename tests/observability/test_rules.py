"""Alerts: they fire when they should and only then, ask for what is measured, and say whom they wake."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.promql import RULES, labels_of
from tools import objectives, programs
from tools.dashboards import ROOT

_TESTS = sorted((ROOT / "infra" / "observability" / "tests").glob("*.yaml"))
_TEST_S = 60


@dataclass(frozen=True, slots=True)
class _Alert:
    name: str
    query: str
    labels: dict[str, str]
    annotations: dict[str, str]


@cache
def _alerts() -> tuple[_Alert, ...]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    return tuple(_Alert(rule["alert"], rule["expr"], rule["labels"], rule["annotations"]) for rule in rules)


def _promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([programs.find("promtool"), *arguments], capture_output=True, text=True, timeout=_TEST_S, check=False)


def _said() -> Iterator[tuple[str, Any]]:
    """Each alert that a test asks about, with what the test expects of it."""
    for path in _TESTS:
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for asked in test["alert_rule_test"]:
                yield asked["alertname"], asked.get("exp_alerts") or []


def test_prometheus_takes_the_rules() -> None:
    answer = _promtool("check", "rules", *RULES)

    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("path", _TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_are_silent_just_below(path: Path) -> None:
    answer = _promtool("test", "rules", path)

    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("rule", "weaker"),
    [
        ("linli_outbox_age_seconds) > 60", "linli_outbox_age_seconds) > 6000"),
        ("linli_outbox_age_seconds) > 60", "linli_outbox_age_seconds) >= 60"),
        ("for: 2m", "for: 1h"),
    ],
    ids=["too deaf", "too nervous", "too late"],
)
def test_a_rule_that_is_made_weaker_fails_its_test(tmp_path: Path, rule: str, weaker: str) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    text = (ROOT / "infra/observability/rules/events.yaml").read_text(encoding="utf-8")
    assert rule in text
    (tmp_path / "rules" / "events.yaml").write_text(text.replace(rule, weaker), encoding="utf-8")
    test = tmp_path / "tests" / "events.yaml"
    test.write_text((ROOT / "infra/observability/tests/events.yaml").read_text(encoding="utf-8"), encoding="utf-8")

    assert _promtool("test", "rules", test).returncode != 0


def test_every_alert_is_tested_firing_and_silent() -> None:
    severities = {(alert.name, alert.labels["severity"]) for alert in _alerts()}
    firing = {(name, fired["exp_labels"]["severity"]) for name, expected in _said() for fired in expected}
    silent = {name for name, expected in _said() if not expected}

    assert firing == severities
    assert silent == {alert.name for alert in _alerts()}


def test_rules_ask_for_what_is_measured() -> None:
    for alert in _alerts():
        labels_of(alert.query)


def test_an_alert_says_whom_it_wakes_and_what_to_do() -> None:
    for alert in _alerts():
        assert alert.labels["severity"] in ("page", "ticket"), alert.name
        assert set(alert.annotations) == {"summary", "runbook_url"}, alert.name
        assert alert.annotations["runbook_url"] == f"docs/runbooks/{alert.name}.md"
        named = set(re.findall(r"\$labels\.(\w+)", alert.annotations["summary"]))
        assert named <= labels_of(alert.query), f"{alert.name} names labels that it does not have"


def test_prometheus_leaves_our_labels_alone() -> None:
    documents = yaml.load_all((ROOT / "deploy/helm/rendered/city.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    endpoints = [
        each for document in documents if document and document["kind"] == "ServiceMonitor" for each in document["spec"]["endpoints"]
    ]

    # It would call `service` and `job` otherwise, and every rule that groups by them would be silent.
    assert endpoints
    assert all(endpoint.get("honorLabels") for endpoint in endpoints)


def test_the_rules_of_the_objectives_are_fresh() -> None:
    assert objectives.DOCUMENT.read_text(encoding="utf-8") == objectives.render(), "make observability"


@pytest.mark.parametrize("objective", objectives.OBJECTIVES, ids=lambda objective: objective.name)
def test_alerts_of_objectives_burn_as_in_the_workbook(objective: objectives.Objective) -> None:
    queries = "".join(alert.query for alert in _alerts() if alert.name == objective.alert)
    burns = re.findall(rf"ratio(\w+)\{{objective=\"{objective.name}\"\}} > ([0-9.]+)", queries)
    times = sorted((window, round(float(share) / (1 - objective.promise), 6)) for window, share in burns)

    assert times == sorted(
        [("1h", 14.4), ("5m", 14.4), ("6h", 6.0), ("30m", 6.0), ("1d", 3.0), ("2h", 3.0), ("3d", 1.0), ("6h", 1.0)],
    )
