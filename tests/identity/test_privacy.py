"""Phones are neither stored nor logged in clear, and survive a change of the data key."""

import asyncio
import base64
import json
import secrets
import stat
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest

from infra.local.postgres import executable
from linli.identity.v1 import identity_pb2 as pb
from linli.identity.v1.events_pb2 import CommunityChanged, HouseholdChanged, VehicleRegistered
from servicekit.config import SettingsError
from servicekit.database import PLATFORM, Resources
from servicekit.errors import Internal, Unavailable
from servicekit.sealing import BlindIndex, DataKeys
from services.identity import operations
from services.identity.code_senders import HttpSender, newest_code
from services.identity.service import resources
from tests.identity.arrange import DATA_KEYS, INDEX_KEY, PASSWORD, Community, Town, account_id_of, new_phone, town
from tests.support import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def dump(servers: Servers, running: Town) -> str:
    """Everything in identity's database, past every wall."""
    database = running.running.database_urls["identity"].rpartition("/")[2]
    process = await asyncio.create_subprocess_exec(
        executable("pg_dump"), "--data-only", servers.postgres.url(database), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_no_phone_is_stored_in_clear(servers: Servers, community: Community) -> None:
    phone, address = new_phone(), "203.0.113.77"
    household_id = await community.household("1栋")
    request = pb.AddMemberRequest(household_id=household_id, phone=phone, name="显名", kind=pb.MEMBER_KIND_OWNER)
    await community.manager.call("AddMember", request, idempotency_key=f"add-{household_id}")
    await community.manager.call("GrantRole", pb.GrantRoleRequest(phone=phone, name="显名", role="property_staff"))
    await community.manager.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=household_id, plate="京A12345"))
    code = await community.town.send_code(community.community_id, phone, address)
    tokens = await community.town.try_code(community.community_id, phone, code, address)
    person = community.town.bearer(tokens.access_token)
    await person.call("SetPassword", pb.SetPasswordRequest(new_password=PASSWORD))
    waiting, unknown = new_phone(), new_phone()
    await community.town.send_code(community.community_id, waiting, address)
    with pytest.raises(Exception, match="wrong"):
        await community.town.try_password(community.community_id, unknown, PASSWORD, address)
    dumped = await dump(servers, community.town)
    assert "显名" in dumped
    assert "\\\\x" in dumped
    for secret in (phone, waiting, unknown, address, PASSWORD, tokens.refresh_token, tokens.access_token):
        assert secret not in dumped
        assert secret.encode().hex() not in dumped
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in dumped


async def test_what_is_logged_and_published_holds_no_phone_and_no_name(
    servers: Servers, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with town(servers, tmp_path) as running:
        community = await running.community()
        household_id = await community.household("1栋")
        owner = await community.member(household_id, name="隐名")
        await owner.call("RegisterVehicle", pb.RegisterVehicleRequest(household_id=household_id, plate="京A12345"))
        assert owner.tokens is not None
        for _ in range(2):
            request = pb.RefreshTokensRequest(refresh_token=owner.tokens.refresh_token)
            await asyncio.gather(running.nobody().call("RefreshTokens", request), return_exceptions=True)
        await running.running.event(VehicleRegistered)
        published = [
            event.message.SerializeToString()
            for kind in (CommunityChanged, HouseholdChanged, VehicleRegistered)
            for event in running.running.events(kind)
        ]
    written = "".join(capfd.readouterr())
    assert "refresh_token_used_again" in written
    assert f"{owner.phone[:3]}****{owner.phone[7:]}" in written
    for secret in (owner.phone, community.manager.phone, "隐名", owner.tokens.refresh_token):
        assert secret not in written
        assert not any(secret.encode() in body for body in published)


async def test_phones_move_to_a_new_data_key_and_then_the_old_one_may_go(servers: Servers, tmp_path: Path) -> None:
    async with town(servers, tmp_path) as running:
        community = await running.community()
        database = running.running.database("identity")
        old, index_key = base64.b64decode(DATA_KEYS.partition(":")[2]), base64.b64decode(INDEX_KEY)
        new = secrets.token_bytes(32)

        def restart_with(**data_keys: bytes) -> None:
            database.resources = Resources([DataKeys(data_keys), BlindIndex(index_key)])

        async def shown() -> str:
            me: pb.Me = await community.manager.call("GetMe", pb.GetMeRequest())
            return me.account.phone_masked

        before = await shown()
        restart_with(k2=new, k1=old)
        assert await shown() == before
        async with database.transaction(PLATFORM) as tx:
            await operations.reseal_phones(tx)
        restart_with(k2=new)
        assert await shown() == before
        restart_with(k1=old)
        with pytest.raises(Internal):
            await shown()


async def test_identity_does_not_start_without_the_key_that_opens_its_signing_key(servers: Servers, tmp_path: Path) -> None:
    async with town(servers, tmp_path) as running:
        (service,) = running.running.host.running
        other = f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}"
        changed = replace(service, settings=msgspec.structs.replace(service.settings, data_keys=other))
        with pytest.raises(SettingsError, match="LINLI_IDENTITY_DATA_KEYS"):
            async with resources(changed):
                pass


async def test_the_development_sender_writes_a_file_that_only_its_owner_reads(community: Community) -> None:
    codes = community.town.codes
    assert stat.S_IMODE(codes.stat().st_mode) == 0o600
    assert newest_code(codes, "13000000000") is None
    assert newest_code(codes.with_name("nothing here"), community.manager.phone) is None


async def test_an_sms_gateway_is_posted_the_code_once_and_its_failure_is_ours_to_tell(capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[httpx.Request] = []

    def gateway(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(500 if len(asked) > 1 else 200, text="13800000000 failed")

    async with httpx.AsyncClient(transport=httpx.MockTransport(gateway)) as client:
        sender = HttpSender(client, "https://sms.example/send", "secret")
        await sender.send("13800000000", "123456")
        assert json.loads(asked[0].content) == {"phone": "13800000000", "code": "123456"}
        assert asked[0].headers["authorization"] == "Bearer secret"
        with pytest.raises(Unavailable) as error:
            await sender.send("13800000000", "123456")
    assert error.value.code == "identity.code_not_sent"
    assert len(asked) == 2
    assert "13800000000" not in "".join(capfd.readouterr()) + str(error.value)


async def test_me_shows_the_phone_with_its_middle_hidden(community: Community) -> None:
    me = await community.manager.call("GetMe", pb.GetMeRequest())
    phone = community.manager.phone
    assert me.account.phone_masked == f"{phone[:3]}****{phone[-4:]}"
    assert phone not in str(me)
    assert me.account.account_id == str(account_id_of(community.manager))
