"""Rules as such: which one is found, what it gives, what its limits leave. No database."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.points.earning import Case, Claim, Reason, Used, award
from services.points.rulebook import Beneficiary, Rule, RuleBook, Source, Terms, find_faults, in_force

NOON = datetime(2026, 3, 2, 4, tzinfo=UTC)
TERMS = Terms(years_kept=1, grant_points_max=100, gift_daily_points_max=0, gift_monthly_points_max=0, hold_hours=48)
ANNA = UUID(int=1)


def rule(rule_id: str = "waste", source: Source = Source.WASTE_DEPOSIT, category: str = "", **more: int) -> Rule:
    """A point for every 100 of the measure, without limits unless `more` says so."""
    numbers = {"points": 1, "per": 100, "measure_min": 0, "daily_points_max": 0, "monthly_points_max": 0, **more}
    return Rule(rule_id, source, category, Beneficiary.RESIDENT, text_zh="规则", text_en="Rule", **numbers)


def book(version: int, effective_from: datetime, *rules: Rule) -> RuleBook:
    return RuleBook(version, effective_from, rules, TERMS, "", "", effective_from, ANNA)


def test_every_whole_unit_of_the_measure_counts_and_what_is_below_the_least_does_not() -> None:
    counted = rule(points=3, per=100, measure_min=250)
    assert [counted.points_for(measure) for measure in (99, 249, 250, 299, 300)] == [0, 0, 6, 6, 9]


def test_the_rule_for_a_category_goes_before_the_one_for_every_category() -> None:
    rules = book(1, NOON, rule("any"), rule("kitchen", category="kitchen"), rule("help", Source.VOLUNTEERING))
    found = [rules.find_rule(source, category) for source, category in DEMANDS]
    assert [each and each.rule_id for each in found] == ["kitchen", "any", "help", None]


DEMANDS = [(Source.WASTE_DEPOSIT, "kitchen"), (Source.WASTE_DEPOSIT, "other"), (Source.VOLUNTEERING, ""), (Source.WALKING, "")]


def test_a_version_is_in_force_from_its_instant_until_the_next_ones() -> None:
    books = [book(2, NOON + timedelta(hours=1)), book(1, NOON)]
    instants = [NOON + timedelta(minutes=minutes) for minutes in (-1, 0, 59, 60, 600)]
    assert [found and found.version for found in (in_force(books, at) for at in instants)] == [None, 1, 1, 2, 2]


def test_rules_that_contradict_themselves_are_faults_with_their_fields() -> None:
    rules = [
        rule("waste"),
        rule("waste", category="other"),
        rule("again"),
        rule("gift", Source.SURVEY, per=1),
        rule("help", Source.VOLUNTEERING, "kitchen"),
        rule("activity", Source.ACTIVITY),
    ]
    found = {(fault.field, fault.code) for fault in find_faults(rules)}
    assert found == {
        ("rules[1].rule_id", "points.rule_id_taken"),
        ("rules[2].source", "points.rule_repeated"),
        ("rules[3].rule_id", "points.rule_id_taken"),
        ("rules[4].category", "points.rule_category"),
        ("rules[5].per", "points.rule_never_earns"),
    }
    assert find_faults([rule("any"), rule("kitchen", category="kitchen"), rule("activity", Source.ACTIVITY, per=1)]) == []


def case(limited: Rule, measure: int, day: date) -> Case:
    claim = Claim(UUID(int=9), UUID(int=8), limited.source, "", ANNA, measure, NOON)
    return Case(claim, claim.claim_id, limited, 1, ANNA, ANNA, day)


@given(
    daily=st.integers(0, 50),
    monthly=st.integers(0, 200),
    told=st.lists(st.tuples(st.integers(0, 9_000), st.dates(date(2026, 1, 25), date(2026, 2, 5))), max_size=30),
    first=st.integers(0, 30),
)
def test_limits_hold_on_every_day_and_in_every_month_and_give_all_that_they_leave(
    daily: int, monthly: int, told: list[tuple[int, date]], first: int
) -> None:
    limited = rule(daily_points_max=daily, monthly_points_max=monthly)
    cases = [case(limited, measure, day) for measure, day in told]
    used = Used()
    # In two batches, as told by two events: what the first used, the second finds used.
    awards = award(cases[:first], used) + award(cases[first:], used)
    days: Counter[date] = Counter()
    months: Counter[int] = Counter()
    for each in awards:
        day, full = each.case.day, limited.points_for(each.case.claim.measure)
        room = min(daily - days[day] if daily else full, monthly - months[day.month] if monthly else full)
        assert each.points == min(full, room)
        assert (each.reason is Reason.NONE) == (each.points == full > 0)
        days[day] += each.points
        months[day.month] += each.points
