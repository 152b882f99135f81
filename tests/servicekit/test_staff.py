"""What a service knows of who holds which role, from identity's events."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest

from linli.identity.v1.events_pb2 import StaffChanged
from servicekit import staff
from servicekit.clock import system_clock
from servicekit.database import PLATFORM, Database, open_database
from servicekit.events import Received
from servicekit.identifiers import new_id
from servicekit.staff import list_staff, roles_of
from tests.servicekit.toy import QUIET, toy
from tests.support import Servers, eventually, platform


@dataclass(slots=True)
class Office:
    """A service's database, and the community whose staff it hears of."""

    database: Database
    community_id: UUID

    async def hears(self, account_id: UUID, *roles: str, version: int = 1, community_id: UUID | None = None) -> None:
        """Identity tells of an account's roles."""
        community = community_id or self.community_id
        message = StaffChanged(account_id=str(account_id), roles=roles)
        event = Received(str(new_id()), community, str(account_id), version, datetime.now(UTC), message)
        async with self.database.transaction(community) as tx:
            await staff.remember_staff_on_staff_changed(tx, event)

    async def holders(self, role: str) -> list[UUID]:
        """Who holds a role."""
        async with self.database.transaction(self.community_id) as tx:
            return await list_staff(tx, role)


@pytest.fixture
async def office(servers: Servers) -> AsyncIterator[Office]:
    async with servers.database(QUIET) as url:
        database = await open_database("toy", url, pool_size=2, clock=system_clock)
        try:
            yield Office(database, new_id())
        finally:
            await database.close()


async def test_everybody_who_holds_a_role_is_listed_and_who_lost_it_is_not(office: Office) -> None:
    anna, ben, stranger = (new_id() for _ in range(3))
    await office.hears(anna, "foreman", "technician")
    await office.hears(ben, "technician")
    assert (await office.holders("technician"), await office.holders("foreman")) == ([anna, ben], [anna])
    await office.hears(anna, "foreman", version=2)
    await office.hears(ben, version=2)
    assert (await office.holders("technician"), await office.holders("foreman")) == ([], [anna])
    async with office.database.transaction(office.community_id) as tx:
        held = await roles_of(tx, [anna, ben, stranger])
    assert held == {anna: {"foreman"}, ben: frozenset(), stranger: frozenset()}


async def test_what_is_told_late_or_again_changes_nothing_even_of_somebody_who_has_left(office: Office) -> None:
    anna = new_id()
    await office.hears(anna, version=3)
    await office.hears(anna, "foreman", version=2)
    await office.hears(anna, version=3)
    assert await office.holders("foreman") == []


async def test_the_staff_of_another_community_is_out_of_sight_but_not_for_the_platform(office: Office) -> None:
    anna = new_id()
    await office.hears(anna, "foreman", community_id=new_id())
    assert await office.holders("foreman") == []
    async with office.database.transaction(office.community_id) as tx:
        assert await roles_of(tx, [anna]) == {anna: frozenset()}
    async with office.database.transaction(PLATFORM) as tx:
        assert await roles_of(tx, [anna]) == {anna: {"foreman"}}


async def test_a_service_that_follows_staff_hears_of_them(servers: Servers) -> None:
    anna, community = new_id(), new_id()
    async with platform(servers, toy(staff.FOLLOWED)) as running:
        await running.publish(StaffChanged(account_id=str(anna), roles=["foreman"]), community, version=1)

        async def knows() -> list[UUID]:
            async with running.transaction("toy", community) as tx:
                return await list_staff(tx, "foreman")

        assert await eventually(knows) == [anna]
