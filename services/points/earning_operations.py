"""Earning: claims from every source are judged, booked on the ledger and told, many at a time. Taking back what was earned is here too."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from ledger import Balance, Posting, Receipt, Transfer, Turn
from servicekit import telemetry
from servicekit.communities import DEFAULT_ZONE, list_communities
from servicekit.database import Transaction
from servicekit.errors import ServiceError
from servicekit.households import find_residents
from servicekit.identifiers import derived_id
from services.points import holders, notices, pool_store, store
from services.points.earning import NOBODY, Award, Case, Claim, Reason, Used, award
from services.points.holders import NOTHING, Holder
from services.points.notices import Notice
from services.points.rulebook import Beneficiary, RuleBook, Source, in_force
from services.points.store import DailyEarning, Earning

# How long a claim of somebody who is no resident waits for the news that they are, and how many are judged again at once.
_LATE = timedelta(days=1)
_LATE_AT_ONCE = 500


async def earn(tx: Transaction, turn: Turn, claims: Sequence[Claim]) -> list[Earning]:
    """What each claim earns. A claim that was told before keeps its first answer, whatever it says now.

    `turn` is of the claims' communities. Nothing that one claim is keeps another from earning.
    """
    known = await store.find_claims(tx, {claim.claim_id for claim in claims})
    # In the order in which they were told, which decides who gets the last points of a limit.
    fresh: dict[UUID, Claim] = {}
    for claim in claims:
        if claim.claim_id not in known:
            fresh.setdefault(claim.claim_id, claim)
    ground = await _survey(tx, list(fresh.values()))
    judged = [_case(claim, ground) for claim in fresh.values()]
    cases = [found for found in judged if isinstance(found, Case)]
    refused = [found for found in judged if isinstance(found, Earning)]
    await store.insert_earnings(tx, refused)
    booked = await book(tx, turn, cases)
    known |= {earning.claim.claim_id: earning for earning in (*refused, *booked)}
    return [known[claim.claim_id] for claim in claims]


async def earn_sound(tx: Transaction, turn: Turn, claims: Sequence[Claim], reasons: Sequence[Reason]) -> list[Earning]:
    """What each claim earns against which there is no reason; the others earn nothing, for theirs. Answers in order."""
    sound = [claim for claim, reason in zip(claims, reasons, strict=True) if reason is Reason.NONE]
    earned = iter(await earn(tx, turn, sound))
    return [next(earned) if reason is Reason.NONE else refuse(claim, reason) for claim, reason in zip(claims, reasons, strict=True)]


@dataclass(frozen=True, slots=True)
class _Ground:
    """What claims are judged on."""

    books: Mapping[UUID, Sequence[RuleBook]]
    zones: Mapping[UUID, ZoneInfo]
    homes: Mapping[tuple[UUID, UUID], UUID]
    pools: Mapping[UUID, UUID]


async def _survey(tx: Transaction, claims: Sequence[Claim]) -> _Ground:
    if not claims:
        return _Ground({}, {}, {}, {})
    accounts = {claim.account_id for claim in claims}
    return _Ground(
        await store.books(tx, {claim.community_id for claim in claims}, min(claim.occurred_at for claim in claims)),
        await find_zones(tx),
        await find_residents(tx, accounts),
        await pool_store.find_pools(tx, accounts),
    )


async def find_zones(tx: Transaction) -> Mapping[UUID, ZoneInfo]:
    """The time zone of each community in the transaction's scope, the default for those that nobody has told of yet."""
    zones = {community.community_id: community.time_zone for community in await list_communities(tx)}
    return defaultdict(lambda: DEFAULT_ZONE, zones)


def _case(claim: Claim, ground: _Ground) -> Case | Earning:
    """Under which rule a claim earns, for whom; or why it earns nothing."""
    day = claim.occurred_at.astimezone(ground.zones[claim.community_id]).date()
    rule_book = in_force(ground.books[claim.community_id], claim.occurred_at)
    rule = None if rule_book is None else rule_book.find_rule(claim.source, claim.category)
    home_id = ground.homes.get((claim.community_id, claim.account_id))
    if home_id is None:
        reason = Reason.NOT_A_RESIDENT
    elif rule_book is None:
        reason = Reason.NO_RULES
    elif rule is None:
        reason = Reason.NO_RULE
    else:
        is_household = rule.beneficiary is Beneficiary.HOUSEHOLD
        pool_id = ground.pools.get(claim.account_id)
        return Case(
            claim=claim,
            transfer_id=claim.claim_id,
            rule=rule,
            rules_version=rule_book.version,
            earner_id=home_id if is_household else claim.account_id,
            holder_id=home_id if is_household else pool_id or claim.account_id,
            day=day,
        )
    return refuse(claim, reason, day)


def refuse(claim: Claim, reason: Reason, day: date | None = None) -> Earning:
    """A claim that earns nothing."""
    return Earning(claim.claim_id, claim, NOBODY, NOBODY, "", 0, day or claim.occurred_at.date(), 0, reason, *reason.texts)


async def book(tx: Transaction, turn: Turn, cases: Sequence[Case]) -> list[Earning]:
    """Books what each case earns within the limits, settles with it what is owed, and tells who earned. Answers in order."""
    if not cases:
        return []
    awards = award(cases, await _used(tx, cases))
    balances = await holders.open_holders(turn, [_holder(each) for each in awards if each.points])
    owed = {account_id: balance.balance for account_id, balance in balances.items()}
    transfers = []
    for each in awards:
        if each.points:
            holder = _holder(each)
            postings = holders.credit(holder, each.points, owed.get(holder.owed_id, 0))
            owed[holder.owed_id] = max(0, owed.get(holder.owed_id, 0) - each.points)
            transfers.append(_transfer(each, postings))
    results = dict(zip((transfer.transfer_id for transfer in transfers), await turn.apply(transfers), strict=True))
    earnings = [_earning(each, results.get(each.case.transfer_id)) for each in awards]
    await store.insert_earnings(tx, earnings)
    await store.add_daily_earnings(tx, [_daily(earning, earning.points) for earning in earnings])
    for earning in earnings:
        if earning.points:
            notices.tell(tx, _earned(earning))
    return earnings


async def _used(tx: Transaction, cases: Iterable[Case]) -> Used:
    """What counts against the limits of these cases."""
    limited = [case for case in cases if case.rule.daily_points_max or case.rule.monthly_points_max]
    asked = [(case.claim.community_id, case.earner_id, case.rule.rule_id, case.day) for case in limited]
    return await store.find_used(tx, asked)


def _holder(each: Award) -> Holder:
    return Holder(each.case.claim.community_id, each.case.holder_id)


def _texts(case: Case) -> tuple[str, str]:
    """What the entry says: the rule's text, and which of its kind it was."""
    title = case.claim.title
    return (f"{case.rule.text_zh}：{title}", f"{case.rule.text_en}: {title}") if title else (case.rule.text_zh, case.rule.text_en)


def _transfer(each: Award, postings: Sequence[Posting]) -> Transfer:
    case = each.case
    text_zh, text_en = _texts(case)
    return Transfer(
        transfer_id=case.transfer_id,
        community_id=case.claim.community_id,
        kind="grant" if case.claim.source is Source.GRANT else "earning",
        postings=(Posting(holders.issued_id(case.claim.community_id), each.points), *postings),
        details={
            "rule_id": case.rule.rule_id,
            "rules_version": case.rules_version,
            "source_id": case.claim.source_id,
            "text_zh": text_zh,
            "text_en": text_en,
            "day": case.day.isoformat(),
        },
        occurred_at=case.claim.occurred_at,
    )


def _earning(each: Award, result: Receipt | ServiceError | None) -> Earning:
    points, reason = each.points, each.reason
    if isinstance(result, ServiceError):
        # An account that is full or closed. Others' points must not wait for somebody to look into it.
        telemetry.log.error("earning_not_booked", transfer=str(each.case.transfer_id), error=result.code)
        points, reason = 0, Reason.NOT_BOOKED
    case = each.case
    return Earning(
        transfer_id=case.transfer_id,
        claim=case.claim,
        earner_id=case.earner_id,
        holder_id=case.holder_id,
        rule_id=case.rule.rule_id,
        rules_version=case.rules_version,
        day=case.day,
        points=points,
        reason=reason,
        text_zh=_texts(case)[0],
        text_en=_texts(case)[1],
    )


def _daily(earning: Earning, points: int) -> DailyEarning:
    return DailyEarning(earning.claim.community_id, earning.earner_id, earning.holder_id, earning.rule_id, earning.day, points)


def _earned(earning: Earning) -> Notice:
    return Notice(
        earning.claim.community_id,
        earning.claim.account_id,
        "points.granted" if earning.claim.source is Source.GRANT else "points.earned",
        f"获得 {earning.points} 积分：{earning.text_zh}",
        f"You earned {earning.points} points: {earning.text_en}",
    )


# Taking back.


@dataclass(frozen=True, slots=True)
class Reversal:
    """What was taken back of an earning: all of it; what was spent already is owed."""

    earning: Earning
    reversal_id: UUID
    owed: int


async def take_back(tx: Transaction, turn: Turn, earnings: Sequence[Earning], text: Callable[[Earning], tuple[str, str]]) -> list[Reversal]:
    """Takes earnings back that stand, each of some points; tells who had them. `text` is what their entries say, in Chinese and English.

    Raises what the ledger refuses, such as Conflict when one was taken back before.
    """
    if not earnings:
        return []
    balances = await holders.open_holders(turn, [_holder_of(earning) for earning in earnings])
    reversals, transfers = [], []
    for earning in earnings:
        holder = _holder_of(earning)
        postings = holders.take(holder, earning.points, balances)
        owed = sum(posting.amount for posting in postings if posting.account_id == holder.owed_id)
        balances[holder.points_id] = _less(balances.get(holder.points_id, NOTHING), earning.points - owed)
        reversal = Reversal(earning, derived_id("points.reversal", str(earning.transfer_id)), owed)
        reversals.append(reversal)
        transfers.append(_reversing(reversal, postings, text(earning), tx))
    await holders.open_owed(turn, [_holder_of(reversal.earning) for reversal in reversals if reversal.owed])
    for result in await turn.apply(transfers):
        if isinstance(result, ServiceError):
            raise result
    await store.mark_taken_back(tx, [earning.transfer_id for earning in earnings])
    await store.add_daily_earnings(tx, [_daily(earning, -earning.points) for earning in earnings])
    for reversal in reversals:
        notices.tell(tx, _taken_back(reversal, *text(reversal.earning)))
    return reversals


def _holder_of(earning: Earning) -> Holder:
    return Holder(earning.claim.community_id, earning.holder_id)


def _less(balance: Balance, points: int) -> Balance:
    return replace(balance, balance=balance.balance - points)


def _reversing(reversal: Reversal, postings: Sequence[Posting], texts: tuple[str, str], tx: Transaction) -> Transfer:
    earning = reversal.earning
    return Transfer(
        transfer_id=reversal.reversal_id,
        community_id=earning.claim.community_id,
        kind="reversal",
        postings=(*postings, Posting(holders.issued_id(earning.claim.community_id), -earning.points)),
        details={
            "rule_id": earning.rule_id,
            "rules_version": earning.rules_version,
            "source_id": earning.claim.source_id,
            "text_zh": texts[0],
            "text_en": texts[1],
            "day": earning.day.isoformat(),
        },
        occurred_at=tx.now,
        reverses_id=earning.transfer_id,
    )


def _taken_back(reversal: Reversal, text_zh: str, text_en: str) -> Notice:
    earning = reversal.earning
    owed_zh = f"，其中 {reversal.owed} 分已使用，将从以后的积分中扣除" if reversal.owed else ""
    owed_en = f"; {reversal.owed} of them were spent and will be settled from what you earn next" if reversal.owed else ""
    return Notice(
        earning.claim.community_id,
        earning.claim.account_id,
        "points.taken_back",
        f"撤回 {earning.points} 积分：{text_zh}{owed_zh}",
        f"{earning.points} points were taken back: {text_en}{owed_en}",
    )


# Deposits.


def deposit_claim_id(deposit_id: UUID, revision: int) -> UUID:
    """The claim of a deposit that counts for the `revision`th time."""
    return derived_id("points.deposit", str(deposit_id), str(revision))


async def withdraw(tx: Transaction, turn: Turn, withdrawn: Sequence[Claim]) -> None:
    """Takes back what claims have earned that do not count any more; one that is yet to be told will earn nothing. Done twice, done once.

    Their measure is not looked at.
    """
    claims = {claim.claim_id: claim for claim in withdrawn}
    known = await store.find_claims(tx, claims)
    unheard = [refuse(claim, Reason.WITHDRAWN) for claim_id, claim in claims.items() if claim_id not in known]
    await store.insert_earnings(tx, unheard)
    standing = [earning for earning in known.values() if earning.points and not earning.is_taken_back]
    await take_back(tx, turn, standing, lambda earning: (f"投放不合格，{earning.text_zh}", f"{earning.text_en}, found contaminated"))
    await _withdraw_late(tx, [earning for earning in known.values() if earning.reason is Reason.NOT_A_RESIDENT])


async def _withdraw_late(tx: Transaction, earnings: Sequence[Earning]) -> None:
    """Keeps what earned nothing yet from ever earning: `judge_late` would find it."""
    if earnings:
        claims = await store.delete_late(tx, [earning.transfer_id for earning in earnings])
        await store.insert_earnings(tx, [refuse(claim, Reason.WITHDRAWN) for claim in claims])


async def judge_late(tx: Transaction) -> None:
    """Judges claims again of people whose household became known after them: news of both come on ways of their own."""
    late = await store.list_late(tx, tx.now - _LATE, _LATE_AT_ONCE)
    if not late:
        return
    turn = await holders.take_turn(tx, {community_id for community_id, _ in late})
    await earn(tx, turn, await store.delete_late(tx, [transfer_id for _, transfer_id in late]))
