"""Who fits an order best, and what people are told of why."""

import random
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from services.workorders.dispatch import Need, Position, Reason, Technician, Way, distance_m, explain, rank, to_facts, weigh
from services.workorders.targets import Hours

# A Monday morning by the community's clock, and somebody who works from eight to six on it.
MONDAY_9 = datetime(2026, 3, 2, 9, 0)  # noqa: DTZ001
BUILDING, OTHER_BUILDING, TEAM = UUID(int=100), UUID(int=101), UUID(int=200)
HERE = Position(31.2, 121.5)
LEAK = Need("plumbing", BUILDING, HERE)
PLUMBER = Technician(UUID(int=1), "王师傅", TEAM, ["plumbing"], [], [Hours(1, 480, 1080)], in_use=True, position=HERE)


def north(metres: float) -> Position:
    """A place so far north of here."""
    return Position(HERE.latitude + metres / 111_195, HERE.longitude)


def other(number: int, **changes: object) -> Technician:
    """Somebody else who is like the plumber but for these."""
    return replace(PLUMBER, account_id=UUID(int=number), **changes)  # type: ignore[arg-type]


def ranked(*technicians: Technician, need: Need = LEAK, at: datetime = MONDAY_9) -> list[int]:
    """Who is asked, in order, whatever the order in which they are known."""
    shuffled = random.sample(technicians, len(technicians))
    return [candidate.technician.account_id.int for candidate in rank(need, shuffled, at)]


def test_a_skill_is_made_up_for_by_nothing() -> None:
    electrician = other(2, skills=["electrics"])
    left = other(3, in_use=False)
    assert ranked(PLUMBER, electrician, left) == [1]
    assert ranked(PLUMBER, electrician, left, need=replace(LEAK, skill="")) == [1, 2]


def test_shift_comes_before_all_that_is_weighed() -> None:
    busy_and_far = other(2, open_jobs=9, position=north(3000), building_ids=[OTHER_BUILDING])
    off_shift = other(3, shifts=[Hours(1, 0, 540), Hours(1, 541, 1440), Hours(2, 0, 1440)])
    assert ranked(off_shift, busy_and_far) == [2, 3]


def test_area_load_and_distance_are_weighed_against_each_other() -> None:
    assert ranked(PLUMBER, other(2, position=north(299)), other(3, open_jobs=1)) == [1, 2, 3]
    assert ranked(other(2, position=north(301)), other(3, open_jobs=1)) == [3, 2]
    assert ranked(other(2, building_ids=[OTHER_BUILDING]), other(3, building_ids=[BUILDING], position=north(900))) == [3, 2]
    assert ranked(other(2, position=None), other(3, position=north(400)), other(4, position=north(600))) == [3, 2, 4]


def test_an_offer_that_waits_for_its_answer_weighs_like_a_job() -> None:
    assert ranked(other(2, offers=1), other(3)) == [3, 2]


def test_on_the_grounds_nobody_is_out_of_their_area() -> None:
    elsewhere = other(2, building_ids=[OTHER_BUILDING])
    assert ranked(elsewhere, other(3, open_jobs=1), need=Need("plumbing", None, None)) == [2, 3]


def test_a_distance_is_that_of_the_map() -> None:
    # The people's square in Shanghai and the gate of heavenly peace in Beijing, 1068 km apart.
    assert abs(distance_m(Position(31.2304, 121.4737), Position(39.9087, 116.3975)) - 1_068_000) < 2_000
    assert distance_m(HERE, HERE) == 0
    assert distance_m(Position(0, 0), Position(0, 180)) == distance_m(Position(90, 0), Position(-90, 0))


def test_a_choice_is_told_in_both_languages_by_its_facts() -> None:
    near = other(2, position=north(120), building_ids=[BUILDING])
    zh, en = explain(to_facts(weigh(LEAK, near, MONDAY_9)))
    assert zh == "技能 plumbing，负责本楼，在班，手上 0 单，相距 120 米"
    assert en == "skill plumbing, looks after the building, on shift, 0 open jobs, 120 m away"
    given = weigh(Need("", BUILDING, None), other(3, open_jobs=2, building_ids=[OTHER_BUILDING], shifts=[]), MONDAY_9, Way.GIVEN)
    assert explain(to_facts(given))[1] == "given by a dispatcher, looks after other buildings, not on shift, 2 open jobs"
    assert explain(to_facts(Reason(Way.OPEN, "plumbing"))) == (
        "技能 plumbing，已询问的人员均未接单，开放抢单",
        "skill plumbing, nobody who was asked has taken it, open to all",
    )
    assert explain(to_facts(Reason(Way.OPEN_OFF_SHIFT, "")))[1] == "nobody is on shift, open to all"
    assert explain("") == ("", "")
