"""A visitor's pass for doors comes with a plate: parking lets the car in at the same time, and no longer."""

from datetime import timedelta
from uuid import UUID

import pytest

from linli.access.v1.events_pb2 import PassChanged
from linli.parking.v1 import parking_pb2 as pb
from servicekit.errors import NotFound
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from tests.parking.arrange import CarPark
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


def changed(park: CarPark, pass_id: UUID, plate: str, *, active: bool = True, household_id: str = "", hours: int = 4) -> PassChanged:
    """What access tells of a pass that begins now."""
    return PassChanged(
        pass_id=str(pass_id),
        household_id=household_id,
        plate=plate,
        valid_from=to_timestamp(park.clock.now),
        valid_until=to_timestamp(park.clock.now + timedelta(hours=hours)),
        active=active,
    )


async def tell(park: CarPark, event: PassChanged, version: int) -> None:
    """Publishes it, and waits until it is heard."""
    event_id = await park.community.publish(event, version=version, occurred_at=park.clock.now)

    async def heard() -> bool:
        async with park.running.transaction("parking", park.community.community_id) as tx:
            return bool(await tx.fetchval("SELECT EXISTS (SELECT FROM inbox WHERE event_id = $1)", event_id))

    await eventually(heard)


async def admission(park: CarPark, plate: str) -> str:
    """As what a car that comes in now is let in."""
    await park.sees("east_in", plate)
    return (await park.session(plate)).admission


async def test_a_car_that_comes_with_a_pass_for_doors_is_a_visitors_whoever_invited(park: CarPark) -> None:
    """A household's visitor, and a contractor, who is no household's. The plate is spelt as cameras spell it."""
    await tell(park, changed(park, new_id(), "京a·12345", household_id=str(new_id())), 2)
    await tell(park, changed(park, new_id(), "粤B88888"), 2)
    assert await admission(park, "京A12345") == "visitor_pass"
    assert await admission(park, "粤B88888") == "visitor_pass"
    assert await admission(park, "京A99999") == "temporary"


async def test_the_plate_ends_with_the_pass_and_an_older_word_does_not_revive_it(park: CarPark) -> None:
    pass_id = new_id()
    confirmed = changed(park, pass_id, "京A12345")
    await tell(park, changed(park, pass_id, "京A12345", active=False), 1)
    await tell(park, confirmed, 2)
    park.clock.advance(minutes=10)
    await tell(park, changed(park, pass_id, "京A12345", active=False), 3)
    await tell(park, confirmed, 2)
    assert await admission(park, "京A12345") == "temporary"


async def test_the_visitor_comes_with_another_car_and_the_first_one_no_more(park: CarPark) -> None:
    pass_id = new_id()
    await tell(park, changed(park, pass_id, "京A12345"), 2)
    await tell(park, changed(park, pass_id, "京A67890"), 3)
    assert await admission(park, "京A67890") == "visitor_pass"
    assert await admission(park, "京A12345") == "temporary"
    park.clock.advance(hours=4)
    await park.sees("east_out", "京A67890")
    await tell(park, changed(park, new_id(), "", hours=9), 2)
    assert await admission(park, "京A11111") == "temporary"


async def test_a_pass_of_access_is_neither_counted_nor_shown_nor_taken_back_here(park: CarPark) -> None:
    household_id, pass_id = new_id(), new_id()
    resident = {household_id: ["parking.visitor_passes.write", "parking.visitor_passes.read"]}
    await tell(park, changed(park, pass_id, "京A12345", household_id=str(household_id)), 2)
    request = pb.ListVisitorPassesRequest(household_id=str(household_id))
    assert not (await park.community.call("ListVisitorPasses", request, household=resident)).visitor_passes
    revoke = pb.RevokeVisitorPassRequest(household_id=str(household_id), visitor_pass_id=str(pass_id))
    with pytest.raises(NotFound):
        await park.community.call("RevokeVisitorPass", revoke, household=resident)
    assert await admission(park, "京A12345") == "visitor_pass"
