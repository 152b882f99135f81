"""Visitors, deliveries and contractors: who invites them, what their links and passes open, and what ends them."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linli.access.v1 import access_pb2 as pb
from linli.access.v1.events_pb2 import PassChanged
from servicekit.database import PLATFORM
from servicekit.errors import Conflict, Exhausted, Invalid, NotFound, ServiceError
from servicekit.events import Received
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.access import pass_operations
from services.access.entries import LEAVING
from services.access.passes import Link, normal_plate, read_link
from tests.access.arrange import CARD, CODE, Community, Gate, Home
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
DELIVERY: Any = pb.PASS_KIND_DELIVERY


async def view(community: Community, link: str) -> pb.InvitationView:
    return await community.call_without_token("GetInvitation", pb.GetInvitationRequest(link=link))  # type: ignore[no-any-return]


async def code(community: Community, link: str) -> pb.DoorCode:
    return await community.call_without_token("CreateVisitorCode", pb.CreateVisitorCodeRequest(link=link))  # type: ignore[no-any-return]


async def no_code(community: Community, link: str) -> str:
    """Why a visitor gets no code."""
    with pytest.raises(Conflict) as error:
        await code(community, link)
    return error.value.code


async def last_event(community: Community, pass_id: str, *, active: bool) -> Received[PassChanged]:
    """The newest that was told of a pass; waits until it is what it should be."""

    async def newest() -> Received[PassChanged] | None:
        events = [event for event in community.running.events(PassChanged) if event.message.pass_id == pass_id]
        version = await community.value("SELECT version FROM passes WHERE pass_id = $1", UUID(pass_id))
        latest = next((event for event in events if event.version == version), None)
        return latest if latest is not None and latest.message.active == active else None

    found = await eventually(newest, "the pass's event")
    assert found is not None
    return found


async def enter(community: Community, pass_id: str, gate: Gate) -> None:
    """A door lets in on a pass."""
    async with community.running.transaction("access", community.community_id) as tx:
        await pass_operations.count_entry(tx, UUID(pass_id), UUID(gate.door_id))


async def passes(community: Community, **asked: Any) -> list[str]:
    return [each.pass_id for each in (await community.call("ListPasses", pb.ListPassesRequest(**asked))).passes]


# Visits.


async def test_a_visitor_is_invited_confirms_and_is_let_in_until_the_pass_is_over(community: Community) -> None:
    home = await community.home()
    gate = await community.door()
    entrance = await community.door(await community.zone(building_id=home.building_id))
    await community.door(await community.zone(building_id=new_id()))
    invitation = await community.invite(home, plate="京A·12345")
    invited = getattr(invitation, "pass")
    assert (invited.state, invited.plate, invited.household_id) == (pb.PASS_STATE_INVITED, "京A12345", str(home.household_id))
    shown = await view(community, invitation.link)
    assert (shown.visitor_name, list(shown.doors)) == ("李雷", sorted([gate.name, entrance.name]))

    # Until it is confirmed it opens nothing, neither a door nor a barrier.
    assert not await community.knows(gate.entrance, invited.pass_id)
    assert await no_code(community, invitation.link) == "access.pass_not_confirmed"
    assert not (await last_event(community, invited.pass_id, active=False)).message.active

    confirmed = await community.confirm(invitation.link)
    assert (confirmed.state, confirmed.plate) == (pb.PASS_STATE_CONFIRMED, "京A12345")
    assert await community.knows(gate.entrance, invited.pass_id)
    assert await community.knows(entrance.entrance, invited.pass_id)
    event = await last_event(community, invited.pass_id, active=True)
    assert (event.message.plate, event.message.household_id) == ("京A12345", str(home.household_id))
    assert (await community.told(home.people[0], "access.visitor_confirmed")).text_en == "Your visitor has accepted the invitation"
    assert (await code(community, invitation.link)).code

    community.clock.advance(days=1)
    assert await no_code(community, invitation.link) == "access.pass_over"
    assert (await view(community, invitation.link)).state == pb.PASS_STATE_EXPIRED
    # The timer tells everybody else.
    assert (await last_event(community, invited.pass_id, active=False)).version > event.version


async def test_a_pass_that_is_over_still_lets_out_and_is_forgotten_a_day_later(community: Community) -> None:
    home, gate = await community.home(), await community.door(has_exit=True)
    invitation = await community.invite(home)
    pass_id = getattr(invitation, "pass").pass_id
    await community.confirm(invitation.link)
    community.clock.advance(days=1)
    await last_event(community, pass_id, active=False)
    assert not await community.knows(gate.entrance, pass_id)
    assert await community.knows(gate.exit, pass_id)
    community.clock.advance(seconds=LEAVING.total_seconds())

    async def forgotten() -> bool:
        return not await community.knows(gate.exit, pass_id)

    await eventually(forgotten)


async def test_to_confirm_again_changes_only_the_name_and_the_plate(community: Community) -> None:
    home = await community.home()
    invitation = await community.invite(home, plate="京A12345")
    pass_id = getattr(invitation, "pass").pass_id
    first = await community.confirm(invitation.link)
    version = (await last_event(community, pass_id, active=True)).version
    community.clock.advance(minutes=5)
    assert await community.confirm(invitation.link) == first
    changed = await community.confirm(invitation.link, visitor_name="韩梅梅", plate="粤B88888")
    assert (changed.visitor_name, changed.plate) == ("韩梅梅", "粤B88888")
    assert await community.value("SELECT version FROM passes WHERE pass_id = $1", UUID(pass_id)) == version + 1
    with pytest.raises(Invalid) as error:
        await community.confirm(invitation.link, plate="不是车牌")
    assert (error.value.code, [field.field for field in error.value.fields]) == ("access.not_a_plate", ["plate"])


async def test_a_pass_that_has_not_begun_gives_no_code_and_one_without_doors_neither(community: Community) -> None:
    home, gate = await community.home(), await community.door(kinds=[CARD])
    request = pb.InviteVisitorRequest(
        household_id=str(home.household_id),
        kind=pb.PASS_KIND_VISIT,
        visitor_name="李雷",
        valid_from=to_timestamp(community.clock.now + timedelta(hours=1)),
        valid_until=to_timestamp(community.clock.now + timedelta(hours=2)),
    )
    invitation = await community.call_as(home.people[0], "InviteVisitor", request, home)
    await community.confirm(invitation.link)
    assert await no_code(community, invitation.link) == "access.pass_not_begun"
    community.clock.advance(hours=1)
    assert await no_code(community, invitation.link) == "access.no_door_for_codes"
    await community.call("UpdateDoor", pb.UpdateDoorRequest(door_id=gate.door_id, credential_kinds=[CARD, CODE]))
    assert (await code(community, invitation.link)).code


@pytest.mark.parametrize(
    ("kind", "begins_h", "ends_h"),
    [(pb.PASS_KIND_VISIT, 0, 31 * 24 + 1), (pb.PASS_KIND_VISIT, 2, 1), (pb.PASS_KIND_VISIT, -2, 0), (DELIVERY, 0, 2), (DELIVERY, 1, 1)],
)
async def test_times_that_cannot_be_are_refused(community: Community, kind: Any, begins_h: int, ends_h: int) -> None:
    home = await community.home()
    request = invitation_request(community, home, kind, begins_h, ends_h)
    with pytest.raises(Invalid) as error:
        await community.call_as(home.people[0], "InviteVisitor", request, home)
    assert (error.value.code, [field.field for field in error.value.fields]) == ("access.validity", ["valid_until"])


def invitation_request(community: Community, home: Home, kind: Any, begins_h: int, ends_h: int, **more: Any) -> pb.InviteVisitorRequest:
    more.setdefault("visitor_name", "李雷")
    return pb.InviteVisitorRequest(
        household_id=str(home.household_id),
        kind=kind,
        valid_from=to_timestamp(community.clock.now + timedelta(hours=begins_h)),
        valid_until=to_timestamp(community.clock.now + timedelta(hours=ends_h)),
        **more,
    )


@pytest.mark.parametrize(
    ("kind", "more", "code", "field"),
    [
        (pb.PASS_KIND_CONTRACTOR, {}, "access.pass_kind", "kind"),
        (pb.PASS_KIND_VISIT, {"plate": "没有车牌"}, "access.not_a_plate", "plate"),
        (pb.PASS_KIND_VISIT, {"visitor_name": "李\x07雷"}, "request.invalid", "visitor_name"),
    ],
)
async def test_invitations_that_cannot_be_are_refused(community: Community, kind: Any, more: Any, code: str, field: str) -> None:
    home = await community.home()
    with pytest.raises(Invalid) as error:
        await community.call_as(home.people[0], "InviteVisitor", invitation_request(community, home, kind, 0, 1, **more), home)
    assert (error.value.code, [each.field for each in error.value.fields]) == (code, [field])


async def test_a_household_invites_for_itself_and_staff_for_one_that_there_is(community: Community) -> None:
    home, other = await community.home(), await community.home()
    request = invitation_request(community, other, pb.PASS_KIND_VISIT, 0, 1)
    with pytest.raises(NotFound):
        await community.call_as(home.people[0], "InviteVisitor", request, home)
    assert (await community.call("InviteVisitor", request)).link
    request.household_id = str(new_id())
    with pytest.raises(NotFound) as error:
        await community.call("InviteVisitor", request)
    assert error.value.code == "access.household_unknown"


async def test_a_household_expects_twenty_visitors_at_a_time_and_no_more(community: Community) -> None:
    home = await community.home()
    answers = await asyncio.gather(*(community.invite(home) for _ in range(22)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert [error.code for error in refused] == ["access.too_many_passes"] * 2
    kept = next(answer for answer in answers if not isinstance(answer, BaseException))
    revoke = pb.RevokePassRequest(household_id=str(home.household_id), pass_id=getattr(kept, "pass").pass_id)
    await community.call_as(home.people[0], "RevokePass", revoke, home)
    await community.invite(home)


# Links.


async def test_every_link_that_is_none_is_the_same(community: Community) -> None:
    home = await community.home()
    genuine = read_link((await community.invite(home)).link)
    assert genuine is not None
    wrong = [
        str(Link(genuine.community_id, genuine.pass_id, bytes(16))),
        str(Link(genuine.community_id, new_id(), genuine.secret)),
        str(Link(new_id(), genuine.pass_id, genuine.secret)),
        str(genuine)[:-1] + "!",
        "x" * 64,
        "x" * 20,
    ]
    refusals = set()
    for link in wrong:
        for method, request in (
            ("GetInvitation", pb.GetInvitationRequest(link=link)),
            ("ConfirmInvitation", pb.ConfirmInvitationRequest(link=link)),
            ("CreateVisitorCode", pb.CreateVisitorCodeRequest(link=link)),
        ):
            with pytest.raises(NotFound) as error:
                await community.call_without_token(method, request)
            refusals.add((error.value.code, error.value.en, tuple(error.value.details)))
    assert refusals == {("access.invitation_unknown", "This invitation is not known", ())}


async def test_the_link_is_shown_once_and_its_secret_is_kept_nowhere(community: Community) -> None:
    home = await community.home()
    request = invitation_request(community, home, pb.PASS_KIND_VISIT, 0, 1)
    invitation = await community.call_as(home.people[0], "InviteVisitor", request, home, idempotency_key="once")
    link = read_link(invitation.link)
    assert link is not None
    with pytest.raises(ServiceError) as error:
        await community.call_as(home.people[0], "InviteVisitor", request, home, idempotency_key="once")
    assert link.secret.hex() not in str(error.value)
    kept = await community.value("SELECT secret_hash FROM passes WHERE pass_id = $1", link.pass_id)
    assert kept != link.secret
    assert len(await passes(community)) == 1


@given(st.uuids(), st.uuids(), st.binary(min_size=16, max_size=16))
async def test_a_link_is_read_as_it_was_written(community_id: UUID, pass_id: UUID, secret: bytes) -> None:
    link = Link(community_id, pass_id, secret)
    assert read_link(str(link)) == link


# Entering.


async def test_a_delivery_comes_once_through_each_door_on_its_way(community: Community) -> None:
    home = await community.home()
    gate = await community.door()
    entrance = await community.door(await community.zone(building_id=home.building_id))
    invitation = await community.invite(home, kind=DELIVERY)
    made = getattr(invitation, "pass")
    assert made.entries_max == 1
    await community.confirm(invitation.link)
    await enter(community, made.pass_id, gate)
    await community.told(home.people[0], "access.visitor_entered")
    assert (await view(community, invitation.link)).state == pb.PASS_STATE_CONFIRMED
    await enter(community, made.pass_id, entrance)
    assert (await view(community, invitation.link)).state == pb.PASS_STATE_EXPIRED
    assert await no_code(community, invitation.link) == "access.pass_over"
    await last_event(community, made.pass_id, active=False)
    assert await community.value("SELECT array_agg(entries) FROM pass_entries WHERE pass_id = $1", UUID(made.pass_id)) == [1, 1]


async def test_the_inviter_is_told_of_a_visit_once_and_of_the_next_again(community: Community) -> None:
    home, gate = await community.home(), await community.door()
    invitation = await community.invite(home, days=3)
    await community.confirm(invitation.link)
    pass_id = getattr(invitation, "pass").pass_id

    async def told() -> int:
        sql = "SELECT count(*) FROM outbox WHERE type LIKE '%Notified' AND body LIKE $1"
        return int(await community.value(sql, b"%visitor_entered%"))

    for minutes, times in ((0, 1), (2, 1), (60, 2)):
        community.clock.advance(minutes=minutes)
        await enter(community, pass_id, gate)
        assert await told() == times


# Ending.


async def test_who_visited_is_forgotten_when_the_doors_have_forgotten_it(community: Community) -> None:
    home, gate = await community.home(), await community.door()
    invited, confirmed = await community.invite(home), await community.invite(home, plate="京A12345")
    await community.confirm(confirmed.link)
    await enter(community, getattr(confirmed, "pass").pass_id, gate)

    async def forget(**later: float) -> int:
        community.clock.advance(**later)
        async with community.running.transaction("access", PLATFORM) as tx:
            await pass_operations.forget_visitors(tx)
        return len(await passes(community))

    assert await forget(days=180) == 2
    assert await forget(days=2) == 0
    assert await community.value("SELECT count(*) FROM pass_entries") == 0
    with pytest.raises(NotFound):
        await view(community, invited.link)


async def test_a_household_takes_its_own_pass_back_and_staff_end_any(community: Community) -> None:
    home, other = await community.home(), await community.home()
    gate = await community.door()
    invitation, second = await community.invite(home), await community.invite(other)
    pass_id = getattr(invitation, "pass").pass_id
    await community.confirm(invitation.link)
    theirs = pb.RevokePassRequest(household_id=str(other.household_id), pass_id=pass_id)
    with pytest.raises(NotFound) as error:
        await community.call_as(other.people[0], "RevokePass", theirs, other)
    assert error.value.code == "access.pass_unknown"
    ours = pb.RevokePassRequest(household_id=str(home.household_id), pass_id=pass_id)
    ended = await community.call_as(home.people[0], "RevokePass", ours, home)
    assert ended.state == pb.PASS_STATE_ENDED
    assert not await community.knows(gate.entrance, pass_id)
    await last_event(community, pass_id, active=False)
    assert await no_code(community, invitation.link) == "access.pass_over"
    with pytest.raises(Conflict) as over:
        await community.confirm(invitation.link)
    assert over.value.code == "access.pass_over"
    assert (await community.call_as(home.people[0], "RevokePass", ours, home)) == ended

    second_id = getattr(second, "pass").pass_id
    assert (await community.call("EndPass", pb.EndPassRequest(pass_id=second_id))).state == pb.PASS_STATE_ENDED
    with pytest.raises(NotFound):
        await community.call("EndPass", pb.EndPassRequest(pass_id=str(new_id())))


async def test_passes_are_listed_by_kind_state_and_household(community: Community) -> None:
    home, other = await community.home(), await community.home()
    invited = await community.invite(home)
    confirmed = await community.invite(home)
    delivery = await community.invite(other, kind=DELIVERY)
    ended = await community.invite(other)
    await community.confirm(confirmed.link)
    await community.call("EndPass", pb.EndPassRequest(pass_id=getattr(ended, "pass").pass_id))
    one, two, three, four = (getattr(each, "pass").pass_id for each in (invited, confirmed, delivery, ended))
    assert await passes(community) == [four, three, two, one]
    assert await passes(community, kind=DELIVERY) == [three]
    assert await passes(community, household_id=str(home.household_id)) == [two, one]
    assert await passes(community, state=pb.PASS_STATE_INVITED) == [three, one]
    assert await passes(community, state=pb.PASS_STATE_CONFIRMED) == [two]
    assert await passes(community, state=pb.PASS_STATE_ENDED) == [four]
    community.clock.advance(hours=1)
    assert await passes(community, state=pb.PASS_STATE_EXPIRED) == [three]
    request = pb.ListHouseholdPassesRequest(household_id=str(home.household_id), page_size=1)
    first = await community.call_as(home.people[0], "ListHouseholdPasses", request, home)
    request.page_token = first.next_page_token
    second = await community.call_as(home.people[0], "ListHouseholdPasses", request, home)
    assert [first.passes[0].pass_id, second.passes[0].pass_id, second.next_page_token] == [two, one, ""]


async def test_what_somebody_gave_out_ends_when_they_move_away_and_their_family_s_does_not(community: Community) -> None:
    home, gate = await community.home(people=2), await community.door()
    leaving = await community.invite(home)
    home.people = home.people[1:]
    staying = await community.invite(home)
    for invitation in (leaving, staying):
        await community.confirm(invitation.link)
    await community.tell(home)
    assert (await view(community, leaving.link)).state == pb.PASS_STATE_ENDED
    assert (await view(community, staying.link)).state == pb.PASS_STATE_CONFIRMED
    assert not await community.knows(gate.entrance, getattr(leaving, "pass").pass_id)
    assert await community.knows(gate.entrance, getattr(staying, "pass").pass_id)
    # A new flat: the visitor goes there.
    entrance = await community.door(await community.zone(building_id=new_id()))
    assert not await community.knows(entrance.entrance, getattr(staying, "pass").pass_id)
    home.building_id = await community.value("SELECT building_id FROM zones WHERE zone_id = $1", UUID(entrance.zone_id))
    await community.tell(home)
    assert await community.knows(entrance.entrance, getattr(staying, "pass").pass_id)


# Contractors.


async def contractor(community: Community, order_id: UUID, *zone_ids: str) -> Any:
    request = pb.InviteContractorRequest(work_order_id=str(order_id), contractor_name="电梯维保", zone_ids=zone_ids, plate="京A12345")
    return await community.call("InviteContractor", request)


def visit(community: Community, begins_h: int, ends_h: int) -> tuple[datetime, datetime]:
    return community.clock.now + timedelta(hours=begins_h), community.clock.now + timedelta(hours=ends_h)


async def test_a_contractor_comes_for_the_visit_of_a_work_order_follows_it_and_is_out_when_it_is_closed(community: Community) -> None:
    lift, other = await community.door(), await community.door()
    order_id = await community.work_order(visit=visit(community, 1, 2))
    invitation = await contractor(community, order_id, lift.zone_id)
    made = getattr(invitation, "pass")
    assert (made.work_order_id, made.household_id, list(made.zone_ids)) == (str(order_id), "", [lift.zone_id])
    margin = timedelta(minutes=30)
    begins, ends = visit(community, 1, 2)
    assert (made.valid_from, made.valid_until) == (to_timestamp(begins - margin), to_timestamp(ends + margin))
    await community.confirm(invitation.link)
    assert await community.knows(lift.entrance, made.pass_id)
    assert not await community.knows(other.entrance, made.pass_id)
    event = await last_event(community, made.pass_id, active=True)
    assert (event.message.household_id, event.message.plate) == ("", "京A12345")

    later = visit(community, 25, 26)
    await community.work_order(order_id, visit=later, version=3)
    await community.work_order(order_id, visit=visit(community, 5, 6), version=2)
    assert (await view(community, invitation.link)).valid_from == to_timestamp(later[0] - margin)
    await community.work_order(order_id, visit=later, closed=True, version=4)
    assert (await view(community, invitation.link)).state == pb.PASS_STATE_ENDED
    assert not await community.knows(lift.entrance, made.pass_id)
    await last_event(community, made.pass_id, active=False)


async def test_a_visit_that_is_moved_after_its_time_revives_the_pass_and_one_that_is_called_off_ends_it(community: Community) -> None:
    lift = await community.door()
    order_id = await community.work_order(visit=visit(community, 0, 1))
    invitation = await contractor(community, order_id, lift.zone_id)
    await community.confirm(invitation.link)
    community.clock.advance(hours=2)
    await last_event(community, getattr(invitation, "pass").pass_id, active=False)
    await community.work_order(order_id, visit=visit(community, 0, 1), version=2)
    await last_event(community, getattr(invitation, "pass").pass_id, active=True)
    assert (await code(community, invitation.link)).code
    await community.work_order(order_id, version=3)
    assert (await view(community, invitation.link)).state == pb.PASS_STATE_ENDED


async def test_a_contractor_needs_an_open_order_with_a_visit_to_come(community: Community) -> None:
    zone_id = await community.zone()
    agreed = await community.work_order(visit=visit(community, 1, 2))
    for order_id, zone, kind, reason in (
        (new_id(), zone_id, NotFound, "access.work_order_unknown"),
        (await community.work_order(visit=visit(community, 1, 2), closed=True), zone_id, Conflict, "access.work_order_closed"),
        (await community.work_order(), zone_id, Conflict, "access.visit_not_agreed"),
        (await community.work_order(visit=visit(community, 2, 1)), zone_id, Conflict, "access.visit_not_agreed"),
        (await community.work_order(visit=visit(community, -2, -1)), zone_id, Conflict, "access.visit_over"),
        (agreed, str(new_id()), NotFound, "access.zone_unknown"),
    ):
        with pytest.raises(kind) as error:
            await contractor(community, order_id, zone)
        assert error.value.code == reason


# Plates.


@pytest.mark.parametrize(
    ("typed", "plate"),
    [
        ("京a·12345", "京A12345"),
        ("粤Ｂ ８８８８８", "粤B88888"),
        ("WJ12345", "WJ12345"),
        ("12345", None),
        ("京京京京京", None),
        ("京A1", None),
    ],
)
async def test_a_plate_has_one_spelling(typed: str, plate: str | None) -> None:
    assert normal_plate(typed) == plate
