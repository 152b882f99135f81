"""Logs and traces. Metrics are in `metrics`.

Logs are JSON lines with the ids of trace, span and request. Traces follow W3C Trace Context through HTTP, gRPC, NATS and SQL and go out
over OTLP when an endpoint is set; a span is made only when its trace is sampled, because the stock instrumentation halves throughput at
any sampling rate (bench/gateway.py measures ours). Spans are named and described as OpenTelemetry's semantic conventions say, but for what
tells who somebody is: no paths, queries, addresses or subjects. Nothing personal is written to any of them: of an exception its type and
place, never its text.
"""

import json
import logging
import random
import re
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

from servicekit.config import ProcessSettings
from servicekit.errors import ServiceError
from servicekit.metrics import HTTP_METHODS, OTHER_METHOD, VERSION

_SUMMARY_MAX: Final = 255
# Spans that wait for the collector; what is more is dropped.
_SPANS_MAX: Final = 16_384
_context: ContextVar[SpanContext | None] = ContextVar("trace", default=None)
request_id: ContextVar[str] = ContextVar("request_id", default="")
_stamp: Final = structlog.processors.TimeStamper(fmt="iso", utc=True)
_tracer: trace.Tracer | None = None
_provider: TracerProvider | None = None
_ratio = 0.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(process: ProcessSettings, name: str, exporter: SpanExporter | None = None) -> None:
    """Sets up logs, and traces when an OTLP endpoint or an exporter is given. `name` is the process's service name."""
    level = getattr(logging, process.log_level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            _stamp,
            _add_ids,
            _describe_exception,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryLines()], force=True)
    if exporter is None and process.otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=f"{process.otlp_endpoint.rstrip('/')}/v1/traces", timeout=5)
    if exporter is not None:
        global _tracer, _provider, _ratio
        resource = Resource.create({"service.name": name, "service.version": VERSION})
        _provider = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
        _provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_SPANS_MAX, schedule_delay_millis=1_000))
        _tracer, _ratio = _provider.get_tracer("linli"), process.trace_ratio


def flush(within_s: float = 5.0) -> None:
    """Sends the spans that wait; gives up on a collector that does not take them in time. Called when a process stops."""
    if _provider is not None:
        # The SDK's own limit is not kept, so a thread that nobody waits for longer does it.
        thread = threading.Thread(target=_provider.force_flush, daemon=True)
        thread.start()
        thread.join(within_s)


def describe(error: BaseException) -> str:
    """What may be told of an exception: types, codes and places of it and of what caused it. Texts hold other people's values."""
    chain: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(chain) < 5:
        frames = traceback.extract_tb(seen.__traceback__)[-3:]
        places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        chain.append(f"{_headline(seen)} at {places}" if places else _headline(seen))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return ", because of ".join(chain)


def _headline(error: BaseException) -> str:
    if isinstance(error, ServiceError):
        return f"{type(error).__name__} {error.code}"
    # What PostgreSQL names are parts of our schema.
    names = (getattr(error, name, None) for name in ("sqlstate", "table_name", "column_name", "constraint_name"))
    return " ".join([type(error).__name__, *(name for name in names if isinstance(name, str))])


class _LibraryLines(logging.Handler):
    """What libraries log in Python's way, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line: structlog.typing.EventDict = {"event": record.getMessage(), "logger": record.name, "level": record.levelname.lower()}
            _add_ids(None, "", _stamp(None, "", line))
            if record.exc_info and record.exc_info[1] is not None:
                line["exception"] = describe(record.exc_info[1])
            sys.stderr.write(json.dumps(line, ensure_ascii=False) + "\n")
        except Exception:
            self.handleError(record)


def _describe_exception(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = describe(error)
    return event


def _add_ids(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = _context.get()
    if context is not None:
        event["trace_id"], event["span_id"] = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    if identifier := request_id.get():
        event["request_id"] = identifier
    return event


def traceparent() -> str:
    """The W3C `traceparent` of the present context; empty when there is none."""
    context = _context.get()
    if context is None:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags.sampled):02x}"


def parse_traceparent(header: str | None) -> SpanContext | None:
    """The context that a `traceparent` header carries; None when it is absent or malformed."""
    parts = (header or "").split("-")
    if len(parts) != 4 or [len(p) for p in parts] != [2, 32, 16, 2]:
        return None
    try:
        context = SpanContext(int(parts[1], 16), int(parts[2], 16), is_remote=True, trace_flags=TraceFlags(int(parts[3], 16) & 1))
    except ValueError:
        return None
    return context if context.is_valid else None


class _Block:
    """A block of code in a context, and in a span when there is one, which ends with it."""

    __slots__ = ("_made", "_present", "_token")

    def __init__(self, present: SpanContext, made: Span | None = None) -> None:
        self._present = present
        self._made = made

    def __enter__(self) -> Span | None:
        self._token = _context.set(self._present)
        return self._made

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None) -> None:
        _context.reset(self._token)
        if self._made is not None:
            if error is not None:
                fail(self._made, type(error).__name__)
            self._made.end()


_NO_SPAN: Final = nullcontext[None]()
Attributes = Mapping[str, str | int]


def entry(
    name: str,
    header: str | None,
    kind: SpanKind = SpanKind.SERVER,
    attributes: Attributes | None = None,
    *,
    is_trusted: bool = True,
    links: Sequence[SpanContext] = (),
) -> AbstractContextManager[Span | None]:
    """The first span of a process for a request or an event: continues the caller's trace, or starts one at the sampling ratio.

    The header says too whether the trace is sampled. Of a caller who is not trusted only its ids are taken: strangers must not have
    everything sampled. Yields the span, or None when the trace is not sampled; either way its id is in the logs and travels on.
    """
    parent = parse_traceparent(header)
    if parent is None:
        present = SpanContext(random.getrandbits(128) | 1, random.getrandbits(64) | 1, is_remote=False, trace_flags=_draw())
        return _begin(name, Context(), kind, attributes, links) if present.trace_flags.sampled else _Block(present)
    if not is_trusted:
        parent = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=_draw())
    if _tracer is None or not parent.trace_flags.sampled:
        return _Block(parent)
    return _begin(name, trace.set_span_in_context(NonRecordingSpan(parent), Context()), kind, attributes, links)


def span(name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None) -> AbstractContextManager[Span | None]:
    """A span inside a sampled trace; nothing at all outside of one."""
    parent = _context.get()
    if _tracer is None or parent is None or not parent.trace_flags.sampled:
        return _NO_SPAN
    return _begin(name, trace.set_span_in_context(NonRecordingSpan(parent), Context()), kind, attributes)


def statement(sql: str, database: str) -> AbstractContextManager[Span | None]:
    """The span of one statement. Its text holds no values: those are its parameters, and are told to nobody."""
    if not is_sampled():
        return _NO_SPAN
    summary = _summary(sql)
    attributes = {"db.system.name": "postgresql", "db.namespace": database, "db.query.summary": summary, "db.query.text": sql.strip()}
    return span(summary, SpanKind.CLIENT, attributes)


_STEPS: Final = re.compile(
    r"\b(INSERT) INTO ([a-z_]+)|\b(UPDATE) ([a-z_]+)|\b(DELETE) FROM ([a-z_]+)|\b(?:FROM|JOIN) ([a-z_]+)\b(?!\()|\b(SELECT|BEGIN|COMMIT)\b"
)
# What a statement calls its own parts: they are no tables.
_NAMED: Final = re.compile(r"\b([a-z_]+) AS (?:MATERIALIZED )?\(")


@lru_cache(maxsize=4096)
def _summary(sql: str) -> str:
    """What a statement does to which tables, such as `INSERT charges SELECT payments`."""
    named = set(_NAMED.findall(sql))
    steps = [" ".join(part for part in found if part and part not in named) for found in _STEPS.findall(sql)]
    return " ".join(dict.fromkeys(filter(None, steps)))[:_SUMMARY_MAX] or sql.split(maxsplit=1)[0]


def sending(event: str, event_id: str, header: str) -> AbstractContextManager[Span | None]:
    """The span of an event that leaves: part of the trace of whoever has published it, which `header` says."""
    if _tracer is None or not header.endswith("1"):
        return _NO_SPAN
    attributes = {
        "messaging.system": "nats",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.destination.name": event,
        "messaging.message.id": event_id,
    }
    return entry(f"publish {event}", header, SpanKind.PRODUCER, attributes)


def describe_http(span: Span, method: str, route: str, status: int) -> None:
    """What the span of an HTTP request says; `route` is the template of its path, empty when it matched none."""
    known = method in HTTP_METHODS
    span.update_name(" ".join((method if known else "HTTP", *([route] if route else []))))
    span.set_attributes(
        {"http.request.method": method if known else OTHER_METHOD, "http.response.status_code": status, "url.scheme": "http"}
    )
    if route:
        span.set_attribute("http.route", route)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        fail(span, str(status))


def is_sampled() -> bool:
    """Whether spans are made in the present context."""
    context = _context.get()
    return _tracer is not None and context is not None and context.trace_flags.sampled


def fail(span: Span, reason: str) -> None:
    """Says that what a span is about failed; `reason` is a type or a code, never a text."""
    span.set_attribute("error.type", reason)
    span.set_status(trace.StatusCode.ERROR)


def _draw() -> TraceFlags:
    return TraceFlags(TraceFlags.SAMPLED if _tracer is not None and random.random() < _ratio else TraceFlags.DEFAULT)


def _begin(name: str, parent: Context, kind: SpanKind, attributes: Attributes | None = None, links: Sequence[SpanContext] = ()) -> _Block:
    assert _tracer is not None
    made = _tracer.start_span(name, context=parent, kind=kind, attributes=attributes, links=[Link(context) for context in links])
    return _Block(made.get_span_context(), made)


__all__ = [
    "ReadableSpan",
    "SpanKind",
    "configure",
    "describe",
    "describe_http",
    "entry",
    "fail",
    "flush",
    "is_sampled",
    "log",
    "parse_traceparent",
    "request_id",
    "sending",
    "span",
    "statement",
    "traceparent",
]
