"""gRPC: how a service's functions become methods, and how one service calls another.

`rpc.py` of a service is one plain function for each method of its contract, named after it in snake_case. Before the function runs, the
request is parsed, the caller authenticated and authorised as the contract says, and the request validated against the contract. The
function gets a transaction in the caller's community; what it returns, its idempotency key and its effects commit together.
"""

import asyncio
import hashlib
import hmac
import inspect
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import uniform
from time import monotonic, perf_counter
from types import ModuleType
from typing import Any, TypeVar

import grpc
import grpc.aio
import protovalidate
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.trace import Span

from linli.options.v1 import options_pb2
from servicekit import metrics, telemetry, texts
from servicekit.auth import Principal, Verifier, denied, token_in
from servicekit.clock import Clock
from servicekit.database import GIVE_WAY, Database, Resource, Resources, Scope, Transaction, forbid_in_transaction
from servicekit.errors import (
    DETAILS_TRAILER,
    Conflict,
    Denied,
    FieldViolation,
    Internal,
    Invalid,
    NotFound,
    ServiceError,
    Unavailable,
    from_status,
    to_status,
)
from servicekit.identifiers import parse_id
from servicekit.tls import Certificates

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
CALLS_MAX = 512
# Each channel to us keeps one call open, by which it hears whether we are well; those take no place from the others.
WATCHERS_MAX = 256
_DEADLINE_S = 30.0
# A call that may be repeated and finds its service away is made once more, when there is time left for it.
_CALL_ATTEMPTS = 2
_CALL_PAUSE_S = 0.05
# What is told of a request that breaks its contract in many places, so that it fits into gRPC's trailers.
_VIOLATIONS_MAX = 20
_PATH_MAX = 200
_ATTEMPTS = 3
# A call that has its key for longer than any may take died with its process.
_DEAD = timedelta(seconds=_DEADLINE_S + 10)
_KEY_POLL_S = 0.05
_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_SIZES = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Tokens of people with many households, and errors with many fields, outgrow the default of 8 KiB.
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.absolute_max_metadata_size", 64 * 1024),
)
# Calls go in turn to all replicas that say that they are well. One that is about to stop says that it is not, and ends its connections
# later: of the calls that meet the end of a connection a few are lost. What no replica has seen gRPC itself sends once more.
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})
CHANNEL_OPTIONS = (
    *_SIZES,
    ("grpc.service_config", _SERVICE_CONFIG),
    # A name is looked up again when a connection has ended, and replicas that are exchanged one after the other soon end many.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # Channels to one address share a connection unless told; a connection pins to one server process.
    ("grpc.use_local_subchannel_pool", 1),
    # A service that was away is found again within a second, not within the two minutes to which the default grows.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A machine that vanished answers no ping, and nothing else tells.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
SERVER_OPTIONS = (
    *_SIZES,
    # Two processes on one port would share its calls, and neither would know.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
# How long a channel to a name is used: nothing else makes a caller whose connections live look for replicas that are new. A server that
# ends old connections itself (max_connection_age) loses a call now and then.
CHANNEL_AGE_S = 10.0

_CLAIM_KEY = """
INSERT INTO idempotency_keys (community_id, account_id, key, method, request_hash) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING
"""
_SELECT_KEY = """
SELECT method, request_hash, response FROM idempotency_keys WHERE community_id = $1 AND account_id = $2 AND key = $3
"""
_STORE_RESPONSE = """
UPDATE idempotency_keys SET response = coalesce(response, $4) WHERE community_id = $1 AND account_id = $2 AND key = $3 RETURNING response
"""
_TAKE_KEY_OVER = """
UPDATE idempotency_keys SET created_at = now()
WHERE community_id = $1 AND account_id = $2 AND key = $3 AND response IS NULL AND created_at < now() - $4::interval
"""
_FREE_KEY = "DELETE FROM idempotency_keys WHERE community_id = $1 AND account_id = $2 AND key = $3 AND response IS NULL"

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


@dataclass(frozen=True, slots=True)
class Call:
    """What a function outside of a transaction may use: one request, event or timer."""

    now: datetime
    principal: Principal | None
    database: Database | None
    resources: Resources
    headers: Mapping[str, str]

    @property
    def caller(self) -> Principal:
        """Who asked. Raises RuntimeError when nobody did."""
        if self.principal is None:
            raise RuntimeError("nobody asked")
        return self.principal

    def resource(self, kind: type[Resource]) -> Resource:
        """The service's resource of this type, opened at start."""
        return self.resources.get(kind)

    @asynccontextmanager
    async def transaction(self, scope: Scope | None = None) -> AsyncIterator[Transaction]:
        """A transaction in the caller's community, or in the scope that is named."""
        if self.database is None:
            raise RuntimeError("this service has no database")
        async with self.database.transaction(self.caller.community_id if scope is None else scope, principal=self.principal) as transaction:
            yield transaction


def outside_transaction(function: F) -> F:
    """Marks a method's function that must use the network: it gets a `Call` instead of a transaction, and must be idempotent by itself."""
    function.__dict__["outside_transaction"] = True
    return function


def secret_answer(function: F) -> F:
    """Marks a method whose answer holds a secret, which is kept nowhere: a repeated idempotency key acts once and is not answered again."""
    function.__dict__["secret_answer"] = True
    return function


@dataclass(frozen=True, slots=True)
class Api:
    """A service's contract and the module whose functions answer it."""

    contract: ServiceDescriptor
    functions: ModuleType


def snake_case(name: str) -> str:
    """`OpenGate` as `open_gate`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def is_read(method: MethodDescriptor) -> bool:
    """Whether a method only reads: its HTTP verb is GET."""
    return bool(method.GetOptions().Extensions[annotations_pb2.http].get)


class Method:
    """One method of one service: everything between the bytes of a request and the bytes of its answer."""

    def __init__(
        self,
        descriptor: MethodDescriptor,
        function: Callable[..., Awaitable[Message]],
        *,
        service: str,
        always_on: bool,
        verifier: Verifier,
        database: Database | None,
        resources: Resources,
        clock: Clock,
        callers: Set[bytes],
    ) -> None:
        if not descriptor.GetOptions().HasExtension(options_pb2.authority):
            raise TypeError(f"{descriptor.full_name} does not say who may call it")
        self.path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        self._authority = descriptor.GetOptions().Extensions[options_pb2.authority]
        self._request = GetMessageClass(descriptor.input_type)
        self._function = function
        self._read = is_read(descriptor)
        self._secret = getattr(function, "secret_answer", False)
        self._outside = getattr(function, "outside_transaction", False) or database is None
        self._module = None if always_on else service
        self._verifier = verifier
        self._database = database
        self._resources = resources
        self._clock = clock
        self._callers = callers

    async def serve(self, body: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        """Answers one call."""
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        started, status = perf_counter(), grpc.StatusCode.OK
        token = telemetry.request_id.set(headers.get("x-request-id", ""))
        language = texts.language.set("en" if headers.get("accept-language", "").startswith("en") else "zh")
        try:
            with telemetry.entry(self.path[1:], headers.get("traceparent")) as span:
                try:
                    if self._callers and self._callers.isdisjoint(context.peer_identities() or ()):
                        raise Denied("auth.caller", "调用方未获授权", "This caller is not among those who may call")
                    remaining = context.time_remaining()
                    async with asyncio.timeout(min(remaining, _DEADLINE_S) if remaining is not None else _DEADLINE_S):
                        return await self._answer(body, headers)
                except Exception as error:
                    failure = self._failure(error)
                    status = failure.status
                finally:
                    if span is not None:
                        _describe_call(span, self.path, status, _SERVER_FAULTS)
            await context.abort(status, failure.en, ((DETAILS_TRAILER, to_status(failure)),))
        finally:
            texts.language.reset(language)
            telemetry.request_id.reset(token)
            metrics.RPC_SECONDS.labels(self.path, status.name).observe(perf_counter() - started)

    def _failure(self, error: Exception) -> ServiceError:
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, GIVE_WAY):
            return Unavailable("database.busy", "系统繁忙，请稍后再试", "Busy; please try again", retry_after_s=1)
        if isinstance(error, TimeoutError):
            return Unavailable("deadline", "处理超时，请稍后再试", "It took too long; please try again", retry_after_s=1)
        telemetry.log.error("method_failed", method=self.path, error=telemetry.describe(error))
        return Internal()

    async def _answer(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        try:
            request = self._request.FromString(body)
        except DecodeError:
            raise Invalid("request.malformed", "请求格式不正确", "The request is malformed") from None
        principal = None
        if not self._authority.public:
            principal = await self._verifier.verify(token_in(headers.get("authorization")))
            self._authorise(principal, request)
        validate(request)
        if self._outside:
            return await self._answer_outside(request, body, principal, headers)
        return await self._answer_in_transaction(request, body, principal, headers)

    def _authorise(self, principal: Principal, request: Message) -> None:
        if self._module is not None and self._module not in principal.modules:
            raise Denied("auth.module_off", "本小区未启用此功能", "This community has not switched this module on")
        permission = self._authority.permission
        if not permission or permission in principal.permissions:
            return
        household, building = self._authority.household_field, self._authority.building_field
        if household and principal.may(permission, household_id=parse_id(_field(request, household))):
            return
        if building and principal.may(permission, building_id=parse_id(_field(request, building))):
            return
        if (household or building) and principal.holds_anywhere(permission):
            # It may well exist; whose it is is nobody else's business.
            raise NotFound("auth.not_found", "没有找到", "Not found")
        raise denied(permission)

    async def _answer_outside(self, request: Message, body: bytes, principal: Principal | None, headers: Mapping[str, str]) -> bytes:
        call = Call(self._clock(), principal, self._database, self._resources, headers)
        key = self._key(headers, body)
        if key is None or principal is None or self._database is None:
            return (await self._function(call, request)).SerializeToString()
        # The function commits on its own and is idempotent by itself, because one that a crash interrupted runs again.
        stored = await self._claim_outside(self._database, principal, key)
        if stored is not None:
            return stored
        try:
            response = (await self._function(call, request)).SerializeToString()
        except BaseException:
            async with self._database.transaction(principal.community_id, principal=principal) as transaction:
                await transaction.execute(_FREE_KEY, principal.community_id, principal.account_id, key.digest)
            raise
        async with self._database.transaction(principal.community_id, principal=principal) as transaction:
            return await self._store(transaction, key, response)

    async def _claim_outside(self, database: Database, principal: Principal, key: "_Key") -> bytes | None:
        """Takes the key, or over from a call that must be dead by now; while one is at work, waits for its answer."""
        while True:
            async with database.transaction(principal.community_id, principal=principal) as transaction:
                owner = self._owner(transaction, key)
                if await transaction.execute(_CLAIM_KEY, *owner, self.path, key.request_hash):
                    return None
                stored = await self._stored(transaction, key)
                if stored is not None or await transaction.execute(_TAKE_KEY_OVER, *owner, _DEAD):
                    return stored
            await asyncio.sleep(_KEY_POLL_S)

    async def _answer_in_transaction(self, request: Message, body: bytes, principal: Principal | None, headers: Mapping[str, str]) -> bytes:
        database = self._database
        assert database is not None
        key = self._key(headers, body)
        scope: Scope = "" if principal is None else principal.community_id
        for attempt in range(_ATTEMPTS):
            try:
                async with database.transaction(scope, principal=principal) as transaction:
                    if key is not None and principal is not None:
                        stored = await self._claim(transaction, key)
                        if stored is not None:
                            return stored
                    response = (await self._function(transaction, request)).SerializeToString()
                    if key is not None and principal is not None:
                        await self._store(transaction, key, response)
                return response
            except GIVE_WAY:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _key(self, headers: Mapping[str, str], body: bytes) -> "_Key | None":
        key = headers.get("idempotency-key")
        if key is None or self._read:
            return None
        if not _KEY.fullmatch(key):
            raise Invalid(
                "request.idempotency_key",
                "Idempotency-Key 格式不正确",
                "Idempotency-Key must be 1 to 128 printable ASCII characters",
            )
        digest = hashlib.sha256(key.encode()).hexdigest()
        return _Key(digest, hmac.digest(key.encode(), body, "sha256"))

    def _owner(self, transaction: Transaction, key: "_Key") -> tuple[object, ...]:
        return transaction.caller.community_id, transaction.caller.account_id, key.digest

    async def _claim(self, transaction: Transaction, key: "_Key") -> bytes | None:
        """Takes the key for this transaction; a second caller waits here until the first has committed, and gets its answer."""
        if await transaction.execute(_CLAIM_KEY, *self._owner(transaction, key), self.path, key.request_hash):
            return None
        return await self._stored(transaction, key)

    async def _stored(self, transaction: Transaction, key: "_Key") -> bytes | None:
        row = await transaction.fetchrow(_SELECT_KEY, *self._owner(transaction, key))
        if row is None:
            return None
        if row["method"] != self.path or row["request_hash"] != key.request_hash:
            raise Conflict(
                "request.idempotency_key_reused",
                "该 Idempotency-Key 已用于其他请求",
                "This Idempotency-Key was used for another request",
            )
        response: bytes | None = row["response"]
        if response is not None and self._secret:
            raise Conflict(
                "request.answer_not_kept",
                "该请求已执行；答复含密钥，不再重复给出",
                "This was done already; its answer held a secret and was not kept",
            )
        return response

    async def _store(self, transaction: Transaction, key: "_Key", response: bytes) -> bytes:
        """Keeps the answer for repetitions, and returns the one that is kept: the first."""
        if transaction.scope != transaction.caller.community_id:
            await transaction.enter(transaction.caller.community_id)  # The function has moved on to where it is now.
        kept = await transaction.fetchval(_STORE_RESPONSE, *self._owner(transaction, key), b"" if self._secret else response)
        return response if self._secret or kept is None else kept


@dataclass(frozen=True, slots=True)
class _Key:
    """An idempotency key as it is stored: hashed, and the request's hash under it, so that neither tells a thief what was asked."""

    digest: str
    request_hash: bytes


def _field(message: Message, path: str) -> str:
    value: Any = message
    for name in path.split("."):
        value = getattr(value, name)
    return str(value)


# What OpenTelemetry counts as an error of the server; to its caller everything but OK is one.
_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_CLIENT_FAULTS = frozenset(grpc.StatusCode) - {grpc.StatusCode.OK}


def _describe_call(span: Span, path: str, status: grpc.StatusCode, faults: Set[grpc.StatusCode]) -> None:
    _, service, method = path.split("/")
    span.set_attributes({"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.grpc.status_code": status.value[0]})
    if status in faults:
        telemetry.fail(span, status.name)


_validator = protovalidate.Validator()


def validate(message: Message) -> None:
    """Checks a message against its contract's `buf.validate` rules. Raises Invalid that names each field by its JSON path."""
    violations = _validator.collect_violations(message)
    if not violations:
        return
    fields = [FieldViolation(_path(v.proto), v.proto.rule_id or "invalid", v.proto.message or "") for v in violations[:_VIOLATIONS_MAX]]
    raise Invalid("request.invalid", "请求内容不符合要求", "The request does not meet the contract", fields=fields)


def _path(violation: Any) -> str:
    path = ""
    for element in violation.field.elements if violation.field is not None else ():
        path += ("." if path else "") + element.field_name
        subscript = getattr(element, "subscript", None)
        if subscript is not None and subscript.value is not None:
            path += f"[{subscript.value}]"
    return path[:_PATH_MAX]


def methods_of(api: Api, **wiring: Any) -> list[Method]:
    """The methods of a contract, bound to their functions. Raises TypeError when one has none, or a function answers no method."""
    methods = []
    for descriptor in api.contract.methods:
        function = getattr(api.functions, snake_case(descriptor.name), None)
        if function is None:
            raise TypeError(f"{api.functions.__name__} has no function {snake_case(descriptor.name)} for {descriptor.full_name}")
        methods.append(Method(descriptor, function, **wiring))
    names = {snake_case(descriptor.name) for descriptor in api.contract.methods}
    for name, function in inspect.getmembers(api.functions, inspect.iscoroutinefunction):
        if function.__module__ == api.functions.__name__ and not name.startswith("_") and name not in names:
            raise TypeError(f"{api.functions.__name__}.{name} answers no method of {api.contract.full_name}")
    return methods


def generic_handler(methods: Sequence[Method]) -> grpc.GenericRpcHandler:
    """The methods as grpc.aio takes them. Bytes in, bytes out: parsing is ours, so that what cannot be parsed is the caller's error."""
    by_path: dict[str, Any] = {method.path: grpc.unary_unary_rpc_method_handler(method.serve) for method in methods}

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return by_path.get(handler_call_details.method)

    return Handler()


class Peer:
    """Another service's gRPC API, called with bytes."""

    def __init__(self, address: str, certificates: Certificates | None = None) -> None:
        self._address = address
        self._certificates = certificates
        self._leaving: set[asyncio.Task[None]] = set()
        self._open()

    def _open(self) -> None:
        self._calls: dict[str, Any] = {}
        self._until = monotonic() + CHANNEL_AGE_S if self._address.startswith("dns:") else math.inf
        if self._certificates is None:
            self._credentials, self._channel = None, grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        else:
            self._credentials = self._certificates.channel()
            self._channel = grpc.aio.secure_channel(self._address, self._credentials, options=CHANNEL_OPTIONS)

    def _renew(self) -> None:
        """Another channel, with our newest certificate and to what the name means now; calls on the old one end in their own time."""
        closing = asyncio.create_task(self._channel.close(_DEADLINE_S))
        self._leaving.add(closing)
        closing.add_done_callback(self._leaving.discard)
        self._open()

    async def call(
        self,
        path: str,
        request: bytes,
        metadata: Sequence[tuple[str, str]] = (),
        timeout_s: float = 10.0,
        *,
        is_read: bool = False,
    ) -> bytes:
        """Calls one method. Raises the error that the other side raised, or Unavailable when it does not answer in time.

        A service that is away is asked once more for what does no harm twice: a read, and what has an idempotency key.
        """
        forbid_in_transaction("a gRPC call")
        names = {name for name, _ in metadata}
        # Keys are kept for callers who say who they are.
        attempts = _CALL_ATTEMPTS if is_read or {"idempotency-key", "authorization"} <= names else 1
        end = monotonic() + timeout_s
        while True:
            try:
                return await self._call(path, request, metadata, end - monotonic())
            except Unavailable:
                attempts -= 1
                pause_s = uniform(0.5, 1.5) * _CALL_PAUSE_S
                if not attempts or end - monotonic() < 2 * pause_s:
                    raise
                await asyncio.sleep(pause_s)

    async def _call(self, path: str, request: bytes, metadata: Sequence[tuple[str, str]], timeout_s: float) -> bytes:
        if monotonic() > self._until or (self._certificates is not None and self._certificates.channel() is not self._credentials):
            self._renew()
        method = self._calls.get(path)
        if method is None:
            method = self._calls[path] = self._channel.unary_unary(path)
        if (identifier := telemetry.request_id.get()) and not any(name == "x-request-id" for name, _ in metadata):
            metadata = (*metadata, ("x-request-id", identifier))
        with telemetry.span(path[1:], telemetry.SpanKind.CLIENT) as span:
            if parent := telemetry.traceparent():
                metadata = (*metadata, ("traceparent", parent))
            status = grpc.StatusCode.OK
            try:
                response: bytes = await method(request, metadata=metadata, timeout=timeout_s)
                return response
            except grpc.aio.AioRpcError as error:
                status, details = error.code(), dict(error.trailing_metadata() or ()).get(DETAILS_TRAILER)
            finally:
                if span is not None:
                    _describe_call(span, path, status, _CLIENT_FAULTS)
        raise from_status(status, details if isinstance(details, bytes) else None)

    async def close(self) -> None:
        """Closes the channel."""
        await asyncio.gather(self._channel.close(), *self._leaving)
