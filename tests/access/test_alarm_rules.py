"""Which observations are one alarm, and what becomes of each kind: rules without a database."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.identifiers import derived_id, new_id
from services.access.alarm_rules import ALWAYS_ARMED, BUILT_IN, INTRUSION, Rule, Rulebook, Verdict, texts_of
from services.access.alarms import ALARMS_OF_SOURCE_MAX, PICTURES_MAX, Episode, Maintenance, Observation, Severity, correlate, permille
from services.access.windows import Window

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SHANGHAI = ZoneInfo("Asia/Shanghai")
COMMUNITY = new_id()
WINDOW = timedelta(seconds=60)


def seen(second: float = 0, track: str = "", record: object = None, **changes: Any) -> Observation:
    name = f"{second} {track}" if record is None else str(record)
    at = NOON + timedelta(seconds=second)
    observation = Observation(derived_id(name), COMMUNITY, INTRUSION, "camera-1", at, track_id=track)
    return replace(observation, **changes)


def after(batches: Iterable[Sequence[Observation]], window: timedelta = WINDOW) -> list[Episode]:
    """The alarms after these batches; what was told before is not counted again."""
    known: dict[UUID, Episode] = {}
    counted: set[UUID] = set()
    for number, batch in enumerate(batches):
        fresh = {each.observation_id: each for each in batch if each.observation_id not in counted}
        counted |= fresh.keys()
        for episode in correlate([each for each in known.values() if each.merged_into is None], fresh.values(), window).changed:
            if episode.alarm_id in known or episode.merged_into is None:
                known[episode.alarm_id] = replace(episode, told_at=episode.told_at or NOON + timedelta(seconds=number))
    return [each for each in known.values() if each.merged_into is None]


def spans(episodes: Iterable[Episode]) -> set[tuple[str, datetime, datetime, int]]:
    return {(each.track_id, each.first_at, each.last_at, each.observations) for each in episodes}


def test_ten_frames_of_one_intruder_are_one_alarm() -> None:
    [alarm] = after([[seen(second)] for second in range(0, 100, 10)])
    assert (alarm.observations, alarm.first_at, alarm.last_at) == (10, NOON, NOON + timedelta(seconds=90))


def test_another_track_and_a_later_time_are_another_alarm() -> None:
    assert len(after([[seen(0, "a"), seen(1, "b")], [seen(2, "a"), seen(3, "b")]])) == 2
    assert len(after([[seen(0)], [seen(61)]])) == 2


frames = st.lists(
    st.builds(lambda second, track, record: seen(second, track, record), st.integers(0, 900), st.sampled_from("ab"), st.integers(0, 40)),
    min_size=1,
    max_size=40,
    unique_by=lambda each: each.observation_id,
)


@given(frames, st.data())
def test_the_alarms_are_the_same_in_any_order_with_any_repetition_and_however_they_are_cut(
    told: list[Observation], data: st.DataObject
) -> None:
    expected = set()
    for track, its in groupby(sorted(told, key=lambda each: (each.track_id, each.occurred_at)), key=lambda each: each.track_id):
        times: list[list[datetime]] = []
        for at in (each.occurred_at for each in its):
            if times and at - times[-1][-1] <= WINDOW:
                times[-1].append(at)
            else:
                times.append([at])
        expected |= {(track, each[0], each[-1], len(each)) for each in times}
    shuffled = data.draw(st.permutations([*told, *data.draw(st.lists(st.sampled_from(told), max_size=10))]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), max_size=6)))
    batches = [shuffled[start:end] for start, end in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]
    assert spans(after(batches)) == expected


def test_a_frame_between_two_alarms_makes_them_one_and_the_one_that_somebody_deals_with_stays() -> None:
    first, second = after([[seen(0)], [seen(100)]])
    second = replace(second, is_acknowledged=True)
    outcome = correlate([first, second], [seen(50)], WINDOW)
    by_id = {each.alarm_id: each for each in outcome.changed}
    assert by_id[first.alarm_id].merged_into == second.alarm_id
    assert by_id[second.alarm_id].observations == 3
    assert set(outcome.alarm_of.values()) == {second.alarm_id}


@pytest.mark.parametrize(
    ("was_false", "second", "joins"),
    [(False, 25, True), (False, 31, False), (True, 31, True), (True, 90, True), (True, 91, False)],
    ids=["late", "after it was closed", "false a moment ago", "false just within the window", "false before that"],
)
def test_a_closed_alarm_takes_what_was_seen_before_and_a_false_one_what_follows_at_once(was_false: bool, second: int, joins: bool) -> None:
    [alarm] = after([[seen(0), seen(20)]])
    closed = replace(alarm, closed_at=NOON + timedelta(seconds=30), was_false=was_false)
    outcome = correlate([closed], [seen(second, record="new")], WINDOW)
    assert (set(outcome.alarm_of.values()) == {closed.alarm_id}) is joins


def test_a_camera_that_gives_every_frame_a_new_track_does_not_raise_an_alarm_for_each() -> None:
    alarms = after([[seen(number / 100, f"track {number}") for number in range(1000)]])
    assert len(alarms) == ALARMS_OF_SOURCE_MAX
    assert sum(alarm.observations for alarm in alarms) == 1000


def test_only_the_first_pictures_are_kept() -> None:
    [alarm] = after([[seen(number, image_keys=(f"{number}.jpg",)) for number in range(50)]])
    assert alarm.image_keys == tuple(f"{number}.jpg" for number in range(PICTURES_MAX))


def test_a_zone_knows_better_than_the_community_and_that_better_than_what_is_built_in() -> None:
    roof, yard = new_id(), new_id()
    everywhere = Rule(INTRUSION, Severity.WARNING, 30, customised=True)
    rulebook = Rulebook([everywhere, replace(everywhere, zone_id=roof, severity=Severity.NOTICE)], SHANGHAI)
    found = [rulebook.find(INTRUSION, zone_id) for zone_id in (roof, yard, None)]
    assert [rule and rule.severity for rule in found] == [Severity.NOTICE, Severity.WARNING, Severity.WARNING]
    assert rulebook.find("smoke", roof) == BUILT_IN["smoke"]
    assert len(rulebook.listed()) == len(BUILT_IN) + 1


def test_windows_are_armed_in_the_communitys_own_time() -> None:
    by_night = Rule(INTRUSION, Severity.CRITICAL, 60, windows=(Window(frozenset({1}), 22 * 60, 6 * 60),), customised=True)
    rulebook = Rulebook([by_night], SHANGHAI)
    monday = datetime(2026, 1, 5, tzinfo=SHANGHAI)
    hours = {21: False, 23: True, 24 + 5: True, 24 + 7: False, 24 + 23: False}
    verdicts = {hour: rulebook.judge(seen(occurred_at=monday + timedelta(hours=hour))) for hour in hours}
    assert {hour: verdict is Verdict.ARMED for hour, verdict in verdicts.items()} == hours


def test_what_nobody_knows_nobody_wants_or_nobody_is_sure_of_raises_nothing() -> None:
    rules = [
        Rule("loitering", Severity.NOTICE, 60, enabled=False, customised=True),
        Rule("fall", Severity.CRITICAL, 60, confidence_min_permille=700, customised=True),
        Rule("drone", Severity.NOTICE, 60, customised=True),
    ]
    rulebook = Rulebook(rules, SHANGHAI)

    def judged(kind: str, confidence: int = -1) -> Verdict:
        return rulebook.judge(seen(kind=kind, confidence_permille=confidence))

    assert judged("motion") is Verdict.UNKNOWN_KIND
    assert judged("drone") is Verdict.ARMED
    assert judged("loitering") is Verdict.DISABLED
    assert [judged("fall", confidence) for confidence in (699, 700, -1)] == [Verdict.UNSURE, Verdict.ARMED, Verdict.ARMED]


def test_a_person_before_a_camera_is_an_intruder_only_where_somebody_said_so() -> None:
    roof = new_id()
    rulebook = Rulebook([replace(BUILT_IN[INTRUSION], zone_id=roof, customised=True)], SHANGHAI)
    person = seen(is_judged=False)
    assert rulebook.judge(person) is Verdict.DISABLED
    assert rulebook.judge(replace(person, zone_id=roof)) is Verdict.ARMED


def test_maintenance_explains_what_is_seen_there_and_then() -> None:
    zone_id, hour = new_id(), timedelta(hours=1)
    whole = Maintenance(new_id(), zone_id, "", NOON, NOON + hour, "painting", 0)
    assert whole.explains(seen(zone_id=zone_id))
    assert not whole.explains(seen(zone_id=new_id()))
    assert not whole.explains(seen(3600, zone_id=zone_id))
    assert not replace(whole, source_id="camera-2").explains(seen(zone_id=zone_id))


def test_every_kind_has_words_in_both_languages_and_what_must_stay_armed_is_built_in() -> None:
    assert BUILT_IN.keys() >= ALWAYS_ARMED
    for kind in BUILT_IN:
        texts = texts_of(kind, "")
        assert texts.zh != f"告警 {kind}"
        assert texts_of(kind, "East gate").en == f"{texts.en}: East gate"


def test_shares_are_rounded_and_of_nothing_there_is_none() -> None:
    assert [permille(1, 3), permille(2, 3), permille(0, 5), permille(0, 0)] == [333, 667, 0, -1]
