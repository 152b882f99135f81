"""What people make of single deposits: they settle what waits, report contamination and take it back; and what all of it weighs."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

import pytest

from linli.identity.v1.events_pb2 import CommunityChanged
from linli.waste.v1 import waste_pb2 as pb
from linli.waste.v1.events_pb2 import (
    CATEGORY_HAZARDOUS,
    CATEGORY_KITCHEN,
    CATEGORY_RECYCLABLE,
    DepositCounted,
    DepositWithdrawn,
)
from servicekit.errors import Conflict, Invalid, NotFound
from servicekit.identifiers import new_id
from services.waste.bins import Category
from services.waste.figures import Weights, weigh
from tests.support import eventually
from tests.waste.arrange import Community, SmartBin

pytestmark = pytest.mark.asyncio(loop_scope="module")
COUNTED, REFUSED, CONTAMINATED = pb.DEPOSIT_STATE_COUNTED, pb.DEPOSIT_STATE_REFUSED, pb.DEPOSIT_STATE_CONTAMINATED


async def report(community: Community, deposit: pb.Deposit) -> Any:
    """An inspector finds something else in it."""
    return await community.call("ReportContamination", pb.ReportContaminationRequest(deposit_id=deposit.deposit_id, note="有塑料袋"))


async def withdraw(community: Community, deposit: pb.Deposit) -> Any:
    """It was a mistake."""
    return await community.call("WithdrawContamination", pb.WithdrawContaminationRequest(deposit_id=deposit.deposit_id, note="看错了"))


async def review(community: Community, deposit: pb.Deposit, **verdict: Any) -> Any:
    """Somebody looks at a deposit that waits."""
    return await community.call("ReviewDeposit", pb.ReviewDepositRequest(deposit_id=deposit.deposit_id, **verdict))


async def test_contamination_takes_back_what_a_deposit_was_counted_for_and_gives_it_again(
    community: Community, smart_bin: SmartBin
) -> None:
    resident = await community.resident()
    deposit = await smart_bin.weighs(2000, "kitchen", card=await resident.card())
    contaminated = await report(community, deposit)
    assert (contaminated.state, contaminated.note) == (CONTAMINATED, "有塑料袋")
    withdrawn = await community.event(DepositWithdrawn, deposit_id=deposit.deposit_id)
    assert withdrawn.message == DepositWithdrawn(
        deposit_id=deposit.deposit_id, revision=1, account_id=str(resident.account_id), reason=DepositWithdrawn.REASON_CONTAMINATED
    )
    total = (await community.figures()).total
    assert (total.kitchen_grams, total.other_grams, total.deposits, total.contaminated_deposits) == (0, 2000, 0, 1)
    with pytest.raises(Conflict, match=r"waste\.deposit_not_counted"):
        await report(community, deposit)

    again = await withdraw(community, deposit)
    assert (again.state, again.note) == (COUNTED, "看错了")
    counted = await community.event(DepositCounted, deposit_id=deposit.deposit_id, revision=2)
    assert (counted.message.grams, counted.message.category) == (2000, CATEGORY_KITCHEN)
    with pytest.raises(Conflict, match=r"waste\.deposit_not_contaminated"):
        await withdraw(community, deposit)
    await report(community, deposit)
    second = await community.event(DepositWithdrawn, deposit_id=deposit.deposit_id, revision=2)
    first = await community.event(DepositCounted, deposit_id=deposit.deposit_id, revision=1)
    assert [event.version for event in (first, withdrawn, counted, second)] == [1, 2, 3, 4]
    assert [each.state for each in await resident.deposits()] == [CONTAMINATED]


async def test_contamination_can_be_reported_for_seven_days_and_only_of_what_counts(community: Community, smart_bin: SmartBin) -> None:
    deposit, refused = await smart_bin.weighs(), await smart_bin.weighs(0)
    with pytest.raises(Conflict, match=r"waste\.deposit_not_counted"):
        await report(community, refused)
    with pytest.raises(NotFound, match=r"waste\.deposit_unknown"):
        await report(community, pb.Deposit(deposit_id=str(new_id())))
    community.clock.advance(days=7)
    nobodys = await report(community, deposit)
    assert nobodys.state == CONTAMINATED
    await withdraw(community, deposit)
    community.clock.advance(seconds=1)
    with pytest.raises(Conflict, match=r"waste\.deposit_too_old"):
        await report(community, deposit)
    # Nobody was awarded for it, so nobody is told.
    assert [event for event in community.town.running.events(DepositWithdrawn) if event.message.deposit_id == deposit.deposit_id] == []


async def test_a_deposit_that_waits_counts_when_somebody_accepts_it(community: Community, smart_bin: SmartBin) -> None:
    resident = await community.resident()
    card = await resident.card()
    heavy = await smart_bin.weighs(15_000, "hazardous", card=card)
    strange = await smart_bin.weighs(700, "glass", card=card)
    unwanted = await smart_bin.weighs(30_000, "kitchen", card=card)
    with pytest.raises(Invalid, match=r"waste\.category_needed"):
        await review(community, strange, accept=True)
    with pytest.raises(Invalid, match=r"waste\.category_known"):
        await review(community, heavy, accept=True, category=CATEGORY_KITCHEN)
    accepted = await review(community, heavy, accept=True, note="装修油漆，已称重")
    assert (accepted.state, accepted.concern, accepted.note) == (COUNTED, "", "装修油漆，已称重")
    named = await review(community, strange, accept=True, category=CATEGORY_RECYCLABLE)
    assert (named.state, named.category) == (COUNTED, CATEGORY_RECYCLABLE)
    refused = await review(community, unwanted, accept=False, note="空桶误差")
    assert (refused.state, refused.concern) == (REFUSED, "weight_implausible")
    for deposit in (heavy, strange, unwanted):
        with pytest.raises(Conflict, match=r"waste\.deposit_settled"):
            await review(community, deposit, accept=True)

    async def are_told() -> bool:
        return len(await resident.counted()) == 2

    await eventually(are_told)
    assert [(each.category, each.grams, each.revision) for each in await resident.counted()] == [
        (CATEGORY_HAZARDOUS, 15_000, 1),
        (CATEGORY_RECYCLABLE, 700, 1),
    ]
    total = (await community.figures()).total
    assert (total.recyclable_grams, total.hazardous_grams, total.kitchen_grams, total.deposits) == (700, 15_000, 0, 2)


async def test_figures_are_by_the_communitys_month_and_the_bins_building(community: Community) -> None:
    # In Auckland it is a quarter past one on the first of March, while it is still February here.
    await community.publish(CommunityChanged(community_id=str(community.community_id), time_zone="Pacific/Auckland"), version=1)

    async def is_known() -> bool:
        async with community.town.running.transaction("waste", community.community_id) as tx:
            return bool(await tx.fetchval("SELECT count(*) FROM known_communities"))

    await eventually(is_known)
    building = new_id()
    at_building, alone = await community.bin(building_id=building), await community.bin()
    community.clock.now = datetime(2026, 3, 29, 11, 0, tzinfo=UTC)
    await at_building.weighs(1001, "recyclable", at=datetime(2026, 2, 28, 12, 15, tzinfo=UTC))
    await at_building.weighs(2000, "other", at=datetime(2026, 2, 28, 10, 45, tzinfo=UTC))
    await alone.weighs(500, "kitchen")
    mixed = await alone.weighs(1500, "recyclable")
    await report(community, mixed)
    await alone.weighs(-5)

    figures = await community.figures("2026-01", "2026-03")
    assert [(month.month, [each.building_id for each in month.buildings]) for month in figures.months] == [
        ("2026-01", []),
        ("2026-02", [str(building)]),
        ("2026-03", [str(building), ""]),
    ]
    february, march = figures.months[1].total, figures.months[2].total
    assert february == pb.Weights(other_grams=2000, deposits=1)
    assert march == pb.Weights(
        recyclable_grams=1001, kitchen_grams=500, other_grams=1500, diversion_permille=500, deposits=2, contaminated_deposits=1
    )
    assert figures.months[2].buildings[1].weights == pb.Weights(
        kitchen_grams=500, other_grams=1500, diversion_permille=250, deposits=1, contaminated_deposits=1
    )
    assert figures.total.deposits == 3

    request = pb.DownloadWasteFiguresRequest(from_month="2026-01", until_month="2026-03")
    body = await community.call("DownloadWasteFigures", request, permissions=())
    assert body.content_type == "text/csv; charset=utf-8"
    assert body.data.startswith("\N{BOM}月份 Month,楼栋 Building,可回收物 Recyclable (kg),".encode())
    lines = list(csv.reader(io.StringIO(body.data.decode("utf-8-sig"))))[1:]
    assert lines == [
        ["2026-02", str(building), "0.000", "0.000", "0.000", "2.000", "2.000", "0", "1", "0"],
        ["2026-03", str(building), "1.001", "0.000", "0.000", "0.000", "1.001", "1000", "1", "0"],
        ["2026-03", "", "0.000", "0.500", "0.000", "1.500", "2.000", "250", "1", "1"],
    ]


async def test_what_is_taken_back_is_taken_from_the_month_that_it_was_added_to_though_the_zone_has_changed(
    community: Community, smart_bin: SmartBin
) -> None:
    community.clock.now = datetime(2026, 2, 28, 17, 0, tzinfo=UTC)
    deposit, heavy = await smart_bin.weighs(1000, "kitchen"), await smart_bin.weighs(15_000, "hazardous")
    await community.publish(CommunityChanged(community_id=str(community.community_id), time_zone="America/New_York"), version=1)

    async def is_known() -> bool:
        async with community.town.running.transaction("waste", community.community_id) as tx:
            return bool(await tx.fetchval("SELECT count(*) FROM known_communities"))

    await eventually(is_known)
    await report(community, deposit)
    await review(community, heavy, accept=True)
    march = (await community.figures("2026-02", "2026-03")).total
    assert march == (await community.figures("2026-03", "2026-03")).total
    assert march == pb.Weights(hazardous_grams=15_000, other_grams=1000, diversion_permille=937, deposits=1, contaminated_deposits=1)


@pytest.mark.parametrize(
    ("from_month", "until_month", "code"),
    [
        ("2026-03", "2026-02", "waste.months_inverted"),
        ("2023-01", "2026-01", "waste.too_many_months"),
        ("0000-01", "2026-01", "request.invalid"),
        ("2026-13", "2026-12", "request.invalid"),
    ],
)
async def test_figures_of_months_that_cannot_be_are_refused(community: Community, from_month: str, until_month: str, code: str) -> None:
    with pytest.raises(Invalid, match=code):
        await community.figures(from_month, until_month)


async def test_the_sums_that_are_kept_are_those_of_the_deposits(community: Community, smart_bin: SmartBin) -> None:
    kept = [await smart_bin.weighs(1 + 1000 * nth, ("recyclable", "kitchen", "other")[nth % 3]) for nth in range(9)]
    for deposit in kept[:5]:
        await report(community, deposit)
    for deposit in kept[2:4]:
        await withdraw(community, deposit)
    total = Weights()
    for each in await community.deposits():
        total += weigh(
            (Category.RECYCLABLE, Category.KITCHEN, Category.HAZARDOUS, Category.OTHER)[each.category - 1],
            each.grams,
            is_contaminated=each.state == CONTAMINATED,
        )
    found = (await community.figures()).total
    assert (found.recyclable_grams, found.kitchen_grams, found.other_grams) == (
        total.recyclable_grams,
        total.kitchen_grams,
        total.other_grams,
    )
    assert (found.deposits, found.contaminated_deposits) == (total.deposits, total.contaminated_deposits) == (6, 3)
