"""Who is asking, and what they may do.

Access tokens are JWTs signed with EdDSA (RFC 8037) by identity. Every service verifies them itself against identity's published keys, and
enforces the permission that the contract of the method names. The gateway is not trusted to.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
import msgspec
from jwt.types import Options

from servicekit import telemetry
from servicekit.errors import Denied, Unauthenticated, Unavailable

AUDIENCE = "linli"
ALGORITHM = "EdDSA"
# Tokens verified lately, so that a caller's signature is checked once for each token and process, not once for each call.
_VERIFIED_MAX = 10_000
# Identity is asked for its keys at most this often, whatever key ids strangers write into tokens, and when it did not answer.
_KEYS_REFRESH_S = 5.0
_KEYS_RETRY_S = 1.0
# Rotation adds a key before it signs with it, so keys this old are still the keys.
_KEYS_MAX_AGE_S = 300.0
# `iat` is not compared with the clock: clocks of two machines differ by seconds, and a token is used as soon as it is made.
_OPTIONS: Options = {"require": ["exp", "iat", "sub", "aud"], "verify_iat": False}


@dataclass(frozen=True, slots=True)
class Principal:
    """A signed-in account in its community.

    `permissions` hold for the whole community, `by_household` and `by_building` for one household or building.
    """

    account_id: uuid.UUID
    community_id: uuid.UUID
    permissions: frozenset[str] = frozenset()
    by_household: Mapping[uuid.UUID, frozenset[str]] = field(default_factory=dict)
    by_building: Mapping[uuid.UUID, frozenset[str]] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()

    def may(self, permission: str, *, household_id: uuid.UUID | None = None, building_id: uuid.UUID | None = None) -> bool:
        """Whether the account holds `permission` for the community, or for the household or building that is named."""
        if permission in self.permissions:
            return True
        if household_id is not None and permission in self.by_household.get(household_id, ()):
            return True
        return building_id is not None and permission in self.by_building.get(building_id, ())

    def holds_anywhere(self, permission: str) -> bool:
        """Whether the account holds `permission` in any scope."""
        scopes = (self.permissions, *self.by_household.values(), *self.by_building.values())
        return any(permission in scope for scope in scopes)


class _Claims(msgspec.Struct):
    """The claims of an access token beyond the registered ones."""

    sub: str
    cid: str
    exp: int
    per: list[str] = []
    hou: dict[str, list[str]] = {}
    bui: dict[str, list[str]] = {}
    mod: list[str] = []


def claims_of(principal: Principal) -> dict[str, Any]:
    """The claims that stand for `principal` in an access token; the issuer adds the registered ones.

    What is held for the whole community is not said again of a household or building: a token must fit into the headers of a request.
    """
    return {
        "sub": str(principal.account_id),
        "cid": str(principal.community_id),
        "per": sorted(principal.permissions),
        "hou": _beyond(principal.permissions, principal.by_household),
        "bui": _beyond(principal.permissions, principal.by_building),
        "mod": sorted(principal.modules),
    }


def _beyond(everywhere: frozenset[str], scopes: Mapping[uuid.UUID, frozenset[str]]) -> dict[str, list[str]]:
    return {str(key): sorted(held - everywhere) for key, held in scopes.items() if held - everywhere}


def _principal_of(claims: _Claims) -> Principal:
    return Principal(
        account_id=uuid.UUID(claims.sub),
        community_id=uuid.UUID(claims.cid),
        permissions=frozenset(claims.per),
        by_household={uuid.UUID(key): frozenset(value) for key, value in claims.hou.items()},
        by_building={uuid.UUID(key): frozenset(value) for key, value in claims.bui.items()},
        modules=frozenset(claims.mod),
    )


# Answers with a JSON Web Key Set (RFC 7517).
FetchKeys = Callable[[], Awaitable[bytes]]


class Verifier:
    """Verifies access tokens against identity's published keys, which it fetches when it meets a key id it does not know."""

    def __init__(self, fetch_keys: FetchKeys) -> None:
        self._fetch_keys = fetch_keys
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._asked_at = float("-inf")
        self._is_reachable = True
        self._fetching = asyncio.Lock()
        self._verified: dict[str, tuple[int, Principal]] = {}

    async def verify(self, token: str) -> Principal:
        """The principal of a token. Raises Unauthenticated, or Unavailable when identity's keys cannot be had."""
        known = self._verified.get(token)
        if known is not None and known[0] > time.time():
            return known[1]
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise _refused("auth.token_malformed") from None
        if header.get("alg") != ALGORITHM or not isinstance(header.get("kid"), str):
            raise _refused("auth.token_malformed")
        key = await self._key(header["kid"])
        try:
            payload = jwt.decode(token, key, algorithms=[ALGORITHM], audience=AUDIENCE, options=_OPTIONS)
            claims = msgspec.convert(payload, _Claims)
            principal = _principal_of(claims)
        except jwt.ExpiredSignatureError:
            raise _refused("auth.token_expired") from None
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError, OverflowError):
            raise _refused("auth.token_invalid") from None
        if len(self._verified) >= _VERIFIED_MAX:
            self._verified.clear()
        self._verified[token] = (claims.exp, principal)
        return principal

    async def _key(self, key_id: str) -> jwt.PyJWK:
        if key_id not in self._keys:
            # Whoever waits here finds what the first has fetched, or that it was fetched just now.
            async with self._fetching:
                if key_id not in self._keys:
                    await self._refresh()
        elif time.monotonic() - self._fetched_at > _KEYS_MAX_AGE_S and not self._fetching.locked():
            async with self._fetching:
                await self._refresh()
        key = self._keys.get(key_id)
        if key is not None:
            return key
        if self._is_reachable:
            raise _refused("auth.token_invalid")
        zh, en = "暂时无法验证登录状态，请稍后再试", "Sign-in cannot be checked now"
        raise Unavailable("auth.keys_unavailable", zh, en, retry_after_s=1)

    async def _refresh(self) -> None:
        """Fetches the keys, unless that was tried just now. While identity is away the keys that we have are still the keys."""
        if time.monotonic() - self._asked_at < (_KEYS_REFRESH_S if self._is_reachable else _KEYS_RETRY_S):
            return
        self._asked_at = time.monotonic()
        try:
            key_set = jwt.PyJWKSet.from_json((await self._fetch_keys()).decode())
        except asyncio.CancelledError:
            self._asked_at = float("-inf")  # Whoever asked has gone; that says nothing about identity.
            raise
        except Exception as error:
            self._is_reachable = False
            telemetry.log.warning("keys_not_fetched", error=telemetry.describe(error))
            return
        keys = {key.key_id: key for key in key_set.keys if key.key_id and key.algorithm_name == ALGORITHM}
        if self._keys.keys() - keys.keys():
            self._verified.clear()  # A key was withdrawn, and what it had signed with it.
        self._keys, self._is_reachable, self._fetched_at = keys, True, time.monotonic()


_TEXTS = {
    "auth.token_missing": ("请先登录", "Sign in first"),
    "auth.token_malformed": ("登录凭证格式不正确", "The access token is malformed"),
    "auth.token_expired": ("登录已过期，请刷新", "The access token has expired"),
    "auth.token_invalid": ("登录凭证无效", "The access token is not valid"),
}


def _refused(code: str) -> Unauthenticated:
    zh, en = _TEXTS[code]
    return Unauthenticated(code, zh, en)


def token_in(authorization: str | None) -> str:
    """The token of an `Authorization: Bearer` value. Raises Unauthenticated."""
    if not authorization:
        raise _refused("auth.token_missing")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _refused("auth.token_malformed")
    return token


def denied(permission: str) -> Denied:
    """The error for a caller without `permission`."""
    return Denied("auth.permission_missing", "您没有此操作的权限", "You may not do this", details={"permission": permission})
