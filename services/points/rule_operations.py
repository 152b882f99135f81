"""Publishing the rules of points, and finding the version that is in force."""

from datetime import timedelta
from typing import Final

from servicekit.database import Transaction
from servicekit.errors import Conflict, FieldViolation, Invalid, NotFound
from services.points import store
from services.points.rulebook import RuleBook, find_faults

# Between pressing the button and our clock.
_LENIENCY: Final = timedelta(minutes=1)
# A slip of the pen in the year must not keep every later version out of force.
_AHEAD_MAX: Final = timedelta(days=366)


async def publish_rules(tx: Transaction, draft: RuleBook) -> RuleBook:
    """Publishes a version of the rules; its number, time and author are set here.

    Raises Invalid for rules that contradict themselves, or begin in the past or more than a year ahead, and Conflict when they begin
    before a version that is there.
    """
    faults = find_faults(draft.rules)
    if faults:
        fields = [FieldViolation(fault.field, fault.code, fault.text) for fault in faults]
        raise Invalid("points.rules_invalid", "积分规则有误", "The rules contradict themselves", fields=fields)
    if draft.effective_from < tx.now - _LENIENCY:
        field = FieldViolation("effective_from", "points.rules_in_the_past", "must not be in the past")
        raise Invalid("points.rules_in_the_past", "生效时间不能早于当前", "Rules cannot be in force in the past", fields=[field])
    if draft.effective_from > tx.now + _AHEAD_MAX:
        field = FieldViolation("effective_from", "points.rules_too_far", f"must be within {_AHEAD_MAX.days} days")
        raise Invalid("points.rules_too_far", "生效时间最晚为一年之内", "Rules are in force within a year", fields=[field])
    latest = await store.list_books(tx, None, 1)
    if latest and draft.effective_from <= latest[0].effective_from:
        zh, en = "生效时间须晚于此前所有版本", "The rules must be in force after every version before"
        raise Conflict("points.rules_order", zh, en, details={"version": str(latest[0].version)})
    book = RuleBook(
        version=latest[0].version + 1 if latest else 1,
        effective_from=draft.effective_from,
        rules=draft.rules,
        terms=draft.terms,
        changes_zh=draft.changes_zh,
        changes_en=draft.changes_en,
        published_at=tx.now,
        published_by=tx.caller.account_id,
    )
    if not await store.insert_book(tx, book):
        raise Conflict("points.rules_order", "刚刚有新版本公布，请查看后重试", "A version was published just now; look at it first")
    return book


async def get_rules(tx: Transaction, version: int) -> RuleBook:
    """A version of the rules, or with 0 the one in force. Raises NotFound."""
    found = await (store.find_book(tx, version) if version else store.book_at(tx, tx.now))
    if found is None:
        raise NotFound("points.no_rules", "没有找到积分规则", "There are no such rules")
    return found


def no_rules() -> Conflict:
    """Nothing is given before there are rules."""
    return Conflict("points.no_rules", "尚未公布积分规则", "No rules are in force yet")


def not_a_resident() -> Conflict:
    """Who lives nowhere here has no points."""
    return Conflict("points.not_a_resident", "不是本小区居民", "Only residents have points")


def resident_not_found() -> NotFound:
    """Points are given to residents alone, and shown of nobody else."""
    return NotFound("points.resident_not_found", "没有找到该居民", "There is no such resident")
