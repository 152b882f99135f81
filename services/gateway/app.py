"""The HTTP application: from a request to a route, to a call of the service that owns it, to the answer.

Plain ASGI, because this is on the way of everything a phone does. What a single request or answer looks like is in `exchange`, how JSON and
messages become each other in `transcode`, how errors look in `problems`.
"""

import asyncio
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import msgspec

from servicekit import metrics, telemetry
from servicekit.auth import Principal, Verifier, token_in
from servicekit.errors import Internal, NotFound, ServiceError, Unavailable
from servicekit.rpc import Peer
from services.gateway import blobs, notifications, problems
from services.gateway.blobs import BlobRoute
from services.gateway.documentation import Page, Pages
from services.gateway.exchange import Exchange, Gone, Header, Receive, Send, etag_of, has_tag, takes, too_many
from services.gateway.notifications import Notifications
from services.gateway.problems import TEXTS, MethodNotAllowed, NotAcceptable, UnsupportedMedia, invalid
from services.gateway.rate_limits import WINDOW_S, Network, RateLimit, Verdict, address_key, caller_address, is_in
from services.gateway.routes import RouteTable
from services.gateway.transcode import Transcoding

_SAFE = ("GET", "HEAD")
# The status in our metrics of a request whose caller hung up before the answer; nginx made the number customary.
_CLIENT_GONE = 499
_PASSED_ON_BYTES_MAX = 8 * 1024
_PASSED_ON_NAME = re.compile(rb"[a-z0-9][a-z0-9_.-]{0,63}")
_PASSED_ON_VALUE = re.compile(rb"[\x20-\x7e]{0,2048}")
# What is the gateway's own business, or a secret of somebody else's.
_NOT_PASSED_ON = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"host", b"connection", b"content-length"))
_NO_STORE: Header = (b"cache-control", b"no-store")
_REVALIDATE: Header = (b"cache-control", b"private, no-cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may take, and how many there may be at once. Requests in flight do not count live notifications."""

    body_bytes_max: int
    in_flight_max: int
    timeout_s: float
    by_account: RateLimit
    by_address: RateLimit
    trusted_proxies: Sequence[Network]


class Gateway:
    """The application."""

    def __init__(
        self,
        *,
        table: RouteTable,
        transcodings: Sequence[Transcoding],
        peers: Mapping[str, Peer],
        verifier: Verifier,
        pages: Pages,
        live: Notifications,
        blob_route: BlobRoute | None,
        limits: Limits,
    ) -> None:
        self._table = table
        self._transcodings = {transcoding.route: transcoding for transcoding in transcodings}
        self._peers = peers
        self._verifier = verifier
        self._pages = pages
        self._live = live
        self._blob_route = blob_route
        self._limits = limits
        self._in_flight = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answers one request; nothing but a caller who hangs up goes without an answer."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        token = telemetry.request_id.set(exchange.request_id)
        self._in_flight += 1
        try:
            header = exchange.header(b"traceparent")
            with telemetry.entry("HTTP", header, is_trusted=bool(header) and self._is_from_proxy(exchange)) as span:
                try:
                    await self._serve(exchange)
                except Gone:
                    pass
                except Exception as error:
                    await _refuse(exchange, error)
                finally:
                    status = exchange.status or _CLIENT_GONE
                    if span is not None:
                        telemetry.describe_http(span, exchange.method, exchange.route, status)
        finally:
            self._in_flight -= 1
            telemetry.request_id.reset(token)
            metrics.observe_http("gateway", exchange.method, exchange.route, status, exchange.answer_s())

    def _is_from_proxy(self, exchange: Exchange) -> bool:
        """Whether a proxy that we trust sends this. Strangers do not choose which of their requests are traced."""
        client = exchange.scope["client"]
        return bool(client) and is_in(client[0], self._limits.trusted_proxies)

    async def _serve(self, exchange: Exchange) -> None:
        exchange.check_head()
        if self._in_flight > self._limits.in_flight_max:
            raise Unavailable("gateway.busy", *TEXTS["gateway.busy"], retry_after_s=1)
        await self._limit(exchange)
        if exchange.path == notifications.PATH:
            exchange.route = notifications.PATH
            await self._serve_notifications(exchange)
            return
        if self._blob_route is not None and exchange.path.startswith(blobs.PATH):
            exchange.route = blobs.TEMPLATE
            await (self._blob_route.serve(exchange) if exchange.method in blobs.VERBS else _serve_other_verb(exchange, *blobs.VERBS))
            return
        found = self._table.find(exchange.path)
        if found is None:
            await self._serve_page(exchange)
            return
        by_verb, path_values = found
        exchange.route = next(iter(by_verb.values())).template
        verb = "GET" if exchange.method == "HEAD" else exchange.method
        route = by_verb.get(verb)
        if route is None:
            await _serve_other_verb(exchange, *by_verb, *(("HEAD",) if "GET" in by_verb else ()))
            return
        await self._serve_route(exchange, self._transcodings[route], path_values)

    async def _limit(self, exchange: Exchange) -> None:
        """Counts the request for its address and then its account. Raises Exhausted past a limit."""
        limits = self._limits
        verdict = limits.by_address.take(address_key(self._address(exchange)))
        if verdict is not None:
            _report(exchange, limits.by_address, verdict)
        if limits.by_account.per_minute and b"authorization" in exchange.headers:
            try:
                principal = await self._verifier.verify(token_in(exchange.credentials()))
            except ServiceError:
                return  # Who it is not, the service says; the address is limited anyway.
            verdict = limits.by_account.take(str(principal.account_id))
            if verdict is not None:
                _report(exchange, limits.by_account, verdict)

    def _address(self, exchange: Exchange) -> str:
        """Where the caller is, as far as proxies that we trust say."""
        client = exchange.scope["client"]
        address: str = client[0] if client else ""
        if self._limits.trusted_proxies:
            lines = [value for name, value in exchange.scope["headers"] if name == b"x-forwarded-for"]
            address = caller_address(address, b",".join(lines).decode("latin-1"), self._limits.trusted_proxies)
        return address

    async def _serve_route(self, exchange: Exchange, transcoding: Transcoding, path_values: Sequence[str]) -> None:
        route = transcoding.route
        is_read = route.verb == "GET"
        metadata = _metadata(exchange)
        if not is_read:
            metadata.append(("x-client-address", self._address(exchange)))
        timeout_s = exchange.timeout_s(self._limits.timeout_s)
        if transcoding.answers_json and not takes(exchange.header(b"accept"), "application/json"):
            raise invalid("request.not_acceptable", kind=NotAcceptable)
        body = b""
        if route.body:
            if exchange.headers.get(b"content-encoding", b"identity") != b"identity":
                raise invalid("request.content_encoding", kind=UnsupportedMedia)
            body = await exchange.body(self._limits.body_bytes_max)
        if transcoding.raw_body:
            metadata += _passed_on(exchange)
        request = transcoding.request(path_values, exchange.query, body, exchange.header(b"content-type"))
        response = await self._peers[route.service].call(route.rpc_path, request, metadata, timeout_s, is_read=is_read)
        status, content_type, content = transcoding.answer(response)
        if status == 204:
            await exchange.answer(204, (_NO_STORE,), b"")
        elif is_read:
            etag = etag_of(content)
            headers = ((b"etag", etag), _REVALIDATE)
            if has_tag(exchange.headers.get(b"if-none-match"), etag):
                await exchange.answer(304, headers, b"")
            else:
                await exchange.answer(status, ((b"content-type", content_type), *headers), content)
        else:
            await exchange.answer(status, ((b"content-type", content_type), _NO_STORE), content)

    async def _serve_page(self, exchange: Exchange) -> None:
        page = await self._pages.find(exchange.path)
        if page is None:
            raise NotFound("request.path_not_found", *TEXTS["request.path_not_found"])
        exchange.route = exchange.path
        if exchange.method not in _SAFE:
            await _serve_other_verb(exchange, *_SAFE)
        else:
            await _answer_page(exchange, page)

    async def _serve_notifications(self, exchange: Exchange) -> None:
        if exchange.method != "GET":
            await _serve_other_verb(exchange, "GET")
            return
        token = token_in(exchange.credentials())
        principal: Principal = await self._verifier.verify(token)
        if not takes(exchange.header(b"accept"), "text/event-stream"):
            raise invalid("request.not_acceptable", kind=NotAcceptable)
        parameter = parse_qs(exchange.query.decode("latin-1")).get("last_event_id", [""])[0]
        after = notifications.last_event_id(exchange.header(b"last-event-id"), parameter)
        with self._live.open(principal) as listener:
            self._in_flight -= 1
            gone = asyncio.create_task(_end_when_gone(exchange, listener.end))
            try:
                await exchange.begin(((b"content-type", b"text/event-stream; charset=utf-8"), _NO_STORE, (b"x-accel-buffering", b"no")))
                await self._live.stream(
                    listener,
                    principal,
                    after=after,
                    language=exchange.language,
                    expires_at=_expiry_of(token),
                    write=exchange.write,
                )
            finally:
                self._in_flight += 1
                gone.cancel()


async def _end_when_gone(exchange: Exchange, end: Any) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
    end()


class _Expiry(msgspec.Struct):
    exp: int


def _expiry_of(token: str) -> float:
    """When a verified access token ends, in Unix seconds."""
    claims = token.split(".")[1]
    return msgspec.json.decode(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)), type=_Expiry).exp


def _report(exchange: Exchange, limit: RateLimit, verdict: Verdict) -> None:
    """Tells the caller where they stand (draft-ietf-httpapi-ratelimit-headers). Raises Exhausted when they are past the limit."""
    exchange.answer_headers = [
        (b"ratelimit-policy", b'"%b";q=%d;w=%d' % (limit.name.encode(), limit.per_minute, WINDOW_S)),
        (b"ratelimit", b'"%b";r=%d;t=%d' % (limit.name.encode(), verdict.remaining, verdict.reset_s)),
    ]
    if not verdict.allowed:
        raise too_many("request.too_frequent", verdict.reset_s)


def _metadata(exchange: Exchange) -> list[tuple[str, str]]:
    metadata = [("x-request-id", exchange.request_id), ("accept-language", exchange.language)]
    if credentials := exchange.credentials():
        metadata.append(("authorization", credentials))
    if key := exchange.idempotency_key():
        metadata.append(("idempotency-key", key))
    return metadata


def _passed_on(exchange: Exchange) -> list[tuple[str, str]]:
    """The caller's headers for a service that reads the body as it came, such as a payment provider's signature."""
    passed_on: list[tuple[str, str]] = []
    size = 0
    for name, value in exchange.scope["headers"]:
        if name in _NOT_PASSED_ON or name.endswith(b"-bin"):  # gRPC takes `-bin` for binary metadata.
            continue
        size += len(name) + len(value)
        if size <= _PASSED_ON_BYTES_MAX and _PASSED_ON_NAME.fullmatch(name) and _PASSED_ON_VALUE.fullmatch(value):
            passed_on.append((f"http-{name.decode()}", value.decode()))
    return passed_on


async def _serve_other_verb(exchange: Exchange, *verbs: str) -> None:
    """Answers OPTIONS, and refuses any other verb that a path does not have."""
    allowed = sorted({*verbs, "OPTIONS"})
    if exchange.method != "OPTIONS":
        raise MethodNotAllowed("request.method_not_allowed", *TEXTS["request.method_not_allowed"], allowed=allowed)
    await exchange.answer(204, ((b"allow", ", ".join(allowed).encode()),), b"")


async def _answer_page(exchange: Exchange, page: Page) -> None:
    headers = ((b"etag", page.etag), (b"cache-control", b"no-cache"), (b"content-security-policy", page.policy))
    if has_tag(exchange.headers.get(b"if-none-match"), page.etag):
        await exchange.answer(304, headers, b"")
    else:
        await exchange.answer(200, ((b"content-type", page.content_type), *headers), page.body, compressed=page.compressed)


async def _refuse(exchange: Exchange, error: Exception) -> None:
    """Answers with the problem that an error is. What is no ServiceError is a defect of ours: logged, and its text stays here."""
    if not isinstance(error, ServiceError):
        telemetry.log.error("request_failed", route=exchange.route, exc_info=error)
        error = Internal()
    if exchange.status:
        return  # The answer has begun; all that is left is to end it.
    body = problems.render(error, exchange.language, exchange.request_id)
    await exchange.answer(error.http_status, problems.headers_of(error, exchange.language), body)
