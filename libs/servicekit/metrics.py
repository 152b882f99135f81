"""What every process measures, for Prometheus. What has to be asked for is sampled in `sampling`.

A service's own metrics stand in the service, beside what they count. Labels have few values that are known beforehand: never a community, a
device or a person. `docs/observability.md` lists all of them.
"""

from importlib.metadata import version
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

VERSION: Final = version("linli")
# Whatever else a stranger calls a method is one value, as OpenTelemetry has it.
HTTP_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"))
OTHER_METHOD: Final = "_OTHER"
# When a series began, which would be a third of all that is scraped.
disable_created_metrics()  # type: ignore[no-untyped-call]

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RPC_SECONDS = Histogram("linli_rpc_seconds", "Time to answer a gRPC call", ["method", "status"], buckets=_BUCKETS)
# The route is the template, such as /v1/households/{household_id}; empty when no route matched.
HTTP_SECONDS = Histogram("linli_http_seconds", "Time to answer an HTTP request", ["service", "method", "route", "status"], buckets=_BUCKETS)
EVENT_SECONDS = Histogram("linli_event_seconds", "Time to handle an event", ["consumer", "outcome"], buckets=_BUCKETS)
# The objective for delivery is the bucket of 5 s.
EVENT_LAG_SECONDS = Histogram(
    "linli_event_lag_seconds",
    "From publishing an event to having handled it; repetitions are not counted",
    ["consumer"],
    buckets=(*_BUCKETS, 60.0, 600.0),
)
JOB_SECONDS = Histogram("linli_job_seconds", "Time to run a job or a timer", ["job", "outcome"], buckets=_BUCKETS)
TIMER_LATE_SECONDS = Histogram(
    "linli_timer_late_seconds",
    "From when a timer was due to when it is taken up",
    ["timer"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600),
)
DEAD_LETTERS = Counter("linli_dead_letters_total", "Events given up", ["consumer"])
DEAD_LETTERS_WAITING = Gauge("linli_dead_letters_waiting", "Dead letters that wait for a person; at most 10000 are counted", ["service"])
OUTBOX_SENT = Counter("linli_outbox_sent_total", "Events published from the outbox", ["service"])
STREAMS_LOST = Counter("linli_streams_lost_total", "Streams that the broker had lost, or their end, and was given again", ["service"])
OUTBOX_UNSENT = Gauge("linli_outbox_unsent", "Events waiting in the outbox; at most 10000 are counted", ["service"])
OUTBOX_AGE_SECONDS = Gauge("linli_outbox_age_seconds", "Age of the oldest event waiting in the outbox; 0 when none waits", ["service"])
CONSUMER_PENDING = Gauge("linli_consumer_pending", "Events in the stream that the consumer has not been sent yet", ["consumer"])
CONSUMER_UNACKNOWLEDGED = Gauge("linli_consumer_unacknowledged", "Events that the consumer was sent and has not answered", ["consumer"])
POOL_IN_USE = Gauge("linli_database_connections_in_use", "Connections taken from the pool", ["service"])
POOL_MAX = Gauge("linli_database_connections_max", "Connections that the pool may have", ["service"])
POOL_WAIT_SECONDS = Histogram("linli_database_wait_seconds", "Time to get a connection from the pool", ["service"], buckets=_BUCKETS)
LOOP_LAG_SECONDS = Histogram(
    "linli_event_loop_lag_seconds", "How much later than asked the event loop ran a task, four times a second", buckets=_BUCKETS
)
NATS_CONNECTED = Gauge("linli_nats_connected", "1 while the service is connected to NATS, else 0", ["service"])
BUILD_INFO = Gauge("linli_build_info", "1; the version that runs", ["version"])
BUILD_INFO.labels(VERSION).set(1)


def observe_http(service: str, method: str, route: str, status: int, seconds: float) -> None:
    """One answered HTTP request; `route` is the template of its path, empty when it matched none."""
    HTTP_SECONDS.labels(service, method if method in HTTP_METHODS else OTHER_METHOD, route, str(status)).observe(seconds)
