"""Promises across restarts. Each test has the service to itself: two that run at once would share what is heard."""

from datetime import timedelta
from pathlib import Path

from linli.workorders.v1.events_pb2 import TargetMissed
from servicekit.times import to_timestamp
from services.workorders.service import SERVICE
from tests.support import Servers
from tests.workorders.arrange import MONDAY_10, Community, passes, promising, town


async def test_a_timer_that_was_due_while_the_service_was_down_fires_once_and_late(servers: Servers, tmp_path: Path) -> None:
    async with servers.database(SERVICE) as url:
        async with town(servers, tmp_path, url) as before:
            community = Community(before)
            foreman = await community.staff("foreman")
            await community.terms(escalation_roles=["foreman", "property_manager"])
            reporter, plumber = await community.resident(), await community.technician()
            order = await reporter.report(await community.category(**promising(response_minutes=15)))
            await passes(community, order, until=MONDAY_10 + timedelta(minutes=8), warned=1)
        # Down from the eighth minute to the twenty-first: the second warning and the miss were due meanwhile.
        before.clock.now = MONDAY_10 + timedelta(minutes=21)
        async with town(servers, tmp_path, url, before.clock) as after:
            community.town = after
            told = (await community.event(TargetMissed, order_id=order.order_id)).message
            assert told.due_at == to_timestamp(MONDAY_10 + timedelta(minutes=15))
            await foreman.is_told("missed")
            await reporter.is_told("late")
        async with town(servers, tmp_path, url, before.clock) as again:
            community.town = again
            await passes(community, order, until=MONDAY_10 + timedelta(minutes=23), warned=1, missed=2)
            await community.event(TargetMissed, order_id=order.order_id, level=2)
            assert community.missed(order) == [("response", 2, "property_manager")]
            accepted = await plumber.accept(order)
            assert accepted.missed == ["response"]
