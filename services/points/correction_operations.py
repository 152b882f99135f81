"""Correcting what was earned: it is taken back, and the same version of the rule applied to the measure that is right."""

from dataclasses import dataclass, replace
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict, Denied, FieldViolation, Invalid, NotFound
from servicekit.identifiers import derived_id
from services.points import earning_operations, holders, store
from services.points.earning import Case
from services.points.rulebook import GRANTED, MEASURES_MAX, Rule, Source
from services.points.store import Earning


@dataclass(frozen=True, slots=True)
class Correction:
    """What was taken back, and what the rule gives for the right measure; None when that is 0."""

    reversal_id: UUID
    taken_back: int
    owed: int
    earning: Earning | None


async def correct_earning(tx: Transaction, transfer_id: UUID, reason: str, measure: int) -> Correction:
    """Corrects an earning or a grant to a measure in the rule's own unit.

    The limits of the day on which it was earned hold again, without what is taken back. Raises NotFound, Denied for one's own or that of
    somebody one lives with, Conflict when it was taken back before, and Invalid for a measure that it cannot have had.
    """
    turn = await holders.take_turn(tx, [tx.community_id])
    wrong = await store.find_earning(tx, transfer_id)
    if wrong is None or not wrong.points:
        raise NotFound("points.earning_not_found", "没有找到该积分记录", "Nothing was earned by this transfer")
    if wrong.claim.account_id in (await store.find_housemates(tx, [tx.caller.account_id]))[tx.caller.account_id]:
        zh, en = "不能更正自己或同住家人的积分", "Nobody corrects what they or those they live with have earned"
        raise Denied("points.own_earning", zh, en)
    if wrong.is_taken_back:
        raise Conflict("points.taken_back_already", "该积分已撤回", "It was taken back before")
    # More than was granted is another grant, which above the limit of the rules a second person approves.
    measure_max = wrong.points if wrong.claim.source is Source.GRANT else MEASURES_MAX[wrong.claim.source]
    if measure > measure_max:
        violation = FieldViolation("measure", "points.measure", f"must be at most {measure_max}")
        raise Invalid("points.measure", f"数量最多为 {measure_max}", f"The measure is at most {measure_max}", fields=[violation])
    texts = f"更正：{reason}", f"Correction: {reason}"
    (reversal,) = await earning_operations.take_back(tx, turn, [wrong], lambda _earning: texts)
    right = None
    if measure:
        case = Case(
            claim=replace(wrong.claim, measure=measure),
            transfer_id=derived_id("points.correction", str(transfer_id)),
            rule=await _rule_of(tx, wrong),
            rules_version=wrong.rules_version,
            earner_id=wrong.earner_id,
            holder_id=wrong.holder_id,
            day=wrong.day,
        )
        (right,) = await earning_operations.book(tx, turn, [case])
    return Correction(reversal.reversal_id, wrong.points, reversal.owed, right)


async def _rule_of(tx: Transaction, earning: Earning) -> Rule:
    """The rule that made an earning, as it was then."""
    if earning.claim.source is Source.GRANT:
        return GRANTED
    book = await store.find_book(tx, earning.rules_version)
    assert book is not None
    return next(rule for rule in book.rules if rule.rule_id == earning.rule_id)
