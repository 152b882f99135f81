"""The collector's configuration, as far as it can be held against what processes send. A collector has taken it: docs/adr/0056."""

import re
from collections.abc import Iterator

import pytest
import yaml

from tools.dashboards import ROOT

_CONFIGURATION = yaml.safe_load((ROOT / "infra/observability/collector.yaml").read_text(encoding="utf-8"))
_ATTRIBUTE = re.compile(r'(?:set_attribute\(|[{,])\s*"((?:http|url|rpc|db|messaging|error|network|server|client|linli)(?:\.[a-z_]+)+)"[:,]')


def _attributes() -> Iterator[str]:
    """The attributes that the code puts on spans: keys of dictionaries, and what `set_attribute` names."""
    for path in [*(ROOT / "libs/servicekit").glob("*.py"), *(ROOT / "services").glob("*/*.py")]:
        yield from _ATTRIBUTE.findall(path.read_text(encoding="utf-8"))


def test_what_processes_put_on_spans_passes_the_collector() -> None:
    made = set(_attributes())

    assert {"http.route", "rpc.method", "db.system.name", "messaging.destination.name"} <= made
    assert made <= set(_CONFIGURATION["processors"]["redaction"]["allowed_keys"])


@pytest.mark.parametrize(
    ("text", "is_personal"),
    [
        ("call 13800138000 now", True),
        ("11010519491231002X", True),
        ("粤B12345", True),
        ("沪AD12345", True),
        ("0190b3c1-1391-7234-9abc-139123456789", False),
        ("SELECT charge_id FROM charges WHERE lot_id = $1", False),
        ("linli.parking.v1.VehicleEntered", False),
    ],
)
def test_values_that_look_personal_are_masked_and_no_others(text: str, is_personal: bool) -> None:
    patterns = _CONFIGURATION["processors"]["redaction"]["blocked_values"]

    assert any(re.search(pattern, text) for pattern in patterns) == is_personal


def test_spans_are_redacted_before_anything_holds_them_and_whole_traces_are_judged() -> None:
    (pipeline,) = _CONFIGURATION["service"]["pipelines"].values()

    assert pipeline["processors"] == ["memory_limiter", "redaction", "tail_sampling", "batch"]
    kept = {policy["type"] for policy in _CONFIGURATION["processors"]["tail_sampling"]["policies"]}
    assert {"status_code", "latency"} <= kept


def test_everything_that_is_configured_is_used() -> None:
    pipelines = _CONFIGURATION["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert set(_CONFIGURATION[kind]) == {name for pipeline in pipelines for name in pipeline[kind]}
    assert set(_CONFIGURATION["extensions"]) == set(_CONFIGURATION["service"]["extensions"])
