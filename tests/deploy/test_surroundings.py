"""infra/kubernetes: what stands around the chart in a city fits the chart and the services."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from console import catalog
from infra.local.nats import CONFIGURATION
from servicekit import database
from servicekit.config import DatabaseSettings
from tests.deploy import kinds, policies
from tests.deploy.manifests import Pod, mounted_secrets, of_kind, pods, profile
from tools import chart

FOLDER = chart.ROOT / "infra" / "kubernetes"
VALUES = {"nats.yaml", "values-production.yaml"}
MANIFESTS = sorted(path for path in FOLDER.glob("*.yaml") if path.name not in VALUES)


def _documents(file: Path) -> list[dict[str, Any]]:
    return chart.documents(file.read_text(encoding="utf-8"))


def _find(file: str, kind: str) -> dict[str, Any]:
    (found,) = [document for document in _documents(FOLDER / file) if document["kind"] == kind]
    return found


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_every_object_is_what_its_kind_asks_for(file: Path) -> None:
    documents = _documents(file)
    assert documents
    assert not [problem for document in documents for problem in (chart.validate(document), kinds.problem(document)) if problem]


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_pods_of_the_surroundings_are_confined_as_those_of_the_chart(file: Path) -> None:
    documents = _documents(file)
    asked = (
        policies.pods_pass_the_restricted_profile,
        policies.images_are_of_one_version,
        policies.everything_has_a_limit,
        policies.nobody_holds_a_token_who_needs_none,
        policies.secrets_are_mounted_and_never_written,
        policies.settings_are_known,
    )
    assert not [problem for policy in asked for problem in policy(documents)]


def test_what_is_run_by_hand_years_later_has_certificates_that_were_renewed_meanwhile() -> None:
    # What a hook asks for is forgotten when the hook is over, and its certificate ends.
    lasting = {each["spec"]["secretName"] for each in of_kind(profile("city"), "Certificate") if "annotations" not in each["metadata"]}
    shown = {secret for file in MANIFESTS for pod in pods(_documents(file)) for secret in mounted_secrets(pod) if secret.endswith("-tls")}
    assert shown
    assert shown <= lasting


def test_the_namespace_refuses_pods_that_are_not_restricted() -> None:
    assert _find("namespace.yaml", "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_pooler_carries_what_services_prepare_and_the_server_has_what_they_ask_for_at_start() -> None:
    pooler, server = _find("postgres.yaml", "Pooler")["spec"]["pgbouncer"], _find("postgres.yaml", "Cluster")["spec"]
    source = Path(database.__file__).read_text(encoding="utf-8")
    ignored = set(pooler["parameters"]["ignore_startup_parameters"].split(","))
    for name in ("jit", "client_connection_check_interval", "idle_in_transaction_session_timeout"):
        assert f'"{name}"' in source
        assert name in ignored
        assert f'"{name}": "{server["postgresql"]["parameters"][name]}"' in source
    assert pooler["poolMode"] == "transaction"
    assert int(pooler["parameters"]["max_prepared_statements"]) > 0
    assert _find("postgres.yaml", "Pooler")["metadata"]["name"] in server["certificates"]["serverAltDNSNames"]


def _connections(documents: Any, *, most: bool) -> int:
    """What the pools of all replicas take of PostgreSQL, at their most or as they begin."""
    replicas = {each["metadata"]["name"]: each["spec"].get("replicas", 0) for each in of_kind(documents, "Deployment")}
    for scaler in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject"):
        least, greatest = (scaler["spec"].get(f"{end}Replicas") or scaler["spec"].get(f"{end}ReplicaCount") for end in ("min", "max"))
        replicas[scaler["spec"]["scaleTargetRef"]["name"]] = greatest if most else least
    settings = {each["metadata"]["name"]: each["data"] for each in of_kind(documents, "ConfigMap")}
    pool = int(settings["linli-settings"].get("LINLI_DATABASE_POOL_SIZE", DatabaseSettings(database_url="").database_pool_size))
    databases = {pod.owner["metadata"]["name"]: _databases(pod) for pod in pods(documents) if pod.owner["kind"] == "Deployment"}
    return sum(count * databases[name] * pool for name, count in replicas.items())


def _databases(pod: Pod) -> int:
    return sum(bool(service.migrations) for service in catalog.find(pod.spec["containers"][0]["args"][1:]))


# Migrations, the superuser's, and what looks after the server.
_OTHERS = 25


@pytest.mark.parametrize("values", ["evaluation", "small"])
def test_a_server_of_ones_own_has_connections_for_what_goes_and_what_comes(values: str) -> None:
    (server,) = [pod for pod in pods(profile(values)) if pod.component == "postgres"]
    (allowed,) = [argument for argument in server.spec["containers"][0]["args"] if argument.startswith("max_connections=")]
    assert 2 * _connections(profile(values), most=True) + _OTHERS <= int(allowed.partition("=")[2])


def test_a_citys_server_has_connections_for_all_replicas_for_a_rollout_and_for_the_pooler() -> None:
    allowed = int(_find("postgres.yaml", "Cluster")["spec"]["postgresql"]["parameters"]["max_connections"])
    assert _connections(profile("city"), most=True) + _OTHERS <= allowed
    assert 2 * _connections(profile("city"), most=False) + _OTHERS <= allowed
    pooler = _find("postgres.yaml", "Pooler")["spec"]
    databases = sum(bool(service.migrations) for service in catalog.find(["all"]))
    assert pooler["instances"] * databases * int(pooler["pgbouncer"]["parameters"]["default_pool_size"]) + _OTHERS <= allowed


def test_nats_is_called_has_users_and_takes_messages_as_the_services_expect() -> None:
    values = yaml.safe_load((FOLDER / "nats.yaml").read_text(encoding="utf-8"))
    city = yaml.safe_load((chart.CHART / "values-city.yaml").read_text(encoding="utf-8"))
    assert city["nats"]["url"] == f"tls://{values['fullnameOverride']}:4222"
    assert city["mqtt"]["targetPort"] == values["config"]["mqtt"]["port"]
    assert int(city["settings"]["LINLI_STREAM_REPLICAS"]) == values["config"]["cluster"]["replicas"]
    assert "max_payload: 8MB" in CONFIGURATION
    assert values["config"]["merge"]["max_payload"] == "<< 8MB >>"
    assert values["config"]["nats"]["tls"]["merge"]["handshake_first"] is True
    certificate = next(document for document in _documents(FOLDER / "issuers.yaml") if document["metadata"]["name"] == "linli-broker")
    assert values["fullnameOverride"] in certificate["spec"]["dnsNames"]


def test_every_broker_refuses_what_it_would_keep_for_a_device_without_end() -> None:
    city = yaml.safe_load((FOLDER / "nats.yaml").read_text(encoding="utf-8"))
    assert city["config"]["mqtt"]["merge"]["reject_qos2_publish"] is True
    machine = (chart.ROOT / "infra" / "systemd" / "nats.conf").read_text(encoding="utf-8")
    for text in (machine, *(yaml.safe_dump(profile(name), width=10_000) for name in ("evaluation", "small"))):
        assert "reject_qos2_publish: true" in text


def test_the_secrets_that_the_chart_does_not_fetch_are_fetched_here_or_made_by_an_operator() -> None:
    here = {document["spec"]["target"]["name"] for document in _documents(FOLDER / "secrets.yaml") if document["kind"] == "ExternalSecret"}
    fetched = {document["metadata"]["name"] for document in profile("city") if document["kind"] == "ExternalSecret"}
    issued = {document["spec"]["secretName"] for document in profile("city") if document["kind"] == "Certificate"}
    by_operator = {f"{_find('postgres.yaml', 'Cluster')['metadata']['name']}-ca"}
    assert {secret for pod in pods(profile("city")) for secret in mounted_secrets(pod)} <= here | fetched | issued | by_operator
    assert not here & fetched
