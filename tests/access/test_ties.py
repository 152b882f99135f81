"""Whoever neither lives nor works here any more leaves nothing behind; care ends with the household that it stood on."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from linli.access.v1 import access_pb2 as pb
from linli.access.v1 import care_pb2
from linli.identity.v1.events_pb2 import HouseholdChanged, StaffChanged
from servicekit.events import M, Received
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.access import reactions
from tests.access.alarming import pass_time, source
from tests.access.arrange import Community, Home
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
ON_TERMINALS, ON_SERVER = pb.CONSENT_KIND_FACE_ON_TERMINALS, pb.CONSENT_KIND_FACE_ON_SERVER
ACTIVITY, LOCATION = pb.CONSENT_KIND_CARE_ACTIVITY, pb.CONSENT_KIND_CARE_LOCATION


async def leave(community: Community, home: Home, *people: UUID) -> None:
    home.people = [each for each in home.people if each not in people]
    await community.tell(home)


async def settle_in(community: Community, resident: UUID) -> None:
    """Somebody gets a card, a PIN and a face, with a template here."""
    await community.card(resident)
    await community.call_as(resident, "SetMyPin", pb.SetMyPinRequest(pin="805312"))
    await community.consent(resident, ON_TERMINALS, ON_SERVER)
    await community.call_as(resident, "EnrolMyFace", pb.EnrolMyFaceRequest(template=b"template"))


async def kept(community: Community, account_id: UUID) -> dict[str, int]:
    """How many of what there is of somebody still holds."""
    live = {
        "credentials": "SELECT count(*) FROM credentials WHERE account_id = $1 AND (revoked_at IS NULL OR digest IS NOT NULL)",
        "templates": "SELECT count(*) FROM face_templates WHERE account_id = $1",
        "consents": "SELECT count(*) FROM consents WHERE account_id = $1 AND withdrawn_at IS NULL",
        "entries": "SELECT count(*) FROM terminal_entries WHERE subject_id = $1 AND body IS NOT NULL",
    }
    return {name: await community.value(sql, account_id) for name, sql in live.items()}


NOTHING = {"credentials": 0, "templates": 0, "consents": 0, "entries": 0}


async def test_who_has_moved_away_leaves_nothing_here_nor_at_any_terminal(community: Community) -> None:
    home, gate = await community.home(2), await community.door()
    resident, stays = home.people
    await settle_in(community, resident)
    await settle_in(community, stays)
    await community.reports(gate.entrance, await community.wanted_version(gate.entrance))
    await leave(community, home, resident)
    assert not await community.knows(gate.entrance, resident)
    await pass_time(community, days=1)
    assert await kept(community, resident) == NOTHING
    assert await kept(community, stays) == {"credentials": 3, "templates": 1, "consents": 2, "entries": 1}

    async def unconfirmed() -> list[str]:
        consents = (await community.call("ListConsents", pb.ListConsentsRequest(unconfirmed_only=True))).consents
        return [removal.device_id for consent in consents for removal in consent.removals]

    assert await unconfirmed() == [gate.entrance, gate.entrance]
    await community.reports(gate.entrance, await community.wanted_version(gate.entrance))

    async def confirmed() -> bool:
        return not await unconfirmed()

    await eventually(confirmed, "the terminal to have forgotten the face")
    # Whoever comes back begins anew: what was handed in or lost meanwhile opens nothing.
    home.people.append(resident)
    await community.tell(home)
    mine = await community.call_as(resident, "ListMyCredentials", pb.ListMyCredentialsRequest())
    assert not mine.credentials
    await settle_in(community, resident)


async def test_who_moves_within_the_community_keeps_everything_in_whatever_order_that_is_told(community: Community) -> None:
    gate = await community.door()
    old, new = await community.home(), await community.home()
    (mover,) = old.people
    await settle_in(community, mover)
    before = await kept(community, mover)
    stale = old.event()
    await leave(community, old, mover)
    await community.deliver(stale, version=2)
    await pass_time(community, hours=23)
    assert not await community.knows(gate.entrance, mover)
    new.people.append(mover)
    await community.tell(new)
    await pass_time(community, days=2)
    assert await kept(community, mover) == before
    # Told again as it is, which is nothing new.
    await community.deliver(old.event(), version=old.version)
    await pass_time(community, days=2)
    assert await kept(community, mover) == before


async def test_who_works_here_no_more_or_whose_rule_has_ended_leaves_nothing_either(community: Community) -> None:
    gate, far_off = await community.door(has_exit=True), await community.home()
    guard, nanny, plumber = await community.employ("property_staff"), new_id(), far_off.people[0]
    rules = {}
    for account_id, days in ((nanny, 30), (plumber, 2), (guard, 0)):
        until = to_timestamp(community.clock.now + timedelta(days=days)) if days else None
        rule = pb.CreateAccessRuleRequest(zone_id=gate.zone_id, account_id=str(account_id), valid_until=until)
        rules[account_id] = (await community.call("CreateAccessRule", rule)).rule_id
        await settle_in(community, account_id)
    lives_here = await kept(community, plumber)
    await community.employ(account_id=guard, version=2)
    await pass_time(community, days=1)
    assert (await kept(community, guard))["credentials"] == 3
    await community.call("EndAccessRule", pb.EndAccessRuleRequest(rule_id=rules[guard]))
    await pass_time(community, days=1)
    assert await kept(community, guard) == NOTHING
    await pass_time(community, days=10)
    assert await kept(community, plumber) == lives_here
    assert await community.knows(gate.entrance, nanny)
    await pass_time(community, days=19)
    assert await kept(community, nanny) == NOTHING


async def test_two_processes_that_hear_of_one_household_leave_nobody_outside(community: Community) -> None:
    """The news that somebody is back overtakes the news that they left."""
    gate, home = await community.door(), await community.home(2)
    (away, _) = home.people
    left = HouseholdChanged(household_id=str(home.household_id), building_id=str(home.building_id), account_ids=[str(home.people[1])])
    pool = community.running

    def received(event: M, version: int) -> Received[M]:
        return Received(str(new_id()), community.community_id, "", version, community.clock.now, event)

    async def somebody_waits() -> bool:
        return bool(await community.value("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))

    async def hear(event: Any, version: int) -> None:
        async with pool.transaction("access", community.community_id) as tx:
            await reactions.refresh_doors_on_household_changed(tx, received(event, version))

    async with pool.transaction("access", community.community_id) as tx:
        await reactions.refresh_doors_on_household_changed(tx, received(left, 3))
        back = asyncio.create_task(hear(home.event(), 4))
        await eventually(somebody_waits)
    await back
    assert await community.knows(gate.entrance, away)
    staff = await community.employ("property_staff")
    await community.call("CreateAccessRule", pb.CreateAccessRuleRequest(zone_id=gate.zone_id, role="property_staff"))

    async def hear_staff(version: int, *roles: str) -> None:
        async with pool.transaction("access", community.community_id) as tx:
            event = StaffChanged(account_id=str(staff), roles=roles)
            await reactions.refresh_doors_on_staff_changed(tx, received(event, version))

    async with pool.transaction("access", community.community_id) as tx:
        await reactions.refresh_doors_on_staff_changed(tx, received(StaffChanged(account_id=str(staff)), 2))
        again = asyncio.create_task(hear_staff(3, "property_staff"))
        await eventually(somebody_waits)
    await again
    assert await community.knows(gate.entrance, staff)


# Care.


async def start(community: Community, caller: UUID, person: UUID | None, *guardians: UUID) -> care_pb2.CarePlan:
    request = care_pb2.StartCareRequest(
        kind=care_pb2.CARE_KIND_ACTIVITY,
        account_id=str(person or ""),
        guardian_account_ids=map(str, guardians),
        source_ids=[source()],
    )
    return await community.call_as(caller, "StartCare", request)  # type: ignore[no-any-return]


async def plan_of(community: Community, account_id: UUID) -> care_pb2.CarePlan | None:
    plans = (await community.call_as(account_id, "ListMyCarePlans", care_pb2.ListMyCarePlansRequest())).care_plans
    return plans[0] if plans else None


async def test_a_guardian_who_has_left_the_household_hears_and_sees_nothing_more(community: Community) -> None:
    home, aunt = await community.home(3), new_id()
    child, father, mother = home.people
    await community.consent(child, ACTIVITY)
    await start(community, father, child, mother, aunt)
    await leave(community, home, father)
    await pass_time(community, days=1)
    assert await plan_of(community, father) is None
    await community.told(father, "access.care_guardian_left")
    await community.told(child, "access.care_guardian_left")
    plan = await plan_of(community, child)
    assert plan is not None
    assert set(plan.guardian_account_ids) == {str(mother), str(aunt)}
    assert not plan.HasField("stopped_at")
    # The last who lives with the person takes the care along: nobody is left who may speak for them.
    await leave(community, home, mother)
    await pass_time(community, days=1)
    plan = await plan_of(community, child)
    assert plan is not None
    assert plan.HasField("stopped_at")
    await community.told(mother, "access.care_stopped")
    assert await community.value("SELECT count(*) FROM care_sources") == 0


async def test_whom_somebody_named_themselves_stays_their_guardian_when_they_move_out(community: Community) -> None:
    home = await community.home(2)
    grandmother, daughter = home.people
    await community.consent(grandmother, ACTIVITY)
    await start(community, grandmother, None, daughter)
    await leave(community, home, daughter)
    await pass_time(community, days=1)
    plan = await plan_of(community, daughter)
    assert plan is not None
    assert not plan.HasField("stopped_at")


async def test_care_ends_for_who_has_moved_away_and_goes_on_for_those_who_move_together(community: Community) -> None:
    home, next_door = await community.home(2), await community.home()
    mother, son = home.people
    await community.consent(mother, ACTIVITY, LOCATION)
    await start(community, son, mother)
    await leave(community, home, mother, son)
    next_door.people += [mother, son]
    await community.tell(next_door)
    await pass_time(community, days=1)
    plan = await plan_of(community, son)
    assert plan is not None
    assert list(plan.guardian_account_ids) == [str(son)]
    assert not plan.HasField("stopped_at")
    await leave(community, next_door, mother)
    await pass_time(community, days=1)
    plan = await plan_of(community, son)
    assert plan is None or plan.HasField("stopped_at")
    assert await kept(community, mother) == NOTHING
    assert await community.value("SELECT count(*) FROM care_sources") == 0
