"""One HTTP exchange: what the headers of a request say, its body within the limits, and the answer with what every answer carries."""

import asyncio
import gzip
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any

from servicekit.errors import Exhausted, Unauthenticated
from servicekit.identifiers import new_id
from services.gateway import problems
from services.gateway.problems import HeadersTooLarge, TooLarge, TooSlow, UriTooLong, invalid

URI_BYTES_MAX = 8 * 1024
HEADER_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100
TIMEOUT_MS_MAX = 30_000
# How long a body may take to come in.
_BODY_S = 10.0
# Below this, compressing costs more than it saves.
_COMPRESS_BYTES_MIN = 2048
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,128}")
_PRINTABLE = re.compile(rb"[\x20-\x7e]{1,8192}")
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"vary", b"accept-encoding, accept-language, authorization"),
)

Header = tuple[bytes, bytes]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Gone(Exception):
    """The caller has hung up; nobody is left to answer."""


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_answered",
        "_began",
        "_send",
        "answer_headers",
        "headers",
        "language",
        "method",
        "path",
        "query",
        "receive",
        "request_id",
        "route",
        "scope",
        "status",
    )

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        self.query: bytes = scope["query_string"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id")
        self.request_id = given.decode() if given and _REQUEST_ID.fullmatch(given) else str(new_id())
        self.language = problems.language_of(self.header(b"accept-language"))
        # What the gateway adds on the way, such as how much of a rate limit is left.
        self.answer_headers: list[Header] = []
        # 0 until the answer has begun.
        self.status = 0
        # The template of its path; empty when it has none of ours.
        self.route = ""
        self._began = perf_counter()
        self._answered: float | None = None

    def answer_s(self) -> float:
        """How long the answer took until it began, without the time that the caller took to send the body."""
        return (self._answered or perf_counter()) - self._began

    def header(self, name: bytes) -> str:
        """The value of a header, empty when it is absent."""
        value = self.headers.get(name)
        return value.decode("latin-1") if value is not None else ""

    def check_head(self) -> None:
        """Raises UriTooLong or HeadersTooLarge past the limits."""
        if len(self.path) + len(self.query) > URI_BYTES_MAX:
            raise invalid("request.uri_too_long", kind=UriTooLong)
        lines: Sequence[Header] = self.scope["headers"]
        if len(lines) > HEADERS_MAX or sum([len(name) + len(value) for name, value in lines]) > HEADER_BYTES_MAX:
            raise invalid("request.headers_too_large", kind=HeadersTooLarge)

    def credentials(self) -> str:
        """The `Authorization` header, empty when it is absent. Raises Unauthenticated when it cannot be one."""
        value = self.headers.get(b"authorization")
        if value is None:
            return ""
        if not _PRINTABLE.fullmatch(value):
            raise Unauthenticated("auth.token_malformed", "登录凭证格式不正确", "The access token is malformed")
        return value.decode()

    def idempotency_key(self) -> str:
        """The `Idempotency-Key`, empty when it is absent. Raises Invalid."""
        value = self.headers.get(b"idempotency-key")
        if value is None:
            return ""
        if not _IDEMPOTENCY_KEY.fullmatch(value):
            raise invalid("request.idempotency_key")
        return value.decode()

    def timeout_s(self, otherwise: float) -> float:
        """How long the answer may take, in seconds. Raises Invalid."""
        value = self.headers.get(b"x-timeout-ms")
        if value is None:
            return otherwise
        if not value.isdigit() or len(value) > 5 or not 1 <= int(value) <= TIMEOUT_MS_MAX:
            raise invalid("request.timeout")
        return int(value) / 1000

    async def body(self, bytes_max: int) -> bytes:
        """The whole body. Raises as `chunks` does."""
        return b"".join([chunk async for chunk in self.chunks(bytes_max, _BODY_S, "request.body_too_large")])

    async def chunks(self, bytes_max: int, within_s: float, too_large: str) -> AsyncIterator[bytes]:
        """The body as it comes. Raises TooLarge (with this code) before more than the limit is held, TooSlow, or Gone."""
        length = self.headers.get(b"content-length")
        if length is not None and int(length) > bytes_max:
            raise invalid(too_large, kind=TooLarge)
        deadline = asyncio.get_running_loop().time() + within_s
        size, more = 0, True
        while more:
            asked = perf_counter()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await self.receive()
            except TimeoutError:
                raise invalid("request.body_late", kind=TooSlow) from None
            finally:
                self._began += perf_counter() - asked
            if message["type"] == "http.disconnect":
                raise Gone
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > bytes_max:
                raise invalid(too_large, kind=TooLarge)
            more = message.get("more_body", False)
            yield chunk

    async def answer(self, status: int, headers: Sequence[Header], body: bytes, *, compressed: bytes | None = None) -> None:
        """Writes the whole answer, compressed when that is worth it and the caller takes it. `compressed` is `body` compressed before."""
        head = [*_ALWAYS, (b"x-request-id", self.request_id.encode()), *self.answer_headers, *headers]
        if not any(name == b"content-security-policy" for name, _ in headers):
            head.append(_POLICY)
        if len(body) >= _COMPRESS_BYTES_MIN and takes_gzip(self.header(b"accept-encoding")):
            body = compressed or gzip.compress(body, compresslevel=5, mtime=0)
            head.append((b"content-encoding", b"gzip"))
        if status not in (204, 304):
            head.append((b"content-length", b"%d" % len(body)))
        await self._start(status, head)
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def begin(self, headers: Sequence[Header]) -> None:
        """Begins an answer of unknown length; `write` goes on with it."""
        await self._start(200, [*_ALWAYS, _POLICY, (b"x-request-id", self.request_id.encode()), *self.answer_headers, *headers])

    async def _start(self, status: int, head: Sequence[Header]) -> None:
        self.status, self._answered = status, perf_counter()
        await self._send({"type": "http.response.start", "status": status, "headers": head})

    async def write(self, chunk: bytes, *, last: bool = False) -> None:
        """Writes a part of the answer that was begun."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": not last})


def etag_of(body: bytes) -> bytes:
    """A weak entity tag (RFC 9110 §8.8.1): the same for every encoding of the same content."""
    return b'W/"' + hashlib.blake2b(body, digest_size=12).hexdigest().encode() + b'"'


def has_tag(if_none_match: bytes | None, etag: bytes) -> bool:
    """Whether an `If-None-Match` header names an entity tag, compared weakly (RFC 9110 §13.1.2)."""
    return if_none_match is not None and (if_none_match.strip() == b"*" or etag.removeprefix(b"W/") in if_none_match)


@lru_cache(maxsize=256)
def takes_gzip(accept_encoding: str) -> bool:
    """Whether an `Accept-Encoding` header takes gzip."""
    for part in accept_encoding.lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() in ("gzip", "*"):
            return problems.weight_of(parameters) > 0
    return False


@lru_cache(maxsize=256)
def takes(accept: str, media_type: str) -> bool:
    """Whether an `Accept` header takes a media type; an empty one takes everything."""
    if not accept:
        return True
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        accepted, _, parameters = part.partition(";")
        quality = parameters.rpartition(";")[2] if "q=" in parameters else ""
        weights[accepted.strip()] = problems.weight_of(quality)
    for pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if pattern in weights:
            return weights[pattern] > 0
    return False


def too_many(code: str, retry_after_s: int) -> Exhausted:
    """The error for a caller past a limit."""
    zh, en = problems.TEXTS[code]
    return Exhausted(code, zh, en, retry_after_s=retry_after_s)
