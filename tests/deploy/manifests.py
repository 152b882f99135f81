"""Rendered manifests, and questions that several tests ask of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from tools import chart
from tools.chart import Document

PROFILES: Mapping[str, Any] = MappingProxyType({**chart.PROFILES, "production": chart.PRODUCTION})


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as its controller would make it."""

    owner: Document
    labels: Mapping[str, str]
    spec: Document

    @property
    def component(self) -> str:
        """Which part of the installation it is."""
        return self.labels["app.kubernetes.io/component"]

    @property
    def ports(self) -> dict[str, int]:
        """Its containers' ports by name."""
        return {port["name"]: port["containerPort"] for container in self.spec["containers"] for port in container.get("ports", ())}

    @property
    def containers(self) -> list[Document]:
        """All its containers, those that run before the others first."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


@cache
def profile(name: str) -> tuple[Document, ...]:
    """The objects of a profile."""
    return tuple(chart.documents(chart.render(PROFILES[name])))


def rendered(*settings: str, values: str = "evaluation") -> list[Document]:
    """The objects with settings of one's own, such as `tls.enabled=true`."""
    return chart.documents(chart.render(PROFILES[values], settings=settings))


def of_kind(documents: Any, *kinds: str) -> list[Document]:
    """The objects of these kinds."""
    return [document for document in documents if document["kind"] in kinds]


def pods(documents: Any) -> Iterator[Pod]:
    """Every pod that the objects ask for, one for each controller."""
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = document["spec"]["template"]
            yield Pod(document, template["metadata"]["labels"], template["spec"])
        elif document["kind"] == "Pod":
            yield Pod(document, document["metadata"]["labels"], document["spec"])


def name(document: Document) -> str:
    """How people call it."""
    return f"{document['kind']} {document['metadata']['name']}"


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches. Only matchLabels are in use."""
    assert set(selector) <= {"matchLabels"}, selector
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def mounted_secrets(pod: Pod) -> set[str]:
    """The Secrets that a pod cannot start without."""
    found = set()
    for volume in pod.spec.get("volumes", ()):
        if "secret" in volume:
            found.add(volume["secret"]["secretName"])
        found |= {source["secret"]["name"] for source in volume.get("projected", {}).get("sources", ()) if "secret" in source}
    for container in pod.containers:
        found |= {source["secretRef"]["name"] for source in container.get("envFrom", ()) if "secretRef" in source}
    return found


def mounted_files(pod: Pod, container: Document, path: str) -> set[str]:
    """The Secrets whose files a container finds in one folder."""
    volumes = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == path]
    sources = [volume["projected"]["sources"] for volume in pod.spec["volumes"] if volume["name"] in volumes]
    return {source["secret"]["name"] for each in sources for source in each}
