"""Vehicles of households, and what others hear of them."""

import asyncio

import pytest

from linli.identity.v1 import identity_pb2 as pb
from linli.identity.v1.events_pb2 import VehicleRegistered, VehicleRemoved
from servicekit.errors import Conflict, Invalid, NotFound
from services.identity.operations import VEHICLES_MAX
from tests.identity.arrange import Community, account_id_of, new_phone

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_household_registers_and_removes_its_vehicle_and_everybody_hears_of_it(community: Community) -> None:
    household_id = await community.household("1栋")
    owner = await community.member(household_id)
    vehicle = await owner.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=household_id, plate="京a·12 345"))
    assert (vehicle.plate, vehicle.household_id) == ("京A12345", household_id)
    heard = await community.town.running.event(VehicleRegistered, lambda e: e.aggregate == vehicle.vehicle_id)
    assert (heard.version, heard.message.plate, list(heard.message.account_ids)) == (1, "京A12345", [str(account_id_of(owner))])
    listed = await owner.call("ListVehicles", pb.ListVehiclesRequest(household_id=household_id))
    assert list(listed.vehicles) == [vehicle]
    removal = pb.RemoveVehicleRequest(household_id=household_id, vehicle_id=vehicle.vehicle_id)
    await owner.call("RemoveVehicle", removal)
    gone = await community.town.running.event(VehicleRemoved, lambda e: e.aggregate == vehicle.vehicle_id)
    assert (gone.version, gone.message.plate) == (2, "京A12345")
    assert not (await owner.call("ListVehicles", pb.ListVehiclesRequest(household_id=household_id))).vehicles
    with pytest.raises(NotFound):
        await owner.call("RemoveVehicle", removal)


async def test_a_vehicle_is_told_again_with_a_growing_version_when_the_people_of_its_household_change(community: Community) -> None:
    household_id = await community.household("1栋")
    request = pb.RegisterVehicleRequest(household_id=household_id, plate="京AD12345")
    vehicle = await community.manager.call("RegisterVehicle", request)
    owner = await community.member(household_id)
    family = await community.member(household_id, pb.MEMBER_KIND_FAMILY)
    removal = pb.RemoveMemberRequest(household_id=household_id, account_id=str(account_id_of(owner)))
    await community.manager.call("RemoveMember", removal)
    await community.town.running.event(VehicleRegistered, lambda e: e.aggregate == vehicle.vehicle_id and e.version == 4)
    heard = [event for event in community.town.running.events(VehicleRegistered) if event.aggregate == vehicle.vehicle_id]
    people = [sorted(event.message.account_ids) for event in heard]
    one, other = str(account_id_of(owner)), str(account_id_of(family))
    assert [event.version for event in heard] == [1, 2, 3, 4]
    assert people == [[], [one], sorted([one, other]), [other]]


async def test_the_newest_version_of_a_vehicle_names_everybody_however_many_join_at_the_same_time(community: Community) -> None:
    household_id = await community.household("1栋")
    vehicle = await community.manager.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=household_id, plate="京A12345"))
    requests = [pb.AddMemberRequest(household_id=household_id, phone=new_phone(), name="人", kind=pb.MEMBER_KIND_FAMILY) for _ in range(6)]
    await asyncio.gather(*(community.manager.call("AddMember", request) for request in requests))
    newest = await community.town.running.event(VehicleRegistered, lambda e: e.aggregate == vehicle.vehicle_id and e.version == 7)
    assert len(newest.message.account_ids) == 6


async def test_a_plate_belongs_to_one_household(community: Community) -> None:
    one, other = await community.household("1栋"), await community.household("2栋")
    await community.manager.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=one, plate="京A12345"))
    for household_id in (one, other):
        with pytest.raises(Conflict) as error:
            await community.manager.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=household_id, plate="京Ａ１２３４５"))
        assert error.value.code == "identity.plate_taken"
    elsewhere = await community.town.community()
    household_id = await elsewhere.household("1栋")
    await elsewhere.manager.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=household_id, plate="京A12345"))


async def test_of_two_households_that_register_a_plate_at_the_same_time_one_has_it(community: Community) -> None:
    ids = [await community.household(f"{number}栋") for number in range(4)]
    requests = [pb.RegisterVehicleRequest(household_id=household_id, plate="京A12345") for household_id in ids]
    calls = (community.manager.call("RegisterVehicle", request) for request in requests)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "Conflict", "Conflict", "Vehicle"]


@pytest.mark.parametrize("plate", ["没有车牌", "12345", "A", "京A\x00123", "'; DROP TABLE", "京A12345京A123", "   "])
async def test_what_is_no_plate_is_refused(community: Community, plate: str) -> None:
    household_id = await community.household("1栋")
    with pytest.raises(Invalid) as error:
        await community.manager.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=household_id, plate=plate))
    assert [violation.field for violation in error.value.fields] == ["plate"]


async def test_a_household_has_so_many_vehicles_and_no_more(community: Community) -> None:
    household_id = await community.household("1栋")
    for number in range(VEHICLES_MAX):
        request = pb.RegisterVehicleRequest(household_id=household_id, plate=f"京B{number:05}")
        await community.manager.call("RegisterVehicle", request)
    with pytest.raises(Conflict) as error:
        await community.manager.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=household_id, plate="京C00000"))
    assert error.value.code == "identity.too_many_vehicles"
