"""Builders for tests of points: a running service with a clock of the test's own, communities with rules, and residents who earn."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from linli.identity.v1.events_pb2 import CommunityChanged, HouseholdChanged
from linli.notification.v1.events_pb2 import Notified
from linli.points.v1 import points_pb2 as pb
from linli.waste.v1.events_pb2 import CATEGORY_RECYCLABLE, DepositCounted, DepositWithdrawn
from servicekit.communities import list_communities
from servicekit.events import Received
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.points import store
from services.points.earning_operations import deposit_claim_id
from services.points.service import SERVICE
from tests.community import OwnCommunity, Town
from tests.support import Servers, TestClock, eventually, platform, principal

CONTRACT = pb.DESCRIPTOR.services_by_name["PointsService"]
PERMISSIONS = [
    "points.rules.write",
    "points.residents.read",
    "points.contributions.confirm",
    "points.grants.write",
    "points.grants.approve",
    "points.grants.read",
    "points.earnings.correct",
    "points.items.write",
    "points.redemptions.confirm",
    "points.redemptions.read",
]
# Monday, 9:00 in Shanghai.
MONDAY_9 = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)


def rule(rule_id: str, source: pb.Source.ValueType, points: int, per: int, **more: Any) -> pb.Rule:
    """A rule for residents, without limits unless `more` says so."""
    more.setdefault("beneficiary", pb.BENEFICIARY_RESIDENT)
    return pb.Rule(rule_id=rule_id, source=source, points=points, per=per, text_zh=f"规则{rule_id}", text_en=f"Rule {rule_id}", **more)


# A point for every 100 g of what can be recycled, 20 for an hour of help, 5 for an activity, a point for every kilometre.
RULES = (
    rule("waste.recyclable", pb.SOURCE_WASTE_DEPOSIT, 1, 100, category=CATEGORY_RECYCLABLE),
    rule("help", pb.SOURCE_VOLUNTEERING, 20, 60),
    rule("activity", pb.SOURCE_ACTIVITY, 5, 1),
    rule("walk", pb.SOURCE_WALKING, 1, 1000, daily_points_max=10),
    rule("ride", pb.SOURCE_CYCLING, 1, 1000),
)
# Kept to the end of the next year; anything may be granted; ten may be given in a day, fifteen in a month.
TERMS = {
    "years_kept": 1,
    "grant_points_max": 10_000_000,
    "gift_daily_points_max": 10,
    "gift_monthly_points_max": 15,
    "hold_hours": 48,
}


@dataclass(slots=True)
class Community(OwnCommunity):
    """A community, and somebody who may do everything with its points."""

    households: dict[UUID, int] = field(default_factory=dict)

    contract = CONTRACT

    async def call(self, method: str, request: Message, *permissions: str, **who: Any) -> Any:
        """Calls a method as staff; with `permissions` or anything else about the caller, as somebody with only those."""
        granted = permissions if permissions or who else PERMISSIONS
        who.setdefault("account_id", self.account_id)
        return await self.send(principal(*granted, community_id=self.community_id, modules=("points",), **who), method, request)

    async def household(self, *account_ids: UUID, household_id: UUID | None = None, building_id: UUID | None = None) -> UUID:
        """Says who lives in a household, and returns it when that is known."""
        household_id = household_id or new_id()
        version = self.households[household_id] = self.households.get(household_id, 0) + 1
        event = HouseholdChanged(
            household_id=str(household_id), building_id=str(building_id or new_id()), account_ids=[str(each) for each in account_ids]
        )
        await self.publish(event, version=version)

        async def is_known() -> bool:
            async with self.town.running.transaction("points", self.community_id) as tx:
                row = await tx.fetchval("SELECT version FROM known_households WHERE household_id = $1", household_id)
                return bool(row == version)

        await eventually(is_known)
        return household_id

    async def resident(self) -> UUID:
        """Somebody who lives here alone."""
        account_id = new_id()
        await self.household(account_id)
        return account_id

    async def keep_calendar(self, time_zone: str = "Asia/Shanghai") -> None:
        """Lets the service know of the community, and returns when it does."""
        await self.publish(CommunityChanged(community_id=str(self.community_id), time_zone=time_zone))

        async def is_known() -> bool:
            async with self.town.running.transaction("points", self.community_id) as tx:
                return [str(known.time_zone) for known in await list_communities(tx)] == [time_zone]

        await eventually(is_known)

    async def publish_rules(self, rules: Sequence[pb.Rule] = RULES, *, effective_from: datetime | None = None, **terms: int) -> pb.RuleBook:
        """Publishes rules that are in force from now on."""
        request = pb.PublishRulesRequest(
            effective_from=to_timestamp(effective_from or self.town.clock.now),
            rules=rules,
            terms=pb.Terms(**{**TERMS, **terms}),
            changes_zh="新规则",
            changes_en="New rules",
        )
        book: pb.RuleBook = await self.call("PublishRules", request)
        return book

    async def give(self, account_id: UUID, points: int) -> pb.Grant:
        """Grants points."""
        request = pb.GrantPointsRequest(grant_id=str(new_id()), account_id=str(account_id), points=points, reason="慰问")
        grant: pb.Grant = await self.call("GrantPoints", request)
        return grant

    async def points_of(self, account_id: UUID) -> pb.Points:
        """What a resident has."""
        points: pb.Points = await self.call("GetResidentPoints", pb.GetResidentPointsRequest(account_id=str(account_id)))
        return points

    async def entries(self, account_id: UUID) -> list[pb.Entry]:
        """A resident's entries, newest first."""
        request = pb.ListResidentEntriesRequest(account_id=str(account_id), page_size=100)
        return list((await self.call("ListResidentEntries", request)).entries)

    async def deposit(
        self, account_id: UUID, grams: int, *, at: datetime | None = None, deposit_id: UUID | None = None, revision: int = 1, **more: Any
    ) -> UUID:
        """A resident's deposit counts. Returns its id; what it earns is judged a moment later."""
        deposit_id = deposit_id or new_id()
        more.setdefault("category", CATEGORY_RECYCLABLE)
        event = DepositCounted(
            deposit_id=str(deposit_id),
            revision=revision,
            account_id=str(account_id),
            grams=grams,
            occurred_at=to_timestamp(at or self.town.clock.now),
            **more,
        )
        await self.publish(event, version=revision)
        return deposit_id

    async def withdraw(self, deposit_id: UUID, account_id: UUID, revision: int = 1) -> None:
        """A deposit was contaminated."""
        event = DepositWithdrawn(
            deposit_id=str(deposit_id),
            revision=revision,
            account_id=str(account_id),
            reason=DepositWithdrawn.REASON_CONTAMINATED,
        )
        await self.publish(event, version=revision)

    async def earned(self, deposit_id: UUID, revision: int = 1) -> store.Earning:
        """What a deposit earned, when it is judged."""
        claim_id = deposit_claim_id(deposit_id, revision)

        async def judged() -> store.Earning | None:
            async with self.town.running.transaction("points", self.community_id) as tx:
                return (await store.find_claims(tx, [claim_id])).get(claim_id)

        found = await eventually(judged, "the deposit is judged")
        assert found is not None
        return found

    async def notified(self, account_id: UUID, kind: str) -> Received[Notified]:
        """What an account was told; waits for it."""
        return await self.town.running.event(
            Notified, lambda event: event.message.account_id == str(account_id) and event.message.kind == kind
        )


@asynccontextmanager
async def town(servers: Servers) -> AsyncIterator[Town]:
    """A running points service, on Monday at nine."""
    clock = TestClock(MONDAY_9)
    async with platform(servers, SERVICE, clock=clock) as running:
        yield Town(running, clock)
