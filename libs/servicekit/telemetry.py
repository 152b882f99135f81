"""Logs, traces and metrics.

Logs are JSON lines with trace and request ids. Metrics are Prometheus', always. Traces follow W3C Trace Context through HTTP, gRPC, NATS
and SQL and go out over OTLP when an endpoint is set; a span is made only when its trace is sampled, because the stock instrumentation
halves throughput at any sampling rate (bench/gateway.py measures ours). Nothing personal is written to any of them: of an exception its
type and place, never its text.
"""

import json
import logging
import random
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from prometheus_client import Counter, Gauge, Histogram

from servicekit.config import ProcessSettings
from servicekit.errors import ServiceError

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RPC_SECONDS = Histogram("linli_rpc_seconds", "Time to answer a gRPC call", ["method", "status"], buckets=_BUCKETS)
HTTP_SECONDS = Histogram("linli_http_seconds", "Time to answer an HTTP request", ["service", "status"], buckets=_BUCKETS)
EVENT_SECONDS = Histogram("linli_event_seconds", "Time to handle an event", ["consumer", "outcome"], buckets=_BUCKETS)
EVENT_LAG_SECONDS = Histogram("linli_event_lag_seconds", "From publishing an event to handling it", ["consumer"], buckets=_BUCKETS)
JOB_SECONDS = Histogram("linli_job_seconds", "Time to run a timed job", ["job", "outcome"], buckets=_BUCKETS)
DEAD_LETTERS = Counter("linli_dead_letters_total", "Events given up", ["consumer"])
OUTBOX_SENT = Counter("linli_outbox_sent_total", "Events published from the outbox", ["service"])
OUTBOX_UNSENT = Gauge("linli_outbox_unsent", "Events waiting in the outbox", ["service"])
POOL_IN_USE = Gauge("linli_database_connections_in_use", "Connections taken from the pool", ["service"])

_context: ContextVar[SpanContext | None] = ContextVar("trace", default=None)
request_id: ContextVar[str] = ContextVar("request_id", default="")
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
            structlog.processors.TimeStamper(fmt="iso", utc=True),
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
        _provider = TracerProvider(resource=Resource.create({"service.name": name}), sampler=ALWAYS_ON, shutdown_on_exit=False)
        _provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1_000))
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
            line = {"event": record.getMessage(), "logger": record.name, "level": record.levelname.lower()}
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
        event["trace_id"] = f"{context.trace_id:032x}"
    if identifier := request_id.get():
        event["request_id"] = identifier
    return event


def traceparent() -> str:
    """The W3C `traceparent` of the present context; empty when there is none."""
    context = _context.get()
    if context is None:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


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


@contextmanager
def entry(name: str, header: str | None, kind: SpanKind = SpanKind.SERVER) -> Iterator[Span | None]:
    """The first span of a process for a request or an event: continues the caller's trace, or starts one at the sampling ratio.

    Yields the span, or None when the trace is not sampled; either way its id is in the logs and travels on.
    """
    parent = parse_traceparent(header)
    is_root = parent is None
    if parent is None:
        is_sampled = _tracer is not None and random.random() < _ratio
        parent = SpanContext(
            random.getrandbits(128) | 1,
            random.getrandbits(64) | 1,
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED if is_sampled else 0),
        )
    token = _context.set(parent)
    try:
        if _tracer is None or not parent.trace_flags & TraceFlags.SAMPLED:
            yield None
        else:
            with span(name, kind, is_root=is_root) as made:
                yield made
    finally:
        _context.reset(token)


@contextmanager
def span(name: str, kind: SpanKind = SpanKind.INTERNAL, *, is_root: bool = False) -> Iterator[Span | None]:
    """A span inside a sampled trace; nothing at all outside of one."""
    parent = _context.get()
    if _tracer is None or parent is None or not parent.trace_flags & TraceFlags.SAMPLED:
        yield None
        return
    context = Context() if is_root else trace.set_span_in_context(NonRecordingSpan(parent), Context())
    made = _tracer.start_span(name, context=context, kind=kind)
    token = _context.set(made.get_span_context())
    try:
        yield made
    except BaseException as error:
        made.set_status(trace.StatusCode.ERROR, type(error).__name__)
        raise
    finally:
        _context.reset(token)
        made.end()


__all__ = [
    "DEAD_LETTERS",
    "EVENT_LAG_SECONDS",
    "EVENT_SECONDS",
    "HTTP_SECONDS",
    "JOB_SECONDS",
    "OUTBOX_SENT",
    "OUTBOX_UNSENT",
    "POOL_IN_USE",
    "RPC_SECONDS",
    "ReadableSpan",
    "SpanKind",
    "configure",
    "describe",
    "entry",
    "flush",
    "log",
    "parse_traceparent",
    "request_id",
    "span",
    "traceparent",
]
