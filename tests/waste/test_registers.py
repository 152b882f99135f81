"""Bins and cards as people keep them, and the walls around them."""

from typing import Any

import pytest
from google.protobuf.message import Message

from linli.waste.v1 import waste_pb2 as pb
from linli.waste.v1.events_pb2 import CATEGORY_KITCHEN
from servicekit.errors import Conflict, Denied, Invalid, NotFound
from servicekit.identifiers import new_id
from tests.waste.arrange import COMPARTMENTS, Community, SmartBin

pytestmark = pytest.mark.asyncio(loop_scope="module")


def bin_request(name: str, device_id: str, *compartments: str) -> pb.CreateBinRequest:
    """A bin with compartments of these names, all for kitchen waste."""
    return pb.CreateBinRequest(
        name=name,
        device_id=device_id,
        place=pb.Place(latitude=-90, longitude=180),
        compartments=[pb.Compartment(name=each, category=CATEGORY_KITCHEN, capacity_grams=1000) for each in compartments or ("one",)],
    )


async def test_a_bin_is_entered_with_its_compartments_and_changed(community: Community) -> None:
    created = await community.call("CreateBin", bin_request("南门", "south-1", "b", "a"))
    assert [(each.name, each.category, each.capacity_grams, each.fill_permille) for each in created.compartments] == [
        ("a", CATEGORY_KITCHEN, 1000, -1),
        ("b", CATEGORY_KITCHEN, 1000, -1),
    ]
    assert created.in_use
    assert not created.HasField("last_heard_at")
    moved = await community.call("UpdateBin", pb.UpdateBinRequest(bin_id=created.bin_id, place=pb.Place(latitude=1, longitude=2)))
    assert (moved.name, moved.place) == ("南门", pb.Place(latitude=1, longitude=2))
    renamed = await community.call("UpdateBin", pb.UpdateBinRequest(bin_id=created.bin_id, name="北门", in_use=False))
    assert (renamed.name, renamed.in_use, renamed.place) == ("北门", False, moved.place)
    assert await community.call("GetBin", pb.GetBinRequest(bin_id=created.bin_id), permissions=()) == renamed


async def test_no_two_bins_have_one_name_or_one_device_and_no_two_compartments_one_name(community: Community) -> None:
    first = await community.call("CreateBin", bin_request("东门", "east-1"))
    for name, device_id in (("东门", "east-2"), ("西门", "east-1")):
        with pytest.raises(Conflict, match=r"waste\.bin_exists"):
            await community.call("CreateBin", bin_request(name, device_id))
    second = await community.call("CreateBin", bin_request("西门", "east-2"))
    with pytest.raises(Conflict, match=r"waste\.bin_exists"):
        await community.call("UpdateBin", pb.UpdateBinRequest(bin_id=second.bin_id, name="东门"))
    with pytest.raises(Invalid, match=r"waste\.compartments_alike"):
        await community.call("CreateBin", bin_request("北门", "east-3", "one", "two", "one"))
    listed = (await community.call("ListBins", pb.ListBinsRequest(), permissions=())).bins
    assert [each.bin_id for each in listed] == [first.bin_id, second.bin_id]
    other = await Community(community.town).call("CreateBin", bin_request("东门", "east-1"))
    assert other.bin_id != first.bin_id


@pytest.mark.parametrize("name", ["   ", "a\0b", "a\nb", "\x7f"])
async def test_a_bin_has_a_name_that_people_can_see(community: Community, smart_bin: SmartBin, name: str) -> None:
    with pytest.raises(Invalid, match=r"request\.invalid"):
        await community.call("CreateBin", bin_request(name, "seen-1"))
    with pytest.raises(Invalid, match=r"request\.invalid"):
        await community.call("UpdateBin", pb.UpdateBinRequest(bin_id=smart_bin.bin_id, name=name))


@pytest.mark.parametrize("latitude", [float("nan"), float("inf"), 90.1])
async def test_a_bin_stands_somewhere(community: Community, smart_bin: SmartBin, latitude: float) -> None:
    with pytest.raises(Invalid, match=r"request\.invalid"):
        await community.call("UpdateBin", pb.UpdateBinRequest(bin_id=smart_bin.bin_id, place=pb.Place(latitude=latitude)))


async def test_bins_are_listed_by_name_page_by_page(community: Community) -> None:
    made = [(await community.bin()).bin_id for _ in range(3)]
    first = await community.call("ListBins", pb.ListBinsRequest(page_size=2))
    rest = await community.call("ListBins", pb.ListBinsRequest(page_size=2, page_token=first.next_page_token))
    assert [each.bin_id for each in [*first.bins, *rest.bins]] == made
    assert rest.next_page_token == ""


async def test_a_card_is_given_to_a_resident_and_to_one_at_a_time(community: Community) -> None:
    resident, other = await community.resident(), await community.resident()
    number = await resident.card("04A1B2C3D4")
    with pytest.raises(Conflict, match=r"waste\.card_in_use"):
        await other.card("04a1b2c3d4")
    await other.card("9999")
    cards = (await community.call("ListCards", pb.ListCardsRequest())).cards
    assert [(each.card_masked, each.account_id) for each in cards] == [
        ("9999", str(other.account_id)),
        ("******C3D4", str(resident.account_id)),
    ]
    (card,) = (await community.call("ListCards", pb.ListCardsRequest(account_id=str(resident.account_id)))).cards
    await community.call("RevokeCard", pb.RevokeCardRequest(card_id=card.card_id))
    with pytest.raises(NotFound, match=r"waste\.card_unknown"):
        await community.call("RevokeCard", pb.RevokeCardRequest(card_id=card.card_id))
    assert await other.card(number) == number


async def test_nobody_has_a_card_who_lives_nowhere_here(community: Community) -> None:
    foreign = await Community(community.town).resident()
    for account_id in (new_id(), foreign.account_id):
        with pytest.raises(NotFound, match=r"waste\.resident_unknown"):
            await community.call("RegisterCard", pb.RegisterCardRequest(card_number="1234567", account_id=str(account_id)))


async def requests(community: Community, smart_bin: SmartBin) -> dict[str, Message]:
    """A right request for each method that names something of a community, and is asked by staff."""
    resident = await community.resident()
    await resident.card()
    (card,) = (await community.call("ListCards", pb.ListCardsRequest())).cards
    waiting = await smart_bin.weighs(compartment="unknown")
    counted = await smart_bin.weighs(compartment="other")
    mixed = await smart_bin.weighs(compartment="other")
    await community.call("ReportContamination", pb.ReportContaminationRequest(deposit_id=mixed.deposit_id, note="混投"))
    return {
        "GetBin": pb.GetBinRequest(bin_id=smart_bin.bin_id),
        "UpdateBin": pb.UpdateBinRequest(bin_id=smart_bin.bin_id, name="theirs"),
        "RegisterCard": pb.RegisterCardRequest(card_number="ABCDE", account_id=str(resident.account_id)),
        "RevokeCard": pb.RevokeCardRequest(card_id=card.card_id),
        "ReviewDeposit": pb.ReviewDepositRequest(deposit_id=waiting.deposit_id, accept=True, category=CATEGORY_KITCHEN),
        "ReportContamination": pb.ReportContaminationRequest(deposit_id=counted.deposit_id, note="混投"),
        "WithdrawContamination": pb.WithdrawContaminationRequest(deposit_id=mixed.deposit_id, note="看错"),
        "RecordEmptying": pb.RecordEmptyingRequest(bin_id=smart_bin.bin_id),
    }


async def test_nothing_of_a_community_is_seen_or_changed_from_another(community: Community, smart_bin: SmartBin) -> None:
    stranger = Community(community.town)
    right = await requests(community, smart_bin)
    before = await community.deposits(), await smart_bin.look()
    for method, request in right.items():
        with pytest.raises(NotFound):
            await stranger.call(method, request)
    lists: dict[str, tuple[Message, str]] = {
        "ListBins": (pb.ListBinsRequest(), "bins"),
        "ListBinAlarms": (pb.ListBinAlarmsRequest(), "alarms"),
        "ListCards": (pb.ListCardsRequest(account_id=str(new_id())), "cards"),
        "ListDeposits": (pb.ListDepositsRequest(bin_id=smart_bin.bin_id), "deposits"),
    }
    for method, (request, name) in lists.items():
        answer: Any = await stranger.call(method, request)
        assert list(getattr(answer, name)) == []
    assert (await stranger.figures()).total.deposits == 0
    assert (await community.deposits(), await smart_bin.look()) == before
    # And with the permission of somebody here, all of it works.
    for method, request in right.items():
        await community.call(method, request)


async def test_only_staff_change_registers_and_see_whose_a_deposit_is(community: Community, smart_bin: SmartBin) -> None:
    right = await requests(community, smart_bin)
    del right["GetBin"]
    right |= {"ListDeposits": pb.ListDepositsRequest(), "ListCards": pb.ListCardsRequest(), "ListBinAlarms": pb.ListBinAlarmsRequest()}
    right["CreateBin"] = bin_request("x", "x")
    for method, request in right.items():
        with pytest.raises(Denied):
            await community.call(method, request, permissions=())
    assert len((await smart_bin.look()).compartments) == len(COMPARTMENTS)
