"""The chart as operators use it: values, switches, upgrades; what its containers run, and what is handed to them."""

import base64
import gzip
import json
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from click import UsageError

from console import catalog, secrets
from console.main import main
from infra.local.nats import executable
from services.gateway.blobs import _UPLOAD_S as UPLOAD_S
from tests.deploy import kinds, policies
from tests.deploy.manifests import PROFILES, mounted_files, mounted_secrets, name, of_kind, pods, profile, rendered
from tools import chart
from tools.chart import Document

SERVICES = catalog.find(["all"])
MADE = secrets.installation(secrets.Secrets(), secrets.Postgres("linli-postgres"), "13800000000", with_superuser=True)


@pytest.mark.parametrize("values", PROFILES)
def test_every_object_is_what_its_kind_asks_for(values: str) -> None:
    judged = [(document, chart.validate(document), kinds.problem(document)) for document in profile(values)]
    assert not [problem for _, *problems in judged for problem in problems if problem]


@pytest.mark.parametrize(
    ("kind", "field"),
    [("Deployment", "minReadySecond"), ("ScaledObject", "maxReplicas"), ("HTTPRoute", "hosts"), ("Certificate", "dnsName")],
)
def test_a_misspelt_field_is_seen(kind: str, field: str) -> None:
    document = of_kind(profile("city"), kind)[0]
    misspelt = {**document, "spec": {**document["spec"], field: 1}}
    assert chart.validate(misspelt) or kinds.problem(misspelt)


@pytest.mark.parametrize("values", chart.PROFILES)
def test_the_committed_manifests_are_what_the_chart_renders(values: str) -> None:
    committed = (chart.RENDERED / f"{values}.yaml").read_text(encoding="utf-8")
    assert committed == chart.render(chart.PROFILES[values]), "run `make chart` and look at the difference"


@pytest.mark.parametrize(
    "setting",
    [
        "service.parking.replicas=2",
        "services.parking.replica=2",
        "services.parking.resources.limits.cpus=2",
        "services.Parking.replicas=2",
        "defaults.serves={parking}",
        "services.nats.replicas=1",
        "services.nothing-else.serves={parking}",
        "image.tag=latest",
        "image.repository=linli:latest",
        "image.digest=sha256:short",
        "settings.LINLI_PARKING_GATE_KEY=c2VjcmV0",
        "settings.LINLI_PARKING_DATABASE_URL=postgresql://a:b@c/d",
        "nats.url=nats://user:password@nats:4222",
        "secrets.source=vault",
        "eval.nats.image=nats:latest",
        "services.parking.autoscaling.enabled=true",
        "networkPolicy.prometheus=null,networkPolicy.prometheuses=[]",
        "networkPolicy.dns[0].podSelector.matchLabel.k8s-app=kube-dns",
    ],
)
def test_values_that_nobody_knows_are_refused(setting: str) -> None:
    with pytest.raises(chart.ChartError, match="values don't meet the specifications of the schema"):
        rendered(setting)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["services.identity=null"], "no workload serves identity"),
        (["services.all.serves={all}"], "and so does another"),
        (["services.parking.serves={parks}"], "no such service"),
        (["eval.enabled=false"], "is needed"),
        (["tls.enabled=true"], "eval.enabled=false"),
        (["secrets.source=external", "secrets.external.store=linli"], "provision"),
        (["edge.gateway.ingress.enabled=true"], "host is needed"),
        (["services.billing.serves={points}", "services.points.serves={billing}"], "is the name of a service"),
        (
            [f"services.waste.autoscaling.{each}" for each in ("enabled=true", "minReplicas=3", "maxReplicas=2", "cpuPercent=70")],
            "maxReplicas",
        ),
    ],
)
def test_values_that_cannot_be_together_are_refused_with_the_reason(settings: list[str], why: str) -> None:
    with pytest.raises(chart.ChartError, match=why):
        rendered(*settings)


def test_a_service_that_is_off_leaves_nothing_behind() -> None:
    ours = rendered("services.parking=null", "services.points.enabled=false")
    for document in ours:
        if document["kind"] != "Role":  # One that may be switched on has its secrets already.
            text = json.dumps({key: value for key, value in document.items() if key != "kind"}).replace("--without=", "")
            assert "linli-parking" not in text, name(document)
            assert "linli-points" not in text, name(document)
    assert not [problem for policy in policies.ALL for problem in policy(ours)]
    (smoke,) = [pod for pod in pods(ours) if pod.component == "smoke"]
    assert {"--without=parking", "--without=points"} <= set(smoke.spec["containers"][0]["args"])


def test_a_community_begins_with_doors_and_repairs_in_one_process() -> None:
    ours = rendered("services.all.serves={gateway,identity,ingest,access,workorders}", values="small")
    (process,) = of_kind(ours, "Deployment")
    assert process["spec"]["template"]["spec"]["containers"][0]["args"] == [
        "serve",
        "gateway",
        "identity",
        "ingest",
        "access",
        "workorders",
    ]
    (pod,) = [pod for pod in pods(ours) if pod.owner is process]
    assert mounted_secrets(pod) == {f"linli-{service}" for service in ("gateway", "identity", "ingest", "access", "workorders")}
    migrations = {pod.spec["containers"][0]["args"][1] for pod in pods(ours) if pod.spec["containers"][0]["args"][0] == "migrate"}
    assert migrations == {"identity", "ingest", "access", "workorders"}


@pytest.mark.parametrize(
    "settings",
    [
        [
            *("edge.gateway.ingress.enabled=true", "edge.gateway.host=api.example", "edge.gateway.ingress.tlsSecret=api"),
            *("mqtt.service.type=LoadBalancer", "mqtt.route.enabled=true", "mqtt.route.parents[0].name=edge"),
            *("blobs.url=s3://bucket/pictures", "blobs.credentialsSecret=linli-blobs"),
            *("metrics.rules.enabled=true", "metrics.dashboards.enabled=true", "metrics.serviceMonitor.enabled=true"),
            *("image.digest=sha256:" + "0" * 64, "image.pullSecrets={registry}"),
        ],
        [
            *("mqtt.enabled=false", "networkPolicy.enabled=false", "bootstrap=false"),
            *("blobs.volume.accessMode=ReadWriteMany", "services.parking.replicas=3"),
            *("secrets.source=existing", "services.parking.existingSecret=parking", "services.parking.existingOwnerSecret=parking-owner"),
        ],
        [
            *("services.parking.autoscaling.enabled=true", "services.gateway.replicas=2"),
            *(f"services.parking.autoscaling.{each}" for each in ("minReplicas=1", "maxReplicas=3", "cpuPercent=70", "pending=9")),
        ],
    ],
    ids=lambda settings: settings[0],
)
def test_what_may_be_chosen_keeps_the_policies_too(settings: list[str]) -> None:
    ours = rendered(*settings)
    assert not [problem for document in ours for problem in (chart.validate(document), kinds.problem(document)) if problem]
    assert not [problem for policy in policies.ALL for problem in policy(ours)]


def test_the_edge_waits_for_an_upload_as_long_as_the_gateway_does() -> None:
    edge = yaml.safe_load((chart.CHART / "values.yaml").read_text(encoding="utf-8"))["edge"]["gateway"]
    assert int(edge["route"]["timeout"].removesuffix("s")) > UPLOAD_S


def test_a_chart_of_charts_may_hold_this_one(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: estate\nversion: 1.0.0\n")
    (tmp_path / "values.yaml").write_text("linli: {services: {parking: {replicas: 2}}}\n")
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "linli").symlink_to(chart.CHART)
    ours = chart.documents(chart.render(folder=tmp_path))
    assert {document["metadata"]["name"] for document in of_kind(ours, "PodDisruptionBudget")} == {"linli-parking"}


def test_a_secret_that_exists_is_nobodys_to_fetch() -> None:
    ours = rendered("services.parking.existingSecret=mine", "services.parking.existingOwnerSecret=mine-too", values="city")
    assert {"mine", "mine-too"} <= {secret for pod in pods(ours) for secret in mounted_secrets(pod)}
    assert not {"mine", "mine-too"} & {document["spec"]["target"]["name"] for document in of_kind(ours, "ExternalSecret")}


def _jobs(documents: list[Document]) -> set[str]:
    return {document["metadata"]["name"] for document in of_kind(documents, "Job") if "annotations" not in document["metadata"]}


def test_a_job_that_was_done_is_another_job_only_when_it_does_something_else() -> None:
    before, other_image, other_size = rendered(), rendered("image.tag=9.9.9"), rendered("services.parking.replicas=3")
    assert len(_jobs(before)) == 1 + sum(bool(service.migrations) for service in SERVICES)
    assert not _jobs(before) & _jobs(other_image)
    assert _jobs(before) == _jobs(other_size)


def test_a_setting_that_changes_starts_the_processes_again_that_read_it() -> None:
    def checksums(*settings: str) -> dict[str, str]:
        return {
            document["metadata"]["name"]: document["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
            for document in of_kind(rendered(*settings), "Deployment")
        }

    before, own, shared = (
        checksums(),
        checksums("services.parking.settings.LINLI_PARKING_ABANDONED_AFTER_DAYS=9"),
        checksums("stop.drain=30"),
    )
    assert {name for name in before if own[name] != before[name]} == {"linli-parking"}
    assert {name for name in before if shared[name] != before[name]} == set(before)


def test_migrations_are_over_before_anything_of_a_release_with_servers_of_its_own_changes() -> None:
    jobs = [document for document in of_kind(profile("city"), "Job") if document["metadata"]["name"].startswith("linli-migrate-")]
    assert len(jobs) == sum(bool(service.migrations) for service in SERVICES)
    assert {job["metadata"]["annotations"]["helm.sh/hook"] for job in jobs} == {"pre-install,pre-upgrade"}


def test_a_migration_has_its_owners_address_alone_and_the_superusers_only_before() -> None:
    (pod,) = [pod for pod in pods(profile("evaluation")) if pod.owner["metadata"]["name"].startswith("linli-migrate-parking")]
    mounted = {container["name"]: mounted_files(pod, container, "/run/secrets/linli") for container in pod.containers}
    assert mounted == {"provision": {"linli-parking-owner", "linli-parking", "linli-postgres"}, "migrate": {"linli-parking-owner"}}


@pytest.mark.parametrize("values", PROFILES)
def test_the_operator_is_made_with_the_settings_that_identity_has(values: str) -> None:
    sources = {pod.component: pod.spec["containers"][0]["envFrom"] for pod in pods(profile(values)) if pod.owner["kind"] == "Deployment"}
    (making,) = [container for pod in pods(profile(values)) for container in pod.containers if container["name"] == "bootstrap"]
    assert making["envFrom"] == (sources.get("identity") or sources["all"])


@pytest.mark.parametrize("values", ["evaluation", "small"])
def test_every_secret_that_is_mounted_is_made_and_whoever_makes_them_may_write_these(values: str) -> None:
    names = {f"linli-{each}" for each in MADE}
    assert {secret for pod in pods(profile(values)) for secret in mounted_secrets(pod)} <= names
    (role,) = of_kind(profile(values), "Role")
    writable = next(set(rule["resourceNames"]) for rule in role["rules"] if rule["verbs"] == ["patch"])
    assert writable == names | {"linli-installation"}


def test_every_secret_that_a_city_mounts_is_fetched_issued_or_named_in_its_surroundings() -> None:
    documents = profile("city")
    there = {document["spec"]["target"]["name"] for document in of_kind(documents, "ExternalSecret")}
    there |= {document["spec"]["secretName"] for document in of_kind(documents, "Certificate")}
    there |= {"linli-blobs", "linli-postgres-ca"}
    assert {secret for pod in pods(documents) for secret in mounted_secrets(pod)} <= there


def test_a_process_has_a_certificate_with_every_name_it_is_called_by() -> None:
    ours = rendered("services.parking.enabled=false", "services.billing.serves={billing,parking}", values="city")
    addresses = {document["metadata"]["name"]: document["data"] for document in of_kind(ours, "ConfigMap")}
    shared = addresses["linli-settings"]
    assert shared["LINLI_SERVICE_ADDRESS"] == "dns:///linli-{service}:7000"
    for pod in pods(ours):
        if pod.owner["kind"] == "Deployment":
            (certificate,) = [each for each in of_kind(ours, "Certificate") if each["metadata"]["name"] == f"linli-{pod.component}"]
            served = [service for service in SERVICES if service.name in pod.spec["containers"][0]["args"] and service.api]
            assert {f"linli-{service.name}" for service in served} <= set(certificate["spec"]["dnsNames"])
            assert {addresses[f"linli-{pod.component}"][f"LINLI_{service.name.upper()}_ADDRESS"] for service in served} <= {
                "127.0.0.1:7000"
            }
            assert certificate["spec"]["ipAddresses"] == ["127.0.0.1"]
            assert certificate["spec"]["secretName"] in mounted_secrets(pod)
            assert shared["LINLI_TLS_FOLDER"] in {mount["mountPath"] for mount in pod.spec["containers"][0]["volumeMounts"]}


def test_every_service_is_found_under_the_name_that_callers_use() -> None:
    for values in ("evaluation", "small", "city"):
        # With those that are not ready yet: callers ask each themselves whether it is well, and know of a new one the sooner.
        headless = {
            each["metadata"]["name"]
            for each in of_kind(profile(values), "Service")
            if each["spec"].get("clusterIP") == "None" and each["spec"].get("publishNotReadyAddresses")
        }
        assert {f"linli-{service.name}" for service in SERVICES if service.api} <= headless


def test_the_chart_is_of_the_version_that_it_installs() -> None:
    project = tomllib.loads((chart.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    description = yaml.safe_load((chart.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert description["appVersion"] == project["version"]
    assert {pod.spec["containers"][0]["image"] for pod in pods(profile("small")) if pod.component == "all"} == {
        f"linli:{project['version']}"
    }


@pytest.mark.parametrize("values", PROFILES)
def test_containers_run_commands_that_exist_with_options_that_they_take(values: str) -> None:
    group = typer.main.get_command(main)
    assert isinstance(group, typer.core.TyperGroup)
    for pod in pods(profile(values)):
        for container in pod.containers:
            if container["name"] in ("postgres", "nats"):
                continue
            command, *arguments = container["args"]
            try:
                group.commands[command].make_context(command, arguments)
            except (KeyError, UsageError) as error:
                raise AssertionError(f"{name(pod.owner)}: {container['args']}: {error}") from error


def test_nats_takes_its_configuration_with_the_accounts_that_are_made_for_it(tmp_path: Path) -> None:
    (configuration,) = [
        document for document in of_kind(profile("evaluation"), "ConfigMap") if document["metadata"]["name"] == "linli-nats"
    ]
    text = configuration["data"]["nats.conf"].replace("/data", str(tmp_path / "data"))
    (tmp_path / "nats.conf").write_text(text)
    (tmp_path / "accounts.conf").write_text(MADE["nats"]["accounts.conf"])
    judged = subprocess.run([executable(), "-t", "-c", tmp_path / "nats.conf"], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stderr


def test_a_release_fits_into_the_secret_that_helm_keeps_it_in() -> None:
    # gzip and base64 of chart, values and manifests; Kubernetes takes one megabyte.
    everything = [path.read_bytes() for path in chart.CHART.rglob("*") if path.is_file()]
    linked = [path.read_bytes() for folder in ("rules", "dashboards") for path in (chart.CHART / "files" / folder).iterdir()]
    manifests = chart.render(PROFILES["production"]).encode()
    assert len(base64.b64encode(gzip.compress(base64.b64encode(b"".join([*everything, *linked])) + manifests))) < 900_000
