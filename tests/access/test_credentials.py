"""Cards, PINs, faces and dynamic codes: who gets them, and what terminals come to know of them."""

import base64
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from linli.access.v1 import access_pb2 as pb
from servicekit.errors import Conflict, Invalid, NotFound
from servicekit.identifiers import new_id
from servicekit.sealing import SealBrokenError
from servicekit.signing import PublicKeys, Signer
from services.access import codes, credential_operations, credential_store
from services.access.digests import MatchingKeys, card_digest, pin_digest
from tests.access.arrange import CARD, CODE, FACE, KEY, PHONE, PIN, Community

pytestmark = pytest.mark.asyncio(loop_scope="module")
ON_TERMINALS: Any = pb.CONSENT_KIND_FACE_ON_TERMINALS
ON_SERVER: Any = pb.CONSENT_KIND_FACE_ON_SERVER
TEMPLATE = b"a template of a face"


async def entry(community: Community, device_id: str, account_id: UUID) -> dict[str, Any]:
    """What a terminal is to know of somebody."""
    sql = "SELECT body FROM terminal_entries WHERE device_id = $1 AND subject_id = $2"
    found: dict[str, Any] = json.loads(await community.value(sql, device_id, account_id) or "{}")
    return found


async def mine(community: Community, account_id: UUID) -> list[pb.Credential]:
    """Somebody's credentials, as they see them."""
    return list((await community.call_as(account_id, "ListMyCredentials", pb.ListMyCredentialsRequest())).credentials)


async def set_pin(community: Community, account_id: UUID, pin: str) -> pb.Credential:
    return await community.call_as(account_id, "SetMyPin", pb.SetMyPinRequest(pin=pin))  # type: ignore[no-any-return]


# Cards.


async def test_a_card_opens_doors_from_when_it_is_given_until_it_is_taken_back(community: Community) -> None:
    (resident,) = (await community.home()).people
    gate = await community.door()
    card = await community.card(resident, " 04a1b2c3d4 ")
    assert (card.kind, card.label, card.account_id) == (CARD, "******C3D4", str(resident))
    digest = card_digest(MatchingKeys(KEY).of(community.community_id), "04A1B2C3D4").hex()
    assert (await entry(community, gate.entrance, resident))["cards"] == [digest]
    assert (await community.told(resident, "access.card_issued")).text_en == "You were given the card ******C3D4"

    revoked = await community.call("RevokeCredential", pb.RevokeCredentialRequest(credential_id=card.credential_id))
    assert revoked.HasField("revoked_at")
    assert "cards" not in await entry(community, gate.entrance, resident)
    await community.told(resident, "access.card_revoked")
    assert await community.call("RevokeCredential", pb.RevokeCredentialRequest(credential_id=card.credential_id)) == revoked
    # The card is free for somebody else.
    await community.card((await community.home()).people[0], "04a1b2c3d4")


async def test_no_number_of_a_card_and_no_digit_of_a_pin_is_kept_or_told(community: Community) -> None:
    (resident,) = (await community.home()).people
    await community.card(resident, "99887766554433")
    number = (await set_pin(community, resident, "805312")).label
    async with community.running.transaction("access", community.community_id) as tx:
        names = await tx.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
        tables = [row[0] for row in names if row[0] != "schema_migrations"]
        kept = str([await tx.fetch(f'SELECT * FROM "{table}"') for table in tables])
    assert number in kept
    assert "99887766554433" not in kept
    assert "805312" not in kept


async def test_a_card_is_one_persons_at_a_time(community: Community) -> None:
    first, second = await community.home(), await community.home()
    await community.card(first.people[0], "abcd1234")
    with pytest.raises(Conflict) as in_use:
        await community.card(second.people[0], "ABCD1234 ")
    assert in_use.value.code == "access.card_in_use"
    with pytest.raises(NotFound) as stranger:
        await community.card(new_id())
    assert stranger.value.code == "access.person_unknown"


async def test_who_works_here_gets_a_card_and_of_a_short_number_half_is_shown(community: Community) -> None:
    guard = await community.employ("property_staff")
    assert (await community.card(guard, "1234")).label == "**34"


async def test_a_lost_card_is_ended_by_who_lost_it_and_by_no_other_resident(community: Community) -> None:
    home = await community.home(people=2)
    loser, other = home.people
    card = await community.card(loser)
    request = pb.RevokeMyCredentialRequest(credential_id=card.credential_id)
    with pytest.raises(NotFound) as error:
        await community.call_as(other, "RevokeMyCredential", request)
    assert error.value.code == "access.credential_unknown"
    assert (await community.call_as(loser, "RevokeMyCredential", request)).HasField("revoked_at")
    assert await mine(community, loser) == []
    with pytest.raises(NotFound) as unknown:
        await community.call("RevokeCredential", pb.RevokeCredentialRequest(credential_id=str(new_id())))
    assert unknown.value.code == "access.credential_unknown"


async def test_credentials_are_listed_by_person_and_kind_the_revoked_ones_when_asked_for(community: Community) -> None:
    (resident,), (other,) = (await community.home()).people, (await community.home()).people
    card, others = await community.card(resident), await community.card(other)
    pin = await set_pin(community, resident, "805312")
    await community.call("RevokeCredential", pb.RevokeCredentialRequest(credential_id=card.credential_id))

    async def listed(**asked: Any) -> list[str]:
        answer = await community.call("ListCredentials", pb.ListCredentialsRequest(**asked))
        return [credential.credential_id for credential in answer.credentials]

    assert await listed() == [pin.credential_id, others.credential_id]
    assert await listed(account_id=str(resident)) == [pin.credential_id]
    assert await listed(account_id=str(resident), revoked=True) == [pin.credential_id, card.credential_id]
    assert await listed(kind=CARD) == [others.credential_id]
    assert await listed(kind=PHONE, revoked=True) == []


# PINs.


@pytest.mark.parametrize("pin", ["123456", "987654", "890123", "111111", "121212", "123123"])
async def test_a_pin_that_everybody_tries_first_is_refused(community: Community, pin: str) -> None:
    (resident,) = (await community.home()).people
    with pytest.raises(Invalid) as error:
        await set_pin(community, resident, pin)
    assert (error.value.code, [field.field for field in error.value.fields]) == ("access.pin_trivial", ["pin"])


async def test_a_number_goes_before_the_pin_and_stays_when_the_pin_changes(community: Community) -> None:
    home = await community.home(people=2)
    gate = await community.door()
    first, second = home.people
    key = MatchingKeys(KEY).of(community.community_id)
    one, other = await set_pin(community, first, "805312"), await set_pin(community, second, "805312")
    assert one.kind == PIN
    assert len({one.label, other.label}) == 2
    assert (await entry(community, gate.entrance, first))["pins"] == [pin_digest(key, one.label + "805312").hex()]
    changed = await set_pin(community, first, "271828")
    assert changed.label == one.label
    assert (await entry(community, gate.entrance, first))["pins"] == [pin_digest(key, one.label + "271828").hex()]
    assert [credential.credential_id for credential in await mine(community, first)] == [changed.credential_id]


async def test_only_who_lives_or_works_here_has_a_pin_or_a_face(community: Community) -> None:
    for method, request in (("SetMyPin", pb.SetMyPinRequest(pin="805312")), ("EnrolMyFace", pb.EnrolMyFaceRequest())):
        with pytest.raises(Conflict) as error:
            await community.call_as(new_id(), method, request)
        assert error.value.code == "access.not_known_here"


async def test_numbers_grow_longer_when_the_short_ones_are_taken(community: Community) -> None:
    (resident,) = (await community.home()).people
    async with community.running.transaction("access", community.community_id) as tx:
        await tx.execute(
            """INSERT INTO credentials (credential_id, community_id, account_id, kind, label, digest, issued_by, issued_at)
            SELECT gen_random_uuid(), $1, gen_random_uuid(), 'pin', number::text, int4send(number), gen_random_uuid(), now()
            FROM generate_series(1000, 9999) AS number""",
            community.community_id,
        )
    assert len((await set_pin(community, resident, "805312")).label) == 5


# Faces.


async def test_a_face_needs_a_consent_and_a_template_here_another(community: Community) -> None:
    (resident,) = (await community.home()).people
    gate = await community.door()

    async def enrol(template: bytes = b"") -> pb.Credential:
        return await community.call_as(resident, "EnrolMyFace", pb.EnrolMyFaceRequest(template=template))  # type: ignore[no-any-return]

    async def refused(template: bytes) -> dict[str, str]:
        with pytest.raises(Conflict) as error:
            await enrol(template)
        assert error.value.code == "access.consent_needed"
        return error.value.details

    assert await refused(b"") == {"consent": "face_on_terminals"}
    await community.consent(resident, ON_TERMINALS)
    assert "face" not in await entry(community, gate.entrance, resident)
    face = await enrol()
    assert (face.kind, face.label) == (FACE, "")
    assert (await entry(community, gate.entrance, resident))["face"] is True
    assert await enrol() == face
    assert await refused(TEMPLATE) == {"consent": "face_on_server"}
    await community.consent(resident, ON_SERVER)
    kept = await enrol(TEMPLATE)
    assert kept != face
    assert (await entry(community, gate.entrance, resident))["template_id"] == kept.credential_id
    assert [credential.credential_id for credential in await mine(community, resident)] == [kept.credential_id]


async def test_a_template_is_kept_sealed_for_its_row_and_opened_for_terminals_alone(community: Community) -> None:
    (resident,), (other,) = (await community.home()).people, (await community.home()).people
    faces = []
    for account_id in (resident, other):
        await community.consent(account_id, ON_TERMINALS, ON_SERVER)
        face = await community.call_as(account_id, "EnrolMyFace", pb.EnrolMyFaceRequest(template=TEMPLATE))
        faces.append(UUID(face.credential_id))
    async with community.running.transaction("access", community.community_id) as tx:
        sealed = await credential_store.find_templates(tx, faces)
        assert all(TEMPLATE not in each.data for each in sealed.values())
        assert await credential_operations.open_templates(tx, [*faces, new_id()]) == dict.fromkeys(faces, TEMPLATE)
        await tx.execute("UPDATE face_templates SET sealed = $2 WHERE credential_id = $1", faces[0], sealed[faces[1]].data)
        with pytest.raises(SealBrokenError):
            await credential_operations.open_templates(tx, faces[:1])


async def test_a_face_that_staff_revoke_is_deleted_here_too(community: Community) -> None:
    (resident,) = (await community.home()).people
    await community.consent(resident, ON_TERMINALS, ON_SERVER)
    face = await community.call_as(resident, "EnrolMyFace", pb.EnrolMyFaceRequest(template=TEMPLATE))
    await community.call("RevokeCredential", pb.RevokeCredentialRequest(credential_id=face.credential_id))
    assert await community.value("SELECT count(*) FROM face_templates") == 0


# Dynamic codes.


def read(code: str) -> codes.Code | None:
    keys = PublicKeys(base64.b64encode(Signer(KEY).public_key).decode())
    return codes.read(code, lambda content, signature: keys.has_signed(codes.PURPOSE, content, signature))


async def test_a_code_is_the_callers_for_a_minute_and_for_one_door_when_asked(community: Community) -> None:
    (resident,) = (await community.home()).people
    gate = await community.door()
    for door_id in ("", gate.door_id):
        answer = await community.call_as(resident, "CreateMyCode", pb.CreateMyCodeRequest(door_id=door_id))
        code = read(answer.code)
        assert code is not None
        assert (code.community_id, code.subject_id, str(code.door_id or "")) == (community.community_id, resident, door_id)
        assert answer.expires_at.ToDatetime(community.clock.now.tzinfo) == code.expires_at == community.clock.now + timedelta(minutes=1)
    again = await community.call_as(resident, "CreateMyCode", pb.CreateMyCodeRequest())
    assert again.code != answer.code


async def test_codes_are_for_those_whom_some_door_lets_in_on_one(community: Community) -> None:
    (resident,) = (await community.home()).people
    card_only = await community.door(kinds=[CARD])
    await community.card(resident)
    elsewhere = await community.door(await community.zone(pb.ZONE_KIND_STAFF), kinds=[CODE])
    for account_id, door_id, kind, reason in (
        (new_id(), "", Conflict, "access.no_door_for_codes"),
        (resident, "", Conflict, "access.no_door_for_codes"),
        (resident, card_only.door_id, Conflict, "access.no_door_for_codes"),
        (resident, elsewhere.door_id, NotFound, "access.door_unknown"),
        (resident, str(new_id()), NotFound, "access.door_unknown"),
    ):
        with pytest.raises(kind) as error:
            await community.call_as(account_id, "CreateMyCode", pb.CreateMyCodeRequest(door_id=door_id))
        assert error.value.code == reason
