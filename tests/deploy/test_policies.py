"""Every profile keeps every policy; and every policy sees what it is there to see."""

from collections.abc import Callable
from copy import deepcopy

import pytest

from tests.deploy import policies
from tests.deploy.manifests import PROFILES, profile
from tests.deploy.policies import Policy
from tools.chart import Document


@pytest.mark.parametrize("values", PROFILES)
@pytest.mark.parametrize("policy", policies.ALL, ids=lambda policy: policy.__name__)
def test_a_profile_keeps_a_policy(values: str, policy: Policy) -> None:
    assert not list(policy(profile(values)))


def _pod(document: Document) -> Document:
    spec: Document = document["spec"]["template"]["spec"]
    return spec


def _container(document: Document) -> Document:
    container: Document = _pod(document)["containers"][0]
    return container


_BREAKS: dict[Policy, tuple[str, str, Callable[[Document], object]]] = {
    policies.pods_pass_the_restricted_profile: ("Deployment", "linli-parking", lambda d: _pod(d)["securityContext"].pop("runAsNonRoot")),
    policies.images_are_of_one_version: ("StatefulSet", "linli-nats", lambda d: _container(d).update(image="nats:latest")),
    policies.everything_has_a_limit: ("Deployment", "linli-parking", lambda d: _container(d)["resources"]["limits"].pop("memory")),
    policies.what_serves_has_probes: ("Deployment", "linli-parking", lambda d: _container(d).pop("readinessProbe")),
    policies.nobody_holds_a_token_who_needs_none: ("Deployment", "linli-parking", lambda d: _pod(d).pop("enableServiceLinks")),
    policies.secrets_are_mounted_and_never_written: (
        "ConfigMap",
        "linli-settings",
        lambda d: d["data"].update(LINLI_NATS_URL="nats://linli:secret@linli-nats:4222"),
    ),
    policies.settings_are_known: ("ConfigMap", "linli-settings", lambda d: d["data"].update(LINLI_PARKNG_GATE="1")),
    policies.pods_have_time_to_go: ("ConfigMap", "linli-settings", lambda d: d["data"].update(LINLI_DRAIN_S="60")),
    policies.names_are_unique: ("ConfigMap", "linli-parking", lambda d: d["metadata"].update(name="linli-billing")),
    policies.selectors_find_their_pods: ("Service", "linli-parking", lambda d: d["spec"]["ports"][0].update(targetPort="http")),
    policies.scaling_makes_sense: ("Deployment", "linli-parking", lambda d: d["spec"].update(replicas=2)),
    policies.references_lead_somewhere: ("Deployment", "linli-parking", lambda d: _pod(d).update(serviceAccountName="linli")),
    policies.hooks_find_what_they_need: (
        "ServiceAccount",
        "linli-secrets",
        lambda d: d["metadata"]["annotations"].update({"helm.sh/hook-weight": "0"}),
    ),
    policies.hooks_are_let_through: (
        "NetworkPolicy",
        "linli-secrets",
        lambda d: d["metadata"]["annotations"].update({"helm.sh/hook": "pre-install"}),
    ),
}


@pytest.mark.parametrize("policy", policies.ALL, ids=lambda policy: policy.__name__)
def test_a_policy_sees_what_breaks_it(policy: Policy) -> None:
    kind, name, spoil = _BREAKS[policy]
    broken = deepcopy(list(profile("evaluation")))
    (document,) = [each for each in broken if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    spoil(document)
    assert list(policy(broken))
