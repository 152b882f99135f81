"""Secrets in Kubernetes, by its API: the one that holds all of them, and those made from it.

All of them together are one JSON in one Secret, which only the Job that runs this may read. Others are applied on the server's side, so
that a value which somebody else has set there is a conflict that a person sees, never overwritten; what others add beside ours stays.
"""

import base64
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from console.secrets import SECRETS, Secrets, SecretsError, Sets

PREFIX = "linli-"
INSTALLATION = f"{PREFIX}installation"
MANAGER = "linli-secrets"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVER = "https://kubernetes.default.svc"
_TIMEOUT_S = 10.0
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Api:
    """The Secrets of one namespace."""

    client: httpx.Client
    namespace: str

    def request(self, verb: str, name: str, body: object = None, content_type: str = "application/json", **query: str) -> httpx.Response:
        """One request about a Secret; an empty name is the list of them. Raises SecretsError when the server is not reached, or refuses."""
        path = f"/api/v1/namespaces/{self.namespace}/secrets" + (f"/{name}" if name else "")
        content, headers = json.dumps(body) if body is not None else None, {"Content-Type": content_type}
        try:
            answer = self.client.request(verb, path, content=content, headers=headers, params=query)
        except httpx.HTTPError as error:
            raise SecretsError(f"Kubernetes is not reached: {type(error).__name__}") from error
        if answer.is_error and answer.status_code not in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
            raise SecretsError(f"{verb} of Secret {name}: Kubernetes answers {answer.status_code} {_message(answer)}")
        return answer


@contextmanager
def in_cluster(account: Path = _ACCOUNT, server: str = _SERVER) -> Iterator[Api]:
    """The API as the pod's service account. Raises SecretsError outside of a cluster."""
    try:
        token, namespace = ((account / name).read_text(encoding="utf-8").strip() for name in ("token", "namespace"))
        trusted = ssl.create_default_context(cafile=account / "ca.crt") if server.startswith("https:") else False
    except OSError:
        raise SecretsError("this is no pod with a service account's token") from None
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server, headers=headers, verify=trusted, timeout=_TIMEOUT_S, trust_env=False) as client:
        yield Api(client, namespace)


def complete(api: Api, make: Callable[[Secrets], Sets]) -> Sets:
    """Lets `make` take what it needs out of the Secret that holds all, keeps there what was new, and applies the sets that it made.

    Two who do it at once agree: whoever is later begins again with what the other has kept. Raises SecretsError.
    """
    for _ in range(_TRIES):
        found = api.request("GET", INSTALLATION)
        values, version = ({}, "") if found.status_code == httpx.codes.NOT_FOUND else _contents(found.json())
        known = Secrets(dict(values))
        sets = make(known)
        # The server keeps apart what other installations have set, as one whose Secret was lost and made anew.
        manager = f"{MANAGER}-{known.password('installation')}"
        if known.values == values or _keep(api, known.values, version):
            for name, each in sets.items():
                _apply(api, PREFIX + name, each, manager)
            return sets
    raise SecretsError(f"{INSTALLATION} is changed by others all the time")


def _contents(secret: dict[str, Any]) -> tuple[dict[str, str], str]:
    try:
        values: dict[str, str] = json.loads(base64.b64decode(secret["data"][SECRETS]))
    except (KeyError, TypeError, ValueError):
        # Made anew, everything that is sealed with what was in it would be lost.
        raise SecretsError(f"{INSTALLATION} exists and holds no {SECRETS}: put it back") from None
    return values, secret["metadata"]["resourceVersion"]


def _keep(api: Api, values: Mapping[str, str], version: str) -> bool:
    """Stores all secrets; False when somebody else has since the given version."""
    secret = _secret(INSTALLATION, {SECRETS: json.dumps(values, indent=1)})
    if not version:
        return api.request("POST", "", secret).status_code != httpx.codes.CONFLICT
    change = {"metadata": {"resourceVersion": version}, "data": secret["data"]}
    return api.request("PATCH", INSTALLATION, change, "application/merge-patch+json").is_success


def _apply(api: Api, name: str, values: Mapping[str, str], manager: str) -> None:
    for _ in range(_TRIES):
        answer = api.request("PATCH", name, _secret(name, values), "application/apply-patch+yaml", fieldManager=manager)
        if answer.is_success:
            return
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise SecretsError(f"Secret {name} cannot be made: {_message(answer)}")
        causes = [cause for cause in answer.json().get("details", {}).get("causes", ()) if cause.get("reason") == "FieldManagerConflict"]
        if causes:
            fields = ", ".join(cause.get("field", "") for cause in causes)
            raise SecretsError(
                f"Secret {name} was changed by others, or made from another {INSTALLATION}: {fields}. Put either as it was, or the value "
                f"into {INSTALLATION}"
            )
    raise SecretsError(f"Secret {name} is changed by others all the time")


def _secret(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    return manifest(name) | {"data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}}


def manifest(name: str) -> dict[str, Any]:
    """A Secret of ours without its contents."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "linli", "app.kubernetes.io/managed-by": MANAGER}},
    }


def manifests(known: Secrets, sets: Sets) -> str:
    """Every Secret as a YAML stream of JSON documents, for who seals them or keeps them elsewhere. The last one holds all secrets."""
    documents = [manifest(PREFIX + name) | {"stringData": values} for name, values in sets.items()]
    documents.append(manifest(INSTALLATION) | {"stringData": {SECRETS: json.dumps(known.values, indent=1)}})
    return "".join(f"---\n{json.dumps(document, indent=2, ensure_ascii=False)}\n" for document in documents)


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return ""
