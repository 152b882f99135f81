"""HTTP digest authentication (RFC 7616 and RFC 2617; MD5, qop auth) as cameras speak it. Pure.

Nonces are signed instead of stored, so that any instance can judge them; that none is used twice is for `store` to know. MD5 is what GA/T
1400 asks for; the secrets are random and long, so that what is weak about it does not matter here.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

REALM: Final = "linli"
NONCE_LIFE: Final = timedelta(minutes=5)
_AHEAD_MAX: Final = timedelta(seconds=5)
_RANDOM_BYTES: Final = 8
_MAC_BYTES: Final = 16
_HEADER_LENGTH_MAX: Final = 2000
_NONCE = re.compile(r"[0-9a-f]{64}", re.ASCII)
_COUNT = re.compile(r"[0-9a-fA-F]{1,8}", re.ASCII)
_FIELD = re.compile(r'([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*(?:,|$)')


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def key_of(username: str, secret: str) -> str:
    """HA1 of RFC 7616 §3.4.2: what both sides compute digests with."""
    return _md5(f"{username}:{REALM}:{secret}")


@dataclass(frozen=True, slots=True)
class DigestAnswer:
    """What an `Authorization: Digest` header says."""

    username: str
    nonce: str
    uri: str
    response: str
    qop: str
    # As it was written, because the response was computed with it.
    count_text: str
    cnonce: str

    @property
    def count(self) -> int:
        """How often the nonce was used; 0 for clients without qop, which may use a nonce once."""
        return int(self.count_text, 16) if self.qop else 0


def parse(header: str) -> DigestAnswer | None:
    """Reads an `Authorization` header; None when it is no digest that we could check. Every value may be quoted or not."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "digest" or len(header) > _HEADER_LENGTH_MAX:
        return None
    fields: dict[str, str] = {}
    for name, quoted, bare in _FIELD.findall(rest):
        if name.lower() in fields:
            return None
        fields[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
    if fields.get("algorithm", "MD5").upper() != "MD5" or fields.get("qop", "") not in ("", "auth"):
        return None
    answer = DigestAnswer(
        username=fields.get("username", ""),
        nonce=fields.get("nonce", ""),
        uri=fields.get("uri", ""),
        response=fields.get("response", "").lower(),
        qop=fields.get("qop", ""),
        count_text=fields.get("nc", ""),
        cnonce=fields.get("cnonce", ""),
    )
    return None if answer.qop and not _COUNT.fullmatch(answer.count_text) else answer


def is_right(answer: DigestAnswer, key: str, method: str, path: str) -> bool:
    """Whether the digest was made with `key` for this request. Its uri may be absolute, as some devices write it."""
    second = _md5(f"{method}:{answer.uri}")
    between = f"{answer.nonce}:{answer.count_text}:{answer.cnonce}:{answer.qop}" if answer.qop else answer.nonce
    expected = _md5(f"{key}:{between}:{second}")
    same = hmac.compare_digest(expected.encode(), answer.response.encode("utf-8", "surrogatepass"))
    return same and _path(answer.uri) == path


def _path(uri: str) -> str:
    try:
        return urlsplit(uri).path
    except ValueError:
        return ""


def challenge(nonce: str, *, stale: bool) -> str:
    """The `WWW-Authenticate` header. Some devices need these fields in this order, and a nonce without punctuation."""
    return f'Digest realm="{REALM}", qop="auth", nonce="{nonce}"' + (", stale=true" if stale else "")


class Nonces:
    """Makes nonces and recognises its own, in every process that has the key."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, b"digest nonces", hashlib.sha256)

    def new(self, now: datetime) -> str:
        """A nonce that is good for five minutes."""
        stamp = int(now.timestamp() * 1000).to_bytes(8, "big") + secrets.token_bytes(_RANDOM_BYTES)
        return (stamp + self._mac(stamp)).hex()

    def is_fresh(self, nonce: str, now: datetime) -> bool:
        """Whether the nonce is ours and not too old."""
        if not _NONCE.fullmatch(nonce):
            return False
        data = bytes.fromhex(nonce)
        stamp, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(stamp)):
            return False
        age = now - datetime.fromtimestamp(int.from_bytes(stamp[:8], "big") / 1000, now.tzinfo)
        return -_AHEAD_MAX <= age <= NONCE_LIFE

    def _mac(self, stamp: bytes) -> bytes:
        return hmac.digest(self._key, stamp, hashlib.sha256)[:_MAC_BYTES]
