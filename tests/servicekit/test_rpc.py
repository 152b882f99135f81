"""What every method of every service gets: authentication, authority, validation, idempotency, errors, limits."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from servicekit import rpc
from servicekit.database import Transaction
from servicekit.errors import Conflict, Denied, Exhausted, Internal, Invalid, NotFound, Unauthenticated, Unavailable
from servicekit.rpc import Peer
from tests.servicekit import toy
from tests.servicekit.toy import (
    CALL,
    COUNT_WORDS,
    INSERT,
    MAKE_SECRET,
    MISBEHAVE,
    QUIET,
    SAY,
    SAY_AT_HOME,
    answering,
    message,
    texts,
)
from tests.support import Caller, Mint, Platform, Servers, eventually, platform, principal

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(servers: Servers) -> AsyncIterator[Platform]:
    async with platform(servers, QUIET) as started:
        yield started


def speaker(running: Platform, community_id: uuid.UUID | None = None) -> Caller:
    return running.caller(principal("toy.say", community_id=community_id, modules=["toy"]))


async def words(running: Platform, community_id: uuid.UUID) -> list[str]:
    async with running.transaction("toy", community_id) as tx:
        return list(await texts(tx))


# Who may call


async def test_a_method_refuses_a_caller_without_a_token(running: Platform) -> None:
    with pytest.raises(Unauthenticated, match=r"auth\.token_missing"):
        await running.caller().call(SAY, message("SayRequest", word="hi"))


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": 1_700_000_000}, "auth.token_expired"),
        ({"aud": "another"}, "auth.token_invalid"),
        ({"cid": "no uuid"}, "auth.token_invalid"),
        ({"per": "no list"}, "auth.token_invalid"),
        ({"iat": None}, "auth.token_invalid"),
    ],
)
async def test_a_method_refuses_a_token_that_is_not_for_it(running: Platform, claims: dict[str, object], code: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await running.caller(principal("toy.say", modules=["toy"]), **claims).call(SAY, message("SayRequest", word="hi"))
    assert refused.value.code == code


async def test_a_method_refuses_a_token_of_another_signer(running: Platform) -> None:
    caller = running.caller()
    caller.token = Mint().token(principal("toy.say", modules=["toy"]))
    with pytest.raises(Unauthenticated, match=r"auth\.token_invalid"):
        await caller.call(SAY, message("SayRequest", word="hi"))


async def test_a_method_refuses_a_caller_without_its_permission(running: Platform) -> None:
    with pytest.raises(Denied, match=r"auth\.permission_missing"):
        await running.caller(principal("toy.other", modules=["toy"])).call(SAY, message("SayRequest", word="hi"))


async def test_a_module_that_is_switched_off_answers_nobody(running: Platform) -> None:
    with pytest.raises(Denied, match=r"auth\.module_off"):
        await running.caller(principal("toy.say", modules=["parking"])).call(SAY, message("SayRequest", word="hi"))


async def test_a_household_permission_covers_its_household_and_hides_others(running: Platform) -> None:
    home, other = uuid.uuid4(), uuid.uuid4()
    caller = running.caller(principal(household={home: ["toy.say_at_home"]}, modules=["toy"]))
    assert (await caller.call(SAY_AT_HOME, message("SayAtHomeRequest", household_id=str(home)))).id == str(home)
    with pytest.raises(NotFound):
        await caller.call(SAY_AT_HOME, message("SayAtHomeRequest", household_id=str(other)))
    everyone = running.caller(principal("toy.say_at_home", modules=["toy"]))
    assert (await everyone.call(SAY_AT_HOME, message("SayAtHomeRequest", household_id=str(other)))).id == str(other)


async def test_communities_do_not_see_each_other(running: Platform) -> None:
    one, other = principal("toy.say", modules=["toy"]), principal("toy.say", modules=["toy"])
    await running.caller(one).call(SAY, message("SayRequest", word="here"))
    assert (await running.caller(one).call(COUNT_WORDS, message("CountWordsRequest"))).words == 1
    assert (await running.caller(other).call(COUNT_WORDS, message("CountWordsRequest"))).words == 0


# What may be asked


async def test_a_request_that_breaks_its_contract_is_refused_field_by_field(running: Platform) -> None:
    with pytest.raises(Invalid) as refused:
        await speaker(running).call(SAY, message("SayRequest", word="", more=["ok", "much too long"]))
    assert refused.value.code == "request.invalid"
    assert {(violation.field, violation.code) for violation in refused.value.fields} == {
        ("word", "string.min_len"),
        ("more[1]", "string.max_len"),
    }


async def test_a_request_that_breaks_its_contract_in_a_thousand_places_is_refused_all_the_same(running: Platform) -> None:
    with pytest.raises(Invalid) as refused:
        await speaker(running).call(SAY, message("SayRequest", word="x", more=["much too long"] * 1000))
    assert 0 < len(refused.value.fields) < 100


@pytest.mark.parametrize("fields", [{"word": "a\0b"}, {"word": "n", "number": 2**40}], ids=["a NUL", "a number out of range"])
async def test_what_the_database_cannot_hold_is_the_callers_error(running: Platform, fields: dict[str, object]) -> None:
    who = principal("toy.say", modules=["toy"])
    with pytest.raises(Invalid, match=r"request\.value"):
        await running.caller(who).call(SAY, message("SayRequest", **fields))
    assert await words(running, who.community_id) == []


async def test_bytes_that_are_no_message_are_the_callers_error(running: Platform) -> None:
    peer = Peer(running.grpc_address)
    token = running.mint.token(principal("toy.say", modules=["toy"]))
    with pytest.raises(Invalid, match=r"request\.malformed"):
        await peer.call(f"/{SAY}", b"\xff\xff\xff", [("authorization", f"Bearer {token}")])
    await peer.close()


async def test_a_message_that_is_too_large_is_refused(running: Platform) -> None:
    with pytest.raises(Exhausted):
        await speaker(running).call(SAY, message("SayRequest", word="x" * 5 * 1024 * 1024))


@pytest.mark.parametrize("garbage", ["", "x", "00-zz-yy-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "-" * 60, "00-" + "a" * 33])
async def test_a_trace_that_is_none_harms_no_call(running: Platform, garbage: str) -> None:
    assert (await running.caller().call(MISBEHAVE, message("MisbehaveRequest", how="fine"), traceparent=garbage)).id == "fine"


async def test_metadata_that_is_binary_or_long_harms_no_call(running: Platform) -> None:
    peer = Peer(running.grpc_address)
    metadata = [("anything-bin", b"\x00\xff"), ("authorization-bin", b"\xff"), ("x-request-id", "r" * 1000), ("http-cookie", "c" * 9000)]
    answer = await peer.call(f"/{MISBEHAVE}", message("MisbehaveRequest", how="fine").SerializeToString(), metadata)  # type: ignore[arg-type]
    assert toy.kind("Said").FromString(answer).id == "fine"
    await peer.close()


async def test_a_token_of_somebody_with_many_households_is_taken(running: Platform) -> None:
    many = {uuid.uuid4(): ["toy.say_at_home", "toy.read_at_home", "toy.write_at_home"] for _ in range(120)}
    who = principal(household=many, modules=["toy"])
    home = next(iter(many))
    assert (await running.caller(who).call(SAY_AT_HOME, message("SayAtHomeRequest", household_id=str(home)))).id == str(home)


# Idempotency keys


async def test_the_same_key_answers_the_same_and_acts_once(running: Platform) -> None:
    who = principal("toy.say", modules=["toy"])
    request = message("SayRequest", word="once")
    answers = await asyncio.gather(*(running.caller(who).call(SAY, request, idempotency_key="k1") for _ in range(8)))
    assert len({answer.id for answer in answers}) == 1
    assert await words(running, who.community_id) == ["once"]


async def test_without_the_claim_of_its_key_the_same_request_acts_every_time(running: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(*_: object) -> None: ...

    monkeypatch.setattr(rpc.Method, "_claim", forget)
    who = principal("toy.say", modules=["toy"])
    request = message("SayRequest", word="once")
    await asyncio.gather(*(running.caller(who).call(SAY, request, idempotency_key="k1") for _ in range(8)))
    assert len(await words(running, who.community_id)) == 8


async def test_without_a_key_the_same_request_acts_twice(running: Platform) -> None:
    who = principal("toy.say", modules=["toy"])
    for _ in range(2):
        await running.caller(who).call(SAY, message("SayRequest", word="again"))
    assert await words(running, who.community_id) == ["again", "again"]


async def test_a_key_holds_for_a_function_that_moves_to_another_community(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(tx: Transaction, _request: Any) -> object:
        await tx.execute(INSERT, tx.community_id, "founded")
        await tx.enter(uuid.uuid4())
        await tx.execute(INSERT, tx.community_id, "first")
        return message("Said", id=str(tx.community_id))

    monkeypatch.setattr(toy.functions, "say", found)
    async with platform(servers, QUIET, keep_streams=True) as running:
        who = principal("toy.say", modules=["toy"])
        ids = {(await running.caller(who).call(SAY, message("SayRequest", word="go"), idempotency_key="k")).id for _ in range(2)}
        assert len(ids) == 1
        assert await words(running, who.community_id) == ["founded"]


async def test_a_key_with_another_body_is_a_conflict(running: Platform) -> None:
    caller = speaker(running)
    await caller.call(SAY, message("SayRequest", word="one"), idempotency_key="k")
    with pytest.raises(Conflict, match=r"request\.idempotency_key_reused"):
        await caller.call(SAY, message("SayRequest", word="two"), idempotency_key="k")


async def test_a_key_belongs_to_its_account(running: Platform) -> None:
    community = uuid.uuid4()
    ids = set()
    for _ in range(2):
        ids.add((await speaker(running, community).call(SAY, message("SayRequest", word="mine"), idempotency_key="k")).id)
    assert len(ids) == 2


async def test_a_key_of_a_failed_request_is_free_again(running: Platform) -> None:
    caller = speaker(running)
    with pytest.raises(Conflict, match=r"toy\.stopped"):
        await caller.call(SAY, message("SayRequest", word="stop"), idempotency_key="k")
    assert (await caller.call(SAY, message("SayRequest", word="go"), idempotency_key="k")).words == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 129], ids=["empty", "blank", "long"])
async def test_a_key_that_is_no_key_is_refused(running: Platform, key: str) -> None:
    with pytest.raises(Invalid, match=r"request\.idempotency_key"):
        await speaker(running).call(SAY, message("SayRequest", word="x"), idempotency_key=key)


async def test_outside_of_a_transaction_the_same_key_answers_the_same(running: Platform) -> None:
    calls = 0

    async def count() -> None:
        nonlocal calls
        calls += 1

    caller = speaker(running)
    with answering("fire brigade", count):
        first = await caller.call(CALL, message("CallRequest", who="fire brigade"), idempotency_key="k")
        again = await caller.call(CALL, message("CallRequest", who="fire brigade"), idempotency_key="k")
    assert (first.id, calls) == (again.id, 1)


async def test_outside_of_a_transaction_a_second_caller_waits_for_the_first_ones_answer_and_another_body_gets_none(
    running: Platform,
) -> None:
    calls, inside, finish = 0, asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        nonlocal calls
        calls += 1
        inside.set()
        await finish.wait()

    caller = speaker(running)
    with answering("police", wait), answering("other", wait):
        both = [asyncio.create_task(caller.call(CALL, message("CallRequest", who="police"), idempotency_key="k")) for _ in range(4)]
        await inside.wait()
        with pytest.raises(Conflict, match=r"request\.idempotency_key_reused"):
            await caller.call(CALL, message("CallRequest", who="other"), idempotency_key="k")
        finish.set()
        answers = await asyncio.gather(*both)
    assert len({answer.id for answer in answers}) == 1
    assert calls == 1


@pytest.mark.parametrize("failure", [Conflict("toy.engaged", "占线", "engaged"), RuntimeError()], ids=["refusal", "defect"])
async def test_outside_of_a_transaction_a_failure_frees_the_key(running: Platform, failure: Exception) -> None:
    async def fail() -> None:
        raise failure

    async def answer() -> None: ...

    caller = speaker(running)
    with answering("doctor", fail), answering("nurse", answer):
        with pytest.raises((Conflict, Internal)):
            await caller.call(CALL, message("CallRequest", who="doctor"), idempotency_key="k")
        await caller.call(CALL, message("CallRequest", who="nurse"), idempotency_key="k")


async def test_outside_of_a_transaction_a_caller_who_hangs_up_frees_the_key(running: Platform) -> None:
    inside = asyncio.Event()

    async def hang() -> None:
        inside.set()
        await asyncio.sleep(60)

    async def answer() -> None: ...

    caller = speaker(running)
    with answering("doctor", hang):
        call = asyncio.create_task(caller.call(CALL, message("CallRequest", who="doctor"), idempotency_key="k"))
        await inside.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    with answering("doctor", answer):
        await caller.call(CALL, message("CallRequest", who="doctor"), idempotency_key="k")


async def test_outside_of_a_transaction_what_a_crash_interrupted_runs_again_when_it_must_be_dead(running: Platform) -> None:
    calls = 0

    async def count() -> None:
        nonlocal calls
        calls += 1

    who = principal(modules=["toy"])
    with answering("doctor", count):
        await running.caller(who).call(CALL, message("CallRequest", who="doctor"), idempotency_key="k")
        async with running.transaction("toy", who.community_id) as tx:
            await tx.execute("UPDATE idempotency_keys SET response = NULL, created_at = now() - interval '35 seconds'")
        waiting = asyncio.create_task(running.caller(who).call(CALL, message("CallRequest", who="doctor"), idempotency_key="k"))
        await asyncio.wait([waiting], timeout=0.2)
        assert (calls, waiting.done()) == (1, False)
        async with running.transaction("toy", who.community_id) as tx:
            await tx.execute("UPDATE idempotency_keys SET created_at = now() - interval '45 seconds'")
        await waiting
    assert calls == 2


async def test_an_answer_that_holds_a_secret_is_given_once_and_kept_nowhere(running: Platform) -> None:
    who = principal(modules=["toy"])
    assert (await running.caller(who).call(MAKE_SECRET, message("MakeSecretRequest"), idempotency_key="k")).id == "secret"
    with pytest.raises(Conflict, match=r"request\.answer_not_kept"):
        await running.caller(who).call(MAKE_SECRET, message("MakeSecretRequest"), idempotency_key="k")
    async with running.transaction("toy", who.community_id) as tx:
        assert b"secret" not in await tx.fetchval("SELECT response FROM idempotency_keys")
        assert await texts(tx) == ["a secret was made"]


# Errors, deadlines, limits


async def test_an_error_rolls_back_and_publishes_nothing(running: Platform) -> None:
    who = principal("toy.say", modules=["toy"])
    with pytest.raises(Conflict):
        await running.caller(who).call(SAY, message("SayRequest", word="stop"))
    async with running.transaction("toy", who.community_id) as tx:
        assert await texts(tx) == []
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


@pytest.mark.parametrize("how", ["hangs up", "deadline"])
async def test_a_call_whose_caller_is_gone_rolls_back_and_frees_its_connection(running: Platform, how: str) -> None:
    who = principal("toy.say", modules=["toy"])
    metadata = (("authorization", f"Bearer {running.mint.token(who)}"),)
    async with grpc.aio.insecure_channel(running.grpc_address) as channel:
        request = message("SayRequest", word="wait").SerializeToString()
        call: Any = channel.unary_unary(f"/{SAY}")(request, metadata=metadata, timeout=0.5 if how == "deadline" else None)

        async def sleeping() -> int:
            async with running.transaction("toy", "*") as tx:
                return int(
                    await tx.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()")
                )

        async def sleeps() -> bool:
            return await sleeping() == 1

        async def ended() -> bool:
            return await sleeping() == 0

        await eventually(sleeps)
        if how == "hangs up":
            call.cancel()
        await eventually(ended)
    assert await words(running, who.community_id) == []


async def test_two_calls_that_block_each_other_both_succeed(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    met = asyncio.Barrier(2)
    attempts = 0

    async def cross(tx: Transaction, request: Any) -> object:
        nonlocal attempts
        attempts += 1
        first, second = (1, 2) if request.word == "left" else (2, 1)
        await tx.execute("SELECT pg_advisory_xact_lock($1)", first)
        if attempts <= 2:
            await met.wait()
        await tx.execute("SELECT pg_advisory_xact_lock($1)", second)
        await tx.execute(INSERT, tx.community_id, request.word)
        return message("Said")

    monkeypatch.setattr(toy.functions, "say", cross)
    async with platform(servers, QUIET, keep_streams=True) as running:
        who = principal("toy.say", modules=["toy"])
        await asyncio.gather(*(running.caller(who).call(SAY, message("SayRequest", word=word)) for word in ("left", "right")))
        assert sorted(await words(running, who.community_id)) == ["left", "right"]
    assert attempts == 3


async def test_health_and_reflection_answer(running: Platform) -> None:
    peer = Peer(running.grpc_address)
    question = health_pb2.HealthCheckRequest(service="linli.toy.v1.ToyService")
    answer = await peer.call("/grpc.health.v1.Health/Check", question.SerializeToString())
    assert health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(NotFound):
        await peer.call("/linli.toy.v1.ToyService/Nothing", b"")
    await peer.close()


async def test_more_calls_at_once_than_the_limit_are_refused_at_once(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "CALLS_MAX", 2)
    monkeypatch.setattr(rpc, "WATCHERS_MAX", 2)  # the platform's own caller, and ours
    async with platform(servers, QUIET, keep_streams=True) as running:
        peer = Peer(running.grpc_address)
        slow = message("MisbehaveRequest", how="slow").SerializeToString()
        calls: list[asyncio.Task[bytes]] = []

        async def refused() -> bool:
            try:
                await running.caller().call(MISBEHAVE, message("MisbehaveRequest", how="fine"))
                return False
            except Exhausted:
                return True

        async def refused_beside_slow_ones() -> bool:
            # One may have been refused itself, while our own question was being answered.
            slow_ones = [call for call in calls if not call.done()]
            calls.extend(asyncio.create_task(peer.call(f"/{MISBEHAVE}", slow, timeout_s=10)) for _ in range(2 - len(slow_ones)))
            return await refused()

        await eventually(refused_beside_slow_ones)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

        async def answered() -> bool:
            return not await refused()

        await eventually(answered)
        await peer.close()


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    peer = Peer("127.0.0.1:1")
    with pytest.raises(Unavailable):
        await peer.call(f"/{SAY}", b"", timeout_s=1)
    await peer.close()
