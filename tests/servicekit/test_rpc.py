"""What every method of every service gets: authentication, authority, validation, idempotency, errors."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
from servicekit.errors import Conflict, Denied, Internal, Invalid, NotFound, Unauthenticated, Unavailable
from servicekit.rpc import Peer

from tests.servicekit.toy import COUNT_WORDS, MISBEHAVE, SAY, SAY_AT_HOME, TOY, message
from tests.support import Mint, Platform, Servers, platform, principal

SPEAKER = ("toy.say",)


@pytest.fixture
async def running(servers: Servers) -> AsyncIterator[Platform]:
    async with platform(servers, TOY) as started:
        yield started


async def words(running: Platform, community: uuid.UUID) -> int:
    answer = await running.caller(principal(community_id=community, modules=["toy"])).call(COUNT_WORDS, message("CountWordsRequest"))
    return int(answer.words)


async def test_a_method_refuses_a_caller_without_a_token(running: Platform) -> None:
    with pytest.raises(Unauthenticated, match=r"auth\.token_missing"):
        await running.caller().call(SAY, message("SayRequest", word="hi"))


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": int(time.time()) - 1}, "auth.token_expired"),
        ({"aud": "another"}, "auth.token_invalid"),
        ({"cid": "no uuid"}, "auth.token_invalid"),
        ({"per": "no list"}, "auth.token_invalid"),
        ({"iat": None}, "auth.token_invalid"),
    ],
)
async def test_a_method_refuses_a_token_that_is_not_for_it(running: Platform, claims: dict[str, object], code: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await running.caller(principal(*SPEAKER, modules=["toy"]), **claims).call(SAY, message("SayRequest", word="hi"))
    assert refused.value.code == code


async def test_a_method_refuses_a_token_of_another_signer(running: Platform) -> None:
    forged = Mint().token(principal(*SPEAKER, modules=["toy"]))
    caller = running.caller()
    caller.token = forged
    with pytest.raises(Unauthenticated, match=r"auth\.token_invalid"):
        await caller.call(SAY, message("SayRequest", word="hi"))


async def test_a_method_refuses_a_caller_without_its_permission(running: Platform) -> None:
    with pytest.raises(Denied, match=r"auth\.permission_missing"):
        await running.caller(principal("toy.other", modules=["toy"])).call(SAY, message("SayRequest", word="hi"))


async def test_a_module_that_is_switched_off_answers_nobody(running: Platform) -> None:
    with pytest.raises(Denied, match=r"auth\.module_off"):
        await running.caller(principal(*SPEAKER, modules=["parking"])).call(SAY, message("SayRequest", word="hi"))


async def test_a_household_permission_covers_its_household_and_hides_others(running: Platform) -> None:
    home, other = uuid.uuid4(), uuid.uuid4()
    caller = running.caller(principal(household={home: ["toy.say_at_home"]}, modules=["toy"]))
    assert (await caller.call(SAY_AT_HOME, message("SayAtHomeRequest", household_id=str(home)))).id == str(home)
    with pytest.raises(NotFound):
        await caller.call(SAY_AT_HOME, message("SayAtHomeRequest", household_id=str(other)))
    everyone = running.caller(principal("toy.say_at_home", modules=["toy"]))
    assert (await everyone.call(SAY_AT_HOME, message("SayAtHomeRequest", household_id=str(other)))).id == str(other)


async def test_a_request_that_breaks_its_contract_is_refused_field_by_field(running: Platform) -> None:
    with pytest.raises(Invalid) as refused:
        await running.caller(principal(*SPEAKER, modules=["toy"])).call(SAY, message("SayRequest", word="", more=["ok", "much too long"]))
    assert refused.value.code == "request.invalid"
    assert {(violation.field, violation.code) for violation in refused.value.fields} == {
        ("word", "string.min_len"),
        ("more[1]", "string.max_len"),
    }


async def test_bytes_that_are_no_message_are_the_callers_error(running: Platform) -> None:
    peer = Peer(running.grpc_address)
    token = running.mint.token(principal(*SPEAKER, modules=["toy"]))
    with pytest.raises(Invalid, match=r"request\.malformed"):
        await peer.call(f"/{SAY}", b"\xff\xff\xff", [("authorization", f"Bearer {token}")])
    await peer.close()


async def test_the_same_key_answers_the_same_and_acts_once(running: Platform) -> None:
    who = principal(*SPEAKER, modules=["toy"])
    request = message("SayRequest", word="once")
    answers = await asyncio.gather(*(running.caller(who).call(SAY, request, idempotency_key="k1") for _ in range(8)))
    assert len({answer.id for answer in answers}) == 1
    async with running.transaction("toy", who.community_id) as tx:
        assert await tx.fetchval("SELECT count(*) FROM heard WHERE text = 'once'") == 1


async def test_without_a_key_the_same_request_acts_twice(running: Platform) -> None:
    who = principal(*SPEAKER, modules=["toy"])
    for _ in range(2):
        await running.caller(who).call(SAY, message("SayRequest", word="again"))
    async with running.transaction("toy", who.community_id) as tx:
        assert await tx.fetchval("SELECT count(*) FROM heard WHERE text = 'again'") == 2


async def test_a_key_with_another_body_is_a_conflict(running: Platform) -> None:
    who = principal(*SPEAKER, modules=["toy"])
    await running.caller(who).call(SAY, message("SayRequest", word="one"), idempotency_key="k")
    with pytest.raises(Conflict, match=r"request\.idempotency_key_reused"):
        await running.caller(who).call(SAY, message("SayRequest", word="two"), idempotency_key="k")


async def test_a_key_belongs_to_its_account(running: Platform) -> None:
    community = uuid.uuid4()
    ids = set()
    for _ in range(2):
        who = principal(*SPEAKER, community_id=community, modules=["toy"])
        ids.add((await running.caller(who).call(SAY, message("SayRequest", word="mine"), idempotency_key="k")).id)
    assert len(ids) == 2


async def test_a_key_of_a_failed_request_is_free_again(running: Platform) -> None:
    who = principal(*SPEAKER, modules=["toy"])
    with pytest.raises(Conflict, match=r"toy\.stopped"):
        await running.caller(who).call(SAY, message("SayRequest", word="stop"), idempotency_key="k")
    assert (await running.caller(who).call(SAY, message("SayRequest", word="go"), idempotency_key="k")).words == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 129])
async def test_a_key_that_is_no_key_is_refused(running: Platform, key: str) -> None:
    with pytest.raises(Invalid, match=r"request\.idempotency_key"):
        await running.caller(principal(*SPEAKER, modules=["toy"])).call(SAY, message("SayRequest", word="x"), idempotency_key=key)


async def test_an_error_rolls_back_and_publishes_nothing(running: Platform) -> None:
    who = principal(*SPEAKER, modules=["toy"])
    with pytest.raises(Conflict):
        await running.caller(who).call(SAY, message("SayRequest", word="stop"))
    assert await words(running, who.community_id) == 0
    async with running.transaction("toy", who.community_id) as tx:
        assert await tx.fetchval("SELECT count(*) FROM outbox") == 0


async def test_a_defect_tells_the_caller_nothing(running: Platform) -> None:
    with pytest.raises(Internal) as failed:
        await running.caller().call(MISBEHAVE, message("MisbehaveRequest", how="secret"))
    assert "13800000000" not in str(failed.value)


async def test_a_call_that_is_too_slow_ends_at_its_deadline(running: Platform) -> None:
    peer = Peer(running.grpc_address)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await peer.call(f"/{MISBEHAVE}", message("MisbehaveRequest", how="slow").SerializeToString(), timeout_s=0.3)
    assert time.monotonic() - started < 5
    await peer.close()


async def test_communities_do_not_see_each_other(running: Platform) -> None:
    one, other = principal(*SPEAKER, modules=["toy"]), principal(*SPEAKER, modules=["toy"])
    await running.caller(one).call(SAY, message("SayRequest", word="here"))
    assert await words(running, one.community_id) >= 1
    assert await words(running, other.community_id) == 0


async def test_health_and_reflection_answer(running: Platform) -> None:
    from grpc_health.v1 import health_pb2

    peer = Peer(running.grpc_address)
    answer = await peer.call(
        "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="linli.toy.v1.ToyService").SerializeToString()
    )
    assert health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(NotFound):
        await peer.call("/linli.toy.v1.ToyService/Nothing", b"")
    await peer.close()


def test_errors_cross_grpc_whole() -> None:
    from servicekit.errors import FAMILY, FieldViolation, from_status, to_status

    for kind in FAMILY:
        error = kind("a.code", "中文", "English", details={"x": "y"}, fields=[FieldViolation("a[0].b", "c", "d")], retry_after_s=3)
        back = from_status(error.status, to_status(error))
        assert type(back) is kind
        assert (back.code, back.zh, back.en, back.details, back.fields, back.retry_after_s) == (
            "a.code",
            "中文",
            "English",
            {"x": "y"},
            error.fields,
            3,
        )
    assert isinstance(from_status(grpc.StatusCode.UNKNOWN, None), Internal)
