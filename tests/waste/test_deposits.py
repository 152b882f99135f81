"""What bins weigh: whose it is, whether it counts, and that whatever they send is kept once and stops nothing."""

import asyncio
import random
from datetime import UTC, timedelta

import pytest

from linli.device.v1.events_pb2 import BinDeposited
from linli.waste.v1 import waste_pb2 as pb
from linli.waste.v1.events_pb2 import CATEGORY_KITCHEN, CATEGORY_UNSPECIFIED, DepositCounted
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, NotFound, Unavailable
from servicekit.identifiers import new_id
from services.waste.deposit_operations import Weighed, take_deposits
from tests.support import eventually
from tests.waste.arrange import NOON, Community, Resident, SmartBin

pytestmark = pytest.mark.asyncio(loop_scope="module")
COUNTED, IN_REVIEW, REFUSED = pb.DEPOSIT_STATE_COUNTED, pb.DEPOSIT_STATE_IN_REVIEW, pb.DEPOSIT_STATE_REFUSED


# Who it was.


async def test_a_deposit_with_a_residents_card_counts_and_is_told(community: Community, smart_bin: SmartBin) -> None:
    resident = await community.resident()
    deposit = await smart_bin.weighs(1240, "kitchen", card=(await resident.card()).lower(), at=NOON - timedelta(seconds=5))
    assert (deposit.state, deposit.concern, deposit.category) == (COUNTED, "", CATEGORY_KITCHEN)
    assert deposit.account_id == str(resident.account_id)
    assert deposit.occurred_at.ToDatetime(UTC) == NOON - timedelta(seconds=5)
    told = (await community.event(DepositCounted, deposit_id=deposit.deposit_id)).message
    assert told == DepositCounted(
        deposit_id=deposit.deposit_id,
        revision=1,
        account_id=str(resident.account_id),
        category=CATEGORY_KITCHEN,
        grams=1240,
        occurred_at=deposit.occurred_at,
    )
    assert await resident.deposits() == [deposit]
    assert await (await community.resident()).deposits() == []


async def test_a_code_of_a_phone_names_its_resident_for_five_minutes_even_when_the_deposit_comes_late(
    community: Community, smart_bin: SmartBin
) -> None:
    resident = await community.resident()
    code = await resident.code()
    at = NOON + timedelta(minutes=4)
    late = await smart_bin.weighs(code=code, at=at, late=timedelta(hours=20))
    assert (late.account_id, late.concern) == (str(resident.account_id), "")
    stale = await smart_bin.weighs(code=code, at=NOON + timedelta(minutes=8), late=timedelta(hours=20))
    forged = await smart_bin.weighs(code=code[:-4] + ("AAAA" if code[-4:] != "AAAA" else "BBBB"))
    nonsense = await smart_bin.weighs(code="\0 not a code 邻里")
    for deposit in (stale, forged, nonsense):
        assert (deposit.state, deposit.account_id, deposit.concern) == (COUNTED, "", "code_invalid")


async def test_who_approached_the_bin_last_made_what_it_weighs_in_the_next_three_minutes(community: Community, smart_bin: SmartBin) -> None:
    first, second = await community.resident(), await community.resident()
    approach = await first.call("ApproachBin", pb.ApproachBinRequest(bin_id=smart_bin.bin_id))
    assert approach.until.ToDatetime(UTC) == NOON + timedelta(minutes=3)
    community.clock.advance(minutes=1)
    await second.call("ApproachBin", pb.ApproachBinRequest(bin_id=smart_bin.bin_id))
    of_first = await smart_bin.weighs(at=NOON + timedelta(seconds=20))
    of_second = await smart_bin.weighs(at=NOON + timedelta(minutes=2))
    of_nobody = await smart_bin.weighs(at=NOON + timedelta(minutes=5))
    assert [each.account_id for each in (of_first, of_second, of_nobody)] == [str(first.account_id), str(second.account_id), ""]
    assert {each.state for each in (of_first, of_second, of_nobody)} == {COUNTED}
    # A card says more than who stands there.
    with_card = await smart_bin.weighs(card=await first.card(), at=NOON + timedelta(minutes=2))
    assert with_card.account_id == str(first.account_id)


async def test_a_card_of_another_community_earns_nobody_anything_and_looks_like_one_that_does_not_exist(
    community: Community, smart_bin: SmartBin
) -> None:
    stranger = await Community(community.town).resident()
    foreign_card, foreign_code = await stranger.card(), await stranger.code()
    foreign = await smart_bin.weighs(1000, card=foreign_card)
    nowhere = await smart_bin.weighs(1000, card="NOSUCHCARD")
    coded = await smart_bin.weighs(1000, code=foreign_code)
    for deposit in (foreign, nowhere):
        assert (deposit.state, deposit.account_id, deposit.concern) == (COUNTED, "", "card_unknown")
    assert (coded.account_id, coded.concern) == ("", "code_invalid")
    assert await stranger.deposits() == []
    assert await stranger.counted() == []


async def test_a_revoked_card_names_its_resident_for_what_was_before(community: Community, smart_bin: SmartBin) -> None:
    resident, next_resident = await community.resident(), await community.resident()
    number = await resident.card()
    (card,) = (await community.call("ListCards", pb.ListCardsRequest(account_id=str(resident.account_id)))).cards
    community.clock.advance(hours=1)
    await community.call("RevokeCard", pb.RevokeCardRequest(card_id=card.card_id))
    before = await smart_bin.weighs(card=number, at=NOON + timedelta(minutes=30))
    after = await smart_bin.weighs(card=number, at=NOON + timedelta(minutes=61))
    community.clock.advance(hours=1)
    await next_resident.card(number)
    given_on = await smart_bin.weighs(card=number)
    assert [each.account_id for each in (before, after, given_on)] == [str(resident.account_id), "", str(next_resident.account_id)]


async def test_nobody_stands_at_two_bins(community: Community, smart_bin: SmartBin) -> None:
    resident, other = await community.resident(), await community.bin()
    await resident.call("ApproachBin", pb.ApproachBinRequest(bin_id=smart_bin.bin_id))
    community.clock.advance(seconds=30)
    await resident.call("ApproachBin", pb.ApproachBinRequest(bin_id=other.bin_id))
    community.clock.advance(minutes=5)
    while_there = await smart_bin.weighs(at=NOON + timedelta(seconds=20))
    when_gone = await smart_bin.weighs(at=NOON + timedelta(seconds=40))
    elsewhere = await other.weighs(at=NOON + timedelta(seconds=50))
    assert [each.account_id for each in (while_there, when_gone, elsewhere)] == [str(resident.account_id), "", str(resident.account_id)]


async def test_who_has_moved_away_has_no_card_and_no_code(community: Community, smart_bin: SmartBin) -> None:
    resident = await community.resident()
    number, code = await resident.card(), await resident.code()
    await community.move(resident, [new_id()], version=2)
    assert (await smart_bin.weighs(card=number)).concern == "card_unknown"
    assert (await smart_bin.weighs(code=code)).concern == "code_invalid"
    with pytest.raises(Conflict, match=r"waste\.not_a_resident"):
        await resident.code()
    with pytest.raises(Conflict, match=r"waste\.not_a_resident"):
        await resident.call("ApproachBin", pb.ApproachBinRequest(bin_id=smart_bin.bin_id))


async def test_who_has_moved_to_another_community_has_no_card_and_no_code_here_any_more(community: Community, smart_bin: SmartBin) -> None:
    resident = await community.resident()
    number, code = await resident.card(), await resident.code()
    elsewhere = Community(community.town)
    await elsewhere.move(Resident(elsewhere, resident.account_id, new_id()), [resident.account_id], version=1)
    assert (await smart_bin.weighs(card=number)).account_id == str(resident.account_id)
    await community.move(resident, [new_id()], version=2)
    by_card, by_code = await smart_bin.weighs(card=number), await smart_bin.weighs(code=code)
    assert [(each.account_id, each.concern) for each in (by_card, by_code)] == [("", "card_unknown"), ("", "code_invalid")]


# Whether it counts.


@pytest.mark.parametrize(
    ("grams", "compartment", "state", "concern"),
    [
        (0, "kitchen", REFUSED, "weight_not_positive"),
        (-1, "kitchen", REFUSED, "weight_not_positive"),
        (-(2**63), "kitchen", REFUSED, "weight_not_positive"),
        (200_001, "other", REFUSED, "weight_absurd"),
        (2**63 - 1, "other", REFUSED, "weight_absurd"),
        (10_001, "hazardous", IN_REVIEW, "weight_implausible"),
        (1000, "compost", IN_REVIEW, "compartment_unknown"),
        (1000, "a\0b" + "c" * 500, IN_REVIEW, "compartment_unknown"),
        (1, "hazardous", COUNTED, ""),
        (10_000, "hazardous", COUNTED, ""),
    ],
)
async def test_a_weight_or_a_compartment_that_cannot_be_is_kept_and_judged(
    community: Community, smart_bin: SmartBin, grams: int, compartment: str, state: pb.DepositState.ValueType, concern: str
) -> None:
    card = await (await community.resident()).card()
    deposit = await smart_bin.weighs(grams, compartment, card=card)
    assert (deposit.state, deposit.concern, deposit.grams) == (state, concern, grams)
    assert (deposit.category == CATEGORY_UNSPECIFIED) == (concern == "compartment_unknown")
    # And the next one counts as if nothing had been.
    after = await smart_bin.weighs(500, card=card)
    assert after.state == COUNTED
    told = [event.message.deposit_id for event in community.town.running.events(DepositCounted)]
    await community.event(DepositCounted, deposit_id=after.deposit_id)
    assert (deposit.deposit_id in told) == (state == COUNTED)


async def test_no_compartment_takes_more_at_once_than_it_holds(community: Community) -> None:
    small = await community.bin(capacity_grams=5000)
    assert (await small.weighs(5001, "kitchen")).concern == "weight_implausible"


async def test_what_a_resident_brings_in_a_day_is_looked_at_from_sixty_kilograms_on(community: Community, smart_bin: SmartBin) -> None:
    resident = await community.resident()
    card = await resident.card()
    states = [(await smart_bin.weighs(25_000, card=card, at=NOON + timedelta(minutes=nth))).state for nth in range(3)]
    assert states == [COUNTED, COUNTED, IN_REVIEW]
    # All that waits is judged together, and in order; and another day, another bin and another resident are another matter.
    elsewhere = await community.bin()
    assert (await elsewhere.weighs(10_001, card=card)).concern == "weight_implausible"
    assert (await elsewhere.weighs(10_001)).state == COUNTED
    community.clock.advance(hours=12)
    assert (await smart_bin.weighs(25_000, card=card)).state == COUNTED


async def test_what_somebody_brings_in_one_of_their_two_communities_says_nothing_in_the_other(community: Community) -> None:
    elsewhere = Community(community.town)
    resident = await community.resident()
    at_home_too = Resident(elsewhere, resident.account_id, new_id())
    await elsewhere.move(at_home_too, [resident.account_id], version=1)
    here, there = await community.bin(), await elsewhere.bin()
    for card in [await resident.card()] * 2:
        assert (await here.weighs(30_000, card=card)).state == COUNTED
    deposit = await there.weighs(10_000, card=await at_home_too.card())
    assert (deposit.state, deposit.account_id) == (COUNTED, str(resident.account_id))


async def test_a_device_that_is_no_bin_of_the_register_is_refused(community: Community) -> None:
    card = await (await community.resident()).card()
    stranger = await Community(community.town).bin()
    for device_id in ("bin-of-nobody", stranger.device_id):
        deposit = await SmartBin(community, "", device_id).weighs(card=card)
        assert (deposit.state, deposit.concern, deposit.bin_id, deposit.account_id) == (REFUSED, "bin_unknown", "", "")


async def test_what_a_bin_that_is_out_of_use_weighs_waits_for_somebody(community: Community, smart_bin: SmartBin) -> None:
    await community.call("UpdateBin", pb.UpdateBinRequest(bin_id=smart_bin.bin_id, in_use=False))
    deposit = await smart_bin.weighs()
    assert (deposit.state, deposit.concern) == (IN_REVIEW, "bin_out_of_use")
    with pytest.raises(Conflict, match=r"waste\.bin_out_of_use"):
        await (await community.resident()).call("ApproachBin", pb.ApproachBinRequest(bin_id=smart_bin.bin_id))


# When it was.


async def test_a_deposit_dated_tomorrow_counts_as_of_when_it_was_received(community: Community, smart_bin: SmartBin) -> None:
    resident = await community.resident()
    tomorrow = smart_bin.weighing(card=await resident.card())
    tomorrow.occurred_at.FromDatetime(NOON + timedelta(days=1))
    deposit = await smart_bin.sends(tomorrow)
    assert (deposit.state, deposit.concern, deposit.account_id) == (COUNTED, "clock_wrong", str(resident.account_id))
    assert deposit.occurred_at.ToDatetime(UTC) == NOON
    event = await community.event(DepositCounted, deposit_id=deposit.deposit_id)
    assert event.occurred_at == NOON


@pytest.mark.parametrize("seconds", [-(2**62), -1, 2**62])
async def test_a_time_that_no_calendar_holds_is_the_time_of_receipt(community: Community, smart_bin: SmartBin, seconds: int) -> None:
    weighing = smart_bin.weighing()
    weighing.occurred_at.seconds = seconds
    deposit = await smart_bin.sends(weighing)
    assert deposit.occurred_at.ToDatetime(UTC) == NOON
    timeless = smart_bin.weighing()
    timeless.ClearField("occurred_at")
    assert (await smart_bin.sends(timeless)).concern == ""


async def test_a_clock_that_is_wrong_is_corrected_by_the_bins_own_reports(community: Community, smart_bin: SmartBin) -> None:
    smart_bin.ahead = timedelta(hours=-8)
    community.clock.now = NOON - timedelta(minutes=10)
    await smart_bin.reports()
    community.clock.now = NOON
    await smart_bin.reports()
    late = await smart_bin.weighs(at=NOON - timedelta(minutes=7), late=timedelta(days=2))
    assert late.occurred_at.ToDatetime(UTC) == NOON - timedelta(minutes=7)
    assert late.received_at.ToDatetime(UTC) == NOON + timedelta(days=2)
    assert late.concern == ""


async def test_a_deposit_of_a_bin_that_says_no_time_is_of_when_it_first_came_whatever_its_clock_says(
    community: Community, smart_bin: SmartBin
) -> None:
    smart_bin.ahead = timedelta(hours=-8)
    await smart_bin.reports()
    timeless = smart_bin.weighing()
    timeless.ClearField("occurred_at")
    first = await smart_bin.sends(timeless)
    timeless.received_at.FromDatetime(NOON + timedelta(minutes=30))
    await community.publish(timeless)
    await smart_bin.weighs(7)
    assert (first.occurred_at.ToDatetime(UTC), first.concern) == (NOON, "")
    assert sorted(each.grams for each in await community.deposits()) == [7, 1240]


# How often it came.


async def test_every_deposit_sent_three_times_in_any_order_counts_once(community: Community, smart_bin: SmartBin) -> None:
    resident = await community.resident()
    card = await resident.card()
    community.clock.advance(hours=1)
    weighings = [smart_bin.weighing(100 + nth, card=card, at=NOON + timedelta(minutes=nth)) for nth in range(40)]
    sent = [again for each in weighings for again in (each, each, _received_later(each))]
    random.Random(7).shuffle(sent)
    for each in sent:
        await community.publish(each)
    await smart_bin.weighs(50, card=card)

    async def are_told() -> bool:
        return len(await resident.counted()) >= 41

    await eventually(are_told, "all are told")
    deposits = await resident.deposits()
    assert sorted(deposit.grams for deposit in deposits) == [50, *range(100, 140)]
    assert sorted(deposit.grams for deposit in await resident.counted()) == [50, *range(100, 140)]
    assert {deposit.grams: deposit.occurred_at.ToDatetime(UTC) for deposit in deposits}[117] == NOON + timedelta(minutes=17)
    assert (await community.figures()).total.deposits == 41


def _received_later(weighing: BinDeposited) -> BinDeposited:
    again = BinDeposited()
    again.CopyFrom(weighing)
    again.received_at.FromDatetime(NOON + timedelta(hours=3))
    return again


async def test_the_same_id_with_other_content_leaves_the_first_as_it_is_and_is_seen_by_staff(
    community: Community, smart_bin: SmartBin
) -> None:
    resident = await community.resident()
    card = await resident.card()
    first = await smart_bin.weighs(1000, record_id="same", card=card, fill=300)
    second = smart_bin.weighing(9000, record_id="same", card=card, fill=900)
    incident = await smart_bin.sends(second)
    await community.publish(second)
    await community.publish(smart_bin.weighing(1000, record_id="same", card=card, fill=300))
    after = await smart_bin.weighs(2000, card=card)
    assert (incident.state, incident.concern, incident.grams, incident.account_id) == (REFUSED, "id_reused", 9000, "")
    assert sorted(each.deposit_id for each in await community.deposits()) == sorted(each.deposit_id for each in (first, incident, after))
    assert await community.deposits(state=REFUSED) == [incident]
    assert sorted(each.grams for each in await resident.deposits()) == [1000, 2000]
    # What it said of its fill is not believed.
    assert (await smart_bin.compartment("recyclable")).fill_permille == 300
    # Under the same id of another bin, and of another community, it is another deposit.
    other_bin, other_community = await community.bin(), await Community(community.town).bin()
    assert (await other_bin.weighs(1000, record_id="same")).state == COUNTED
    assert (await other_community.weighs(1000, record_id="same")).state == COUNTED


async def test_deposits_of_several_communities_that_wait_together_are_each_their_own(community: Community) -> None:
    places = [community, Community(community.town), Community(community.town)]
    residents = [await place.resident() for place in places]
    cards = [await resident.card("SAMECARD") for resident in residents]
    bins = [await place.bin() for place in places]
    for nth in range(30):
        for place, smart_bin, card in zip(places, bins, cards, strict=True):
            await place.publish(smart_bin.weighing(1000 + nth, card=card, fill=10 * nth))

    async def are_told() -> bool:
        return all([len(await resident.counted()) == 30 for resident in residents])

    await eventually(are_told)
    for place, resident, smart_bin in zip(places, residents, bins, strict=True):
        assert {each.account_id for each in await place.deposits()} == {str(resident.account_id)}
        assert {each.bin_id for each in await place.deposits()} == {smart_bin.bin_id}
        assert (await place.figures()).total.recyclable_grams == sum(range(1000, 1030))
        told = [event for event in place.town.running.events(DepositCounted) if event.message.account_id == str(resident.account_id)]
        assert {event.community_id for event in told} == {place.community_id}


async def test_ids_of_any_length_are_told_apart(community: Community, smart_bin: SmartBin) -> None:
    for end in ("1", "2", "1"):
        await community.publish(smart_bin.weighing(100, record_id="r" * 300 + end))
    await community.publish(smart_bin.weighing(7))

    async def is_last_kept() -> bool:
        return any(each.grams == 7 for each in await community.deposits())

    await eventually(is_last_kept)
    assert sorted((each.grams, each.state) for each in await community.deposits()) == [(7, COUNTED), (100, COUNTED), (100, COUNTED)]


async def test_lists_go_newest_first_page_by_page_and_by_bin_and_state(community: Community, smart_bin: SmartBin) -> None:
    other = await community.bin()
    for nth in range(5):
        await community.publish(smart_bin.weighing(1 + nth, at=NOON - timedelta(minutes=nth)))
        await community.publish(other.weighing(-1 - nth, at=NOON - timedelta(minutes=nth)))

    async def are_kept() -> bool:
        return len(await community.deposits()) == 10

    await eventually(are_kept)
    seen: list[int] = []
    token = ""
    while True:
        page = await community.call("ListDeposits", pb.ListDepositsRequest(bin_id=smart_bin.bin_id, page_size=2, page_token=token))
        seen += [deposit.grams for deposit in page.deposits]
        if not (token := page.next_page_token):
            break
    assert seen == [1, 2, 3, 4, 5]
    assert [each.grams for each in await community.deposits(state=REFUSED)] == [-1, -2, -3, -4, -5]
    assert [each.grams for each in await community.deposits(state=REFUSED, bin_id=other.bin_id)] == [-1, -2, -3, -4, -5]
    assert await community.deposits(state=COUNTED, bin_id=other.bin_id) == []


async def test_an_unknown_bin_is_not_found_by_anybody_who_approaches(community: Community) -> None:
    resident, foreign = await community.resident(), await Community(community.town).bin()
    for bin_id in (foreign.bin_id, str(new_id())):
        with pytest.raises(NotFound, match=r"waste\.bin_unknown"):
            await resident.call("ApproachBin", pb.ApproachBinRequest(bin_id=bin_id))


async def test_a_guest_has_no_code(community: Community) -> None:
    with pytest.raises(Conflict, match=r"waste\.not_a_resident"):
        await community.call("CreateIdentificationCode", pb.CreateIdentificationCodeRequest(), account_id=new_id(), permissions=())


@pytest.mark.parametrize("is_registered", [True, False])
async def test_two_processes_that_take_the_same_deposit_at_once_keep_it_once(community: Community, is_registered: bool) -> None:
    weighed = Weighed(
        community_id=community.community_id,
        device_id=(await community.bin()).device_id if is_registered else "bin-of-nobody",
        record_id="twice",
        card_number="",
        code="",
        compartment="other",
        grams=1000,
        fill_permille=-1,
        said_us=None,
        received_at=NOON,
    )
    running = community.town.running

    async def take() -> None:
        async with running.transaction("waste", PLATFORM) as tx:
            await take_deposits(tx, [weighed])

    async def one_waits() -> bool:
        async with running.transaction("waste", PLATFORM) as tx:
            return bool(await tx.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    async with running.transaction("waste", PLATFORM) as tx:
        await take_deposits(tx, [weighed])
        second = asyncio.create_task(take())
        await eventually(one_waits)
    if is_registered:
        await second
    else:
        # Nobody can lock what is not in the register: the batch of the second is delivered again, and finds that it is known.
        with pytest.raises(Unavailable):
            await second
        await take()
    assert [deposit.grams for deposit in await community.deposits()] == [1000]
