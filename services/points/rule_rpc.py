"""The methods of linli.points.v1.PointsService about the rules."""

from functools import partial
from typing import Final

from linli.points.v1 import points_pb2 as pb
from linli.waste.v1.events_pb2 import CATEGORY_UNSPECIFIED
from servicekit.database import Transaction
from servicekit.paging import page
from servicekit.texts import text
from servicekit.times import to_datetime, to_timestamp
from services.points import rule_operations, store
from services.points.earning import NOBODY
from services.points.reactions import CATEGORIES
from services.points.rulebook import Beneficiary, Rule, RuleBook, Source, Terms

SOURCES: Final = {
    pb.SOURCE_WASTE_DEPOSIT: Source.WASTE_DEPOSIT,
    pb.SOURCE_VOLUNTEERING: Source.VOLUNTEERING,
    pb.SOURCE_ACTIVITY: Source.ACTIVITY,
    pb.SOURCE_SURVEY: Source.SURVEY,
    pb.SOURCE_WALKING: Source.WALKING,
    pb.SOURCE_CYCLING: Source.CYCLING,
}
_SOURCE_NUMBERS: Final = {source: number for number, source in SOURCES.items()}
_CATEGORY_NUMBERS: Final = {category: number for number, category in CATEGORIES.items()}
_BENEFICIARIES: Final = {pb.BENEFICIARY_RESIDENT: Beneficiary.RESIDENT, pb.BENEFICIARY_HOUSEHOLD: Beneficiary.HOUSEHOLD}
_BENEFICIARY_NUMBERS: Final = {beneficiary: number for number, beneficiary in _BENEFICIARIES.items()}


async def publish_rules(tx: Transaction, request: pb.PublishRulesRequest) -> pb.RuleBook:
    """Publishes a new version of the rules."""
    draft = RuleBook(
        version=0,
        effective_from=to_datetime(request.effective_from, "effective_from"),
        rules=[_rule(rule, f"rules[{index}]") for index, rule in enumerate(request.rules)],
        terms=Terms(
            years_kept=request.terms.years_kept,
            grant_points_max=request.terms.grant_points_max,
            gift_daily_points_max=request.terms.gift_daily_points_max,
            gift_monthly_points_max=request.terms.gift_monthly_points_max,
            hold_hours=request.terms.hold_hours,
        ),
        changes_zh=text(request.changes_zh, "changes_zh", lines=True),
        changes_en=text(request.changes_en, "changes_en", lines=True) if request.changes_en else "",
        published_at=tx.now,
        published_by=NOBODY,
    )
    return _rule_book(await rule_operations.publish_rules(tx, draft))


def _rule(rule: pb.Rule, field: str) -> Rule:
    return Rule(
        rule_id=rule.rule_id,
        source=SOURCES[rule.source],
        category=CATEGORIES.get(rule.category, ""),
        beneficiary=_BENEFICIARIES[rule.beneficiary],
        points=rule.points,
        per=rule.per,
        measure_min=rule.measure_min,
        daily_points_max=rule.daily_points_max,
        monthly_points_max=rule.monthly_points_max,
        text_zh=text(rule.text_zh, f"{field}.text_zh"),
        text_en=text(rule.text_en, f"{field}.text_en"),
    )


async def get_rules(tx: Transaction, request: pb.GetRulesRequest) -> pb.RuleBook:
    """The rules that are in force, or those of one version."""
    return _rule_book(await rule_operations.get_rules(tx, request.version))


async def list_rule_books(tx: Transaction, request: pb.ListRuleBooksRequest) -> pb.ListRuleBooksResponse:
    """Every version of the rules, newest first."""
    books, token = await page(request, int, partial(store.list_books, tx), lambda book: book.version)
    return pb.ListRuleBooksResponse(rule_books=[_rule_book(book) for book in books], next_page_token=token)


def _rule_book(book: RuleBook) -> pb.RuleBook:
    return pb.RuleBook(
        version=book.version,
        effective_from=to_timestamp(book.effective_from),
        rules=[
            pb.Rule(
                rule_id=rule.rule_id,
                source=_SOURCE_NUMBERS[rule.source],
                category=_CATEGORY_NUMBERS.get(rule.category, CATEGORY_UNSPECIFIED),
                beneficiary=_BENEFICIARY_NUMBERS[rule.beneficiary],
                points=rule.points,
                per=rule.per,
                measure_min=rule.measure_min,
                daily_points_max=rule.daily_points_max,
                monthly_points_max=rule.monthly_points_max,
                text_zh=rule.text_zh,
                text_en=rule.text_en,
            )
            for rule in book.rules
        ],
        terms=pb.Terms(
            years_kept=book.terms.years_kept,
            grant_points_max=book.terms.grant_points_max,
            gift_daily_points_max=book.terms.gift_daily_points_max,
            gift_monthly_points_max=book.terms.gift_monthly_points_max,
            hold_hours=book.terms.hold_hours,
        ),
        changes_zh=book.changes_zh,
        changes_en=book.changes_en,
        published_at=to_timestamp(book.published_at),
        published_by=str(book.published_by),
    )
