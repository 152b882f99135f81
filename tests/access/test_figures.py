"""What came of each camera's alarms."""

from datetime import timedelta

import pytest

from linli.access.v1 import alarms_pb2 as pb
from servicekit.errors import Invalid
from servicekit.identifiers import new_id
from tests.access.alarming import alarm, observation, set_rule, watch_point
from tests.access.arrange import Community

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def figures(community: Community, first: str = "2026-03-02", last: str = "2026-03-02") -> list[pb.SourceFigures]:
    answer = await community.call("GetAlarmFigures", pb.GetAlarmFiguresRequest(from_day=first, until_day=last))
    return list(answer.sources)


async def happen(community: Community, source_id: str, kind: str = "intrusion", *, taken_after_s: int = -1, outcome: str = "") -> None:
    """An alarm that somebody takes after a time, and closes as `outcome` says: with a cause, as "false", or not at all."""
    await community.publish(observation(source_id, community.clock.now, kind, track_id=str(new_id())))
    found = await alarm(community, source_id, state=pb.ALARM_STATE_RAISED, kind=kind)
    if taken_after_s >= 0:
        community.clock.advance(seconds=taken_after_s)
        await community.call("AcknowledgeAlarm", pb.AcknowledgeAlarmRequest(alarm_id=found.alarm_id))
    if outcome:
        cause = "" if outcome == "false" else outcome
        await community.call("CloseAlarm", pb.CloseAlarmRequest(alarm_id=found.alarm_id, cause=cause, false_alarm=not cause))


async def test_figures_tell_which_camera_cries_wolf(community: Community) -> None:
    await set_rule(community, "intrusion")
    gate, roof = await watch_point(community), await watch_point(community)
    for taken_after_s, outcome in ((10, "false"), (30, "false"), (20, "burglar"), (40, "")):
        await happen(community, gate.source_id, taken_after_s=taken_after_s, outcome=outcome)
    await happen(community, gate.source_id, "loitering")
    await happen(community, roof.source_id, outcome="burglar")
    first, *rest = await figures(community)
    assert first == pb.SourceFigures(
        source_id=gate.source_id,
        name=gate.name,
        kind="intrusion",
        raised=4,
        closed=3,
        false_alarms=2,
        false_permille=667,
        acknowledged_s_p50=20,
    )
    told = {(each.source_id, each.kind): (each.raised, each.closed, each.false_permille, each.acknowledged_s_p50) for each in rest}
    assert told == {(gate.source_id, "loitering"): (1, 0, -1, -1), (roof.source_id, "intrusion"): (1, 1, 0, -1)}


async def test_a_day_begins_at_midnight_where_the_community_is(community: Community) -> None:
    point = await watch_point(community)
    community.clock.advance(hours=14, minutes=59)  # 23:59
    await happen(community, point.source_id)
    assert [each.raised for each in await figures(community)] == [1]
    assert not await figures(community, "2026-03-03", "2026-03-03")
    assert [each.raised for each in await figures(community, "2026-01-01", "2026-12-31")] == [1]
    assert not await figures(Community(community.town, new_id()))


@pytest.mark.parametrize(
    ("days", "code"),
    [
        (("2026-03-02", "2026-03-01"), r"access\.alarm_days"),
        (("2025-03-01", "2026-03-02"), r"access\.alarm_days"),
        (("2026-02-30", "2026-03-02"), r"request\.invalid"),
        (("2026-3-2", "2026-03-02"), r"request\.invalid"),
        (("2199-12-31", "2199-12-31"), ""),
    ],
)
async def test_figures_are_of_days_that_there_are(community: Community, days: tuple[str, str], code: str) -> None:
    if not code:
        assert not await figures(community, *days)
        return
    with pytest.raises(Invalid, match=code):
        await figures(community, *days)


async def test_a_terminal_is_named_after_its_door(community: Community) -> None:
    gate = await community.door()
    await community.publish(observation(gate.entrance, community.clock.now - timedelta(seconds=5), "tamper"))
    await alarm(community, gate.entrance)
    assert [(each.source_id, each.name) for each in await figures(community)] == [(gate.entrance, gate.name)]
