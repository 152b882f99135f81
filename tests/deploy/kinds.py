"""What objects of the surroundings' own kinds may hold, as far as the chart and infra/kubernetes use them.

cert-manager's, KEDA's and Prometheus' objects are checked against models made from their publishers' definitions. Of the others no such
package exists, so their fields stand here, written by hand after their documentation: a misspelt or misplaced field is found, a value that
only the operator would refuse is not.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import pydantic
from cloudcoil.models.cert_manager.v1 import Certificate, Issuer
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from msgspec import UNSET, UnsetType

Document = dict[str, Any]
Text = str | UnsetType
Number = int | UnsetType


class _Known(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Refuses what it does not know."""


class Metadata(_Known):
    name: str
    namespace: Text = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    annotations: dict[str, str] | UnsetType = UNSET


class _Object(_Known):
    api_version: str
    kind: str
    metadata: Metadata


class Reference(_Known):
    name: str
    group: Text = UNSET
    kind: Text = UNSET
    namespace: Text = UNSET
    section_name: Text = UNSET
    port: Number = UNSET


class PathMatch(_Known):
    path: dict[str, str]


class HttpRule(_Known):
    matches: list[PathMatch]
    backend_refs: list[Reference]
    timeouts: dict[str, str]


class HttpRouteSpec(_Known):
    parent_refs: list[Reference]
    hostnames: list[str]
    rules: list[HttpRule]


class HttpRoute(_Object):
    spec: HttpRouteSpec


class TcpRule(_Known):
    backend_refs: list[Reference]


class TcpRouteSpec(_Known):
    parent_refs: list[Reference]
    rules: list[TcpRule]


class TcpRoute(_Object):
    spec: TcpRouteSpec


class ListenerTls(_Known):
    mode: str
    certificate_refs: list[Reference]


class Listener(_Known):
    name: str
    port: int
    protocol: str
    hostname: str
    tls: ListenerTls
    allowed_routes: dict[str, Any]


class GatewaySpec(_Known):
    gateway_class_name: str
    listeners: list[Listener]


class Gateway(_Object):
    spec: GatewaySpec


class Extract(_Known):
    key: str


class DataFrom(_Known):
    extract: Extract


class SecretTemplate(_Known):
    type: str


class Target(_Known):
    name: str
    creation_policy: str
    template: SecretTemplate | UnsetType = UNSET


class StoreReference(_Known):
    name: str
    kind: str


class ExternalSecretSpec(_Known):
    refresh_interval: str
    secret_store_ref: StoreReference
    target: Target
    data_from: list[DataFrom]


class ExternalSecret(_Object):
    spec: ExternalSecretSpec


class Plugin(_Known):
    name: str
    is_wal_archiver: bool = msgspec.field(default=False, name="isWALArchiver")
    parameters: dict[str, str] | UnsetType = UNSET


class Initdb(_Known):
    data_checksums: bool
    encoding: str
    locale_collate: str
    locale_c_type: str = msgspec.field(name="localeCType")
    locale_provider: str
    builtin_locale: str


class Bootstrap(_Known):
    initdb: Initdb


class Synchronous(_Known):
    method: str
    number: int
    data_durability: str


class Postgresql(_Known):
    synchronous: Synchronous
    parameters: dict[str, str]


class PostgresCertificates(_Known):
    server_alt_dns_names: list[str] = msgspec.field(name="serverAltDNSNames")


class Size(_Known):
    size: str


class PostgresAffinity(_Known):
    enable_pod_anti_affinity: bool
    pod_anti_affinity_type: str
    topology_key: str


class PostgresMonitoring(_Known):
    enable_pod_monitor: bool


class Catalog(_Known):
    api_group: str
    kind: str
    name: str
    major: int


class ClusterSpec(_Known):
    instances: int
    image_catalog_ref: Catalog
    enable_superuser_access: bool
    superuser_secret: Reference
    bootstrap: Bootstrap
    postgresql: Postgresql
    certificates: PostgresCertificates
    storage: Size
    wal_storage: Size
    resources: dict[str, dict[str, str]]
    affinity: PostgresAffinity
    monitoring: PostgresMonitoring
    plugins: list[Plugin]


class Cluster(_Object):
    spec: ClusterSpec


class Pgbouncer(_Known):
    pool_mode: str
    parameters: dict[str, str]


class PoolerSpec(_Known):
    cluster: Reference
    instances: int
    type: str
    pgbouncer: Pgbouncer


class Pooler(_Object):
    spec: PoolerSpec


class PluginName(_Known):
    name: str


class ScheduledBackupSpec(_Known):
    schedule: str
    immediate: bool
    cluster: Reference
    method: str
    plugin_configuration: PluginName


class ScheduledBackup(_Object):
    spec: ScheduledBackupSpec


class Key(_Known):
    name: str
    key: str


class S3Credentials(_Known):
    access_key_id: Key
    secret_access_key: Key


class Compression(_Known):
    compression: str
    max_parallel: Number = UNSET


class ObjectStoreConfiguration(_Known):
    destination_path: str
    endpoint_url: str = msgspec.field(name="endpointURL")
    s3_credentials: S3Credentials = msgspec.field(name="s3Credentials")
    wal: Compression
    data: Compression


class ObjectStoreSpec(_Known):
    retention_policy: str
    configuration: ObjectStoreConfiguration


class ObjectStore(_Object):
    spec: ObjectStoreSpec


def _published(model: Any) -> Callable[[Document], object]:
    return lambda document: model.model_validate(document, extra="forbid")


def _written(struct: type[_Object]) -> Callable[[Document], object]:
    return lambda document: msgspec.convert(document, struct)


_CHECKS: Mapping[tuple[str, str], Callable[[Document], object]] = MappingProxyType(
    {
        ("cert-manager.io", "Certificate"): _published(Certificate),
        ("cert-manager.io", "Issuer"): _published(Issuer),
        ("keda.sh", "ScaledObject"): _published(ScaledObject),
        ("monitoring.coreos.com", "ServiceMonitor"): _published(ServiceMonitor),
        ("monitoring.coreos.com", "PrometheusRule"): _published(PrometheusRule),
        ("gateway.networking.k8s.io", "HTTPRoute"): _written(HttpRoute),
        ("gateway.networking.k8s.io", "TCPRoute"): _written(TcpRoute),
        ("gateway.networking.k8s.io", "Gateway"): _written(Gateway),
        ("external-secrets.io", "ExternalSecret"): _written(ExternalSecret),
        ("postgresql.cnpg.io", "Cluster"): _written(Cluster),
        ("postgresql.cnpg.io", "Pooler"): _written(Pooler),
        ("postgresql.cnpg.io", "ScheduledBackup"): _written(ScheduledBackup),
        ("barmancloud.cnpg.io", "ObjectStore"): _written(ObjectStore),
    }
)
# Stores of secrets and the edge's own policies differ with what an installation has: examples that nothing here can judge.
UNCHECKED = {("external-secrets.io", "ClusterSecretStore"), ("gateway.envoyproxy.io", "*")}


def problem(document: Document) -> str | None:
    """What its kind has against an object. Kubernetes' own kinds are not judged here. Raises KeyError for a kind that nobody knows."""
    group = document["apiVersion"].rpartition("/")[0]
    if "." not in group or (group.endswith(".k8s.io") and group != "gateway.networking.k8s.io"):
        return None
    if {(group, document["kind"]), (group, "*")} & UNCHECKED:
        return None
    try:
        _CHECKS[group, document["kind"]](document)
    except (pydantic.ValidationError, msgspec.ValidationError) as error:
        return f"{document['kind']} {document['metadata']['name']}: {error}"
    return None
