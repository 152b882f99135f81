"""Network policies let through exactly what the services' declarations need: every pod, every port of every other pod."""

from collections.abc import Sequence
from typing import Any

import pytest

from console import catalog
from servicekit.blobs import BlobSettings
from tests.deploy.manifests import Pod, of_kind, pods, profile, rendered, selects
from tools import chart
from tools.chart import Document

SERVICES = {service.name: service for service in catalog.find(["all"])}
Arrow = tuple[str, str, int]


def _peer_is(peer: Document, pod: Pod) -> bool:
    if "ipBlock" in peer or "namespaceSelector" in peer:
        return False  # Ours are all in one namespace, which none of those selects.
    return selects(peer["podSelector"], pod.labels)


def _port_is(ports: Sequence[Document], number: int, target: Pod) -> bool:
    return any(target.ports.get(port["port"], 0) == number if isinstance(port["port"], str) else port["port"] == number for port in ports)


def _lets(policies: list[Document], direction: str, pod: Pod, other: Pod, target: Pod, number: int) -> bool:
    peers = "from" if direction == "ingress" else "to"
    selecting = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], pod.labels)]
    assert selecting, f"nothing selects {pod.component}"
    return any(
        _port_is(rule["ports"], number, target) and (peers not in rule or any(_peer_is(peer, other) for peer in rule[peers]))
        for spec in selecting
        for rule in spec.get(direction, ())
    )


def arrows(documents: Any) -> set[Arrow]:
    """Who may connect to which port of whom, among the pods of an installation."""
    policies, everybody = of_kind(documents, "NetworkPolicy"), {pod.component: pod for pod in pods(documents)}
    return {
        (source.component, target.component, number)
        for source in everybody.values()
        for target in everybody.values()
        for number in target.ports.values()
        if source is not target
        and _lets(policies, "egress", source, target, target, number)
        and _lets(policies, "ingress", target, source, target, number)
    }


def declared(documents: Any) -> set[Arrow]:
    """The same, from the declarations in the code."""
    homes = {pod.component: _serves(pod) for pod in pods(documents) if pod.owner["kind"] == "Deployment"}
    has_servers = any(pod.component == "postgres" for pod in pods(documents))
    expected: set[Arrow] = {("setup", "postgres", 5432)} if has_servers else set()
    for home, served in homes.items():
        if has_servers:
            expected.add((home, "nats", 4222))
        if has_servers and any(SERVICES[service].migrations for service in served):
            expected.add((home, "postgres", 5432))
        expected |= {("smoke", home, catalog.HTTP_PORTS[service]) for service in served if SERVICES[service].http is not None}
        called = {peer for service in served for peer in SERVICES[service].peers}
        expected |= {(home, other, 7000) for other, theirs in homes.items() if other != home and called & set(theirs)}
    return expected


def _serves(pod: Pod) -> list[str]:
    _, *names = pod.spec["containers"][0]["args"]
    return list(SERVICES) if names == ["all"] else names


@pytest.mark.parametrize("values", ["evaluation", "small", "city"])
def test_a_pod_reaches_what_its_services_declare_and_nothing_else(values: str) -> None:
    assert arrows(profile(values)) == declared(profile(values))


def test_two_workloads_with_several_services_each_reach_each_other_as_their_services_do() -> None:
    ours = rendered(
        *(f"services.{name}=null" for name in SERVICES),
        "services.front.serves={gateway,ingest}",
        "services.back.serves={identity,access,workorders}",
    )
    assert arrows(ours) == declared(ours)
    assert ("back", "front", 7000) not in arrows(ours)
    assert ("front", "back", 7000) in arrows(ours)


def test_without_a_rule_for_the_port_the_arrow_is_seen_to_be_gone() -> None:
    cut = [
        document
        for document in profile("evaluation")
        if document["metadata"]["name"] != "linli-identity" or document["kind"] != "NetworkPolicy"
    ]
    assert not any(target == "identity" for _, target, _ in arrows(cut))


@pytest.mark.parametrize("values", ["evaluation", "city"])
def test_only_services_that_say_so_reach_servers_outside(values: str) -> None:
    documents = profile(values)
    uses_s3 = values == "city"
    outward = {
        policy["metadata"]["name"].removeprefix("linli-")
        for policy in of_kind(documents, "NetworkPolicy")
        if any("ipBlock" in peer for rule in policy["spec"].get("egress", ()) for peer in rule.get("to", ()))
    }
    assert outward == {
        name for name, service in SERVICES.items() if service.outside or (uses_s3 and issubclass(service.settings, BlobSettings))
    }


def test_the_edge_and_the_smoke_test_reach_http_when_the_edge_is_named() -> None:
    (policy,) = [p for p in of_kind(profile("city"), "NetworkPolicy") if p["metadata"]["name"] == "linli-gateway"]
    (rule,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"] == [{"port": "gateway", "protocol": "TCP"}]]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}} in rule["from"]
    assert ("smoke", "gateway", catalog.HTTP_PORTS["gateway"]) in arrows(profile("city"))


def test_what_services_need_is_written_down_as_they_declare_it() -> None:
    assert chart.DECLARATIONS.read_text(encoding="utf-8") == chart.declarations(), "run `make chart`"
