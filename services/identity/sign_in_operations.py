"""Sign-in: one-time codes, passwords, access and refresh tokens, and the keys that sign them.

A wrong try must be counted although the caller gets an error, so what can fail by guessing answers None, commits, and the caller refuses
afterwards. These operations begin in the platform scope, where limits and signing keys are, and enter the community themselves.
"""

import hmac
import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from servicekit import telemetry
from servicekit.database import PLATFORM, Transaction
from servicekit.errors import Exhausted, NotFound, Unauthenticated
from servicekit.identifiers import new_id
from servicekit.sealing import BlindIndex, DataKeys
from services.identity import limits, operations, sign_in_store, signing_keys, store, tokens
from services.identity.limits import Limit, Policy
from services.identity.roles import STAFF
from services.identity.sign_in_store import SigningKey
from services.identity.signing_keys import Scheduled
from services.identity.store import PLATFORM_COMMUNITY, TRIAL_COMMUNITY

CODE_LIFE: Final = timedelta(minutes=5)
CODE_TRIES_MAX: Final = 5
REFRESH_TOKEN_LIFE: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a sign-in answers with."""

    access_token: str
    access_expires_at: datetime
    refresh_token: str
    refresh_expires_at: datetime


def code_wrong() -> Unauthenticated:
    """The one error for a code that is wrong, used, expired, guessed at too often, or was never sent."""
    return Unauthenticated("identity.code_wrong", "验证码错误或已失效", "The code is wrong or has expired")


def password_wrong() -> Unauthenticated:
    """The one error for a password that is wrong, for an account that has none, and for no account."""
    return Unauthenticated("identity.password_wrong", "手机号或密码错误", "The phone or the password is wrong")


def refresh_refused() -> Unauthenticated:
    """The one error for a refresh token that is used, expired, revoked or unknown."""
    return Unauthenticated("identity.refresh_refused", "登录已失效，请重新登录", "This sign-in has ended; please sign in again")


async def issue_code(tx: Transaction, community_id: UUID, phone: str, address: str) -> tuple[str, datetime]:
    """A new one-time code for a phone, and when it expires; the code before it no longer works. Raises NotFound, Exhausted."""
    # Operators sign in by password: whoever takes over a phone number must not take over the installation.
    if community_id in (PLATFORM_COMMUNITY, TRIAL_COMMUNITY):
        raise NotFound("identity.community_not_found", "没有找到该小区", "There is no such community")
    await operations.get_community(tx, community_id)
    index, policy = tx.resource(BlindIndex), tx.resource(Policy)
    asked = limits.for_a_code(
        policy,
        # Counted over all communities: a phone that is pestered does not care in whose name.
        phone=index.digest("limit phone", phone),
        address=index.digest("limit address", address),
        community=community_id.bytes,
    )
    await _take(tx, asked, "identity.too_many_codes", "验证码请求过于频繁，请稍后再试", "Too many codes; please try again later")
    await tx.enter(community_id)
    code, expires_at = f"{secrets.randbelow(1_000_000):06d}", tx.now + CODE_LIFE
    phone_index = operations.phone_index(tx, community_id, phone)
    await sign_in_store.store_code(tx, phone_index, _code_digest(tx, phone_index, code), expires_at)
    return code, expires_at


async def redeem_code(tx: Transaction, community_id: UUID, phone: str, code: str, address: str) -> Tokens | None:
    """Signs a phone in with its code, which then is used up; None when the code is not right. Raises Exhausted."""
    await _take_sign_in(tx, address)
    signer = await _signer(tx)
    await tx.enter(community_id)
    index = operations.phone_index(tx, community_id, phone)
    waiting = await sign_in_store.lock_code(tx, index)
    if waiting is None or waiting.expires_at <= tx.now or waiting.wrong_tries >= CODE_TRIES_MAX:
        return None
    if not hmac.compare_digest(waiting.digest, _code_digest(tx, index, code)):
        await sign_in_store.count_wrong_try(tx, index)
        return None
    await sign_in_store.delete_code(tx, index)
    account = await operations.lock_or_open_account(tx, phone, "")
    return await _open_sign_in(tx, account.account_id, signer)


def _code_digest(tx: Transaction, phone_index: bytes, code: str) -> bytes:
    return tx.resource(BlindIndex).digest("code", phone_index.hex(), code)


async def begin_password_sign_in(tx: Transaction, community_id: UUID, phone: str, address: str) -> str | None:
    """Counts a try and answers the password hash to compare with; None when there is none. Raises Exhausted."""
    await _take_sign_in(tx, address)
    index = operations.phone_index(tx, community_id, phone)
    await _take_password(tx, index, address)
    await tx.enter(community_id)
    return await sign_in_store.find_password_by_phone(tx, index)


async def complete_password_sign_in(tx: Transaction, community_id: UUID, phone: str, compared: str, renewed: str | None) -> Tokens | None:
    """Signs in the account whose password matched `compared`, and stores `renewed` in its place if it is given.

    None when the password was changed meanwhile, or the account has no role any more that signs in by password.
    """
    signer = await _signer(tx)
    await tx.enter(community_id)
    account = await store.lock_account_by_phone(tx, operations.phone_index(tx, community_id, phone))
    if account is None or not await sign_in_store.replace_password(tx, account.account_id, compared, renewed or compared):
        return None
    if STAFF not in (await operations.principal_of(tx, account.account_id)).permissions:
        return None
    return await _open_sign_in(tx, account.account_id, signer)


async def begin_password_change(tx: Transaction, address: str) -> str | None:
    """Counts a try of the caller's password and answers its hash; None when none is set. Raises Exhausted, NotFound."""
    account = await operations.get_account(tx, tx.caller.account_id)
    found = await sign_in_store.find_password(tx, account.account_id)
    assert found is not None
    index, password_hash = found
    await tx.enter(PLATFORM)
    await _take_password(tx, index, address)
    return password_hash


async def complete_password_change(tx: Transaction, compared: str | None, new: str) -> str | None:
    """Stores the caller's new password hash, and ends every sign-in when it replaces one.

    Answers with the hash that then holds, which is another one when the password was changed since it was compared.
    """
    account_id = tx.caller.account_id
    if not await sign_in_store.replace_password(tx, account_id, compared, new):
        found = await sign_in_store.find_password(tx, account_id)
        return None if found is None else found[1]
    if compared is not None:
        # Whoever knew the old one may be signed in with it.
        await sign_in_store.delete_sign_ins_of(tx, account_id)
    return new


async def refresh(tx: Transaction, text: str) -> Tokens | None:
    """New tokens for a refresh token, with what its account may do now; None when it is not the newest of a sign-in that lasts.

    A token that was used before ends its sign-in: one of the two who hold it has stolen it (RFC 9700 §4.14.2). That is strict: a phone that
    never got the answer, and asks again with the same token, signs in anew.
    """
    given = tokens.parse_refresh_token(text)
    if given is None:
        return None
    fresh, expires_at = tokens.new_refresh_token(given.sign_in_id), tx.now + REFRESH_TOKEN_LIFE
    owner = await sign_in_store.rotate_secret(tx, given.sign_in_id, given.secret_digest, fresh.secret_digest, expires_at)
    if owner is None:
        # Nobody knows a sign-in's id but from a token of it.
        if await sign_in_store.delete_sign_in(tx, given.sign_in_id):
            telemetry.log.warning("refresh_token_used_again", sign_in_id=str(given.sign_in_id))
        return None
    community_id, account_id = owner
    signer = await _signer(tx)
    await tx.enter(community_id)
    return await _tokens(tx, account_id, signer, fresh.text, expires_at)


async def sign_out(tx: Transaction, text: str) -> None:
    """Ends the sign-in of a refresh token, if there is one."""
    given = tokens.parse_refresh_token(text)
    if given is not None:
        await sign_in_store.delete_sign_in(tx, given.sign_in_id)


async def _open_sign_in(tx: Transaction, account_id: UUID, signer: SigningKey) -> Tokens:
    token, expires_at = tokens.new_refresh_token(new_id()), tx.now + REFRESH_TOKEN_LIFE
    await sign_in_store.insert_sign_in(tx, token.sign_in_id, account_id, token.secret_digest, expires_at)
    return await _tokens(tx, account_id, signer, token.text, expires_at)


async def _tokens(tx: Transaction, account_id: UUID, signer: SigningKey, refresh_token: str, refresh_expires_at: datetime) -> Tokens:
    principal = await operations.principal_of(tx, account_id)
    private_key = tx.resource(DataKeys).open(signer.private_key, _row(signer.key_id))
    access, expires_at = tokens.access_token(principal, tx.resource(Policy).issuer, signer.key_id, private_key, tx.now)
    return Tokens(access, expires_at, refresh_token, refresh_expires_at)


async def _take_sign_in(tx: Transaction, address: str) -> None:
    asked = limits.for_a_sign_in(tx.resource(Policy), address=tx.resource(BlindIndex).digest("limit address", address))
    await _take(tx, asked, *_TOO_MANY_SIGN_INS)


async def _take_password(tx: Transaction, index: bytes, address: str) -> None:
    account_and_address = tx.resource(BlindIndex).digest("limit password", index.hex(), address)
    await _take(tx, limits.for_a_password(account=index, account_and_address=account_and_address), *_TOO_MANY_SIGN_INS)


_TOO_MANY_SIGN_INS: Final = ("identity.too_many_sign_ins", "尝试次数过多，请稍后再试", "Too many tries; please try again later")


async def _take(tx: Transaction, asked: Sequence[Limit], code: str, zh: str, en: str) -> None:
    """Counts one more for each limit. Raises Exhausted when one is passed; the rollback that follows takes the counts back."""
    most = {limit.name: limit.count_max for limit in asked}
    passed = [taken for taken in await sign_in_store.take_limits(tx, asked) if taken.count > most[taken.name]]
    if passed:
        longest = max(passed, key=lambda taken: taken.ends_at)
        retry_after_s = math.ceil((longest.ends_at - tx.now).total_seconds())
        raise Exhausted(code, zh, en, details={"limit": longest.name}, retry_after_s=retry_after_s)


async def _signer(tx: Transaction) -> SigningKey:
    keys = {key.key_id: key for key in await sign_in_store.list_signing_keys(tx)}
    now = signing_keys.signer(_scheduled(keys.values()), tx.now)
    if now is None:
        raise RuntimeError("there is no signing key: rotate_signing_keys makes the first at start")
    return keys[now.key_id]


async def published_keys(tx: Transaction) -> bytes:
    """The JSON Web Key Set of all keys that sign, will sign soon, or signed tokens that may still be out."""
    return tokens.key_set((key.key_id, key.public_key) for key in await sign_in_store.list_signing_keys(tx))


async def rotate_signing_keys(tx: Transaction) -> None:
    """Makes the key that will sign next when it is time to publish it, and removes those whose last token has expired.

    Raises SealBrokenError when the key that signs cannot be decrypted.
    """
    await sign_in_store.lock_signing_keys(tx)
    keys = await sign_in_store.list_signing_keys(tx)
    signs_from = signing_keys.successor_signs_from(_scheduled(keys), tx.now, tx.resource(Policy).signing_key_life)
    if signs_from is not None:
        key_id = new_id()
        private_key, public_key = tokens.new_private_key()
        sealed = tx.resource(DataKeys).seal(private_key, _row(key_id))
        await sign_in_store.insert_signing_key(tx, SigningKey(key_id, public_key, sealed, signs_from))
    await sign_in_store.delete_signing_keys(tx, signing_keys.retired(_scheduled(keys), tx.now))
    signer = await _signer(tx)
    tx.resource(DataKeys).open(signer.private_key, _row(signer.key_id))


def _scheduled(keys: Iterable[SigningKey]) -> list[Scheduled]:
    return [Scheduled(key.key_id, key.signs_from) for key in keys]


def _row(key_id: UUID) -> str:
    return f"signing_keys.private_key {key_id}"


async def end_all_sign_ins(tx: Transaction) -> None:
    """Ends every sign-in: a database that was restored to an earlier instant holds some that were ended since, and nobody knows which."""
    await sign_in_store.delete_sign_ins(tx)


async def forget_expired(tx: Transaction) -> None:
    """Removes codes, limits and sign-ins whose time has passed."""
    await sign_in_store.delete_expired(tx)
