"""Granting points by hand: many at a time, and above the limit of the rules with a second person."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from uuid import UUID

import ledger
from ledger import Turn
from servicekit import households
from servicekit.database import Database, Transaction
from servicekit.errors import Conflict, Denied, NotFound, ServiceError
from servicekit.identifiers import derived_id
from servicekit.states import advance
from services.points import earning_operations, grant_store, holders, pool_store, store
from services.points.earning import Case, Claim
from services.points.grant_store import DECISIONS, Grant, GrantState
from services.points.rule_operations import no_rules, not_a_resident, resident_not_found
from services.points.rulebook import GRANT, GRANTED, RuleBook, Source, in_force


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """Somebody asks to grant points. Whoever asks chooses the id: asked again, it is the same grant."""

    community_id: UUID
    grant_id: UUID
    account_id: UUID
    points: int
    reason: str
    requested_by: UUID

    @property
    def key(self) -> tuple[UUID, UUID]:
        """What names the grant: ids of two communities may be alike."""
        return self.community_id, self.grant_id


@dataclass(frozen=True, slots=True)
class GrantWriter:
    """Decides on the grants of many callers together."""

    writer: "ledger.Writer[GrantRequest, Grant]"

    @classmethod
    def of(cls, database: Database, shards: int) -> "GrantWriter":
        """A writer on the service's database."""
        return cls(ledger.Writer(database, decide_grants, shards=shards))

    async def grant(self, request: GrantRequest) -> Grant:
        """Grants points, or keeps the grant until a second person approves. Raises what `decide_grants` answers."""
        return await self.writer.submit(request.community_id, request)


async def decide_grants(turn: Turn, requests: Sequence[GrantRequest]) -> list[Grant | ServiceError]:
    """The grant, or why there is none, for each request.

    Refusals are Denied for a grant to oneself or somebody one lives with, NotFound for who is no resident, Conflict before there are rules,
    when the id is another grant's, or when the points cannot be booked.
    """
    tx = turn.tx
    known = await grant_store.find_grants(tx, [request.key for request in requests])
    residents = await households.find_residents(tx, {request.account_id for request in requests})
    housemates = await store.find_housemates(tx, {request.requested_by for request in requests})
    ground = await _survey(tx, {request.community_id for request in requests})
    days = ground.days
    used = await store.find_used(tx, [(each.community_id, each.account_id, GRANT, days[each.community_id]) for each in requests])
    answers: list[Grant | ServiceError] = []
    fresh: dict[tuple[UUID, UUID], Grant] = {}
    for request in requests:
        book, day = ground.books.get(request.community_id), days[request.community_id]
        told = known.get(request.key) or fresh.get(request.key)
        if told is not None:
            answers.append(told if _is_same(told, request) else _differs())
        elif request.account_id in housemates[request.requested_by]:
            text = "不能给自己或同住家人发放积分", "Nobody grants points to themselves or to those they live with"
            answers.append(Denied("points.grant_to_oneself", *text))
        elif (request.community_id, request.account_id) not in residents:
            answers.append(resident_not_found())
        elif book is None:
            answers.append(no_rules())
        else:
            sum_today = used.by_day[request.account_id, GRANT, day] + request.points
            is_waiting = sum_today > book.terms.grant_points_max
            if not is_waiting:
                used.add(request.account_id, GRANT, day, request.points)
            fresh[request.key] = _grant(request, tx, is_waiting=is_waiting)
            answers.append(fresh[request.key])
    refused = await _book(turn, [grant for grant in fresh.values() if grant.state is GrantState.GRANTED], ground)
    await grant_store.insert_grants(tx, [grant for key, grant in fresh.items() if key not in refused])
    return [refused.get(answer.key, answer) if isinstance(answer, Grant) else answer for answer in answers]


@dataclass(frozen=True, slots=True)
class _Ground:
    """The rules in force now, and the local day, of each community."""

    books: Mapping[UUID, RuleBook]
    days: Mapping[UUID, date]


async def _survey(tx: Transaction, community_ids: Collection[UUID]) -> _Ground:
    zones = await earning_operations.find_zones(tx)
    books = {community_id: in_force(each, tx.now) for community_id, each in (await store.books(tx, community_ids, tx.now)).items()}
    return _Ground(
        {community_id: book for community_id, book in books.items() if book is not None},
        {community_id: tx.now.astimezone(zones[community_id]).date() for community_id in community_ids},
    )


def _grant(request: GrantRequest, tx: Transaction, *, is_waiting: bool) -> Grant:
    return Grant(
        community_id=request.community_id,
        grant_id=request.grant_id,
        account_id=request.account_id,
        points=request.points,
        reason=request.reason,
        state=GrantState.WAITING if is_waiting else GrantState.GRANTED,
        requested_by=request.requested_by,
        requested_at=tx.now,
        decided_by=None,
        decided_at=None if is_waiting else tx.now,
    )


def _is_same(grant: Grant, request: GrantRequest) -> bool:
    return (grant.account_id, grant.points, grant.reason, grant.requested_by) == (
        request.account_id,
        request.points,
        request.reason,
        request.requested_by,
    )


def _differs() -> Conflict:
    return Conflict("points.grant_differs", "同一编号的发放内容不同", "A grant with this id and other content exists")


async def _book(turn: Turn, grants: Sequence[Grant], ground: _Ground) -> dict[tuple[UUID, UUID], Conflict]:
    """Books grants on the ledger, and answers those that it does not take."""
    pools = await pool_store.find_pools(turn.tx, {grant.account_id for grant in grants})
    cases = []
    for grant in grants:
        transfer_id = derived_id("points.grant", str(grant.community_id), str(grant.grant_id))
        claim = Claim(
            community_id=grant.community_id,
            claim_id=transfer_id,
            source=Source.GRANT,
            source_id=str(grant.grant_id),
            account_id=grant.account_id,
            measure=grant.points,
            occurred_at=turn.tx.now,
            title=grant.reason,
        )
        version = ground.books[grant.community_id].version
        holder_id = pools.get(grant.account_id, grant.account_id)
        cases.append(Case(claim, transfer_id, GRANTED, version, grant.account_id, holder_id, ground.days[grant.community_id]))
    booked = await earning_operations.book(turn.tx, turn, cases)
    text = "积分未能入账", "The points could not be booked"
    return {grant.key: Conflict("points.not_booked", *text) for grant, earning in zip(grants, booked, strict=True) if not earning.points}


async def approve_grant(tx: Transaction, grant_id: UUID) -> Grant:
    """Gives the points of a grant that waits. Raises what `_decide` raises, and Conflict when its resident has moved away."""
    turn = await holders.take_turn(tx, [tx.community_id])
    grant = await _decide(tx, grant_id, GrantState.GRANTED)
    caller_id = tx.caller.account_id
    if caller_id == grant.requested_by or grant.account_id in (await store.find_housemates(tx, [caller_id]))[caller_id]:
        raise Denied("points.own_grant", "须由他人审批", "Somebody else must approve this grant")
    if not await households.is_resident(tx, grant.account_id):
        raise not_a_resident()
    for refusal in (await _book(turn, [grant], await _survey(tx, [tx.community_id]))).values():
        raise refusal
    await grant_store.decide_grant(tx, grant)
    return grant


async def reject_grant(tx: Transaction, grant_id: UUID) -> Grant:
    """Ends a grant that waits; who asked for it may do that too. Raises what `_decide` raises."""
    await holders.take_turn(tx, [tx.community_id])
    grant = await _decide(tx, grant_id, GrantState.REJECTED)
    await grant_store.decide_grant(tx, grant)
    return grant


async def _decide(tx: Transaction, grant_id: UUID, state: GrantState) -> Grant:
    """A waiting grant as the caller decides on it. Raises NotFound, and Conflict when it does not wait."""
    key = tx.community_id, grant_id
    grant = (await grant_store.find_grants(tx, [key])).get(key)
    if grant is None:
        raise NotFound("points.grant_not_found", "没有找到该发放申请", "There is no such grant")
    decided = advance(grant.state, state, DECISIONS, code="points.grant_decided", zh="该发放申请已处理", en="The grant does not wait")
    return replace(grant, state=decided, decided_by=tx.caller.account_id, decided_at=tx.now)
