"""Redeeming: what is reserved is held, picked up once, given up or expired, and never more than there is."""

import asyncio
from datetime import UTC, timedelta

import asyncpg
import pytest
import pytest_asyncio

from ledger.audit import audit
from linli.points.v1 import points_pb2 as pb
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, Denied, Invalid, NotFound, ServiceError
from servicekit.identifiers import new_id
from services.points import redemption_operations
from tests.community import Town
from tests.points.arrange import Community
from tests.points.shop import family, guest, item, pick_up, resident, shelf

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def shop(community: Community) -> Community:
    """A community with rules: a reservation waits for 48 hours."""
    await community.publish_rules(hold_hours=48, gift_daily_points_max=100, gift_monthly_points_max=100)
    return community


async def test_a_reservation_holds_points_and_stock_until_it_is_picked_up(shop: Community) -> None:
    who, coffee = await resident(shop, 100), await item(shop, stock=5, pickup_place="一号楼大厅")
    reserved = await who.redeem(coffee, 2)
    points = await who.points()
    assert (points.points, points.held, await shelf(shop, coffee)) == (100, 60, (3, 2))
    assert (reserved.points, reserved.quantity, reserved.state) == (60, 2, pb.REDEMPTION_STATE_RESERVED)
    assert reserved.expires_at.ToDatetime(UTC) == shop.town.clock.now + timedelta(hours=48)
    assert (reserved.item_name_zh, reserved.item_name_en, reserved.pickup_place) == ("现磨咖啡", "Coffee", "一号楼大厅")
    assert "现磨咖啡" in (await who.told("points.reserved")).text_zh
    assert await who.call("GetMyRedemption", pb.GetMyRedemptionRequest(redemption_id=reserved.redemption_id)) == reserved

    picked_up = await pick_up(shop, reserved.pickup_code)
    assert (picked_up.state, picked_up.pickup_code) == (pb.REDEMPTION_STATE_PICKED_UP, "")
    points = await who.points()
    assert (points.points, points.held, await shelf(shop, coffee)) == (40, 0, (3, 0))
    entry = (await who.entries())[0]
    assert (entry.kind, entry.change, entry.previous_points, entry.points) == ("redemption", -60, 100, 40)
    assert (entry.source_id, entry.text_zh, entry.text_en) == (reserved.redemption_id, "兑换「现磨咖啡」 ×2", "Redeemed Coffee ×2")
    assert "60" in (await who.told("points.picked_up")).text_en
    with pytest.raises(Conflict) as refused:
        await pick_up(shop, reserved.pickup_code)
    assert refused.value.code == "points.picked_up_already"


async def test_a_reservation_that_is_given_up_frees_its_points_and_its_stock(shop: Community) -> None:
    who, neighbour, coffee = await resident(shop, 30), await resident(shop), await item(shop, stock=1)
    reserved = await who.redeem(coffee)
    request = pb.CancelRedemptionRequest(redemption_id=reserved.redemption_id)
    with pytest.raises(NotFound):
        await neighbour.call("CancelRedemption", request)
    cancelled = await who.call("CancelRedemption", request)
    assert (cancelled.state, cancelled.pickup_code) == (pb.REDEMPTION_STATE_CANCELLED, "")
    assert ((await who.points()).held, await shelf(shop, coffee)) == (0, (1, 0))
    for attempt in (who.call("CancelRedemption", request), pick_up(shop, reserved.pickup_code)):
        with pytest.raises(Conflict) as refused:
            await attempt
        assert refused.value.code == "points.reservation_cancelled"
    await who.redeem(coffee)


async def test_an_expired_reservation_is_not_picked_up_before_the_timer_nor_after(shop: Community) -> None:
    who, coffee = await resident(shop, 30), await item(shop, stock=1)
    reserved = await who.redeem(coffee)
    shop.town.clock.advance(hours=48)
    with pytest.raises(Conflict) as refused:
        await pick_up(shop, reserved.pickup_code)
    assert refused.value.code == "points.reservation_expired"
    async with shop.town.running.transaction("points", PLATFORM) as tx:
        await redemption_operations.expire_reservations(tx)
    assert ((await who.points()).held, await shelf(shop, coffee)) == (0, (1, 0))
    (listed,) = (await who.call("ListMyRedemptions", pb.ListMyRedemptionsRequest())).redemptions
    assert (listed.state, listed.pickup_code, listed.ended_at.ToDatetime(UTC)) == (pb.REDEMPTION_STATE_EXPIRED, "", shop.town.clock.now)
    assert listed.redemption_id in (await who.told("points.reservation_expired")).link
    for attempt in (
        pick_up(shop, reserved.pickup_code),
        who.call("CancelRedemption", pb.CancelRedemptionRequest(redemption_id=reserved.redemption_id)),
    ):
        with pytest.raises(Conflict) as refused:
            await attempt
        assert refused.value.code == "points.reservation_expired"


async def test_the_timer_ends_reservations_of_every_community_that_are_too_old_and_no_others(points: Town, shop: Community) -> None:
    other = Community(points)
    await other.publish_rules(hold_hours=72)
    here, there = await resident(shop, 30), await resident(other, 60)
    await here.redeem(await item(shop))
    late = await item(other, valid_until=shop.town.clock.now + timedelta(hours=1))
    at_its_end = await there.redeem(late)
    assert at_its_end.expires_at == late.valid_until
    stays = await there.redeem(await item(other))
    shop.town.clock.advance(hours=49)
    async with shop.town.running.transaction("points", PLATFORM) as tx:
        await redemption_operations.expire_reservations(tx)
        assert tx.scope == PLATFORM
    assert ((await here.points()).held, (await there.points()).held) == (0, 30)
    await here.told("points.reservation_expired")
    assert at_its_end.redemption_id in (await there.told("points.reservation_expired")).link
    await pick_up(other, stays.pickup_code)


async def test_of_64_residents_who_redeem_the_last_item_exactly_one_gets_it(shop: Community) -> None:
    coffee = await item(shop, stock=1)
    residents = [await resident(shop, 30) for _ in range(64)]
    answers = await asyncio.gather(*(who.redeem(coffee) for who in residents), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) == 63
    assert {error.code if isinstance(error, ServiceError) else error for error in refused} == {"points.out_of_stock"}
    assert await shelf(shop, coffee) == (0, 1)
    assert sorted([(await who.points()).held for who in residents]) == [0] * 63 + [30]


async def test_of_64_redemptions_at_once_with_points_for_one_exactly_one_succeeds_and_no_balance_is_below_zero(shop: Community) -> None:
    coffee, who = await item(shop, stock=64), await resident(shop, 59)
    seen: list[int] = []

    async def watch() -> None:
        while True:
            points = await who.points()
            seen.append(points.points - points.held)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(who.redeem(coffee) for _ in range(64)), return_exceptions=True)
    watching.cancel()
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(refused) == 63
    assert {error.code if isinstance(error, ServiceError) else error for error in refused} == {"points.insufficient"}
    points = await who.points()
    assert (points.points, points.held, await shelf(shop, coffee)) == (59, 30, (63, 1))
    assert seen
    assert set(seen) <= {59, 29}


async def test_a_code_that_many_clerks_scan_at_once_hands_over_one_item(shop: Community) -> None:
    who, coffee = await resident(shop, 100), await item(shop)
    code = (await who.redeem(coffee)).pickup_code
    answers = await asyncio.gather(*(pick_up(shop, code) for _ in range(16)), return_exceptions=True)
    assert [isinstance(answer, Conflict) for answer in answers].count(False) == 1
    assert ((await who.points()).points, await shelf(shop, coffee)) == (70, (9, 0))


async def test_picking_up_and_giving_up_at_once_does_one_of_them(shop: Community) -> None:
    coffee = await item(shop)
    for _ in range(5):
        who = await resident(shop, 30)
        reserved = await who.redeem(coffee)
        cancel = who.call("CancelRedemption", pb.CancelRedemptionRequest(redemption_id=reserved.redemption_id))
        answers = await asyncio.gather(pick_up(shop, reserved.pickup_code), cancel, return_exceptions=True)
        done = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert len(done) == 1
        left = 0 if done[0].state == pb.REDEMPTION_STATE_PICKED_UP else 30
        assert ((await who.points()).points, (await who.points()).held) == (left, 0)


async def test_a_code_that_nobody_here_has_is_unknown(points: Town, shop: Community) -> None:
    elsewhere = Community(points)
    await elsewhere.publish_rules()
    theirs = await (await resident(elsewhere, 30)).redeem(await item(elsewhere))
    for code in (theirs.pickup_code, "ABCDEFGHIJKLMNOP"):
        with pytest.raises(NotFound) as refused:
            await pick_up(shop, code)
        assert refused.value.code == "points.pickup_code_unknown"
    with pytest.raises(Invalid):
        await pick_up(shop, "'; DROP TABLE--")
    with pytest.raises(Denied):
        await guest(shop).call("ConfirmRedemption", pb.ConfirmRedemptionRequest(pickup_code=theirs.pickup_code))


async def test_a_resident_has_no_more_of_an_item_than_its_limit_whoever_pays(shop: Community) -> None:
    who, neighbour = await resident(shop, 1000), await resident(shop, 1000)
    coffee = await item(shop, per_resident_max=2)
    first = await who.redeem(coffee)
    await pick_up(shop, first.pickup_code)
    second = await who.redeem(coffee)
    with pytest.raises(Conflict) as refused:
        await who.redeem(coffee)
    assert refused.value.code == "points.item_limit"
    with pytest.raises(Conflict):
        await neighbour.redeem(coffee, 3)
    await neighbour.redeem(coffee, 2)
    # What is given up does not count.
    await who.call("CancelRedemption", pb.CancelRedemptionRequest(redemption_id=second.redemption_id))
    await who.redeem(coffee)


async def test_what_is_not_offered_or_cannot_be_paid_is_not_redeemed(points: Town, shop: Community) -> None:
    now, elsewhere = shop.town.clock.now, Community(points)
    who, poor, stranger = await resident(shop, 1000), await resident(shop), guest(shop)
    coffee = await item(shop, stock=1)
    hidden = await item(shop)
    await shop.call("UpdateItem", pb.UpdateItemRequest(item_id=hidden.item_id, listed=False))
    cases = [
        (poor, coffee, 1, "points.insufficient"),
        (stranger, coffee, 1, "points.not_a_resident"),
        (who, coffee, 2, "points.out_of_stock"),
        (who, hidden, 1, "points.item_not_found"),
        (who, await item(elsewhere), 1, "points.item_not_found"),
        (who, pb.Item(item_id=str(new_id())), 1, "points.item_not_found"),
        (who, await item(shop, valid_from=now + timedelta(seconds=1)), 1, "points.item_not_valid"),
        (who, await item(shop, valid_from=now - timedelta(days=2), valid_until=now), 1, "points.item_not_valid"),
        (who, await item(shop, points=1_000_000, stock=100), 100, "points.insufficient"),
    ]
    for somebody, wanted, quantity, code in cases:
        with pytest.raises(ServiceError) as refused:
            await somebody.redeem(wanted, quantity)
        assert refused.value.code == code
    for quantity in (0, -1, 101):
        with pytest.raises(Invalid):
            await who.redeem(coffee, quantity)
    assert ((await who.points()).held, await shelf(shop, coffee)) == (0, (1, 0))


async def test_nothing_is_redeemed_where_no_rules_say_how_long_it_waits(community: Community) -> None:
    who = await resident(community)
    with pytest.raises(Conflict) as refused:
        await who.redeem(await item(community))
    assert refused.value.code == "points.no_rules"


async def test_a_reservation_costs_what_it_cost_when_it_was_made(shop: Community) -> None:
    who, coffee = await resident(shop, 100), await item(shop, points=30)
    reserved = await who.redeem(coffee)
    await shop.call("UpdateItem", pb.UpdateItemRequest(item_id=coffee.item_id, points=50, listed=False))
    await pick_up(shop, reserved.pickup_code)
    assert (await who.points()).points == 70


async def test_only_members_who_pool_spend_what_their_household_has(shop: Community) -> None:
    payer, other = await family(shop, 50, 10)
    stranger, coffee = await resident(shop, 100), await item(shop, stock=1)
    assert payer.household_id is not None
    await payer.give(40, payer.household_id)
    await payer.call("SetPooling", pb.SetPoolingRequest(household_id=str(payer.household_id), pools=True))
    for somebody, code in ((other, "points.not_pooling"), (stranger, "points.household_not_found")):
        with pytest.raises(ServiceError) as refused:
            await somebody.redeem(coffee, household_id=payer.household_id)
        assert refused.value.code == code
    reserved = await payer.redeem(coffee, household_id=payer.household_id)
    assert reserved.household_id == str(payer.household_id)
    await pick_up(shop, reserved.pickup_code)
    pooled = await payer.call("GetHouseholdPoints", pb.GetHouseholdPointsRequest(household_id=str(payer.household_id)))
    assert (pooled.points, (await payer.points()).points) == (10, 10)


async def test_asking_again_with_the_same_key_reserves_once(shop: Community) -> None:
    who, coffee = await resident(shop, 100), await item(shop)
    request = pb.RedeemRequest(item_id=coffee.item_id, quantity=1)
    first = await who.call("Redeem", request, idempotency_key="tap")
    assert await who.call("Redeem", request, idempotency_key="tap") == first
    assert await shelf(shop, coffee) == (9, 1)


async def test_staff_list_redemptions_by_state_and_page_without_codes(shop: Community) -> None:
    who, coffee = await resident(shop, 300), await item(shop)
    made = [await who.redeem(coffee) for _ in range(4)]
    await pick_up(shop, made[1].pickup_code)
    first = await shop.call("ListRedemptions", pb.ListRedemptionsRequest(state=pb.REDEMPTION_STATE_RESERVED, page_size=2))
    rest = await shop.call(
        "ListRedemptions", pb.ListRedemptionsRequest(state=pb.REDEMPTION_STATE_RESERVED, page_token=first.next_page_token)
    )
    listed = [*first.redemptions, *rest.redemptions]
    assert [row.redemption_id for row in listed] == [made[place].redemption_id for place in (3, 2, 0)]
    assert {row.pickup_code for row in listed} == {""}
    assert len((await shop.call("ListRedemptions", pb.ListRedemptionsRequest())).redemptions) == 4
    mine = (await who.call("ListMyRedemptions", pb.ListMyRedemptionsRequest(page_size=3))).redemptions
    assert [row.pickup_code for row in mine] == [made[3].pickup_code, made[2].pickup_code, ""]
    with pytest.raises(Denied):
        await who.call("ListRedemptions", pb.ListRedemptionsRequest())
    with pytest.raises(NotFound):
        await guest(shop).call("GetMyRedemption", pb.GetMyRedemptionRequest(redemption_id=made[0].redemption_id))


async def test_after_all_of_this_the_ledger_holds_what_must_always_hold(points: Town) -> None:
    connection = await asyncpg.connect(points.running.database_urls["points"])
    try:
        findings = [finding async for finding in audit(connection)]
    finally:
        await connection.close()
    assert len(findings) > 3
    assert [finding for finding in findings if finding.broken] == []
