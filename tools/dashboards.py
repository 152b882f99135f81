"""infra/observability/dashboards, generated: the platform, its objectives, devices, money, and each service by its declaration.

A new service gets its dashboard by itself, and what it measures of its own a panel there.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

import ledger
from console import catalog
from servicekit import metrics
from servicekit.service import Job, Service
from tools.metrics_catalogue import labels_of
from tools.objectives import OBJECTIVES
from tools.panels import (
    BYTES,
    COUNT,
    PER_SECOND,
    SECONDS,
    SHARE,
    WHERE,
    Panel,
    figure,
    graph,
    highest,
    listing,
    prose,
    quantile,
    rate,
    render,
)

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / "infra" / "observability" / "dashboards"
_FAILED_CALLS: Final = 'status=~"INTERNAL|UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"'
_MONEY_CONSUMERS: Final = 'consumer=~"billing-.+|points-.+|parking-(release|debit).+"'


def dashboards() -> Mapping[str, str]:
    """The JSON of every dashboard, by its file's name."""
    made = {"platform": _platform(), "objectives": _objectives(), "devices": _devices(), "money": _money()}
    made |= {f"service-{service.name}": _service(service) for service in catalog.find(["all"])}
    return {f"{name}.json": text for name, text in made.items()}


def _platform() -> str:
    now = [
        figure("Alerts", COUNT, 'count(ALERTS{alertname=~"Linli.+",alertstate="firing",namespace=~"$namespace"}) or vector(0)', bad_from=1),
        figure("Services", COUNT, f"count(count by (service) (linli_nats_connected{{{WHERE}}}))"),
        figure("Processes", COUNT, f"count(linli_build_info{{{WHERE}}})"),
        figure("Versions", COUNT, f"count by (version) (linli_build_info{{{WHERE}}})", "{{version}}", about="Processes of each version"),
        figure("Dead letters", COUNT, f"sum({highest('linli_dead_letters_waiting', 'namespace, service')})", bad_from=1),
        figure("Oldest unsent event", SECONDS, f"max(linli_outbox_age_seconds{{{WHERE}}})", bad_from=60),
        listing("Firing", 'ALERTS{alertname=~"Linli.+",alertstate="firing",namespace=~"$namespace"}', width=24, height=6),
    ]
    calls = f"linli:rpc_calls:rate5m{{{WHERE}}}"
    requests = [
        graph("HTTP requests", PER_SECOND, (rate("linli_http_seconds_count", "service"), "{{service}}")),
        graph(
            "HTTP errors of ours",
            PER_SECOND,
            (rate("linli_http_seconds_count", "service, status", 'status=~"5.."'), "{{service}} {{status}}"),
        ),
        graph("HTTP, 99th percentile", SECONDS, (quantile(0.99, "linli_http_seconds", "service"), "{{service}}")),
        graph("Calls", PER_SECOND, (f"sum by (service) ({calls})", "{{service}}")),
        graph(
            "Calls that failed",
            PER_SECOND,
            (f"sum by (service, status) (linli:rpc_calls:rate5m{{{WHERE},{_FAILED_CALLS}}})", "{{service}} {{status}}"),
        ),
        graph("Slowest methods, 99th percentile", SECONDS, (f"topk(10, {quantile(0.99, 'linli_rpc_seconds', 'method')})", "{{method}}")),
    ]
    events = [
        graph("Events handled", PER_SECOND, (rate("linli_event_seconds_count", "outcome"), "{{outcome}}")),
        graph(
            "Slowest to hear, 99th percentile",
            SECONDS,
            (f"topk(10, {quantile(0.99, 'linli_event_lag_seconds', 'consumer')})", "{{consumer}}"),
            about="From publishing an event to having handled it",
        ),
        graph("Waiting for consumers", COUNT, (f"topk(10, {highest('linli_consumer_pending', 'consumer')})", "{{consumer}}")),
        graph(
            "Outboxes", COUNT, (highest("linli_outbox_unsent", "service"), "{{service}}"), about="Events that are written and not published"
        ),
        graph("Age of the oldest unsent event", SECONDS, (highest("linli_outbox_age_seconds", "service"), "{{service}}")),
        graph("Dead letters", COUNT, (highest("linli_dead_letters_waiting", "service"), "{{service}}")),
        graph("Timers late, 95th percentile", SECONDS, (quantile(0.95, "linli_timer_late_seconds", "timer"), "{{timer}}")),
        graph("Jobs that failed", PER_SECOND, (rate("linli_job_seconds_count", "job", 'outcome="failed"'), "{{job}}")),
        graph("Streams that NATS had lost", PER_SECOND, (rate("linli_streams_lost_total", "service"), "{{service}}")),
        graph("Connected to NATS", SHARE, (f"avg by (service) (linli_nats_connected{{{WHERE}}})", "{{service}}"), share_of_one=True),
    ]
    processes = [
        graph(
            "Connections in use",
            SHARE,
            (
                f"max by (service) (linli_database_connections_in_use{{{WHERE}}} / linli_database_connections_max{{{WHERE}}})",
                "{{service}}",
            ),
            about="Of the process of each service that uses most of its pool",
            share_of_one=True,
        ),
        graph(
            "Waiting for a connection, 99th percentile", SECONDS, (quantile(0.99, "linli_database_wait_seconds", "service"), "{{service}}")
        ),
        graph("Event loop late, 99th percentile", SECONDS, (quantile(0.99, "linli_event_loop_lag_seconds", "instance"), "{{instance}}")),
        graph("Processors", COUNT, (_of_ours(rate("process_cpu_seconds_total", "job, instance")), "{{instance}}")),
        graph("Memory", BYTES, (_of_ours(f"process_resident_memory_bytes{{{WHERE}}}"), "{{instance}}")),
        graph(
            "Started", COUNT, (_of_ours(f"changes(process_start_time_seconds{{{WHERE}}}[1h])"), "{{instance}}"), about="Times in an hour"
        ),
    ]
    rows = [("Now", now), ("Requests", requests), ("Events, timers and jobs", events), ("Processes", processes)]
    return render("linli-platform", "Linli: platform", "Every service at a glance", rows)


def _of_ours(query: str) -> str:
    # Every program in Python reports these.
    return f"{query} and on (job, instance) linli_build_info{{{WHERE}}}"


def _objectives() -> str:
    rows = []
    for each in OBJECTIVES:
        where = f'{{{WHERE},objective="{each.name}"}}'
        budget = round(1 - each.promise, 6)
        rows.append(
            (
                f"{each.summary.partition(':')[0]}: {each.promise:.1%} are promised ({each.name})",
                [
                    figure("Budget left of 30 days", SHARE, f"1 - max(linli:objective_misses:ratio30d{where}) / {budget:g}", width=6),
                    figure("Missed in 30 days", COUNT, f"sum(sum_over_time(linli:objective_misses:rate5m{where}[30d])) * 60", width=6),
                    graph(
                        "Burning",
                        COUNT,
                        *(
                            (f"max(linli:objective_misses:ratio{window}{where}) / {budget:g}", f"in {window}")
                            for window in ("5m", "1h", "6h", "3d")
                        ),
                        about="At 1 the budget of 30 days lasts for 30 days",
                        width=12,
                    ),
                ],
            )
        )
    return render("linli-objectives", "Linli: objectives", "What is promised, and what is left of the budgets: docs/slo.md", rows)


def _devices() -> str:
    register = [
        graph("Online", SHARE, (f"linli:devices_online:ratio{{{WHERE}}}", "{{kind}}"), share_of_one=True),
        graph("Devices", COUNT, (highest("linli_devices", "kind, state"), "{{kind}} {{state}}")),
        graph("Requests", PER_SECOND, (rate("linli_http_seconds_count", "route, status", 'service="ingest"'), "{{route}} {{status}}")),
    ]
    decisions = []
    for name, histogram, limit in (
        ("Gates", "linli_gate_decision_seconds", "decided within 2 s (GB 50396), or offline_rule"),
        ("Doors", "linli_door_decision_seconds", "late: the terminal had decided alone"),
    ):
        quantiles = [(quantile(share, histogram), f"{share:.1%}") for share in (0.5, 0.99, 0.999)]
        decisions += [
            graph(f"{name}: from the device's message to the answer", SECONDS, *quantiles, about=limit),
            graph(f"{name}: decisions", PER_SECOND, (rate(f"{histogram}_count", "outcome"), "{{outcome}}")),
            graph(f"{name}: 99th percentile by outcome", SECONDS, (quantile(0.99, histogram, "outcome"), "{{outcome}}")),
        ]
    telemetry = 'consumer="insights-write_readings_on_batch"'
    streams = [
        graph(
            "Messages ignored", PER_SECOND, (rate("linli_ingest_device_messages_ignored_total", "topic, reason"), "{{topic}}: {{reason}}")
        ),
        graph("Commands not sent", PER_SECOND, (rate("linli_ingest_commands_dropped_total", "reason"), "{{reason}}")),
        graph("Pictures lost", PER_SECOND, (rate("linli_ingest_pictures_lost_total", "reason"), "{{reason}}")),
        graph("Batches of readings written", PER_SECOND, (rate("linli_event_seconds_count", "outcome", telemetry), "{{outcome}}")),
        graph("Batches of readings waiting", COUNT, (highest("linli_consumer_pending", "consumer", telemetry), "waiting")),
        graph("Readings refused", PER_SECOND, (rate("linli_readings_refused_total", "reason"), "{{reason}}")),
    ]
    rows = [("Register", register), ("Decisions", decisions), ("Streams", streams)]
    return render("linli-devices", "Linli: devices", "Cameras, gates, doors, bins and sensors", rows)


def _money() -> str:
    payments = [
        graph("Payments", PER_SECOND, (rate("linli_payments_total", "outcome"), "{{outcome}}")),
        graph(
            "Differences to the provider's books",
            COUNT,
            (f"sum by (kind) (increase(linli_reconciliation_differences_total{{{WHERE}}}[1d]))", "{{kind}}"),
            about="In the day before",
        ),
        graph(
            "Jobs of billing that failed",
            PER_SECOND,
            (rate("linli_job_seconds_count", "job", 'job=~"billing-.+",outcome="failed"'), "{{job}}"),
        ),
    ]
    facts = [
        graph(
            "Charges, payments and points", PER_SECOND, (rate("linli_event_seconds_count", "consumer", _MONEY_CONSUMERS), "{{consumer}}")
        ),
        graph("Waiting", COUNT, (highest("linli_consumer_pending", "consumer", _MONEY_CONSUMERS), "{{consumer}}")),
        graph(
            "Dead letters", COUNT, (highest("linli_dead_letters_waiting", "service", 'service=~"billing|points|parking"'), "{{service}}")
        ),
    ]
    audits = " and ".join(f"`linli ledger audit {name}`" for name in _keepers())
    books = [
        *_ledger(""),
        prose(
            "Are the books sound?",
            f"{audits} checks on the live database what must always hold, and names the first rows that break it.",
            width=8,
            height=8,
        ),
    ]
    rows = [("Payments", payments), ("Facts about money", facts), ("Ledgers", books)]
    return render("linli-money", "Linli: money", "Payments, reconciliation and ledgers", rows)


def _keepers() -> Sequence[str]:
    return [service.name for service in catalog.find(["all"]) if ledger.MIGRATIONS in service.migrations]


def _ledger(where: str) -> list[Panel]:
    return [
        graph(
            "Requests in one commit",
            COUNT,
            *((quantile(share, "linli_ledger_group_size", "service", where), f"{{{{service}}}} {share:.0%}") for share in (0.5, 0.99)),
        ),
        graph("Commits", PER_SECOND, (rate("linli_ledger_group_size_count", "service", where), "{{service}}")),
    ]


def _service(service: Service) -> str:
    name = service.name
    rows = [
        ("Requests", [*_calls(service), *_http(service)]),
        ("Events", _events(service)),
        ("Timers and jobs", _work(service)),
        ("Ledger", _ledger(f'service="{name}"') if name in _keepers() else []),
        ("Its own", list(_own(name))),
        ("Database and broker", _servers(service)),
        ("What it declares", [prose(f"services/{name}/service.py", "\n".join(_table_of_contents(service)), height=12)]),
    ]
    return render(f"linli-service-{name}", f"Linli: {name}", f"The service {name}, by its declaration", rows)


def _calls(service: Service) -> list[Panel]:
    if service.api is None:
        return []
    where = f'method=~"/{service.api.contract.full_name}/.+"'
    return [
        graph("Calls", PER_SECOND, (rate("linli_rpc_seconds_count", "method", where), "{{method}}")),
        graph(
            "Calls that were not answered OK",
            PER_SECOND,
            (rate("linli_rpc_seconds_count", "method, status", f'{where},status!="OK"'), "{{method}} {{status}}"),
        ),
        graph("Calls, 99th percentile", SECONDS, (quantile(0.99, "linli_rpc_seconds", "method", where), "{{method}}")),
    ]


def _http(service: Service) -> list[Panel]:
    if service.http is None:
        return []
    where = f'service="{service.name}"'
    return [
        graph("HTTP", PER_SECOND, (rate("linli_http_seconds_count", "method, route", where), "{{method}} {{route}}")),
        graph(
            "HTTP, errors",
            PER_SECOND,
            (rate("linli_http_seconds_count", "route, status", f'{where},status=~"[45].."'), "{{route}} {{status}}"),
        ),
        graph("HTTP, 99th percentile", SECONDS, (quantile(0.99, "linli_http_seconds", "route", where), "{{route}}")),
    ]


def _events(service: Service) -> list[Panel]:
    panels = []
    if service.consumes:
        where = f'consumer=~"{service.name}-.+"'
        panels += [
            graph("Events", PER_SECOND, (rate("linli_event_seconds_count", "consumer, outcome", where), "{{consumer}} {{outcome}}")),
            graph(
                "From publishing to handling, 99th percentile",
                SECONDS,
                (quantile(0.99, "linli_event_lag_seconds", "consumer", where), "{{consumer}}"),
            ),
            graph("Handling, 99th percentile", SECONDS, (quantile(0.99, "linli_event_seconds", "consumer", where), "{{consumer}}")),
        ]
        if any(consumption.mode != "live" for consumption in service.consumes):
            panels += [
                graph("Waiting", COUNT, (highest("linli_consumer_pending", "consumer", where), "{{consumer}}")),
                graph("Sent and not answered", COUNT, (highest("linli_consumer_unacknowledged", "consumer", where), "{{consumer}}")),
                graph("Given up", PER_SECOND, (rate("linli_dead_letters_total", "consumer", where), "{{consumer}}")),
            ]
    if service.publishes:
        where = f'service="{service.name}"'
        panels += [
            graph("Published", PER_SECOND, (rate("linli_outbox_sent_total", "service", where), "published")),
            graph("Outbox", COUNT, (highest("linli_outbox_unsent", "service", where), "unsent")),
            graph("Age of the oldest unsent event", SECONDS, (highest("linli_outbox_age_seconds", "service", where), "age")),
        ]
    return panels


def _work(service: Service) -> list[Panel]:
    panels = []
    if service.timers:
        panels.append(
            graph(
                "Timers late, 95th percentile",
                SECONDS,
                (quantile(0.95, "linli_timer_late_seconds", "timer", f'timer=~"{service.name}-.+"'), "{{timer}}"),
            )
        )
    if service.timers or service.jobs:
        where = f'job=~"{service.name}-.+"'
        panels += [
            graph("Runs", PER_SECOND, (rate("linli_job_seconds_count", "job, outcome", where), "{{job}} {{outcome}}")),
            graph("Runs, 99th percentile", SECONDS, (quantile(0.99, "linli_job_seconds", "job", where), "{{job}}")),
        ]
    return panels


def _own(name: str) -> Iterator[Panel]:
    for metric in own_metrics(name):
        (described,) = metric.describe()
        labels = labels_of(metric)
        legend = " ".join(f"{{{{{label}}}}}" for label in labels) or described.name
        by = ", ".join(labels)
        title = described.documentation.partition(";")[0]
        if described.type == "histogram":
            query = quantile(0.99, described.name, by)
            yield graph(f"{title}, 99th percentile", SECONDS if described.name.endswith("_seconds") else COUNT, (query, legend))
        elif described.type == "counter":
            yield graph(title, PER_SECOND, (rate(f"{described.name}_total", by), legend))
        else:
            yield graph(title, COUNT, (highest(described.name, by or "namespace"), legend))


def own_metrics(name: str) -> Sequence[MetricWrapperBase]:
    """What a service measures beside what every process does, by name."""
    package = importlib.import_module(f"services.{name}")
    modules = [importlib.import_module(found.name) for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    shared = {id(value) for value in vars(metrics).values()}
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, MetricWrapperBase)}
    return sorted((metric for key, metric in found.items() if key not in shared), key=lambda metric: next(iter(metric.describe())).name)


def _servers(service: Service) -> list[Panel]:
    where = f'service="{service.name}"'
    panels = [graph("Connected to NATS", SHARE, (f"avg(linli_nats_connected{{{WHERE},{where}}})", "processes"), share_of_one=True)]
    if service.migrations:
        panels += [
            graph(
                "Connections",
                COUNT,
                (f"sum(linli_database_connections_in_use{{{WHERE},{where}}})", "in use"),
                (f"sum(linli_database_connections_max{{{WHERE},{where}}})", "of"),
            ),
            graph("Waiting for a connection, 99th percentile", SECONDS, (quantile(0.99, "linli_database_wait_seconds", "", where), "wait")),
        ]
    return panels


def _table_of_contents(service: Service) -> Iterator[str]:
    if service.api is not None:
        yield (
            f"**Calls** `{service.api.contract.full_name}`: "
            + ", ".join(f"`{method.name}`" for method in service.api.contract.methods)
            + "\n"
        )
    if service.publishes:
        yield "**Publishes** " + ", ".join(f"`{message.DESCRIPTOR.name}`" for message in service.publishes) + "\n"
    for consumption in service.consumes:
        yield f"- hears `{consumption.event.name.rpartition('.')[2]}`: `{service.name}-{consumption.name}`"
    for job in service.jobs:
        yield f"- every {_duration(job)}: `{service.name}-{job.run.__name__}`"
    for timer in service.timers:
        yield f"- timer `{service.name}-{timer.kind}`"


def _duration(job: Job) -> str:
    return f"{job.every_s / 60:g} min" if job.every_s >= 60 else f"{job.every_s:g} s"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    made = dashboards()
    for stale in FOLDER.glob("*.json"):
        if stale.name not in made:
            stale.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
