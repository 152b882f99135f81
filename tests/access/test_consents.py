"""Consents: given to a text, written down, taken back, and what goes with them from here and from every terminal."""

from typing import Any
from uuid import UUID

import pytest

from linli.access.v1 import access_pb2 as pb
from servicekit.errors import Conflict, Invalid, NotFound
from servicekit.identifiers import new_id
from tests.access.arrange import CARD, FACE, Community, Home
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
ON_TERMINALS: Any = pb.CONSENT_KIND_FACE_ON_TERMINALS
ON_SERVER: Any = pb.CONSENT_KIND_FACE_ON_SERVER
CARE: Any = pb.CONSENT_KIND_CARE_ACTIVITY
TEXT = "本人同意按本说明处理我的人脸信息，并知悉可随时撤回。"


async def publish(community: Community, kind: Any = ON_TERMINALS) -> int:
    """Publishes the next version of a text."""
    return int((await community.call("PublishConsentText", pb.PublishConsentTextRequest(kind=kind, text_zh=TEXT))).version)


async def give(community: Community, account_id: UUID, version: int = 1, kind: Any = ON_TERMINALS, about: UUID | None = None) -> pb.Consent:
    request = pb.GiveConsentRequest(kind=kind, text_version=version, account_id=str(about or ""))
    return await community.call_as(account_id, "GiveConsent", request)  # type: ignore[no-any-return]


async def withdraw(community: Community, account_id: UUID, consent: pb.Consent) -> pb.Consent:
    return await community.call_as(account_id, "WithdrawConsent", pb.WithdrawConsentRequest(consent_id=consent.consent_id))  # type: ignore[no-any-return]


async def mine(community: Community, account_id: UUID) -> list[pb.Consent]:
    """Somebody's consents, as they see them."""
    return list((await community.call_as(account_id, "ListMyConsents", pb.ListMyConsentsRequest())).consents)


async def enrolled(community: Community, template: bytes = b"template") -> tuple[Home, UUID, list[pb.Consent]]:
    """A resident whose face terminals know, and is kept here."""
    home = await community.home()
    (resident,) = home.people
    consents = await community.consent(resident, ON_TERMINALS, *([ON_SERVER] if template else []))
    await community.call_as(resident, "EnrolMyFace", pb.EnrolMyFaceRequest(template=template))
    return home, resident, list(consents)


# Texts.


async def test_texts_have_versions_of_which_the_newest_is_shown(community: Community) -> None:
    assert [await publish(community), await publish(community), await publish(community, CARE)] == [1, 2, 1]
    texts = (await community.call_as(new_id(), "ListConsentTexts", pb.ListConsentTextsRequest())).texts
    assert {(text.kind, text.version, text.text_zh) for text in texts} == {(ON_TERMINALS, 2, TEXT), (CARE, 1, TEXT)}
    blank = pb.PublishConsentTextRequest(kind=CARE, text_zh=" " * 20)
    with pytest.raises(Invalid) as error:
        await community.call("PublishConsentText", blank)
    assert [field.field for field in error.value.fields] == ["text_zh"]


async def test_a_consent_is_to_the_newest_text_and_to_one_that_there_is(community: Community) -> None:
    (resident,) = (await community.home()).people
    with pytest.raises(NotFound) as none_yet:
        await give(community, resident)
    assert none_yet.value.code == "access.consent_text_unknown"
    await publish(community)
    await publish(community)
    with pytest.raises(Conflict) as outdated:
        await give(community, resident, version=1)
    assert (outdated.value.code, outdated.value.details) == ("access.consent_text_outdated", {"newest_version": "2"})
    with pytest.raises(NotFound):
        await give(community, resident, version=3)
    paper = pb.RecordConsentRequest(account_id=str(resident), kind=ON_TERMINALS, text_version=1)
    with pytest.raises(Conflict):
        await community.call("RecordConsent", paper)
    assert (await give(community, resident, version=2)).text_version == 2


# Giving.


async def test_a_consent_says_what_when_and_how_and_is_given_once(community: Community) -> None:
    (resident,) = (await community.home()).people
    await publish(community)
    consent = await give(community, resident)
    assert (consent.kind, consent.text_version, consent.channel) == (ON_TERMINALS, 1, pb.CONSENT_CHANNEL_APP)
    assert (consent.account_id, consent.given_by_account_id) == (str(resident), str(resident))
    assert consent.given_at.ToDatetime(community.clock.now.tzinfo) == community.clock.now
    assert await give(community, resident) == consent
    assert await mine(community, resident) == [consent]


async def test_a_consent_on_paper_is_written_down_by_staff_and_its_giver_is_told(community: Community) -> None:
    (resident,) = (await community.home()).people
    await publish(community)
    request = pb.RecordConsentRequest(account_id=str(resident), kind=ON_TERMINALS, text_version=1)
    consent = await community.call("RecordConsent", request)
    assert (consent.channel, consent.given_by_account_id) == (pb.CONSENT_CHANNEL_PAPER, str(resident))
    await community.told(resident, "access.consent_recorded")
    assert await mine(community, resident) == [consent]
    request.account_id = str(new_id())
    with pytest.raises(NotFound) as error:
        await community.call("RecordConsent", request)
    assert error.value.code == "access.person_unknown"


async def test_a_guardian_consents_for_who_lives_with_them_and_either_takes_it_back(community: Community) -> None:
    home = await community.home(people=2)
    guardian, ward = home.people
    await publish(community, CARE)
    consent = await give(community, guardian, kind=CARE, about=ward)
    assert (consent.account_id, consent.given_by_account_id) == (str(ward), str(guardian))
    await community.told(ward, "access.consent_given_for_you")
    assert await mine(community, ward) == await mine(community, guardian) == [consent]
    stranger = (await community.home()).people[0]
    with pytest.raises(NotFound) as elsewhere:
        await give(community, stranger, kind=CARE, about=ward)
    assert elsewhere.value.code == "access.person_unknown"
    with pytest.raises(NotFound) as not_theirs:
        await withdraw(community, stranger, consent)
    assert not_theirs.value.code == "access.consent_unknown"
    assert (await withdraw(community, ward, consent)).HasField("withdrawn_at")
    again = await give(community, guardian, kind=CARE, about=ward)
    assert again.consent_id != consent.consent_id
    assert (await withdraw(community, guardian, again)).HasField("withdrawn_at")


async def test_who_neither_lives_nor_works_here_has_nothing_to_consent_to(community: Community) -> None:
    await publish(community)
    with pytest.raises(NotFound) as error:
        await give(community, new_id())
    assert error.value.code == "access.person_unknown"


async def test_consents_are_found_by_whom_they_are_about_and_by_kind(community: Community) -> None:
    (one,), (other,) = (await community.home()).people, (await community.home()).people
    first, second = await community.consent(one, ON_TERMINALS, CARE)
    (third,) = await community.consent(other, CARE)

    async def listed(**asked: Any) -> list[pb.Consent]:
        return list((await community.call("ListConsents", pb.ListConsentsRequest(**asked))).consents)

    assert await listed() == [third, second, first]
    assert await listed(account_id=str(one)) == [second, first]
    assert await listed(kind=CARE) == [third, second]
    assert await listed(unconfirmed_only=True) == []


# Withdrawing.


async def test_what_was_consented_to_goes_from_here_at_once_and_from_each_terminal_when_it_says_so(community: Community) -> None:
    """Also from one that is offline for long, and one that was taken away meanwhile."""
    near, far, gone = await community.door(), await community.door(), await community.door()
    no_faces = await community.door(kinds=[CARD])
    _, resident, (consent, on_server) = await enrolled(community)
    for gate in (near, far, gone, no_faces):
        await community.reports(gate.entrance, await community.wanted_version(gate.entrance))
    await community.call("RemoveTerminal", pb.RemoveTerminalRequest(device_id=gone.entrance))

    withdrawn = await withdraw(community, resident, consent)
    assert {removal.device_id: removal.HasField("confirmed_at") for removal in withdrawn.removals} == {
        near.entrance: False,
        far.entrance: False,
        gone.entrance: False,
    }
    assert await community.value("SELECT count(*) FROM face_templates") == 0
    assert await community.value("SELECT count(*) FROM credentials WHERE kind = 'face' AND revoked_at IS NULL") == 0
    assert await community.value("""SELECT count(*) FROM terminal_entries WHERE body LIKE '%"face":true%'""") == 0
    # The copy here was for the terminals: it was withdrawn with them.
    assert all(each.HasField("withdrawn_at") for each in await mine(community, resident))

    async def confirmed() -> dict[str, bool]:
        shown = next(each for each in await mine(community, resident) if each.consent_id == consent.consent_id)
        return {removal.door_name: removal.HasField("confirmed_at") for removal in shown.removals}

    async def only_near() -> bool:
        return await confirmed() == {near.name: True, far.name: False, gone.name: False}

    async def all_three() -> bool:
        return all((await confirmed()).values())

    await community.reports(near.entrance, await community.wanted_version(near.entrance))
    await eventually(only_near)
    unconfirmed = (await community.call("ListConsents", pb.ListConsentsRequest(unconfirmed_only=True))).consents
    assert [each.consent_id for each in unconfirmed] == [on_server.consent_id, consent.consent_id]
    # A report of an older version confirms nothing.
    await community.reports(far.entrance, await community.wanted_version(far.entrance) - 1)
    await community.reports(gone.entrance, await community.wanted_version(gone.entrance))
    await community.reports(far.entrance, await community.wanted_version(far.entrance))
    await eventually(all_three)
    assert not (await community.call("ListConsents", pb.ListConsentsRequest(unconfirmed_only=True))).consents


async def test_who_withdraws_gets_in_as_before_and_a_new_consent_needs_a_new_face(community: Community) -> None:
    gate = await community.door()
    _, resident, (consent, _) = await enrolled(community)
    card = await community.card(resident)
    await withdraw(community, resident, consent)
    body = await community.value("SELECT body FROM terminal_entries WHERE subject_id = $1", resident)
    assert '"cards"' in body
    assert '"face"' not in body
    credentials = (await community.call_as(resident, "ListMyCredentials", pb.ListMyCredentialsRequest())).credentials
    assert [credential.credential_id for credential in credentials] == [card.credential_id]
    await community.consent(resident, ON_TERMINALS)
    assert '"face"' not in await community.value("SELECT body FROM terminal_entries WHERE subject_id = $1", resident)
    face = await community.call_as(resident, "EnrolMyFace", pb.EnrolMyFaceRequest())
    assert face.kind == FACE
    assert await community.knows(gate.entrance, resident)


async def test_the_copy_here_alone_can_be_withdrawn_and_terminals_keep_the_face(community: Community) -> None:
    gate = await community.door()
    _, resident, (on_terminals, on_server) = await enrolled(community)
    await withdraw(community, resident, on_server)
    assert await community.value("SELECT count(*) FROM face_templates") == 0
    body = await community.value("SELECT body FROM terminal_entries WHERE device_id = $1", gate.entrance)
    assert '"face":true' in body
    assert "template_id" not in body
    still = {each.consent_id: each.HasField("withdrawn_at") for each in await mine(community, resident)}
    assert still == {on_terminals.consent_id: False, on_server.consent_id: True}


async def test_withdrawing_takes_back_the_consents_to_every_text_and_twice_is_once(community: Community) -> None:
    (resident,) = (await community.home()).people
    await publish(community)
    first = await give(community, resident)
    await publish(community)
    second = await give(community, resident, version=2)
    withdrawn = await withdraw(community, resident, first)
    assert [each.HasField("withdrawn_at") for each in await mine(community, resident)] == [True, True]
    community.clock.advance(hours=1)
    assert await withdraw(community, resident, first) == withdrawn
    assert (await withdraw(community, resident, second)).withdrawn_at == withdrawn.withdrawn_at
    with pytest.raises(NotFound) as error:
        await withdraw(community, resident, pb.Consent(consent_id=str(new_id())))
    assert error.value.code == "access.consent_unknown"
