"""What a service knows of who lives together, from identity's events."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest

from linli.identity.v1.events_pb2 import HouseholdChanged
from servicekit import households
from servicekit.clock import system_clock
from servicekit.database import PLATFORM, Database, open_database
from servicekit.events import Received
from servicekit.households import Home, find_homes, is_member, list_members
from servicekit.identifiers import new_id
from tests.servicekit.toy import QUIET, toy
from tests.support import Servers, eventually, platform


@dataclass(slots=True)
class Estate:
    """A service's database, and the community whose households it hears of."""

    database: Database
    community_id: UUID

    async def hears(self, household_id: UUID, building_id: UUID, *account_ids: UUID, version: int = 1) -> None:
        """Identity tells of a household."""
        message = HouseholdChanged(household_id=str(household_id), building_id=str(building_id), account_ids=map(str, account_ids))
        event = Received(str(new_id()), self.community_id, str(household_id), version, datetime.now(UTC), message)
        async with self.database.transaction(self.community_id) as tx:
            await households.remember_household_on_household_changed(tx, event)

    async def homes(self, *account_ids: UUID) -> dict[UUID, Home]:
        """Where these accounts live."""
        async with self.database.transaction(self.community_id) as tx:
            return await find_homes(tx, account_ids)

    async def members(self, building_id: UUID) -> Sequence[UUID]:
        """Who lives in a building."""
        async with self.database.transaction(self.community_id) as tx:
            return await list_members(tx, building_id)


@pytest.fixture
async def estate(servers: Servers) -> AsyncIterator[Estate]:
    async with servers.database(QUIET) as url:
        database = await open_database("toy", url, pool_size=2, clock=system_clock)
        try:
            yield Estate(database, new_id())
        finally:
            await database.close()


async def test_a_resident_is_at_home_in_the_oldest_household_and_a_stranger_nowhere(estate: Estate) -> None:
    older, newer, building, other, anna, ben = (new_id() for _ in range(6))
    await estate.hears(newer, building, anna, ben)
    await estate.hears(older, other, anna)
    assert await estate.homes(anna, ben, new_id()) == {anna: Home(older, other), ben: Home(newer, building)}
    assert await estate.members(building) == [anna, ben]
    assert await estate.homes() == {}


async def test_who_has_left_every_household_is_no_resident_any_more(estate: Estate) -> None:
    household, building, anna, ben = (new_id() for _ in range(4))
    await estate.hears(household, building, anna, ben)
    await estate.hears(household, building, ben, version=2)
    assert await estate.homes(anna, ben) == {ben: Home(household, building)}
    async with estate.database.transaction(estate.community_id) as tx:
        assert [await is_member(tx, household, account_id) for account_id in (anna, ben)] == [False, True]
    await estate.hears(household, building, version=3)
    assert await estate.members(building) == []


async def test_an_event_that_comes_late_or_again_changes_nothing(estate: Estate) -> None:
    household, building, anna, ben = (new_id() for _ in range(4))
    await estate.hears(household, building, ben, version=3)
    await estate.hears(household, building, anna, version=2)
    await estate.hears(household, building, ben, version=3)
    assert await estate.homes(anna, ben) == {ben: Home(household, building)}


async def test_the_residents_of_another_community_are_out_of_sight_but_not_for_the_platform(estate: Estate) -> None:
    household, building, anna = (new_id() for _ in range(3))
    await estate.hears(household, building, anna)
    async with estate.database.transaction(new_id()) as tx:
        assert (await find_homes(tx, [anna]), await list_members(tx, building)) == ({}, [])
        assert not await is_member(tx, household, anna)
    async with estate.database.transaction(PLATFORM) as tx:
        assert await find_homes(tx, [anna]) == {anna: Home(household, building)}


async def test_a_service_that_follows_households_hears_of_them(servers: Servers) -> None:
    household, building, anna, community = (new_id() for _ in range(4))
    async with platform(servers, toy(households.FOLLOWED)) as running:
        message = HouseholdChanged(household_id=str(household), building_id=str(building), account_ids=[str(anna)])
        await running.publish(message, community, version=1)

        async def knows() -> dict[UUID, Home]:
            async with running.transaction("toy", community) as tx:
                return await find_homes(tx, [anna])

        assert await eventually(knows) == {anna: Home(household, building)}
