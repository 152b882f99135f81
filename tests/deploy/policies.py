"""What every object of an installation must be like: each policy takes all objects and says what breaks it."""

import re
from collections.abc import Callable, Iterator, Sequence

from console import catalog
from servicekit import rpc
from tests.deploy.manifests import Pod, mounted_secrets, name, of_kind, pods, selects
from tools import chart
from tools.chart import Document

Documents = Sequence[Document]
Policy = Callable[[Documents], Iterator[str]]
_VOLUMES = {"name", "configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
_SETTINGS = chart.ROOT / "docs" / "settings.md"
# Where a value for a password would be somebody's secret.
_SECRET_NAME = re.compile(r"(PASSWORD|SECRET|TOKEN|SEED|_KEYS?|DATABASE_URL|MIGRATION_URL)$")
_CREDENTIALS = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
# For how long a caller may not have heard of a replica: until it looks the name up again, and while CoreDNS, as kubeadm installs it,
# answers out of its cache.
_UNHEARD_OF_S = rpc.CHANNEL_AGE_S + 30


def _container_names(pod: Pod) -> Iterator[tuple[str, Document]]:
    for container in pod.containers:
        yield f"{name(pod.owner)}/{container['name']}", container


def pods_pass_the_restricted_profile(documents: Documents) -> Iterator[str]:
    """Pod Security Standards, "restricted", and a root that nobody writes to."""
    for pod in pods(documents):
        security = pod.spec["securityContext"]
        if not (security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0):
            yield f"{name(pod.owner)} runs as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name(pod.owner)} has no seccomp profile"
        if shared := {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod.spec):
            yield f"{name(pod.owner)} shares the node's {shared}"
        if foreign := {kind for volume in pod.spec.get("volumes", ()) for kind in volume} - _VOLUMES:
            yield f"{name(pod.owner)} mounts {foreign}"
        for where, container in _container_names(pod):
            wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            if container.get("securityContext") != wanted:
                yield f"{where} is not confined"
            if any("hostPort" in port for port in container.get("ports", ())):
                yield f"{where} takes a port of the node"


def images_are_of_one_version(documents: Documents) -> Iterator[str]:
    """A tag that stays what it is, or a digest."""
    for pod in pods(documents):
        for where, container in _container_names(pod):
            if not re.fullmatch(r"\S+(:\w[\w.-]*|@sha256:[0-9a-f]{64})", container["image"]) or container["image"].endswith(":latest"):
                yield f"{where}: {container['image']}"


def everything_has_a_limit(documents: Documents) -> Iterator[str]:
    """CPU and memory, asked for and at most; and folders in memory or on the node's disk."""
    for pod in pods(documents):
        for where, container in _container_names(pod):
            resources = container.get("resources", {})
            if any({"cpu", "memory"} != set(resources.get(kind, ())) for kind in ("requests", "limits")):
                yield f"{where} has no limits"
        for volume in pod.spec.get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{name(pod.owner)}: {volume['name']} has no limit"


def what_serves_has_probes(documents: Documents) -> Iterator[str]:
    """Each kind, at a port that the container has."""
    for pod in pods(documents):
        if pod.owner["kind"] not in ("Deployment", "StatefulSet"):
            continue
        for where, container in _container_names(pod):
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind, {})
                if "exec" not in probe and probe.get("httpGet", {}).get("port") not in pod.ports:
                    yield f"{where} has no {kind}"


def nobody_holds_a_token_who_needs_none(documents: Documents) -> Iterator[str]:
    """Only the Job that makes secrets speaks to Kubernetes; and no Service becomes a variable that looks like a setting of ours."""
    for pod in pods(documents):
        if pod.spec.get("automountServiceAccountToken") is not (pod.component == "secrets"):
            yield f"{name(pod.owner)}: token"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{name(pod.owner)}: links to Services"


def secrets_are_mounted_and_never_written(documents: Documents) -> Iterator[str]:
    """No value of a variable, argument or ConfigMap is one, by its name or by its form."""
    for document in of_kind(documents, "ConfigMap"):
        for key, value in document["data"].items():
            if _SECRET_NAME.search(key) or _CREDENTIALS.search(value):
                yield f"{name(document)}: {key}"
    for pod in pods(documents):
        for where, container in _container_names(pod):
            for variable in container.get("env", ()):
                value = variable.get("value", "")
                if _SECRET_NAME.search(variable["name"]) or _CREDENTIALS.search(value) or "valueFrom" in variable:
                    yield f"{where}: {variable['name']}"
            yield from (f"{where}: an argument" for argument in container.get("args", ()) if _CREDENTIALS.search(argument))
    yield from (f"{name(document)} is in the chart" for document in of_kind(documents, "Secret"))


def settings_are_known(documents: Documents) -> Iterator[str]:
    """Every LINLI_ variable is in docs/settings.md."""
    text = _SETTINGS.read_text(encoding="utf-8")
    known = set(re.findall(r"LINLI_[A-Z0-9_]+", text))
    of_services = re.findall(r"LINLI_<SERVICE>_([A-Z_]+)", text)
    services = [service.upper() for service in catalog.SERVICES]
    known |= {f"LINLI_{service}_{setting}" for service in services for setting in of_services} | {f"LINLI_{s}" for s in of_services}
    given = {(name(document), key) for document in of_kind(documents, "ConfigMap") for key in document["data"]}
    given |= {(where, variable["name"]) for pod in pods(documents) for where, c in _container_names(pod) for variable in c.get("env", ())}
    yield from (f"{where}: {key}" for where, key in sorted(given) if key.startswith("LINLI_") and key not in known)


def pods_have_time_to_go(documents: Documents) -> Iterator[str]:
    """preStop, lingering and draining end before the kubelet kills; nobody goes before another has come and is known to callers."""
    (shared,) = [document["data"] for document in of_kind(documents, "ConfigMap") if document["metadata"]["name"] == "linli-settings"]
    for document in of_kind(documents, "Deployment"):
        spec = document["spec"]["template"]["spec"]
        pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        serves_s = pause + int(shared["LINLI_LINGER_S"])
        if spec["terminationGracePeriodSeconds"] < serves_s + int(shared["LINLI_DRAIN_S"]) + 5:
            yield f"{name(document)} is killed while it drains"
        if len(of_kind(documents, "Deployment")) > 1 and serves_s < _UNHEARD_OF_S:
            yield f"{name(document)} goes while callers know of nobody else"
        if document["spec"]["strategy"].get("rollingUpdate") != {"maxUnavailable": 0, "maxSurge": 1}:
            yield f"{name(document)} goes before another has come"


def names_are_unique(documents: Documents) -> Iterator[str]:
    """Kubernetes would keep the last one."""
    seen: set[tuple[str, str]] = set()
    for document in documents:
        key = document["kind"], document["metadata"]["name"]
        if key in seen:
            yield name(document)
        seen.add(key)


def selectors_find_their_pods(documents: Documents) -> Iterator[str]:
    """Of controllers, budgets, Services (with their ports) and policies."""
    everybody = list(pods(documents))
    for document in of_kind(documents, "Deployment", "StatefulSet"):
        found = [pod for pod in everybody if selects(document["spec"]["selector"], pod.labels)]
        if [pod.owner for pod in found] != [document]:
            yield f"{name(document)} selects others' pods"
    for document in of_kind(documents, "Service"):
        found = [pod for pod in everybody if selects({"matchLabels": document["spec"]["selector"]}, pod.labels)]
        is_ours = "app.kubernetes.io/component" in document["spec"]["selector"]
        if is_ours and len(found) != 1:
            yield f"{name(document)} selects {len(found)} pods"
        for port in document["spec"]["ports"]:
            target = port["targetPort"]
            if any(target not in (pod.ports if isinstance(target, str) else pod.ports.values()) for pod in found):
                yield f"{name(document)} has no target {target}"
    for document in of_kind(documents, "PodDisruptionBudget"):
        if len([pod for pod in everybody if selects(document["spec"]["selector"], pod.labels)]) != 1:
            yield f"{name(document)} selects nobody"
    for document in of_kind(documents, "NetworkPolicy"):
        if not any(selects(document["spec"]["podSelector"], pod.labels) for pod in everybody):
            yield f"{name(document)} selects nobody"


def scaling_makes_sense(documents: Documents) -> Iterator[str]:
    """Limits in order, no number of replicas beside them, a budget exactly where more than one replica runs and may run elsewhere."""
    least = {document["metadata"]["name"]: document["spec"].get("replicas") for document in of_kind(documents, "Deployment")}
    # A replica that must be on the node that is emptied would wait for those that its budget holds there.
    tied = {each["metadata"]["name"] for each in of_kind(documents, "Deployment") if "affinity" in each["spec"]["template"]["spec"]}
    for document in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject"):
        spec, scaled = document["spec"], document["spec"]["scaleTargetRef"]["name"]
        low, high = (spec.get(f"{end}Replicas", spec.get(f"{end}ReplicaCount")) for end in ("min", "max"))
        if scaled not in least or least[scaled] is not None or not 1 <= low <= high:
            yield name(document)
        least[scaled] = low
    budgets = {document["metadata"]["name"] for document in of_kind(documents, "PodDisruptionBudget")}
    if budgets != {scaled for scaled, replicas in least.items() if replicas is None or replicas > 1} - tied:
        yield f"budgets of {sorted(budgets)}"


def references_lead_somewhere(documents: Documents) -> Iterator[str]:
    """ConfigMaps, accounts, claims and Services that are named are there."""
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for pod in pods(documents):
        wanted = {
            ("ConfigMap", ref["configMapRef"]["name"]) for c in pod.containers for ref in c.get("envFrom", ()) if "configMapRef" in ref
        }
        for volume in pod.spec.get("volumes", ()):
            sources = volume.get("projected", {}).get("sources", ())
            wanted |= {("ConfigMap", source["configMap"]["name"]) for source in sources if "configMap" in source}
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        if "serviceAccountName" in pod.spec:
            wanted.add(("ServiceAccount", pod.spec["serviceAccountName"]))
        yield from (f"{name(pod.owner)} wants {' '.join(missing)}" for missing in sorted(wanted - there))
    for document in of_kind(documents, "Ingress", "HTTPRoute", "TCPRoute"):
        backends = re.findall(r"'name': '(linli-[a-z-]+)'", str(document["spec"]))
        yield from (f"{name(document)} leads to {backend}" for backend in backends if ("Service", backend) not in there)


def _weights(documents: Documents) -> dict[tuple[str, str], int]:
    """The order of what is made before a release, by kind and name."""
    return {
        (document["kind"], document["metadata"]["name"]): int(annotations["helm.sh/hook-weight"])
        for document in documents
        if (annotations := document["metadata"].get("annotations", {})).get("helm.sh/hook", "").startswith("pre-")
    }


def hooks_find_what_they_need(documents: Documents) -> Iterator[str]:
    """A hook runs before anything of the release is there: it stands on earlier hooks, and on Secrets that are there or are made by one."""
    weights = _weights(documents)
    released = {key for key in ((document["kind"], document["metadata"]["name"]) for document in documents) if key not in weights}
    for pod in pods(documents):
        weight = weights.get((pod.owner["kind"], pod.owner["metadata"]["name"]))
        if weight is None:
            continue
        wanted = {("ConfigMap", source["configMapRef"]["name"]) for c in pod.containers for source in c.get("envFrom", ())}
        wanted |= {("ExternalSecret", secret) for secret in mounted_secrets(pod)}
        wanted |= {("Certificate", secret.removesuffix("-tls")) for secret in mounted_secrets(pod) if secret.endswith("-tls")}
        if "serviceAccountName" in pod.spec:
            wanted.add(("ServiceAccount", pod.spec["serviceAccountName"]))
        late = {key for key in wanted if key in released or weights.get(key, weight - 1) >= weight}
        yield from (f"{name(pod.owner)} needs {' '.join(key)} before it is there" for key in sorted(late))


def hooks_are_let_through(documents: Documents) -> Iterator[str]:
    """By a policy of the same hooks that comes before: those of the last release may be what this one mends."""
    weights = _weights(documents)

    def phases(document: Document) -> set[str]:
        return set(document["metadata"]["annotations"]["helm.sh/hook"].split(","))

    for pod in pods(documents):
        weight = weights.get((pod.owner["kind"], pod.owner["metadata"]["name"]))
        walls = [wall for wall in of_kind(documents, "NetworkPolicy") if selects(wall["spec"]["podSelector"], pod.labels)]
        if weight is None or not walls:
            continue
        own = [wall for wall in walls if weights.get((wall["kind"], wall["metadata"]["name"]), weight) < weight]
        if not any(phases(wall) >= phases(pod.owner) and "egress" in wall["spec"] for wall in own):
            yield f"{name(pod.owner)} is behind the policies of the release before"


ALL: Sequence[Policy] = (
    pods_pass_the_restricted_profile,
    images_are_of_one_version,
    everything_has_a_limit,
    what_serves_has_probes,
    nobody_holds_a_token_who_needs_none,
    secrets_are_mounted_and_never_written,
    settings_are_known,
    pods_have_time_to_go,
    names_are_unique,
    selectors_find_their_pods,
    scaling_makes_sense,
    references_lead_somewhere,
    hooks_find_what_they_need,
    hooks_are_let_through,
)
