"""The example in docs/points.md can be published, and gives what the page says."""

import json
import re
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict

from linli.points.v1 import points_pb2 as pb
from servicekit.rpc import validate
from services.points.rule_rpc import _rule
from services.points.rulebook import Source, find_faults

PAGE = (Path(__file__).parents[2] / "docs" / "points.md").read_text(encoding="utf-8")
(EXAMPLE,) = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
REQUEST = ParseDict(EXAMPLE, pb.PublishRulesRequest())


def test_the_example_is_a_rule_book_without_faults_for_every_source() -> None:
    validate(REQUEST)
    rules = [_rule(rule, "") for rule in REQUEST.rules]
    assert find_faults(rules) == []
    assert {rule.source for rule in rules} == set(Source) - {Source.GRANT}


@pytest.mark.parametrize(
    ("rule_id", "measure", "points"),
    [("waste.recyclable", 1_250, 12), ("waste.recyclable", 150, 0), ("waste.kitchen", 3_900, 6), ("volunteering", 75, 20)],
)
def test_a_measure_earns_what_the_page_says(rule_id: str, measure: int, points: int) -> None:
    (rule,) = [_rule(rule, "") for rule in REQUEST.rules if rule.rule_id == rule_id]
    assert rule.points_for(measure) == points
