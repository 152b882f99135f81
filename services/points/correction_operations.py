"""Correcting what was earned: it is taken back, and the same version of the rule applied to the measure that is right."""

from dataclasses import dataclass, replace
from uuid import UUID

from servicekit.database import Transaction
from servicekit.errors import Conflict, Denied, NotFound
from servicekit.identifiers import derived_id
from services.points import earning_operations, holders, store
from services.points.earning import Case
from services.points.rulebook import GRANT, GRANTED, Rule
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

    The limits of the day on which it was earned hold again, without what is taken back. Raises NotFound, Denied for one's own, and Conflict
    when it was taken back before.
    """
    turn = await holders.take_turn(tx, [tx.community_id])
    wrong = await store.find_earning(tx, transfer_id)
    if wrong is None or not wrong.points:
        raise NotFound("points.earning_not_found", "没有找到该积分记录", "Nothing was earned by this transfer")
    if wrong.claim.account_id == tx.caller.account_id:
        raise Denied("points.own_earning", "不能更正自己的积分", "Nobody corrects what they earned themselves")
    if wrong.is_taken_back:
        raise Conflict("points.taken_back_already", "该积分已撤回", "It was taken back before")
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
    if earning.rule_id == GRANT:
        return GRANTED
    books = (await store.books(tx, [tx.community_id]))[tx.community_id]
    rule = next(book for book in books if book.version == earning.rules_version).rule(earning.rule_id)
    assert rule is not None
    return rule
