"""What residents earn for deposits, and what is taken back: through events, as residents and the counter see it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ledger.audit import audit
from linli.points.v1 import points_pb2 as pb
from linli.waste.v1.events_pb2 import CATEGORY_KITCHEN, DepositCounted
from servicekit.database import PLATFORM
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.points import earning_operations
from services.points.earning import Reason
from tests.community import Town
from tests.points.arrange import Community, rule
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEPOSITS = pb.SOURCE_WASTE_DEPOSIT
HOUSEHOLD = pb.BENEFICIARY_HOUSEHOLD


async def test_a_deposit_earns_what_the_rules_say_and_names_the_rule_and_its_version(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    deposit_id = await community.deposit(anna, 1_250)
    await community.earned(deposit_id)
    assert (await community.points_of(anna)).points == 12
    (entry,) = await community.entries(anna)
    assert (entry.number, entry.change, entry.points, entry.kind) == (1, 12, 12, "earning")
    assert (entry.rule_id, entry.rules_version, entry.source_id) == ("waste.recyclable", 1, str(deposit_id))
    assert entry.text_zh == "规则waste.recyclable"
    assert "12" in (await community.notified(anna, "points.earned")).message.text_zh


async def test_deposits_that_are_told_three_times_in_any_order_count_once(community: Community) -> None:
    people = [await community.resident() for _ in range(3)]
    await community.publish_rules()
    now = community.town.clock.now
    deposits = [(new_id(), random.choice(people), 100 * random.randint(1, 9)) for _ in range(40)] * 3
    random.shuffle(deposits)
    await asyncio.gather(*(community.deposit(account_id, grams, deposit_id=key, at=now) for key, account_id, grams in deposits))
    for key, _, _ in deposits:
        await community.earned(key)
    for account_id in people:
        expected = sum(grams // 100 for _, who, grams in set(deposits) if who == account_id)
        assert (await community.points_of(account_id)).points == expected


async def test_a_card_of_another_community_earns_nobody_points(community: Community, points: Town) -> None:
    other = Community(points)
    stranger = await other.resident()
    await community.publish_rules()
    await other.publish_rules()
    earned = await community.earned(await community.deposit(stranger, 5_000))
    assert (earned.reason, earned.points) == (Reason.NOT_A_RESIDENT, 0)
    assert (await other.points_of(stranger)).points == 0
    assert (await community.call("GetMyPoints", pb.GetMyPointsRequest(), account_id=stranger)).points == 0


async def test_before_there_are_rules_nothing_is_earned_and_nothing_fails(community: Community) -> None:
    anna = await community.resident()
    assert (await community.earned(await community.deposit(anna, 5_000))).reason is Reason.NO_RULES
    await community.publish_rules(effective_from=community.town.clock.now + timedelta(hours=1))
    assert (await community.earned(await community.deposit(anna, 5_000))).reason is Reason.NO_RULES
    assert (await community.points_of(anna)).points == 0


async def test_what_the_rules_do_not_name_earns_nothing_and_too_little_neither(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    assert (await community.earned(await community.deposit(anna, 5_000, category=CATEGORY_KITCHEN))).reason is Reason.NO_RULE
    assert (await community.earned(await community.deposit(anna, 99))).reason is Reason.TOO_LITTLE
    assert await community.entries(anna) == []


async def test_a_deposit_is_judged_by_the_rules_of_its_own_time_whenever_it_is_told(community: Community, points: Town) -> None:
    anna = await community.resident()
    await community.publish_rules([rule("old", DEPOSITS, 1, 100)])
    before = points.clock.now
    points.clock.advance(days=1)
    await community.publish_rules([rule("new", DEPOSITS, 7, 100)])
    late = await community.earned(await community.deposit(anna, 100, at=before))
    fresh = await community.earned(await community.deposit(anna, 100))
    assert [(each.rule_id, each.rules_version, each.points) for each in (late, fresh)] == [("old", 1, 1), ("new", 2, 7)]


async def test_a_daily_limit_begins_anew_at_midnight_of_the_community(community: Community) -> None:
    anna = await community.resident()
    # On Monday at 23:30 and on Tuesday at 0:30 in Shanghai, both Monday in UTC.
    monday, tuesday = datetime(2026, 3, 2, 15, 30, tzinfo=UTC), datetime(2026, 3, 2, 16, 30, tzinfo=UTC)
    await community.publish_rules([rule("waste", DEPOSITS, 1, 100, daily_points_max=15)])
    community.town.clock.now = tuesday
    earned = [await community.earned(await community.deposit(anna, 1_000, at=at)) for at in (monday, monday, monday, tuesday)]
    assert [each.points for each in earned] == [10, 5, 0, 10]
    assert [each.reason for each in earned] == [Reason.NONE, Reason.DAILY_LIMIT, Reason.DAILY_LIMIT, Reason.NONE]


async def test_a_monthly_limit_holds_over_the_days_of_a_month(community: Community, points: Town) -> None:
    anna = await community.resident()
    await community.publish_rules([rule("waste", DEPOSITS, 1, 100, monthly_points_max=25)])
    gained = []
    for day in (0, 1, 2, 40):
        at = points.clock.now + timedelta(days=day)
        gained.append((await community.earned(await community.deposit(anna, 1_000, at=at))).points)
    assert gained == [10, 10, 5, 10]


async def test_a_household_rule_gives_the_household_points_within_one_limit_for_all_its_members(community: Community) -> None:
    anna, ben = new_id(), new_id()
    household_id = await community.household(anna, ben)
    await community.publish_rules([rule("waste", DEPOSITS, 1, 100, beneficiary=HOUSEHOLD, daily_points_max=15)])
    await community.earned(await community.deposit(anna, 1_000))
    await community.earned(await community.deposit(ben, 1_000))
    assert await _household_points(community, household_id, anna) == 15
    assert (await community.points_of(anna)).points == (await community.points_of(ben)).points == 0


async def test_who_pools_earns_for_the_household_until_they_stop_or_leave(community: Community) -> None:
    anna, ben = new_id(), new_id()
    household_id = await community.household(anna, ben)
    await community.publish_rules()
    await _pool(community, household_id, anna, True)
    await community.earned(await community.deposit(anna, 1_000))
    await community.give(anna, 3)
    await community.earned(await community.deposit(ben, 1_000))
    assert await _household_points(community, household_id, ben) == 13
    await _pool(community, household_id, anna, False)
    await community.earned(await community.deposit(anna, 1_000))
    assert [(await community.points_of(each)).points for each in (anna, ben)] == [10, 10]


async def _pool(community: Community, household_id: UUID, account_id: UUID, pools: bool) -> None:
    request = pb.SetPoolingRequest(household_id=str(household_id), pools=pools)
    await community.call("SetPooling", request, account_id=account_id, household={household_id: ["points.household.read"]})


async def _household_points(community: Community, household_id: UUID, account_id: UUID) -> int:
    request = pb.GetHouseholdPointsRequest(household_id=str(household_id))
    who = {"account_id": account_id, "household": {household_id: ["points.household.read"]}}
    return int((await community.call("GetHouseholdPoints", request, **who)).points)


async def test_a_contaminated_deposit_costs_what_it_earned_and_the_limit_is_free_again(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules([rule("waste", DEPOSITS, 1, 100, daily_points_max=15)])
    first = await community.deposit(anna, 1_000)
    await community.earned(first)
    await community.withdraw(first, anna)
    await community.withdraw(first, anna)
    await community.notified(anna, "points.taken_back")
    earning, reversal = reversed(await community.entries(anna))
    assert (reversal.kind, reversal.change, reversal.points) == ("reversal", -10, 0)
    assert (reversal.rule_id, reversal.source_id) == (earning.rule_id, earning.source_id)
    assert (await community.earned(await community.deposit(anna, 2_000))).points == 15


async def test_what_was_spent_before_it_was_taken_back_is_owed_and_settled_from_what_is_earned_next(community: Community) -> None:
    anna, ben = await community.resident(), await community.resident()
    await community.publish_rules(gift_daily_points_max=100, gift_monthly_points_max=100)
    deposit_id = await community.deposit(anna, 1_000)
    await community.earned(deposit_id)
    await community.call("GiftPoints", pb.GiftPointsRequest(to_account_id=str(ben), points=7), account_id=anna)
    await community.withdraw(deposit_id, anna)
    assert "7" in (await community.notified(anna, "points.taken_back")).message.text_zh
    assert await _standing(community, anna) == (0, 7)
    await community.give(anna, 5)
    assert await _standing(community, anna) == (0, 2)
    await community.earned(await community.deposit(anna, 500))
    assert await _standing(community, anna) == (3, 0)


async def _standing(community: Community, account_id: UUID) -> tuple[int, int]:
    points = await community.points_of(account_id)
    return points.points, points.owed


async def test_a_withdrawal_that_overtakes_its_deposit_keeps_it_from_earning_but_not_when_it_counts_again(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    deposit_id = new_id()
    await community.withdraw(deposit_id, anna)
    assert (await community.earned(deposit_id)).reason is Reason.WITHDRAWN
    await community.deposit(anna, 1_000, deposit_id=deposit_id)
    await community.deposit(anna, 1_000, deposit_id=deposit_id, revision=2)
    assert (await community.earned(deposit_id, 2)).points == 10
    assert (await community.earned(deposit_id)).points == 0
    assert (await community.points_of(anna)).points == 10


async def test_a_deposit_that_counts_again_before_we_hear_that_it_did_not_count_finds_its_limit_free(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules([rule("waste", DEPOSITS, 1, 100, daily_points_max=10)])
    deposit_id = await community.deposit(anna, 1_000)
    assert (await community.earned(deposit_id)).points == 10
    await community.deposit(anna, 1_000, deposit_id=deposit_id, revision=2)
    assert (await community.earned(deposit_id, 2)).points == 10
    await community.withdraw(deposit_id, anna)
    last = await community.deposit(anna, 1_000)
    assert (await community.earned(last)).reason is Reason.DAILY_LIMIT
    assert (await _standing(community, anna)) == (10, 0)


async def test_a_deposit_that_overtakes_the_news_of_its_household_earns_when_that_has_come(community: Community, points: Town) -> None:
    anna, ben = new_id(), new_id()
    await community.publish_rules()
    early, withdrawn = await community.deposit(anna, 1_000), await community.deposit(ben, 1_000)
    assert (await community.earned(early)).reason is (await community.earned(withdrawn)).reason is Reason.NOT_A_RESIDENT
    await community.withdraw(withdrawn, ben)

    async def is_withdrawn() -> bool:
        return (await community.earned(withdrawn)).reason is Reason.WITHDRAWN

    await eventually(is_withdrawn)
    await community.household(anna, ben)
    async with points.running.transaction("points", PLATFORM) as tx:
        await earning_operations.judge_late(tx)
    assert (await community.points_of(anna)).points == 10
    assert (await community.points_of(ben)).points == 0


async def test_deposits_and_withdrawals_told_three_times_in_any_order_leave_what_the_model_says(community: Community, points: Town) -> None:
    people = [await community.resident() for _ in range(4)]
    await community.publish_rules()
    deposits = [(new_id(), random.choice(people), 100 * random.randint(1, 30)) for _ in range(60)]
    withdrawn = random.sample(deposits, 20)
    again = withdrawn[:10]  # The inspector was wrong about these.
    now = points.clock.now
    news: list[Callable[[], Awaitable[object]]] = []
    for key, anna, grams in deposits:
        news.append(partial(community.deposit, anna, grams, deposit_id=key, at=now))
    news += [partial(community.withdraw, key, anna) for key, anna, _ in withdrawn]
    news += [partial(community.deposit, anna, grams, deposit_id=key, at=now, revision=2) for key, anna, grams in again]
    news *= 3
    random.shuffle(news)
    await asyncio.gather(*(tell() for tell in news))
    for anna in people:
        counted = [grams // 100 for key, who, grams in deposits if who == anna and (key, who, grams) not in withdrawn[10:]]

        async def is_settled(anna: UUID = anna, expected: int = sum(counted)) -> bool:
            standing = await community.points_of(anna)
            return (standing.points, standing.owed) == (expected, 0)

        await eventually(is_settled)
    connection = await asyncpg.connect(points.running.database_urls["points"])
    try:
        assert [finding.invariant async for finding in audit(connection) if finding.broken] == []
    finally:
        await connection.close()


async def test_what_cannot_be_a_deposit_keeps_no_other_from_earning(community: Community) -> None:
    anna = await community.resident()
    await community.publish_rules()
    when = to_timestamp(community.town.clock.now)
    sound: dict[str, Any] = {
        "deposit_id": str(new_id()),
        "revision": 1,
        "account_id": str(anna),
        "category": 1,
        "grams": 1_000,
        "occurred_at": when,
    }
    wrong: list[dict[str, Any]] = [
        {"grams": -5},
        {"grams": 2**62},
        {"grams": 0},
        {"account_id": "anna"},
        {"deposit_id": "one"},
        {"category": 0},
    ]
    for fault in wrong:
        await community.publish(DepositCounted(**{**sound, "deposit_id": str(new_id()), **fault}))
    await community.publish(DepositCounted(**sound))
    await community.earned(UUID(sound["deposit_id"]))
    assert (await community.points_of(anna)).points == 10


async def test_deposits_of_many_communities_are_judged_together_each_by_its_own_rules(points: Town) -> None:
    communities = [Community(points) for _ in range(4)]
    residents = []
    for number, community in enumerate(communities, 1):
        residents.append(await community.resident())
        await community.publish_rules([rule("waste", DEPOSITS, number, 100)])
    told = await asyncio.gather(
        *(community.deposit(anna, 100) for community, anna in zip(communities, residents, strict=True) for _ in range(20))
    )
    for number, deposit_id in enumerate(told):
        await communities[number // 20].earned(deposit_id)
    gained = [(await community.points_of(anna)).points for community, anna in zip(communities, residents, strict=True)]
    assert gained == [20, 40, 60, 80]
