"""Who may pass where, when, and with what: the pure rules."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import services.access
from services.access.codes import Code
from services.access.deciding import Before, Place, Presented, Reason, decide
from services.access.doors import AntiPassback, CredentialKind, Direction, DoorKind, ZoneKind, needs_a_face
from services.access.entries import LEAVING, Rule, Site, Subject, TerminalPlace, Times, Whom, WhomKind, entries_of
from services.access.service import SERVICE
from services.access.windows import Window, is_open, packed, unpacked

NOW = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)  # Monday, 9:00 in Shanghai
SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
GROUNDS, HOUSE_1, HOUSE_2, GYM, OFFICE = (UUID(int=number) for number in range(1, 6))
BUILDING_1, BUILDING_2, HOUSEHOLD, ACCOUNT, OTHER = (UUID(int=number) for number in range(11, 16))
COMMUNITY, DOOR = UUID(int=21), UUID(int=22)
EVERY_KIND = frozenset(CredentialKind)
WEEKDAYS = Window(frozenset({1, 2, 3, 4, 5}), 9 * 60, 17 * 60)
NIGHTS = Window(frozenset({5, 6}), 22 * 60, 6 * 60)


def terminal(
    device_id: str,
    zone_id: UUID,
    direction: Direction = Direction.IN,
    kinds: frozenset[CredentialKind] = EVERY_KIND,
    *,
    in_use: bool = True,
) -> TerminalPlace:
    kind = {GROUNDS: ZoneKind.COMMUNITY, HOUSE_1: ZoneKind.BUILDING, HOUSE_2: ZoneKind.BUILDING, GYM: ZoneKind.AMENITY}
    return TerminalPlace(
        device_id=device_id,
        door_id=UUID(int=100 + len(device_id)),
        zone_id=zone_id,
        zone_kind=kind.get(zone_id, ZoneKind.STAFF),
        building_id={HOUSE_1: BUILDING_1, HOUSE_2: BUILDING_2}.get(zone_id),
        direction=direction,
        kinds=kinds,
        anti_passback=AntiPassback.OFF,
        in_use=in_use,
    )


TERMINALS = (
    terminal("gate-in", GROUNDS),
    terminal("gate-out", GROUNDS, Direction.OUT),
    terminal("house-1", HOUSE_1),
    terminal("house-2", HOUSE_2),
    terminal("gym", GYM),
    terminal("office", OFFICE),
    terminal("office-out", OFFICE, Direction.OUT),
)
RESIDENT = Subject(ACCOUNT, is_pass=False, homes={HOUSEHOLD: BUILDING_1})


def site(*rules: Rule, terminals: Iterable[TerminalPlace] = TERMINALS) -> Site:
    return Site(tuple(terminals), rules)


def rule(zone_id: UUID, whom: Whom, *windows: Window, since: datetime | None = None, until: datetime | None = None) -> Rule:
    return Rule(UUID(int=99), zone_id, whom, Times(windows, since, until))


def ways(subject: Subject, *rules: Rule, now: datetime = NOW) -> set[str]:
    return set(entries_of(subject, site(*rules), now))


def test_a_resident_enters_the_grounds_and_their_own_building_without_any_rule() -> None:
    assert ways(RESIDENT) == {"gate-in", "gate-out", "house-1", "office-out"}


def test_who_neither_lives_here_nor_is_named_by_a_rule_is_known_nowhere() -> None:
    assert ways(Subject(ACCOUNT, is_pass=False), rule(GYM, (WhomKind.RESIDENTS, None))) == set()


@pytest.mark.parametrize(
    "whom",
    [
        (WhomKind.RESIDENTS, None),
        (WhomKind.BUILDING, BUILDING_1),
        (WhomKind.HOUSEHOLD, HOUSEHOLD),
        (WhomKind.ACCOUNT, ACCOUNT),
        (WhomKind.ROLE, "cleaner"),
    ],
)
def test_a_rule_lets_in_whom_it_names_and_nobody_else(whom: Whom) -> None:
    named = Subject(ACCOUNT, is_pass=False, homes={HOUSEHOLD: BUILDING_1}, roles=frozenset({"cleaner"}))
    assert "gym" in ways(named, rule(GYM, whom))
    stranger = Subject(OTHER, is_pass=False, homes={OTHER: BUILDING_2}, roles=frozenset({"technician"}))
    assert ("gym" in ways(stranger, rule(GYM, whom))) == (whom[0] is WhomKind.RESIDENTS)


def test_several_ways_add_up_each_with_its_own_end() -> None:
    """One time that holds on weekdays until March and another that begins in April are not one that always holds."""
    april = NOW + timedelta(days=30)
    rules = (
        rule(GYM, (WhomKind.RESIDENTS, None), WEEKDAYS, until=NOW + timedelta(days=7)),
        rule(GYM, (WhomKind.HOUSEHOLD, HOUSEHOLD), NIGHTS, since=april),
    )
    entry = entries_of(RESIDENT, site(*rules), NOW)["gym"]
    assert entry.holds(NOW, SHANGHAI)
    assert not entry.holds(NOW + timedelta(hours=12), SHANGHAI)
    assert not entry.holds(NOW + timedelta(days=8), SHANGHAI)
    saturday_night = datetime(2026, 4, 4, 15, 0, tzinfo=UTC)
    assert entry.holds(saturday_night, SHANGHAI)


def test_who_may_enter_at_any_time_is_not_held_back_by_a_rule_with_a_time() -> None:
    entry = entries_of(RESIDENT, site(rule(GROUNDS, (WhomKind.RESIDENTS, None), WEEKDAYS)), NOW)["gate-in"]
    assert entry.times == (Times(),)


def test_nobody_is_locked_in_when_their_time_is_over() -> None:
    """Fire Protection Law art. 28: exits are never blocked."""
    cleaner = Subject(ACCOUNT, is_pass=False, roles=frozenset({"cleaner"}))
    hours = rule(OFFICE, (WhomKind.ROLE, "cleaner"), WEEKDAYS, until=NOW + timedelta(hours=1))
    entries = entries_of(cleaner, site(hours), NOW)
    assert set(entries) == {"office", "office-out", "gate-out"}
    later = NOW + timedelta(hours=10)
    assert not entries["office"].holds(later, SHANGHAI)
    assert entries["office-out"].holds(later, SHANGHAI)
    # The rule is over when all is worked out anew, and still nobody is locked in; a day later nobody is inside any more.
    assert ways(cleaner, hours, now=later) == {"office-out", "gate-out"}
    assert ways(cleaner, hours, now=NOW + timedelta(hours=1) + LEAVING) == set()


def test_a_visitor_enters_the_grounds_and_the_building_of_who_invited_while_the_pass_is_good() -> None:
    until = NOW + timedelta(hours=2)
    visitor = Subject(OTHER, is_pass=True, homes={HOUSEHOLD: BUILDING_1}, times=Times((), NOW, until), entries_max=1)
    entries = entries_of(visitor, site(rule(GYM, (WhomKind.RESIDENTS, None))), NOW)
    assert set(entries) == {"gate-in", "gate-out", "house-1", "office-out"}
    assert entries["gate-in"].entries_max == 1
    assert entries["gate-out"].entries_max == 0
    assert [entries["house-1"].holds(NOW + timedelta(hours=hours), SHANGHAI) for hours in (-1, 0, 1, 2)] == [False, True, True, False]


def test_a_contractor_enters_the_zones_that_are_named_and_no_others() -> None:
    contractor = Subject(OTHER, is_pass=True, zone_ids=frozenset({GYM}), times=Times((), NOW, NOW + timedelta(hours=2)))
    assert ways(contractor) == {"gym", "gate-out", "office-out"}


def test_a_door_out_of_use_lets_nobody_in_and_everybody_out() -> None:
    places = (terminal("a-in", GROUNDS, in_use=False), terminal("a-out", GROUNDS, Direction.OUT, in_use=False))
    assert set(entries_of(RESIDENT, site(terminals=places), NOW)) == {"a-out"}


# Face is never the only way in.


@pytest.mark.parametrize("door_kind", DoorKind)
@pytest.mark.parametrize("direction", Direction)
def test_without_a_face_every_door_opens_to_each_other_kind_that_it_takes(door_kind: DoorKind, direction: Direction) -> None:
    """Personal Information Protection Law art. 29. A terminal that is offline decides so, by what it knows."""
    zone_id = {DoorKind.BUILDING_ENTRANCE: HOUSE_1, DoorKind.AMENITY: GYM, DoorKind.STAFF: OFFICE}.get(door_kind, GROUNDS)
    without_face = Subject(
        ACCOUNT,
        is_pass=False,
        cards=frozenset({b"card"}),
        pins=frozenset({b"pin"}),
        homes={HOUSEHOLD: BUILDING_1},
        roles=frozenset({"cleaner"}),
    )
    rules = (rule(GYM, (WhomKind.RESIDENTS, None)), rule(OFFICE, (WhomKind.ROLE, "cleaner")))
    for other in EVERY_KIND - {CredentialKind.FACE}:
        kinds = frozenset({CredentialKind.FACE, other})
        entry = entries_of(without_face, site(*rules, terminals=[terminal("door", zone_id, direction, kinds)]), NOW)["door"]
        place = Place(COMMUNITY, DOOR, direction, kinds, AntiPassback.REFUSE, SHANGHAI)
        assert decide(place, entry, shown(other), NOW, Before()) is Reason.NONE
        assert decide(place, entry, shown(CredentialKind.FACE), NOW, Before()) is Reason.UNKNOWN


def shown(kind: CredentialKind) -> Presented:
    """What the resident shows."""
    if kind is CredentialKind.CODE:
        return Presented(kind, code=Code(COMMUNITY, ACCOUNT, DOOR, bytes(12), NOW))
    return Presented(kind, digest={CredentialKind.CARD: b"card", CredentialKind.PIN: b"pin"}.get(kind, b""))


@given(st.frozensets(st.sampled_from(CredentialKind), min_size=1))
def test_a_door_that_is_allowed_never_needs_a_face_even_while_the_network_is_gone(kinds: frozenset[CredentialKind]) -> None:
    offline_without_face = kinds - {CredentialKind.FACE, CredentialKind.PHONE}
    assert needs_a_face(kinds) == (CredentialKind.FACE in kinds and not offline_without_face)


def test_a_terminal_knows_of_a_face_and_of_cards_only_what_its_door_takes() -> None:
    subject = Subject(
        ACCOUNT, is_pass=False, cards=frozenset({b"card"}), face=True, template_id=OTHER, homes={HOUSEHOLD: BUILDING_1}, codes=True
    )
    for kinds, face, cards in (
        ({CredentialKind.FACE, CredentialKind.CODE}, True, frozenset()),
        ({CredentialKind.CARD}, False, frozenset({b"card"})),
    ):
        places = [terminal("door", GROUNDS, kinds=frozenset(kinds))]
        entry = entries_of(subject, site(terminals=places), NOW)["door"]
        assert (entry.face, entry.template_id, entry.cards) == (face, OTHER if face else None, cards)


def test_who_has_nothing_that_a_door_takes_is_not_known_to_its_terminal() -> None:
    places = [terminal("door", GROUNDS, kinds=frozenset({CredentialKind.CARD}))]
    assert entries_of(RESIDENT, site(terminals=places), NOW) == {}


# Arrears never block a door.


def test_nothing_that_somebody_owes_is_ever_heard_of_so_that_it_cannot_block_a_door() -> None:
    heard = {consumption.event.name for consumption in SERVICE.consumes}
    assert heard
    assert not any(name.startswith("linli.billing.") for name in heard)
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(services.access.__file__).parent.glob("*.py"))
    assert not re.search(r"from linli\.billing|BillingService|charge_id", sources)


# Times of the week.


@pytest.mark.parametrize(
    ("window", "local", "holds"),
    [
        (WEEKDAYS, "2026-03-02T08:59", False),
        (WEEKDAYS, "2026-03-02T09:00", True),
        (WEEKDAYS, "2026-03-02T16:59", True),
        (WEEKDAYS, "2026-03-02T17:00", False),
        (WEEKDAYS, "2026-03-07T12:00", False),
        # Past midnight: Saturday's night goes on until Sunday, 6:00, and Thursday's does not begin.
        (NIGHTS, "2026-03-05T23:00", False),
        (NIGHTS, "2026-03-06T22:00", True),
        (NIGHTS, "2026-03-07T05:59", True),
        (NIGHTS, "2026-03-08T05:59", True),
        (NIGHTS, "2026-03-08T06:00", False),
        (NIGHTS, "2026-03-09T03:00", False),
        # A whole day, and one that ends when it begins: until the next day.
        (Window(frozenset({7}), 0, 1440), "2026-03-08T23:59", True),
        (Window(frozenset({7}), 480, 480), "2026-03-09T07:59", True),
        (Window(frozenset({7}), 480, 480), "2026-03-09T08:00", False),
    ],
)
def test_a_window_is_open_by_the_clock_on_the_wall(window: Window, local: str, holds: bool) -> None:
    at = datetime.fromisoformat(local).replace(tzinfo=SHANGHAI)
    assert is_open([window], at.astimezone(UTC), SHANGHAI) == holds


def test_the_hours_that_clocks_skip_and_repeat_are_read_on_the_wall() -> None:
    early = Window(frozenset({7}), 2 * 60, 3 * 60)
    # On 25 October the hour from 2 to 3 comes twice, on 29 March never.
    autumn = [datetime(2026, 10, 24, 23, 30, tzinfo=UTC) + timedelta(hours=hours) for hours in range(4)]
    assert [is_open([early], at, BERLIN) for at in autumn] == [False, True, True, False]
    spring = [datetime(2026, 3, 29, 0, 30, tzinfo=UTC) + timedelta(minutes=minutes) for minutes in range(0, 120, 10)]
    assert not any(is_open([early], at, BERLIN) for at in spring)


WINDOWS = st.builds(Window, st.frozensets(st.integers(1, 7), min_size=1), st.integers(0, 1439), st.integers(1, 1440))


@given(st.lists(WINDOWS, max_size=14))
def test_windows_are_the_same_after_they_were_stored(windows: list[Window]) -> None:
    assert unpacked(packed(windows)) == tuple(windows)


@given(WINDOWS, st.integers(0, 7 * 1440 - 1))
def test_a_window_is_as_long_as_it_says_on_each_of_its_days(window: Window, minute: int) -> None:
    length = (window.until_minute - window.from_minute) % 1440 or 1440
    began = {(day - 1) * 1440 + window.from_minute for day in window.weekdays}
    inside = any((minute - start) % (7 * 1440) < length for start in began)
    assert window.holds(minute // 1440 + 1, minute % 1440) == inside


SUBJECTS = st.builds(
    Subject,
    subject_id=st.just(ACCOUNT),
    is_pass=st.just(False),
    cards=st.frozensets(st.binary(min_size=1, max_size=2), max_size=2),
    pins=st.frozensets(st.binary(min_size=1, max_size=2), max_size=1),
    face=st.booleans(),
    codes=st.booleans(),
    homes=st.dictionaries(st.sampled_from([HOUSEHOLD, OTHER]), st.sampled_from([BUILDING_1, BUILDING_2])),
    roles=st.frozensets(st.sampled_from(["cleaner", "technician"])),
)
RULES = st.builds(
    rule,
    st.sampled_from([GROUNDS, HOUSE_2, GYM, OFFICE]),
    st.sampled_from([(WhomKind.RESIDENTS, None), (WhomKind.ROLE, "cleaner"), (WhomKind.BUILDING, BUILDING_2), (WhomKind.ACCOUNT, ACCOUNT)]),
    WINDOWS,
    until=st.sampled_from([None, NOW - timedelta(hours=30), NOW - timedelta(hours=1), NOW + timedelta(hours=1)]),
)


@given(SUBJECTS, st.lists(RULES, max_size=5))
def test_who_may_come_in_anywhere_may_always_go_out_everywhere(subject: Subject, rules: list[Rule]) -> None:
    places = [*TERMINALS, terminal("gym-out", GYM, Direction.OUT)]
    entries = entries_of(subject, site(*rules, terminals=places), NOW)
    entering = {place.device_id for place in places if place.direction is Direction.IN} & entries.keys()
    leaving = {place.device_id for place in places if place.direction is Direction.OUT}
    assert not entering or leaving <= entries.keys()
    assert all(entries[device_id].holds(NOW, SHANGHAI) for device_id in leaving & entries.keys())


@given(SUBJECTS, st.lists(RULES, max_size=5), RULES)
def test_another_rule_never_takes_a_way_from_anybody(subject: Subject, rules: list[Rule], another: Rule) -> None:
    before = entries_of(subject, site(*rules), NOW)
    after = entries_of(subject, site(*rules, another), NOW)
    assert before.keys() <= after.keys()
    for device_id, entry in before.items():
        for hours in range(0, 48, 5):
            at = NOW + timedelta(hours=hours)
            assert not entry.holds(at, SHANGHAI) or after[device_id].holds(at, SHANGHAI)
