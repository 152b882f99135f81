"""Tokens: which are taken, which are not, and what it costs identity that strangers send them."""

import asyncio
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from servicekit import auth
from servicekit.auth import ALGORITHM, AUDIENCE, Principal, Verifier, claims_of, token_in
from servicekit.errors import Unauthenticated, Unavailable
from servicekit.identifiers import new_id
from tests.support import eventually, principal


class Identity:
    """Publishes keys, changes them, and may be away. Counts how often it is asked."""

    def __init__(self) -> None:
        self.keys: dict[str, Ed25519PrivateKey] = {}
        self.asked = 0
        self.is_away = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.add("k1")

    def add(self, name: str) -> None:
        self.keys[name] = Ed25519PrivateKey.generate()

    async def publish(self) -> bytes:
        self.asked += 1
        await self.answers.wait()
        if self.is_away:
            raise Unavailable("unavailable", "", "")
        keys = [
            {**jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": name, "alg": ALGORITHM}
            for name, key in self.keys.items()
        ]
        return json.dumps({"keys": keys}).encode()

    def token(self, who: Principal, key: str = "k1", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        payload = {**claims_of(who), "aud": AUDIENCE, "iat": now, "exp": now + 600, **claims}
        return jwt.encode(payload, self.keys[key], algorithm=ALGORITHM, headers={"kid": key, **(headers or {})})


@pytest.fixture
async def identity() -> Identity:
    return Identity()


@pytest.fixture
def verifier(identity: Identity) -> Verifier:
    return Verifier(identity.publish)


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monotonic, wall = time.monotonic, time.time
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + seconds)
    monkeypatch.setattr(time, "time", lambda: wall() + seconds)


async def test_a_token_says_who_its_bearer_is(identity: Identity, verifier: Verifier) -> None:
    home = new_id()
    who = principal("a.read", "a.write", household={home: ["b.read"]})
    assert await verifier.verify(identity.token(who)) == who


async def test_identity_is_asked_once_however_many_ask_at_the_same_time(identity: Identity, verifier: Verifier) -> None:
    tokens = [identity.token(principal()) for _ in range(50)]
    await asyncio.gather(*(verifier.verify(token) for token in tokens))
    assert identity.asked == 1


async def test_key_ids_of_strangers_do_not_hammer_identity(identity: Identity, verifier: Verifier) -> None:
    await verifier.verify(identity.token(principal()))
    tokens = [identity.token(principal(), headers={"kid": f"stranger {index}"}) for index in range(200)]
    results = await asyncio.gather(*(verifier.verify(token) for token in tokens), return_exceptions=True)
    assert all(isinstance(result, Unauthenticated) for result in results)
    assert identity.asked <= 2


async def test_an_identity_that_is_away_is_not_hammered_and_nobody_is_called_a_stranger(identity: Identity, verifier: Verifier) -> None:
    identity.is_away = True
    tokens = [identity.token(principal()) for _ in range(100)]
    results = await asyncio.gather(*(verifier.verify(token) for token in tokens), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert identity.asked == 1


async def test_an_identity_that_comes_back_is_found(identity: Identity, verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    identity.is_away = True
    with pytest.raises(Unavailable):
        await verifier.verify(identity.token(principal()))
    identity.is_away = False
    pass_time(monkeypatch, 1.1)
    await verifier.verify(identity.token(principal()))


async def test_a_new_key_is_found_when_a_token_names_it(identity: Identity, verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    await verifier.verify(identity.token(principal()))
    identity.add("k2")
    pass_time(monkeypatch, 6)
    await verifier.verify(identity.token(principal(), "k2"))
    await verifier.verify(identity.token(principal(), "k1"))


async def test_a_withdrawn_key_and_what_it_signed_are_refused(
    identity: Identity, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = identity.token(principal())
    await verifier.verify(token)
    identity.add("k2")
    other = identity.token(principal(), "k2")
    del identity.keys["k1"]
    pass_time(monkeypatch, 6)
    await verifier.verify(other)
    with pytest.raises(Unauthenticated, match=r"auth\.token_invalid"):
        await verifier.verify(token)


async def test_old_keys_are_good_while_identity_is_away_and_nobody_waits_for_it(
    identity: Identity, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    await verifier.verify(identity.token(principal()))
    pass_time(monkeypatch, 301)
    identity.answers.clear()
    first = asyncio.create_task(verifier.verify(identity.token(principal())))
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await verifier.verify(identity.token(principal()))
    identity.is_away = True
    identity.answers.set()
    await first
    await verifier.verify(identity.token(principal()))
    assert identity.asked == 2


async def test_a_caller_who_gives_up_while_keys_are_fetched_leaves_the_fetching_to_the_next(identity: Identity, verifier: Verifier) -> None:
    identity.answers.clear()
    impatient = asyncio.create_task(verifier.verify(identity.token(principal())))
    patient = asyncio.create_task(verifier.verify(identity.token(principal())))
    await asyncio.sleep(0.01)
    impatient.cancel()
    await asyncio.sleep(0)
    identity.answers.set()
    await patient


@pytest.mark.parametrize("keys", [b"", b"null", b"[]", b'{"keys": []}', b'{"keys": [{"kty": "RSA"}]}', b"\xff", b"<html>"])
async def test_keys_that_are_none_are_as_good_as_no_answer(keys: bytes, identity: Identity) -> None:
    async def publish() -> bytes:
        return keys

    with pytest.raises(Unavailable):
        await Verifier(publish).verify(identity.token(principal()))


async def test_a_verified_token_expires_on_time(identity: Identity, verifier: Verifier) -> None:
    token = identity.token(principal(), exp=int(time.time()) + 2)
    await verifier.verify(token)

    async def expired() -> bool:
        try:
            await verifier.verify(token)
            return False
        except Unauthenticated as refused:
            return refused.code == "auth.token_expired"

    await eventually(expired, deadline_s=3)


async def test_a_token_from_a_machine_whose_clock_is_ahead_is_taken(identity: Identity, verifier: Verifier) -> None:
    await verifier.verify(identity.token(principal(), iat=int(time.time()) + 30))


async def test_the_memory_of_verified_tokens_is_bounded(identity: Identity, verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_VERIFIED_MAX", 10)
    for _ in range(50):
        await verifier.verify(identity.token(principal()))
    assert len(verifier._verified) <= 10


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "....", "é" * 10, "e30.e30.e30", "bnVsbA.e30.e30"])
async def test_what_is_no_token_is_refused(verifier: Verifier, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)


async def test_a_token_without_signature_or_with_a_secret_for_a_key_is_refused(identity: Identity, verifier: Verifier) -> None:
    payload = {**claims_of(principal()), "aud": AUDIENCE, "iat": 0, "exp": int(time.time()) + 600}
    unsigned = jwt.encode(payload, "", algorithm="none", headers={"kid": "k1"})
    shared = jwt.encode(payload, "a secret that is long enough for HS256 and more", algorithm="HS256", headers={"kid": "k1"})
    for token in (unsigned, shared):
        with pytest.raises(Unauthenticated, match=r"auth\.token_malformed"):
            await verifier.verify(token)


@pytest.mark.parametrize("claims", [{"exp": "never"}, {"exp": -1}, {"sub": "me"}, {"hou": {"x": []}}, {"aud": None}, {"cid": 5}])
async def test_a_token_with_odd_claims_is_refused(identity: Identity, verifier: Verifier, claims: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.verify(identity.token(principal(), **claims))


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic YTpi", "token"])
def test_a_header_without_a_token_is_refused(authorization: str | None) -> None:
    with pytest.raises(Unauthenticated):
        token_in(authorization)
