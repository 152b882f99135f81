"""An OTLP/HTTP collector for tests: it keeps every span that processes send to it."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(slots=True)
class Collector:
    """What came, each span with its attributes as Python has them."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)

    def trace(self, trace_id: bytes) -> "Trace":
        """The spans of one trace, as far as they have come."""
        return Trace({span.span_id: span for span in self.spans if span.trace_id == trace_id})


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of one trace by their ids."""

    spans: Mapping[bytes, Span]

    def has(self, name: str) -> bool:
        """Whether a span of this name has come."""
        return any(span.name == name for span in self.spans.values())

    def way(self, name: str) -> list[Span]:
        """From the root to the span of this name that began last."""
        last = max((span for span in self.spans.values() if span.name == name), key=lambda span: span.start_time_unix_nano)
        return self._way(last)

    def paths(self) -> set[tuple[str, ...]]:
        """The names from the root to each span."""
        return {tuple(each.name for each in self._way(span)) for span in self.spans.values()}

    def _way(self, span: Span) -> list[Span]:
        parent = self.spans.get(span.parent_span_id)
        return [*(self._way(parent) if parent is not None else []), span]


def attributes(span: Span) -> dict[str, str | int]:
    """The attributes of a span."""
    return {pair.key: _value(pair) for pair in span.attributes}


def _value(pair: KeyValue) -> str | int:
    kind = pair.value.WhichOneof("value")
    return pair.value.int_value if kind == "int_value" else pair.value.string_value


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a port of its own."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    collector.spans += scope.spans
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Nobody wants to read it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
