"""Every method of doors, credentials, consents and passes, called from another community or by somebody who may not."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.message import Message

from linli.access.v1 import access_pb2 as pb
from linli.device.v1 import events_pb2 as device
from servicekit.errors import Conflict, Denied, NotFound, Unauthenticated
from servicekit.identifiers import new_id
from servicekit.times import to_timestamp
from services.access.passes import Link, read_link
from tests.access.arrange import CARD, CONTRACT, Community, Gate, Home
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Methods that answer everybody in a community, each with its own.
ANSWERED = {
    "CreateZone",
    "ListZones",
    "ListDoors",
    "ListTerminals",
    "ListMyDoors",
    "ListAccessRules",
    "ListCredentials",
    "ListMyCredentials",
    "PublishConsentText",
    "ListConsentTexts",
    "ListMyConsents",
    "ListConsents",
    "ListHouseholdPasses",
    "ListPasses",
}
SIGNED_IN = {
    "ListMyDoors",
    "OpenMyDoor",
    "ListMyCredentials",
    "RevokeMyCredential",
    "ListConsentTexts",
    "GiveConsent",
    "WithdrawConsent",
    "ListMyConsents",
}


async def requests(community: Community, home: Home, gate: Gate) -> dict[str, Message]:
    """A request for each method, which names what there is here."""
    (resident, *_) = home.people
    card = await community.card(resident)
    (consent,) = await community.consent(resident, pb.CONSENT_KIND_FACE_ON_TERMINALS)
    made = getattr(await community.invite(home), "pass")
    order_id = await community.work_order(visit=(community.clock.now, community.clock.now + timedelta(hours=1)))
    rule = await community.call("CreateAccessRule", pb.CreateAccessRuleRequest(zone_id=gate.zone_id, account_id=str(resident)))
    household_id, account_id = str(home.household_id), str(resident)
    kind: Any = pb.CONSENT_KIND_FACE_ON_TERMINALS
    door = pb.CreateDoorRequest(
        zone_id=gate.zone_id, name="另一扇门", kind=pb.DOOR_KIND_LIFT, credential_kinds=[CARD], anti_passback=pb.ANTI_PASSBACK_OFF
    )
    visit = pb.InviteVisitorRequest(
        household_id=household_id,
        kind=pb.PASS_KIND_VISIT,
        visitor_name="李雷",
        valid_from=to_timestamp(community.clock.now),
        valid_until=to_timestamp(community.clock.now + timedelta(hours=1)),
    )
    return {
        "CreateZone": pb.CreateZoneRequest(name="墙外", kind=pb.ZONE_KIND_STAFF),
        "ListZones": pb.ListZonesRequest(),
        "CreateDoor": door,
        "UpdateDoor": pb.UpdateDoorRequest(door_id=gate.door_id, name="改名"),
        "GetDoor": pb.GetDoorRequest(door_id=gate.door_id),
        "ListDoors": pb.ListDoorsRequest(),
        "AddTerminal": pb.AddTerminalRequest(door_id=gate.door_id, device_id="another", direction=pb.DIRECTION_OUT),
        "RemoveTerminal": pb.RemoveTerminalRequest(device_id=gate.entrance),
        "ListTerminals": pb.ListTerminalsRequest(),
        "OpenDoor": pb.OpenDoorRequest(door_id=gate.door_id, reason="访客"),
        "ListMyDoors": pb.ListMyDoorsRequest(),
        "OpenMyDoor": pb.OpenMyDoorRequest(door_id=gate.door_id),
        "CreateAccessRule": pb.CreateAccessRuleRequest(zone_id=gate.zone_id, all_residents=True),
        "EndAccessRule": pb.EndAccessRuleRequest(rule_id=rule.rule_id),
        "ListAccessRules": pb.ListAccessRulesRequest(),
        "IssueCard": pb.IssueCardRequest(account_id=account_id, card_number="77776666"),
        "RevokeCredential": pb.RevokeCredentialRequest(credential_id=card.credential_id),
        "ListCredentials": pb.ListCredentialsRequest(),
        "ListMyCredentials": pb.ListMyCredentialsRequest(),
        "RevokeMyCredential": pb.RevokeMyCredentialRequest(credential_id=card.credential_id),
        "PublishConsentText": pb.PublishConsentTextRequest(
            kind=pb.CONSENT_KIND_CARE_ACTIVITY, text_zh="本人同意按本说明处理我的个人信息。" * 2
        ),
        "ListConsentTexts": pb.ListConsentTextsRequest(),
        "GiveConsent": pb.GiveConsentRequest(kind=kind, text_version=1, account_id=account_id),
        "RecordConsent": pb.RecordConsentRequest(account_id=account_id, kind=kind, text_version=1),
        "WithdrawConsent": pb.WithdrawConsentRequest(consent_id=consent.consent_id),
        "ListMyConsents": pb.ListMyConsentsRequest(),
        "ListConsents": pb.ListConsentsRequest(),
        "InviteVisitor": visit,
        "RevokePass": pb.RevokePassRequest(household_id=household_id, pass_id=made.pass_id),
        "ListHouseholdPasses": pb.ListHouseholdPassesRequest(household_id=household_id),
        "InviteContractor": pb.InviteContractorRequest(work_order_id=str(order_id), contractor_name="维保", zone_ids=[gate.zone_id]),
        "EndPass": pb.EndPassRequest(pass_id=made.pass_id),
        "ListPasses": pb.ListPassesRequest(),
    }


async def everything(community: Community) -> list[str]:
    """All rows of the community, as text."""
    async with community.running.transaction("access", community.community_id) as tx:
        names = await tx.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1")
        tables = [row[0] for row in names if row[0] not in ("schema_migrations", "outbox", "inbox", "idempotency_keys")]
        return [str(row) for table in tables for row in await tx.fetch(f'SELECT * FROM "{table}" ORDER BY 1, 2')]


async def test_nothing_crosses_the_wall_between_communities(community: Community) -> None:
    home, gate = await community.home(), await community.door()
    asked = await requests(community, home, gate)
    before = await everything(community)
    # Somebody who may do everything in their own community, and has the same account id there.
    stranger = Community(community.town)
    stranger.account_id = home.people[0]
    household = {home.household_id: ["access.visitors.read", "access.visitors.write"]}
    for method, request in asked.items():
        if method in ANSWERED:
            answer = await stranger.call(method, request, household=household)
            if method.startswith("List") and method not in ("ListZones", "ListConsentTexts"):
                assert answer == type(answer)(), method
        else:
            with pytest.raises(NotFound):
                await stranger.call(method, request, household=household)
    assert await everything(community) == before
    # The same requests are right where they belong.
    resident = Community(community.town, community.community_id, home.people[0])
    last = ("RemoveTerminal", "EndAccessRule", "RevokeCredential", "RevokeMyCredential", "WithdrawConsent", "RevokePass", "EndPass")
    for method in sorted(asked, key=lambda name: name in last):
        answer = await resident.call(method, asked[method])
        assert answer != type(answer)(), method


async def test_who_is_not_signed_in_or_lacks_the_permission_is_turned_away(community: Community) -> None:
    home, gate = await community.home(), await community.door()
    for method, request in (await requests(community, home, gate)).items():
        with pytest.raises(Unauthenticated):
            await community.call_without_token(method, request)
        if method not in SIGNED_IN:
            with pytest.raises((Denied, NotFound)) as error:
                await community.call_as(new_id(), method, request)
            assert error.value.code.startswith("auth.")
    public = {method.name for method in CONTRACT.methods if method.name.endswith(("Invitation", "VisitorCode"))}
    assert public == {"GetInvitation", "ConfirmInvitation", "CreateVisitorCode"}


async def test_a_link_opens_its_own_community_and_no_other(community: Community) -> None:
    home, stranger = await community.home(), Community(community.town)
    link = read_link((await community.invite(home)).link)
    assert link is not None
    elsewhere = str(Link(stranger.community_id, link.pass_id, link.secret))
    with pytest.raises(NotFound):
        await community.call_without_token("ConfirmInvitation", pb.ConfirmInvitationRequest(link=elsewhere))
    # A token of another community changes nothing: the link says where it leads.
    shown = await stranger.call("GetInvitation", pb.GetInvitationRequest(link=str(link)))
    assert shown.state == pb.PASS_STATE_INVITED


async def test_who_names_a_device_of_another_community_gets_nothing_by_it_and_takes_nothing(community: Community) -> None:
    """Which devices another community has nobody learns; and a device that is named first by a stranger is still its owner's."""
    stranger, device_id = Community(community.town), f"named-twice-{new_id()}"
    theirs, gate = await stranger.door(), await community.door()
    await stranger.terminal(theirs.door_id, device_id, pb.DIRECTION_OUT)
    await community.terminal(gate.door_id, device_id, pb.DIRECTION_OUT)
    await community.settle()
    await stranger.settle()
    (resident,) = (await community.home()).people
    await community.reports(device_id, 0)
    behind = "SELECT wanted_version - sent_version FROM terminals WHERE device_id = $1"

    async def is_sent() -> bool:
        return bool(await community.value(behind, device_id) == 0)

    await eventually(is_sent)
    assert await community.knows(device_id, resident)
    assert not await stranger.knows(device_id, resident)
    assert await stranger.value("SELECT sent_version FROM terminals WHERE device_id = $1", device_id) == 0
    with pytest.raises(Conflict) as error:
        await community.terminal(gate.door_id, device_id, pb.DIRECTION_IN)
    assert error.value.code == "access.terminal_in_place"


async def test_what_a_device_of_another_community_tells_is_not_heard(community: Community) -> None:
    gate, stranger = await community.door(), Community(community.town)
    version = await community.wanted_version(gate.entrance)
    now = to_timestamp(community.clock.now)
    report = device.TerminalReported(device_id=gate.entrance, snapshot_version=version, occurred_at=now, received_at=now)
    await stranger.publish(report)
    await community.reports(gate.entrance, version)

    async def confirmed() -> bool:
        sql = "SELECT confirmed_version = wanted_version FROM terminals WHERE device_id = $1"
        return bool(await community.value(sql, gate.entrance))

    await eventually(confirmed)
    assert await stranger.value("SELECT count(*) FROM terminals") == 0


async def test_somebody_with_two_homes_is_let_in_where_each_is(community: Community) -> None:
    """The same account in two communities has doors and credentials in each that the other knows nothing of."""
    home, gate = await community.home(), await community.door()
    other = Community(community.town)
    there = Home(new_id(), new_id(), list(home.people))
    await other.tell(there)
    other_gate = await other.door()
    await community.card(home.people[0], "11112222")
    assert await community.knows(gate.entrance, home.people[0])
    assert await other.knows(other_gate.entrance, home.people[0])
    mine = await other.call_as(home.people[0], "ListMyCredentials", pb.ListMyCredentialsRequest())
    assert not mine.credentials
    # The number is free there, and its digest is another one.
    await other.card(home.people[0], "11112222")
    digests = {await each.value("SELECT digest FROM credentials WHERE kind = 'card'") for each in (community, other)}
    assert len(digests) == 2
    assert isinstance(home.people[0], UUID)
