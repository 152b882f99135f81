"""PromQL held against what the processes really measure: metrics, labels, buckets, and the values that are declared.

`labels_of` says which labels a query's result has, and raises WrongQuery for a metric or label that does not exist, for a value that
nothing declared has, and for two sides that can never match. `recorded` holds what rules record.
"""

import importlib
import math
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import promql_parser as ast
import yaml
from prometheus_client import REGISTRY

import services
from console import catalog
from tools import metrics_catalogue
from tools.dashboards import ROOT

RULES: Final = sorted((ROOT / "infra" / "observability" / "rules").glob("*.yaml"))
# What Prometheus adds to everything that it scrapes.
_TARGET: Final = frozenset(("namespace", "pod", "instance", "job"))
# What others measure: Prometheus itself, kube-state-metrics, the kubelet, cert-manager, CloudNativePG and its plugin for backups.
_FOREIGN: Final = {
    "up": (),
    "ALERTS": ("alertname", "alertstate", "severity"),
    "kube_deployment_spec_replicas": ("deployment",),
    "kube_deployment_status_replicas_available": ("deployment",),
    "kube_job_status_failed": ("job_name", "reason"),
    "kubelet_volume_stats_available_bytes": ("persistentvolumeclaim",),
    "kubelet_volume_stats_capacity_bytes": ("persistentvolumeclaim",),
    "certmanager_certificate_expiration_timestamp_seconds": ("name",),
    "cnpg_collector_last_available_backup_timestamp": (),
    "barman_cloud_cloudnative_pg_io_last_available_backup_timestamp": (),
    "cnpg_collector_pg_wal_archive_status": ("value",),
}
_SETS: Final = ("and", "or", "unless")
_KEEPING: Final = ("topk", "bottomk", "sort", "sort_desc")
Labels = frozenset[str]


class WrongQuery(AssertionError):
    """A query asks for what is not measured."""


@cache
def measured() -> Mapping[str, Any]:
    """The collector behind each name that a process with all services exposes."""
    catalog.find(["all"])
    for module in pkgutil.walk_packages(services.__path__, "services."):
        importlib.import_module(module.name)
    return dict(REGISTRY._names_to_collectors)


@cache
def declared() -> Mapping[str, frozenset[str]]:
    """The values that some labels can have, from the services' declarations."""
    every = catalog.find(["all"])
    timers = {f"{service.name}-{timer.kind}" for service in every for timer in service.timers}
    return {
        "service": frozenset(catalog.SERVICES),
        "consumer": frozenset(f"{service.name}-{consumption.name}" for service in every for consumption in service.consumes),
        "timer": frozenset(timers),
        "job": frozenset(timers | {f"{service.name}-{job.run.__name__}" for service in every for job in service.jobs}),
        "method": frozenset(
            f"/{service.api.contract.full_name}/{method.name}"
            for service in every
            if service.api
            for method in service.api.contract.methods
        ),
    }


@cache
def recorded() -> Mapping[str, Labels]:
    """The labels of what the rules record."""
    known: dict[str, Labels] = {}
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    known[rule["record"]] = labels_of(rule["expr"], known) | frozenset(rule.get("labels", ()))
    return known


def metrics_in(query: str) -> frozenset[str]:
    """The names of all series that a query reads."""
    found: set[str] = set()

    def visit(expression: Any) -> None:
        if isinstance(expression, ast.VectorSelector) and expression.name:
            found.add(expression.name)

    ast.walk(ast.parse(query), visit)
    return frozenset(found)


def labels_of(query: str, records: Mapping[str, Labels] | None = None) -> Labels:
    """The labels of a query's result. Raises WrongQuery, and ValueError when it is no PromQL."""
    labels = _infer(ast.parse(query), recorded() if records is None else records)
    return frozenset() if labels is None else labels


def _infer(expression: Any, records: Mapping[str, Labels]) -> Labels | None:
    """None for a scalar or a text."""
    match expression:
        case ast.NumberLiteral() | ast.StringLiteral():
            return None
        case ast.VectorSelector():
            return _select(expression, records)
        case ast.MatrixSelector():
            return _select(expression.vector_selector, records)
        case ast.ParenExpr() | ast.UnaryExpr() | ast.SubqueryExpr():
            return _infer(expression.expr, records)
        case ast.Call():
            return _call(expression, records)
        case ast.AggregateExpr():
            return _aggregate(expression, records)
        case ast.BinaryExpr():
            return _combine(expression, records)
    raise WrongQuery(f"{type(expression).__name__} is not known here")


def _select(selector: ast.VectorSelector, records: Mapping[str, Labels]) -> Labels:
    matchers = [matcher for matcher in selector.matchers.matchers if matcher.name != "__name__"]
    names = [selector.name] if selector.name else next(m.value for m in selector.matchers.matchers if m.name == "__name__").split("|")
    labels = frozenset[str]().union(*(_labels_of_metric(name, records) for name in names))
    for matcher in matchers:
        if matcher.name not in labels:
            raise WrongQuery(f"{names} has no label {matcher.name}")
        if matcher.name == "le":
            _require_bucket(names[0], matcher.value)
        elif names[0] in measured() and matcher.name in declared() and not _is_known(matcher, names[0]):
            raise WrongQuery(f"{names}: nothing declares a {matcher.name} {matcher.value}")
    return labels


def _labels_of_metric(name: str, records: Mapping[str, Labels]) -> Labels:
    if name in records:
        return records[name]
    if name in _FOREIGN:
        return _TARGET | frozenset(_FOREIGN[name])
    if name not in measured() or (name.endswith("_created") and not hasattr(measured()[name], "_buckets")):
        raise WrongQuery(f"nothing measures {name}")
    own = metrics_catalogue.labels_of(measured()[name])
    return _TARGET | frozenset(own) | ({"le"} if name.endswith("_bucket") else frozenset())


def _require_bucket(name: str, bound: str) -> None:
    bounds = {str(float(upper)) if upper != math.inf else "+Inf" for upper in measured()[name]._upper_bounds}
    if bound not in bounds:
        raise WrongQuery(f"{name} has no bucket {bound}, only {sorted(bounds)}")


def _is_known(matcher: ast.Matcher, name: str) -> bool:
    # HTTP's methods are others.
    if matcher.name == "method" and not name.startswith("linli_rpc"):
        return True
    values = declared()[matcher.name]
    if matcher.op in (ast.MatchOp.Re, ast.MatchOp.NotRe):
        return any(re.fullmatch(matcher.value, value) for value in values)
    return matcher.value in values


def _call(call: ast.Call, records: Mapping[str, Labels]) -> Labels | None:
    vectors = [labels for labels in (_infer(argument, records) for argument in call.args) if labels is not None]
    name = call.func.name
    if name == "absent":
        return frozenset()
    if name == "label_replace":
        made, source = call.args[1].val, call.args[3].val
        if source not in vectors[0]:
            raise WrongQuery(f"label_replace reads {source}, which is not there")
        return vectors[0] | {made}
    if name == "histogram_quantile":
        if "le" not in vectors[0]:
            raise WrongQuery("histogram_quantile needs le")
        return vectors[0] - {"le"}
    return vectors[0] if vectors else None


def _aggregate(aggregation: ast.AggregateExpr, records: Mapping[str, Labels]) -> Labels:
    inner = _infer(aggregation.expr, records)
    assert inner is not None
    if aggregation.modifier is None:
        return inner if str(aggregation.op) in _KEEPING else frozenset()
    labels = frozenset(aggregation.modifier.labels)
    if labels - inner:
        raise WrongQuery(f"{sorted(labels - inner)} is not there to aggregate by")
    if str(aggregation.op) in _KEEPING:
        return inner
    return labels if aggregation.modifier.type == ast.AggModifierType.By else inner - labels


def _combine(binary: ast.BinaryExpr, records: Mapping[str, Labels]) -> Labels | None:
    left, right = _infer(binary.lhs, records), _infer(binary.rhs, records)
    if left is None or right is None:
        return left if right is None else right
    modifier = binary.modifier
    matching = modifier.matching if modifier else None
    if modifier is None or matching is None:
        if left != right:
            raise WrongQuery(f"{sorted(left)} and {sorted(right)} never match at {binary.op}")
        return left
    labels = frozenset(matching.labels)
    if matching.type == ast.LabelModifierType.Include and labels - (left & right):
        raise WrongQuery(f"{sorted(labels - (left & right))} is not on both sides of {binary.op}")
    if str(binary.op) in _SETS or modifier.card == ast.VectorMatchCardinality.ManyToOne:
        return left | frozenset(modifier.group_labels or ())
    return labels if matching.type == ast.LabelModifierType.Include else left - labels
