"""The HTTP of devices: a request within its limits, an answer, and the application that brings both to the protocols' handlers.

Plain ASGI, because batches of readings come thousands of times a second. What a protocol says is in its own module.
"""

import asyncio
import ipaddress
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import msgspec

from servicekit import metrics, telemetry
from servicekit.errors import Internal, Invalid, NotFound, ServiceError, Unavailable
from servicekit.service import Asgi
from services.ingest.documents import read_document
from services.ingest.loose import Unusable

_BODY_S = 10.0
_REQUESTS_MAX = 2000
# What is read of a body that is too large, before its connection is closed.
_DISCARDED_BYTES_MAX = 32 * 1024 * 1024
# All bodies that are held at once, whoever sent them.
_HELD_BYTES_MAX = 256 * 1024 * 1024
# The status in our metrics of a request whose device hung up before the answer; nginx made the number customary.
_DEVICE_GONE = 499
_JSON = b"application/json; charset=utf-8"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TooLarge(Invalid):
    """The body is larger than this protocol allows."""

    http_status = 413


class UnsupportedMedia(Invalid):
    """The body is in a format or an encoding that is not understood here."""

    http_status = 415


class TooSlow(Invalid):
    """The body did not come in time."""

    http_status = 408


class MethodNotAllowed(Invalid):
    """The path exists, the method does not."""

    http_status = 405


class Gone(Exception):
    """The device has hung up; nobody is left to answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device is answered. `afterwards` runs when the answer has been handed over."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    media: bytes = _JSON
    afterwards: Callable[[], Awaitable[None]] | None = None


def json_answer(value: object, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """An answer in JSON."""
    return Answer(msgspec.json.encode(value), status, tuple(headers))


class Held:
    """Counts the bytes of all bodies in work."""

    def __init__(self) -> None:
        self.bytes = 0


class Request:
    """One request of a device."""

    __slots__ = ("_body_bytes", "_held", "_is_complete", "_receive", "address", "headers", "is_from_proxy", "method", "path", "query")

    def __init__(self, scope: Any, receive: Callable[[], Awaitable[Any]], held: Held, proxies: Sequence[Network]) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        peer: str = scope["client"][0] if scope["client"] else ""
        self.address = _origin(peer, self.header(b"x-forwarded-for"), proxies) if proxies else peer
        # Whether a proxy that we trust sends this. Devices do not choose which of their requests are traced.
        self.is_from_proxy = _is_in(peer, proxies)
        self._receive = receive
        self._held = held
        self._body_bytes = 0
        self._is_complete = False

    def header(self, name: bytes) -> str:
        """The value of a header, empty when it is absent."""
        return self.headers.get(name, b"").decode("latin-1")

    async def body(self, bytes_max: int, *, unpacked_bytes_max: int = 0) -> bytes:
        """The body, unpacked when it is gzip and `unpacked_bytes_max` allows that.

        Raises TooLarge before more than a limit is held, TooSlow, UnsupportedMedia, Invalid, Unavailable or Gone.
        """
        encoding = self.headers.get(b"content-encoding", b"identity").lower()
        if encoding not in (b"identity", b"gzip") or (encoding == b"gzip" and not unpacked_bytes_max):
            raise UnsupportedMedia("ingest.encoding", "不支持的内容编码", "This content encoding is not supported here")
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > bytes_max:
            raise _too_large(bytes_max)
        try:
            async with asyncio.timeout(_BODY_S):
                body = await self._read(bytes_max)
        except TimeoutError:
            raise TooSlow("ingest.body_slow", "请求内容接收超时", "The body did not come in time") from None
        return body if encoding == b"identity" else _unpack(body, unpacked_bytes_max)

    async def _read(self, bytes_max: int) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            self._is_complete = not message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            self._body_bytes += len(chunk)
            self._held.bytes += len(chunk)
            if self._body_bytes > bytes_max:
                raise _too_large(bytes_max)
            if self._held.bytes > _HELD_BYTES_MAX:
                raise _busy()
            chunks.append(chunk)
            if self._is_complete:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def discard(self) -> bool:
        """Reads on without keeping anything, so that the device hears the answer; False when there is too much of it."""
        try:
            async with asyncio.timeout(_BODY_S):
                left = _DISCARDED_BYTES_MAX
                while left > 0 and not self._is_complete:
                    message = await self._receive()
                    self._is_complete = not message.get("more_body", False)
                    left -= len(message.get("body", b""))
        except TimeoutError:
            pass
        return self._is_complete

    async def gone(self) -> None:
        """Returns when the device hangs up. To be called when the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def release(self) -> None:
        """Gives the body's share of memory back, when nobody needs the body any more."""
        self._held.bytes -= self._body_bytes
        self._body_bytes = 0


def networks(text: str) -> Sequence[Network]:
    """The networks in a comma-separated list. Raises ValueError."""
    return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]


def _origin(peer: str, forwarded: str, proxies: Sequence[Network]) -> str:
    """The address that a request came from: the last one that no proxy of ours vouches for."""
    for address in (peer, *reversed([part.strip() for part in forwarded.split(",")])):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return peer
        if not _is_in(address, proxies):
            return address
    return peer


def _is_in(address: str, proxies: Sequence[Network]) -> bool:
    try:
        return bool(proxies) and any(ipaddress.ip_address(address) in network for network in proxies)
    except ValueError:
        return False


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge("ingest.body_too_large", f"请求内容超过 {bytes_max} 字节", f"The body is larger than {bytes_max} bytes")


def _busy() -> Unavailable:
    return Unavailable("ingest.busy", "系统繁忙，请稍后再试", "Busy; please try again", retry_after_s=1)


def _unpack(body: bytes, bytes_max: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, bytes_max + 1)
    except zlib.error:
        raise malformed() from None
    if len(unpacked) > bytes_max:
        raise _too_large(bytes_max)
    if not unpacker.eof or unpacker.unused_data:
        raise malformed()
    return unpacked


def malformed() -> Invalid:
    """The error for a body that is not what its format says."""
    return Invalid("ingest.body_malformed", "请求内容格式不正确", "The body is malformed")


def document(body: bytes) -> dict[str, Any]:
    """A body as a JSON object. UTF-8, or else GB18030, in which some cameras write plates. Raises Invalid."""
    try:
        return read_document(body)
    except Unusable:
        raise malformed() from None


def render(error: ServiceError, _request: Request) -> Answer:
    """An error in JSON: a stable code, and a text for people in both languages."""
    body: dict[str, object] = {"code": error.code, "message": error.en, "message_zh": error.zh}
    if error.fields:
        body["fields"] = [{"field": field.field, "code": field.code, "message": field.text} for field in error.fields]
    return json_answer(body, error.http_status)


Handler = Callable[[Request], Awaitable[Answer]]
Render = Callable[[ServiceError, Request], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers one method of one path. `render` turns an error into an answer of the protocol, with its challenge when it is a 401."""

    handler: Handler
    render: Render = render


def application(
    routes: Mapping[tuple[str, str], Route], start: Callable[[Awaitable[None]], object], proxies: Sequence[Network] = ()
) -> Asgi:
    """Serves `routes`, by method and path. `start` runs what an answer leaves to be done; what `proxies` say of addresses is believed."""
    paths = {path for _, path in routes}
    held = Held()
    in_work = 0

    async def answer(request: Request) -> Answer:
        route = routes.get((request.method, request.path))
        try:
            if route is None:
                raise _no_route(request.path in paths)
            if in_work > _REQUESTS_MAX:
                raise _busy()
            return await route.handler(request)
        except ServiceError as error:
            close = isinstance(error, TooSlow) or (isinstance(error, TooLarge) and not await request.discard())
            return _with_headers((route.render if route else render)(error, request), error, close)
        except Gone:
            raise
        except Exception as error:
            telemetry.log.error("device_request_failed", path=request.path, exc_info=error)
            return render(Internal(), request)

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        nonlocal in_work
        if scope["type"] != "http":
            return
        started, status = perf_counter(), _DEVICE_GONE
        request = Request(scope, receive, held, proxies)
        route = request.path if request.path in paths else ""
        in_work += 1
        try:
            header = request.header(b"traceparent")
            with telemetry.entry("HTTP", header, is_trusted=bool(header) and request.is_from_proxy) as span:
                try:
                    made = await answer(request)
                    status = made.status
                finally:
                    if span is not None:
                        telemetry.describe_http(span, request.method, route, status)
                headers = [(b"content-length", b"%d" % len(made.body)), (b"content-type", made.media), *made.headers]
                await send({"type": "http.response.start", "status": made.status, "headers": headers})
                await send({"type": "http.response.body", "body": made.body})
                if made.afterwards is not None:
                    start(made.afterwards())
        except Gone:
            return
        finally:
            in_work -= 1
            request.release()
            metrics.observe_http("ingest", request.method, route, status, perf_counter() - started)

    return serve


def _no_route(path_exists: bool) -> ServiceError:
    if path_exists:
        return MethodNotAllowed("ingest.method_not_allowed", "不支持的请求方法", "This method is not allowed here")
    return NotFound("ingest.no_such_path", "没有此接口", "There is no such path")


def _with_headers(answer: Answer, error: ServiceError, close: bool) -> Answer:
    headers = list(answer.headers)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if close:
        headers.append((b"connection", b"close"))
    return replace(answer, headers=tuple(headers))
