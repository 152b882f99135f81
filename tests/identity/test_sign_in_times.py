"""What time does to sign-in: expiry, windows of limits, and the rotation of signing keys. The clock is the tests'."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from linli.identity.v1 import identity_pb2 as pb
from servicekit.auth import Verifier
from servicekit.database import PLATFORM
from servicekit.errors import Exhausted, ServiceError, Unauthenticated
from services.identity import sign_in_operations
from tests.identity.arrange import Town, new_phone, town
from tests.support import Servers, TestClock

FORGET_KEYS = "DELETE FROM signing_keys"
pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS = {
    "LINLI_IDENTITY_CODES_PER_ADDRESS_HOUR": "4",
    "LINLI_IDENTITY_CODES_PER_COMMUNITY_HOUR": "20",
    "LINLI_IDENTITY_SIGN_INS_PER_ADDRESS_HOUR": "6",
    "LINLI_IDENTITY_SIGNING_KEY_DAYS": "7",
}


@dataclass(slots=True)
class Timed:
    """Identity with a clock that stands until it is moved. It begins long ago, so that moving it stays behind the real one."""

    town: Town
    clock: TestClock

    async def sent(self, community_id: str, phone: str, address: str = "") -> Exhausted | None:
        """Asks for a code; the limit that is reached, if any."""
        try:
            await self.town.send_code(community_id, phone, address)
        except Exhausted as error:
            return error
        return None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def timed(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Timed]:
    clock = TestClock(datetime.now(UTC) - timedelta(days=400))
    async with town(servers, tmp_path_factory.mktemp("identity"), clock, SETTINGS) as running:
        yield Timed(running, clock)


async def test_a_code_stops_working_after_five_minutes(timed: Timed) -> None:
    community_id, early, late = await timed.town.found(), new_phone(), new_phone()
    codes = {phone: await timed.town.send_code(community_id, phone) for phone in (early, late)}
    timed.clock.advance(minutes=4, seconds=59)
    await timed.town.try_code(community_id, early, codes[early])
    timed.clock.advance(seconds=1)
    with pytest.raises(Unauthenticated) as error:
        await timed.town.try_code(community_id, late, codes[late])
    assert error.value.code == "identity.code_wrong"


async def test_a_phone_gets_a_code_a_minute_five_an_hour_and_ten_a_day(timed: Timed) -> None:
    community_id, phone = await timed.town.found(), new_phone()
    began = timed.clock.now
    sent_at: list[timedelta] = []
    while len(sent_at) < 11:
        refused = await timed.sent(community_id, phone, f"192.0.2.{len(sent_at)}")
        if refused is None:
            sent_at.append(timed.clock.now - began)
        else:
            assert refused.retry_after_s is not None
            timed.clock.advance(seconds=refused.retry_after_s)
    minutes = [instant // timedelta(minutes=1) for instant in sent_at]
    assert minutes == [0, 1, 2, 3, 4, 60, 61, 62, 63, 64, 24 * 60]


async def test_a_refusal_says_when_to_try_again_and_then_it_works(timed: Timed) -> None:
    community_id, phone = await timed.town.found(), new_phone()
    assert await timed.sent(community_id, phone) is None
    timed.clock.advance(seconds=20)
    refused = await timed.sent(community_id, phone)
    assert refused is not None
    assert (refused.code, refused.retry_after_s, refused.details["limit"]) == ("identity.too_many_codes", 40, "code_phone_minute")
    timed.clock.advance(seconds=40)
    assert await timed.sent(community_id, phone) is None


async def test_a_phone_is_limited_over_all_communities(timed: Timed) -> None:
    phone = new_phone()
    assert await timed.sent(await timed.town.found(), phone) is None
    assert await timed.sent(await timed.town.found(), phone) is not None


async def test_an_address_gets_so_many_codes_an_hour_whatever_the_phones_and_communities(timed: Timed) -> None:
    communities = [await timed.town.found() for _ in range(4)]
    answers = [await timed.sent(community_id, new_phone(), "192.0.2.200") for community_id in communities]
    assert answers == [None] * 4
    refused = await timed.sent(communities[0], new_phone(), "192.0.2.200")
    assert refused is not None
    assert refused.details["limit"] == "code_address_hour"
    assert await timed.sent(communities[0], new_phone(), "192.0.2.201") is None
    timed.clock.advance(hours=1)
    assert await timed.sent(communities[0], new_phone(), "192.0.2.200") is None


async def test_one_subscriber_of_ipv6_is_one_address(timed: Timed) -> None:
    community_id = await timed.town.found()
    answers = [await timed.sent(community_id, new_phone(), f"2001:db8:1:2::{number}") for number in range(5)]
    assert [answer is None for answer in answers] == [True] * 4 + [False]
    assert await timed.sent(community_id, new_phone(), "2001:db8:1:3::1") is None


async def test_a_community_gets_so_many_codes_an_hour(timed: Timed) -> None:
    community_id, other = await timed.town.found(), await timed.town.found()
    answers = [await timed.sent(community_id, new_phone(), f"198.51.100.{number}") for number in range(21)]
    assert [answer is None for answer in answers] == [True] * 20 + [False]
    assert answers[-1] is not None
    assert answers[-1].details["limit"] == "code_community_hour"
    assert await timed.sent(other, new_phone()) is None


async def test_requests_at_the_same_time_cannot_pass_a_limit_together(timed: Timed) -> None:
    community_id = await timed.town.found()
    asked = (timed.sent(community_id, new_phone(), "192.0.2.210") for _ in range(10))
    answers = await asyncio.gather(*asked)
    assert sum(answer is None for answer in answers) == 4


async def test_an_address_may_try_so_often_an_hour(timed: Timed) -> None:
    community_id = await timed.town.found()

    async def attempt() -> str:
        with pytest.raises(ServiceError) as error:
            await timed.town.try_code(community_id, new_phone(), "123456", "192.0.2.220")
        return error.value.code

    assert [await attempt() for _ in range(7)] == ["identity.code_wrong"] * 6 + ["identity.too_many_sign_ins"]
    with pytest.raises(Exhausted):
        await timed.town.try_password(community_id, new_phone(), "password", "192.0.2.220")


async def test_a_refresh_token_lasts_thirty_days_from_its_last_use(timed: Timed) -> None:
    guest = await timed.town.sign_in(await timed.town.found())
    assert guest.tokens is not None
    timed.clock.advance(days=29)
    second = await timed.town.nobody().call("RefreshTokens", pb.RefreshTokensRequest(refresh_token=guest.tokens.refresh_token))
    timed.clock.advance(days=30)
    with pytest.raises(Unauthenticated):
        await timed.town.nobody().call("RefreshTokens", pb.RefreshTokensRequest(refresh_token=second.refresh_token))


async def test_what_has_expired_is_forgotten(timed: Timed) -> None:
    community_id, phone = await timed.town.found(), new_phone()
    await timed.town.sign_in(community_id)
    await timed.town.send_code(community_id, phone)

    async def left() -> list[int]:
        async with timed.town.running.transaction("identity", PLATFORM) as tx:
            await sign_in_operations.forget_expired(tx)
            return [await tx.fetchval(f"SELECT count(*) FROM {table}") for table in ("sign_in_codes", "limits", "sign_ins")]

    assert all(count > 0 for count in await left())
    timed.clock.advance(days=31)
    assert await left() == [0, 0, 0]


async def rotate(timed: Timed) -> None:
    async with timed.town.running.transaction("identity", PLATFORM) as tx:
        await sign_in_operations.rotate_signing_keys(tx)


async def forget_keys(timed: Timed, now: datetime) -> None:
    """Begins anew at `now`, with one key."""
    timed.clock.now = now
    async with timed.town.running.transaction("identity", PLATFORM) as tx:
        await tx.execute(FORGET_KEYS)
    await rotate(timed)


async def published(timed: Timed) -> bytes:
    answer = await timed.town.nobody().call("GetKeys", pb.GetKeysRequest())
    assert answer.content_type == "application/json"
    data: bytes = answer.data
    return data


async def key_ids(timed: Timed) -> set[str]:
    return {key["kid"] for key in json.loads(await published(timed))["keys"]}


async def signed_with(timed: Timed, community_id: str) -> tuple[str, str]:
    """A new access token and the id of the key that signed it."""
    guest = await timed.town.sign_in(community_id)
    assert guest.caller.token is not None
    return guest.caller.token, jwt.get_unverified_header(guest.caller.token)["kid"]


async def test_a_new_key_is_published_before_it_signs_and_the_old_one_until_its_last_token_has_expired(
    timed: Timed, monkeypatch: pytest.MonkeyPatch
) -> None:
    community_id = await timed.town.found()
    # Everything has its right time only if this ends at the real present: verifiers look at the real clock.
    await forget_keys(timed, datetime.now(UTC) - timedelta(days=9))
    (old,) = await key_ids(timed)

    timed.clock.now = datetime.now(UTC) - timedelta(minutes=20)
    await rotate(timed)
    both = await key_ids(timed)
    assert len(both) == 2
    await rotate(timed)
    assert await key_ids(timed) == both

    # Fourteen minutes later every verifier has the new key, and the old one still signs.
    timed.clock.now = datetime.now(UTC) - timedelta(minutes=6)
    await rotate(timed)
    old_token, signer = await signed_with(timed, community_id)
    assert signer == old

    timed.clock.now = datetime.now(UTC) - timedelta(minutes=4)
    await rotate(timed)
    new_token, signer = await signed_with(timed, community_id)
    assert {old, signer} == both
    assert signer != old

    monkeypatch.setattr("servicekit.auth._KEYS_REFRESH_S", 0.0)
    verifier = Verifier(lambda: published(timed))
    for token in (old_token, new_token):
        assert str((await verifier.verify(token)).community_id) == community_id

    timed.clock.now = datetime.now(UTC) + timedelta(minutes=5)
    await rotate(timed)
    assert await key_ids(timed) == both
    timed.clock.now = datetime.now(UTC) + timedelta(minutes=7)
    await rotate(timed)
    assert await key_ids(timed) == {signer}


async def test_a_verifier_that_knows_only_the_old_key_fetches_the_new_one(timed: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    community_id = await timed.town.found()
    fetched: list[bytes] = []
    await forget_keys(timed, datetime.now(UTC) - timedelta(days=8))

    async def fetch() -> bytes:
        fetched.append(await published(timed))
        return fetched[-1]

    monkeypatch.setattr("servicekit.auth._KEYS_REFRESH_S", 0.0)
    verifier = Verifier(fetch)
    stranger = jwt.encode({"sub": "x"}, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": "stranger"})
    with pytest.raises(Unauthenticated):
        await verifier.verify(stranger)
    assert [len(json.loads(keys)["keys"]) for keys in fetched] == [1]

    timed.clock.now = datetime.now(UTC) - timedelta(minutes=18)
    await rotate(timed)
    timed.clock.now = datetime.now(UTC) - timedelta(minutes=1)
    token, _ = await signed_with(timed, community_id)
    await verifier.verify(token)
    assert [len(json.loads(keys)["keys"]) for keys in fetched] == [1, 2]


async def test_replicas_that_rotate_at_the_same_time_make_one_key(timed: Timed) -> None:
    async with timed.town.running.transaction("identity", PLATFORM) as tx:
        await tx.execute(FORGET_KEYS)
    await asyncio.gather(*(rotate(timed) for _ in range(6)))
    assert len(await key_ids(timed)) == 1
    timed.clock.advance(days=7)
    await asyncio.gather(*(rotate(timed) for _ in range(6)))
    assert len(await key_ids(timed)) == 2


async def test_the_published_keys_are_the_same_bytes_until_they_change(timed: Timed) -> None:
    assert await published(timed) == await published(timed)
    assert all(set(key) == {"kty", "crv", "use", "alg", "kid", "x"} for key in json.loads(await published(timed))["keys"])
