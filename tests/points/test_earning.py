"""What residents earn for deposits, and what is taken back: through events, as seen by residents."""

import asyncio
from datetime import timedelta

import pytest

from linli.points.v1 import points_pb2 as pb
from linli.waste.v1.events_pb2 import CATEGORY_KITCHEN
from servicekit.database import PLATFORM
from servicekit.identifiers import new_id
from services.points import earning_operations
from services.points.earning import Reason
from tests.points.arrange import RULES, Community, Town, rule
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_deposit_earns_what_the_rules_say_and_names_the_rule_and_its_version(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    deposit_id = await community.deposit(anna, 1_250)
    await community.earned(deposit_id)
    assert (await community.points_of(anna)).points == 12
    (entry,) = await community.entries(anna)
    assert (entry.number, entry.change, entry.points, entry.kind) == (1, 12, 12, "earning")
    assert (entry.rule_id, entry.rules_version, entry.source_id) == ("waste.recyclable", 1, str(deposit_id))
    assert entry.text_zh == "规则waste.recyclable"
    assert "12" in (await community.notified(anna, "points.earned")).message.text_zh
