"""Access tokens that identity did not make as they are: each is refused, by the real verifier with the real keys."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from linli.identity.v1 import identity_pb2 as pb
from linli.options.v1 import options_pb2
from servicekit.database import PLATFORM
from servicekit.errors import Denied, Invalid, Unauthenticated
from servicekit.sealing import DataKeys
from services.identity import sign_in_store
from tests.identity.arrange import CONTRACT, Community, Town

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(slots=True)
class Parts:
    """A good token taken apart, and the key that signed it."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signature: str
    key: Ed25519PrivateKey

    def signed(self, **changed: Any) -> str:
        """A token with other claims under identity's own signature."""
        return jwt.encode({**self.claims, **changed}, self.key, algorithm="EdDSA", headers={"kid": self.header["kid"]})


async def parts_of(town: Town, token: str) -> Parts:
    """Takes a token apart."""
    async with town.running.transaction("identity", PLATFORM) as tx:
        (stored,) = await sign_in_store.list_signing_keys(tx)
        private_key = tx.resource(DataKeys).open(stored.private_key, f"signing_keys.private_key {stored.key_id}")
    claims = jwt.decode(token, options={"verify_signature": False})
    return Parts(jwt.get_unverified_header(token), claims, token.rpartition(".")[2], Ed25519PrivateKey.from_private_bytes(private_key))


def encoded(part: object) -> str:
    """One part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def unsigned(good: Parts, algorithm: str) -> str:
    return f"{encoded({**good.header, 'alg': algorithm})}.{encoded(good.claims)}."


def with_public_key_as_secret(good: Parts, public_key: bytes) -> str:
    head = f"{encoded({**good.header, 'alg': 'HS256'})}.{encoded(good.claims)}"
    signature = base64.urlsafe_b64encode(hmac.digest(public_key, head.encode(), hashlib.sha256)).rstrip(b"=").decode()
    return f"{head}.{signature}"


def more_permissions(good: Parts) -> dict[str, Any]:
    return {**good.claims, "per": ["identity.communities.create", "identity.roles.grant"]}


NOW = int(time.time())
FORGERIES: dict[str, Callable[[Parts], str]] = {
    "expired": lambda good: good.signed(iat=NOW - 1200, exp=NOW - 600),
    "for another audience": lambda good: good.signed(aud="elsewhere"),
    "for no audience": lambda good: jwt.encode(
        {key: value for key, value in good.claims.items() if key != "aud"}, good.key, algorithm="EdDSA", headers={"kid": good.header["kid"]}
    ),
    "that never expires": lambda good: jwt.encode(
        {key: value for key, value in good.claims.items() if key != "exp"}, good.key, algorithm="EdDSA", headers={"kid": good.header["kid"]}
    ),
    "unsigned": lambda good: unsigned(good, "none"),
    "unsigned, in capitals": lambda good: unsigned(good, "NONE"),
    "without a signature": lambda good: unsigned(good, "EdDSA"),
    "with the public key as an HS256 secret": lambda good: with_public_key_as_secret(good, good.key.public_key().public_bytes_raw()),
    "with the public key's PEM as an HS256 secret": lambda good: with_public_key_as_secret(
        good, good.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ),
    "of an unknown key": lambda good: jwt.encode(good.claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": "unknown"}),
    "of another key under the id of ours": lambda good: jwt.encode(
        good.claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": good.header["kid"]}
    ),
    "without a key id": lambda good: jwt.encode(good.claims, good.key, algorithm="EdDSA"),
    "with a key of its own": lambda good: jwt.encode(
        good.claims,
        Ed25519PrivateKey.generate(),
        algorithm="EdDSA",
        headers={"kid": "own", "jwk": {"kty": "OKP"}, "jku": "http://127.0.0.1"},
    ),
    "with more permissions": lambda good: f"{encoded(good.header)}.{encoded(more_permissions(good))}.{good.signature}",
    "of no account": lambda good: good.signed(sub="nobody"),
    "of no community": lambda good: good.signed(cid="nowhere"),
    "with permissions of another shape": lambda good: good.signed(per="everything"),
    "with households that are none": lambda good: good.signed(hou={"all": ["identity.household.read"]}),
    "no token": lambda good: "no-token",
    "three dots": lambda good: "...",
    "cut off": lambda good: good.signed()[:-5],
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_token_is_refused_that_is(community: Community, forgery: str) -> None:
    assert community.manager.caller.token is not None
    good = await parts_of(community.town, community.manager.caller.token)
    await community.town.bearer(good.signed()).call("GetMe", pb.GetMeRequest())
    with pytest.raises(Unauthenticated) as error:
        await community.town.bearer(FORGERIES[forgery](good)).call("GetMe", pb.GetMeRequest())
    assert error.value.code.startswith("auth.token_")


@pytest.mark.parametrize("authorization", ["", "Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "bearer  two words", "token"])
async def test_what_is_no_bearer_token_is_refused(identity: Town, authorization: str) -> None:
    with pytest.raises(Unauthenticated):
        await identity.nobody().call("GetMe", pb.GetMeRequest(), authorization=authorization)


async def test_a_token_says_what_the_account_may_do_and_for_ten_minutes(community: Community) -> None:
    household_id = await community.household("1栋")
    owner = await community.member(household_id)
    assert owner.caller.token is not None
    claims = jwt.decode(owner.caller.token, options={"verify_signature": False})
    assert (claims["iss"], claims["aud"], claims["cid"], claims["mod"]) == ("linli", "linli", community.community_id, ["parking"])
    assert claims["exp"] - claims["iat"] == 600
    assert abs(claims["iat"] - time.time()) < 60
    assert (claims["per"], list(claims["hou"])) == ([], [household_id])
    assert owner.phone not in json.dumps(claims)


async def test_without_a_token_only_sign_in_and_what_it_needs_answer(identity: Town) -> None:
    refused = set()
    for method in CONTRACT.methods:
        try:
            await identity.nobody().call(method.name, getattr(pb, method.input_type.name)())
        except Unauthenticated as error:
            refused.add(method.name)
            assert error.code == "auth.token_missing"  # noqa: PT017
        except Invalid:
            pass
    public = {"RequestCode", "SignInWithCode", "SignInWithPassword", "RefreshTokens", "SignOut", "GetKeys", "ListCommunities"}
    assert refused == {method.name for method in CONTRACT.methods} - public


async def test_a_guest_may_call_nothing_that_needs_a_permission(community: Community) -> None:
    guest = await community.town.sign_in(community.community_id)
    for method in CONTRACT.methods:
        if method.GetOptions().Extensions[options_pb2.authority].permission:
            with pytest.raises(Denied):
                await guest.call(method.name, getattr(pb, method.input_type.name)())
